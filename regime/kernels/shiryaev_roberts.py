"""The Shiryaev-Roberts statistic over many columns at once: mean shifts of both signs and changes of scale, mixed.

For every alternative j, with LR_j(z) the likelihood ratio of one value,

    R_t = (1 + R_{t-1}) LR_j(z_t)          the likelihood ratio of "changed at i", added up over all i = 1..t
    a_t = 1 + a_{t-1} R_{t-1} / (1 + R_{t-1})      how many values ago it changed, averaged with those as weights

and the answer of a column is the sum of weight times R. Likelihood ratios are worked out as logarithms; R itself is
kept as a plain number, as precise as its logarithm and at about a third of the cost: it is never under 0, 1 is added
before it is used, and it stops at `ceiling` (e^600 at most), so nothing overflows whatever the values are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from regime.kernels._compile import FLAGS, NUMBER, OPTIONS_REAL, REAL, ROW, TABLE, kernel

Floats = NDArray[np.float64]


@kernel(NUMBER, ROW, TABLE, FLAGS, OPTIONS_REAL, OPTIONS_REAL, TABLE, REAL[1], REAL[1], REAL[0], NUMBER)
def take(
    x: Floats,
    scale: Floats,
    live: NDArray[np.bool_],
    drifts: Floats,
    ratios: Floats,
    weights: Floats,
    sums: Floats,
    ages: Floats,
    mixed: Floats,
    ceiling: float,
) -> float:
    """Take one value of each live column, write `mixed[columns]`, and return its sum.

    `scale[3, columns]`: size, mean, spread. `drifts[k]`: shifts of the mean, each watched up and down; `ratios[j]`:
    standard deviation after over before. `weights[columns, alternatives]`, `sums` and `ages` alike: up and down of each
    drift (up, down, up, ...), then the ratios.
    """
    means, scales = drifts.shape[0], ratios.shape[0]
    total = 0.0
    for column in range(x.shape[0]):
        if not live[column]:
            continue
        if math.isfinite(x[column]):
            z = (x[column] / scale[0, column] - scale[1, column]) / scale[2, column]
            mixture = 0.0
            for j in range(2 * means + scales):
                if j < 2 * means:
                    drift = drifts[j // 2] if j % 2 == 0 else -drifts[j // 2]
                    ratio = math.exp(drift * z - 0.5 * drift * drift)
                else:
                    after = ratios[j - 2 * means]
                    ratio = math.exp(0.5 * z * z * (1.0 - 1.0 / (after * after))) / after
                before = sums[column, j]
                ages[column, j] = 1.0 + ages[column, j] * (before / (1.0 + before))
                now = min((1.0 + before) * ratio, ceiling)
                sums[column, j] = now
                mixture += weights[column, j] * now
            mixed[column] = mixture
        total += mixed[column]
    return total
