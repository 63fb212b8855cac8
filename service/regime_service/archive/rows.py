"""One event, one row, and back: the columns of each kind of event.

Observations are wide: one column a feature, under its own name (`feature:` before it where the name is one of ours). A
feature that was sent without a value is NaN; one that was not sent at all is null. pandas shows both as NaN; a replay
needs to know which. All other kinds have one column a field, and the event as JSON, which a replay reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from regime import codec
from regime.errors import CorruptionError
from regime.events import AnyEvent, Observation, Ohlcv, Probabilities, Taken, Trade

UTC_MS = pa.timestamp("ms", tz="UTC")
HEAD = ("seq", "candle_time_utc", "recorded_time_utc", "ts_ms", "recorded_ms", "late", "parts", "model", "symbol",
        "timeframe")  # fmt: skip
CANDLE = ("open", "high", "low", "close", "volume")
CLAIMS = ("long", "short", "exit_long", "exit_short")
TAKEN = ("long", "short")
OWN = frozenset(
    (*HEAD, *CANDLE, *(f"probability_{name}" for name in CLAIMS), *(f"taken_{name}" for name in TAKEN))
)  # fmt: skip
"""Columns of observations that are no features."""
_HAS_CANDLE, _HAS_CLAIMS, _HAS_TAKEN = 1, 2, 4
"""Bits of `parts`: an empty part is another content than none."""


class Logged(NamedTuple):
    """One event of the log: its number, when we wrote it, whether it was late, and what it says."""

    seq: int
    recorded_ms: int
    late: bool
    event: AnyEvent


def column_of(feature: str) -> str:
    """Return the column of a feature.

    >>> column_of("rsi"), column_of("close")
    ('rsi', 'feature:close')
    """
    return f"feature:{feature}" if feature in OWN or feature.startswith("feature:") else feature


def feature_of(column: str) -> str | None:
    """Return the feature of a column; None for a column that is ours."""
    return None if column in OWN else column.removeprefix("feature:")


def event_ms(logged: Logged) -> int:
    """Return the time that decides in which day's file an event stands: its own, or where it has none, ours."""
    event = logged.event
    own = event.closed_ms if isinstance(event, Trade) else getattr(event, "ts_ms", None)
    return logged.recorded_ms if own is None else own


def kind_of(event: AnyEvent) -> str:
    """Return the name of an event's kind, as JSON has it."""
    return str(type(event).__struct_config__.tag)


# --- observations ---------------------------------------------------------------------------------------------------


def observation_table(rows: Sequence[Logged], features: Sequence[str] = ()) -> pa.Table:
    """Return the wide table of observations of one stream; `features` come first, those it meets after them."""
    events = [row.event for row in rows]
    assert all(isinstance(event, Observation) for event in events)
    names = dict.fromkeys(features)
    for event in events:
        names.update(dict.fromkeys(event.features))  # type: ignore[union-attr]
    columns = {**_head(rows), **_parts(events)}  # type: ignore[arg-type]
    for name in names:
        columns[column_of(name)] = pa.array(
            [_cell(event.features, name) for event in events], pa.float64(), from_pandas=False  # type: ignore[union-attr]
        )  # fmt: skip
    return pa.table(columns)


def _cell(features: dict[str, float | None], name: str) -> float | None:
    if name not in features:
        return None
    value = features[name]
    return float("nan") if value is None else value


def _head(rows: Sequence[Logged]) -> dict[str, pa.Array]:
    ts_ms = pa.array([row.event.ts_ms for row in rows], pa.int64())  # type: ignore[union-attr]
    recorded_ms = pa.array([row.recorded_ms for row in rows], pa.int64())
    return {
        "seq": pa.array([row.seq for row in rows], pa.int64()),
        "candle_time_utc": ts_ms.cast(UTC_MS),
        "recorded_time_utc": recorded_ms.cast(UTC_MS),
        "ts_ms": ts_ms,
        "recorded_ms": recorded_ms,
        "late": pa.array([row.late for row in rows], pa.bool_()),
        "parts": pa.array([_bits(row.event) for row in rows], pa.uint8()),  # type: ignore[arg-type]
        **{
            name: pa.array([getattr(row.event, name) for row in rows], pa.string())
            for name in ("model", "symbol", "timeframe")
        },
    }


def _bits(event: Observation) -> int:
    return (
        _HAS_CANDLE * (event.candle is not None)
        | _HAS_CLAIMS * (event.probabilities is not None)
        | _HAS_TAKEN * (event.taken is not None)
    )


