"""How often Shiryaev-Roberts and the scans ring where nothing changes, and how late they see a change.

    python tests/bench/bench_scans.py --seed S [--parts runs,delays,family,misleads,looks]

`runs`: rows to the first alarm of the detectors as they are, on independent normal values, each reference for several
runs. `delays`: one feature, Shiryaev-Roberts, limit set so that it rings once in 5,000 rows. `family`: the same for 195
features and all three detectors. Delays are counted after 300 calm rows from the first changed row, and divided by
those of the CUSUM that knows both laws and the features, at the same rate (solved, not simulated). `misleads`: rows to
the first alarm on values that are neither independent nor normal. `looks`: what `scan_bank.LOOKS` would have to be.
One process; 5 minutes in all. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from worlds import NAMES, market

from regime import scan_bank
from regime.detectors import Detector
from regime.detectors.chi_square import ChiSquare
from regime.detectors.shiryaev_roberts import _VARIANCES, ShiryaevRoberts, weights
from regime.detectors.xie_siegmund import XieSiegmund
from regime.kernels import scan, shiryaev_roberts
from regime.reference import Reference

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
CALM = 300
DETECTORS: dict[str, Callable[..., Any]] = {
    "shiryaev_roberts": ShiryaevRoberts, "xie_siegmund": XieSiegmund, "chi_square": ChiSquare,
}  # fmt: skip


def exact_delay(arl: float, what: str, size: float, cells: int = 240) -> float:
    """Rows to the alarm of the one-sided CUSUM that knows both laws, begun at the change, at its run length `arl`.

    The integral equation, discretised; `what` is "mean" (of `size` standard deviations) or "variance" (times `size`).
    """
    if what == "mean":
        cdfs = [lambda y, m=m: norm.cdf(y / size + m * 0.5 * size) for m in (1, -1)]
    else:
        slope, spread = 0.5 * (1 - 1 / size), math.log(size) / 2
        cdfs = [lambda y, s=s: chi2.cdf(np.maximum((y + spread) / slope, 0) / s, 1) for s in (1, size)]

    def rows(limit: float, cdf: Any) -> float:
        edges = np.linspace(0, limit, cells + 1)
        points = np.concatenate(([0.0], 0.5 * (edges[1:] + edges[:-1])))
        system = np.eye(cells + 1)
        system[:, 0] -= cdf(-points)
        system[:, 1:] -= cdf(edges[None, 1:] - points[:, None]) - cdf(edges[None, :-1] - points[:, None])
        return float(np.linalg.solve(system, np.ones(cells + 1))[0])

    low, high = 0.05, math.log(arl) + 3
    for _ in range(22):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rows(middle, cdfs[0]) < arl else (low, middle)
    return rows(high, cdfs[1])


def reference_of(rows: Floats) -> Reference:
    return Reference([f"f{i:03}" for i in range(rows.shape[1])], rows)


def first_alarm(detector: Detector, rows: Floats) -> int | None:
    for i, x in enumerate(rows):
        detector.update(x)
        if detector.drift_detected:
            return i + 1
    return None


def run_length(
    make: Callable[[], Detector], draw: Draw, seed: int, rows: int, runs: int, most: int
) -> tuple[float, int]:
    """Rows between alarms, and alarms: ten runs to the first alarm, or to `most` rows, with each reference."""
    rng = np.random.default_rng(seed)
    exposure, alarms = 0, 0
    for run in range(runs):
        if run % 10 == 0:
            detector = make()
            detector.reset(reference_of(draw(rng, rows)))
            empty = detector.state()
            assert empty is not None
        detector.load_state(empty)
        left = most
        while left > 0:
            block = draw(rng, min(left, 1000))
            found = first_alarm(detector, block)
            exposure += found or len(block)
            left -= len(block)
            if found:
                alarms += 1
                break
    return exposure / max(alarms, 0.5), alarms


def normal(features: int) -> Draw:
    return lambda rng, rows: rng.standard_normal((rows, features))


def runs(seed: int) -> None:
    print("rows between alarms over rows asked (alarms), independent normal values")
    for name, make in DETECTORS.items():
        for features, rows, arl, count in (
            (1, 26_000, 1000, 400), (1, 2_000, 1000, 400), (1, 26_000, 5000, 150), (1, 2_000, 5000, 150),
            (1, 500, 1000, 300), (20, 26_000, 1000, 200), (20, 2_000, 1000, 300), (200, 26_000, 1000, 60),
            (200, 2_000, 1000, 100), (200, 2_000, 5000, 30),
        ):  # fmt: skip
            found, alarms = run_length(partial(make, arl=arl), normal(features), seed, rows, count, 6 * arl)
            print(
                f"{name:18} {features:4} features, {rows:6,} rows, asked {arl:5,}: {found / arl:5.2f} ({alarms})",
                flush=True,
            )


def ladder(step: Callable[[Floats], Floats], x: Floats, limits: Floats) -> NDArray[np.int64]:
    """First row (from 1; rows + 1 for never) at which each column is at or over each limit."""
    rows, columns = x.shape
    passed = np.full((columns, len(limits)), rows + 1)
    best = np.full(columns, -np.inf)
    for t in range(rows):
        now = step(x[t])
        up = np.flatnonzero(now > best)
        low, high = (np.searchsorted(limits, a[up], side="right") for a in (best, now))
        for column, a, b in zip(up, low, high, strict=True):
            passed[column, a:b] = t + 1
        best[up] = now[up]
    return passed


def delays(seed: int, arl: float = 5000.0) -> None:
    """Every column is a run of its own, standardised with the error that a reference of so many rows has."""
    print("one feature, delay over the exact limit; limit tuned to one alarm in 5,000")
    drifts, ratios = ShiryaevRoberts()._drifts, np.sqrt([v for v, _ in _VARIANCES])
    many, cap, limits = 4000, 2000, np.arange(6.0, 11.0, 0.02)
    changes = [("mean", s) for s in (0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5, 3.0)]
    changes += [("variance", v) for v in (1.25, 1.5, 2.0, 3.0, 0.5)]
    for rows in (26_000, 2_000):
        rng = np.random.default_rng([seed, rows])
        weight = weights(math.log(arl), np.array([rows]))

        def passages(x: Floats, levels: Floats, rows: int = rows, weight: Floats = weight) -> NDArray[np.int64]:
            rng_error = np.random.default_rng(int(abs(x[0, 0]) * 1e15) % 2**32)
            n = x.shape[1]
            error, spread = (
                rng_error.standard_normal(n) / math.sqrt(rows),
                np.sqrt(rng_error.chisquare(rows - 1, n) / rows),
            )
            scale = np.array([np.ones(n), error, spread])
            sums, ages, mixed = np.zeros((n, weight.shape[1])), np.zeros((n, weight.shape[1])), np.zeros(n)
            each, live = np.tile(weight, (n, 1)), np.ones(n, dtype=np.bool_)

            def step(row: Floats) -> Floats:
                shiryaev_roberts.take(row, scale, live, drifts, ratios, each, sums, ages, mixed, 1e200)
                found: Floats = np.log(mixed)
                return found

            return ladder(step, x, levels)

        length = int(1.3 * arl)
        passed = passages(rng.standard_normal((length, many)), limits)
        achieved = np.minimum(passed, length).sum(axis=0) / np.maximum((passed <= length).sum(axis=0), 0.5)
        limit = float(np.interp(arl, np.maximum.accumulate(achieved), limits))
        own = float(np.interp(ShiryaevRoberts(arl=arl)._limit, limits, achieved))
        print(f"reference of {rows:,} rows: limit {limit:.2f}; at its own limit one alarm in {own:,.0f}")
        for what, size in changes:
            x = rng.standard_normal((CALM + cap, many))
            x[CALM:] = x[CALM:] + size if what == "mean" else x[CALM:] * math.sqrt(size)
            passed = passages(x, np.array([limit]))[:, 0]
            late = np.minimum(passed[passed > CALM] - CALM, cap)
            line = f"    {what} {size}: {late.mean():.1f} rows"
            if size != 0.5 or what == "mean":
                exact = exact_delay(arl, what, size)
                error = late.std() / math.sqrt(len(late)) / exact
                line += f", exact {exact:.1f}: {late.mean() / exact:.3f} +- {error:.3f}"
            print(line, flush=True)


def family(seed: int, features: int = 195, arl: float = 5000.0, references: int = 20) -> None:
    print(
        f"{features} features, delay over the exact limit; limit tuned to one alarm in 5,000; reference of 5,000 rows"
    )
    changes = ((1, 1.0), (10, 0.5), (10, 0.25), (features, 0.1), (features, 0.05))
    for name, make in DETECTORS.items():
        rng = np.random.default_rng(seed)
        detectors = []
        for _ in range(references):
            detector = make(arl=1e9)
            detector.reset(reference_of(rng.standard_normal((5000, features))))
            detectors.append((detector, detector.state()))
        paths = []
        for run in range(3 * references):
            detector, empty = detectors[run % references]
            detector.load_state(empty)
            paths.append([_next(detector, x) for x in rng.standard_normal((int(1.3 * arl), features))])
        tops = np.maximum.accumulate(np.array(paths), axis=1)
        low, high = 0.0, float(tops.max())
        for _ in range(40):
            middle = 0.5 * (low + high)
            rang = tops > middle
            exposure = np.where(rang.any(axis=1), rang.argmax(axis=1) + 1, tops.shape[1]).sum()
            low, high = (middle, high) if exposure / max(rang.any(axis=1).sum(), 0.5) < arl else (low, middle)
        line = []
        for count, size in changes:
            late = []
            for run in range(3 * references):
                detector, empty = detectors[run % references]
                detector.load_state(empty)
                x = rng.standard_normal((CALM + 600, features))
                x[CALM:, :count] += size
                found = next((i + 1 for i, row in enumerate(x) if _next(detector, row) > high), len(x))
                if found > CALM:
                    late.append(found - CALM)
            exact = exact_delay(arl, "mean", math.sqrt(count) * size)
            line.append(f"{count} x {size}: {np.mean(late):.0f} rows ({np.mean(late) / exact:.1f})")
        print(f"{name:18} limit {high:.2f}: " + ", ".join(line), flush=True)


def _next(detector: Detector, x: Floats) -> float:
    detector.update(x)
    return detector.statistic


def chain(features: int, share: float) -> Draw:
    def draw(rng: np.random.Generator, rows: int) -> Floats:
        from scipy.signal import lfilter

        noise = rng.standard_normal((rows + 200, features)) * math.sqrt(1 - share**2)
        found: Floats = lfilter([1.0], [1.0, -share], noise, axis=0)[200:]
        return found

    return draw


def alike(features: int, share: float) -> Draw:
    def draw(rng: np.random.Generator, rows: int) -> Floats:
        common = rng.standard_normal((rows, 1))
        found: Floats = math.sqrt(share) * common + math.sqrt(1 - share) * rng.standard_normal((rows, features))
        return found

    return draw


def misleads(seed: int) -> None:
    print("rows to the first alarm where 8,640 were asked; reference of 26,000 rows (alarms of 6 runs of up to 40,000)")
    draws: dict[str, Draw] = {
        "50 independent": normal(50),
        "50 heavy tails (t5)": lambda rng, rows: rng.standard_t(5, (rows, 50)),
        "50 alike (correlation .8)": alike(50, 0.8),
        "50 AR(1) .5": chain(50, 0.5),
        "50 AR(1) .9": chain(50, 0.9),
    }
    for name, make in DETECTORS.items():
        line = []
        for world, draw in draws.items():
            rng = np.random.default_rng(seed)
            exposure, alarms = 0, 0
            for _ in range(6):
                detector = make()
                detector.reset(reference_of(draw(rng, 26_000)))
                found = first_alarm(detector, draw(rng, 40_000))
                exposure, alarms = exposure + (found or 40_000), alarms + (found is not None)
            line.append(f"{world} {exposure / max(alarms, 0.5):,.0f} ({alarms})")
        for world in ("mild", "harsh"):
            exposure, alarms = 0, 0
            for run in range(4):
                rows = market(world, seed + run, 26_000 + 20_000)
                detector = make()
                detector.reset(Reference(NAMES, rows[:26_000]))
                order = [NAMES.index(column) for column in sorted(NAMES)]
                found = first_alarm(detector, rows[26_000:, order])
                exposure, alarms = exposure + (found or 20_000), alarms + (found is not None)
            line.append(f"market, {world} {exposure / max(alarms, 0.5):,.0f} ({alarms} of 4)")
        print(f"{name}: " + "; ".join(line), flush=True)


def looks(seed: int) -> None:
    print("what LOOKS would have to be, from alarms that are 200 rows apart")
    rng = np.random.default_rng(seed)
    for sparse in (0.0, 0.1):
        mean, spread = scan_bank.independent(sparse)
        for features, rows in ((1, 4_000_000), (10, 1_000_000), (50, 300_000), (200, 100_000)):
            live, scale = np.ones(features, dtype=np.bool_), np.array([[1.0], [0.0], [1.0]]).repeat(features, axis=1)
            together, full = np.empty((rows, 10)), np.empty((rows, 10), dtype=np.int64)
            held = np.zeros((features, 511)), np.zeros(features, dtype=np.int64), np.zeros((features, 10))
            for at in range(0, rows, 20_000):
                part = slice(at, at + 20_000)
                block = rng.standard_normal((len(together[part]), features))
                scan.take(block, scale, live, np.ones((features, 10)), sparse, *held, together[part], full[part])
            largest = ((together[1000:] - features * mean) / (math.sqrt(features) * spread)).max(axis=1)
            for arl in (1000.0, 3000.0, 10_000.0, 30_000.0):
                if rows / arl < 80:
                    continue
                low, high = 2.0, 60.0
                for _ in range(25):
                    middle = 0.5 * (low + high)
                    over = np.flatnonzero(largest > middle)
                    rang = int((np.diff(over, prepend=-1000) > 200).sum())
                    low, high = (middle, high) if len(largest) < arl * rang else (low, middle)
                least, most = 0.5, 50.0
                for _ in range(25):
                    tried = math.sqrt(least * most)
                    now = scan_bank.limit_of(sparse, float(features), arl * tried / scan_bank.LOOKS)
                    least, most = (tried, most) if now < high else (least, tried)
                print(
                    f"p0 {sparse}, {features:3} features, {arl:6,.0f} rows: limit {high:.2f}, looks {most:.1f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parts", default="runs,delays,family,misleads")
    chosen = parser.parse_args()
    parts = {"runs": runs, "delays": delays, "family": family, "misleads": misleads, "looks": looks}
    for name in chosen.parts.split(","):
        started = time.perf_counter()
        parts[name](chosen.seed)
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
