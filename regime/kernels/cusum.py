"""Page's CUSUM over many columns at once: both sides, at several drifts.

    up_t   = max(0, up_{t-1}   + z_t - drift / 2)
    down_t = max(0, down_{t-1} - z_t - drift / 2)

and the answer of a column is the largest of its sums, each as a share of its limit. A sum stops at `ceiling` times its
limit, so that it can come down again in reasonable time when the column is as before.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from regime.kernels._compile import NUMBER, OPTIONS_REAL, REAL, ROW, TABLE, kernel

Floats = NDArray[np.float64]

_TOGETHER = 256  # columns: their sums stay in the processor's nearest memory while all drifts pass over them


@kernel(NUMBER, ROW, TABLE, OPTIONS_REAL, TABLE, REAL[1], REAL[0], REAL[0], NUMBER)
def take(
    x: Floats,
    scale: Floats,
    drifts: Floats,
    limits: Floats,
    sums: Floats,
    ratios: Floats,
    values: Floats,
    ceiling: float,
) -> float:
    """Take one value of each column into `sums[2 * drifts, columns]` (up, down, up, ...), write `ratios[columns]`, and
    return the largest ratio.

    `scale[3, columns]` holds size, mean, spread; the spread of a column that is not watched is infinite, and so are its
    limits: its ratio is 0. `limits[drifts, columns]`. `values[columns]` is working memory.
    """
    columns = x.shape[0]
    largest = 0.0
    for start in range(0, columns, _TOGETHER):
        end = min(start + _TOGETHER, columns)
        for column in range(start, end):
            z = (x[column] / scale[0, column] - scale[1, column]) / scale[2, column]
            values[column] = z if abs(x[column]) < math.inf else math.nan
            ratios[column] = 0.0
        for k in range(drifts.shape[0]):
            slack = 0.5 * drifts[k]
            for column in range(start, end):
                z, limit = values[column], limits[k, column]
                most = ceiling * limit
                up, down = sums[2 * k, column], sums[2 * k + 1, column]
                next_up = min(max(up + z - slack, 0.0), most)
                next_down = min(max(down - z - slack, 0.0), most)
                up = next_up if not math.isnan(z) else up
                down = next_down if not math.isnan(z) else down
                sums[2 * k, column] = up
                sums[2 * k + 1, column] = down
                ratios[column] = max(ratios[column], max(up, down) / limit)
        for column in range(start, end):
            largest = max(largest, ratios[column])
    return largest
