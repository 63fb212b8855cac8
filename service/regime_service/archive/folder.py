"""The tables of the archive: one file a day, for each stream and kind.

    archive.json                                          how far it goes
    observations/MODEL/SYMBOL/TIMEFRAME/2025-11-03.parquet  one wide table
    trades/MODEL/SYMBOL/TIMEFRAME/2025-11-03.parquet        ... and so for every kind of event, and for decisions
    references/ID                                         samples and limits, as the store holds them

A file is replaced in one step and `archive.json` last of all. Rows beyond what that says come from an append that did
not end; the next one takes them out again. When a model gets new columns all its files are written anew with them, so
that its folder is one table to any reader.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from regime.decision import Decision, decision_bytes
from regime.errors import CorruptionError, OperatorError
from regime.events import AnyEvent, Observation, StreamKey, concerns
from regime_service.archive.rows import (
    UTC_MS,
    Logged,
    event_ms,
    event_table,
    events_of,
    feature_of,
    kind_of,
    observation_table,
    observations_of,
)

VERSION = 1
NAME_LENGTH_MAX = 150
"""Letters of a folder's name; longer labels are cut and told apart by their SHA-256."""
EVERYTHING = "(all)"
"""Folder of events that concern all symbols or timeframes of a model. No label is written with a bracket."""


class State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`archive.json`."""

    version: int = VERSION
    epoch: str = ""
    last_seq: int = 0
    last_decision: int = 0
    """Row of the newest decision, in the store."""
    newest_ms: dict[str, int] = {}
    """Folder of observations -> newest `ts_ms` in it: an older one is late."""
    features: dict[str, list[str]] = {}
    """Folder of a model's observations -> its features, in the order of their columns, in every file below it."""


