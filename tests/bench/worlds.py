"""Simulated markets and their indicators, for `bench_detection.py`: what is true is known, and as much as one likes.

    mild      GARCH(1,1) .04/.94, Student t8
    harsh     GARCH(1,1) .05/.94, Student t5: volatility clusters that last for days
    seasonal  mild, with a daily season of volatility and of volume
    jumps     stochastic volatility (log-AR) with jumps, no GARCH: a world on which nothing was developed or tuned

Each world gives 130 indicators of ten kinds and thirteen windows, all of one price and one volume, or `iid`: as many
independent normal values. Rows are candles of five minutes. A `Change` happens to the market itself, a `Planted` one to
chosen indicators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import t as student

Floats = NDArray[np.float64]

WINDOWS = (3, 5, 8, 12, 18, 26, 36, 50, 72, 100, 144, 200, 288)
KINDS = ("roc", "rsi", "logvol", "volratio", "macd", "zprice", "range", "volume", "flow", "echo")
NAMES = tuple(f"{kind}_{window}" for kind in KINDS for window in WINDOWS)
WORLDS = ("mild", "harsh", "seasonal", "jumps", "iid")
BURN_IN = 3_000
DAY = 288


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happens from row `at` on. `rows_to_full` makes it gradual (0: at once)."""

    at: int
    volatility: float = 1.0
    momentum: float = 0.0
    rows_to_full: int = 0


