"""Raw tables: files into columns of numbers, each column under the name that is really its own.

The trap this file is about: a bot adds a feature while its log is open, and from some line on the rows are wider
than the header, which nobody rewrites. Usually the new columns stand in the middle. A reader that pads on the right
puts every value behind them under a wrong name, and nothing looks wrong. So:

1. A row belongs to the header that names exactly as many columns as the row has: the file's own header (or the newest
   header line inside the file, where a bot wrote one again), else the nearest header of that width in a later file,
   else in an earlier one, else one of the mapping's `extra_headers`.
2. A row whose width no header has is refused and listed. Nothing is padded or cut.
3. A row that took its names from elsewhere must look like the rest of the log under those names
   (`features.py` checks it); otherwise it is refused too.
4. A last line without its line end is a row being written: unless it is exactly as wide as the file's own header, it
   is refused.

Numbers are read by Python's `float`, which rounds correctly, so that a value is the same bit for bit as the one that
came as JSON over HTTP.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.errors import CallerError, OperatorError, RegimeError
from regime.events import TS_MS_MAX
from regime_service.logs.findings import Tally, count, listed
from regime_service.logs.mapping import TableMapping

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Progress = Callable[[int, str], None]
"""Called with the rows done so far and the name of the file being read."""
Paths = str | Path | Sequence[str | Path]

CHUNK_ROWS = 4096
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq")
MISSING_WORDS = frozenset({"", "nan", "null", "none", "na", "n/a", "nat", "<na>", "#n/a", "-nan"})
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|infinity)", re.IGNORECASE)
_NESTED = ("features", "candle", "probabilities", "taken")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and the name by which the user knows it."""

    name: str
    content: Path | bytes

    def open(self) -> BinaryIO:
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content)
        try:
            return self.content.open("rb")
        except OSError as error:
            raise OperatorError(f"{self.name}: cannot be read ({error.strerror or 'input/output error'})") from None


@dataclass(frozen=True, slots=True)
class Caps:
    """How much of a body is read; more is refused with 413."""

    rows: int = 2_000_000
    columns: int = 4096
    bytes: int = 2 * 1024**3
    """Of the body, and of the numbers it unpacks to (8 bytes each)."""


@dataclass(frozen=True, slots=True)
class Header:
    """A list of column names, and where it stands."""

    names: tuple[str, ...]
    file: int
    line: int
    where: str


@dataclass(slots=True)
class Column:
    """Cells of one column: `numbers` (NaN where there is none), and by row the `texts` of cells that are no number."""

    numbers: Floats
    texts: dict[int, str]
    instant: Literal["", "aware", "naive"] = ""
    """Set where the file itself says that `numbers` are times in ms (Parquet timestamps)."""


