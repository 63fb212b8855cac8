"""The same quantity in other clothes: a unit, a scaler, a running total from elsewhere, fewer decimals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import at, some
from regime.parity.statistics import correlation
from regime.parity.table import Floats, Ints, Mask, Pair, granularity

CELLS_MIN = 10
AGREES = 0.98
"""Share of a column's candles on which undoing the fault must make the two sides equal."""
STEPS_AGREE = 0.95
BEGINS = 4
"""So often a total may begin anew in a short log, whatever share of its candles that is."""
PIECE_MIN = 4
FAR = 5.0
"""Tolerances by which two totals are apart, at the median."""
LASTS = 0.8
WALK = 13.5
"""n (1 - r) of a random walk is larger in one case of twenty (Dickey and Fuller, with a mean)."""


class Line(NamedTuple):
    """live = slope * backtest + offset, of the values themselves or of their logarithms."""

    slope: float
    offset: float
    of: str


def scaled(pair: Pair, left: Mask) -> list[Claim]:
    """Find columns that are a straight line of the other side's: another unit, or a scaler."""
    groups: dict[str, list[int]] = {}
    lines: dict[int, Line] = {}
    for c in np.flatnonzero(left.mean(axis=0) > 0.05).tolist():
        line = fit(pair, c)
        if line is None or (abs(line.slope - 1) < 1e-3 and line.of == "value" and _slow(pair.y[:, c])):
            continue
        if not _explains(pair, left, c, line):
            continue
        lines[c] = line
        groups.setdefault("unit", []).append(c)
    if not lines:
        return []
    places = list(lines)
    cells = np.zeros_like(left)
    cells[:, places] = left[:, places]
    said = [f"{pair.names[c]}: LIVE = {_said(lines[c])}." for c in places[:4]]
    if len(places) > 4:
        said.append(f"And {len(places) - 4} more columns, each by a line of its own.")
    ready = [c for c in places if _standard(pair.x[:, c]) and not _standard(pair.y[:, c])]
    raw = [c for c in places if _standard(pair.y[:, c]) and not _standard(pair.x[:, c])]
    if len(ready) * 2 > len(places):
        said.append(
            "LIVE is standardised (mean near 0, deviation near 1), BACKTEST is not: the scaler runs on one side only."
        )
    elif len(raw) * 2 > len(places):
        said.append(
            "BACKTEST is standardised (mean near 0, deviation near 1), LIVE is not: the scaler runs on one side only."
        )
    return [Claim("unit", tuple(pair.names[c] for c in places), cells, tuple(said), exact=True)]


def _explains(pair: Pair, left: Mask, c: int, line: Line) -> bool:
    """Whether the line holds on the very candles that differ: where few do, it may be that of the others."""
    x, values = pair.x[left[:, c], c], _of(line.of, pair.y[left[:, c], c])
    with np.errstate(invalid="ignore"):
        room = np.maximum(10 * (1 + abs(line.slope)) * pair.tolerance[left[:, c], c], 0.02 * np.nanstd(pair.x[:, c]))
        return bool((np.abs(x - line.slope * values - line.offset) <= room).mean() >= 0.9)


def _of(name: str, values: Floats) -> Floats:
    with np.errstate(all="ignore"):
        if name == "logarithm":
            return np.asarray(np.log(values))
        if name == "log(1 + value)":
            return np.asarray(np.log1p(values))
        return np.asarray(np.exp(values)) if name == "exponential" else values


def _said(line: Line) -> str:
    if line.of != "value":
        return f"{line.slope:.6g} x {line.of} of BACKTEST {line.offset:+.6g}"
    factor = f"{line.slope:.6g} x BACKTEST" + (f" {line.offset:+.6g}" if line.offset else "")
    known = {100.0: "a percentage against a fraction", 0.01: "a fraction against a percentage", 1e4: "basis points",
             1e-4: "basis points", -1.0: "the sign is turned round"}  # fmt: skip
    word = next((w for value, w in known.items() if abs(line.slope / value - 1) < 1e-4 and not line.offset), None)
    return factor + (f" ({word})" if word else "")


def fit(pair: Pair, c: int) -> Line | None:
    """Return the line that makes column `c` equal on nearly all candles, or None."""
    x, y = pair.x[:, c], pair.y[:, c]
    both = np.isfinite(x) & np.isfinite(y)
    x, y, tol = x[both], y[both], pair.tolerance[both, c]
    kinds = len(np.unique(y))
    if len(x) < CELLS_MIN or kinds < 2 or len(np.unique(x)) < 2 or (kinds < 5 and len(x) < 3 * kinds + CELLS_MIN):
        return None
    for of, values in (("value", y), ("logarithm", _log(y)), ("log(1 + value)", _log(1 + y)), ("exponential", _exp(y))):
        if values is None:
            continue
        line = _line(x, values)
        if line is None:
            continue
        slope, offset = line
        if of == "value":
            near_zero = abs(offset) <= 2e-4 * max(float(np.abs(x).mean()), 1e-300)
            if near_zero:
                weight = float((values * values).sum())
                slope, offset = (float((x * values).sum()) / weight, 0.0) if weight > 0 else (slope, offset)
        # Both sides may be rounded, and the line makes the backtest's rounding as large as its slope.
        room = 2 * np.maximum(np.maximum(tol, abs(slope) * (tol if of == "value" else 0.0)), 1.01 * granularity(x))
        room = np.minimum(room, np.maximum(0.02 * x.std(), tol))
        if (np.abs(x - slope * values - offset) <= room).mean() >= AGREES and slope != 0:
            return Line(slope, offset, of)
    return None


