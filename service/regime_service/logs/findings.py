"""What was found while reading: everything that was not read as it stood, counted and listed.

Nothing is dropped in silence. Every row of every file ends in exactly one of six places, and `Findings.balanced` says
whether the sum is right:

| where a row goes | counted in |
| --- | --- |
| it became an observation, trade, candle or row of the reference | `rows_kept` |
| it could not be understood | `refused_rows` (listed in `refused`) |
| the same row stood there before | `duplicates` |
| another row with the same key but other content stood there before | `conflict_rows` (listed in `conflicts`) |
| its candle was still forming | `forming_dropped` (listed in `still_forming`) |
| the mapping's `only` left it out | `filtered_rows` |

`Findings` is for programs (`to_builtins()` gives plain JSON types) and for people (`sentences()`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

SHOWN_MAX = 6
"""Items of one kind that `sentences()` spells out; `to_builtins()` has them all."""


@dataclass(frozen=True, slots=True)
class HeaderUse:
    """Lines of one width, and the header that names their columns."""

    first_line: int
    last_line: int
    rows: int
    width: int
    header: str
    """Where the names come from: `line 1` of the same file, `other.csv, line 1`, or a mapping key."""
    borrowed: bool
    """True where the file's own header has another width."""


@dataclass(frozen=True, slots=True)
class FileRead:
    """One file, by the name it was given."""

    name: str
    format: str
    rows: int
    widths: tuple[int, ...]
    headers: tuple[HeaderUse, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Neighbouring lines refused for the same reason; `reason` quotes the first of them."""

    file: str
    first_line: int
    last_line: int
    rows: int
    code: str
    """`width`, `header`, `time`, `number`, `candle`, `probability`, `times-disagree`, `json`, `price`, `side`, ..."""
    column: str | None
    reason: str

    @property
    def place(self) -> str:
        lines = f"line {self.first_line}" if self.rows == 1 else f"lines {self.first_line} to {self.last_line}"
        return f"{self.file}, {lines}" + (f", column {self.column}" if self.column else "")


@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that are not there: `from_ms` is the last one before the hole, `to_ms` the first one after it."""

    from_ms: int
    to_ms: int
    missing: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two rows of the same candle (or trade) with different content; the one at `kept_*` counts."""

    key: str
    file: str
    line: int
    kept_file: str
    kept_line: int
    columns: tuple[str, ...]
    """Up to five columns that differ."""


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A column that begins (`appears`) or ends (`vanishes`) inside the log."""

    name: str
    change: str
    ts_ms: int
    """Candle of the first row with the column, or of the last one."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A column that was not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Misnamed:
    """A column that holds something else than its name says."""

    name: str
    holds: str
    rows: int


@dataclass(frozen=True, slots=True)
class LogFormat:
    """One way the log time was written, from which candle on, in how many rows."""

    format: str
    column: str
    first_ms: int
    rows: int


@dataclass(frozen=True, slots=True)
class LogTimes:
    """The moments of writing: their columns, formats, and seconds after the candle's opening."""

    columns: tuple[str, ...]
    formats: tuple[LogFormat, ...]
    rows: int
    delay_min_s: float
    delay_median_s: float
    delay_max_s: float


@dataclass(frozen=True, slots=True)
class Forming:
    """A row whose candle was, or may have been, still forming when it was written."""

    ts_ms: int
    file: str
    line: int
    proven: bool
    """True where the log time lies before the candle's close; False where merely nothing proves it closed."""
    dropped: bool


@dataclass(frozen=True, slots=True)
class ProfitUnit:
    """What a list's own profit column seems to hold, from a straight line fitted to the two prices' profit."""

    column: str
    unit: str
    """`fraction`, `percent` or `unknown`."""
    leverage: float | None
    fee_round_trip_ratio: float | None
    """Fees it has taken off, as a share of the entry price; 0 where it leaves them out."""
    fit: float
    """Share of the column's variance the line explains (1 is all)."""

    def sentence(self) -> str:
        if self.unit == "unknown":
            return (
                f"Column {self.column} does not follow from entry and exit price in any unit we know "
                f"(fit {self.fit:.2f}); it was not used, profit is worked out from the prices"
            )
        leverage = (
            "unleveraged" if self.leverage is None or abs(self.leverage - 1) < 0.005 else f"at {self.leverage:g}x"
        )
        unit = "percentage" if self.unit == "percent" else self.unit
        fees = (
            f"after {self.fee_round_trip_ratio:.4%} of fees per round trip"
            if self.fee_round_trip_ratio
            else "without fees"
        )
        return (
            f"Column {self.column} seems to be a {unit} {leverage}, {fees}; it was not used, "
            "profit is worked out from the prices, unleveraged and after your fee_ratio"
        )


@dataclass(frozen=True, slots=True)
class Overlap:
    """Trades of one side that begin before an earlier one of the same side has ended."""

    side: str
    trades: int
    of: int


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything worth knowing about a set of files, beside the rows themselves."""

    what: str
    """`observations`, `trades`, `candles` or `reference rows`."""
    files: tuple[FileRead, ...]
    rows_in: int
    rows_kept: int
    refused: tuple[Refused, ...] = ()
    refused_rows: int = 0
    filtered_rows: int = 0
    duplicates: int = 0
    conflicts: tuple[Conflict, ...] = ()
    conflict_rows: int = 0
    forming_dropped: int = 0
    still_forming: tuple[Forming, ...] = ()
    reordered: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    gaps: tuple[Gap, ...] = ()
    missing_candles: int = 0
    longest_gap: int = 0
    """Candles missing in the longest gap."""
    off_grid_rows: int = 0
    dead_columns: tuple[str, ...] = ()
    near_empty_columns: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    non_finite: dict[str, int] = field(default_factory=dict)
    """Column -> cells that are empty, NaN or infinite (they became `None`)."""
    columns_changed: tuple[ColumnChange, ...] = ()
    misnamed: tuple[Misnamed, ...] = ()
    log_times: LogTimes | None = None
    profit_units: tuple[ProfitUnit, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    notes: tuple[str, ...] = ()
    """Whatever else is worth a sentence."""

    @property
    def balanced(self) -> bool:
        """Whether every row that went in came out somewhere."""
        return self.rows_in == (
            self.rows_kept
            + self.refused_rows
            + self.duplicates
            + self.conflict_rows
            + self.forming_dropped
            + self.filtered_rows
        )

    @property
    def appeared(self) -> tuple[ColumnChange, ...]:
        return tuple(c for c in self.columns_changed if c.change == "appears")

    @property
    def vanished(self) -> tuple[ColumnChange, ...]:
        return tuple(c for c in self.columns_changed if c.change == "vanishes")

    def to_builtins(self) -> dict[str, Any]:
        """Return the same as plain dicts, lists, numbers and texts."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def sentences(self) -> list[str]:
        """Return what a person should know, most important first: what happened, what it means, what to do."""
        return list(_sentences(self))


def utc(ts_ms: int) -> str:
    """Write a time as a person reads it.

    >>> utc(1762145100000)
    '2025-11-03 04:45'
    """
    moment = datetime.fromtimestamp(ts_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S" if ts_ms % 60_000 else "%Y-%m-%d %H:%M")


def listed(items: Iterable[str], most: int = SHOWN_MAX) -> str:
    """Join `items` with commas; what goes beyond `most` is counted.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    names = list(items)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun.

    >>> count(1, "row"), count(2500, "row")
    ('1 row', '2,500 rows')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def span(seconds: float) -> str:
    """Write a number of seconds as minutes and seconds.

    >>> span(306)
    '5 min 6 s'
    """
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes else []
    parts += [f"{left} s"] if left or not parts else []
    return sign + " ".join(parts)


def _sentences(f: Findings) -> Iterable[str]:
    period = (
        f" from {utc(f.first_ms)} to {utc(f.last_ms)} UTC" if f.first_ms is not None and f.last_ms is not None else ""
    )
    files = count(len(f.files), "file")
    yield f"Read {count(f.rows_kept, f.what[:-1], f.what)} out of {count(f.rows_in, 'row')} in {files}{period}."
    empty = [file.name for file in f.files if not file.rows]
    if empty:
        yield f"No rows at all in {listed(empty)}: a failed download, or a bot that wrote nothing. Check it."
    if f.refused_rows:
        verb = "was" if f.refused_rows == 1 else "were"
        yield f"{count(f.refused_rows, 'row')} could not be understood and {verb} left out:"
        for item in f.refused[:SHOWN_MAX]:
            yield f"  {item.place}: {item.reason}."
        if len(f.refused) > SHOWN_MAX:
            yield f"  ... and {len(f.refused) - SHOWN_MAX} more places."
    for file in f.files:
        for use in file.headers:
            if use.borrowed:
                yield (
                    f"{file.name}: {count(use.rows, 'row')} from line {use.first_line} to {use.last_line} "
                    f"{'has' if use.rows == 1 else 'have'} {use.width} columns, unlike the file's own header. "
                    f"Their columns were named by {use.header}; every value stands under its own name."
                )
    if f.filtered_rows:
        yield f"{count(f.filtered_rows, 'row')} left out because the mapping asks for others (`only`)."
    yield from _order(f)
    yield from _forming(f)
    for found in f.misnamed:
        yield f"Column {found.name} is misnamed: it holds {found.holds} ({count(found.rows, 'row')}). It was not used."
    yield from _log_times(f)
    yield from _columns(f)
    for unit in f.profit_units:
        yield unit.sentence() + "."
    for overlap in f.overlaps:
        yield (
            f"{overlap.trades:,} of {overlap.of:,} {overlap.side} trades begin before an earlier one has ended: this "
            "looks like overlapping windows glued together. Win rates of such a list count some market hours twice."
        )
    yield from f.notes


def _order(f: Findings) -> Iterable[str]:
    if f.gaps:
        longest = max(f.gaps, key=lambda gap: gap.missing)
        yield (
            f"{count(f.missing_candles, 'candle')} missing in {count(len(f.gaps), 'gap')}; the longest holds "
            f"{longest.missing:,} ({utc(longest.from_ms)} to {utc(longest.to_ms)} UTC). Nothing was filled in."
        )
    if f.off_grid_rows:
        yield (
            f"{count(f.off_grid_rows, 'row')} do not begin where a candle begins. If the time is the moment of "
            'writing, set the mapping key time_is = "logged"; if the timeframe is wrong, give the right one.'
        )
    if f.duplicates:
        yield f"{count(f.duplicates, 'row')} stood there twice, with the same content; each was counted once."
    if f.conflict_rows:
        first = f.conflicts[0]
        yield (
            f"{count(f.conflict_rows, 'row')} contradict an earlier row of the same key; the first one was kept "
            f"(e.g. {first.key}: {first.file} line {first.line} against {first.kept_file} line {first.kept_line}"
            + (f", in {listed(first.columns)}" if first.columns else "")
            + ")."
        )
    if f.reordered:
        yield f"{count(f.reordered, 'row')} stood out of time order; they were sorted in."


def _forming(f: Findings) -> Iterable[str]:
    dropped = [item for item in f.still_forming if item.dropped]
    proven = [item for item in f.still_forming if item.proven and not item.dropped]
    rest = [item for item in f.still_forming if not item.proven and not item.dropped]
    for item in dropped[:SHOWN_MAX]:
        why = "it was written before the candle closed" if item.proven else "nothing after it proves that it had closed"
        where = f"{utc(item.ts_ms)} UTC ({item.file}, line {item.line})"
        yield f"The candle of {where} was left out as still forming: {why}."
    if proven:
        yield (
            f"{count(len(proven), 'row')} bear a log time before their candle's close (first: "
            f"{utc(proven[0].ts_ms)} UTC): the model saw a candle that was still forming, "
            "or the log time is in another zone than assumed."
        )
    for item in rest[:SHOWN_MAX]:
        yield (
            f"Nothing proves that the last candle, {utc(item.ts_ms)} UTC ({item.file}, line {item.line}), had closed; "
            "it was kept. If it had not, read the file with drop_last."
        )


def _log_times(f: Findings) -> Iterable[str]:
    if f.log_times is None:
        return
    times = f.log_times
    yield (
        f"Rows were written {span(times.delay_min_s)} to {span(times.delay_max_s)} after their candle opened "
        f"(median {span(times.delay_median_s)}; {listed(times.columns)})."
    )
    for before, after in zip(times.formats, times.formats[1:], strict=False):
        yield (
            f"The log time changes its format at {utc(after.first_ms)} UTC: from {before.format} ({before.column}) to "
            f"{after.format} ({after.column}). Both were read."
        )


def _columns(f: Findings) -> Iterable[str]:
    for change, verb in (("appears", "begin"), ("vanishes", "end")):
        groups: dict[int, list[str]] = {}
        for item in f.columns_changed:
            if item.change == change:
                groups.setdefault(item.ts_ms, []).append(item.name)
        for ts_ms, names in sorted(groups.items())[:SHOWN_MAX]:
            when = "at" if change == "appears" else "after"
            ending = "s" if len(names) == 1 else ""
            yield f"{count(len(names), 'column')} {verb}{ending} {when} {utc(ts_ms)} UTC: {listed(names)}."
    if f.dead_columns:
        yield (
            f"{count(len(f.dead_columns), 'column')} never change{'s' if len(f.dead_columns) == 1 else ''} and cannot "
            f"tell anything: {listed(f.dead_columns, 20)}. Look for a bug in how they are computed."
        )
    if f.near_empty_columns:
        yield f"{count(len(f.near_empty_columns), 'column')} mostly empty: {listed(f.near_empty_columns, 20)}."
    if f.non_finite:
        most = sorted(f.non_finite.items(), key=lambda item: (-item[1], item[0]))
        yield (
            f"{count(sum(f.non_finite.values()), 'cell')} empty, NaN or infinite, read as missing: "
            + listed(f"{name} {number:,}" for name, number in most)
            + "."
        )
    reasons: dict[str, list[str]] = {}
    for left in f.left_out:
        reasons.setdefault(left.reason, []).append(left.name or "(no name)")
    for reason, names in reasons.items():
        yield f"Left out, {reason}: {listed(names)}."


class Tally:
    """Collects findings while files are read; `freeze` makes `Findings` of them. Never leaves this package."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.formats: list[str] = []
        self.rows: list[int] = []
        self.headers: dict[tuple[int, int, str, bool], list[int]] = {}
        self.widths: dict[int, set[int]] = {}
        self.notes: list[str] = []
        self._refused: list[tuple[int, int, str, str, str]] = []

    def file(self, name: str) -> int:
        """Begin a file; return its number."""
        self.names.append(name)
        self.formats.append("")
        self.rows.append(0)
        return len(self.names) - 1

    def refuse(self, file: int, line: int, code: str, reason: str, column: str | None = None) -> None:
        self._refused.append((file, line, code, column or "", reason))

    @property
    def refused_rows(self) -> int:
        return len(self._refused)

    def used(self, file: int, lines: Sequence[int], *, width: int, header: str, borrowed: bool) -> None:
        """Note that `header` names the columns of `lines`."""
        entry = self.headers.setdefault((file, width, header, borrowed), [min(lines), max(lines), 0])
        entry[0], entry[1], entry[2] = min(entry[0], *lines), max(entry[1], *lines), entry[2] + len(lines)

    def refused(self) -> tuple[Refused, ...]:
        """Return what was refused, neighbouring lines with the same reason put together."""
        found: list[Refused] = []
        for file, line, code, column, reason in sorted(self._refused, key=lambda item: item[:4]):
            last = found[-1] if found else None
            if (
                last is not None
                and (last.file, last.code, last.column or "") == (self.names[file], code, column)
                and line == last.last_line + 1
            ):
                found[-1] = Refused(last.file, last.first_line, line, last.rows + 1, code, last.column, last.reason)
            else:
                found.append(Refused(self.names[file], line, line, 1, code, column or None, reason))
        return tuple(found)

    def freeze(self, what: str, *, rows_kept: int, **rest: Any) -> Findings:
        files = tuple(
            FileRead(
                name=name,
                format=self.formats[i],
                rows=self.rows[i],
                widths=tuple(sorted(self.widths.get(i, ()))),
                headers=tuple(
                    HeaderUse(first, last, rows, width, header, borrowed)
                    for (file, width, header, borrowed), (first, last, rows) in sorted(
                        self.headers.items(), key=lambda item: item[1]
                    )
                    if file == i
                ),
            )
            for i, name in enumerate(self.names)
        )
        return Findings(
            what=what,
            files=files,
            rows_in=sum(self.rows),
            rows_kept=rows_kept,
            refused=self.refused(),
            refused_rows=self.refused_rows,
            notes=tuple(self.notes),
            **rest,
        )
