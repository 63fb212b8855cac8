"""How much history a feature needs, and whether it looks ahead: found by asking the function that makes the features.

    lookback(compute, rows)  -> per feature, the shortest look-back after which it says what full history says
    lookahead(compute, rows) -> features whose past values change when later candles are taken away

Nothing is read from names or code: the function is called on windows of the candles, and its answers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Computed(NamedTuple):
    """Features of consecutive candles: `values` is `float64[candles, features]`, NaN where there is none."""

    names: tuple[str, ...]
    values: Floats


Compute = Callable[[int, int], Computed]
"""(start, end) -> the features of candles start..end-1, made from those candles alone. The last row must be there."""

STEP = 1.25
"""Ratio of one look-back tried to the next; between the last that fails and the first that does, it is halved on."""
EXACT_SHARE = 0.02
"""A look-back is found to this share of itself (or to the candle, under 50)."""
SETTLES = 0.5
"""What is left, late in a window that begins half-way, of the difference from full history: below this share of what it
was early on, it wears off; above, it stays for good."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """How much history one feature needs.

    `kind`: `window`, from `candles` on it says what full history says; `long`, more than was tried, but the difference
    wears off; `start`, it depends on where history begins and always will (cumulative sums, scaling over all that
    came). `candles` is None but for `window`. `away` is the largest difference at the longest look-back tried, in
    standard deviations of the feature.
    """

    name: str
    kind: Literal["window", "long", "start"]
    candles: int | None
    away: float


class Peek(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that looks ahead: by how much (standard deviations) what it said changes when later candles are taken
    away, and how many of the candles before the cut change (None: nearly all of them)."""

    name: str
    away: float
    candles: int | None