class Archive:
    """The archive in `folder`, which is made when it is first written to.

    One writer at a time. Raises `OperatorError` where the folder cannot be used, `CorruptionError` where a file is not
    what was written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.state = self._read_state()

    # --- writing ---

    def append(
        self, events: Iterable[tuple[int, int, AnyEvent]], decisions: Iterable[tuple[int, int, Decision]]
    ) -> int:
        """Add events (number, when we wrote it, event), in the order of the log, and the decisions they made (row,
        number of the event, decision).

        Returns how many events were new. All of them are there afterwards, or none.
        """
        state = msgspec.structs.replace(
            self.state, newest_ms=dict(self.state.newest_ms), features=dict(self.state.features)
        )
        groups: dict[tuple[str, str], list[Logged]] = {}
        count = 0
        for seq, recorded_ms, event in events:
            if seq <= state.last_seq:
                continue
            if seq != state.last_seq + 1:
                raise CorruptionError(f"event {state.last_seq + 1} is missing before event {seq}: it was not archived")
            place = place_of(event)
            late = False
            if isinstance(event, Observation):
                late = event.ts_ms <= state.newest_ms.get(place, -1)
                state.newest_ms[place] = max(event.ts_ms, state.newest_ms.get(place, -1))
            row = Logged(seq, recorded_ms, late, event)
            groups.setdefault((place, day_of(event_ms(row))), []).append(row)
            state.last_seq = seq
            count += 1
        made: dict[tuple[str, str], list[tuple[int, int, Decision]]] = {}
        for row_id, seq, decision in decisions:
            state.last_decision = row_id
            made.setdefault((_decisions_of(decision.key), day_of(decision.as_of_ms)), []).append(
                (row_id, seq, decision)
            )
        self._grow(state, groups)
        for (place, day), rows in groups.items():
            if isinstance(rows[0].event, Observation):
                self._merge(place, day, observation_table(rows, state.features[_model_of(place)]))
            else:
                self._merge(place, day, event_table(type(rows[0].event), rows))
        for (place, day), served in made.items():
            self._merge(place, day, _decision_table(served))
        self._write_state(state)
        return count

    def has_reference(self, reference_id: str) -> bool:
        """Whether a reference, or limits, stand beside the tables."""
        return (self.folder / "references" / folder_name(reference_id)).exists()

    def put_reference(self, reference_id: str, raw: bytes) -> None:
        """Keep a reference, or limits, beside the tables; the same again changes nothing."""
        target = self.folder / "references" / folder_name(reference_id)
        if not self.has_reference(reference_id):
            # The size first: what stands under the name itself is whole.
            self._replace(
                target.with_name(f"{target.name}.size"), lambda file: file.write_text(str(len(raw)), "utf-8")
            )  # fmt: skip
            self._replace(target, lambda file: file.write_bytes(pa.compress(raw, codec="zstd", asbytes=True)))

    def begin(self, epoch: str) -> None:
        """Begin anew where the store is another one: its numbers mean other events."""
        if self.state.epoch not in ("", epoch):
            raise OperatorError(
                f"the archive {self.folder} belongs to another store (its epoch is {self.state.epoch}, the store's is "
                f"{epoch}): the store was replaced or restored. Move the archive away; a new one is made from the store"
            )
        self.state.epoch = epoch

    def _grow(self, state: State, groups: Mapping[tuple[str, str], Sequence[Logged]]) -> None:
        """Give every file of a model, whatever its stream and day, the columns that the model never had before.

        So `observations/MODEL` is one table. Where files differ pandas leaves columns out without a word, and polars
        and duckdb refuse.
        """
        sent: dict[str, dict[str, None]] = {}
        for (place, _), rows in groups.items():
            if isinstance(rows[0].event, Observation):
                names = sent.setdefault(_model_of(place), {})
                for row in rows:
                    names.update(dict.fromkeys(row.event.features))  # type: ignore[union-attr]
        for model, names in sent.items():
            known = state.features.get(model)
            if known is None or not names.keys() <= set(known):
                state.features[model] = list(dict.fromkeys([*(known or self._features_found(model)), *names]))
                self._widen(model, state.features[model])

    def _features_found(self, model: str) -> list[str]:
        """Features of a model in the files themselves, for an archive that keeps no list of them."""
        columns = dict.fromkeys(name for file in self._files(model) for name in _names(file))
        return [feature for name in columns if (feature := feature_of(name)) is not None]

    def _widen(self, model: str, features: Sequence[str]) -> None:
        wanted = observation_table([], features).schema
        for file in self._files(model):
            if _names(file) != wanted.names:
                table = pa.concat_tables([wanted.empty_table(), read_columns(file)], promote_options="default")
                self._write(file, table)

    def _files(self, model: str) -> list[Path]:
        return sorted((self.folder / model).rglob("*.parquet"))

    def _merge(self, place: str, day: str, table: pa.Table) -> None:
        file = self.folder / place / f"{day}.parquet"
        if file.exists():
            there = read_columns(file)
            there = there.filter(pa.compute.less_equal(there.column("seq"), self.state.last_seq))
            table = pa.concat_tables([there, table], promote_options="default")
        self._write(file, table)

    def _write(self, file: Path, table: pa.Table) -> None:
        floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        words = [field.name for field in table.schema if pa.types.is_string(field.type) and field.name != "event"]
        # Neighbouring candles are alike byte by byte, not as whole numbers.
        self._replace(
            file,
            lambda part: pq.write_table(
                table, part, compression="zstd", use_dictionary=words or False, use_byte_stream_split=floats or False
            ),
        )

    def _replace(self, file: Path, write: Any) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".part")
            os.close(handle)
            part = Path(name)
            try:
                write(part)
                with part.open("rb") as done:
                    os.fsync(done.fileno())
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise OperatorError(f"the archive cannot be written: {error}") from error

    def _read_state(self) -> State:
        file = self.folder / "archive.json"
        try:
            raw = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return State()
        except OSError as error:
            raise OperatorError(f"the archive cannot be read: {error}") from error
        try:
            state = msgspec.json.decode(raw, type=State)
        except msgspec.MsgspecError as error:
            raise CorruptionError(f"{file} cannot be read ({error}); move the archive away, it is made anew") from error
        if state.version > VERSION:
            raise OperatorError(f"the archive {self.folder} was written by a newer version of this program")
        return state

    def _write_state(self, state: State) -> None:
        raw = json.dumps(msgspec.to_builtins(state), indent=1, sort_keys=True)
        self._replace(self.folder / "archive.json", lambda file: file.write_text(raw + "\n", "utf-8"))
        self.state = state

    # --- reading ---

    def events(self) -> Iterator[Logged]:
        """Yield every event in the order of the log. `CorruptionError` names the first that is missing."""
        expected = 1
        for row in heapq.merge(*self._streams(), key=lambda row: row.seq):
            if row.seq > self.state.last_seq:
                return
            if row.seq != expected:
                raise CorruptionError(f"event {expected} is missing in the archive {self.folder}: make it anew")
            expected += 1
            yield row
        if expected <= self.state.last_seq:
            raise CorruptionError(f"event {expected} is missing in the archive {self.folder}: make it anew")

    def of_stream(self, key: StreamKey) -> Iterator[AnyEvent]:
        """Yield the events that concern one stream, in the order of the log, reading no more files than it takes.

        `CorruptionError` names the first event of the whole archive that is missing: whose it was is not known then.
        """
        self._require_all()
        market = {folder_name(key.symbol), folder_name(key.timeframe), EVERYTHING}
        for row in heapq.merge(*self._streams(folder_name(key.model), market), key=lambda row: row.seq):
            if row.seq > self.state.last_seq:
                return
            if concerns(row.event, key):
                yield row.event

    def _require_all(self) -> None:
        there = [np.zeros(0, dtype=np.int64)]
        for place in self._places():
            there += [read_columns(file, "seq").column("seq").to_numpy() for file in place.glob("*.parquet")]
        seqs = np.sort(np.concatenate(there))
        seqs = seqs[seqs <= self.state.last_seq]
        wanted = np.arange(1, self.state.last_seq + 1)
        if not np.array_equal(seqs, wanted):
            missing = np.setdiff1d(wanted, seqs)
            raise CorruptionError(
                f"event {missing[0]} is missing in the archive {self.folder}: make it anew" if len(missing)
                else f"an event stands twice in the archive {self.folder}: make it anew"
            )  # fmt: skip

    def _places(self) -> list[Path]:
        """Folders of events."""
        found = {file.parent for file in self.folder.glob("*/**/*.parquet")}
        return sorted(place for place in found if place.relative_to(self.folder).parts[0] != "decisions")

    def _streams(self, model: str | None = None, market: Container[str] = ()) -> Iterator[Iterator[Logged]]:
        """One iterator a folder; its files by day. Within a folder the log is nearly in the order of days: what came
        late stands in an older file, so that files are merged as far as their numbers overlap."""
        for place in self._places():
            kind, *labels = place.relative_to(self.folder).parts
            if model is not None:
                its = labels.pop(0) if kind != "candles" else model
                # An override is ended by a word that may name another market.
                if its != model or (kind != "commands" and not all(label in market for label in labels)):
                    continue
            yield _in_order(sorted(place.glob("*.parquet")))

    def traded(self) -> dict[StreamKey, int]:
        """Return how many real trades each stream has; streams with none are not in it."""
        found: Counter[StreamKey] = Counter()
        for file in sorted(self.folder.glob("trades/**/*.parquet")):
            table = read_columns(file, "seq", "shadow", *StreamKey._fields)
            for row in table.to_pylist():
                if row["seq"] <= self.state.last_seq and not row["shadow"]:
                    found[StreamKey(row["model"], row["symbol"], row["timeframe"])] += 1
        return dict(found)

    def decisions(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number of the event, decision as bytes), in the order they were made."""
        yield from self._decisions(self.folder / "decisions")

    def served(self, key: StreamKey) -> list[bytes]:
        """Return the decisions of one stream, in the order they were made."""
        return [decision for _, decision in self._decisions(self.folder / _decisions_of(key))]

    def _decisions(self, place: Path) -> Iterator[tuple[int, bytes]]:
        found: list[tuple[int, int, str]] = []
        for file in sorted(place.rglob("*.parquet")):
            table = read_columns(file, "row", "seq", "decision")
            found += zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
        for _, seq, decision in sorted(found):
            if seq <= self.state.last_seq:
                yield seq, decision.encode()

    def reference(self, reference_id: str) -> bytes:
        """Return what `put_reference` kept; `KeyError` where there is none."""
        file = self.folder / "references" / folder_name(reference_id)
        try:
            size = int(file.with_name(f"{file.name}.size").read_text("utf-8"))
            return bytes(pa.decompress(file.read_bytes(), decompressed_size=size, codec="zstd", asbytes=True))
        except FileNotFoundError:
            raise KeyError(reference_id) from None
        except (OSError, ValueError) as error:
            raise CorruptionError(f"the reference {reference_id} of the archive cannot be read: {error}") from error

    def kept(self, known: str) -> bytes:
        """Return a reference, or limits, that an event names. Raises `CorruptionError` where it is not there."""
        try:
            return self.reference(known)
        except KeyError:
            raise CorruptionError(
                f"the reference {known} is missing in the archive {self.folder}: make it anew"
            ) from None


