"""Training-period samples, from a file or from the body of a request, into a `Reference`.

The columns are named and sorted out exactly as in feature logs, so that a feature has the same name in the reference
and in the live log. A file is read like a log: a row that cannot be understood is refused and listed. A body is read
all or nothing: the first such row refuses the body (422) and is named.

Nothing is unpickled. CSV and NDJSON are read by this package, Parquet by pyarrow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from regime.errors import CallerError, FieldError, OperatorError
from regime.reference import Reference
from regime_service.logs.findings import Findings
from regime_service.logs.frame import Frame, read_frame
from regime_service.logs.mapping import LogMapping
from regime_service.logs.tables import (
    Caps,
    Floats,
    Paths,
    Progress,
    Source,
    Tables,
    no_trades,
    nothing_to_read,
    read_tables,
    sources,
)

CONTENT_TYPES = {
    "application/vnd.apache.parquet": "parquet",
    "text/csv": "csv",
    "application/x-ndjson": "jsonl",
}
"""Content types of a reference, and the reader of each. Any other is the caller's to refuse (415)."""
_ERRORS_MAX = 20


def read_reference(
    paths: Paths,
    *,
    mapping: LogMapping | None = None,
    timeframe: str | None = None,
    trained_until_ms: int | None = None,
    progress: Progress | None = None,
) -> tuple[Reference, Findings]:
    """Read a reference from files. With a column of time rows are sorted, doubles dropped and (with `timeframe`)
    holes listed; without one they stay as they stand.

    Raises `OperatorError` in one sentence: no such file, no usable row, no feature.
    """
    mapping = mapping or LogMapping()
    tables = read_tables(sources(paths), mapping, progress=progress)
    nothing_to_read(tables)
    no_trades(tables)
    frame, findings = read_frame(tables, mapping, "reference rows", timeframe=timeframe)
    if not frame.names:
        raise OperatorError(f"{findings.files[0].name}: there is no feature in it, only {_columns(tables)}")
    return _reference(frame, trained_until_ms), findings


def reference_from_bytes(
    raw: bytes | Path,
    content_type: str,
    *,
    mapping: LogMapping | None = None,
    timeframe: str | None = None,
    trained_until_ms: int | None = None,
    caps: Caps | None = None,
) -> tuple[Reference, Findings]:
    """Read a reference from the body of a request, or from the file such a body was streamed to.

    `content_type` must be one of `CONTENT_TYPES` (parameters such as `; charset=utf-8` are ignored), else `KeyError`.
    Raises `CallerError`: 413 when `caps` are passed, 422 for anything that cannot be read, naming row and column.
    """
    form = CONTENT_TYPES[content_type.partition(";")[0].strip().lower()]
    caps = caps or Caps()
    size = len(raw) if isinstance(raw, bytes) else raw.stat().st_size
    if size > caps.bytes:
        raise CallerError(f"the body has {size:,} bytes; at most {caps.bytes:,} are accepted", status=413)
    mapping = mapping or LogMapping()
    try:
        tables = read_tables([Source("the body", raw)], mapping, caps=caps, form=form)
        _refuse_any(tables)
        nothing_to_read(tables)
        no_trades(tables)
        try:
            frame, findings = read_frame(tables, mapping, "reference rows", timeframe=timeframe)
        except OperatorError:
            _refuse_any(tables)
            raise
        _refuse_any(tables)
        if not frame.names:
            raise OperatorError(f"there is no feature in it, only {_columns(tables)}")
        reference = _reference(frame, trained_until_ms)
    except OperatorError as error:
        raise CallerError(f"the reference cannot be read: {error}. Nothing was stored.") from None
    return reference, findings


def _refuse_any(tables: Tables) -> None:
    refused = tables.tally.refused()
    if not refused:
        return
    unit = "row" if tables.tally.formats[0].startswith("parquet") else "line"
    errors = [
        FieldError(f"[{unit} {item.first_line}]" + (f".{item.column}" if item.column else ""), item.reason)
        for item in refused[:_ERRORS_MAX]
    ]
    first = refused[0]
    where = f"{unit} {first.first_line}" + (f", column {first.column}" if first.column else "")
    more = tables.tally.refused_rows - 1
    rest = f" (and {more:,} more)" if more else ""
    raise CallerError(f"{where}: {first.reason}{rest}. Nothing was stored.", errors=errors)


def _columns(tables: Tables) -> str:
    return ", ".join(tables.names[:8]) or "nothing"


def _reference(frame: Frame, trained_until_ms: int | None) -> Reference:
    def claim(role: str) -> Floats | None:
        column = frame.probabilities.get(role)
        return None if column is None or bool(np.isnan(column).all()) else column

    return Reference(
        frame.names,
        frame.values,
        ts_ms=frame.ts_ms if frame.timed else None,
        probability_long=claim("long"),
        probability_short=claim("short"),
        trained_until_ms=trained_until_ms,
    )


__all__ = ["CONTENT_TYPES", "Caps", "read_reference", "reference_from_bytes"]