def lookback(
    compute: Compute,
    rows: int,
    *,
    tolerance: float = 1e-3,
    probes: int = 3,
    progress: Callable[[float], None] | None = None,
) -> list[Memory]:
    """Return how much history each feature needs, in the order of their names as `compute` gives them.

    A feature agrees at a look-back when, at every probe (a candle of the last quarter), it lies within `tolerance`
    standard deviations of what full history says, there and at every longer look-back. A rolling window of n candles
    needs n (n + 1 where it looks at changes); an exponential average of span n about 2.5 to 5 n at the default
    tolerance, by what the market did before.

    It misleads where the history is not much longer than what the features need: "full" is then not full. At least four
    times the longest window is a good length.

    Parameters
    ----------
    compute
        Called a few hundred times, with windows of two candles up to half of the history. What it raises on a window
        counts as no agreement; on full history it is raised.
    rows
        Candles there are; at least 16.
    tolerance
        In standard deviations of the feature over the later half of the history.
    """
    if rows < 16:
        raise ValueError(f"{rows} candles are too few to find a look-back: give at least four times the longest window")
    whole = compute(0, rows)
    scale = _scale(whole.values)
    if only_last(whole.values):
        # How much it varies is not to be seen in one row.
        turns = np.linspace(rows // 2, rows, 24).astype(int).tolist()
        scale = _scale(np.array([_aligned(compute(0, end), whole.names)[-1] for end in (*turns, *turns)]))
    ends = sorted({rows - round(rows * share / 4) for share in np.linspace(0.0, 1.0, probes)})
    truth = np.array([compute(0, end).values[-1] for end in ends])
    longest = min(ends) // 2
    found: dict[int, Floats] = {}

    def away(size: int) -> Floats:
        if size not in found:
            each = [_last(compute, end - size, end, whole.names) for end in ends]
            found[size] = _difference(np.array(each), truth, scale).max(axis=0)
        return found[size]

    sizes = _grid(longest)
    for done, size in enumerate(sizes):
        away(size)
        if progress is not None:
            progress(0.7 * (done + 1) / len(sizes))
    agrees = np.array([found[size] <= tolerance for size in sizes])
    # From which size on it agrees at all of them.
    first = np.where(agrees[::-1].all(axis=0), 0, len(sizes) - np.argmin(agrees[::-1], axis=0))
    high = np.array([sizes[i] if i < len(sizes) else 0 for i in first])
    low = np.array([sizes[i - 1] if 0 < i < len(sizes) else 1 for i in first])
    _halve(away, low, high, tolerance)
    if progress is not None:
        progress(1.0)
    stays = _stays(compute, rows, whole, scale)
    return [
        Memory(
            name=name, kind="window" if high[f] else "start" if stays[f] else "long",
            candles=int(high[f]) or None, away=float(found[longest][f]),
        )
        for f, name in enumerate(whole.names)
    ]  # fmt: skip


def lookahead(compute: Compute, rows: int, *, tolerance: float = 1e-6, cuts: int = 5) -> list[Peek]:
    """Return the features whose values change when later candles are taken away, the worst first.

    `compute` is called on the first candles up to each of `cuts` places in the later half, and held against what it
    said of the same candles with all of them at hand. A feature that only shifts (`shift(-1)`) changes the last candle
    before a cut; a centred window the last few; scaling over everything changes all.

    A function that gives the last candle alone is handed nothing later, and does not look ahead.

    It misleads where the function draws random numbers, or reads a file that goes on beyond the candles given (that is
    looking ahead, and is not seen).
    """
    whole = compute(0, rows)
    if only_last(whole.values):
        return []
    scale = _scale(whole.values)
    worst = np.zeros(len(whole.names))
    reach = np.zeros(len(whole.names), dtype=np.int64)
    shares = []
    for end in sorted({round(rows * share) for share in np.linspace(0.5, 0.95, cuts)}):
        part = compute(0, end)
        away = _difference(_aligned(part, whole.names), whole.values[:end], scale)
        changed = away > tolerance
        worst = np.maximum(worst, away.max(axis=0))
        reach = np.maximum(reach, np.where(changed.any(axis=0), end - changed.argmax(axis=0), 0))
        shares.append(changed.mean(axis=0))
    everywhere = np.max(shares, axis=0) > 0.5
    peeks = [
        Peek(name=name, away=float(worst[f]), candles=None if everywhere[f] else int(reach[f]))
        for f, name in enumerate(whole.names)
        if worst[f] > tolerance
    ]
    return sorted(peeks, key=lambda peek: -peek.away)


def only_last(values: Floats) -> bool:
    """Whether a function gave the features of the last candle alone; `values` is float64[candles, features]."""
    return not np.isfinite(values[:-1]).any()


def _grid(longest: int) -> list[int]:
    sizes, size = [longest], float(longest)
    while sizes[-1] > 1:
        size = min(size / STEP, sizes[-1] - 1.0)
        sizes.append(max(int(size), 1))
    return sizes[::-1]


def _halve(away: Callable[[int], Floats], low: NDArray[np.int64], high: NDArray[np.int64], tolerance: float) -> None:
    """Close in on the shortest look-back between `low` (fails) and `high` (agrees; 0: none does), in place."""
    while True:
        wide = (high - low > np.maximum(1, EXACT_SHARE * high)) & (high > 0)
        if not wide.any():
            return
        # The widest first: one size serves all the features that are between the same two.
        f = int(np.argmax(np.where(wide, high - low, -1)))
        same = wide & (low == low[f]) & (high == high[f])
        middle = int(low[f] + high[f]) // 2
        agrees = away(middle) <= tolerance
        high[same & agrees] = middle
        low[same & ~agrees] = middle


def _stays(compute: Compute, rows: int, whole: Computed, scale: Floats) -> Bools:
    """Whether the difference from full history, of a window that begins half-way, does not wear off."""
    start, quarter = rows // 2, (rows - rows // 2) // 4
    try:
        if only_last(whole.values):
            early, late = (
                np.mean([_at(compute, start, end, whole.names, scale) for end in ends], axis=0)
                for ends in (
                    np.linspace(start + first * quarter, start + (first + 1) * quarter, 6).astype(int).tolist()
                    for first in (1, 3)
                )
            )
        else:
            away = _difference(_aligned(compute(start, rows), whole.names), whole.values[start:], scale)
            early, late = away[quarter : 2 * quarter].mean(axis=0), away[-quarter:].mean(axis=0)
    except Exception:
        return np.zeros(len(whole.names), dtype=np.bool_)
    stays: Bools = (late > SETTLES * early) & (late > 0)
    return stays


def _at(compute: Compute, start: int, end: int, names: Sequence[str], scale: Floats) -> Floats:
    """Return how far what a window says at its end is from what full history says there."""
    short, full = (_aligned(compute(first, end), names)[-1] for first in (start, 0))
    return _difference(short, full, scale)


def _last(compute: Compute, start: int, end: int, names: Sequence[str]) -> Floats:
    """Return the last row of a window; NaN where the function raises: too short a window is no look-back for it."""
    try:
        last: Floats = _aligned(compute(start, end), names)[-1]
        return last
    except Exception:
        return np.full(len(names), np.inf)


def _aligned(computed: Computed, names: Sequence[str]) -> Floats:
    """Return the columns in the order of `names`; those a short window does not have are NaN."""
    if tuple(computed.names) == tuple(names):
        return computed.values
    place = {name: i for i, name in enumerate(computed.names)}
    return np.column_stack(
        [computed.values[:, place[name]] if name in place else np.full(len(computed.values), np.nan) for name in names]
    )


def _scale(values: Floats) -> Floats:
    """Standard deviation of each feature over the later half; 1 where it does not vary."""
    late = values[len(values) // 2 :]
    finite = np.where(np.isfinite(late), late, np.nan)
    scale = np.ones(values.shape[1])
    for f in range(values.shape[1]):
        column = finite[:, f][~np.isnan(finite[:, f])]
        if column.size > 1 and (spread := float(column.std())) > 0:
            scale[f] = spread
    return scale


def _difference(one: Floats, other: Floats, scale: Floats) -> Floats:
    """Return |one - other| in standard deviations; 0 where neither has a value, infinite where only one has."""
    there, known = np.isfinite(one), np.isfinite(other)
    with np.errstate(invalid="ignore"):
        away = np.abs(one - other) / scale
    return np.where(there & known, away, np.where(there == known, 0.0, np.inf))
