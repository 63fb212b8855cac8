"""FOCuS over many columns at once: the likeliest change of mean or scale, over every time it may have begun.

Four questions are asked of each column, of its standardised values z: has their mean risen or fallen, has their square
risen or fallen. With S the running sum of z (or of z^2 - 1; with the sign turned for a fall), and w = t - i values
since a change at i, the log likelihood ratio of the best change that began there is

    mean    (S_t - S_i)^2 / 2w                                 scale   w/2 (e - ln(1 + e)),  e = (S_t - S_i) / w

Whatever comes later, it can be largest only at a corner of the lower convex hull of the points (i, S_i): any other
beginning is beaten by a corner for every size of change. So the corners are all that is kept, about ln t of them, and a
new point takes away the corners that it lies below.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from regime.kernels._compile import COUNT, FLAGS, OPTIONS_REAL, REAL, ROW, TABLE, WHOLE, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEAN_UP, MEAN_DOWN, SCALE_UP, SCALE_DOWN = 0, 1, 2, 3
CORNERS_AT_FIRST = 16


@kernel(
    COUNT, ROW, TABLE, FLAGS, OPTIONS_REAL, TABLE, WHOLE[2], REAL[2], WHOLE[1], REAL[1], WHOLE[0], REAL[0], WHOLE[1]
)
def take(
    x: Floats,
    scale: Floats,
    live: NDArray[np.bool_],
    rows_inverse: Floats,
    bonus: Floats,
    begins: Ints,
    heights: Floats,
    corners: Ints,
    totals: Floats,
    seen: Ints,
    scores: Floats,
    found: Ints,
) -> int:
    """Take one value of each live column, and return the number of corners of the column that has most.

    `scale[3, columns]`: size, mean, spread. `rows_inverse[columns]`: 1 / values in the reference. `bonus[4, longest +
    1]`: added to the score of a change w values old. State: `begins`, `heights[columns, 4, room]` the corners, so many
    as `corners[columns, 4]` says, `totals[columns, 2]` the running sums, `seen[columns]` the values so far. Answers of
    the columns that had a value: `scores[columns]`, and `found[columns, 2]`, how many values ago the change began and
    which question it answers.
    """
    longest = bonus.shape[1] - 1
    most = 0
    for column in range(x.shape[0]):
        if not (live[column] and math.isfinite(x[column])):
            continue
        z = (x[column] / scale[0, column] - scale[1, column]) / scale[2, column]
        now = seen[column]
        inverse = rows_inverse[column]
        best, best_age, best_question = 0.0, 0, 0
        for question in range(4):
            path = question // 2
            sign = 1.0 if question % 2 == 0 else -1.0
            before = sign * totals[column, path]
            after = before + sign * (z if path == 0 else z * z - 1.0)

            count = corners[column, question]
            first = 0
            while first < count and now + 1 - begins[column, question, first] > longest:
                first += 1
            if first > 0:
                for k in range(first, count):
                    begins[column, question, k - first] = begins[column, question, k]
                    heights[column, question, k - first] = heights[column, question, k]
                count -= first
            while count > 0:
                last = heights[column, question, count - 1]
                if before > last:
                    if count == 1:
                        break
                    rise = last - heights[column, question, count - 2]
                    run = begins[column, question, count - 1] - begins[column, question, count - 2]
                    if rise * (now - begins[column, question, count - 1]) < (before - last) * run:
                        break
                count -= 1
            begins[column, question, count] = now
            heights[column, question, count] = before
            count += 1
            corners[column, question] = count
            most = max(most, count)

            for k in range(count):
                rise = after - heights[column, question, k]
                if rise <= 0.0:
                    continue
                age = now + 1 - begins[column, question, k]
                width = float(age)
                extra = bonus[question, age]
                # The mean of a reference of N values is uncertain: the sum of w has variance w (1 + w / N).
                doubt = 1.0 + width * inverse
                if path == 0:
                    score = 0.5 * rise * rise / (width * doubt) + extra
                else:
                    excess = sign * rise / width
                    excess = max(excess, -0.999999)
                    # The logarithm only where it can matter: e - ln(1 + e) <= e^2 / 2 above 0, e^2 / (1 + e) below.
                    at_most = 0.5 * excess * excess if excess > 0.0 else excess * excess / (1.0 + excess)
                    if 0.5 * width * at_most / doubt + extra <= best:
                        continue
                    score = 0.5 * width * (excess - math.log1p(excess)) / doubt + extra
                if score > best:
                    best, best_age, best_question = score, age, question
        totals[column, 0] += z
        totals[column, 1] += z * z - 1.0
        seen[column] = now + 1
        scores[column] = best
        found[column, 0] = best_age
        found[column, 1] = best_question
    return most
