"""What a search for one cause returns."""

from __future__ import annotations

from dataclasses import dataclass

from regime.parity.table import Mask


@dataclass(frozen=True, eq=False)
class Claim:
    """A cause, seen in `columns`, that accounts for the differing cells of `cells` (`bool[candles, names]`)."""

    cause: str
    columns: tuple[str, ...]
    cells: Mask
    evidence: tuple[str, ...]
    exact: bool
    absent: int = 0
    """Cells that are not there to be compared (columns missing or renamed, candles unmatched)."""
    first_ms: int | None = None
