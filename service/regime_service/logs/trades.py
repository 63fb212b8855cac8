"""Trade lists: what the bot, or a backtest, did with its signals.

Profit is **always** worked out from the two prices, because lists disagree about its unit: a fraction at 4x in one, a
percentage at 4x in another, a fraction of the balance in a third, with fees or without.

    profit_ratio = s * (exit_price / entry_price - 1) - 2 * fee_ratio        s = +1 for long, -1 for short

net of fees (`fee_ratio` per side, both taken on the entry price) and unleveraged. What the list itself says is only
compared with it, and the unit it seems to have is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, isnan, nan

import numpy as np

from regime.codec import check
from regime.errors import OperatorError
from regime.events import LABEL_LENGTH_MAX, Side, Trade
from regime_service.logs.findings import Conflict, Findings, LeftOut, Overlap, ProfitUnit, listed
from regime_service.logs.frame import keep_only, nothing, one_stream, step_ms
from regime_service.logs.mapping import TRADE_NAMES, TradeMapping, require, zone
from regime_service.logs.tables import (
    Chunk,
    Floats,
    Paths,
    Progress,
    Tables,
    nothing_to_read,
    read_tables,
    sources,
    times_ms,
)

_SIDES: dict[str, Side] = {
    "long": "long", "buy": "long", "l": "long", "bull": "long", "1": "long", "1.0": "long",
    "short": "short", "sell": "short", "s": "short", "bear": "short", "-1": "short", "-1.0": "short",
}  # fmt: skip
_FIT_MIN = 0.999
"""Share of variance a straight line must explain before a unit is named."""


@dataclass(frozen=True, slots=True)
class TradeLog:
    """Closed trades in the order they were closed, each once."""

    trades: list[Trade]
    findings: Findings


def profit_ratio(side: Side, entry_price: float, exit_price: float, fee_ratio: float) -> float:
    """Return the profit of a trade as a ratio of its entry price: net of fees, unleveraged.

    >>> round(profit_ratio("short", 100.0, 99.0, 0.0005), 6)
    0.009
    """
    sign = 1.0 if side == "long" else -1.0
    return sign * (exit_price / entry_price - 1.0) - 2.0 * fee_ratio


def read_trades(
    paths: Paths,
    *,
    model: str,
    symbol: str,
    timeframe: str,
    mapping: TradeMapping | None = None,
    fee_ratio: float = 0.0005,
    progress: Progress | None = None,
) -> TradeLog:
    """Read trade lists into trades.

    `fee_ratio` is the fee per side; `profit_ratio` above says how profit follows. A trade without a number of its own
    is named by its side, times and entry price, so that reading the same list twice gives the same trades. Exact
    doubles are dropped and counted; another trade under a name that was there is a conflict, and the first one counts.

    Raises `OperatorError` in one sentence: no such file, no usable row, a column that is not there.
    """
    mapping = mapping or TradeMapping()
    step_ms(timeframe)
    if not 0 <= fee_ratio <= 0.1:
        raise OperatorError(f"fee_ratio must lie in 0..0.1 (0.0005 is 0.05 % per side), got {fee_ratio:g}")
    if mapping.leverage is not None and not 0 < mapping.leverage <= 1000:
        raise OperatorError(f"`leverage`: must lie above 0 and not above 1000, got {mapping.leverage:g}")
    tables = read_tables(sources(paths), mapping, progress=progress)
    nothing_to_read(tables)
    return _Reader(tables, mapping, (model, symbol, timeframe), fee_ratio).read()


@dataclass(slots=True)
class _Row:
    trade: Trade
    file: int
    line: int
    stated: dict[str, float]


class _Reader:
    def __init__(self, tables: Tables, mapping: TradeMapping, stream: tuple[str, str, str], fee_ratio: float) -> None:
        self.tables = tables
        self.tally = tables.tally
        self.mapping = mapping
        self.model, self.symbol, self.timeframe = stream
        self.fee_ratio = fee_ratio
        self.zone = zone(mapping.timezone)

    def read(self) -> TradeLog:
        filtered = keep_only(self.tables, self.mapping)
        one_stream(self.tables, self.mapping)
        self.columns = self._columns()
        rows = [row for chunk in self.tables.chunks for row in self._rows(chunk)]
        rows.sort(key=lambda row: (row.file, row.line))
        if not rows:
            raise nothing(self.tables)
        kept, duplicates, conflicts = self._distinct(rows)
        openings = [row.trade.opened_ms for row in kept]
        highest = np.maximum.accumulate(np.array(openings))
        reordered = int((np.array(openings) < highest).sum())
        units = self._units(kept)
        kept.sort(key=lambda row: (row.trade.closed_ms, row.trade.opened_ms))
        trades = [row.trade for row in kept]
        used = {name for names in self.columns.values() for name in names}
        findings = self.tally.freeze(
            "trades",
            rows_kept=len(trades),
            filtered_rows=filtered,
            duplicates=duplicates,
            conflicts=tuple(conflicts),
            conflict_rows=len(conflicts),
            reordered=reordered,
            first_ms=min(trade.opened_ms for trade in trades),
            last_ms=max(trade.closed_ms for trade in trades),
            left_out=tuple(
                LeftOut(name, "no part of a trade as we keep it") for name in self.tables.names if name not in used
            ),
            profit_units=tuple(units),
            overlaps=tuple(_overlaps(trades)),
        )
        return TradeLog(trades, findings)

    def _columns(self) -> dict[str, tuple[str, ...]]:
        """Return role -> columns, best first; raise where a role that every trade needs has none."""
        names = self.tables.names
        found: dict[str, tuple[str, ...]] = {}
        for role, usual in TRADE_NAMES.items():
            own = getattr(self.mapping, role)
            if own:
                columns = (own,) if isinstance(own, str) else tuple(own)
                for column in columns:
                    require(role, column, names)
                found[role] = columns
            else:
                ranked = sorted((n for n in names if n.lower() in usual), key=lambda n: usual.index(n.lower()))
                found[role] = tuple(ranked)
        for role in ("side", "opened", "closed", "entry_price", "exit_price"):
            if not found[role]:
                file = self.tally.names[self.tables.chunks[0].file]
                raise OperatorError(
                    f"{file}: no column for the {role.replace('_', ' ')} of a trade (looked for "
                    f"{listed((f'`{n}`' for n in TRADE_NAMES[role]), 4)}; there are "
                    f"{listed(f'`{n}`' for n in names)}); name it by the mapping key `{role}`"
                )
        return found

    def _rows(self, chunk: Chunk) -> list[_Row]:
        def numbers(role: str) -> Floats:
            for name in self.columns[role]:
                if (column := chunk.column(name)) is not None:
                    return np.where(np.isfinite(column.numbers), column.numbers, np.nan)
            return np.full(chunk.rows, np.nan)

        def times(role: str) -> Floats:
            for name in self.columns[role]:
                if (column := chunk.column(name)) is not None:
                    return times_ms(column, self.zone)
            return np.full(chunk.rows, np.nan)

        def words(role: str) -> Callable[[int], str | None]:
            for name in self.columns[role]:
                if (column := chunk.column(name)) is not None:
                    return lambda i, c=column: c.texts.get(i) or _plain(float(c.numbers[i]))  # type: ignore[misc]
            return lambda i: None

        # Everything as lists: a trade list has thousands of rows, not millions.
        side, trade_id, reason = words("side"), words("trade_id"), words("exit_reason")
        opened, closed, signal = times("opened").tolist(), times("closed").tolist(), times("signal_time").tolist()
        entry, out = numbers("entry_price").tolist(), numbers("exit_price").tolist()
        claim = numbers("entry_probability").tolist()
        claims = {
            "long": numbers("entry_probability_long").tolist(),
            "short": numbers("entry_probability_short").tolist(),
        }
        size, leverage = numbers("size").tolist(), numbers("leverage_column").tolist()
        stated = {
            name: column.numbers.tolist()
            for name in self.columns["profit"]
            if (column := chunk.column(name)) is not None
        }
        found: list[_Row] = []
        for i, line in enumerate(chunk.lines):

            def refuse(code: str, role: str, reason: str, line: int = line) -> None:
                name = next((n for n in self.columns[role] if n in chunk.names), role)
                self.tally.refuse(chunk.file, line, code, reason, name)

            word = side(i)
            direction = _SIDES.get((word or "").strip().lower())
            if direction is None:
                refuse("side", "side", f"{(word or '')[:40]!r} is neither long nor short")
            elif isnan(opened[i]):
                refuse("time", "opened", "the entry time is missing or not a time")
            elif isnan(closed[i]) and isnan(out[i]):
                refuse("open", "closed", "the trade is still open: it counts once it is closed")
            elif isnan(closed[i]):
                refuse("time", "closed", "the exit time is missing or not a time")
            elif closed[i] < opened[i]:
                refuse("time", "closed", "the trade ends before it begins")
            elif not entry[i] > 0:
                refuse("price", "entry_price", "the entry price is missing or not above 0")
            elif not out[i] > 0:
                refuse("price", "exit_price", "the exit price is missing or not above 0")
            else:
                probability = claims[direction][i] if isnan(claim[i]) else claim[i]
                if not isnan(probability) and not 0 <= probability <= 1:
                    role = f"entry_probability_{direction}" if isnan(claim[i]) else "entry_probability"
                    refuse("probability", role, f"{probability:g} is not a probability; it must lie in 0..1")
                    continue
                if size[i] < 0:
                    refuse("size", "size", f"a size of {size[i]:g} makes no sense")
                    continue
                if not isnan(leverage[i]) and not 0 < leverage[i] <= 1000:
                    refuse("leverage", "leverage_column", f"a leverage of {leverage[i]:g} makes no sense")
                    continue
                begin, end = int(opened[i]), int(closed[i])
                own = trade_id(i)
                text = reason(i)
                trade = Trade(
                    model=self.model,
                    symbol=self.symbol,
                    timeframe=self.timeframe,
                    trade_id=own or f"{direction}-{begin}-{end}-{entry[i]!r}",
                    side=direction,
                    opened_ms=begin,
                    closed_ms=end,
                    entry_price=entry[i],
                    exit_price=out[i],
                    profit_ratio=profit_ratio(direction, entry[i], out[i], self.fee_ratio),
                    entry_probability=_known(probability),
                    exit_reason=None if text is None else text[:LABEL_LENGTH_MAX],
                    leverage=_known(leverage[i]) or self.mapping.leverage,
                    size_ratio=_known(size[i]),
                    signal_ts_ms=None if isnan(signal[i]) else int(signal[i]),
                    shadow=self.mapping.shadow,
                )
                if len(trade.trade_id) > LABEL_LENGTH_MAX or check(trade):
                    refuse("id", "trade_id", "the trade's number is too long or not printable")
                    continue
                found.append(_Row(trade, chunk.file, line, {name: column[i] for name, column in stated.items()}))
        return found

    def _distinct(self, rows: list[_Row]) -> tuple[list[_Row], int, list[Conflict]]:
        seen: dict[str, _Row] = {}
        duplicates = 0
        conflicts: list[Conflict] = []
        for row in rows:
            first = seen.setdefault(row.trade.trade_id, row)
            if first is row:
                continue
            if first.trade == row.trade:
                duplicates += 1
                continue
            fields = tuple(
                name for name in Trade.__struct_fields__ if getattr(first.trade, name) != getattr(row.trade, name)
            )
            names = self.tally.names
            conflicts.append(
                Conflict(row.trade.trade_id, names[row.file], row.line, names[first.file], first.line, fields[:5])
            )
        return list(seen.values()), duplicates, conflicts

    def _units(self, rows: list[_Row]) -> list[ProfitUnit]:
        found: list[ProfitUnit] = []
        for name in self.columns["profit"]:
            pairs = [
                (profit_ratio(r.trade.side, r.trade.entry_price, r.trade.exit_price, 0.0), r.stated[name])
                for r in rows
                if isfinite(r.stated.get(name, nan))
            ]
            if len(pairs) >= 3:
                unit = stated_unit(name, np.array(pairs))
                if not _as_ours(unit, self.fee_ratio):
                    found.append(unit)
        return found


def stated_unit(column: str, pairs: Floats) -> ProfitUnit:
    """Say what unit a list's own profit is in.

    `pairs` is `float64[trades, 2]`: the gross, unleveraged profit ratio from the two prices, and what the list says.
    The second is a straight line of the first; its slope is leverage (times 100 in per cent), and where it crosses
    zero are the fees. Leverages are taken to stay below 40.
    """
    gross, stated = pairs[:, 0], pairs[:, 1]
    spread = float(np.var(gross))
    if spread == 0 or float(np.var(stated)) == 0:
        return ProfitUnit(column, "unknown", None, None, 0.0)
    slope = float(np.cov(gross, stated, bias=True)[0, 1]) / spread
    offset = float(stated.mean() - slope * gross.mean())
    fit = float(np.corrcoef(gross, stated)[0, 1] ** 2)
    if fit < _FIT_MIN or slope <= 0:
        return ProfitUnit(column, "unknown", None, None, round(fit, 4))
    percent = slope >= 40
    leverage = round(slope / (100 if percent else 1), 3)
    fees = -offset / slope
    return ProfitUnit(
        column,
        "percent" if percent else "fraction",
        leverage,
        round(fees, 6) if abs(fees) > 2e-6 else 0.0,
        round(fit, 6),
    )


def _as_ours(unit: ProfitUnit, fee_ratio: float) -> bool:
    """Whether a stated profit is just what we work out: nothing to report."""
    return (
        unit.unit == "fraction"
        and unit.leverage is not None
        and abs(unit.leverage - 1) < 0.001
        and abs((unit.fee_round_trip_ratio or 0.0) - 2 * fee_ratio) < 1e-5
    )


def _overlaps(trades: list[Trade]) -> list[Overlap]:
    found: list[Overlap] = []
    for side in ("long", "short"):
        own = sorted((t for t in trades if t.side == side), key=lambda t: (t.opened_ms, t.closed_ms))
        end, overlapping = 0, 0
        for trade in own:
            overlapping += trade.opened_ms < end
            end = max(end, trade.closed_ms)
        if overlapping:
            found.append(Overlap(side, overlapping, len(own)))
    return found


def _known(number: float) -> float | None:
    return None if isnan(number) else number


def _plain(number: float) -> str | None:
    """Write a number that stands where a word may (a trade's number, a side of 1 or -1)."""
    if isnan(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


__all__ = ["TradeLog", "profit_ratio", "read_trades", "stated_unit"]
