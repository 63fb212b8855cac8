"""Rows in time order: what feature logs, candle files and reference samples have in common.

From tables (`tables.py`: every cell under its right name) to a `Frame` (arrays, one row a candle), in this order, and
a row that fails goes no further:

    only            the mapping's `only` leaves it out
    time            its time must be a time
    times-disagree  two columns that otherwise hold the same time must do so here
    number          a cell of a feature, price or probability must be a number, or empty
    probability     must lie in 0..1
    candle          low <= open, close <= high, prices above 0
    header          (rows named by a header from elsewhere) it must look like the rest of the log
    order           sorted by time; same time and content: duplicate; other content: conflict, the first one counts
    forming         the last row, if its candle had not closed
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Any, Literal

import numpy as np

from regime.codec import FEATURES_MAX
from regime.config import ignored
from regime.errors import OperatorError
from regime.events import LABEL_LENGTH_MAX
from regime.timeframe import timeframe_ms
from regime_service.logs.findings import (
    ColumnChange,
    Conflict,
    Findings,
    Forming,
    Gap,
    LeftOut,
    LogFormat,
    LogTimes,
    Misnamed,
    count,
    listed,
    span,
    utc,
)
from regime_service.logs.mapping import (
    CANDLE_NAMES,
    LOG_PREFIXES,
    PROBABILITY_NAMES,
    STREAM_NAMES,
    TAKEN_NAMES,
    TIME_NAMES,
    LogMapping,
    TableMapping,
    require,
    zone,
)
from regime_service.logs.tables import Chunk, Column, Floats, Ints, Mask, Tables, time_format, times_ms, without

DropLast = Literal["auto"] | bool
"""Whether a last candle that may be still forming is left out; `auto` decides by what the file is."""
What = Literal["observations", "candles", "reference rows"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TIME_LIKE = re.compile(r"(^|_)(time|timestamp|date|datetime|at|ts|ms|utc|kst)$")
_DAY_MS = 86_400_000
_BINARY_ROWS_MIN = 50
"""Rows after which a column of nothing but 0 and 1 counts as one that holds nothing else."""
_BINARY_BROKEN_MIN = 3
"""So many such columns with other values under a borrowed header: it is the wrong header."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column became what. Candle, probability and taken: role -> column names, best first."""

    time: tuple[str, ...] = ()
    """Columns that hold the candle's time; the first one there is counts."""
    log_times: tuple[str, ...] = ()
    candle: dict[str, tuple[str, ...]] = field(default_factory=dict)
    probabilities: dict[str, tuple[str, ...]] = field(default_factory=dict)
    taken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    features: tuple[str, ...] = ()


@dataclass(slots=True)
class Frame:
    """Rows in time order. NaN is a missing value; `layout` says which features a row has at all."""

    columns: Columns
    names: tuple[str, ...]
    values: Floats
    layout: Ints
    layouts: list[tuple[int, ...]]
    ts_ms: Ints
    timed: bool
    candle: Floats
    probabilities: dict[str, Floats]
    taken: dict[str, Floats]
    log_ms: Floats
    file: Ints
    line: Ints

    @property
    def rows(self) -> int:
        return len(self.ts_ms)

    def take(self, index: Ints) -> Frame:
        return Frame(
            self.columns,
            self.names,
            self.values[index],
            self.layout[index],
            self.layouts,
            self.ts_ms[index],
            self.timed,
            self.candle[index],
            {name: column[index] for name, column in self.probabilities.items()},
            {name: column[index] for name, column in self.taken.items()},
            self.log_ms[index],
            self.file[index],
            self.line[index],
        )


def read_frame(
    tables: Tables,
    mapping: LogMapping,
    what: What,
    *,
    timeframe: str | None,
    drop_last: DropLast = False,
) -> tuple[Frame, Findings]:
    """Judge every row of `tables`. Raises `OperatorError` where no row at all can be used, or no column is the time."""
    return _Builder(tables, mapping, what, timeframe).build(drop_last)


def step_ms(timeframe: str) -> int:
    """Return the length of a candle; raises `OperatorError` for a timeframe that is none."""
    try:
        return timeframe_ms(timeframe)
    except ValueError as error:
        raise OperatorError(str(error)) from None


def keep_only(tables: Tables, mapping: TableMapping) -> int:
    """Leave out rows that the mapping's `only` does not ask for; return their number. Raises where none is left."""
    names = tables.names
    for name in mapping.only:
        if tables.chunks:
            require(f"only.{name}", name, names)
    left = 0
    kept: list[Chunk] = []
    for chunk in tables.chunks:
        keep = np.ones(chunk.rows, dtype=bool)
        for name, wanted in mapping.only.items():
            column = chunk.column(name)
            if column is None:
                keep[:] = False
                continue
            for i in range(chunk.rows):
                text = column.texts.get(i)
                keep[i] &= text == wanted if text is not None else _same_number(float(column.numbers[i]), wanted)
        left += int(chunk.rows - keep.sum())
        chunk = without(chunk, keep)
        if chunk.rows:
            kept.append(chunk)
    if left and not kept:
        raise OperatorError(f"the mapping key `only` leaves none of {count(left, 'row')}; check the words it asks for")
    tables.chunks = kept
    if not kept:
        raise nothing(tables)
    return left


