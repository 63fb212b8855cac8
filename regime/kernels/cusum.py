"""Page's CUSUM over many columns at once: both sides, at several drifts.

    up_t   = max(0, up_{t-1}   + z_t - drift / 2)
    down_t = max(0, down_{t-1} - z_t - drift / 2)

and the answer of a column is the largest of its sums, each as a share of its limit: as such the sums are kept. A sum
stops at `ceiling` times its limit, so that it can come down again in reasonable time when the column is as before.
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
    shares: Floats,
    sums: Floats,
    ratios: Floats,
    values: Floats,
    ceiling: float,
) -> float:
    """Take one value of each column into `sums[2 * drifts, columns]` (up, down, up, ...), write `ratios[columns]`, and
    return the largest ratio.

    `scale[3, columns]` holds size, mean, spread. `shares[drifts, columns]` is 1 / limit, and 0 for a column that is not
    watched at that drift: its sums stay 0. `values[columns]` is working memory.
    """
    columns = x.shape[0]
    largest = 0.0
    for start in range(0, columns, _TOGETHER):
        end = min(start + _TOGETHER, columns)
        # Slices, counted from 0: only then does the compiler take several columns at once.
        given, size, mean, spread = x[start:end], scale[0, start:end], scale[1, start:end], scale[2, start:end]
        value, ratio = values[start:end], ratios[start:end]
        for i in range(end - start):
            z = (given[i] / size[i] - mean[i]) / spread[i]
            value[i] = z if abs(given[i]) < math.inf else math.nan
            ratio[i] = 0.0
        for k in range(drifts.shape[0]):
            slack = 0.5 * drifts[k]
            share, ups, downs = shares[k, start:end], sums[2 * k, start:end], sums[2 * k + 1, start:end]
            for i in range(end - start):
                z = value[i]
                up = ups[i] + (z - slack) * share[i]
                down = downs[i] - (z + slack) * share[i]
                up = 0.0 if up < 0.0 else up
                down = 0.0 if down < 0.0 else down
                up = ceiling if up > ceiling else up
                down = ceiling if down > ceiling else down
                up = ups[i] if math.isnan(z) else up
                down = downs[i] if math.isnan(z) else down
                ups[i] = up
                downs[i] = down
                more = up if up > down else down
                ratio[i] = more if more > ratio[i] else ratio[i]
        for i in range(end - start):
            largest = ratio[i] if ratio[i] > largest else largest
    return largest
