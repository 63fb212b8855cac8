"""One side's rows bear the times of other candles: a shift of the whole table, a time zone, a shift of some columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import at, candles, lasting, some
from regime.parity.table import Floats, Ints, Mask, Pair, Table, Tolerance, deviations, matched, usual_steps

HOUR_MS = 3_600_000
SHIFTS = 12
"""Shifts of so many candles are looked for, to both sides, ..."""
ZONE_HOURS = 14
"""... and every quarter of an hour up to this."""
ROWS_MAX = 2_000
ROWS_MIN = 12
"""Fewer rows that agree at another time may do so by chance."""
ROW_AGREES = 0.7
"""A row is the same candle where so many of its telling columns agree: the others may have faults of their own."""
EXPLAINED = 0.9
PARTLY = 0.05
_ODD_ZONES = {m * 60_000 for m in (210, 270, 330, 345, 390, 525, 570, 630, 765, -150, -210, -570)}
"""Zones of the world that are no whole hours from UTC."""
COLUMN_SHIFTS = (1, -1, 2, -2, 3, -3)
COLUMN_AGREES = 0.95


@dataclass(frozen=True, eq=False)
class Alignment:
    """The live table with its times put right, and what was wrong with them."""

    live: Table
    cause: str
    evidence: tuple[str, ...]
    first_ms: int


def align(live: Table, backtest: Table, step_ms: int, tolerance: Tolerance) -> Alignment | None:
    """Return the offset under which rows that differ (or have no partner) become equal; None where there is none.

    Exact, so a slow average that merely resembles its neighbour is no shift. A second offset an hour away is tried on
    the rows that the first one leaves: daylight saving time may begin or end inside the log.

    When it misleads: where candles are an hour long, a shift of one candle and a zone of one hour are the same thing;
    it is then called a shift.
    """
    judge = _Judge(live, backtest, tolerance)
    if not judge.columns:
        return None
    at_zero = judge.agrees(0)
    wrong = ~at_zero
    if not wrong.any():
        return None
    scores = {offset: judge.agrees(offset) for offset in _offsets(step_ms)}
    best = max(scores, key=lambda offset: (int((scores[offset] & wrong).sum()), -abs(offset)))
    explained = scores[best] & wrong
    offsets = np.where(explained, best, 0)
    if explained.sum() < ROWS_MIN:
        return None
    second = max((best - HOUR_MS, best + HOUR_MS), key=lambda offset: int((judge.agrees(offset) & ~explained).sum()))
    more = judge.agrees(second) & wrong & ~explained
    if second != 0 and more.sum() >= ROWS_MIN:
        offsets[more] = second
    else:
        second, more = best, np.zeros_like(more)
    # A row whose partner is missing under one of the offsets proves nothing, for or against.
    known = explained | more | (wrong & judge.known(best) & judge.known(second))
    if at_zero.mean() > PARTLY:
        known &= judge.known(0) | explained | more
    if (explained | more).sum() < EXPLAINED * known.sum():
        return None
    sure = explained | more | (at_zero if at_zero.mean() > PARTLY else False)
    moved = _moved(live, judge.rows[sure], offsets[sure])
    late, later = ("late", "later") if best > 0 else ("early", "earlier")
    first = int(judge.ts[np.argmax(explained)])
    share = f"{(explained | more).sum():,} of {known.sum():,} rows that differ are equal"
    if _is_zone(best, step_ms) and abs(best) > step_ms:
        cause = "time-zone"
        zone = f"UTC{'+' if best > 0 else '-'}{abs(best) // HOUR_MS:02d}:{abs(best) % HOUR_MS // 60_000:02d}"
        said = [f"LIVE's times are {lasting(best)} {later} than BACKTEST's (as if {zone}): {share} then."]
        if more.any():
            said.append(
                f"Later it is {lasting(second)}: daylight saving time changed at about "
                f"{at(int(judge.ts[np.argmax(more)]))} (LIVE's own clock)."
            )
    else:
        cause = "shift"
        shift = best // step_ms if best % step_ms == 0 else None
        by = candles(abs(shift)) if shift is not None else lasting(best)
        said = [
            f"The row that LIVE calls {at(first)} is the one that BACKTEST calls {at(first - best)}: LIVE is {by} "
            f"{late}, "
            f"and {share} when it is moved by that."
        ]
        if abs(best) == HOUR_MS:
            said.append("It is also an hour: daylight saving time in one of the two does the same.")
    return Alignment(moved, cause, tuple(said), first - best)


class _Judge:
    """Says which of the live rows are equal to the backtest's row of the same time less an offset."""

    def __init__(self, live: Table, backtest: Table, tolerance: Tolerance) -> None:
        names = [name for name in live.names if name in set(backtest.names)]
        x = live.values[:, [live.names.index(name) for name in names]]
        y = backtest.values[:, [backtest.names.index(name) for name in names]]
        self.columns = [c for c in range(len(names)) if _telling(x[:, c]) and _telling(y[:, c])]
        self.live, self.backtest, self.tolerance = live, backtest, tolerance
        self.rows = np.unique(np.linspace(0, len(live.ts_ms) - 1, min(ROWS_MAX, len(live.ts_ms))).astype(np.int64))
        self.ts = live.ts_ms[self.rows]
        self.x, self.y = x[self.rows][:, self.columns], y[:, self.columns]
        # The scale of a row's change is that of the data, not of what is printed: a shift must be exact.
        self.floor = tolerance.spread * np.minimum(deviations(self.y), usual_steps(self.y)) + 1e-300
        self._made: dict[int, tuple[Mask, Mask]] = {}

    def agrees(self, offset: int) -> Mask:
        return self._look(offset)[0]

    def known(self, offset: int) -> Mask:
        return self._look(offset)[1]

    def _look(self, offset: int) -> tuple[Mask, Mask]:
        if offset not in self._made:
            place = np.clip(np.searchsorted(self.backtest.ts_ms, self.ts - offset), 0, len(self.backtest.ts_ms) - 1)
            known = self.backtest.ts_ms[place] == self.ts - offset
            x, y = self.x[known], self.y[place[known]]
            with np.errstate(invalid="ignore"):
                tol = np.maximum(self.tolerance.relative * np.maximum(np.abs(x), np.abs(y)), 3 * self.floor)
                same = (np.abs(x - y) <= tol).sum(axis=1)
            both = (np.isfinite(x) & np.isfinite(y)).sum(axis=1)
            agrees = np.zeros(len(self.ts), dtype=bool)
            agrees[known] = (both > 0) & (same >= ROW_AGREES * both)
            enough = np.zeros(len(self.ts), dtype=bool)
            enough[known] = both > 0
            self._made[offset] = agrees, enough
        return self._made[offset]


