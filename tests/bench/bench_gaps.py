"""Does `calibrated` keep its rate where values are missing, or candles never came?

    python tests/bench/bench_gaps.py --seed S [--worlds mild,harsh,seasonal,jumps] [--references 1] [--rows 80000]

One reference of 90 days without gaps, asked one false alarm in 2,000 rows; fresh rows of the same world where nothing
changes, with gaps made in them. Shown: achieved / asked run length and the share of time in alarm; for candles that
never came beside the control that takes each row to follow the one before it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from detection_tables import streams
from detection_tables.honesty import LEAD, ORDER
from numpy.typing import NDArray
from worlds import DAY, NAMES, market

from regime.calibration import Calibration, calibrate, episodes, family_statistic
from regime.reference import Reference

ASKED = 2000.0
REFERENCE = 25_920


def lost(rows: int, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield a name and which candles never came."""
    for share in (0.01, 0.05, 0.3):
        yield f"{share:.0%} of the candles lost", rng.random(rows) < share
    hours = np.zeros(rows, dtype=bool)
    for day in range(0, rows, DAY):
        begin = day + int(rng.integers(0, 220))
        hours[begin : begin + 60] = True
    yield "5 hours of each day lost", hours
    yield "4 days of each 30 lost", np.arange(rows) % (30 * DAY) >= 26 * DAY


def shown(calibration: Calibration, values: NDArray[np.float64], ts_ms: NDArray[np.int64]) -> str:
    over = family_statistic(calibration, values, ts_ms)[LEAD:] > calibration.limit_alarm
    return f"{len(over) / max(episodes(over, DAY), 0.5) / ASKED:6.2f} ({over.mean():4.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--worlds", default="mild,harsh,seasonal,jumps")
    parser.add_argument("--references", type=int, default=1)
    parser.add_argument("--rows", type=int, default=80_000)
    chosen = parser.parse_args()
    rows = chosen.rows + LEAD
    for world in chosen.worlds.split(","):
        for i in range(chosen.references):
            base = chosen.seed + 10_000 * i
            reference = Reference(NAMES, market(world, base, REFERENCE), ts_ms=streams.times(REFERENCE))
            found = calibrate(reference, rows_per_false_alarm=ASKED)
            x, ts = market(world, base + 1, rows)[:, ORDER], streams.times(rows)
            rng = np.random.default_rng(base)
            print(f"{world}, seed {base}: nothing missing {shown(found, x, ts)}", flush=True)
            for share in (0.02, 0.1, 0.3):
                gone = np.where(rng.random(x.shape) < share, np.nan, x)
                print(f"    {share:.0%} of the values missing: {shown(found, gone, ts)}", flush=True)
            blind = replace(found, holes=False)
            for name, away in lost(rows, rng):
                with_, without = (shown(c, x[~away], ts[~away]) for c in (found, blind))
                print(f"    {name}: {with_}, control {without}", flush=True)


if __name__ == "__main__":
    main()
