"""The inner loops of the calibrated detector, compiled by numba: import this module only when rows are to be walked.

One kernel, `walk`, does the arithmetic for the calibration (whole references at once) and for the live detector (one
row at a time), so both see the same bits. Columns are features; everything that differs between features is a row of
`table`, everything that changes is a row of `state`. No `fastmath`: operations stand in a fixed order, element by
element, and the few sums over features run from the first to the last one. A missing value is multiplied away
(`a + 0.0 * b` is exactly `a`), so a gap leaves a feature bit for bit as it was.

The interpreter's lock is given up while they run: the service finds limits beside the thread that answers bots.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KNOTS = 15
"""Knots of the map from values to normal scores."""
LAGS = 6
HAR = 3
"""Running means among the regressors of a whitened row."""
DRIFTS = 3
"""CUSUM pairs (up, down) on whitened scores."""
LEVELS = 2
"""Running means of unwhitened scores."""
SCALES = 3
"""CUSUMs on squared residuals."""
DENSE = 2
"""Running means of whitened scores whose squares are summed over the features; two sums each."""
CHANNELS = DRIFTS + LEVELS + SCALES
"""Channels with one statistic per feature; `2 * DENSE` more have one for all."""

# Rows of `table`.
T_LIVE, T_LOW, T_HIGH, T_ZERO = 0, 1, 2, 3
T_KNOT = 4
T_SLOPE = T_KNOT + KNOTS
T_PHI = T_SLOPE + KNOTS + 1
T_SIGMA = T_PHI + LAGS + HAR
T_U_MEAN, T_U_SCALE, T_SQUARE = T_SIGMA + 1, T_SIGMA + 2, T_SIGMA + 3
T_LEVEL_MEAN = T_SQUARE + 1
T_LEVEL_SCALE = T_LEVEL_MEAN + LEVELS
T_LOC = T_LEVEL_SCALE + LEVELS
T_INVERSE = T_LOC + CHANNELS
T_CAP = T_INVERSE + CHANNELS
T_SEASON = T_CAP + CHANNELS

# Rows of `state`.
S_LAG = 0
S_HAR = S_LAG + LAGS
S_VARIANCE = S_HAR + HAR
S_COUNT, S_GAP = S_VARIANCE + 1, S_VARIANCE + 2
S_DRIFT = S_GAP + 1
S_DRIFT_START = S_DRIFT + 2 * DRIFTS
S_LEVEL = S_DRIFT_START + 2 * DRIFTS
S_LEVEL_START = S_LEVEL + LEVELS
S_SCALE = S_LEVEL_START + LEVELS
S_SCALE_START = S_SCALE + SCALES
S_DENSE = S_SCALE_START + SCALES
STATES = S_DENSE + DENSE

# Entries of `numbers`.
N_WARM, N_GAP, N_DEVOL, N_CLIP, N_SOFT, N_SQUARE = 0, 1, 2, 3, 4, 5
N_HAR = 6
N_DRIFT = N_HAR + HAR
N_LEVEL = N_DRIFT + DRIFTS
N_SCALE = N_LEVEL + LEVELS
N_DENSE = N_SCALE + SCALES
N_DENSE_LOC = N_DENSE + DENSE
N_DENSE_INVERSE = N_DENSE_LOC + 2 * DENSE
N_SHAPE = N_DENSE_INVERSE + 2 * DENSE
NUMBERS = N_SHAPE + CHANNELS + 2 * DENSE

MOMENTS = 2 * (1 + LEVELS) + 2

Z_MAX = 5.0


@njit(cache=True, nogil=True, error_model="numpy")
def scores(x: Floats, basis: Floats, table: Floats, out: Floats, present: Floats) -> None:
    """Normal scores of `x` (rows x features) without season into `out`; 1 where there is a value into `present`."""
    rows, features = x.shape
    raw = np.empty(features)
    total = np.empty(features)
    for t in range(rows):
        here = present[t]
        for f in range(features):
            v = x[t, f]
            here[f] = table[T_LIVE, f] if abs(v) < np.inf else 0.0
            v = v if abs(v) < np.inf else table[T_KNOT, f]
            v = v if v > table[T_LOW, f] else table[T_LOW, f]
            raw[f] = v if v < table[T_HIGH, f] else table[T_HIGH, f]
        for f in range(features):
            total[f] = table[T_ZERO, f] + table[T_SLOPE, f] * (raw[f] - table[T_KNOT, f])
        for k in range(KNOTS):
            knot = table[T_KNOT + k]
            slope = table[T_SLOPE + 1 + k]
            for f in range(features):
                d = raw[f] - knot[f]
                d = d if d > 0.0 else 0.0
                total[f] += slope[f] * d
        for k in range(basis.shape[1]):
            b = basis[t, k]
            season = table[T_SEASON + k]
            for f in range(features):
                total[f] -= b * season[f]
        for f in range(features):
            out[t, f] = total[f] if here[f] > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def gram(z: Floats, present: Floats, weight: Floats, numbers: Floats, out: Floats) -> None:
    """Add the products of the regressors (lags, running means) and of the value into `out[i, j, features]`,
    j >= i; the number of rows counted into `out[-1, 0]`."""
    rows, features = z.shape
    size = LAGS + HAR + 1
    lag = np.zeros((size, features))
    count = np.zeros(features)
    keep = np.empty(features)
    for t in range(rows):
        for f in range(features):
            lag[size - 1, f] = z[t, f]
            keep[f] = present[t, f] * weight[t] if count[f] >= numbers[N_WARM] else 0.0
        if weight[t] > 0.0:
            for f in range(features):
                out[size - 1, 0, f] += keep[f]
            for i in range(size):
                a = lag[i]
                for j in range(i, size):
                    b = lag[j]
                    o = out[i, j]
                    for f in range(features):
                        o[f] += keep[f] * a[f] * b[f]
        for k in range(LAGS - 1, 0, -1):
            for f in range(features):
                lag[k, f] = lag[k - 1, f] if present[t, f] > 0.0 else lag[k, f]
        for f in range(features):
            lag[0, f] = z[t, f] if present[t, f] > 0.0 else lag[0, f]
        for k in range(HAR):
            for f in range(features):
                rate = max(numbers[N_HAR + k], 1.0 / (count[f] + 1.0))
                lag[LAGS + k, f] += present[t, f] * rate * (z[t, f] - lag[LAGS + k, f])
        for f in range(features):
            count[f] += present[t, f]


@njit(cache=True, nogil=True, error_model="numpy")
def walk(
    z: Floats,
    present: Floats,
    weight: Floats,
    table: Floats,
    numbers: Floats,
    state: Floats,
    clock: Floats,
    family: Floats,
    feature: Floats,
    moments: Floats,
    maxima: Floats,
    block: int,
) -> None:
    """Take the rows of `z` in order, changing `state` and `clock[0]` (rows taken).

    `family[rows, channels]` gets each channel's largest normalised statistic, bent to the family's tail; `feature[
    channels, features]` the normalised statistics after the last row, before bending. With `moments[MOMENTS, features]`
    sums of scores and squares over rows of positive weight are added up; with `maxima[channels, blocks, features]` the
    largest raw statistic of every block of rows with weight.
    """
    rows, features = z.shape
    measuring = maxima.shape[0] > 0
    summing = moments.shape[0] > 0
    remembering = feature.shape[0] > 0
    e = np.empty(features)
    u = np.empty(features)
    q = np.empty(features)
    go = np.empty(features)
    ready = np.empty(features)
    share = np.empty(features)
    stat = np.empty(features)
    for t in range(rows):
        now = clock[0]
        here = present[t]
        zt = z[t]
        count = state[S_COUNT]
        gap = state[S_GAP]
        variance = state[S_VARIANCE]
        longest = numbers[N_GAP]
        warm = numbers[N_WARM]
        again = 0
        for f in range(features):
            again += int(here[f] > 0.0) & (int(gap[f] > longest) | int(count[f] == 0.0))
        if again > 0:  # a feature that was away for long, or is new, begins from here
            for f in range(features):
                if here[f] > 0.0 and (gap[f] > numbers[N_GAP] or count[f] == 0.0):
                    for k in range(STATES):
                        state[k, f] = 0.0
                    for k in range(LAGS):
                        state[S_LAG + k, f] = zt[f]
                    for k in range(HAR):
                        state[S_HAR + k, f] = zt[f]
                    variance[f] = 1.0
        for f in range(features):
            gap[f] = (gap[f] + 1.0) * (1.0 - here[f])
            share[f] = 1.0 / (count[f] + 1.0)
            go[f] = here[f] if count[f] >= warm else 0.0
            e[f] = zt[f]
        for k in range(LAGS):
            phi = table[T_PHI + k]
            lag = state[S_LAG + k]
            for f in range(features):
                e[f] -= phi[f] * lag[f]
        for k in range(HAR):
            phi = table[T_PHI + LAGS + k]
            mean = state[S_HAR + k]
            rate = numbers[N_HAR + k]
            for f in range(features):
                e[f] -= phi[f] * mean[f]
                a = rate if rate > share[f] else share[f]
                mean[f] += here[f] * a * (zt[f] - mean[f])
        for k in range(LAGS - 1, 0, -1):
            lag = state[S_LAG + k]
            newer = state[S_LAG + k - 1]
            for f in range(features):
                lag[f] = newer[f] if here[f] > 0.0 else lag[f]
        lag = state[S_LAG]
        sigma = table[T_SIGMA]
        middle = table[T_U_MEAN]
        scale = table[T_U_SCALE]
        per_square = table[T_SQUARE]
        devol = numbers[N_DEVOL]
        square = numbers[N_SQUARE]
        clip = numbers[N_CLIP]
        for f in range(features):
            lag[f] = zt[f] if here[f] > 0.0 else lag[f]
            v = e[f] * sigma[f]
            s = v * v
            s = s if s < square else square
            q[f] = s * per_square[f]
            v = (v / math.sqrt(variance[f]) - middle[f]) * scale[f]
            v = v if v < clip else clip
            u[f] = v if v > -clip else -clip
            s = variance[f] + here[f] * (1.0 - devol) * (s - variance[f])
            variance[f] = s if s > 1e-3 else 1e-3
            count[f] += here[f]
            seen = 1.0 if count[f] > warm else 0.0
            ready[f] = seen if gap[f] <= longest else 0.0
        if summing and weight[t] > 0.0:
            for f in range(features):
                moments[0, f] += go[f]
                moments[1, f] += go[f] * u[f]
                moments[2, f] += go[f] * u[f] * u[f]
                moments[3, f] += go[f] * q[f]
        channel = 0
        for k in range(DRIFTS):
            d = numbers[N_DRIFT + k]
            h = 0.5 * d * d
            up = state[S_DRIFT + 2 * k]
            down = state[S_DRIFT + 2 * k + 1]
            up_start = state[S_DRIFT_START + 2 * k]
            down_start = state[S_DRIFT_START + 2 * k + 1]
            cap = table[T_CAP + channel]
            for f in range(features):
                w = d * u[f]
                a = up[f] + go[f] * (w - h)
                b = down[f] - go[f] * (w + h)
                a = a if a > 0.0 else 0.0
                b = b if b > 0.0 else 0.0
                a = a if a < cap[f] else cap[f]
                b = b if b < cap[f] else cap[f]
                up[f] = a
                down[f] = b
                up_start[f] = up_start[f] if a > 0.0 else now + 1.0
                down_start[f] = down_start[f] if b > 0.0 else now + 1.0
                stat[f] = a if a > b else b
            _channel(channel, t, weight[t], stat, ready, table, family, feature, maxima, block, measuring, remembering)
            channel += 1
        for k in range(LEVELS):
            mean = state[S_LEVEL + k]
            start = state[S_LEVEL_START + k]
            rate = numbers[N_LEVEL + k]
            middle = table[T_LEVEL_MEAN + k]
            scale = table[T_LEVEL_SCALE + k]
            for f in range(features):
                a = rate if rate > share[f] else share[f]
                before = mean[f] - middle[f]
                mean[f] += here[f] * a * (zt[f] - mean[f])
                v = (mean[f] - middle[f]) * scale[f]
                start[f] = start[f] if before * v > 0.0 else now + 1.0
                stat[f] = 0.5 * v * v
            if summing and weight[t] > 0.0:
                for f in range(features):
                    moments[4 + 2 * k, f] += go[f] * mean[f]
                    moments[5 + 2 * k, f] += go[f] * mean[f] * mean[f]
            _channel(channel, t, weight[t], stat, ready, table, family, feature, maxima, block, measuring, remembering)
            channel += 1
        for k in range(SCALES):
            total = state[S_SCALE + k]
            start = state[S_SCALE_START + k]
            r = numbers[N_SCALE + k]
            c0 = math.log(r)
            c1 = 0.5 * (1.0 - 1.0 / (r * r))
            cap = table[T_CAP + channel]
            for f in range(features):
                a = total[f] + go[f] * (c1 * q[f] - c0)
                a = a if a > 0.0 else 0.0
                a = a if a < cap[f] else cap[f]
                total[f] = a
                start[f] = start[f] if a > 0.0 else now + 1.0
                stat[f] = a
            _channel(channel, t, weight[t], stat, ready, table, family, feature, maxima, block, measuring, remembering)
            channel += 1
        soft = numbers[N_SOFT]
        for k in range(DENSE):
            mean = state[S_DENSE + k]
            rate = numbers[N_DENSE + k]
            gain = 0.5 * (2.0 - rate) / rate
            for f in range(features):
                mean[f] += go[f] * rate * (u[f] - mean[f])
                stat[f] = ready[f] * mean[f] * mean[f] * gain
            every = 0.0
            some = 0.0
            for f in range(features):
                v = stat[f]
                every += v
                some += v - soft if v > soft else 0.0
            for j in range(2):
                v = every if j == 0 else some
                i = 2 * k + j
                if measuring:
                    if weight[t] > 0.0:
                        o = maxima[channel, t // block]
                        o[0] = o[0] if o[0] > v else v
                else:
                    family[t, channel] = (v - numbers[N_DENSE_LOC + i]) * numbers[N_DENSE_INVERSE + i]
                channel += 1
        if not measuring:
            for c in range(CHANNELS + 2 * DENSE):
                xi = numbers[N_SHAPE + c]
                v = family[t, c]
                if xi > 0.0 and v > 0.0:
                    family[t, c] = math.log(1.0 + xi * v) / xi
        clock[0] = now + 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _channel(
    channel: int,
    t: int,
    weight: float,
    stat: Floats,
    ready: Floats,
    table: Floats,
    family: Floats,
    feature: Floats,
    maxima: Floats,
    block: int,
    measuring: bool,
    remembering: bool,
) -> None:
    features = stat.shape[0]
    if measuring:
        if weight > 0.0:
            o = maxima[channel, t // block]
            for f in range(features):
                v = ready[f] * stat[f]
                o[f] = o[f] if o[f] > v else v
        return
    loc = table[T_LOC + channel]
    inverse = table[T_INVERSE + channel]
    if remembering:
        o = feature[channel]
        for f in range(features):
            o[f] = (stat[f] - loc[f]) * inverse[f]
    for f in range(features):
        v = (stat[f] - loc[f]) * inverse[f]
        stat[f] = v if ready[f] > 0.0 else -np.inf
    # The largest by halving: the same value as from first to last, in steps that need not wait for each other.
    left = features
    while left > 1:
        half = (left + 1) // 2
        first = stat[: left - half]
        second = stat[half:left]
        for f in range(left - half):
            v = second[f]
            first[f] = first[f] if first[f] > v else v
        left = half
    family[t, channel] = stat[0]


def fresh_state(features: int) -> tuple[Any, Any]:
    """Return the state of a detector that has seen nothing, and its clock."""
    state = np.zeros((STATES, features))
    state[S_VARIANCE] = 1.0
    return state, np.zeros(1)