def place_of(event: AnyEvent) -> str:
    """Return the folder of an event's kind and stream."""
    labels = (getattr(event, name) for name in ("model", "symbol", "timeframe") if hasattr(event, name))
    kind = {"model_promoted": "promotions", "equity": "equity", "recalibrated": "references_in_force",
            "reconfigured": "configurations"}.get(kind_of(event), f"{kind_of(event)}s")  # fmt: skip
    return "/".join((kind, *(EVERYTHING if label is None else folder_name(label) for label in labels)))


def _decisions_of(key: StreamKey) -> str:
    return "/".join(("decisions", *map(folder_name, key)))


def _model_of(place: str) -> str:
    """Return the folder of all streams of a model, given the one of a stream's observations."""
    return "/".join(place.split("/")[:2])


def folder_name(label: str) -> str:
    """Return a label as the name of a folder.

    >>> folder_name("BTC/USDT:USDT"), folder_name("..")
    ('BTC%2FUSDT%3AUSDT', '%2E%2E')
    """
    name = quote(label, safe="")
    if name.strip(".") == "" or name.startswith("."):
        name = name.replace(".", "%2E")
    if len(name) > NAME_LENGTH_MAX:
        name = f"{name[:NAME_LENGTH_MAX]}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    return name


def day_of(at_ms: int) -> str:
    """Return the UTC day of a time, as in a file's name."""
    return str(np.datetime64(at_ms, "ms").astype("datetime64[D]"))


