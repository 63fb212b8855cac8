"""A seeded market with a planted edge and a known change point, and the indicators a bot would compute from it.

The law, in the order in which a candle is made (`scale` is the usual size of a log return of that candle):

    v      = omega + alpha v' z'^2 + beta v'           GARCH(1,1), mean 1; z is Student t with unit variance
    scale  = volatility * season(hour) * sqrt(v)       times `volatility_factor` after the break
    drift  = EDGE * pressure' + trend                  pressure' is that of the candle before
    return = scale * (z + drift)
    pressure = PHI pressure' + noise - MEMORY * z      a fall builds pressure upwards: reversion

Pressure is hidden; `shown` is what the candles show of it: lower wicks grow and upper wicks shrink where it is high
(price was pushed back from below). While the edge lives, `shown` *is* the pressure, so candles foretell the returns of
about the next 24. After the break the price is moved by another pressure of the *same law*, correlated by `edge_after`
with the shown one. Prices alone and wicks alone are then distributed exactly as before: only what the wicks say about
the future is gone or turned round. That is why no single feature shows a break of the edge alone.

Every random series has a stream of its own, drawn from the front: a longer market begins with the shorter one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BURN_IN = 1_200
"""Candles made and thrown away before the first one that is used: the longest indicator needs about 1,000."""

EDGE = 0.2
"""Drift, in units of `scale`, of a pressure of one standard deviation."""
PHI = 0.94
"""Memory of the pressure from candle to candle: half of it is gone after 11."""
MEMORY = 0.3
"""Share (as a correlation) of a candle's shock in the pressure that follows it."""

_GARCH_ALPHA, _GARCH_BETA, _STUDENT_DF = 0.05, 0.92, 6.0
_SEASON = 0.35
_TREND_PHI, _TREND_SIZE = 0.999, 0.01
_WICK_SHIFT = 0.4
_START_PRICE, _START_VOLUME = 60_000.0, 120.0
_DAY_MS = 86_400_000
_WINDOWS = (6, 12, 24, 48, 96)


@dataclass(frozen=True, kw_only=True)
class Candles:
    """Closed candles, one row each: `int64[n]` open times (ms), `float64[n]` prices and volume."""

    ts_ms: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def cut(self, start: int, stop: int) -> Candles:
        """Return the candles `start <= i < stop`, as copies."""
        return Candles(
            ts_ms=self.ts_ms[start:stop].copy(),
            open=self.open[start:stop].copy(),
            high=self.high[start:stop].copy(),
            low=self.low[start:stop].copy(),
            close=self.close[start:stop].copy(),
            volume=self.volume[start:stop].copy(),
        )


@dataclass(frozen=True, kw_only=True)
class Market:
    """Candles and the truth behind them, `float64[n]` each, as it stands at the close of a candle.

    `shown` is the pressure in the wicks, `pressure` the one that moves the price (both in standard deviations),
    `variance` the GARCH variance of the next candle (mean 1), `trend` its trend (units of `scale`), `level` the
    volatility before season and GARCH (log return of one candle).
    """

    candles: Candles
    shown: Floats
    pressure: Floats
    variance: Floats
    trend: Floats
    level: Floats


def make_market(
    *,
    seed: int,
    candles: int,
    first_ms: int,
    step_ms: int,
    break_at: int | None = None,
    volatility: float = 0.0014,
    volatility_factor: float = 1.0,
    trend_after: float = 0.0,
    edge_after: float = 1.0,
) -> Market:
    """Return a market of `candles` rows whose first candle opens at `first_ms`.

    From row `break_at` on, volatility is multiplied by `volatility_factor`, `trend_after` (in units of `scale` per
    candle) is added, and the price is moved by a pressure whose own noise has the correlation `edge_after` with the
    noise of the shown one (1 keeps the edge). A `break_at` of None or beyond the last row is no break.
    """
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(8)]
    n, unit = candles, math.sqrt((_STUDENT_DF - 2.0) / _STUDENT_DF)
    z = streams[0].standard_t(_STUDENT_DF, n) * unit
    own, other, slow, gap, traded = (stream.standard_normal(n) for stream in streams[1:6])
    wick_low, wick_high = streams[6].standard_gamma(2.5, n), streams[7].standard_gamma(2.5, n)

    ts_ms = first_ms + step_ms * np.arange(n, dtype=np.int64)
    broken = np.arange(n) >= (n if break_at is None else break_at)
    level = volatility * np.where(broken, volatility_factor, 1.0)
    season = seasonality(ts_ms)
    blend = own if edge_after == 1.0 else edge_after * own + math.sqrt(1.0 - edge_after**2) * other
    shown = _autoregression(PHI, math.sqrt(1.0 - PHI**2) * (math.sqrt(1.0 - MEMORY**2) * own - MEMORY * z))
    twin = _autoregression(PHI, math.sqrt(1.0 - PHI**2) * (math.sqrt(1.0 - MEMORY**2) * blend - MEMORY * z))
    pressure = np.where(broken, twin, shown)
    trend = _autoregression(_TREND_PHI, _TREND_SIZE * math.sqrt(1.0 - _TREND_PHI**2) * slow)
    trend = trend + np.where(broken, trend_after, 0.0)

    variance = _garch(z)
    scale = level * season * np.sqrt(variance[:-1])
    log_return = scale * (z + EDGE * _shift(pressure) + trend)
    log_close = math.log(_START_PRICE) + np.cumsum(log_return)
    log_open = _shift(log_close, math.log(_START_PRICE)) + 0.03 * scale * gap
    push = np.exp(_WICK_SHIFT * shown)
    log_low = np.minimum(log_open, log_close) - 0.2 * scale * wick_low * push
    log_high = np.maximum(log_open, log_close) + 0.2 * scale * wick_high / push
    busy = _autoregression(0.9, 0.4 * math.sqrt(1.0 - 0.9**2) * traded)
    volume = _START_VOLUME * np.exp(busy + 0.15 * np.abs(z)) * np.sqrt(scale / volatility)
    table = Candles(
        ts_ms=ts_ms,
        open=_printed(log_open),
        high=_printed(log_high),
        low=_printed(log_low),
        close=_printed(log_close),
        volume=np.round(volume, 3),
    )
    return Market(candles=table, shown=shown, pressure=pressure, variance=variance[1:], trend=trend, level=level)