@dataclass(slots=True)
class Chunk:
    """Rows of one file that have the same columns."""

    file: int
    lines: list[int]
    columns: list[Column]
    names: tuple[str, ...]
    header: Header | None = None
    borrowed: bool = False
    cut: list[int] = field(default_factory=list)
    """Rows (indices) that stand in a last line without a line end."""

    @property
    def rows(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> Column | None:
        return self.columns[self.names.index(name)] if name in self.names else None


@dataclass(slots=True)
class Tables:
    """Everything that was read, with names on all columns."""

    chunks: list[Chunk]
    tally: Tally
    kinds: dict[str, str]
    """Column -> `number`, `time` or `text`: what most of its cells are."""

    @property
    def names(self) -> list[str]:
        """All column names, in order of first appearance."""
        return list(dict.fromkeys(name for chunk in self.chunks for name in chunk.names))


# --- which files ---------------------------------------------------------------------------------------------------


def sources(paths: Paths) -> list[Source]:
    """Return the files that `paths` means: files, folders (their tables, by name) and globs, each file once.

    Raises `OperatorError` naming a file that is not there, or a folder or glob that holds nothing.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise OperatorError("no file was given")
    found: dict[Path, Source] = {}
    for item in given:
        for source in _sources(str(item)):
            assert isinstance(source.content, Path)
            found.setdefault(source.content.resolve(), source)
    return list(found.values())


def _sources(text: str) -> list[Source]:
    try:
        if "\0" in text:
            raise ValueError
        path = Path(text).expanduser()
        is_folder = path.is_dir()
    except (OSError, ValueError, RuntimeError):
        raise OperatorError(f"{text[:80]!r} is not a file name") from None
    if is_folder:
        inside = [p for p in sorted(path.iterdir()) if p.is_file() and _is_table(p.name)]
        if not inside:
            raise OperatorError(f"{text}: the folder holds no table ({', '.join(SUFFIXES)}, each also with .gz)")
        return [Source(f"{text.rstrip('/')}/{p.name}", p) for p in inside]
    if path.exists():
        return [Source(text, path)]
    if any(sign in text for sign in "*?["):
        matches = [m for m in sorted(glob.glob(str(path), recursive=True)) if Path(m).is_file()]
        if not matches:
            raise OperatorError(f"{text}: no file matches")
        return [Source(match, Path(match)) for match in matches]
    raise OperatorError(f"{text}: there is no such file")


def nothing_to_read(tables: Tables) -> None:
    """Raise `OperatorError` if no file holds a single row."""
    if not sum(tables.tally.rows):
        raise OperatorError(f"no rows at all in {listed(tables.tally.names)}: header only or empty")


TRADE_SIGNS = (
    ("entry_price", "open_rate", "price_in"), ("exit_price", "close_rate", "price_out"),
    ("exit_time", "closed_ms", "closed_at", "close_date", "exit_date", "exit_timestamp"),
)  # fmt: skip
"""A table with one of each is a list of trades."""


def no_trades(tables: Tables) -> None:
    """Raise `OperatorError` where a list of trades was given in place of features: its rows are no candles."""
    names = {name.lower() for name in tables.names}
    found = [next((sign for sign in signs if sign in names), "") for signs in TRADE_SIGNS]
    if all(found):
        raise OperatorError(
            f"{listed(tables.tally.names)}: these are trades (columns {', '.join(found)}), not features of candles; "
            "they belong to --trades, or to POST /v1/trades"
        )


def _is_table(name: str) -> bool:
    parts = name.lower().removesuffix(".gz")
    return not name.startswith(".") and (
        parts.endswith(SUFFIXES) or re.search(r"\.(csv|jsonl)\.\d+$", parts) is not None
    )


# --- reading -------------------------------------------------------------------------------------------------------


def read_tables(
    given: list[Source],
    mapping: TableMapping,
    *,
    caps: Caps | None = None,
    form: str | None = None,
    progress: Progress | None = None,
) -> Tables:
    """Read all files and give every row its header. What cannot be read is in the tally of the result.

    `form` (`csv`, `jsonl`, `parquet`) says what the files are; without it they are looked at. Raises `OperatorError`
    for a file that is no table at all, `CallerError` (413) when `caps` are passed.
    """
    reader = _Reader(mapping, caps, progress)
    for source in given:
        reader.read(source, form)
    chunks = reader.resolve()
    return Tables(chunks, reader.tally, _kinds(chunks))


class _Reader:
    def __init__(self, mapping: TableMapping, caps: Caps | None, progress: Progress | None) -> None:
        self.mapping = mapping
        self.caps = caps
        self.progress = progress
        self.tally = Tally()
        self.chunks: list[Chunk] = []
        self.headers: list[Header] = []
        self.done = 0
        self.cells = 0

    def read(self, source: Source, form: str | None) -> None:
        file = self.tally.file(source.name)
        with source.open() as raw:
            stream = _Unzipped(raw)
            form = form or stream.form()
            if form != "parquet" and not stream.empty and source.name.lower().endswith((".parquet", ".pq")):
                raise OperatorError(
                    f"{source.name}: is no Parquet file, whatever its name says; write or copy it again"
                )
            self.tally.formats[file] = form + ("+gzip" if stream.zipped else "")
            try:
                if form == "parquet":
                    if stream.zipped:
                        raise OperatorError(f"{source.name}: Parquet inside gzip is not read; unpack it first")
                    raw.seek(0)
                    self._parquet(raw, source.name, file)
                elif form == "jsonl":
                    self._jsonl(stream, source.name, file)
                elif form == "json":
                    self._json(stream, source.name, file)
                elif form == "csv":
                    self._csv(stream, source.name, file)
            except OSError as error:
                raise OperatorError(f"{source.name}: cannot be read ({error.strerror or error})") from None
            if stream.torn:
                self.tally.notes.append(
                    f"{source.name}: the gzip file ends in the middle; what could be unpacked was read. Copy it again."
                )

    def _advance(self, file: int, rows: int, columns: int) -> None:
        """Count rows of a chunk, and refuse a body that is too large."""
        self.done += rows
        self.cells += rows * columns
        if self.caps is not None:
            if self.done > self.caps.rows:
                raise CallerError(f"more than {self.caps.rows:,} rows; send a smaller sample", status=413)
            if columns > self.caps.columns + 16:  # a few that are no features: times, candle, probabilities
                raise CallerError(f"{columns:,} columns; at most {self.caps.columns:,} are accepted", status=413)
            if self.cells * 8 > self.caps.bytes:
                raise CallerError(f"more than {self.caps.bytes:,} bytes when unpacked; send fewer rows", status=413)
        if self.progress is not None:
            self.progress(self.done, self.tally.names[file])

    # --- CSV

    def _csv(self, stream: _Unzipped, name: str, file: int) -> None:
        lines = _Lines(stream.text())
        header: Header | None = None
        known: set[str] = set()
        waiting: dict[tuple[int, int], tuple[Header | None, list[int], list[list[str]]]] = {}
        first = True
        widths: set[int] = set()
        for line, cells in lines.rows(widths):
            if first:
                first = False
                names = tuple(cell.strip() for cell in cells)
                if not _is_data(names):
                    header = self._header(names, file, line, name)
                    widths.add(len(names))
                    known.update(filter(None, names))
                    self._advance(file, 0, len(names))
                    continue
            elif cells[0] in known and sum(cell.strip() in known for cell in cells) * 2 > len(cells):
                names = tuple(cell.strip() for cell in cells)
                known.update(filter(None, names))
                widths.add(len(names))
                if header is None or names != header.names:
                    header = self._header(names, file, line, name)
                continue
            self.tally.rows[file] += 1
            key = (header.line if header else 0, len(cells))
            entry = waiting.setdefault(key, (header, [], []))
            entry[1].append(line)
            entry[2].append(cells)
            if len(entry[1]) >= CHUNK_ROWS:
                self._flush(file, *waiting.pop(key))
        for entry in waiting.values():
            self._flush(file, *entry)
        if lines.open_end and self.tally.rows[file]:
            self._mark_cut(file, lines.line)

    def _header(self, names: tuple[str, ...], file: int, line: int, name: str) -> Header:
        renamed = tuple(self._renamed(n) for n in names)
        self.headers.append(Header(renamed, file, line, f"{name}, line {line}"))
        return self.headers[-1]

    def _renamed(self, name: str) -> str:
        nested = "features." if name.startswith("features.") else ""
        return self.mapping.rename.get(name, nested + self.mapping.rename.get(name[len(nested) :], name[len(nested) :]))

    def _flush(self, file: int, header: Header | None, lines: list[int], rows: list[list[str]]) -> None:
        self._advance(file, len(lines), len(rows[0]))
        columns = [column_of_texts(cells) for cells in zip(*rows, strict=True)]
        self.chunks.append(Chunk(file, lines, columns, (), header))

    def _mark_cut(self, file: int, line: int) -> None:
        for chunk in self.chunks:
            if chunk.file == file and chunk.lines[-1] == line:
                chunk.cut.append(chunk.rows - 1)

    # --- JSON

    def _jsonl(self, stream: _Unzipped, name: str, file: int) -> None:
        lines = _Lines(stream.text())

        def records() -> Iterator[tuple[int, Any]]:
            for line, text in lines.plain():
                if text.strip():
                    try:
                        yield line, _json_value(text)
                    except (ValueError, RecursionError):
                        self.tally.rows[file] += 1
                        self._advance(file, 1, 0)
                        torn = "; the bot was probably writing it" if lines.open_end else ""
                        self.tally.refuse(file, line, "json", f"not a complete line of JSON{torn}")

        self._records(records(), file)

    def _json(self, stream: _Unzipped, name: str, file: int) -> None:
        try:
            body = _json_value(stream.text().read())
        except (ValueError, RecursionError) as error:
            raise OperatorError(f"{name}: neither one JSON array nor one object a line ({error})") from None
        items = body if isinstance(body, list) else [body]
        self._records(enumerate(items, 1), file)

    def _records(self, records: Iterable[tuple[int, Any]], file: int) -> None:
        waiting: dict[frozenset[str], tuple[tuple[str, ...], list[int], list[list[Any]]]] = {}
        layouts: dict[tuple[str, ...], frozenset[str]] = {}
        orders: dict[frozenset[str], tuple[str, ...]] = {}
        for line, record in records:
            self.tally.rows[file] += 1
            if not isinstance(record, dict):
                self._advance(file, 1, 0)
                self.tally.refuse(file, line, "json", "not an object with names and values")
                continue
            flat = _flat(record)
            keys = tuple(flat)
            if keys not in layouts:
                if len(layouts) > 10_000:
                    layouts.clear()
                layouts[keys] = frozenset(keys)
            layout = layouts[keys]
            order = orders.setdefault(layout, keys)
            entry = waiting.setdefault(layout, (order, [], []))
            entry[1].append(line)
            entry[2].append([flat[key] for key in order])
            if len(entry[1]) >= CHUNK_ROWS:
                self._flush_records(file, *waiting.pop(layout))
        for entry in waiting.values():
            self._flush_records(file, *entry)

    def _flush_records(self, file: int, keys: tuple[str, ...], lines: list[int], rows: list[list[Any]]) -> None:
        self._advance(file, len(lines), len(keys))
        columns = [_column_of_values(cells) for cells in zip(*rows, strict=True)]
        self._named(file, lines, columns, keys)

    def _named(self, file: int, lines: list[int], columns: list[Column], keys: Sequence[str]) -> None:
        names = tuple(self._renamed(_printable(key)) for key in keys)
        header = Header(names, file, 0, self.tally.names[file])
        self.chunks.append(Chunk(file, lines, columns, names, header))

    # --- Parquet

    def _parquet(self, raw: BinaryIO, name: str, file: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(raw)
            if self.caps is not None:
                meta = table.metadata
                packed = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
                if packed > self.caps.bytes:
                    raise CallerError(f"{packed:,} bytes when unpacked; at most {self.caps.bytes:,}", status=413)
                self._advance(file, meta.num_rows, meta.num_columns)
                self.done, self.cells = self.done - meta.num_rows, self.cells - meta.num_rows * meta.num_columns
            line = 0
            for batch in table.iter_batches(batch_size=CHUNK_ROWS):
                flat = pa.Table.from_batches([batch]).flatten()
                rows = int(flat.num_rows)
                if not rows:
                    continue
                lines = list(range(line + 1, line + rows + 1))
                line += rows
                self.tally.rows[file] += rows
                self._advance(file, rows, int(flat.num_columns))
                keys = [str(key) for key in flat.column_names]
                columns = [_column_of_arrow(flat.column(i), pa) for i in range(flat.num_columns)]
                self._named(file, lines, columns, keys)
        except RegimeError:
            raise
        except Exception as error:  # a damaged file can make the library raise nearly anything
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise OperatorError(f"{name}: cannot be read as Parquet ({reason})") from None

    # --- names for every row

    def resolve(self) -> list[Chunk]:
        """Give every chunk the names of its columns; refuse those whose width no header has."""
        extra = [
            Header(tuple(names), -1, 0, f"mapping key extra_headers[{i}]")
            for i, names in enumerate(self.mapping.extra_headers)
        ]
        found: list[Chunk] = []
        for chunk in self.chunks:
            width = len(chunk.columns)
            self.tally.widths.setdefault(chunk.file, set()).add(width)
            own = chunk.header if chunk.header is not None and len(chunk.header.names) == width else None
            header = own or self._elsewhere(chunk, width) or next((h for h in extra if len(h.names) == width), None)
            if own is None and chunk.cut:
                # Rule 4. The rest of the chunk is judged without it.
                row = chunk.cut[0]
                self.tally.refuse(chunk.file, chunk.lines[row], "width", self._cut_reason(chunk, width))
                chunk = without(chunk, np.arange(chunk.rows) != row)
            if not chunk.rows:
                continue
            if header is None:
                reason = self._width_reason(chunk, width)
                for line in chunk.lines:
                    self.tally.refuse(chunk.file, line, "width", reason)
                continue
            chunk.header, chunk.names, chunk.borrowed = header, header.names, own is None
            where = f"line {header.line}" if header.file == chunk.file and header.line else header.where
            self.tally.used(chunk.file, chunk.lines, width=width, header=where, borrowed=chunk.borrowed)
            found.append(chunk)
        found.sort(key=lambda c: (c.file, c.lines[0]))
        return found

    def _elsewhere(self, chunk: Chunk, width: int) -> Header | None:
        here = (chunk.file, chunk.lines[0])
        fitting = [h for h in self.headers if len(h.names) == width]
        later = [h for h in fitting if (h.file, h.line) > here]
        earlier = [h for h in fitting if (h.file, h.line) < here]
        if later:
            return min(later, key=lambda h: (h.file, h.line))
        return max(earlier, key=lambda h: (h.file, h.line)) if earlier else None

    def _cut_reason(self, chunk: Chunk, width: int) -> str:
        names = f" of {len(chunk.header.names)}" if chunk.header else ""
        return (
            f"the last line is not finished ({width}{names} cells and no line end): the bot was probably writing it; "
            "it will be read once it is complete"
        )

    def _width_reason(self, chunk: Chunk, width: int) -> str:
        known = sorted({len(h.names) for h in self.headers} | {len(names) for names in self.mapping.extra_headers})
        if not known:
            return f"no file has a header line for these {width} columns; name them in the mapping key extra_headers"
        return (
            f"{count(width, 'cell')}, but no header names so many columns (known: "
            f"{listed(map(str, known))}); add the file whose first line names them, "
            "or give the names in the mapping key extra_headers"
        )


# --- bytes into lines, lines into cells ----------------------------------------------------------------------------


class _Unzipped:
    """A byte stream, unpacked if it is gzip; a gzip stream that ends too early just ends (`torn`)."""

    def __init__(self, raw: BinaryIO) -> None:
        head = raw.read(2)
        raw.seek(0)
        self.zipped = head == b"\x1f\x8b"
        self.torn = False
        self._raw: Any = gzip.GzipFile(fileobj=raw) if self.zipped else raw
        self._head = self._some(4096)

    def _some(self, size: int) -> bytes:
        try:
            found: bytes = self._raw.read(size)
            return found
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.torn = True
            return b""

    @property
    def empty(self) -> bool:
        return not self._head

    def form(self) -> str:
        """Say what the file is by its first bytes, whatever its name."""
        if self._head.startswith(b"PAR1"):
            return "parquet"
        start = self._head.lstrip(b"\xef\xbb\xbf \t\r\n")
        if start.startswith(b"["):
            return "json"
        return "jsonl" if start.startswith(b"{") else "csv"

    def text(self) -> io.TextIOWrapper:
        encoding = "utf-16" if self._head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return io.TextIOWrapper(io.BufferedReader(_Piped(self), 1 << 16), encoding, errors="replace", newline="")

    def read_some(self, size: int) -> bytes:
        if self._head:
            found, self._head = self._head[:size], self._head[size:]
            return found
        return self._some(size)


class _Piped(io.RawIOBase):
    def __init__(self, stream: _Unzipped) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read_some(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class _Lines:
    """Physical lines of a text, and the records of a CSV made of them."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.line = 0
        self.open_end = False
        """Whether the line read last has no line end."""
        self._pending: list[str] = []

    def plain(self) -> Iterator[tuple[int, str]]:
        for text in self._text:
            self.line += 1
            self.open_end = not text.endswith(("\n", "\r"))
            yield self.line, text

    def _feed(self) -> Iterator[str]:
        for _, text in self.plain():
            self._pending.append(text)
            yield text

    def rows(self, widths: set[int]) -> Iterator[tuple[int, list[str]]]:
        """Yield (line, cells). `widths` are those that headers name, and may grow meanwhile.

        A quote that is never closed would swallow the lines behind it: where a record over several lines fits no
        header, its lines are read one by one.
        """
        feed = self._feed()
        first = next(feed, None)
        if first is None:
            return
        delimiter = max(",;\t|", key=first.count)
        reader = csv.reader(_again(first, feed), delimiter=delimiter)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                cells = None
            pending, self._pending = self._pending, []
            start = self.line - len(pending) + 1
            if len(pending) > 1 and (cells is None or len(cells) not in widths):
                for i, text in enumerate(pending):
                    if single := _single(text, delimiter):
                        yield start + i, single
            elif cells is None:
                yield start, [pending[0][:40] if pending else ""]
            elif cells:
                yield start, cells


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _single(text: str, delimiter: str) -> list[str]:
    if text.count('"') % 2:  # the quote that was never closed is a character like any other
        return text.rstrip("\r\n").split(delimiter) if text.strip() else []
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return [text[:40]]


def _is_data(names: Sequence[str]) -> bool:
    """Whether a first line is a row and no header: more than half of it are numbers (and not just 0, 1, 2...)."""
    filled = [name for name in names if name]
    numbers = [name for name in filled if _NUMBER.fullmatch(name)]
    return len(numbers) * 2 > len(filled) and numbers != [str(i) for i in range(len(numbers))]


# --- cells into columns --------------------------------------------------------------------------------------------


def column_of_texts(cells: Sequence[str]) -> Column:
    """Read the cells of one column: in one pass of `float`, and only where that fails, cell by cell."""
    joined = "".join(cells)
    if joined.isascii() and "_" not in joined:  # float() would take 1_000 and foreign digits
        try:
            return Column(np.fromiter((float(cell or "nan") for cell in cells), np.float64, len(cells)), {})
        except ValueError:
            pass
    numbers = np.full(len(cells), np.nan)
    texts: dict[int, str] = {}
    for i, cell in enumerate(cells):
        _put(cell, i, numbers, texts)
    return Column(numbers, texts)


def _put(cell: str, i: int, numbers: Floats, texts: dict[int, str]) -> None:
    text = cell.strip()
    if _NUMBER.fullmatch(text):
        numbers[i] = float(text)
    elif (word := text.lower()) in ("true", "false"):
        numbers[i] = float(word == "true")
    elif word not in MISSING_WORDS:
        texts[i] = text


def _column_of_values(cells: Sequence[Any]) -> Column:
    numbers = np.full(len(cells), np.nan)
    texts: dict[int, str] = {}
    for i, cell in enumerate(cells):
        if isinstance(cell, float):
            numbers[i] = cell
        elif isinstance(cell, int):  # booleans too
            try:
                numbers[i] = float(cell)
            except OverflowError:
                numbers[i] = math.inf
        elif isinstance(cell, str):
            _put(_printable(cell), i, numbers, texts)
        elif isinstance(cell, datetime | date | time):
            texts[i] = cell.isoformat()
        elif cell is not None:
            texts[i] = f"({type(cell).__name__})"
    return Column(numbers, texts)


def _column_of_arrow(column: Any, pa: Any) -> Column:
    kind = column.type
    if pa.types.is_timestamp(kind):
        integers = column.cast(pa.int64())
        known = np.asarray(integers.is_valid())
        values = np.asarray(integers.fill_null(0), dtype=np.int64)
        ms = values * 1000 if kind.unit == "s" else values // {"ms": 1, "us": 1_000, "ns": 1_000_000}[kind.unit]
        return Column(np.where(known, ms.astype(np.float64), np.nan), {}, "naive" if kind.tz is None else "aware")
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        wide = column.cast(pa.float64(), safe=False) if not pa.types.is_boolean(kind) else column.cast(pa.uint8())
        return Column(np.array(wide.to_numpy(zero_copy_only=False), dtype=np.float64), {})
    if pa.types.is_null(kind):
        return Column(np.full(len(column), np.nan), {})
    if pa.types.is_decimal(kind):
        return _column_of_values([None if cell is None else float(cell) for cell in column.to_pylist()])
    return _column_of_values(column.to_pylist())


def _printable(text: str) -> str:
    """Spell out halves of characters (JSON can carry them), which nothing could write again."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json_value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return json.loads(text)  # takes NaN and Infinity, which Python itself writes


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Put the values of `features`, `candle`, `probabilities` and `taken` (an observation as the API takes it) beside
    the others, as `features.rsi` and so on."""
    if not any(isinstance(record.get(key), dict) for key in _NESTED):
        return record
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if key in _NESTED and isinstance(value, dict):
            flat.update((f"{key}.{name}", inner) for name, inner in value.items())
        elif not (key in _NESTED and value is None):
            flat[key] = value
    return flat


def _kinds(chunks: list[Chunk]) -> dict[str, str]:
    """Say for every column what it holds, by the majority of its cells. Rows under their own header decide; rows
    under a borrowed one are asked only where there are no others."""
    counts: dict[str, list[int]] = {}
    examples: dict[str, list[str]] = {}
    for borrowed in (False, True):
        settled = set(counts)
        for chunk in chunks:
            if chunk.borrowed is not borrowed:
                continue
            for name, column in zip(chunk.names, chunk.columns, strict=True):
                if name in settled:
                    continue
                entry = counts.setdefault(name, [0, 0, 0])
                entry[0] += int(np.count_nonzero(~np.isnan(column.numbers)))
                entry[1] += len(column.texts)
                entry[2] += bool(column.instant)
                shown = examples.setdefault(name, [])
                if len(shown) < 50:
                    shown.extend(list(column.texts.values())[: 50 - len(shown)])
    kinds: dict[str, str] = {}
    for name, (numbers, texts, instants) in counts.items():
        if instants:
            kinds[name] = "time"
        elif texts <= numbers:
            kinds[name] = "number"
        else:
            times = sum(parse_time(text, UTC) is not None for text in examples[name])
            kinds[name] = "time" if times * 2 > len(examples[name]) else "text"
    return kinds


def without(chunk: Chunk, keep: Mask) -> Chunk:
    """Return the rows of `chunk` that `keep` marks."""
    if keep.all():
        return chunk
    index = np.flatnonzero(keep)
    place = {int(old): new for new, old in enumerate(index)}
    columns = [
        Column(c.numbers[index], {place[i]: text for i, text in c.texts.items() if i in place}, c.instant)
        for c in chunk.columns
    ]
    lines = [chunk.lines[i] for i in index]
    cut = [place[i] for i in chunk.cut if i in place]
    return Chunk(chunk.file, lines, columns, chunk.names, chunk.header, chunk.borrowed, cut)


# --- times ---------------------------------------------------------------------------------------------------------


def times_ms(column: Column, zone: tzinfo) -> Floats:
    """Return the times of a column in ms, NaN where there is none. Numbers are an epoch in s, ms, us or ns, told by
    their size; texts are ISO or `YYYY-MM-DD HH:MM:SS`; what has no zone of its own is in `zone`."""
    numbers = column.numbers
    if column.instant == "aware":
        found = numbers.copy()
    elif column.instant == "naive":
        found = np.array([math.nan if math.isnan(ms) else _from_naive_ms(ms, zone) for ms in numbers.tolist()])
    else:
        size = np.abs(numbers)
        with np.errstate(invalid="ignore", over="ignore"):
            found = np.select(
                [size < 1e8, size < 1e11, size < 1e14, size < 1e17, size < 1e20],
                [np.full(len(numbers), np.nan), numbers * 1000, numbers, numbers / 1e3, numbers / 1e6],
                np.nan,
            )
        found = np.where(size == np.inf, np.nan, np.floor(found + 0.5))
        days = np.flatnonzero((size >= 19_000_101) & (size <= 21_001_231))
        for i in days.tolist():  # 20251103
            ms = parse_time(str(int(numbers[i])), zone)
            found[i] = math.nan if ms is None else ms
    seen: dict[str, float] = {}
    for i, text in column.texts.items():
        if text not in seen:
            ms = parse_time(text, zone)
            seen[text] = math.nan if ms is None else ms
        found[i] = seen[text]
    with np.errstate(invalid="ignore"):
        sane: Floats = np.where((found >= 0) & (found <= TS_MS_MAX), found, np.nan)
    return sane


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def parse_time(text: str, zone: tzinfo) -> float | None:
    """Return the ms of one time in words, or None.

    >>> parse_time("2025-11-03T13:45:00+09:00", UTC)
    1762145100000.0
    """
    text = text.strip()
    if len(text) < 8 or not text[:4].isdigit():
        return None
    try:
        moment = datetime.fromisoformat(text.replace("/", "-").removesuffix(" UTC"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC if text.endswith(" UTC") else zone)
        return float((moment - _EPOCH) // _MS)
    except (ValueError, OverflowError):
        return None


def _from_naive_ms(ms: float, zone: tzinfo) -> float:
    moment = (_EPOCH + timedelta(milliseconds=ms)).replace(tzinfo=zone)
    return float((moment - _EPOCH) // _MS)


def time_format(text: str) -> str:
    """Name the way a time was written.

    >>> time_format("2025-11-03 04:50:07.677805+00:00")
    'microseconds with offset'
    """
    match = re.fullmatch(r"[0-9/-]+(?:[T ][0-9]{1,2}(:[0-9]{2})?(:[0-9]{2})?([.,][0-9]+)?)?(.*)", text.strip())
    if match is None:
        return "another spelling"
    digits = len(match[3] or "") - 1
    exact = (
        "microseconds" if digits > 3 else "milliseconds" if digits > 0 else "seconds" if match[2]
        else "minutes" if match[1] else "days"
    )  # fmt: skip
    return f"{exact} with offset" if match[4].strip() else f"plain {exact}"