def _in_order(files: Sequence[Path]) -> Iterator[Logged]:
    """Yield the rows of a folder's files by number, with no more files open than overlap."""
    spans = []
    for file in files:
        seqs = read_columns(file, "seq").column("seq").to_numpy()
        if len(seqs):
            spans.append((int(seqs.min()), int(seqs.max()), file))
    spans.sort()
    end = 0
    groups: list[list[Path]] = []
    for first, last, file in spans:
        if not groups or first > end:
            groups.append([])
        groups[-1].append(file)
        end = max(end, last)
    for group in groups:
        yield from heapq.merge(*map(_rows, group), key=lambda row: row.seq)


def _rows(file: Path) -> Iterator[Logged]:
    table = read_columns(file).sort_by("seq")
    yield from observations_of(table) if "parts" in table.column_names else events_of(table)


def read_columns(file: Path, *columns: str) -> pa.Table:
    """Return a table of the archive, or some of its columns. Raises `CorruptionError`."""
    try:
        return pq.read_table(file, columns=list(columns) or None, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _names(file: Path) -> list[str]:
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CorruptionError:
    return CorruptionError(f"{file} cannot be read: {error}; move the archive away, it is made anew")


def _decision_table(made: Sequence[tuple[int, int, Decision]]) -> pa.Table:
    """Decisions, one row each: what both sides were told, and the decision itself as JSON."""
    served = [decision for _, _, decision in made]
    columns: dict[str, pa.Array] = {
        "row": pa.array([row for row, _, _ in made], pa.int64()),
        "seq": pa.array([seq for _, seq, _ in made], pa.int64()),
        "as_of_time_utc": pa.array([d.as_of_ms for d in served], pa.int64()).cast(UTC_MS),
        "version": pa.array([d.version for d in served], pa.int64()),
        **{n: pa.array([getattr(d, n) for d in served], pa.string()) for n in ("model", "symbol", "timeframe")},
    }
    for side in ("long", "short"):
        told = [getattr(d.sides, side) for d in served]
        columns[f"{side}_state"] = pa.array([str(each.state) for each in told], pa.string())
        for name in ("entry", "exit", "size_factor"):
            columns[f"{side}_{name}"] = pa.array([getattr(each, name) for each in told], pa.float64())
        columns[f"{side}_reasons"] = pa.array([",".join(r.code for r in each.reasons) for each in told], pa.string())
    columns["decision"] = pa.array([decision_bytes(d).decode() for d in served], pa.string())
    return pa.table(columns)


__all__ = ["Archive", "State", "day_of", "folder_name", "place_of"]