def seasonality(ts_ms: Ints) -> Floats:
    """Return `float64[n]`: how much larger than usual a return is at that hour of the day (UTC; calm at night)."""
    hour: Floats = (ts_ms % _DAY_MS) / _DAY_MS
    factor: Floats = np.exp(_SEASON * np.sin(2.0 * np.pi * (hour - 0.3)))
    return factor


def true_win_probability(market: Market, *, step_ms: int, horizon: int, fee_ratio: float) -> tuple[Floats, Floats]:
    """Return `float64[n]` twice: the probability that a long (short) opened at the close of each row stands above its
    fees after `horizon` candles, for one who knows the hidden pressure and trend.

    Normal approximation of the sum of returns; it assumes that the regime of the row lasts, so that the last rows
    before a break do not know of it. It is the truth about the *price*: a bot that leaves early wins
    more or less often. Measured on 24 seeds: in each tenth of the rows within 0.012 of the share that came true.
    """
    persistence = _GARCH_ALPHA + _GARCH_BETA
    mean, spread = np.zeros(len(market.level)), np.zeros(len(market.level))
    for ahead in range(1, horizon + 1):
        season = market.level * seasonality(market.candles.ts_ms + ahead * step_ms)
        variance = 1.0 + persistence ** (ahead - 1) * (market.variance - 1.0)
        mean += season * np.sqrt(variance) * (EDGE * PHI ** (ahead - 1) * market.pressure + market.trend)
        # A shock moves the price at once, and through the pressure it builds in the candles that follow.
        later = EDGE * math.sqrt(1.0 - PHI**2) * (1.0 - PHI ** (horizon - ahead)) / (1.0 - PHI)
        spread += season**2 * variance * ((1.0 - MEMORY * later) ** 2 + (1.0 - MEMORY**2) * later**2)
    hurdle = math.log((1.0 + fee_ratio) / (1.0 - fee_ratio))
    deviation = np.sqrt(spread)
    return _normal_cdf((mean - hurdle) / deviation), _normal_cdf((-mean - hurdle) / deviation)