def _parts(events: Sequence[Observation]) -> dict[str, pa.Array]:
    def column(part: str, name: str, kind: pa.DataType) -> pa.Array:
        return pa.array(
            [None if (held := getattr(event, part)) is None else getattr(held, name) for event in events], kind
        )

    return {
        **{name: column("candle", name, pa.float64()) for name in CANDLE},
        **{f"probability_{name}": column("probabilities", name, pa.float64()) for name in CLAIMS},
        **{f"taken_{name}": column("taken", name, pa.bool_()) for name in TAKEN},
    }


def observations_of(table: pa.Table) -> Iterator[Logged]:
    """Inverse of `observation_table`, row by row. Raises `CorruptionError` for a table of something else."""
    try:
        own = {name: table.column(name).to_pylist() for name in table.column_names if feature_of(name) is None}
        names = [(name, feature) for name in table.column_names if (feature := feature_of(name)) is not None]
        columns = [(feature, *_numbers(table.column(name))) for name, feature in names]
        for i in range(table.num_rows):
            bits = own["parts"][i]
            event = Observation(
                model=own["model"][i], symbol=own["symbol"][i], timeframe=own["timeframe"][i], ts_ms=own["ts_ms"][i],
                features={
                    feature: None if np.isnan(values[i]) else float(values[i])
                    for feature, values, there in columns
                    if there[i]
                },
                candle=Ohlcv(**{n: own[n][i] for n in CANDLE}) if bits & _HAS_CANDLE else None,
                probabilities=Probabilities(**{n: own[f"probability_{n}"][i] for n in CLAIMS})
                if bits & _HAS_CLAIMS else None,
                taken=Taken(**{n: own[f"taken_{n}"][i] for n in TAKEN}) if bits & _HAS_TAKEN else None,
            )  # fmt: skip
            yield Logged(own["seq"][i], own["recorded_ms"][i], own["late"][i], event)
    except (KeyError, TypeError) as error:
        raise CorruptionError(f"a table of the archive is not what was written: {error}") from error


def _numbers(column: pa.ChunkedArray) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return values (0 where null) and which are there, as numpy arrays: `to_pylist` of 200 columns is slow."""
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return column.fill_null(0.0).to_numpy(), there


# --- all other kinds ------------------------------------------------------------------------------------------------


def event_table(kind: type[AnyEvent], rows: Sequence[Logged]) -> pa.Table:
    """Return the table of events of one kind: a column a field, and the event itself as JSON."""
    plain = [msgspec.to_builtins(row.event) for row in rows]
    times = [event_ms(row) for row in rows]
    columns: dict[str, pa.Array] = {
        "seq": pa.array([row.seq for row in rows], pa.int64()),
        "time_utc": pa.array(times, pa.int64()).cast(UTC_MS),
        "recorded_time_utc": pa.array([row.recorded_ms for row in rows], pa.int64()).cast(UTC_MS),
        "recorded_ms": pa.array([row.recorded_ms for row in rows], pa.int64()),
    }
    for field in msgspec.structs.fields(kind):
        arrow = _arrow(msgspec.inspect.type_info(field.type))
        values = [getattr(row.event, field.name) for row in rows]
        if arrow is None:
            values = [msgspec.json.encode(each[field.name]).decode() if field.name in each else None for each in plain]
        columns[field.name] = pa.array(values, arrow or pa.string())
    columns["event"] = pa.array([codec.encode(row.event).decode() for row in rows], pa.string())
    return pa.table(columns)


def events_of(table: pa.Table) -> Iterator[Logged]:
    """Inverse of `event_table`."""
    try:
        found: Iterable[tuple[int, int, str]] = zip(
            *(table.column(name).to_pylist() for name in ("seq", "recorded_ms", "event")), strict=True
        )
    except KeyError as error:
        raise CorruptionError(f"a table of the archive is not what was written: {error}") from error
    for seq, recorded_ms, event in found:
        yield Logged(seq, recorded_ms, False, codec.decode(event.encode()))


def _arrow(info: msgspec.inspect.Type) -> pa.DataType | None:
    """Return the column type of a field; None where it is kept as JSON."""
    match info:
        case msgspec.inspect.UnionType():
            inner = [_arrow(each) for each in info.types if not isinstance(each, msgspec.inspect.NoneType)]
            return inner[0] if len(inner) == 1 else None
        case msgspec.inspect.Metadata():
            return _arrow(info.type)
        case msgspec.inspect.BoolType():
            return pa.bool_()
        case msgspec.inspect.IntType():
            return pa.int64()
        case msgspec.inspect.FloatType():
            return pa.float64()
        case msgspec.inspect.StrType() | msgspec.inspect.LiteralType():
            return pa.string()
        case _:
            return None