def one_stream(tables: Tables, mapping: TableMapping) -> None:
    """Refuse files that hold several streams, unless `only` picks one: mixed rows would be nonsense."""
    for name in tables.names:
        if name.lower() in ("model", "symbol", "pair", "timeframe", "interval") and name not in mapping.only:
            values = sorted({text for c in tables.chunks if (col := c.column(name)) for text in col.texts.values()})
            if len(values) > 1:
                raise OperatorError(
                    f"column {name} names {len(values)} different ones ({listed(values, 4)}); "
                    f'say which one is meant by the mapping key only = {{{name} = "{values[0]}"}}'
                )


def nothing(tables: Tables) -> OperatorError:
    """Return the one sentence for files without any usable row."""
    refused = tables.tally.refused()
    if refused:
        first = refused[0]
        total = tables.tally.refused_rows
        return OperatorError(f"no usable row: {first.place}: {first.reason} ({count(total, 'row')} refused in all)")
    return OperatorError(f"no rows at all in {listed(tables.tally.names)}: header only or empty")


def _same_number(number: float, wanted: str) -> bool:
    try:
        return number == float(wanted)
    except ValueError:
        return False


def _named_zone(name: str, default: tzinfo) -> tzinfo:
    """The zone that a log time's own name claims (`logged_at_utc`, `logged_at_kst`)."""
    lower = name.lower()
    if lower.endswith("utc"):
        return UTC
    if lower.endswith(("kst", "jst")):
        return timezone(timedelta(hours=9))
    return default


