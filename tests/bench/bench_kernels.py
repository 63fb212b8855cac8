"""How fast the compiled detectors are beside river's own objects, and whether they say the same.

    python tests/bench/bench_kernels.py [--features 200] [--rounds 7]      how many values of features a second
    python tests/bench/bench_kernels.py --equality 10000 [--seed 1]        alarm for alarm against river
    python tests/bench/bench_kernels.py --start                            seconds from nothing to the first answer

Speed is measured in turns, so that the ratio holds on a busy machine, and the best round counts. river's loop is what
one writes with river: an object per feature, `update` and `drift_detected` of each for every row. Ours is the detector
as the engine uses it, family and all.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.detectors import Detector
from regime.detectors.adwin import Adwin
from regime.detectors.chi_square import ChiSquare
from regime.detectors.cusum import CusumBank
from regime.detectors.focus import Focus
from regime.detectors.ks import Ks
from regime.detectors.page_hinkley import PageHinkley
from regime.detectors.shiryaev_roberts import ShiryaevRoberts
from regime.detectors.xie_siegmund import XieSiegmund
from regime.kernel_bank import Scale
from regime.reference import Reference

Floats = NDArray[np.float64]
Alarms = list[tuple[int, int]]
REFERENCE_ROWS = 300
STREAM_ROWS = 2500
COLUMNS_MAX = 400

ADWIN_OPTIONS: list[dict[str, Any]] = [
    {},
    {"clock": 1, "delta": 0.05},
    {"max_buckets": 3, "min_window_length": 1, "grace_period": 1, "clock": 3},  # 1 bucket makes river itself panic
    {"max_buckets": 2, "clock": 7, "delta": 0.3, "min_window_length": 12},
]
PAGE_HINKLEY_OPTIONS: list[dict[str, Any]] = [
    {},
    {"threshold": 8.0, "delta": 0.1, "min_instances": 1},
    {"threshold": 5.0, "delta": 0.0, "alpha": 0.97},
    {"threshold": 12.0, "mode": "down"},
]


def streams(seed: int, columns: int, rows: int) -> tuple[Reference, Floats]:
    """A reference, and columns of twelve kinds: independent, alike neighbours, jumps of mean and scale, ties, nearly
    constant, 0/1, a walk, far from zero, far from one, heavy tails; with single values, stretches and infinities that
    are no values."""
    rng = np.random.default_rng(seed)
    length = REFERENCE_ROWS + rows
    x = rng.standard_normal((length, columns))
    kind = np.arange(columns) % 12
    for t in range(1, length):
        x[t, kind == 1] = 0.9 * x[t - 1, kind == 1] + 0.44 * x[t, kind == 1]
    for column in range(columns):
        for _ in range(3):
            at = int(rng.integers(REFERENCE_ROWS, length))
            if kind[column] in {2, 9}:
                x[at:, column] += rng.normal()
            if kind[column] in {3, 9}:
                x[at:, column] *= math.exp(rng.normal())
            if kind[column] == 5:
                x[:at, column] = 0.0
                x[at : at + 40, column] = np.round(x[at : at + 40, column])
    x[:, kind == 4] = np.round(x[:, kind == 4])
    x[0, kind == 5] = 1.0
    x[:, kind == 6] = x[:, kind == 6] > 1.0
    x[:, kind == 7] = np.cumsum(x[:, kind == 7], axis=0)
    x[:, kind == 8] += 1e6
    x[:, kind == 9] *= 10.0 ** rng.integers(-9, 9, int((kind == 9).sum()))
    x[:, kind == 10] = rng.standard_t(2, (length, int((kind == 10).sum())))
    x[length // 2 :, kind == 11] += 3.0
    x[rng.random(x.shape) < 0.03] = np.nan
    for column in range(0, columns, 2):
        start = int(rng.integers(0, length))
        x[start : start + int(rng.integers(1, 400)), column] = np.nan
    x[rng.random(x.shape) < 0.001] = np.inf
    return Reference([f"f{i:06}" for i in range(columns)], x[:REFERENCE_ROWS]), x[REFERENCE_ROWS:]


def rivers_alarms(make: Callable[[], Any], reference: Reference, stream: Floats) -> Alarms:
    """(row, column) of each alarm of a plain loop over river's objects."""
    scale = Scale(reference)
    size, mean, spread = scale.columns
    standard = np.where(np.isfinite(stream), (stream / size - mean) / spread, np.nan)
    found = []
    for column in np.flatnonzero(scale.live).tolist():
        detector = make()
        for row, value in enumerate(standard[:, column].tolist()):
            if value == value:  # noqa: PLR0124  not missing
                detector.update(value)
                if detector.drift_detected:
                    found.append((row, column))
    return sorted(found)


