"""How far two columns are apart, in the numbers that people ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from regime.parity.table import Floats, Pair, Table, kind, matched
from regime.sizes import binned, psi, wasserstein

LAGS = 12
"""The best lag is looked for among so many candles before and after."""
LAG_ROWS = 5_000
CORRELATION_MIN = 20
"""Fewer pairs have no correlation worth a name."""


@dataclass(frozen=True, slots=True)
class ColumnComparison:
    """One column on the candles that stand in both files. None is "undefined": too few values, or one that never
    changes. `live` and `backtest` name the sides, differences are live - backtest, in the column's own unit."""

    name: str
    kind: str
    candles: int
    """Candles on which both sides have a value."""
    missing_live: int
    """Candles on which only the backtest has one."""
    missing_backtest: int
    mean_difference: float | None
    """Mean |difference|."""
    largest_difference: float | None
    relative_difference: float | None
    """Mean of |difference| / max(|live|, |backtest|, standard deviation of the backtest): at most 2, and a value near
    zero does not blow it up."""
    largest_relative: float | None
    correlation: float | None
    over: int
    """Candles beyond the tolerance, or with a value on one side only."""
    over_share: float
    first_over_ms: int | None
    best_lag: int | None
    """Candles by which the live side has to be taken back to correlate best, among 12 to both sides; 0 unless another
    one is better. Neighbouring candles are alike: a lag beside 0 means something only where it correlates much
    better."""
    lag_correlation: float | None
    """Correlation at the best lag."""
    ks: float | None
    """Kolmogorov-Smirnov distance of the two distributions: 0 the same, 1 apart."""
    psi: float | None
    wasserstein: float | None
    """In standard deviations of the backtest. How PSI and Wasserstein mislead on candles: `regime.sizes.SizesOf`."""
    live_mean: float | None
    backtest_mean: float | None
    live_deviation: float | None
    backtest_deviation: float | None


@dataclass(frozen=True, slots=True)
class ProbabilityComparison:
    """What bot authors ask about probabilities. `within_5_percent` is the share of candles with |difference| <= 0.05,
    `over_0_1` the share with more than 0.1, `direction_agreement` the share on which both sides stand on the same side
    of 0.5."""

    name: str
    candles: int
    mean_difference: float
    largest_difference: float
    over_0_1: float
    within_5_percent: float
    direction_agreement: float
    correlation: float | None


def compare_columns(pair: Pair) -> tuple[ColumnComparison, ...]:
    """Return the figures of every common column, in the order of the live table."""
    lags = _lags(pair)
    return tuple(_column(pair, c, *lags[c]) for c in range(len(pair.names)))


def compare_probabilities(pair: Pair) -> tuple[ProbabilityComparison, ...]:
    """Return the bot authors' figures of every probability that has a value on both sides of some candle."""
    found = []
    for c in pair.places("probability"):
        both = np.isfinite(pair.x[:, c]) & np.isfinite(pair.y[:, c])
        x, y = pair.x[both, c], pair.y[both, c]
        if len(x):
            size = np.abs(x - y)
            found.append(
                ProbabilityComparison(
                    pair.names[c], len(x), float(size.mean()), float(size.max()), float((size > 0.1).mean()),
                    float((size <= 0.05).mean()), float(((x >= 0.5) == (y >= 0.5)).mean()), correlation(x, y),
                )
            )  # fmt: skip
    return tuple(found)


def correlation(x: Floats, y: Floats) -> float | None:
    """Return Pearson's correlation of two columns without NaN; None under 20 pairs or where one never changes."""
    if len(x) < CORRELATION_MIN:
        return None
    a, b = _standard(x), _standard(y)
    return None if a is None or b is None else float(np.clip((a * b).mean(), -1.0, 1.0))


def slowness(pair: Pair, values: Floats) -> float | None:
    """Return the correlation of a series with itself one candle before; None under 20 neighbours."""
    a, b = values[1:], values[:-1]
    ok = pair.follows[1:] & np.isfinite(a) & np.isfinite(b)
    return correlation(a[ok], b[ok])


def _standard(values: Floats) -> Floats | None:
    with np.errstate(over="ignore", invalid="ignore"):
        centred = values - values.mean()
        spread = float(np.sqrt((centred**2).mean()))
    # Sums of equal numbers are off by their last bits: that is no spread.
    if not math.isfinite(spread) or spread <= 1e-12 * float(np.abs(values).max()):
        return None
    found: Floats = centred / spread
    return found


def ks_distance(x: Floats, y: Floats) -> float | None:
    """Return the largest distance between two empirical distribution functions; None where one has no value.

    >>> ks_distance(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    1.0
    """
    if not len(x) or not len(y):
        return None
    x, y = np.sort(x), np.sort(y)
    both = np.concatenate((x, y))
    f = np.searchsorted(x, both, side="right") / len(x)
    g = np.searchsorted(y, both, side="right") / len(y)
    return float(np.abs(f - g).max())


