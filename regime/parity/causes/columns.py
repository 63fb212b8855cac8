"""Columns that are not there, or stand under another name."""

from __future__ import annotations

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import some
from regime.parity.table import CANDLE, DISTINCT_MIN, Floats, Mask, Pair, deviations, granularity, matched

ROWS_MAX = 400
AGREES = 0.97
LABEL_NAMES = ("y", "signal", "prediction", "pred", "action", "trade", "weight", "fold", "split")
LABEL_WORDS = ("target", "label", "future", "fwd", "pnl", "profit")
"""Names, and words in names, by which backtests call what a model is trained on, or what came of it: no inputs, so no
model misses them."""


def absent(pair: Pair) -> list[Claim]:
    """Find columns of the backtest that the live side lacks, and tell those that merely have another name there.

    A column only the live side has is no fault: the model was not trained with it. Nor is a label of the training
    (`target`, `future_...`), nor a price or volume that one of them leaves out. Which columns the model really reads
    is not known here: a helper column that only the backtest writes is called missing.
    """
    lacking = [
        name for name in pair.backtest.names
        if name not in pair.live.names and name not in CANDLE and not _label(name)
    ]  # fmt: skip
    extra = [name for name in pair.live.names if name not in pair.backtest.names]
    renamed = _renamed(pair, extra, lacking)
    claims = []
    if renamed:
        pairs = [f"{new} (LIVE) is {old} (BACKTEST)" for old, new in renamed.items()]
        claims.append(
            Claim(
                "renamed-column", tuple(renamed), np.zeros_like(pair.over),
                (f"{some(pairs)}: the same values on the same candles.",), exact=True, absent=pair.rows * len(renamed),
            )
        )  # fmt: skip
    gone = [name for name in lacking if name not in renamed]
    if gone:
        said = f"{some(gone)}: in BACKTEST, not in LIVE, and no column of LIVE holds the same values."
        claims.append(
            Claim("missing-column", tuple(gone), np.zeros_like(pair.over), (said,), True, pair.rows * len(gone))
        )
    return claims + _never_set(pair)


def _never_set(pair: Pair) -> list[Claim]:
    """Find columns that hold one value, or none, all along one side and vary on the other: there by name only."""
    found = [
        c for c in range(len(pair.names))
        if pair.rows >= 10 and pair.over[:, c].mean() > 0.05 and _kinds(pair.x[:, c]) <= 1 < _kinds(pair.y[:, c])
    ]  # fmt: skip
    if not found:
        return []
    cells = np.zeros_like(pair.over)
    cells[:, found] = pair.over[:, found]
    names = tuple(pair.names[c] for c in found)
    held = ", ".join(
        sorted(
            {f"{v[0]:.6g}" if len(v := np.unique(pair.x[:, c][np.isfinite(pair.x[:, c])])) else "None" for c in found}
        )
    )
    said = f"{some(names)}: there by name, but LIVE holds nothing but {held}."
    return [Claim("missing-column", names, cells, (said,), exact=True)]


def _kinds(values: Floats) -> int:
    return len(np.unique(values[np.isfinite(values)]))


def _label(name: str) -> bool:
    lower = name.lower()
    return lower in LABEL_NAMES or any(word in LABEL_WORDS for word in lower.replace("-", "_").split("_"))


def _renamed(pair: Pair, extra: list[str], absent: list[str]) -> dict[str, str]:
    if not extra or not absent:
        return {}
    i, j = matched(pair.live, pair.backtest, pair.offset_ms)
    x = pair.live.values[i][:, [pair.live.names.index(name) for name in extra]]
    found: dict[str, str] = {}
    for old in absent:
        y = pair.backtest.column(old)[j]
        shares = [_equal(x[:, c], y) if new not in found.values() else 0.0 for c, new in enumerate(extra)]
        best = int(np.argmax(shares))
        if shares[best] >= AGREES:
            found[old] = extra[best]
    return found


def _equal(x: Floats, y: Floats) -> float:
    """Share of rows on which two columns agree; 0 where that could be chance."""
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 10 or np.any(np.isfinite(x) ^ np.isfinite(y)):
        return 0.0
    a, b = x[both], y[both]
    kinds = len(np.unique(b))
    room = max(1e-3 * float(b.std()), _printed(a, b))
    share = float((np.abs(a - b) <= np.maximum(1e-5 * np.maximum(np.abs(a), np.abs(b)), room)).mean())
    if kinds < 2:
        return 0.0
    # Two flags that are rarely set agree nearly always: they must agree everywhere.
    return share if kinds >= DISTINCT_MIN * len(b) or share == 1.0 else 0.0


def _printed(a: Floats, b: Floats) -> float:
    """What the decimals of two columns leave open, as far as it is little beside their spread."""
    return min(max(granularity(a), granularity(b)), 0.05 * float(np.nanstd(b)))


def swapped(pair: Pair, left: Mask) -> list[Claim]:
    """Find common columns whose values stand under each other's names, as after a column was put in before them."""
    places = [c for c in np.flatnonzero(left.mean(axis=0) > 0.5).tolist() if pair.continuous(c)]
    if len(places) < 2:
        return []
    rows = np.unique(np.linspace(0, pair.rows - 1, min(ROWS_MAX, pair.rows)).astype(np.int64))
    x, y = pair.x[rows][:, places], pair.y[rows][:, places]
    units = [np.array([granularity(column) for column in side.T]) for side in (x, y)]
    spread = deviations(y)
    holds: dict[int, int] = {}
    for a in range(len(places)):
        with np.errstate(invalid="ignore"):
            printed = np.minimum(np.maximum(units[0][a], units[1]), 0.05 * spread)
            tol = np.maximum(1e-5 * np.abs(y), np.maximum(1e-3 * pair.spread[places], printed))
            shares = (np.abs(x[:, a : a + 1] - y) <= tol).mean(axis=0)
        shares[a] = 0.0
        best = int(np.argmax(shares))
        if shares[best] >= AGREES:
            holds[places[a]] = places[best]
    if len(holds) < 2:
        return []
    cells = np.zeros_like(left)
    cells[:, list(holds)] = left[:, list(holds)]
    said = some([f"{pair.names[a]} (LIVE) holds {pair.names[b]} (BACKTEST)" for a, b in holds.items()])
    return [
        Claim(
            "renamed-column", tuple(pair.names[a] for a in holds), cells,
            (f"{said}: values stand under each other's names.",), exact=True,
        )
    ]  # fmt: skip
