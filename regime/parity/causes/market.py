"""The candles themselves: one side's were not finished, or came from somewhere else."""

from __future__ import annotations

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import at, candles, some
from regime.parity.statistics import correlation
from regime.parity.table import CANDLE, PRICES, Floats, Mask, Pair

CONTAINED = 0.9
"""Share of the differing candles that must lie inside the other side's, same open and less volume."""
MOVED = 0.5
"""Share of them whose high, low or close must differ: with less volume alone it is another feed."""
NEAR_BPS = 100.0
"""Prices of one market at two places are closer than this, 99 candles of 100."""
SHARE = 0.2
"""So many candles differ where the feed is another one; single ones are corrections."""
VOLUME_LESS = 0.995
FEATURES_MIN = 5
FEATURE_ROWS_MIN = 3
MANY = 0.4
"""Share of the features that must differ on such a row; slow averages of a feed that is near may not."""
MOST = 0.6
"""Share of all differing values that must lie in such rows."""
FORGETS = 0.6
"""A feature of a single candle is correlated less than this with that of the candle before."""
SMALLER = 0.85


def forming(pair: Pair, left: Mask) -> list[Claim]:
    """Find candles of one side that were read before they closed.

    Such a candle opened where the finished one did, lies inside it and has less volume. Without candles in both files
    only the log time (written before the close) or a last row that differs alone can tell.
    """
    found = _inside(pair, left)
    return [found] if found is not None else _last_row(pair, left)


def _inside(pair: Pair, left: Mask) -> Claim | None:
    if any(name not in pair.names for name in CANDLE):
        return None
    place = {name: pair.names.index(name) for name in CANDLE}
    columns = list(place.values())
    rows = np.flatnonzero(left[:, columns].any(axis=1))
    if not len(rows):
        return None
    for side, a, b, table in (("LIVE", pair.x, pair.y, pair.live), ("BACKTEST", pair.y, pair.x, pair.backtest)):
        inside = _contained(pair, a, b, place)[rows]
        last = int(table.ts_ms[-1] - (pair.offset_ms if side == "LIVE" else 0))
        ends = rows[pair.ts_ms[rows] == last]
        if inside.mean() < CONTAINED:
            # The last row of a download, among others that differ for a reason of their own.
            rows_here = ends[_contained(pair, a, b, place)[ends]]
            if not len(rows_here) or len(rows) > SHARE * pair.rows:
                continue
        else:
            rows_here = rows[inside]
        moved = left[np.ix_(rows_here, [place[name] for name in ("high", "low", "close")])].any(axis=1).mean()
        if len(rows_here) > 2 and moved < MOVED:
            continue
        proven = _written_early(pair, side, rows_here)
        # A price that moved, inside the other's range and on less volume, is enough; less volume alone is not.
        if len(rows_here) < 3 and moved < 1 and not len(np.intersect1d(rows_here, ends)) and not proven:
            continue
        cells = np.zeros_like(left)
        cells[rows_here] = left[rows_here]
        o, c, v = place["open"], place["close"], place["volume"]
        r = int(rows_here[-1])
        said = [
            f"{candles(len(rows_here))} of {side}: the same open as the other side's, inside it, and less volume; "
            f"e.g. {at(int(pair.ts_ms[r]))}: open {a[r, o]:.10g} on both, close {a[r, c]:.10g} against "
            f"{b[r, c]:.10g}, volume "
            f"{a[r, v]:.10g} against {b[r, v]:.10g}."
        ]  # fmt: skip
        if len(ends) and len(rows_here) == 1:
            said.append(f"It is the last row of {side}: the candle of the moment of download.")
        if proven:
            said.append(f"{proven:,} of them were written before their candle closed, by the log's own time.")
        return Claim("forming-candle", _names(pair, cells), cells, tuple(said), exact=False)
    return None