def returns(kind: str, rng: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Return returns and their true standard deviation."""
    if kind == "jumps":
        log_volatility = lfilter([0.11], [1, -0.985], rng.standard_normal(rows))
        deviation = np.exp(0.5 * np.asarray(log_volatility))
        jump = (rng.random(rows) < 0.004) * rng.standard_normal(rows) * 5.0
        return deviation * (rng.standard_normal(rows) + jump), deviation
    alpha, beta, freedom = (0.05, 0.94, 5.0) if kind == "harsh" else (0.04, 0.94, 8.0)
    shocks = (rng.standard_t(freedom, rows) * math.sqrt((freedom - 2) / freedom)).tolist()
    variance, found, deviations = 1.0, [], []
    for shock in shocks:
        deviations.append(math.sqrt(variance))
        found.append(deviations[-1] * shock)
        variance = (1 - alpha - beta) + variance * (alpha * shock * shock + beta)
    deviation = np.array(deviations)
    made = np.array(found)
    if kind == "seasonal":
        wave = np.exp(0.4 * np.sin(2 * np.pi * np.arange(rows) / DAY))
        return made * wave, deviation * wave
    return made, deviation


def market(kind: str, seed: int, rows: int, change: Change | None = None) -> Floats:
    """Return `float64[rows, features]` of indicators, columns as in `NAMES`."""
    rng = np.random.default_rng(seed)
    if kind == "iid":
        return rng.standard_normal((rows, len(NAMES)))
    total = rows + BURN_IN
    # Whole days of burn-in, so that the season begins at midnight.
    total += -BURN_IN % DAY
    r, deviation = returns(kind, rng, total)
    if change is not None:
        start = total - rows + change.at
        ramp = np.clip((np.arange(total) - start + 1) / max(change.rows_to_full, 1), 0, 1)
        r = r * (1 + (change.volatility - 1) * ramp)
        if change.momentum:
            for t in range(start, total):
                r[t] += change.momentum * ramp[t] * r[t - 1]
    volume = 0.5 * np.asarray(lfilter([math.sqrt(1 - 0.81)], [1, -0.9], rng.standard_normal(total)))
    volume = volume + 0.3 * np.log(deviation)
    bars = np.abs(r) + 0.8 * deviation * np.abs(rng.standard_normal(total))
    return indicators(r, bars, volume)[total - rows :]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What happens to `count` indicators, chosen at random, from row `at` on.

    mean        `size` standard deviations are added
    scale       distances from the mean grow by the factor `size`
    skewed      the values keep their order, mean and variance; their law becomes an exponential one
    heavy       the same with Student's t of 3 degrees of freedom
    dependence  the indicator becomes the same indicator of another market: same law, same memory, but it no longer
                moves with the others
    """

    at: int
    kind: str
    count: int
    size: float = 1.0
    rows_to_full: int = 0


def planted(x: Floats, change: Planted, *, world: str, seed: int, reference: Floats) -> Floats:
    """Return the rows with the change in them. The law of each indicator is taken from `reference`."""
    rng = np.random.default_rng(seed)
    found = x.copy()
    rows = len(x) - change.at
    ramp = np.clip((np.arange(rows) + 1) / max(change.rows_to_full, 1), 0, 1)
    for i, f in enumerate(rng.permutation(x.shape[1])[: change.count].tolist()):
        mean, deviation = float(reference[:, f].mean()), float(reference[:, f].std())
        z = (x[change.at :, f] - mean) / deviation
        if change.kind == "mean":
            z = z + change.size * ramp
        elif change.kind == "scale":
            z = z * (1 + (change.size - 1) * ramp)
        elif change.kind in {"skewed", "heavy"}:
            in_order = np.sort(reference[:, f])
            usual = (in_order - mean) / deviation
            # Blended by degrees, and brought back to variance 1: two laws in one order are correlated by less than 1.
            together = float(np.mean(usual * _other_law(change.kind, in_order, in_order)))
            other = _other_law(change.kind, x[change.at :, f], in_order)
            z = ((1 - ramp) * z + ramp * other) / np.sqrt((1 - ramp) ** 2 + ramp**2 + 2 * ramp * (1 - ramp) * together)
        elif change.kind == "dependence":
            other = market(world, seed + 500_000 + i, len(x))[change.at :, f]
            z = np.sqrt(1 - ramp**2) * z + ramp * (other - mean) / deviation
        else:
            raise ValueError(f"no such change: {change.kind!r}")
        found[change.at :, f] = mean + deviation * z
    return found


def _other_law(kind: str, values: Floats, in_order: Floats) -> Floats:
    """Standardised values of the other law, at the ranks that `values` have in a sorted sample."""
    rank = 0.5 * (np.searchsorted(in_order, values) + np.searchsorted(in_order, values, "right"))
    share = np.clip((rank + 0.5) / (len(in_order) + 1), 0.5 / len(in_order), 1 - 0.5 / len(in_order))
    if kind == "skewed":
        return np.asarray(-np.log1p(-share) - 1.0)
    return np.asarray(student.ppf(share, 3) / math.sqrt(3.0))


def garch_absolute(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Absolute returns of as many independent GARCH(1,1) .04/.94 streams, Student t8."""
    burn_in = 500
    shocks = rng.standard_t(8, (rows + burn_in, columns)) * math.sqrt(6 / 8)
    variance = np.ones(columns)
    for t, shock in enumerate(shocks):
        shock *= np.sqrt(variance)
        variance = 0.02 + 0.94 * variance + 0.04 * shock**2
        shocks[t] = shock
    return np.abs(shocks[burn_in:])


def _smooth(x: Floats, window: float) -> Floats:
    rate = 2.0 / (window + 1.0)
    return np.asarray(lfilter([rate], [1, rate - 1], x), dtype=np.float64)


def _rolling(x: Floats, window: int) -> Floats:
    total = np.concatenate((np.zeros(1), np.cumsum(x)))
    start = np.maximum(np.arange(len(x)) + 1 - window, 0)
    found: Floats = total[1:] - total[start]
    return found


def indicators(r: Floats, bars: Floats, volume: Floats) -> Floats:
    """The indicators a bot would compute of returns, bar ranges and log volume; in order of `NAMES`."""
    price = np.cumsum(r)
    echo = r * np.concatenate((r[:1], r[:-1]))
    weight = np.exp(volume)
    columns: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    for w in WINDOWS:
        fast, slow = _smooth(r * r, w) + 1e-9, _smooth(r * r, 4 * w) + 1e-9
        up, down = _smooth(np.maximum(r, 0), 2 * w), _smooth(np.maximum(-r, 0), 2 * w)
        mean = _rolling(price, w) / w
        columns["roc"].append(_rolling(r, w) / math.sqrt(w))
        columns["rsi"].append(up / (up + down + 1e-9))
        columns["logvol"].append(0.5 * np.log(fast))
        columns["volratio"].append(0.5 * np.log(fast / slow))
        columns["macd"].append((_smooth(price, w) - _smooth(price, 2 * w)) / math.sqrt(w))
        columns["zprice"].append((price - mean) / np.sqrt(fast * w))
        columns["range"].append(np.log(_smooth(bars, 2 * w) + 1e-9))
        columns["volume"].append(volume - _smooth(volume, w))
        columns["flow"].append(_smooth(weight * np.sign(r), w) / (_smooth(weight, w) + 1e-9))
        columns["echo"].append(_smooth(echo, w) / fast)
    return np.stack([column for kind in KINDS for column in columns[kind]], axis=1)