def _column(pair: Pair, c: int, lag: int | None, lag_correlation: float | None) -> ColumnComparison:
    x, y, over = pair.x[:, c], pair.y[:, c], pair.over[:, c]
    known_x, known_y = np.isfinite(x), np.isfinite(y)
    both = known_x & known_y
    a, b = x[both], y[both]
    size = np.abs(a - b)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), pair.spread[c])
    relative = np.divide(size, scale, out=np.zeros_like(size), where=scale > 0)
    law = binned(y)
    standard = (x[known_x] - law.mean) / law.spread if law is not None and known_x.sum() >= CORRELATION_MIN else None
    name = pair.names[c]
    return ColumnComparison(
        name=name, kind=kind(name), candles=int(both.sum()),
        missing_live=int((known_y & ~known_x).sum()), missing_backtest=int((known_x & ~known_y).sum()),
        mean_difference=_mean(size), largest_difference=_largest(size),
        relative_difference=_mean(relative), largest_relative=_largest(relative),
        correlation=correlation(a, b), over=int(over.sum()), over_share=float(over.mean()) if len(over) else 0.0,
        first_over_ms=int(pair.ts_ms[np.argmax(over)]) if over.any() else None,
        best_lag=lag, lag_correlation=lag_correlation, ks=ks_distance(x[known_x], y[known_y]),
        psi=None if law is None or standard is None else psi(law, standard),
        wasserstein=None if law is None or standard is None else wasserstein(law, standard),
        live_mean=_mean(x[known_x]), backtest_mean=_mean(y[known_y]),
        live_deviation=_deviation(x[known_x]), backtest_deviation=_deviation(y[known_y]),
    )  # fmt: skip


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _largest(values: Floats) -> float | None:
    return float(values.max()) if len(values) else None


def _deviation(values: Floats) -> float | None:
    return float(values.std()) if len(values) else None


def _lags(pair: Pair) -> list[tuple[int | None, float | None]]:
    """For each column its best lag and the correlation there."""
    table = np.full((2 * LAGS + 1, len(pair.names)), np.nan)
    x_at = [pair.live.names.index(name) for name in pair.names]
    y_at = [pair.backtest.names.index(name) for name in pair.names]
    for row, lag in enumerate(range(-LAGS, LAGS + 1)):
        i, j = matched(pair.live, pair.backtest, pair.offset_ms + lag * pair.step_ms)
        i, j = i[-LAG_ROWS:], j[-LAG_ROWS:]
        table[row] = correlations(pair.live.values[i][:, x_at], pair.backtest.values[j][:, y_at])
    found: list[tuple[int | None, float | None]] = []
    for column in table.T:
        if np.isnan(column).all():
            found.append((None, None))
            continue
        best = int(np.nanargmax(column))
        # The last bits of a sum must not make a lag.
        if column[LAGS] >= column[best] - 1e-9:
            best = LAGS
        found.append((best - LAGS, float(column[best])))
    return found


def correlations(x: Floats, y: Floats) -> Floats:
    """Return Pearson's correlation of each column of `x` with that of `y`, over rows where both have a value; NaN
    where there are under 20 such rows or one side never changes."""
    known = np.isfinite(x) & np.isfinite(y)
    count = known.sum(axis=0)
    n = np.maximum(count, 1)
    a, b = np.where(known, x, 0.0), np.where(known, y, 0.0)
    with np.errstate(all="ignore"):
        a = np.where(known, a - a.sum(axis=0) / n, 0.0)
        b = np.where(known, b - b.sum(axis=0) / n, 0.0)
        va, vb = (a * a).sum(axis=0), (b * b).sum(axis=0)
        still = (va <= 1e-24 * n * np.abs(np.where(known, x, 0.0)).max(axis=0, initial=0.0) ** 2) | (
            vb <= 1e-24 * n * np.abs(np.where(known, y, 0.0)).max(axis=0, initial=0.0) ** 2
        )
        found: Floats = (a * b).sum(axis=0) / np.sqrt(va * vb)
    found = np.clip(found, -1.0, 1.0)
    found[still | (count < CORRELATION_MIN) | ~np.isfinite(found)] = np.nan
    return found


def compare_distributions(live: Table, backtest: Table) -> tuple[ColumnComparison, ...]:
    """Compare the columns of two tables that have no candle in common: their laws, and nothing candle by candle."""
    found = []
    for name in live.names:
        if name not in backtest.names:
            continue
        x, y = live.column(name), backtest.column(name)
        law = binned(y)
        x, y = x[np.isfinite(x)], y[np.isfinite(y)]
        standard = (x - law.mean) / law.spread if law is not None and len(x) >= CORRELATION_MIN else None
        found.append(
            ColumnComparison(
                name, kind(name), 0, 0, 0, None, None, None, None, None, 0, 0.0, None, None, None, ks_distance(x, y),
                None if law is None or standard is None else psi(law, standard),
                None if law is None or standard is None else wasserstein(law, standard),
                _mean(x), _mean(y), _deviation(x), _deviation(y),
            )
        )  # fmt: skip
    return tuple(found)


def usual_range(values: Floats) -> float | None:
    """Return the distance of a column's tenth hundredth from its ninetieth, which one wild value does not move; None
    under 20 values."""
    finite = values[np.isfinite(values)]
    if len(finite) < CORRELATION_MIN:
        return None
    low, high = np.quantile(finite, [0.1, 0.9])
    return float(high - low)