def _contained(pair: Pair, a: Floats, b: Floats, place: dict[str, int]) -> Mask:
    tol = pair.tolerance
    o, h, low, c, v = (place[name] for name in CANDLE)
    with np.errstate(invalid="ignore"):
        same_open = np.abs(a[:, o] - b[:, o]) <= tol[:, o]
        within = (a[:, h] <= b[:, h] + tol[:, h]) & (a[:, low] >= b[:, low] - tol[:, low])
        within &= (a[:, c] <= b[:, h] + tol[:, h]) & (a[:, c] >= b[:, low] - tol[:, low])
        found: Mask = same_open & within & (a[:, v] < VOLUME_LESS * b[:, v])
    return found


def _written_early(pair: Pair, side: str, rows: np.ndarray) -> int:
    table, index = (pair.live, pair.rows_live) if side == "LIVE" else (pair.backtest, pair.rows_backtest)
    if table.log_ms is None:
        return 0
    with np.errstate(invalid="ignore"):
        early: int = int((table.log_ms[index[rows]] < table.ts_ms[index[rows]] + pair.step_ms).sum())
    return early


def _last_row(pair: Pair, left: Mask) -> list[Claim]:
    rows = np.flatnonzero(left.any(axis=1))
    if not len(rows):
        return []
    for side in ("LIVE", "BACKTEST"):
        table = pair.live if side == "LIVE" else pair.backtest
        last = int(table.ts_ms[-1] - (pair.offset_ms if side == "LIVE" else 0))
        early = _written_early(pair, side, rows)
        if len(rows) == 1 and pair.rows > 2 and int(pair.ts_ms[rows[0]]) == last:
            said = [f"Only the last row of {side} differs ({at(last)}): the candle of the moment of download."]
        elif early and early >= CONTAINED * len(rows):
            said = []
        else:
            continue
        if early:
            said.append(
                f"{early:,} of the {len(rows):,} differing rows of {side} were written before their candle closed."
            )
        cells = np.zeros_like(left)
        cells[rows] = left[rows]
        return [Claim("forming-candle", _names(pair, cells), cells, tuple(said), exact=False)]
    return []


def other_feed(pair: Pair, left: Mask) -> list[Claim]:
    """Find candles of the same market from another place: prices a hair apart, volume another quantity.

    When it misleads: prices of two *markets* that move together (spot and perpetual) look the same and are just as
    wrong. Volume that differs by one exact factor is a unit, not a feed.
    """
    columns = [c for c in pair.places("candle") if left[:, c].mean() > SHARE]
    prices = [pair.names.index(name) for name in PRICES if name in pair.names]
    if not columns or not prices:
        return []
    x, y = pair.x[:, prices], pair.y[:, prices]
    known = np.isfinite(x) & np.isfinite(y) & (y > 0)
    bps = np.abs(x[known] / y[known] - 1) * 1e4
    if not len(bps) or np.quantile(bps, 0.99) > NEAR_BPS:
        return []
    nearest = prices[-1]  # the close, where there is one
    known = np.isfinite(x[:, -1]) & np.isfinite(y[:, -1]) & (y[:, -1] > 0)
    bps = np.abs(x[known, -1] / y[known, -1] - 1) * 1e4 if known.any() else bps
    said = [
        f"Prices ({pair.names[nearest]}) are {np.median(bps):.2f} bps apart at the median, 99 % within "
        f"{np.quantile(bps, 0.99):.1f} bps."
    ]
    moves = _moves(pair, prices[-1])
    if moves is not None:
        said.append(f"Returns from candle to candle correlate at {moves:.3f}.")
        if moves < 0.3:
            return []
    if "volume" in pair.names:
        v = pair.names.index("volume")
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = pair.x[:, v] / pair.y[:, v]
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        if len(ratio):
            low, high = np.quantile(ratio, [0.1, 0.9])
            said.append(
                f"LIVE's volume is {np.median(ratio):.2f} times BACKTEST's on the median candle (80 % of candles "
                f"{low:.2f} to {high:.2f}; in total {_ratio(pair, v):.2f} times)."
            )
    cells = np.zeros_like(left)
    cells[:, pair.places("candle")] = left[:, pair.places("candle")]
    return [Claim("other-feed", _names(pair, cells), cells, tuple(said), exact=False)]


