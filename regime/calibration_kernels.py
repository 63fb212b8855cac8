"""The inner loops of the calibrated detector, compiled by numba: import this module only when rows are to be walked.

One kernel, `walk`, does the arithmetic for the calibration (whole references at once) and for the live detector (one
row at a time), so both see the same bits. Columns are features; everything that differs between features is a row of
`table`, everything that changes is a row of `state`. No `fastmath`: operations stand in a fixed order, element by
element, and the few sums over features run from the first to the last one. A missing value is multiplied away
(`a + 0.0 * b` is exactly `a`), so a gap leaves the evidence of a feature bit for bit as it was. Its memory (lags and
running means) goes on with what it is expected to be; how far that may be off is `S_FAR`, see `_gaps`. Where nothing
is missing none of this is computed.

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
PAST = LAGS + HAR
"""What a row is predicted from."""
FARS = PAST * (PAST + 1) // 2
DRIFTS = 3
"""CUSUM pairs (up, down) on whitened scores."""
LEVELS = 2
"""Running means of unwhitened scores."""
SCALES = 3
"""CUSUMs on squared residuals."""
DENSE = 2
"""Running means of whitened scores whose squares are summed over the features; two sums each."""
SHAPES = 1
"""Running means of the third and fourth Hermite polynomial of unwhitened scores, both in one statistic."""
COUPLES = 1
"""CUSUMs on the squared part of a whitened score that the other features do not explain."""
CHANNELS = DRIFTS + LEVELS + SCALES + SHAPES + COUPLES
"""Channels with one statistic per feature."""
SUMS = 2 * DENSE + 2
"""Channels with one statistic for all features: the dense ones, the squared prediction error, and the products of the
components."""
FAMILY = CHANNELS + SUMS
LOADS = 16
"""Most principal components of the whitened scores."""
FILLS = 8
"""Steps in which missing scores are filled with what the others predict."""

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
T_SHAPE_MEAN = T_CAP + CHANNELS
T_SHAPE_SCALE = T_SHAPE_MEAN + 2 * SHAPES
T_COUPLE = T_SHAPE_SCALE + 2 * SHAPES
"""One over the variance of the unexplained part; 0 for a feature that the others say nothing about."""
T_LOAD = T_COUPLE + 1
"""Loadings, a row a component."""
T_BACK = T_LOAD + LOADS
"""The same loadings feature by feature: these rows, read on end, are `[features, LOADS]`."""
T_BY_ROW = T_BACK + LOADS
"""1: the memory of the feature goes on through a gap. 0: it stands still, as it did where the law was learned."""
T_SEASON = T_BY_ROW + 1

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
S_SHAPE = S_DENSE + DENSE
S_SHAPE_START = S_SHAPE + 2 * SHAPES
S_COUPLE = S_SHAPE_START + SHAPES
S_COUPLE_START = S_COUPLE + COUPLES
S_ERROR = S_COUPLE_START + COUPLES
S_FAR = S_ERROR + 1
"""Covariance of what is remembered and what was: `S_FAR + i * (i + 1) // 2 + j` for j <= i < PAST, lags first. All 0
when the last `LAGS` values were there."""
S_LOST = S_FAR + FARS
"""Share of the last rows, weighted as the running variance weights them, that was missing."""
STATES = S_LOST + 1

# Entries of `clock`.
C_NOW, C_ERROR, C_ERROR_START, C_PAIR_START = 0, 1, 2, 3
C_OPEN, C_LOST = 4, 5
"""1 where any of `S_FAR`, of `S_LOST` is not 0."""
C_PAIR = 6
PAIRS = LOADS * (LOADS - 1) // 2
CLOCKS = C_PAIR + PAIRS

# Entries of `numbers`.
N_WARM, N_GAP, N_DEVOL, N_CLIP, N_SOFT, N_SQUARE = 0, 1, 2, 3, 4, 5
N_HAR = 6
N_DRIFT = N_HAR + HAR
N_LEVEL = N_DRIFT + DRIFTS
N_SCALE = N_LEVEL + LEVELS
N_DENSE = N_SCALE + SCALES
N_POLYNOMIAL = N_DENSE + DENSE
N_COUPLE = N_POLYNOMIAL + SHAPES
N_ERROR, N_ERROR_MEAN, N_ERROR_LEAST = N_COUPLE + COUPLES, N_COUPLE + COUPLES + 1, N_COUPLE + COUPLES + 2
N_PAIR = N_ERROR_LEAST + 1
N_SPREAD = N_PAIR + 1
"""One over the standard deviation of each component; 0 where there is none."""
N_SUM_LOC = N_SPREAD + LOADS
N_SUM_INVERSE = N_SUM_LOC + SUMS
N_SHAPE = N_SUM_INVERSE + SUMS
NUMBERS = N_SHAPE + FAMILY

MOMENTS = 4 + 2 * LEVELS + 4 * SHAPES

Z_MAX = 5.0
STALE_LEAST = 1e-3
"""Share of an innovation's variance that is of the gap before it, below which the running means count as known."""
STALE_MAX, STALE_COUPLE_MAX, LOST_COUPLE_MAX = 0.2, 0.25, 1.0
"""The largest such share of an innovation that is held against those of the others; and the largest in units of what
the others leave unexplained of the feature: what is nearly determined by them shows the least remainder of a gap. The
same for the square of `S_LOST`: after a long gap a feature is divided by an old volatility, the others by the new."""


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
def gram(z: Floats, present: Floats, weight: Floats, by_row: Floats, numbers: Floats, out: Floats) -> None:
    """Add the products of the regressors (lags, running means) and of the value into `out[i, j, features]`,
    j >= i; the number of rows counted into `out[-1, 0]`. Of a feature with `by_row` only rows whose lags were all
    there are taken."""
    rows, features = z.shape
    size = LAGS + HAR + 1
    lag = np.zeros((size, features))
    count = np.zeros(features)
    keep = np.empty(features)
    run = np.zeros(features)
    away = np.zeros(features)
    for t in range(rows):
        for f in range(features):
            lag[size - 1, f] = z[t, f]
            keep[f] = present[t, f] * weight[t] if count[f] >= numbers[N_WARM] else 0.0
            keep[f] = keep[f] if run[f] >= LAGS else keep[f] * (1.0 - by_row[f])
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
                rate = numbers[N_HAR + k]
                if by_row[f] * away[f] > 0.0:  # a value stands for the rows since the one before it
                    rate = 1.0 - (1.0 - rate) ** (away[f] + 1.0)
                rate = max(rate, 1.0 / (count[f] + 1.0))
                lag[LAGS + k, f] += present[t, f] * rate * (z[t, f] - lag[LAGS + k, f])
        for f in range(features):
            count[f] += present[t, f]
            run[f] = (run[f] + 1.0) * present[t, f]
            away[f] = (away[f] + 1.0) * (1.0 - present[t, f])


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
    """Take the rows of `z` in order, changing `state` and `clock` (rows taken; the squared prediction error).

    `family[rows, channels]` gets each channel's largest normalised statistic, bent to the family's tail; `feature[
    channels, features]` the normalised statistics after the last row, before bending. With `moments[MOMENTS, features]`
    sums of scores and squares over rows of positive weight are added up; with `maxima[channels, blocks, features]` the
    largest raw statistic of every block of rows with weight.
    """
    kept = np.empty((0, 2, 0))
    _walk(z, present, weight, table, numbers, state, clock, family, feature, moments, maxima, block, kept)


