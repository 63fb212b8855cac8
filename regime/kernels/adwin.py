"""ADWIN over many columns at once, alarm for alarm what river's `ADWIN` says.

The window of a column is kept as sums of 1, 2, 4, ... values: level `i` holds up to `buckets_max` sums of `2**i`
values, and when one more arrives its two oldest become one sum of level `i + 1`. The window may be cut between any two
sums. Beside the sums the window has a width, a total and a sum of squared deviations.

Three things river does are left out, because no alarm depends on them. river also keeps the variance inside every
bucket, and needs it only to shorten the window at an alarm; but after an alarm it begins with an empty window, so here
the window is emptied at once. And the bound is not worked out for a cut that is far from it: see `_clearly_inside`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from regime.kernels._compile import COUNT, FLAGS, OPTIONS_REAL, OPTIONS_WHOLE, REAL, ROW, TABLE, WHOLE, inner, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS_AT_FIRST = 8
WIDTH, SEEN, AGE = 0, 1, 2
"""Columns of `whole`: values in the window; values seen ever; values since the last alarm, which has age 1."""
_NEVER = np.iinfo(np.int64).max


@inner
def _clearly_inside(n0: float, n1: float, u0: float, u1: float, bound: float) -> bool:
    """Whether two halves differ by so much less than the bound that no rounding could make it an alarm.

    |u0/n0 - u1/n1| < sqrt(2 v d (1/n0 + 1/n1)), both sides times n0 n1 and squared, needs no division and no root.
    ADWIN's own bound is never smaller. The left side is made larger by far more than all rounding, the right side
    smaller; where the square could overflow or underflow the answer is no.
    """
    apart = abs(u0 * n1 - u1 * n0) + 1e-12 * (abs(u0) * n1 + abs(u1) * n0)
    limit = bound * n0 * n1
    return 1e-280 < limit < 1e280 and apart * apart < limit


@kernel(COUNT, ROW, TABLE, FLAGS, REAL[2], WHOLE[1], REAL[1], WHOLE[1], OPTIONS_REAL, OPTIONS_WHOLE)
def take(
    x: Floats,
    scale: Floats,
    live: NDArray[np.bool_],
    sums: Floats,
    held: Ints,
    window: Floats,
    whole: Ints,
    real_options: Floats,
    whole_options: Ints,
) -> int:
    """Take one value of each live column, and return how many sums the fullest last level holds: make room if any.

    `scale[3, columns]`: size, mean, spread. `sums[columns, levels, buckets_max + 1]` and `held[columns, levels]`: the
    sums and how many there are. `window[columns, 2]`: total, squared deviations. `whole[columns, 3]`: see above.
    Options: (delta,) and (clock, shortest half, grace).
    """
    delta = real_options[0]
    clock, shortest, grace = whole_options[0], float(whole_options[1]), whole_options[2]
    levels, room = sums.shape[1], sums.shape[2]
    fullest = 0
    for column in range(x.shape[0]):
        if not (live[column] and math.isfinite(x[column])):
            continue
        value = (x[column] / scale[0, column] - scale[1, column]) / scale[2, column]
        whole[column, SEEN] += 1
        if whole[column, AGE] != _NEVER:
            whole[column, AGE] += 1

        sums[column, 0, held[column, 0]] = value
        held[column, 0] += 1
        whole[column, WIDTH] += 1
        width = float(whole[column, WIDTH])
        total = window[column, 0]
        if width > 1.0:
            away = value - total / (width - 1.0)
            window[column, 1] += (width - 1.0) * away * away / width
        total += value
        window[column, 0] = total

        level = 0
        while held[column, level] == room:
            above = held[column, level + 1]
            sums[column, level + 1, above] = sums[column, level, 0] + sums[column, level, 1]
            held[column, level + 1] = above + 1
            for k in range(room - 2):
                sums[column, level, k] = sums[column, level, k + 2]
            held[column, level] = room - 2
            level += 1

        if whole[column, WIDTH] % clock == 0 and whole[column, WIDTH] > grace:
            variance = window[column, 1] / width
            significance = math.log(2.0 * math.log(width) / delta)
            bound = (1.0 - 1e-9) * 2.0 * variance * significance * width
            n0, n1, u0, u1 = 0.0, width, 0.0, total
            alarm = False
            for down in range(levels):
                level = levels - 1 - down
                size = float(1 << level)
                for k in range(held[column, level]):
                    n0 += size
                    n1 -= size
                    u0 += sums[column, level, k]
                    u1 -= sums[column, level, k]
                    if n0 < shortest or n1 < shortest or (level == 0 and k == held[column, 0] - 1):
                        continue
                    if _clearly_inside(n0, n1, u0, u1, bound):
                        continue
                    parts = 1.0 / (n0 - shortest + 1.0) + 1.0 / (n1 - shortest + 1.0)
                    limit = math.sqrt(2.0 * parts * variance * significance) + 2.0 / 3.0 * significance * parts
                    if abs(u0 / n0 - u1 / n1) > limit:
                        alarm = True
                        break
                if alarm:
                    break
            if alarm:
                whole[column, AGE] = 1
                whole[column, WIDTH] = 0
                window[column, 0] = 0.0
                window[column, 1] = 0.0
                sums[column] = 0.0
                held[column] = 0
        fullest = max(fullest, held[column, levels - 1])
    return fullest