def _line(x: Floats, y: Floats) -> tuple[float, float] | None:
    """Least squares, twice: the second time without the twentieth that fits worst."""
    keep = np.ones(len(x), dtype=bool)
    slope = offset = 0.0
    for _ in range(3):
        a, b = x[keep], y[keep]
        mx, my = float(a.mean()), float(b.mean())
        with np.errstate(over="ignore", invalid="ignore"):
            spread = float(((b - my) ** 2).sum())
            if not 0 < spread < np.inf:
                return None
            slope = float(((a - mx) * (b - my)).sum()) / spread
        offset = mx - slope * my
        error = np.abs(x - slope * y - offset)
        keep = error <= np.quantile(error, 0.95)
        if keep.sum() < CELLS_MIN or len(np.unique(y[keep])) < 2:
            break
    return (slope, offset) if np.isfinite(slope) and np.isfinite(offset) else None


def _log(values: Floats) -> Floats | None:
    return np.log(values) if np.all(values > 0) else None


def _exp(values: Floats) -> Floats | None:
    return np.exp(values) if np.all(np.abs(values) < 50) else None


def _standard(values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    return bool(abs(finite.mean()) < 0.75 and 0.4 < finite.std() < 2.0)


def _slow(values: Floats) -> bool:
    """Whether a column's level lasts: a constant distance of two such columns is that of two totals, not a unit."""
    finite = values[np.isfinite(values)]
    lasting = correlation(finite[1:], finite[:-1])
    return lasting is not None and lasting >= min(LASTS, 1 - WALK / len(finite))


def cumulative(pair: Pair, left: Mask) -> list[Claim]:
    """Find columns whose changes are equal while their levels are not: a total that began at another candle.

    Where it begins anew (each start of the bot), the distance of the two levels jumps; the candles of those jumps are
    in the evidence.
    """
    found: list[int] = []
    jumps: set[int] = set()
    distances: list[str] = []
    for c in np.flatnonzero(left.mean(axis=0) > 0.2).tolist():
        d = pair.difference[:, c]
        known = np.flatnonzero(np.isfinite(d))
        if len(known) < CELLS_MIN or not pair.continuous(c) or np.isnan(d[left[:, c]]).mean() > 0.5:
            continue
        # Over holes, too: a distance of two totals does not change while nobody looks.
        creeps = np.abs(np.diff(d[known]))
        usual = _usual_step(pair, c)
        # The tolerance of a level may be larger than its changes: those have to agree on their own scale, too.
        tol = np.minimum(2 * pair.tolerance[known[1:], c], 0.5 * usual) if usual > 0 else pair.tolerance[known[1:], c]
        same = creeps <= tol
        begins = known[1:][~same]
        few = len(begins) <= BEGINS and len(same) >= 5 * len(begins)
        if (same.mean() < STEPS_AGREE and not few) or not _slow(pair.y[:, c]):
            continue
        # What is hardly beyond the tolerance can neither stay nor creep.
        apart = left[known, c]
        if np.median(np.abs(d[known][apart])) < FAR * np.median(pair.tolerance[known, c][apart]):
            continue
        if not _level(d, pair.tolerance[:, c], begins):
            continue
        found.append(c)
        jumps |= set(begins.tolist())
        if len(distances) < 3:
            distances.append(f"{pair.names[c]}: LIVE - BACKTEST = {np.nanmedian(d):.6g} at the median, while "
                             f"{same.mean():.1%} of its changes are equal.")  # fmt: skip
    if not found:
        return []
    cells = np.zeros_like(left)
    cells[:, found] = left[:, found]
    if jumps:
        when = [at(int(pair.ts_ms[row])) for row in sorted(jumps)]
        distances.append(f"It begins anew at {some(when, 3)}.")
    return [Claim("cumulative", tuple(pair.names[c] for c in found), cells, tuple(distances), exact=True)]


def _usual_step(pair: Pair, c: int) -> float:
    steps = np.diff(pair.y[:, c])
    ok = pair.follows[1:] & np.isfinite(steps)
    return float(np.sqrt((steps[ok] ** 2).mean())) if ok.any() else 0.0


def _level(d: Floats, tolerance: Floats, jumps: Ints) -> bool:
    """Whether a difference stays where it is between its jumps: that of an average which forgets its start creeps."""
    kept = total = 0
    for piece, tol in zip(np.split(d, jumps), np.split(tolerance, jumps), strict=True):
        known = np.isfinite(piece)
        if known.sum() >= PIECE_MIN:
            middle = float(np.median(piece[known]))
            kept += int((np.abs(piece[known] - middle) <= np.maximum(3 * tol[known], 1e-3 * abs(middle))).sum())
            total += int(known.sum())
    return total >= CELLS_MIN and kept >= STEPS_AGREE * total


def rounded(pair: Pair, left: Mask) -> list[Claim]:
    """Find columns that differ by no more than half a unit of one side's last decimal."""
    found: list[int] = []
    units: list[str] = []
    for c in np.flatnonzero(left.any(axis=0)).tolist():
        x, y = pair.x[:, c], pair.y[:, c]
        gx, gy = granularity(x), granularity(y)
        unit = max(gx, gy)
        size = np.abs(x - y)[left[:, c]]
        # Two columns of whole numbers that differ by one are no rounding, nor is a unit as wide as the column.
        if gx == gy or unit > 0.5 * pair.spread[c] or not np.all(size <= unit * (1 + 1e-6)):
            continue
        found.append(c)
        units.append(f"{pair.names[c]}: {'LIVE' if gx > gy else 'BACKTEST'} is printed in steps of {2 * unit:g}")
    if not found:
        return []
    cells = np.zeros_like(left)
    cells[:, found] = left[:, found]
    return [Claim("rounded", tuple(pair.names[c] for c in found), cells, (some(units, 4) + ".",), exact=True)]
