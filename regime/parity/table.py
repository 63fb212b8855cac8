"""Rows of one side, and two sides matched candle by candle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

CANDLE = ("open", "high", "low", "close", "volume")
PRICES = CANDLE[:4]
PROBABILITY = "probability_"
"""Columns whose names begin so are the model's answers; the five of a candle are its prices and volume; every other
one is a feature."""

DECIMALS_MAX = 8
DISTINCT_MIN = 0.2
"""A column with fewer distinct values than this share of its rows (flags, counts) agrees with others by chance."""


@dataclass(frozen=True, eq=False)
class Table:
    """What one side says: rows in time order, each candle once.

    `ts_ms` are opening times of candles (UTC ms), strictly rising; `values` is `float64[rows, names]`, NaN where there
    is no value; `log_ms`, where known, are the moments of writing (NaN where a row does not say). Raises `ValueError`
    for shapes that do not fit, times that do not rise, or a name that stands twice.
    """

    ts_ms: Ints
    names: tuple[str, ...]
    values: Floats
    log_ms: Floats | None = None

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.ts_ms), len(self.names)):
            raise ValueError(f"{self.values.shape} values do not fit {len(self.ts_ms)} rows of {len(self.names)} names")
        if self.log_ms is not None and self.log_ms.shape != self.ts_ms.shape:
            raise ValueError("there must be one time of writing for each row")
        if np.any(np.diff(self.ts_ms) <= 0):
            raise ValueError("the times must rise strictly")
        if np.isinf(self.values).any():
            raise ValueError("an infinite value; a value that is missing is NaN")
        if len(set(self.names)) != len(self.names):
            raise ValueError("a column name stands twice")

    def column(self, name: str) -> Floats:
        found: Floats = self.values[:, self.names.index(name)]
        return found


def kind(name: str) -> str:
    """Return `candle`, `probability` or `feature`.

    >>> kind("close"), kind("probability_long"), kind("rsi")
    ('candle', 'probability', 'feature')
    """
    if name in CANDLE:
        return "candle"
    return "probability" if name.startswith(PROBABILITY) else "feature"


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal: |live - backtest| at most the largest of

        relative * the larger of the two      (1e-5: six significant digits are exact to half of that)
        spread * the smaller of the column's standard deviation and its usual step from candle to candle
        half a unit of the coarser side's last decimal, where that is under 1 % of the standard deviation

    The defaults were chosen on simulated markets and on the real feature logs (181 columns, 5-minute candles): two
    printings of one table agree, and the faults of `docs/measurements/parity.md` do not. They know nothing of your
    model: a tree may stand with one foot on a threshold, where 1e-6 is another answer.
    """

    relative: float = 1e-5
    spread: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 <= self.relative < 1 and 0 <= self.spread < 1):
            raise ValueError("tolerances must lie in 0..1")


ROUNDING_SHARE = 0.01


def matched(live: Table, backtest: Table, offset_ms: int = 0) -> tuple[Ints, Ints]:
    """Return the rows of both that are the same candle, when the times of `live` are taken back by `offset_ms`."""
    _, i, j = np.intersect1d(live.ts_ms - offset_ms, backtest.ts_ms, assume_unique=True, return_indices=True)
    return i.astype(np.int64), j.astype(np.int64)