def indicators(candles: Candles) -> tuple[list[str], Floats]:
    """Return the names and `float64[n, 66]`: what a bot computes from its candles.

    Row t uses the candles up to and including t and nothing later. The first rows are NaN (the longest window has 288
    candles) and the exponential means need about 1,000 to forget their start. Four are 0 or 1, two never move.
    """
    log_close = np.log(candles.close / candles.close[0])
    steps = np.diff(log_close, prepend=log_close[:1])
    span = candles.high - candles.low
    lower = np.minimum(candles.open, candles.close) - candles.low
    upper = candles.high - np.maximum(candles.open, candles.close)
    width = span / candles.close
    found: dict[str, Floats] = {"return_1": steps, "range_1": width}
    for w in _WINDOWS:
        gain, loss = _rolling_sum(np.maximum(steps, 0.0), w), _rolling_sum(np.maximum(-steps, 0.0), w)
        highest, lowest = _rolling_max(candles.high, w), -_rolling_max(-candles.low, w)
        spans = _rolling_sum(span, w)
        found[f"momentum_{w}"] = gain - loss
        found[f"volatility_{w}"] = _rolling_std(steps, w)
        found[f"rsi_{w}"] = 100.0 * _divide(gain, gain + loss, 0.5)
        found[f"price_z_{w}"] = _divide(log_close - _rolling_sum(log_close, w) / w, _rolling_std(log_close, w), 0.0)
        found[f"band_position_{w}"] = _divide(candles.close - lowest, highest - lowest, 0.5)
        found[f"volume_ratio_{w}"] = _divide(candles.volume * w, _rolling_sum(candles.volume, w), 1.0)
        found[f"wick_balance_{w}"] = _divide(_rolling_sum(lower - upper, w), spans, 0.0)
        found[f"body_share_{w}"] = _divide(_rolling_sum(span - lower - upper, w), spans, 0.0)
        found[f"range_{w}"] = _rolling_sum(width, w) / w
    found["momentum_288"] = _rolling_sum(steps, 288)
    found["volatility_288"] = _rolling_std(steps, 288)
    found["volatility_ratio_6_48"] = _divide(found["volatility_6"], found["volatility_48"], 1.0)
    found["volatility_ratio_12_96"] = _divide(found["volatility_12"], found["volatility_96"], 1.0)
    log_volume = np.log(candles.volume + 1.0)
    found["volume_z_48"] = _divide(log_volume - _rolling_sum(log_volume, 48) / 48, _rolling_std(log_volume, 48), 0.0)
    found["macd"] = _ema(log_close, 12) - _ema(log_close, 26)
    found["macd_signal"] = _ema(found["macd"], 9)
    found["macd_histogram"] = found["macd"] - found["macd_signal"]
    for w in (50, 200):
        found[f"ema_distance_{w}"] = log_close - _ema(log_close, w)
    found["up_streak"] = _streak(steps > 0.0)
    angle = 2.0 * np.pi * (candles.ts_ms % _DAY_MS) / _DAY_MS
    found["hour_sin"], found["hour_cos"] = np.sin(angle), np.cos(angle)
    found["above_ema_200"] = (found["ema_distance_200"] > 0.0).astype(np.float64)
    found["volume_spike"] = (found["volume_ratio_48"] > 2.0).astype(np.float64)
    found["new_high_96"] = (candles.high >= _rolling_max(candles.high, 96)).astype(np.float64)
    found["weekend"] = ((candles.ts_ms // _DAY_MS + 3) % 7 >= 5).astype(np.float64)
    found["funding_flag"] = np.zeros_like(steps)
    found["contract_size"] = np.ones_like(steps)
    return list(found), np.stack(list(found.values()), axis=1)


# The recursions are loops over Python floats: a microsecond a candle, and a prefix stays the same to the last bit.


def _autoregression(phi: float, noise: Floats) -> Floats:
    values, state = [], 0.0
    for step in noise.tolist():
        state = phi * state + step
        values.append(state)
    return np.array(values)


def _garch(z: Floats) -> Floats:
    """Return `float64[n + 1]`: the variance with which each row is made, and the one of the row after the last."""
    omega, variance = 1.0 - _GARCH_ALPHA - _GARCH_BETA, 1.0
    values = [variance]
    for shock in z.tolist():
        variance = omega + variance * (_GARCH_ALPHA * shock * shock + _GARCH_BETA)
        values.append(variance)
    return np.array(values)


def _ema(values: Floats, span: int) -> Floats:
    weight, state = 2.0 / (span + 1.0), float(values[0])
    means = []
    for value in values.tolist():
        state += weight * (value - state)
        means.append(state)
    return np.array(means)


def _printed(log_price: Floats) -> Floats:
    price: Floats = np.exp(log_price)
    return price.round(2)


def _shift(values: Floats, first: float = 0.0) -> Floats:
    return np.concatenate(([first], values[:-1]))


def _rolling_sum(values: Floats, w: int) -> Floats:
    if len(values) < w:
        return np.full(len(values), np.nan)
    total = np.concatenate(([0.0], np.cumsum(values)))
    return np.concatenate((np.full(w - 1, np.nan), total[w:] - total[:-w]))


def _rolling_std(values: Floats, w: int) -> Floats:
    mean = _rolling_sum(values, w) / w
    spread: Floats = np.sqrt(np.maximum(_rolling_sum(values * values, w) / w - mean * mean, 0.0))
    return spread


def _rolling_max(values: Floats, w: int) -> Floats:
    """By doubling: the maximum over 2k rows is that of two maxima over k, so a window costs log2(w) passes."""
    if len(values) < w:
        return np.full(len(values), np.nan)
    best, length = values, 1
    while length < w:
        step = min(length, w - length)
        best = np.maximum(best[step:], best[:-step])
        length += step
    return np.concatenate((np.full(w - 1, np.nan), best))


def _streak(flags: NDArray[np.bool_]) -> Floats:
    rows = np.arange(len(flags))
    streak: Floats = (rows - np.maximum.accumulate(np.where(flags, -1, rows))).astype(np.float64)
    return streak


def _divide(a: Floats, b: Floats, otherwise: float) -> Floats:
    """`a / b`, and `otherwise` where b is zero; NaN stays NaN."""
    safe = np.where(b == 0.0, 1.0, b)
    quotient: Floats = np.where(b == 0.0, otherwise, a / safe)
    return quotient


def _normal_cdf(x: Floats) -> Floats:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in x.tolist()])