@njit(cache=True, nogil=True, error_model="numpy")
def walk_keeping(
    z: Floats,
    present: Floats,
    weight: Floats,
    table: Floats,
    numbers: Floats,
    state: Floats,
    clock: Floats,
    family: Floats,
    moments: Floats,
    kept: Floats,
) -> None:
    """`walk` for the sums of a fit; every `ceil(rows / len(kept))`-th row of whitened scores and whether they count
    into `kept[.., 2, features]`."""
    nothing = np.empty((0, 0))
    _walk(z, present, weight, table, numbers, state, clock, family, nothing, moments, np.empty((0, 0, 0)), 1, kept)


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(
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
    kept: Floats,
) -> None:
    rows, features = z.shape
    if maxima.shape[0] == 0 and family.shape[1] != FAMILY:
        raise ValueError("family needs FAMILY columns")
    stride = (rows + len(kept) - 1) // len(kept) if len(kept) > 0 else 0
    couple = table[T_COUPLE]
    loads = table[T_LOAD : T_LOAD + LOADS]
    back = table[T_BACK : T_BACK + LOADS].reshape((features, LOADS))
    coupled = 0.0
    for f in range(features):
        coupled += 1.0 if couple[f] > 0.0 else 0.0
    components = np.empty(LOADS)
    rest = np.zeros(features)
    filled = np.empty(features)
    judged = np.empty(features)
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
    moves = np.empty(features)
    value = np.empty(features)
    own = np.empty(features)
    clean = np.empty(features)
    firm = np.empty(features)
    scratch = np.empty((PAST + 2 + HAR, features))
    far = state[S_FAR : S_FAR + FARS]
    by_row = table[T_BY_ROW]
    for t in range(rows):
        now = clock[C_NOW]
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
            clean[f] = go[f]
            firm[f] = go[f]
            own[f] = 1.0
            moves[f] = by_row[f] if gap[f] <= longest and count[f] > 0.0 else 0.0
            moves[f] = 1.0 if here[f] > 0.0 else moves[f]
        for k in range(LAGS):
            phi = table[T_PHI + k]
            lag = state[S_LAG + k]
            for f in range(features):
                e[f] -= phi[f] * lag[f]
        for k in range(HAR):
            phi = table[T_PHI + LAGS + k]
            mean = state[S_HAR + k]
            for f in range(features):
                e[f] -= phi[f] * mean[f]
        absent = 0
        for f in range(features):
            absent += int(here[f] == 0.0) & int(moves[f] > 0.0)
            value[f] = zt[f] if here[f] > 0.0 else min(max(-e[f], -Z_MAX), Z_MAX)
        if clock[C_OPEN] > 0.0 or absent > 0:
            past = state[S_LAG : S_LAG + PAST]
            clock[C_OPEN] = _gaps(past, far, table, numbers, here, moves, share, e, scratch, own)
            for f in range(features):
                e[f] *= math.sqrt(own[f])
                firm[f] *= own[f]  # of the spread over a gap no fitted law is sure: it is weaker evidence on scale
        if clock[C_LOST] > 0.0 or absent > 0:
            lost = state[S_LOST]
            most = 0.0
            for f in range(features):
                stale = 1.0 - own[f]
                bad = (
                    stale > STALE_MAX
                    or max(stale / STALE_COUPLE_MAX, lost[f] * lost[f] / LOST_COUPLE_MAX) * couple[f] > 1.0
                )
                clean[f] = 0.0 if bad else go[f]
                a = lost[f] + (1.0 - numbers[N_DEVOL]) * (moves[f] * (1.0 - here[f]) - lost[f])
                lost[f] = a if a > STALE_LEAST else 0.0
                most = max(most, lost[f])
            clock[C_LOST] = 1.0 if most > 0.0 else 0.0
        for k in range(HAR):
            mean = state[S_HAR + k]
            rate = numbers[N_HAR + k]
            for f in range(features):
                a = rate if rate > share[f] else share[f]
                mean[f] += moves[f] * a * (value[f] - mean[f])
        for k in range(LAGS - 1, 0, -1):
            lag = state[S_LAG + k]
            newer = state[S_LAG + k - 1]
            for f in range(features):
                lag[f] = newer[f] if moves[f] > 0.0 else lag[f]
        lag = state[S_LAG]
        sigma = table[T_SIGMA]
        middle = table[T_U_MEAN]
        scale = table[T_U_SCALE]
        per_square = table[T_SQUARE]
        devol = numbers[N_DEVOL]
        square = numbers[N_SQUARE]
        clip = numbers[N_CLIP]
        for f in range(features):
            lag[f] = value[f] if moves[f] > 0.0 else lag[f]
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
        if stride > 0 and t % stride == 0:
            for f in range(features):
                kept[t // stride, 0, f] = u[f]
                kept[t // stride, 1, f] = clean[f] * weight[t]
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
            i = S_DRIFT + 2 * k
            j = S_DRIFT_START + 2 * k
            _two_sided(state[i], state[i + 1], state[j], state[j + 1], table[T_CAP + channel], u, go, d, h, now, stat)
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
            r = numbers[N_SCALE + k]
            _one_sided(state[S_SCALE + k], state[S_SCALE_START + k], table[T_CAP + channel], q, firm, r, now, stat)
            _channel(channel, t, weight[t], stat, ready, table, family, feature, maxima, block, measuring, remembering)
            channel += 1
        rate = numbers[N_POLYNOMIAL]
        third = state[S_SHAPE]
        fourth = state[S_SHAPE + 1]
        start = state[S_SHAPE_START]
        third_mean = table[T_SHAPE_MEAN]
        third_scale = table[T_SHAPE_SCALE]
        fourth_mean = table[T_SHAPE_MEAN + 1]
        fourth_scale = table[T_SHAPE_SCALE + 1]
        for f in range(features):
            a = rate if rate > share[f] else share[f]
            c = zt[f] if zt[f] < clip else clip
            c = c if c > -clip else -clip
            s = c * c
            third[f] += here[f] * a * (c * (s - 3.0) - third[f])
            fourth[f] += here[f] * a * ((s - 6.0) * s + 3.0 - fourth[f])
            v = (third[f] - third_mean[f]) * third_scale[f]
            w = (fourth[f] - fourth_mean[f]) * fourth_scale[f]
            a = v * v
            b = w * w
            a = 0.5 * (a if a > b else b)
            start[f] = start[f] if a > 0.5 else now + 1.0
            stat[f] = a
        if summing and weight[t] > 0.0:
            for f in range(features):
                moments[4 + 2 * LEVELS, f] += go[f] * third[f]
                moments[5 + 2 * LEVELS, f] += go[f] * third[f] * third[f]
                moments[6 + 2 * LEVELS, f] += go[f] * fourth[f]
                moments[7 + 2 * LEVELS, f] += go[f] * fourth[f] * fourth[f]
        _channel(channel, t, weight[t], stat, ready, table, family, feature, maxima, block, measuring, remembering)
        channel += 1
        total = state[S_COUPLE]
        mean = state[S_ERROR]
        error = 0.0
        there = 0.0
        for f in range(features):
            there += clean[f] if couple[f] > 0.0 else 0.0
        # What was collected over a gap moves less with the others than one row does: it counts as missing here. With
        # too much missing the components are guesses: no new evidence then, and the old one fades.
        enough = there > 0.0 and there >= numbers[N_ERROR_LEAST] * coupled
        if enough:
            unexplained(u, clean, couple, loads, back, components, filled, rest)
            rate = numbers[N_ERROR]
            for f in range(features):
                s = rest[f] * rest[f] * couple[f]
                s = s if s < square else square
                rest[f] = s
                mean[f] += clean[f] * rate * (s - mean[f])
                judged[f] = go[f] if couple[f] > 0.0 else 0.0  # what is there but cannot be judged fades
            for f in range(features):
                error += clean[f] * rest[f]
        else:
            for f in range(features):
                rest[f] = 0.0
                judged[f] = 1.0
        r = numbers[N_COUPLE]
        _one_sided(total, state[S_COUPLE_START], table[T_CAP + channel], rest, judged, r, now, stat)
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
                    family[t, channel] = (v - numbers[N_SUM_LOC + i]) * numbers[N_SUM_INVERSE + i]
                channel += 1
        if enough:
            v = math.log(error / there + 1e-3) - numbers[N_ERROR_MEAN]
            before = clock[C_ERROR]
            clock[C_ERROR] += numbers[N_ERROR] * (v - clock[C_ERROR])
            if before * clock[C_ERROR] <= 0.0:
                clock[C_ERROR_START] = now + 1.0
            products = _products(components, numbers, clock)
        else:
            clock[C_ERROR] *= 1.0 - numbers[N_ERROR]
            for i in range(PAIRS):
                clock[C_PAIR + i] *= 1.0 - numbers[N_PAIR]
            products = _products(components, numbers[:0], clock)
        for j in range(2):
            v = clock[C_ERROR] * clock[C_ERROR] if j == 0 else products
            i = 2 * DENSE + j
            if measuring:
                if weight[t] > 0.0:
                    o = maxima[channel, t // block]
                    o[0] = o[0] if o[0] > v else v
            else:
                family[t, channel] = (v - numbers[N_SUM_LOC + i]) * numbers[N_SUM_INVERSE + i]
            channel += 1
        if not measuring:
            for c in range(FAMILY):
                xi = numbers[N_SHAPE + c]
                v = family[t, c]
                if xi > 0.0 and v > 0.0:
                    family[t, c] = math.log(1.0 + xi * v) / xi
        clock[C_NOW] = now + 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _products(components: Floats, numbers: Floats, clock: Floats) -> float:
    """Update the running means of the products of two components (not where `numbers` is empty) and return the sum of
    their squares."""
    i = C_PAIR
    found = 0.0
    pairs = 0.0
    for k in range(LOADS):
        for j in range(k):
            if len(numbers) > 0:
                a = components[k] * numbers[N_SPREAD + k]
                b = components[j] * numbers[N_SPREAD + j]
                clip = numbers[N_CLIP]
                a = min(max(a, -clip), clip)
                b = min(max(b, -clip), clip)
                clock[i] += numbers[N_PAIR] * (a * b - clock[i])
                pairs += 1.0 if numbers[N_SPREAD + k] * numbers[N_SPREAD + j] > 0.0 else 0.0
            found += clock[i] * clock[i]
            i += 1
    if len(numbers) > 0 and found <= 2.0 * pairs * numbers[N_PAIR] / (2.0 - numbers[N_PAIR]):
        clock[C_PAIR_START] = clock[C_NOW] + 1.0
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_on(p: Floats, g: Floats, h: Floats, total: Floats, rate: Floats, other: Floats, moves: Floats) -> None:
    """Covariance of two running means, one row on."""
    for f in range(len(p)):
        a, b = rate[f], other[f]
        v = (1.0 - a) * ((1.0 - b) * p[f] + b * g[f]) + a * ((1.0 - b) * h[f] + b * total[f])
        p[f] = v if moves[f] > 0.0 else p[f]


@njit(cache=True, nogil=True, error_model="numpy")
def _lag_on(p: Floats, before: Floats, newer: Floats, rate: Floats, moves: Floats) -> None:
    """Covariance of a running mean and a lag, one row on."""
    for f in range(len(p)):
        v = (1.0 - rate[f]) * before[f] + rate[f] * newer[f]
        p[f] = v if moves[f] > 0.0 else p[f]


@njit(cache=True, nogil=True, error_model="numpy")
def _gaps(
    past: Floats,
    far: Floats,
    table: Floats,
    numbers: Floats,
    here: Floats,
    moves: Floats,
    share: Floats,
    e: Floats,
    scratch: Floats,
    own: Floats,
) -> float:
    """One row of the Kalman filter of each feature's own law (Jones 1980): what was missing is remembered as it is
    expected to be, `far` is the covariance of what that leaves open.

    Into `own` goes the variance of an innovation without a gap over that of this one (1 where the past is known), so
    `e` times its root has the usual variance however long the gap was. A value that is there corrects what is
    remembered (`past`) of the rows before it. Returns 1 where anything is left open.
    """
    features = len(e)
    gain = scratch[:PAST]
    total = scratch[PAST]
    inverse = scratch[PAST + 1]
    rates = scratch[PAST + 2 :]
    sigma = table[T_SIGMA]
    for k in range(HAR):
        rate = numbers[N_HAR + k]
        for f in range(features):
            rates[k, f] = rate if rate > share[f] else share[f]
    for f in range(features):
        total[f] = 0.0
    for i in range(PAST):
        g = gain[i]
        for f in range(features):
            g[f] = 0.0
        for j in range(PAST):
            phi = table[T_PHI + j]
            p = far[i * (i + 1) // 2 + j if j <= i else j * (j + 1) // 2 + i]
            for f in range(features):
                g[f] += p[f] * phi[f]
        phi = table[T_PHI + i]
        for f in range(features):
            total[f] += phi[f] * g[f]
    # A score lies within Z_MAX, so nothing more can be open: a fitted law may be one that runs away over a long gap.
    wide = 0
    for f in range(features):
        wide += int(total[f] > Z_MAX * Z_MAX)
    if wide > 0:
        for f in range(features):
            inverse[f] = Z_MAX * Z_MAX / total[f] if total[f] > Z_MAX * Z_MAX else 1.0
            total[f] *= inverse[f]
        for i in range(FARS):
            for f in range(features):
                far[i, f] *= inverse[f]
        for i in range(PAST):
            for f in range(features):
                gain[i, f] *= inverse[f]
    for f in range(features):
        usual = 1.0 / (sigma[f] * sigma[f])
        v = total[f] if total[f] > 0.0 else 0.0  # not under 0 by rounding
        total[f] = v + usual
        own[f] = usual / total[f]
        inverse[f] = here[f] / total[f]
        total[f] *= 1.0 - here[f]
    # A value that is there: correct the past by it, and nothing is open about the value itself.
    for i in range(PAST):
        for j in range(i + 1):
            p = far[i * (i + 1) // 2 + j]
            a = gain[i]
            b = gain[j]
            for f in range(features):
                p[f] -= inverse[f] * a[f] * b[f]
    for i in range(PAST):
        x = past[i]
        g = gain[i]
        for f in range(features):
            x[f] += inverse[f] * g[f] * e[f]
            g[f] *= 1.0 - here[f]
    # One row on. The running means first: they need the lags as they were.
    for k in range(HAR - 1, -1, -1):
        i = LAGS + k
        for m in range(k, -1, -1):
            _mean_on(far[i * (i + 1) // 2 + LAGS + m], gain[i], gain[LAGS + m], total, rates[k], rates[m], moves)
        for j in range(LAGS - 1, -1, -1):
            before = far[i * (i + 1) // 2 + j - 1] if j > 0 else gain[i]
            _lag_on(far[i * (i + 1) // 2 + j], before, gain[j - 1] if j > 0 else total, rates[k], moves)
    for i in range(LAGS - 1, -1, -1):
        for j in range(i, -1, -1):
            p = far[i * (i + 1) // 2 + j]
            before = far[(i - 1) * i // 2 + j - 1] if j > 0 else gain[i - 1] if i > 0 else total
            for f in range(features):
                p[f] = before[f] if moves[f] > 0.0 else p[f]
    # With all lags known, what is open about the running means is let go when it hardly matters.
    known = gain[0]
    for f in range(features):
        known[f] = 0.0
    for i in range(LAGS):
        p = far[i * (i + 3) // 2]
        for f in range(features):
            known[f] += p[f]
    left = 0.0
    for f in range(features):
        known[f] = 1.0 if known[f] > 0.0 or own[f] < 1.0 - STALE_LEAST else 0.0
        left += known[f]
    for i in range(LAGS, PAST):
        for j in range(i + 1):
            p = far[i * (i + 1) // 2 + j]
            for f in range(features):
                p[f] = p[f] if known[f] > 0.0 else 0.0
    return 1.0 if left > 0.0 else 0.0


# The loops of the CUSUMs stand in functions of their own: inside `_walk` the compiler does not turn them into vector
# instructions, and they take ten times as long.


@njit(cache=True, nogil=True, error_model="numpy")
def _two_sided(
    up: Floats,
    down: Floats,
    up_start: Floats,
    down_start: Floats,
    cap: Floats,
    u: Floats,
    go: Floats,
    d: float,
    h: float,
    now: float,
    stat: Floats,
) -> None:
    for f in range(len(u)):
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


@njit(cache=True, nogil=True, error_model="numpy")
def _one_sided(
    total: Floats, start: Floats, cap: Floats, square: Floats, go: Floats, ratio: float, now: float, stat: Floats
) -> None:
    c0 = math.log(ratio)
    c1 = 0.5 * (1.0 - 1.0 / (ratio * ratio))
    for f in range(len(square)):
        a = total[f] + go[f] * (c1 * square[f] - c0)
        a = a if a > 0.0 else 0.0
        a = a if a < cap[f] else cap[f]
        total[f] = a
        start[f] = start[f] if a > 0.0 else now + 1.0
        stat[f] = a


@njit(cache=True, nogil=True, error_model="numpy")
def unexplained(
    u: Floats, go: Floats, couple: Floats, loads: Floats, back: Floats, components: Floats, filled: Floats, out: Floats
) -> float:
    """What is left of a row `u` after its projection on the components into `out`; return how many coupled features
    have a score.

    A missing score is filled with its own prediction, again and again, which converges to least squares over what is
    there: with less to fit, what is left gets smaller, so a gap does not look like a change.
    """
    features = len(u)
    gaps, there = 0, 0.0
    for f in range(features):
        filled[f] = go[f] * u[f]
        gaps += int(couple[f] > 0.0) & int(go[f] == 0.0)
        there += go[f] if couple[f] > 0.0 else 0.0
    if there == 0.0:
        return there
    for _ in range(FILLS if gaps > 0 else 1):
        for k in range(LOADS):
            components[k] = 0.0
        for f in range(features):
            a = filled[f]
            b = back[f]
            for k in range(LOADS):
                components[k] += a * b[k]
        for f in range(features):
            out[f] = 0.0
        for k in range(LOADS):
            c = components[k]
            row = loads[k]
            for f in range(features):
                out[f] += c * row[f]
        if gaps > 0:
            for f in range(features):
                filled[f] = u[f] if go[f] > 0.0 else out[f]
    for f in range(features):
        out[f] = go[f] * (u[f] - out[f])
    return there


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _largest(values: Floats) -> float:
    """The largest is the same in any order, so here the compiler may choose one: there is no NaN to lose."""
    found = -np.inf
    for f in range(len(values)):
        v = values[f]
        found = v if v > found else found
    return found


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
    family[t, channel] = _largest(stat)


def fresh_state(features: int) -> tuple[Any, Any]:
    """Return the state of a detector that has seen nothing, and its clock."""
    state = np.zeros((STATES, features))
    state[S_VARIANCE] = 1.0
    return state, np.zeros(CLOCKS)