def granularity(values: Floats) -> float:
    """Return half a unit of the last decimal that `values` (of one column) are printed with; 0 beyond 8 decimals.

    >>> granularity(np.array([0.25, 0.5, 0.75]))
    0.005
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0
    sample = finite[:: max(1, len(finite) // 256)]
    for decimals in range(DECIMALS_MAX + 1):
        if np.all(np.abs(np.round(sample, decimals) - sample) <= 1e-14 * np.abs(sample)) and np.all(
            np.abs(np.round(finite, decimals) - finite) <= 1e-14 * np.abs(finite)
        ):
            return float(0.5 * 10.0**-decimals)
    return 0.0


def deviations(values: Floats) -> Floats:
    """Return the standard deviation of each column, 0 where it has fewer than two values."""
    with np.errstate(invalid="ignore", over="ignore"):
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, values, 0.0)
        mean = filled.sum(axis=0) / count
        found: Floats = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count)
    return np.where(np.isfinite(found), found, 0.0)


def usual_steps(values: Floats) -> Floats:
    """Return the root mean square of each column's changes from row to row, 0 where there are none."""
    if len(values) < 2:
        return np.zeros(values.shape[1])
    steps = np.diff(values, axis=0)
    known = np.isfinite(steps)
    with np.errstate(over="ignore"):
        found: Floats = np.sqrt((np.where(known, steps, 0.0) ** 2).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    return np.where(np.isfinite(found), found, 0.0)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two tables on their common candles and columns. `over` marks the cells that differ: beyond the tolerance, or
    with a value on one side only."""

    live: Table
    backtest: Table
    step_ms: int
    offset_ms: int
    names: tuple[str, ...]
    ts_ms: Ints
    """Opening times, as the backtest has them."""
    rows_live: Ints
    rows_backtest: Ints
    x: Floats
    """Values of the live side, `float64[candles, names]`."""
    y: Floats
    """Values of the backtest."""
    tolerance: Floats
    """Per cell, in the column's own unit."""
    over: Mask
    follows: Mask
    """Rows whose candle comes right after that of the row before."""
    spread: Floats = field(repr=False)

    @property
    def rows(self) -> int:
        return len(self.ts_ms)

    @property
    def difference(self) -> Floats:
        found: Floats = self.x - self.y
        return found

    def places(self, *kinds: str) -> list[int]:
        """Return the columns of these kinds."""
        return [c for c, name in enumerate(self.names) if kind(name) in kinds]

    def continuous(self, c: int) -> bool:
        """Whether a column has so many different values that agreement cannot be chance, on both sides."""
        return _distinct(self.x[:, c]) >= DISTINCT_MIN and _distinct(self.y[:, c]) >= DISTINCT_MIN


def _distinct(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return len(np.unique(finite)) / len(finite) if len(finite) >= 5 else 0.0


def pair(live: Table, backtest: Table, step_ms: int, *, tolerance: Tolerance, offset_ms: int = 0) -> Pair:
    """Match two tables and mark what differs."""
    i, j = matched(live, backtest, offset_ms)
    names = tuple(name for name in live.names if name in set(backtest.names))
    x = live.values[i][:, _index(live.names, names)]
    y = backtest.values[j][:, _index(backtest.names, names)]
    spread = np.where(deviations(y) > 0, deviations(y), deviations(x))
    step = np.where(usual_steps(y) > 0, usual_steps(y), usual_steps(x))
    printed = np.array([max(granularity(x[:, c]), granularity(y[:, c])) for c in range(len(names))])
    floor = np.maximum(tolerance.spread * np.minimum(spread, step), np.minimum(printed, ROUNDING_SHARE * spread))
    with np.errstate(invalid="ignore"):
        size = np.fmax(np.abs(x), np.abs(y))
        # A hair more, so that exactly half a unit of the last decimal is still equal.
        tol = np.maximum(tolerance.relative * size, floor) * (1 + 1e-9) + 1e-300
        over = (np.abs(x - y) > tol) | (np.isnan(x) ^ np.isnan(y))
    ts_ms = backtest.ts_ms[j]
    follows = np.concatenate(([False], np.diff(ts_ms) == step_ms)) if len(ts_ms) else np.zeros(0, dtype=bool)
    return Pair(live, backtest, step_ms, offset_ms, names, ts_ms, i, j, x, y, tol, over, follows, spread)


def _index(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    place = {name: i for i, name in enumerate(names)}
    return [place[name] for name in wanted]


def usual_step_ms(*tables: Table) -> int | None:
    """Return the commonest distance between neighbouring rows (ms); None where no table has two rows."""
    steps = np.concatenate([np.diff(table.ts_ms) for table in tables])
    if not len(steps):
        return None
    sizes, counts = np.unique(steps, return_counts=True)
    return int(sizes[np.argmax(counts)])
