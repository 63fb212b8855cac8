"""Does the calibrated detector ring as seldom as it was asked to?

Calibrate on a reference, run on fresh rows of the same world where nothing changes, count alarms (those less than a day
apart are one), and divide the run length by the one asked. Every reference is watched for as many asked periods as
stated: 100 leave +-10 % of counting noise in each ratio.
"""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray
from worlds import DAY, NAMES, market

from detection_tables import streams
from regime.calibration import calibrate, episodes
from regime.reference import Reference

Floats = NDArray[np.float64]
LEAD = 600
"""Rows before counting starts, in every fresh stretch."""
STRETCH = 40_000
ORDER = np.array([NAMES.index(name) for name in sorted(NAMES)], dtype=np.int64)
"""Columns of `market` in the order of a `Reference`."""


def run(
    seed: int, *, worlds: list[str], rows: int, references: int, asked: list[float], periods: float
) -> None:  # fmt: skip
    print(f"\n## Honesty: achieved / asked run length, reference of {rows:,} rows ({rows / DAY:.0f} days), "
          f"{references} references a world, {periods:g} asked periods each (seed {seed})\n")  # fmt: skip
    print("| world | asked | mean | harmonic | sd(log) | within 25 % | range | in the stated 90 % interval | "
          "time in alarm | alarms | calibration |")  # fmt: skip
    print("|" + "---|" * 11, flush=True)
    for world in worlds:
        for a in asked:
            line(seed, world, rows, references, a, periods)


def line(seed: int, world: str, rows: int, references: int, asked: float, periods: float) -> None:
    ratios, standing, seconds, inside, alarms = [], [], [], [], 0
    begun = time.perf_counter()
    for i in range(references):
        base = seed + 10_000 * i
        reference = Reference(NAMES, market(world, base, rows), ts_ms=streams.times(rows))
        started = time.perf_counter()
        found = calibrate(reference, rows_per_false_alarm=asked)
        seconds.append(time.perf_counter() - started)
        rang = watched = on = 0
        for j in range(math.ceil(periods * asked / STRETCH)):
            length = min(STRETCH, int(periods * asked) - watched)
            x = market(world, base + 1 + j, length + LEAD)[:, ORDER]
            over = streams.family_path(reference, found, x, streams.times(len(x)))[LEAD:] > found.limit_alarm
            rang += episodes(over, DAY)
            on += int(over.sum())
            watched += length
        achieved = watched / max(rang, 0.5)
        ratios.append(achieved / asked)
        standing.append(on / watched)
        inside.append(found.report.run_length_low <= achieved <= found.report.run_length_high)
        alarms += rang
    r = np.array(ratios)
    print(f"| {world} | {asked:,.0f} | {r.mean():.2f} | {1 / (1 / r).mean():.2f} | {np.log(r).std():.2f} | "
          f"{np.mean(np.abs(r - 1) < 0.25):.0%} | {r.min():.2f} - {r.max():.2f} | {np.mean(inside):.0%} | "
          f"{np.mean(standing):.1%} | {alarms} | {np.mean(seconds):.1f} s |")  # fmt: skip
    print(f"<!-- {world} {asked:,.0f}: {', '.join(f'{v:.2f}' for v in r)}; {time.perf_counter() - begun:.0f} s -->",
          flush=True)  # fmt: skip
