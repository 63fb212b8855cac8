"""Sums over the last 1, 2, 4, ... values of many columns at once, and what all columns say together at each length.

A sum of 2w values is the sum of the last w and the sum of w that was the last w values ago:

    S_2w(t) = S_w(t) + S_w(t - w)

so a ring of the last w sums at each length is all that is kept, nothing is ever taken away again, and no rounding error
lives longer than the values it came with.
"""

from __future__ import annotations

import math

import numpy as np
from numba import void
from numpy.typing import NDArray

from regime.kernels._compile import FLAGS, NUMBER, REAL, TABLE, WHOLE, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FARTHEST = 1e6  # standard deviations: beyond it a value says nothing more, and its square must stay a number


@kernel(void, TABLE, TABLE, FLAGS, TABLE, NUMBER, REAL[1], WHOLE[0], REAL[1], REAL[1], WHOLE[1])
def take(
    rows: Floats,
    scale: Floats,
    live: NDArray[np.bool_],
    doubt: Floats,
    sparse: float,
    rings: Floats,
    seen: Ints,
    squares: Floats,
    together: Floats,
    full: Ints,
) -> None:
    """Take `rows[n, columns]` one after the other; `together[n, windows]` and `full[n, windows]` answer for each.

    U is the sum of the last w values over the square root of w and of `doubt[columns, windows]`, w = 2**window.
    `together` adds up over the live columns that have seen w values U^2 or, with `sparse` over 0, ln(1 - sparse +
    sparse e^(U^2 / 2)); `full` counts those columns. `scale[3, columns]`: size, mean, spread. State: `rings[columns,
    2**(windows - 1) - 1]`, `seen[columns]`, and `squares[columns, windows]`, the last U^2.
    """
    columns, windows = squares.shape
    # A product in place of a sum of logarithms, cut into pieces that are numbers.
    products = np.empty(windows)
    for n in range(rows.shape[0]):
        products[:] = 1.0
        together[n] = 0.0
        full[n] = 0
        for column in range(columns):
            if not live[column]:
                continue
            x = rows[n, column]
            if math.isfinite(x):
                z = (x / scale[0, column] - scale[1, column]) / scale[2, column]
                z = min(max(z, -_FARTHEST), _FARTHEST)
                count = seen[column]
                total, width, start = z, 1, 0
                for window in range(windows):
                    if window > 0:
                        at = start + count % width
                        before = rings[column, at]
                        rings[column, at] = total
                        total += before
                        start += width
                        width *= 2
                    squares[column, window] = total * total / (width * doubt[column, window])
                seen[column] = count + 1
            width = 1
            for window in range(windows):
                if seen[column] < width:
                    break
                width *= 2
                full[n, window] += 1
                square = squares[column, window]
                if sparse <= 0.0:
                    together[n, window] += square
                elif square > 400.0:
                    together[n, window] += 0.5 * square + math.log(sparse)
                else:
                    product = products[window] * (1.0 - sparse + sparse * math.exp(0.5 * square))
                    if product > 1e200 or product < 1e-200:
                        together[n, window] += math.log(product)
                        product = 1.0
                    products[window] = product
        if sparse > 0.0:
            for window in range(windows):
                together[n, window] += math.log(products[window])
