"""Does the calibrated detector ring as seldom as it was asked to, and how late does it see a change?

    python tests/bench/bench_detection.py --seed S [--quick] [--rows 25920] [--references 20] [--worlds mild,jumps]

Part 1, honesty: calibrate on a reference, run on fresh rows of the same world where nothing changes, count alarms
(those less than a day apart are one), and divide the run length by the one asked. Part 2, delay: rows from a change to
the first alarm, at the calibrated limit *and* at the limit that an oracle would have set so that the asked run length
is met exactly. Part 3, river's detectors, one object a feature, with limits set by the same oracle (`--peers`). Part 4,
microseconds per row.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray
from worlds import DAY, NAMES, Change, market

from regime import calibration_kernels as kernels
from regime.calibration import Calibration, calibrate, episodes, season_basis
from regime.detectors.calibrated import Calibrated
from regime.reference import Reference

Floats = NDArray[np.float64]
START_MS = 1_700_006_400_000 // 86_400_000 * 86_400_000
STEP_MS = 300_000
LEAD = 600
"""Rows before a change; also left out at the begin of a fresh run."""
CAP = 4_000
"""Rows after a change; a change not seen counts so many."""


def times(rows: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = START_MS + STEP_MS * np.arange(rows, dtype=np.int64)
    return found


def statistic(calibration: Calibration, values: Floats, order: NDArray[np.int64]) -> Floats:
    """Return the family statistic of all rows: what the detector says, without the cost of asking row by row."""
    x = np.ascontiguousarray(values[:, order])
    basis = season_basis(times(len(x))) if calibration.season else np.zeros((len(x), 0))
    z, present = np.empty(x.shape), np.empty(x.shape)
    kernels.scores(x, basis, calibration.table, z, present)
    state, clock = kernels.fresh_state(x.shape[1])
    family = np.empty((len(x), kernels.CHANNELS + 2 * kernels.DENSE))
    nothing = np.zeros((0, 0))
    kernels.walk(
        z, present, np.ones(len(x)), calibration.table, calibration.numbers, state, clock, family, nothing, nothing,
        np.zeros((0, 0, 0)), 1,
    )  # fmt: skip
    found: Floats = family.max(axis=1)
    return found


def oracle_limit(statistics: list[Floats], run_length: float) -> float:
    rows = sum(map(len, statistics))
    low, high = 0.0, 60.0
    for _ in range(16):
        middle = 0.5 * (low + high)
        rang = sum(episodes(s > middle, DAY) for s in statistics)
        on = float(np.mean([(s > middle).mean() for s in statistics]))
        low, high = (middle, high) if rang > rows / run_length or on > 0.3 else (low, middle)
    return high


def delay(found: Floats, limit: float) -> int | None:
    """Rows from the change to the alarm; None where it rang within the day before."""
    at = np.flatnonzero(found > limit)
    if ((at < LEAD) & (at >= LEAD - DAY)).any():
        return None
    at = at[at >= LEAD]
    return int(at[0]) - LEAD + 1 if at.size else CAP


def changed(world: str, name: str, seed: int) -> Floats:
    """Rows with a change at LEAD."""
    rows = LEAD + CAP
    market_changes = {
        "volatility x1.5": Change(at=LEAD, volatility=1.5),
        "volatility x2": Change(at=LEAD, volatility=2.0),
        "volatility x2 within 3 days": Change(at=LEAD, volatility=2.0, rows_to_full=3 * DAY),
        "momentum .15": Change(at=LEAD, momentum=0.15),
        "momentum .3": Change(at=LEAD, momentum=0.3),
    }
    if name in market_changes:
        return market(world, seed, rows, market_changes[name])
    x = market(world, seed, rows)
    rng = np.random.default_rng(seed + 1)
    count, size = {"1 feature + 1 sd": (1, 1.0), "10 features + .5 sd": (10, 0.5), "all + .1 sd": (len(NAMES), 0.1)}[
        name
    ]
    chosen = rng.permutation(len(NAMES))[:count]
    x[LEAD:, chosen] += size * x[:LEAD, chosen].std(axis=0) if world != "iid" else size
    return x


CHANGES = ("volatility x1.5", "volatility x2", "volatility x2 within 3 days", "momentum .15", "momentum .3",
           "1 feature + 1 sd", "10 features + .5 sd", "all + .1 sd")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--references", type=int, default=20)
    parser.add_argument("--rows", type=int, default=25_920)
    parser.add_argument("--run-length", default="2000,8640")
    parser.add_argument("--fresh-rows", type=int, default=240_000)
    parser.add_argument("--changes", type=int, default=2, help="of each kind, per reference")
    parser.add_argument("--worlds", default="mild,harsh,seasonal,jumps,iid")
    parser.add_argument("--peers", action="store_true")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.references, chosen.fresh_rows = 3, 80_000
    asked = [float(a) for a in chosen.run_length.split(",")]
    order = np.array([NAMES.index(name) for name in sorted(NAMES)], dtype=np.int64)
    for world in chosen.worlds.split(","):
        ratios: dict[float, list[float]] = {a: [] for a in asked}
        delays: dict[tuple[float, str], list[int]] = {}
        seconds: list[float] = []
        standing: dict[float, list[float]] = {a: [] for a in asked}
        for i in range(chosen.references):
            base = chosen.seed + 10_000 * i
            reference = Reference(NAMES, market(world, base, chosen.rows), ts_ms=times(chosen.rows))
            started = time.perf_counter()
            found = {a: calibrate(reference, rows_per_false_alarm=a) for a in asked}
            seconds.append((time.perf_counter() - started) / len(asked))
            first = found[asked[0]]
            parts = chosen.fresh_rows // 40_000
            fresh = [statistic(first, market(world, base + 1 + j, 40_000 + LEAD), order)[LEAD:] for j in range(parts)]
            rows = sum(map(len, fresh))
            for a in asked:
                rang = sum(episodes(s > found[a].limit_alarm, DAY) for s in fresh)
                ratios[a].append(rows / max(rang, 0.5) / a)
                standing[a].append(float(np.mean([(s > found[a].limit_alarm).mean() for s in fresh])))
            for name in CHANGES:
                if world == "iid" and ("volat" in name or "mom" in name):
                    continue
                for j in range(chosen.changes):
                    seen = statistic(first, changed(world, name, base + 5000 + j), order)
                    for a in asked:
                        late = delay(seen, _cached(fresh, a, i, world))
                        if late is not None:
                            delays.setdefault((a, name), []).append(late)
        for a in asked:
            r = np.array(ratios[a])
            print(
                f"{world:9} {chosen.rows} rows, asked {a:,.0f}: achieved/asked mean {r.mean():.2f}, harmonic "
                f"{1 / (1 / r).mean():.2f}, sd(log) {np.log(r).std():.2f}, within 25 % "
                f"{np.mean(np.abs(r - 1) < 0.25):.0%}, range {r.min():.2f} - {r.max():.2f}; "
                f"in alarm {np.mean(standing[a]):.1%} of the time; "
                f"calibration {np.mean(seconds):.1f} s",
                flush=True,
            )
            for name in CHANGES:
                if (a, name) in delays:
                    d = np.array(delays[a, name])
                    print(f"    {name:30} mean {d.mean():6.0f}  median {np.median(d):6.0f}  n {len(d)}", flush=True)
    speed()
    if chosen.peers:
        peers(chosen.seed)


_LIMITS: dict[tuple[str, int, float], float] = {}


def _cached(fresh: list[Floats], asked: float, i: int, world: str) -> float:
    key = (world, i, asked)
    if key not in _LIMITS:
        _LIMITS[key] = oracle_limit(fresh, asked)
    return _LIMITS[key]


def speed(features: int = 200) -> None:
    rng = np.random.default_rng(1)
    detector = Calibrated(rows_per_false_alarm=2000)
    detector.reset(Reference([f"f{i:03}" for i in range(features)], rng.standard_normal((3000, features))))
    rows = rng.standard_normal((20_000, features))
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        for x in rows:
            detector.update(x)
        best = min(best, (time.perf_counter() - started) / len(rows))
    c = detector.calibration
    kernel = math.inf
    for _ in range(3):
        started = time.perf_counter()
        statistic(c, rows, np.arange(features))
        kernel = min(kernel, (time.perf_counter() - started) / len(rows))
    print(f"{features} features: {best * 1e6:.1f} us a row through update(), {kernel * 1e6:.1f} us in the kernels")


def peers(seed: int, run_length: float = 2000.0) -> None:
    """river's ADWIN and Page-Hinkley, one object a feature; the share of features in alarm, oracle-tuned."""
    from river.drift import ADWIN, PageHinkley

    def share(make: type, x: Floats, mean: Floats, deviation: Floats) -> Floats:
        x = (x - mean) / deviation
        last = np.full(x.shape, -(10**9), dtype=np.int64)
        for f in range(x.shape[1]):
            one, latest = make(), -(10**9)
            for t, v in enumerate(x[:, f].tolist()):
                one.update(v)
                if one.drift_detected:
                    latest = t
                last[t, f] = latest
        found: Floats = (np.arange(len(x))[:, None] - last < 64).mean(axis=1)
        return found

    reference = market("mild", seed, 5_000)
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    for make in (ADWIN, PageHinkley):
        fresh = share(make, market("mild", seed + 1, 12_000 + LEAD), mean, deviation)[LEAD:]
        limit = math.inf  # from above: far below, all alarms run into one
        for h in np.unique(fresh)[::-1]:
            if episodes(fresh > h, DAY) > len(fresh) / run_length:
                break
            limit = float(h)
        for name in ("volatility x1.5", "volatility x2", "momentum .3"):
            found = [delay(share(make, changed("mild", name, seed + 9 + j), mean, deviation), limit) for j in range(3)]
            print(
                f"river {make.__name__}: {name}: {found} rows (limit {limit:.2f} tuned by an oracle, {run_length:.0f})"
            )


if __name__ == "__main__":
    main()