def by_features(pair: Pair, left: Mask) -> list[Claim]:
    """Find other or unfinished candles where the logs hold none: by features of a single candle (returns, bodies).

    What an average does cannot reach those; if they differ, on the very rows on which much else does, what they
    are made of differs. Sizes that are never negative (wicks, volume ratios) are smaller while a candle forms, and as
    large as ever on another feed.

    When it misleads: it is evidence, not proof. Any fault of what all features are made of looks like another feed.
    """
    if pair.places("candle"):
        return []
    columns = [c for c in pair.places("feature") if pair.continuous(c)]
    if len(columns) < FEATURES_MIN:
        return []
    rows = left[:, columns].mean(axis=1) >= MANY
    single = [c for c in columns if _of_one_candle(pair, c) and left[rows, c].mean() >= MANY] if rows.any() else []
    if rows.sum() < FEATURE_ROWS_MIN or len(single) < 2:
        return []
    # What is averaged over such candles differs long after them, in a few columns.
    counts = left[:, columns].sum(axis=0)
    there = left[rows][:, columns].sum(axis=0)
    alone = (there >= MOST * counts)[counts > 0].mean() >= MOST
    if there.sum() < MOST * counts.sum() and not alone:
        return []
    ratios = [
        float(np.nanmean(pair.x[rows, c]) / np.nanmean(pair.y[rows, c]))
        for c in single
        if np.nanmin(pair.x[:, c]) >= 0 and np.nanmin(pair.y[:, c]) >= 0 and np.nanmean(pair.y[rows, c]) > 0
    ]
    size = float(np.median(ratios)) if ratios else 1.0
    names = [pair.names[c] for c in single]
    said = [
        f"On {candles(int(rows.sum()))} many features differ, those of a single candle, too: {some(names)}. So "
        "what they are made of differs: the candles."
    ]
    cells = np.zeros_like(left)
    cells[:, columns] = left[:, columns]
    if rows.mean() <= SHARE:
        said.append(f"They are few of {pair.rows:,}: another feed would differ everywhere. They had not closed.")
        return [Claim("forming-candle", _names(pair, cells), cells, tuple(said), exact=False)]
    if SMALLER < size < 1 / SMALLER:
        said.append("Their sizes are as large on both sides. Compare the candle files to be sure.")
        return [Claim("other-feed", _names(pair, cells), cells, tuple(said), exact=False)]
    side = "LIVE" if size < 1 else "BACKTEST"
    said.append(f"Their sizes are smaller in {side} (LIVE / BACKTEST {size:.2f}): its candles had not closed.")
    return [Claim("forming-candle", _names(pair, cells), cells, tuple(said), exact=False)]


def _of_one_candle(pair: Pair, c: int) -> bool:
    """Whether neighbouring values are nearly independent of each other, on the side with more to go by."""
    y = pair.y[:, c]
    ok = pair.follows[1:] & np.isfinite(y[1:]) & np.isfinite(y[:-1])
    lasting = correlation(y[1:][ok], y[:-1][ok])
    return lasting is not None and lasting < FORGETS


def _moves(pair: Pair, close: int) -> float | None:
    x, y = np.diff(pair.x[:, close]), np.diff(pair.y[:, close])
    ok = pair.follows[1:] & np.isfinite(x) & np.isfinite(y)
    return correlation(x[ok], y[ok])


def _ratio(pair: Pair, v: int) -> float:
    both = np.isfinite(pair.x[:, v]) & np.isfinite(pair.y[:, v])
    total = float(pair.y[both, v].sum())
    return float(pair.x[both, v].sum()) / total if total > 0 else float("nan")


def _names(pair: Pair, cells: Mask) -> tuple[str, ...]:
    return tuple(pair.names[c] for c in np.flatnonzero(cells.any(axis=0)).tolist())
