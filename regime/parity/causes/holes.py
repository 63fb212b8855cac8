"""A value that is missing is None on one side and 0, the last one or the median on the other."""

from __future__ import annotations

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import candles
from regime.parity.table import Floats, Mask, Pair

CELLS_MIN = 3
AGREES = 0.9
"""Share of a column's differing candles on which one side must hold a filling."""
HELD = "the last value"


def filled(pair: Pair, left: Mask) -> list[Claim]:
    """Find columns that differ only where one side has no value, or one that looks like a filling: one constant, or
    the value of the candle before.

    When it misleads: a flag that is 0 on one side only looks like a filling with 0. So a column of few different
    values is judged only where the other side has none.
    """
    found: list[int] = []
    said: list[str] = []
    for c in np.flatnonzero(left.any(axis=0)).tolist():
        rows = np.flatnonzero(left[:, c])
        live, backtest = (_filling(pair, values, rows, c) for values in (pair.x[:, c], pair.y[:, c]))
        if len(rows) < CELLS_MIN or (live is None and backtest is None):
            continue
        if live != "None" and backtest != "None" and (len(rows) > 0.8 * pair.rows or not pair.continuous(c)):
            continue
        found.append(c)
        if len(said) < 4:
            said.append(
                f"{pair.names[c]}: on {candles(len(rows))} LIVE holds {live or 'another value'} and BACKTEST "
                f"{backtest or 'another value'}; on the other {pair.rows - len(rows):,} they agree."
            )
    if not found:
        return []
    cells = np.zeros_like(left)
    cells[:, found] = left[:, found]
    return [Claim("filled", tuple(pair.names[c] for c in found), cells, tuple(said), exact=True)]


def _filling(pair: Pair, values: Floats, rows: np.ndarray, c: int) -> str | None:
    """Name what stands in `rows`: None, a constant, the last value; None where it is none of these."""
    here = values[rows]
    if np.isnan(here).mean() >= AGREES:
        return "None"
    finite = here[np.isfinite(here)]
    if len(finite) < AGREES * len(here):
        return None
    kinds, counts = np.unique(finite, return_counts=True)
    top = int(np.argmax(counts))
    if counts[top] >= AGREES * len(here) and len(finite) >= CELLS_MIN:
        return f"{kinds[top]:.6g}"
    before = np.where(rows > 0, values[np.maximum(rows - 1, 0)], np.nan)
    if len(kinds) >= 2 and (here == before).mean() >= AGREES and pair.continuous(c):
        return HELD
    return None
