"""How often the model gives a signal, against how often it did in its training period.

A bot that gave 14 signals a day in the backtest and almost none live has another market, another model or broken
inputs; its win rate will say so late or never. Signals come in bursts, so their counts are overdispersed: a Poisson
limit would ring on every quiet weekend. The count over `HORIZON_DAYS` is held against a negative binomial law whose
mean and variance are those of the reference's own windows of that length (McCullagh & Nelder 1989, chapter 6).

It misleads where the reference's probabilities are in-sample (a model is surer of what it was trained on), and where
the base entry threshold was changed since. Needs `WINDOWS_MIN` windows; a shorter reference gives no law, and silence.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HORIZON_DAYS = 3
WINDOWS_MIN = 8
LOOKS_PER_HORIZON = 6.0
"""A count over a sliding window, looked at after every candle, crosses a rare limit about as often as so many
independent counts per window length would. Chosen on one set of simulated bots (3 gave 0.6 of the asked run length),
then measured on 15 others: asked one false alarm of a side in 8,640 candles of 5 minutes, achieved / asked 0.84, 1.24
and 1.08 with 30, 90 and 360 days of reference (`python tests/bench/bench_signals.py 15 9000`)."""


class SignalLaw(msgspec.Struct, frozen=True, kw_only=True):
    """What is usual over `horizon` candles: `expected` signals, and from `low` to `high` of them."""

    horizon: int
    expected: float
    low: int
    high: int
    windows: float


class SignalView(msgspec.Struct, frozen=True, kw_only=True):
    """The last `law.horizon` candles of one side had `count` signals."""

    count: int
    law: SignalLaw


def signal_law(
    probabilities: Floats, entry: float, *, rows_per_day: float, rows_per_false_alarm: float
) -> SignalLaw | None:
    """Return what is usual in a reference, or None where it is too short to say.

    Parameters
    ----------
    probabilities
        `float64[rows]` in time order, one side; NaN counts as no signal.
    entry
        The bot's base entry threshold.
    rows_per_day
        Candles in a day.
    rows_per_false_alarm
        Candles between two false alarms of this side, low and high together.
    """
    horizon = max(1, round(HORIZON_DAYS * rows_per_day))
    windows = len(probabilities) / horizon
    if windows < WINDOWS_MIN or not np.isfinite(probabilities).any():
        return None
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(probabilities, nan=-1.0) >= entry)])
    hop = max(1, round(rows_per_day / 4))
    counts = (total[horizon:] - total[:-horizon])[::hop]
    expected = float(total[-1] / windows)
    # Overlapping windows have the variance of single ones but for the mean, which was estimated from as few.
    variance = float(np.mean((counts - counts.mean()) ** 2)) * windows / (windows - 1)
    variance = max(variance * (1 + 1 / windows), expected * (1 + 1 / windows), 1e-9)
    tail = horizon / (rows_per_false_alarm * LOOKS_PER_HORIZON * 2)
    low, high = _limits(expected, variance, min(tail, 0.25))
    return SignalLaw(horizon=horizon, expected=expected, low=low, high=high, windows=windows)


def _limits(mean: float, variance: float, tail: float) -> tuple[int, int]:
    """Return the smallest and the largest count that are not rarer than `tail`, each on its side."""
    if mean <= 0:
        return 0, 0
    from scipy.special import betainc  # Here, because it takes 0.4 s to load and a start should not wait for it.

    p = min(mean / max(variance, mean * 1.0001), 1.0)
    size = mean * p / (1 - p)
    counts = np.arange(int(mean + 60 * variance**0.5) + 2)
    below = betainc(size, counts + 1.0, p)  # P(N <= count) of the negative binomial law
    low = int(np.searchsorted(below, tail, side="left"))
    high = int(np.searchsorted(below, 1 - tail, side="left"))
    return low, high


def remember(seen: bytes, signal: bool, horizon: int) -> bytes:
    """Return `seen` (one byte a candle, 1 for a signal) with one candle more, at most `horizon` of them."""
    return (seen + (b"\1" if signal else b"\0"))[-horizon:]
