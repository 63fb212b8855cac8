"""How far each feature lies from the training period, in a unit that means the same for each of them.

The window's distance from the sample, divided by the distance that only one in a hundred windows of the training period
itself reaches: 1 is "as far as the training period hardly ever went". It is for looking, a picture for each feature on
its own: one window in a hundred is over 1 while nothing changes, and with 200 features two of them always are. What is
decided is decided by the detectors, at the stated false-alarm rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference
from regime_service.drawing.shown import Drift

Floats = NDArray[np.float64]

COLUMN_ROWS = 18
"""Candles read for one column of the heat map; half of them must be there."""
FEATURES_SHOWN = 24
_PROBES = (np.arange(16) + 0.5) / 16
_WINDOWS_MIN, _WINDOWS_MAX = 20, 400
_USUAL = 0.99


class Law(NamedTuple):
    """What is kept of a reference to measure windows by: a few numbers a feature."""

    names: tuple[str, ...]
    quantiles: Floats
    """`float64[probes, features]`"""
    spread: Floats
    usual: Floats
    """Distance that one window of the training period in a hundred reaches."""


def law_of(reference: Reference, every: int) -> Law | None:
    """Return the law of windows that hold every `every`-th candle; None where the reference is too short for them."""
    values = np.asarray(reference.values, dtype=np.float64)
    length = COLUMN_ROWS * every
    starts = _starts(len(values), length)
    if len(starts) < _WINDOWS_MIN:
        return None
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), _WINDOWS_MAX)).astype(int)]
    live = np.sort(values[:: max(len(values) // 4000, 1)], axis=0)
    quantiles = _probed(live[None])[0]
    with np.errstate(invalid="ignore"):
        spread = (quantiles[-1] - quantiles[0]) / 3.73  # the outer probes of a normal law lie 3.73 deviations apart
    spread = np.where(spread > 0, spread, np.nan)
    windows = values[starts[:, None] + np.arange(0, length, every)[None, :]]
    distances = _distances(windows, quantiles, spread)
    usual = np.full(values.shape[1], np.nan)
    for i in np.flatnonzero(np.isfinite(distances).sum(axis=0) >= _WINDOWS_MIN):
        usual[i] = np.nanquantile(distances[:, i], _USUAL)
    return Law(tuple(reference.names), quantiles, spread, np.where(usual > 0, usual, np.nan))


def longest_every(rows: int, wanted: int) -> int | None:
    """Return the largest `every`, up to `wanted`, that a reference of `rows` rows bears; None where it bears none.

    >>> longest_every(10_000, 18), longest_every(2_016, 18), longest_every(100, 18)
    (18, 10, None)
    """
    return next((e for e in range(wanted, 0, -1) if len(_starts(rows, COLUMN_ROWS * e)) >= _WINDOWS_MIN), None)


def drift(law: Law, opened: Sequence[int], features: Mapping[int, Mapping[str, float | None]], every_ms: int) -> Drift:
    """Return how far each feature was over time, the furthest now first.

    Parameters
    ----------
    opened
        When the candles that are read opened, rising, `every_ms` apart; at least `COLUMN_ROWS`, the newest make the
        last column.
    features
        What was seen, by the time at which the candle opened; a candle may be missing.
    """
    columns = len(opened) // COLUMN_ROWS
    newest = opened[len(opened) - columns * COLUMN_ROWS :]
    rows = np.full((len(newest), len(law.names)), np.nan)
    for i, at_ms in enumerate(newest):
        row = features.get(at_ms)
        if row is not None:
            rows[i] = [np.nan if (value := row.get(name)) is None else value for name in law.names]
    windows = rows.reshape(columns, COLUMN_ROWS, len(law.names))
    values = _distances(windows, law.quantiles, law.spread) / law.usual
    now = np.where(np.isnan(values), -np.inf, values)[-4:].max(axis=0)
    order = [int(i) for i in np.argsort(-now, kind="stable")[:FEATURES_SHOWN] if np.isfinite(now[i])]
    return Drift(
        names=tuple(law.names[i] for i in order), edges_ms=(*newest[::COLUMN_ROWS], newest[-1] + every_ms),
        values=tuple(tuple(float(v) for v in values[:, i]) for i in order), features=len(law.names),
    )  # fmt: skip


def _starts(rows: int, length: int) -> NDArray[np.int64]:
    """Where windows of `length` rows begin, each half over the one before."""
    return np.arange(0, rows - length + 1, max(length // 2, 1), dtype=np.int64)


def _distances(windows: Floats, quantiles: Floats, spread: Floats) -> Floats:
    """Return `float64[windows, features]`: the mean distance of a window's quantiles from the sample's (Wasserstein-1
    on 16 probes), in deviations of the sample; NaN where fewer than half of a window's values are there."""
    known = np.isfinite(windows).sum(axis=1) >= windows.shape[1] / 2
    ordered = np.sort(np.where(np.isfinite(windows), windows, np.nan), axis=1)
    away: Floats = np.abs(_probed(ordered) - quantiles[None]).mean(axis=1) / spread
    return np.where(known, away, np.nan)


def _probed(ordered: Floats) -> Floats:
    """Return `float64[windows, probes, features]` of windows in order, NaN last."""
    count = np.isfinite(ordered).sum(axis=1)
    places = np.minimum((_PROBES[None, :, None] * count[:, None, :]).astype(int), np.maximum(count - 1, 0)[:, None, :])
    return np.take_along_axis(ordered, places, axis=1)


__all__ = ["COLUMN_ROWS", "FEATURES_SHOWN", "Law", "drift", "law_of", "longest_every"]