def our_alarms(make: Callable[[], Detector], reference: Reference, stream: Floats, restarts: set[int]) -> Alarms:
    """(row, column) of each alarm of the detector, which goes on from its state in a new one at each restart."""
    detector = make()
    detector.reset(reference)
    found: Alarms = []
    for row, x in enumerate(stream):
        if row in restarts:
            state = detector.state()
            assert state is not None
            detector = make()
            detector.reset(reference)
            detector.load_state(
                {name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in state.items()}
            )
        detector.update(x)
        recency = detector.feature_statistics
        new = (recency == detector.memory + 1) & np.isfinite(x)  # type: ignore[attr-defined]
        if new.any():
            found += [(row, column) for column in np.flatnonzero(new).tolist()]
    return found


def ours_and_rivers(name: str, options: dict[str, Any], *, wrong: bool = False) -> tuple[Any, Any]:
    """What makes our detector and river's with the same options; ours a little wrong on purpose, if asked."""
    from river import drift

    if name == "ADWIN":
        mine = {**options, "clock": options.get("clock", 32) + 1} if wrong else options
        return lambda: Adwin(**mine), lambda: drift.ADWIN(**options)
    mine = {"limit" if key == "threshold" else key: value for key, value in options.items()}
    if wrong:
        mine["min_instances"] = mine.get("min_instances", 30) + 1
    return lambda: PageHinkley(**mine), lambda: drift.PageHinkley(**options)


def compare(
    count: int, seed: int, *, wrong: bool = False, rows: int = STREAM_ROWS
) -> Iterator[tuple[str, int, int, Alarms]]:
    """For each lot of streams: detector, streams, alarms, and the alarms that one has and not the other."""
    for name, all_options in (("ADWIN", ADWIN_OPTIONS), ("Page-Hinkley", PAGE_HINKLEY_OPTIONS)):
        left, lot = count, 0
        while left > 0:
            columns = min(left, COLUMNS_MAX, math.ceil(count / len(all_options)))
            reference, stream = streams(seed * 1000 + lot, columns, rows)
            restarts = set(np.random.default_rng([seed, lot]).integers(0, rows, 12).tolist())
            ours, rivers = ours_and_rivers(name, all_options[lot % len(all_options)], wrong=wrong)
            expected = rivers_alarms(rivers, reference, stream)
            found = our_alarms(ours, reference, stream, restarts)
            yield name, columns, len(expected), sorted(set(expected) ^ set(found))
            left -= columns
            lot += 1


def equality(count: int, seed: int) -> None:
    totals: dict[str, list[int]] = {}
    started = time.perf_counter()
    for name, columns, alarms, different in compare(count, seed):
        total = totals.setdefault(name, [0, 0, 0])
        total[0] += columns
        total[1] += alarms
        total[2] += len(different)
        if different:
            print(f"{name}: first differences (row, column): {different[:5]}")
    for name, (columns, alarms, different_count) in totals.items():
        print(f"{name}: {columns:,} streams of {STREAM_ROWS:,} rows, {alarms:,} alarms, {different_count:,} different")
    wrong = sum(len(different) for *_, different in compare(200, seed, wrong=True))
    print(f"negative control, off by one on purpose, 200 streams: {wrong:,} different")
    print(f"{time.perf_counter() - started:.0f} s")
    if any(total[2] for total in totals.values()) or not wrong:
        raise SystemExit(1)


def speed(features: int, rounds: int) -> None:
    from river import drift

    rng = np.random.default_rng(0)
    reference = Reference([f"f{i:03}" for i in range(features)], rng.standard_normal((4000, features)))
    rows = rng.standard_normal((4096, features))

    def rivers(make: Callable[[], Any]) -> Callable[[Floats], None]:
        detectors = [make() for _ in range(features)]

        def step(x: Floats) -> None:
            for detector, value in zip(detectors, x.tolist(), strict=True):
                detector.update(value)
                detector.drift_detected  # noqa: B018

        return step

    def ours(detector: Any) -> Callable[[Floats], None]:
        detector.reset(reference)

        def step(x: Floats) -> None:
            detector.update(x)
            detector.drift_detected  # noqa: B018

        return step

    full = list(rng.standard_normal(100))
    steps: dict[str, tuple[Callable[[Floats], None], int]] = {
        "river ADWIN, loop": (rivers(drift.ADWIN), 320),
        "river PageHinkley, loop": (rivers(drift.PageHinkley), 320),
        "river KSWIN, loop": (rivers(lambda: drift.KSWIN(seed=1, window=full)), 2),
        "adwin": (ours(Adwin()), 640),
        "page_hinkley": (ours(PageHinkley()), 640),
        "cusum": (ours(CusumBank()), 640),
        "focus": (ours(Focus()), 640),
        "shiryaev_roberts": (ours(ShiryaevRoberts()), 640),
        "xie_siegmund": (ours(XieSiegmund()), 640),
        "chi_square": (ours(ChiSquare()), 640),
        "ks": (ours(Ks()), 320),
    }
    best = dict.fromkeys(steps, math.inf)
    for name, (step, _) in steps.items():
        for x in rows[: 1500 if "KSWIN" not in name else 1]:
            step(x)
    at = 0
    for _ in range(rounds):
        for name, (step, count) in steps.items():
            chosen = rows[np.arange(at, at + count) % len(rows)]
            at += count
            started = time.perf_counter()
            for x in chosen:
                step(x)
            best[name] = min(best[name], (time.perf_counter() - started) / count)
    adwin, page, kswin = (best[f"river {name}, loop"] for name in ("ADWIN", "PageHinkley", "KSWIN"))
    print(f"{features} features, best of {rounds} rounds in turns; times faster than river's loop")
    print(f"{'':<26} {'us a row':>9} {'values/s':>10} {'ADWIN':>8} {'PageHinkley':>12} {'KSWIN':>8}")
    for name, cost in best.items():
        print(
            f"{name:<26} {cost * 1e6:>9.1f} {features / cost:>10.2g} {adwin / cost:>8.1f} {page / cost:>12.1f} "
            f"{kswin / cost:>8.0f}"
        )
    many(features, 1000, adwin * 1000, page * 1000)