class _Builder:
    def __init__(self, tables: Tables, mapping: LogMapping, what: What, timeframe: str | None) -> None:
        self.tables = tables
        self.tally = tables.tally
        self.mapping = mapping
        self.what = what
        self.step = None if timeframe is None else step_ms(timeframe)
        self.timeframe = timeframe
        self.zone = zone(mapping.timezone)
        self.left_out: dict[str, str] = {}
        self.misnamed: list[Misnamed] = []

    # --- which column is what

    def _name_columns(self) -> Columns:
        names = self.tables.names
        self._check_twice()
        for name in names:
            if self._ignored(name):
                self.left_out[name] = "because the mapping says so"
        free = [name for name in names if name not in self.left_out]
        times = self._time_columns(free)
        free = [name for name in free if name not in times]
        logs = [name for name in free if self._is_log_time(name)]
        free = [name for name in free if name not in logs]
        candle: dict[str, list[str]] = {}
        for name in free:
            lower = name.lower().removeprefix("candle.")
            if lower in CANDLE_NAMES and not name.startswith("features."):
                candle.setdefault(lower, []).append(name)
        probabilities = self._claims(free, PROBABILITY_NAMES, configured=True)
        taken = self._claims(free, TAKEN_NAMES, configured=False)
        used = {name for group in (candle, probabilities, taken) for found in group.values() for name in found}
        features = [name for name in free if self._is_feature(name, name in used, candle)]
        if self.what == "candles":
            features = []
            self.left_out = {n: why for n, why in self.left_out.items() if why.startswith("because")}
        elif len(features) > FEATURES_MAX:
            raise OperatorError(f"{len(features):,} feature columns; at most {FEATURES_MAX:,} are accepted")
        return Columns(
            time=tuple(times),
            log_times=tuple(logs),
            candle={role: tuple(found) for role, found in candle.items()},
            probabilities={role: tuple(found) for role, found in probabilities.items()},
            taken={role: tuple(found) for role, found in taken.items()},
            features=tuple(features),
        )

    def _ignored(self, name: str) -> bool:
        return ignored(name, self.mapping.ignore) or ignored(name.removeprefix("features."), self.mapping.ignore)

    def _check_twice(self) -> None:
        for chunk in self.tables.chunks:
            if len(set(chunk.names)) == len(chunk.names):
                continue
            for i, name in enumerate(chunk.names):
                first = chunk.names.index(name)
                if first != i and name and not self._ignored(name):
                    where = chunk.header.where if chunk.header else self.tally.names[chunk.file]
                    raise OperatorError(
                        f"{where}, column {i + 1}: the name `{name}` stood there before (column {first + 1}); "
                        "rename one, or leave both out by the mapping key `ignore`"
                    )

    def _time_columns(self, names: list[str]) -> list[str]:
        if self.mapping.time is not None:
            require("time", self.mapping.time, names)
        ranked = sorted(
            (name for name in names if name.lower() in TIME_NAMES), key=lambda name: TIME_NAMES.index(name.lower())
        )
        good = [name for name in ranked if self._holds_times(name)]
        if self.mapping.time is not None:
            good = [self.mapping.time, *(name for name in good if name != self.mapping.time)]
        if not good:
            if self.what == "reference rows":
                return []
            shown = listed(f"`{name}`" for name in names if name)
            raise OperatorError(
                f"{self.tally.names[self.tables.chunks[0].file]}: no column holds the candle's time (looked for "
                f"{listed((f'`{n}`' for n in TIME_NAMES if n), 6)}; there are {shown}); "
                "name it by the mapping key `time`"
            )
        return good

    def _holds_times(self, name: str) -> bool:
        """Whether most cells of a column are plausible times."""
        if self.tables.kinds.get(name) == "text":
            return False
        filled = good = 0
        for column in self._columns(name):
            filled += int(np.count_nonzero(~np.isnan(column.numbers))) + len(column.texts)
            good += int(np.count_nonzero(~np.isnan(times_ms(column, self.zone))))
        return good * 2 > filled

    def _columns(self, name: str) -> Iterable[Column]:
        for chunk in self.tables.chunks:
            if (column := chunk.column(name)) is not None:
                yield column

    def _is_log_time(self, name: str) -> bool:
        if ignored(name, self.mapping.log_times):
            return True
        return name.lower().startswith(LOG_PREFIXES) and self._holds_times(name)

    def _claims(self, names: list[str], usual: dict[str, tuple[str, ...]], *, configured: bool) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for role, aliases in usual.items():
            own = self.mapping.probability(role) if configured else None
            if own is not None:
                require(f"probability_{role}", own, names)
                found[role] = [own]
                continue
            ranked = sorted((n for n in names if n.lower() in aliases), key=lambda n: aliases.index(n.lower()))
            if ranked:
                found[role] = ranked
        return found

    def _is_feature(self, name: str, used: bool, candle: dict[str, list[str]]) -> bool:
        if used:
            in_candle = any(name in found for found in candle.values())
            return in_candle and self.mapping.candle_as_features and not name.startswith("candle.")
        kind = self.tables.kinds.get(name, "number")
        bare = name.removeprefix("features.")
        if not name or re.fullmatch(r"__index_level_\d+__", name):
            self.left_out[name] = "a column without a name (pandas writes its row numbers like that)"
        elif name.lower() in STREAM_NAMES:
            self.left_out[name] = "names the stream"
        elif kind == "text":
            self.left_out[name] = "holds words, not numbers"
        elif kind == "time" or self._looks_like_time(name):
            self.left_out[name] = "holds times"
        elif len(bare) > LABEL_LENGTH_MAX or not bare or _CONTROL.search(bare):
            self.left_out[name] = f"its name is longer than {LABEL_LENGTH_MAX} characters or not printable"
        elif self.mapping.features and not ignored(bare, self.mapping.features):
            self.left_out[name] = "not among the features of the mapping"
        else:
            return True
        return False

    def _looks_like_time(self, name: str) -> bool:
        if not _TIME_LIKE.search(name.lower()):
            return False
        values = np.concatenate([column.numbers for column in self._columns(name)])
        finite = values[np.isfinite(values)]
        return len(finite) > 0 and bool(np.all((finite > 1e9) & (finite < 5e18) & (finite == np.floor(finite))))

    # --- rows

    def build(self, drop_last: DropLast) -> tuple[Frame, Findings]:
        filtered = keep_only(self.tables, self.mapping)
        one_stream(self.tables, self.mapping)
        columns = self._name_columns()
        if self.what == "candles":
            for role in CANDLE_NAMES:
                if role not in columns.candle:
                    names = listed(f"`{name}`" for name in self.tables.names if name)
                    raise OperatorError(
                        f"{self.tally.names[self.tables.chunks[0].file]}: no column `{role}` (there are {names}); "
                        "name it by the mapping key `rename`"
                    )
        self.columns = self._sort_out_times(columns)
        self._partial_candle()
        self.names = tuple(dict.fromkeys(name.removeprefix("features.") for name in self.columns.features))
        self.place = {name: i for i, name in enumerate(self.names)}
        if len(self.names) < len(self.columns.features):
            twice = sorted(
                n for n in self.columns.features if n.startswith("features.") and n[9:] in self.columns.features
            )
            raise OperatorError(f"the feature `{twice[0][9:]}` stands both inside and outside of `features`")
        self.layouts: list[tuple[int, ...]] = []
        self.known: dict[tuple[int, ...], int] = {}
        own = [part for chunk in self.tables.chunks if not chunk.borrowed if (part := self._part(chunk, None))]
        looks = self._looks(own)
        parts = own + [p for chunk in self.tables.chunks if chunk.borrowed if (p := self._part(chunk, looks))]
        if not parts:
            raise nothing(self.tables)
        frame = _joined(parts, self)
        return self._finish(frame, filtered, drop_last)

    def _partial_candle(self) -> None:
        missing = [role for role in CANDLE_NAMES if role not in self.columns.candle]
        if missing and len(missing) < len(CANDLE_NAMES):
            for found in self.columns.candle.values():
                for name in found:
                    if name not in self.columns.features:
                        self.left_out[name] = f"part of a candle, but there is no {listed(missing)}"

    def _sort_out_times(self, columns: Columns) -> Columns:
        """Tell apart columns that all claim to be the candle's time, and log times that hold something else."""
        if not columns.time:
            return columns
        first = columns.time[0]
        same, other = list(columns.time[:1]), list[str]()
        for name in columns.time[1:]:
            agree, both, later = self._compare(first, name)
            # Never in one row together (files with different names): as good as the first. Else the majority decides.
            if both == 0 or agree * 2 > both:
                same.append(name)
            elif later * 2 > both:
                other.append(name)
            else:
                self.left_out[name] = f"holds another time than {first}"
        logs: list[str] = []
        for name in (*columns.log_times, *other):
            agree, both, _ = self._compare(first, name)
            if both >= 3 and agree >= 0.95 * both:
                agree, _, _ = self._compare(first, name, borrowed=True)
                self.misnamed.append(
                    Misnamed(name, "the candle's opening time in UTC, not the moment of writing", agree)
                )
            else:
                logs.append(name)
        return Columns(tuple(same), tuple(logs), columns.candle, columns.probabilities, columns.taken, columns.features)

    def _compare(self, first: str, name: str, *, borrowed: bool = False) -> tuple[int, int, int]:
        """Return in how many rows `name` holds the same moment as `first`, has both, and is later."""
        agree = both = later = 0
        for chunk in self.tables.chunks:
            a, b = chunk.column(first), chunk.column(name)
            if a is None or b is None or (chunk.borrowed and not borrowed):
                continue
            reference = times_ms(a, self.zone)
            # A log time in words is compared as UTC, whatever zone its name claims.
            times = times_ms(b, UTC if name.lower().startswith(LOG_PREFIXES) else self.zone)
            known = np.isfinite(reference) & np.isfinite(times)
            both += int(known.sum())
            agree += int((reference[known] == times[known]).sum())
            later += int((reference[known] < times[known]).sum())
        return agree, both, later

    def _refuse(self, chunk: Chunk, ok: Mask, bad: Mask, code: str, column: str | None, reason: Any) -> None:
        """Refuse rows `bad` of a chunk, unless they were refused before. `reason(i)` says why row i is."""
        for i in np.flatnonzero(bad & ok).tolist():
            self.tally.refuse(chunk.file, chunk.lines[i], code, reason(i), column)
        ok &= ~bad

    def _part(self, chunk: Chunk, looks: _Looks | None) -> _Part | None:
        ok = np.ones(chunk.rows, dtype=bool)
        ts = self._part_times(chunk, ok)
        if looks is not None:
            self._check_looks(chunk, ok, ts, looks)
        used = {n for group in (self.columns.candle, self.columns.probabilities) for f in group.values() for n in f}
        if self.what == "candles":
            used = {n for f in self.columns.candle.values() for n in f}
        used |= {n for f in self.columns.taken.values() for n in f} | set(self.columns.features)
        for name, column in zip(chunk.names, chunk.columns, strict=True):
            if column.texts and name in used:
                bad = np.zeros(chunk.rows, dtype=bool)
                bad[list(column.texts)] = True
                self._refuse(chunk, ok, bad, "number", name, lambda i, c=column: f"{c.texts[i][:40]!r} is not a number")
        probabilities = {role: self._first(chunk, names) for role, names in self.columns.probabilities.items()}
        for role, values in probabilities.items():
            with np.errstate(invalid="ignore"):
                bad = np.isfinite(values) & ((values < 0) | (values > 1))
            self._refuse(
                chunk, ok, bad, "probability", self.columns.probabilities[role][0],
                lambda i, v=values: (
                    f"{v[i]:g} is not a probability; it must lie in 0..1 (a percentage must be divided by 100)"
                ),
            )  # fmt: skip
        candle = self._part_candle(chunk, ok)
        log_ms = self._part_log_times(chunk)
        features = set(self.columns.features)
        names = [pair for pair in zip(chunk.names, chunk.columns, strict=True) if pair[0] in features]
        index = tuple(self.place[name.removeprefix("features.")] for name, _ in names)
        layout = self.known.setdefault(index, len(self.known))
        if layout == len(self.layouts):
            self.layouts.append(index)
        for i in chunk.cut:
            if ok[i]:
                self.tally.notes.append(
                    f"{self.tally.names[chunk.file]}: the last line ({chunk.lines[i]}) has all its cells but no line "
                    "end; if the bot was writing it, its last cell may be cut off."
                )
        keep = np.flatnonzero(ok)
        if not len(keep):
            return None
        values = np.column_stack([column.numbers[keep] for _, column in names]) if names else np.empty((len(keep), 0))
        return _Part(
            file=chunk.file,
            lines=np.array(chunk.lines, dtype=np.int64)[keep],
            names=chunk.names,
            ts=ts[keep],
            layout=layout,
            values=np.where(np.isfinite(values), values, np.nan),
            candle=candle[keep],
            probabilities={role: column[keep] for role, column in probabilities.items()},
            taken={role: self._first(chunk, names_)[keep] for role, names_ in self.columns.taken.items()},
            log_ms=log_ms[keep],
            log_formats=self._formats(chunk, keep),
        )

    def _first(self, chunk: Chunk, names: tuple[str, ...]) -> Floats:
        """Return the numbers of the first of `names` that the chunk has; NaN where it has none."""
        for name in names:
            if (column := chunk.column(name)) is not None:
                return np.where(np.isfinite(column.numbers), column.numbers, np.nan)
        return np.full(chunk.rows, np.nan)

    def _part_times(self, chunk: Chunk, ok: Mask) -> Floats:
        there = [name for name in self.columns.time if name in chunk.names]
        if not there:
            if self.what == "reference rows" and not self.columns.time:
                return np.array(chunk.lines, dtype=np.float64)
            name = self.columns.time[0]
            self._refuse(chunk, ok, ok.copy(), "time", name, lambda i: "this row has no such column, so no time")
            return np.full(chunk.rows, np.nan)
        first = chunk.column(there[0])
        assert first is not None
        ts = times_ms(first, self.zone)

        def reason(i: int) -> str:
            text = first.texts.get(i) or ("" if math.isnan(first.numbers[i]) else f"{first.numbers[i]:.15g}")
            return f"{text[:40]!r} is not a time" if text else "the time is missing"

        self._refuse(chunk, ok, np.isnan(ts), "time", there[0], reason)
        for name in there[1:]:
            second = chunk.column(name)
            assert second is not None
            other = times_ms(second, self.zone)
            with np.errstate(invalid="ignore"):
                differs = np.isfinite(other) & (other != ts)
            if chunk.borrowed:
                differs |= np.isnan(other)
            self._refuse(
                chunk, ok, differs, "times-disagree", name,
                lambda i, o=other, n=name: (
                    f"{there[0]} says {utc(int(ts[i]))}, {n} says {'nothing' if math.isnan(o[i]) else utc(int(o[i]))}"
                ),
            )  # fmt: skip
        if self.mapping.time_is != "open":
            if self.step is None:
                raise OperatorError('`time_is`: other than "open" needs a timeframe')
            ts = ts - self.step if self.mapping.time_is == "close" else ts - ts % self.step - self.step
            self._refuse(chunk, ok, ts < 0, "time", there[0], lambda i: "the time is out of range")
        return ts

    def _part_candle(self, chunk: Chunk, ok: Mask) -> Floats:
        found = np.column_stack([self._first(chunk, self.columns.candle.get(role, ())) for role in CANDLE_NAMES])
        o, h, low, c, v = found.T
        if self.what == "candles":
            for role, values in zip(CANDLE_NAMES, found.T, strict=True):
                self._refuse(chunk, ok, np.isnan(values), "candle", role, lambda i, r=role: f"the {r} is missing")
        with np.errstate(invalid="ignore"):
            bad = (
                (low > np.minimum(o, c))
                | (h < np.maximum(o, c))
                | (np.nanmin(found[:, :4], axis=1, initial=np.inf) <= 0)
                | (v < 0)
            )
        bad &= ~np.isnan(found).any(axis=1)
        self._refuse(
            chunk, ok, bad, "candle", "high" if "high" in chunk.names else None,
            lambda i: (
                f"this is no candle: open {o[i]:g}, high {h[i]:g}, low {low[i]:g}, close {c[i]:g}, volume {v[i]:g}"
            ),
        )  # fmt: skip
        return found

    def _part_log_times(self, chunk: Chunk) -> Floats:
        found = np.full(chunk.rows, np.nan)
        for name in self.columns.log_times:
            if (column := chunk.column(name)) is not None:
                times = times_ms(column, _named_zone(name, self.zone))
                found = np.where(np.isnan(found), times, found)
        return found

    def _formats(self, chunk: Chunk, keep: Ints) -> list[tuple[str, str]]:
        names = [name for name in self.columns.log_times if name in chunk.names]
        if not names:
            return []
        column = chunk.column(names[0])
        assert column is not None
        return [
            (time_format(column.texts[i]) if i in column.texts else "epoch number", names[0]) for i in keep.tolist()
        ]

    # --- rows named by a header from elsewhere must look like the others

    def _looks(self, parts: list[_Part]) -> _Looks:
        if not parts:
            return _Looks(-math.inf, math.inf, frozenset())
        first = min(float(p.ts.min()) for p in parts)
        last = max(float(p.ts.max()) for p in parts)
        room = max(7 * _DAY_MS, last - first)
        seen: dict[int, int] = {}
        broken: set[int] = set()
        for p in parts:
            index = self.layouts[p.layout]
            for place, column in zip(index, p.values.T, strict=True):
                finite = column[~np.isnan(column)]
                seen[place] = seen.get(place, 0) + len(finite)
                if place not in broken and not np.all((finite == 0) | (finite == 1)):
                    broken.add(place)
        binary = frozenset(
            self.names[place] for place, rows in seen.items() if rows >= _BINARY_ROWS_MIN and place not in broken
        )
        return _Looks(first - room, last + room, binary)

    def _check_looks(self, chunk: Chunk, ok: Mask, ts: Floats, looks: _Looks) -> None:
        assert chunk.header is not None
        where = chunk.header.where
        with np.errstate(invalid="ignore"):
            outside = (ts < looks.first_ms) | (ts > looks.last_ms)
        self._refuse(
            chunk, ok, outside, "header", self.columns.time[0] if self.columns.time else None,
            lambda i: f"named by {where}, its time would be {utc(int(ts[i]))}, far outside of this log",
        )  # fmt: skip
        for name, column in zip(chunk.names, chunk.columns, strict=True):
            if name in self.columns.log_times or any(name == found.name for found in self.misnamed):
                missing = np.isnan(times_ms(column, UTC)) & (
                    np.isfinite(column.numbers) | _has_text(column, chunk.rows)
                )
                self._refuse(
                    chunk, ok, missing, "header", name,
                    lambda i, c=column: (
                        f"named by {where}, this column would hold "
                        f"{c.texts.get(i, f'{c.numbers[i]:g}')[:40]!r}, which is not a time"
                    ),
                )  # fmt: skip
            elif self.tables.kinds.get(name) == "number" and column.texts:
                bad = _has_text(column, chunk.rows)
                self._refuse(
                    chunk, ok, bad, "header", name,
                    lambda i, c=column: (
                        f"named by {where}, this column would hold {c.texts[i][:40]!r}, which is not a number"
                    ),
                )  # fmt: skip
        rows = int(ok.sum())
        if not rows or not looks.binary:
            return
        wrong: list[str] = []
        for name, column in zip(chunk.names, chunk.columns, strict=True):
            if name in looks.binary:
                values = column.numbers[ok]
                others = np.isfinite(values) & (values != 0) & (values != 1)
                if others.sum() * 5 > rows:
                    wrong.append(name)
        if len(wrong) >= _BINARY_BROKEN_MIN:
            self._refuse(
                chunk, ok, ok.copy(), "header", wrong[0],
                lambda i: (
                    f"named by {where}, {len(wrong)} columns that hold only 0 and 1 elsewhere would hold other values "
                    f"({listed(wrong, 3)}): that header does not belong to these rows; "
                    "give theirs in the mapping key extra_headers"
                ),
            )  # fmt: skip

    # --- order, holes, duplicates, the last candle

    def _finish(self, frame: _Joined, filtered: int, drop_last: DropLast) -> tuple[Frame, Findings]:
        rows = frame.frame
        duplicates = conflict_rows = reordered = 0
        conflicts: list[Conflict] = []
        if rows.timed:
            reordered = int((rows.ts_ms < np.maximum.accumulate(rows.ts_ms)).sum())
            order = np.argsort(rows.ts_ms, kind="stable")
            frame = frame.take(order)
            keep, duplicates, conflicts, superseded = self._distinct(frame)
            conflict_rows = len(conflicts)
        else:
            keep, superseded = np.arange(rows.rows), []
        frame = frame.take(keep)
        forming, dropped = self._forming(frame.frame, drop_last)
        if dropped:
            frame = frame.take(np.arange(frame.frame.rows - dropped))
        rows = frame.frame
        if not rows.rows:
            raise OperatorError(
                f"{listed(self.tally.names)}: the only candle was still forming; nothing is left to read"
            )
        gaps = self._gaps(rows.ts_ms) if rows.timed and self.step else []
        findings = self.tally.freeze(
            self.what,
            rows_kept=rows.rows,
            filtered_rows=filtered,
            duplicates=duplicates,
            conflicts=tuple(conflicts),
            conflict_rows=conflict_rows,
            forming_dropped=dropped + len(superseded),
            still_forming=tuple(sorted((*superseded, *forming), key=lambda item: item.ts_ms)),
            reordered=reordered,
            first_ms=int(rows.ts_ms[0]) if rows.timed else None,
            last_ms=int(rows.ts_ms[-1]) if rows.timed else None,
            gaps=tuple(gaps),
            missing_candles=sum(gap.missing for gap in gaps),
            longest_gap=max((gap.missing for gap in gaps), default=0),
            off_grid_rows=self._off_grid(rows.ts_ms) if rows.timed and self.step else 0,
            **self._column_findings(frame),
        )
        return rows, findings

    def _distinct(self, frame: _Joined) -> tuple[Ints, int, list[Conflict], list[Forming]]:
        rows = frame.frame
        conflicts: list[Conflict] = []
        superseded: list[Forming] = []
        duplicates = 0
        keep = np.ones(rows.rows, dtype=bool)
        last_line = {int(f): int(rows.line[rows.file == f].max()) for f in np.unique(rows.file)}
        kept = 0
        for i in (np.flatnonzero(np.diff(rows.ts_ms) == 0) + 1).tolist():
            if rows.ts_ms[kept] != rows.ts_ms[i] or kept == i:
                kept = int(np.searchsorted(rows.ts_ms, rows.ts_ms[i]))
            different = self._differences(rows, kept, i)
            if not different:
                keep[i] = False
                duplicates += 1
                continue
            if (
                self.what == "candles"
                and rows.file[kept] != rows.file[i]
                and rows.line[kept] == last_line[int(rows.file[kept])]
                and rows.line[i] != last_line[int(rows.file[i])]
            ):
                # The kept one was the last row of its file: the candle was still forming when that was downloaded.
                superseded.append(self._forming_row(rows, kept, proven=False, dropped=True))
                keep[kept] = False
                kept = i
                continue
            keep[i] = False
            conflicts.append(
                Conflict(
                    utc(int(rows.ts_ms[i])),
                    self.tally.names[int(rows.file[i])],
                    int(rows.line[i]),
                    self.tally.names[int(rows.file[kept])],
                    int(rows.line[kept]),
                    tuple(different[:5]),
                )
            )
        return np.flatnonzero(keep), duplicates, conflicts, superseded

    def _differences(self, rows: Frame, a: int, b: int) -> list[str]:
        """Name the columns in which two rows differ."""
        found: list[str] = []
        if rows.layout[a] != rows.layout[b]:
            only = set(rows.layouts[int(rows.layout[a])]) ^ set(rows.layouts[int(rows.layout[b])])
            found += [self.names[i] for i in sorted(only)]
        differs = ~((rows.values[a] == rows.values[b]) | (np.isnan(rows.values[a]) & np.isnan(rows.values[b])))
        found += [self.names[i] for i in np.flatnonzero(differs).tolist() if self.names[i] not in found]
        pairs = [(CANDLE_NAMES[i], rows.candle[:, i]) for i in range(5)]
        pairs += [(f"probability_{role}", column) for role, column in rows.probabilities.items()]
        pairs += [(f"taken_{role}", column) for role, column in rows.taken.items()]
        found += [n for n, c in pairs if not (c[a] == c[b] or (math.isnan(c[a]) and math.isnan(c[b])))]
        return found

    def _forming_row(self, rows: Frame, i: int, *, proven: bool, dropped: bool) -> Forming:
        return Forming(int(rows.ts_ms[i]), self.tally.names[int(rows.file[i])], int(rows.line[i]), proven, dropped)

    def _forming(self, rows: Frame, drop_last: DropLast) -> tuple[list[Forming], int]:
        """Flag rows written before their candle closed, and a last row that nothing proves closed."""
        if not rows.timed or self.step is None or self.what == "reference rows" or not rows.rows:
            return [], 0
        last = rows.rows - 1
        with np.errstate(invalid="ignore"):
            early = rows.log_ms < rows.ts_ms + self.step
        if drop_last == "auto":
            # A downloaded candle file ends in the candle of the moment of download; a bot's log says when it wrote.
            drop = bool(early[last]) or (self.what == "candles" and math.isnan(rows.log_ms[last]))
        else:
            drop = drop_last
        found = [
            self._forming_row(rows, i, proven=True, dropped=False)
            for i in np.flatnonzero(early).tolist()
            if i != last or not drop
        ]
        if drop:
            found.append(self._forming_row(rows, last, proven=bool(early[last]), dropped=True))
        elif math.isnan(rows.log_ms[last]):
            found.append(self._forming_row(rows, last, proven=False, dropped=False))
        return found, int(drop)

    def _gaps(self, ts_ms: Ints) -> list[Gap]:
        assert self.step is not None
        steps = np.diff(ts_ms)
        if len(steps) >= 10 and abs(float(np.median(steps)) - self.step) > 0.5 * self.step:
            self.tally.notes.append(
                f"Rows are usually {span(float(np.median(steps)) / 1000)} apart, but the timeframe is "
                f"{self.timeframe}: check the timeframe, or the mapping key time_is."
            )
        missing = np.floor(steps / self.step + 0.5).astype(np.int64) - 1
        return [Gap(int(ts_ms[i]), int(ts_ms[i + 1]), int(missing[i])) for i in np.flatnonzero(missing > 0).tolist()]

    def _off_grid(self, ts_ms: Ints) -> int:
        assert self.step is not None
        if self.timeframe is not None and self.timeframe.endswith("M"):
            return 0
        _, counts = np.unique(ts_ms % self.step, return_counts=True)
        return int(len(ts_ms) - counts.max())

    # --- columns

    def _column_findings(self, frame: _Joined) -> dict[str, Any]:
        rows = frame.frame
        has = np.zeros((len(rows.layouts), len(self.names)), dtype=bool)
        for i, index in enumerate(rows.layouts):
            has[i, list(index)] = True
        per_layout = np.bincount(rows.layout, minlength=len(rows.layouts))
        there = per_layout @ has
        missing = np.isnan(rows.values).sum(axis=0) - (rows.rows - there)
        dead: list[str] = []
        empty: list[str] = []
        for i, name in enumerate(self.names):
            if there[i] and missing[i] * 2 > there[i]:
                empty.append(name)
            column = rows.values[:, i]
            finite = column[~np.isnan(column)]
            if len(finite) >= 2 and finite.min() == finite.max():
                dead.append(name)
        return {
            "dead_columns": tuple(dead),
            "near_empty_columns": tuple(empty),
            "left_out": tuple(LeftOut(name, reason) for name, reason in self.left_out.items()),
            "non_finite": {
                **{name: int(n) for name, n in zip(self.names, missing.tolist(), strict=True) if n},
                **self._missing_roles(frame),
            },
            "columns_changed": self._changes(frame) if rows.timed else (),
            "misnamed": tuple(self.misnamed),
            "log_times": self._log_times(frame) if rows.timed else None,
        }

    def _missing_roles(self, frame: _Joined) -> dict[str, int]:
        """Count empty cells of candles and probabilities, by their columns."""
        rows = frame.frame
        columns = [(self.columns.candle.get(r, ()), rows.candle[:, i]) for i, r in enumerate(CANDLE_NAMES)]
        if self.what != "candles":
            columns += [(names, rows.probabilities[r]) for r, names in self.columns.probabilities.items()]
        found: dict[str, int] = {}
        for names, values in columns:
            there = np.array([any(name in part for name in names) for part in frame.part_names], dtype=bool)
            if names and (missing := int(np.count_nonzero(np.isnan(values) & there[frame.part]))):
                found[names[0]] = missing
        return found

    def _changes(self, frame: _Joined) -> tuple[ColumnChange, ...]:
        if self.what == "candles":
            return ()
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        ts = frame.frame.ts_ms
        for i, names in enumerate(frame.part_names):
            times = ts[frame.part == i]
            if len(times):
                for name in names:
                    first[name] = min(first.get(name, int(times.min())), int(times.min()))
                    last[name] = max(last.get(name, int(times.max())), int(times.max()))
        begin, end = int(ts[0]), int(ts[-1])
        found = [ColumnChange(name, "appears", at) for name, at in first.items() if at > begin]
        found += [ColumnChange(name, "vanishes", at) for name, at in last.items() if at < end]
        return tuple(sorted(found, key=lambda c: c.ts_ms))

    def _log_times(self, frame: _Joined) -> LogTimes | None:
        rows = frame.frame
        known = np.flatnonzero(np.isfinite(rows.log_ms))
        if not len(known):
            return None
        delays = (rows.log_ms[known] - rows.ts_ms[known]) / 1000
        formats: dict[tuple[str, str], list[int]] = {}
        for i in known.tolist():
            entry = formats.setdefault(frame.log_formats[i], [int(rows.ts_ms[i]), 0])
            entry[1] += 1
        median = float(np.median(delays))
        if self.step is not None:
            beyond = median - self.step / 1000
            halves = round(beyond / 1800)
            if halves and abs(beyond - halves * 1800) < 600 and abs(beyond) > 1200:
                self.tally.notes.append(
                    f"The log time is usually {span(median)} after the candle's opening: it seems to be in a zone "
                    f"{halves / 2:+g} h from the one assumed. Set the mapping key timezone, or leave the column out."
                )
        return LogTimes(
            columns=tuple(dict.fromkeys(column for _, column in formats if column)),
            formats=tuple(LogFormat(form, column, at, n) for (form, column), (at, n) in formats.items()),
            rows=len(known),
            delay_min_s=float(delays.min()),
            delay_median_s=median,
            delay_max_s=float(delays.max()),
        )


