"""Page-Hinkley over many columns at once, alarm for alarm what river's `PageHinkley` says."""

from __future__ import annotations

import math

import numpy as np
from numba import void
from numpy.typing import NDArray

from regime.kernels._compile import FLAGS, OPTIONS_REAL, REAL, ROW, TABLE, WHOLE, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WIDTH, SEEN, AGE = 0, 1, 2
"""Columns of `whole`: values since the last alarm; values seen ever; age of the last alarm, which is 1 at the alarm."""
MEAN, UP, DOWN, LEAST, MOST = 0, 1, 2, 3, 4
"""Columns of `sums`: the running mean, the two sums, the least of the one and the most of the other."""
EMPTY = np.array([0.0, 0.0, 0.0, np.inf, -1.0])
_NEVER = np.iinfo(np.int64).max


@kernel(void, ROW, TABLE, FLAGS, REAL[1], WHOLE[1], OPTIONS_REAL)
def take(x: Floats, scale: Floats, live: NDArray[np.bool_], sums: Floats, whole: Ints, options: Floats) -> None:
    """Take one value of each live column.

    `scale[3, columns]`: size, mean, spread. `sums[columns, 5]`, `whole[columns, 3]`: see above. Options: (values before
    the first alarm, delta, alpha, limit of the rise, limit of the fall); a side that is not watched has an infinite
    limit.
    """
    least_values, delta, alpha, limit_up, limit_down = options[0], options[1], options[2], options[3], options[4]
    for column in range(x.shape[0]):
        if not (live[column] and math.isfinite(x[column])):
            continue
        value = (x[column] / scale[0, column] - scale[1, column]) / scale[2, column]
        whole[column, SEEN] += 1
        if whole[column, AGE] != _NEVER:
            whole[column, AGE] += 1
        whole[column, WIDTH] += 1
        width = float(whole[column, WIDTH])
        # One value at a time and in this order, as river adds them up: the alarms are equal to the last bit.
        mean = sums[column, MEAN] + (1.0 / width) * (value - sums[column, MEAN])
        away = value - mean
        up = alpha * sums[column, UP] + away - delta
        down = alpha * sums[column, DOWN] + away + delta
        least = up if up < sums[column, LEAST] else sums[column, LEAST]
        most = down if down > sums[column, MOST] else sums[column, MOST]
        if width >= least_values and (up - least > limit_up or most - down > limit_down):
            whole[column, AGE] = 1
            whole[column, WIDTH] = 0
            mean, up, down, least, most = 0.0, 0.0, 0.0, math.inf, -1.0
        sums[column, MEAN] = mean
        sums[column, UP] = up
        sums[column, DOWN] = down
        sums[column, LEAST] = least
        sums[column, MOST] = most