def many(features: int, count: int, adwin: float, page: float) -> None:
    """One row of each of so many streams in one call: a stream is nothing but more columns."""
    from regime.kernels import cusum
    from regime.kernels import page_hinkley as hinkley

    rng = np.random.default_rng(1)
    columns = features * count
    bank = CusumBank()
    bank.reset(Reference([f"f{i:03}" for i in range(features)], rng.standard_normal((4000, features))))
    scale, shares = (np.tile(a, (1, count)) for a in (bank._scale, bank._shares))
    drifts, live = np.array(bank.drifts), np.ones(columns, dtype=np.bool_)
    sums, ratios, values = np.zeros((2 * len(drifts), columns)), np.zeros(columns), np.zeros(columns)
    own, whole = np.tile(hinkley.EMPTY, (columns, 1)), np.zeros((columns, 3), dtype=np.int64)
    options = np.array([30, 0.005, 0.9999, 50.0, 50.0])
    rows = rng.standard_normal((24, columns))

    def cusum_step(x: Floats) -> None:
        cusum.take(x, scale, drifts, shares, sums, ratios, values, 2.0)
        ratios.reshape(count, features).max(axis=1)  # the statistic of each stream

    print(f"\n{count:,} streams x {features} features, one row of each")
    for name, step in (
        ("cusum, 4 drifts", cusum_step),
        ("page_hinkley", lambda x: hinkley.take(x, scale, live, own, whole, options)),
    ):
        costs = []
        for x in rows:
            started = time.perf_counter()
            step(x)
            costs.append(time.perf_counter() - started)
        cost = min(costs)
        print(
            f"{name:<26} {cost * 1e3:>9.2f} ms {columns / cost:>9.2g} values/s; river's loops would take "
            f"{adwin / cost:.0f} (ADWIN), {page / cost:.0f} (PageHinkley) times as long"
        )


STARTED = {
    "ks": "Ks", "adwin": "Adwin", "page_hinkley": "PageHinkley", "cusum": "CusumBank", "focus": "Focus",
    "shiryaev_roberts": "ShiryaevRoberts", "xie_siegmund": "XieSiegmund", "chi_square": "ChiSquare",
}  # fmt: skip
START = """
import time; began = time.perf_counter()
import sys, numpy as np
from regime.detectors.{module} import {name}
from regime.reference import Reference
assert "numba" not in sys.modules
imported = time.perf_counter()
x = np.random.default_rng(1).standard_normal((2000, 200))
detector = {name}()
detector.reset(Reference([str(i) for i in range(200)], x)); ready = time.perf_counter()
detector.update(x[0]); detector.statistic
print(imported - began, ready - imported, time.perf_counter() - ready)
"""


def start() -> None:
    print(f"{'seconds':<34} {'import':>8} {'reset':>8} {'first row':>10}")
    with tempfile.TemporaryDirectory() as empty:
        for module, name in STARTED.items():
            for said in ("nothing compiled yet", "compiled before"):
                code = START.format(module=module, name=name)
                done = subprocess.run(
                    [sys.executable, "-c", code], check=True, capture_output=True, text=True,
                    env={"NUMBA_CACHE_DIR": f"{empty}/{module}", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                )  # fmt: skip
                imported, reset, first = (float(part) for part in done.stdout.split())
                print(f"{module + ', ' + said:<34} {imported:>8.2f} {reset:>8.2f} {first:>10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--equality", type=int, metavar="STREAMS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", action="store_true")
    args = parser.parse_args()
    if args.equality:
        equality(args.equality, args.seed)
    elif args.start:
        start()
    else:
        speed(args.features, args.rounds)


if __name__ == "__main__":
    main()