@dataclass(frozen=True, slots=True)
class _Looks:
    """What rows of this log look like: a span of time, and columns that hold only 0 and 1."""

    first_ms: float
    last_ms: float
    binary: frozenset[str]


@dataclass(slots=True)
class _Part:
    """Usable rows of one chunk."""

    file: int
    lines: Ints
    names: tuple[str, ...]
    ts: Floats
    layout: int
    values: Floats
    candle: Floats
    probabilities: dict[str, Floats]
    taken: dict[str, Floats]
    log_ms: Floats
    log_formats: list[tuple[str, str]]


@dataclass(slots=True)
class _Joined:
    """A frame, and for each row which part it came from."""

    frame: Frame
    part: Ints
    part_names: list[tuple[str, ...]]
    log_formats: list[tuple[str, str]]

    def take(self, index: Ints) -> _Joined:
        return _Joined(
            self.frame.take(index),
            self.part[index],
            self.part_names,
            [self.log_formats[i] for i in index.tolist()],
        )


def _joined(parts: list[_Part], builder: _Builder) -> _Joined:
    total = sum(len(p.lines) for p in parts)
    values = np.full((total, len(builder.names)), np.nan)
    part = np.empty(total, dtype=np.int64)
    layout = np.empty(total, dtype=np.int64)
    formats: list[tuple[str, str]] = []
    begin = 0
    for i, p in enumerate(parts):
        end = begin + len(p.lines)
        index = builder.layouts[p.layout]
        if index:
            values[begin:end, list(index)] = p.values
        part[begin:end], layout[begin:end] = i, p.layout
        formats += p.log_formats or [("", "")] * len(p.lines)
        begin = end
    timed = bool(builder.columns.time)
    frame = Frame(
        columns=builder.columns,
        names=builder.names,
        values=values,
        layout=layout,
        layouts=builder.layouts,
        ts_ms=np.concatenate([p.ts for p in parts]).astype(np.int64),
        timed=timed,
        candle=np.concatenate([p.candle for p in parts]),
        probabilities=_stacked(parts, "probabilities"),
        taken=_stacked(parts, "taken"),
        log_ms=np.concatenate([p.log_ms for p in parts]),
        file=np.concatenate([np.full(len(p.lines), p.file, dtype=np.int64) for p in parts]),
        line=np.concatenate([p.lines for p in parts]),
    )
    joined = _Joined(frame, part, [p.names for p in parts], formats)
    # Back into the order of the files: parts are by width.
    return joined.take(np.lexsort((frame.line, frame.file)))


def _stacked(parts: list[_Part], which: Literal["probabilities", "taken"]) -> dict[str, Floats]:
    first: dict[str, Floats] = getattr(parts[0], which)
    return {role: np.concatenate([getattr(p, which)[role] for p in parts]) for role in first}


def _has_text(column: Column, rows: int) -> Mask:
    found = np.zeros(rows, dtype=bool)
    if column.texts:
        found[list(column.texts)] = True
    return found


__all__ = [
    "Columns", "DropLast", "Frame", "keep_only", "nothing", "one_stream", "read_frame", "step_ms",
]  # fmt: skip