def _telling(values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    return len(finite) >= ROWS_MIN and len(np.unique(finite)) >= 0.2 * len(finite)


def _offsets(step_ms: int) -> list[int]:
    found = {k * step_ms for k in range(-SHIFTS, SHIFTS + 1)}
    found |= {k * HOUR_MS // 4 for k in range(-4 * ZONE_HOURS, 4 * ZONE_HOURS + 1)}
    return sorted(found - {0}, key=abs)


def _is_zone(offset: int, step_ms: int) -> bool:
    return offset % HOUR_MS == 0 or offset in _ODD_ZONES or -offset in _ODD_ZONES


def _moved(live: Table, rows: Ints, offsets: Ints) -> Table:
    """Put every row back by the offset of the nearest row before it that is sure (`rows`), or of the first one."""
    before = np.searchsorted(rows, np.arange(len(live.ts_ms)), side="right") - 1
    ts = live.ts_ms - offsets[np.maximum(before, 0)]
    _, keep = np.unique(ts, return_index=True)
    log_ms = None if live.log_ms is None else live.log_ms[keep]
    return Table(ts[keep], live.names, live.values[keep], log_ms)


def shifted_columns(pair: Pair, left: Mask) -> list[Claim]:
    """Find columns that are equal to the other side's of a neighbouring candle, while the rest of the row is not."""
    found: dict[int, list[int]] = {}
    shares: list[float] = []
    for c in np.flatnonzero(left.any(axis=0)).tolist():
        if not pair.continuous(c) or left[:, c].mean() < 0.2:
            continue
        name = pair.names[c]
        x, y = pair.live.column(name), pair.backtest.column(name)
        for k in COLUMN_SHIFTS:
            i, j = matched(pair.live, pair.backtest, pair.offset_ms + k * pair.step_ms)
            both = np.isfinite(x[i]) & np.isfinite(y[j])
            if both.sum() < ROWS_MIN:
                continue
            tol = np.maximum(1e-5 * np.abs(y[j][both]), 3 * float(np.median(pair.tolerance[:, c])))
            share = float((np.abs(x[i] - y[j])[both] <= tol).mean())
            if share >= COLUMN_AGREES:
                found.setdefault(k, []).append(c)
                shares.append(share)
                break
    claims = []
    for k, places in found.items():
        cells = np.zeros_like(left)
        cells[:, places] = left[:, places]
        names = tuple(pair.names[c] for c in places)
        side, other = ("LIVE", "BACKTEST") if k > 0 else ("BACKTEST", "LIVE")
        claims.append(
            Claim(
                "shift", names, cells,
                (f"{some(names)}: {side} holds {other}'s value of {candles(abs(k))} before, on {min(shares):.0%} of "
                 f"the candles or more; "
                 f"the other columns of the row are of the same candle.",),
                exact=True,
            )
        )  # fmt: skip
    return claims
