"""What both stores have in common: the open group, kept in memory until `commit`, and rows that are checked as they
are read. What differs (sessions, locks, how rows are sent, what errors mean) is left to them.

A group is kept here and written in one go at its end: the file or the server is asked once for all keys of a group
(`expect`), and told once. Each statement costs the interpreter's lock, which requests fight over at the same time, and
on a wire a round trip.

SQL is written with `?`; a store whose driver wants another sign translates it.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from regime.codec import decode
from regime.decision import Decision, decision_bytes, decode_decision
from regime.errors import CorruptionError
from regime.events import AnyEvent, StreamKey, source_key
from regime_service.stores import Checked, DeadLetter, Message, Status, StoreFailed
from regime_service.stores.rows import checksum, event_checksum, letter_parts, matches

Row = tuple[Any, ...]

SNAPSHOTS_KEPT = 3
EVENT_ROW = "sha, seq, recorded_ms, kind, source_key, body"
_ROWS_AT_ONCE = 500
"""Rows read under one lock and in one transaction: a long one keeps a WAL from being emptied."""
_SEQ_MAX = 2**63 - 1


class GroupedStore(ABC):
    """A `Store` but for what is left abstract here. Its opening ends with `_begin_at_the_end`."""

    _row_id: str = "id"
    """Name of the column that numbers the rows of any table."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed: str | None = None
        self._in_group = False
        self._unfinished_starts = 0
        self._newest_letter = 0
        """The highest number given out by this process, also to letters that were closed again in the same group."""

    def _begin_at_the_end(self) -> None:
        rows = self._read("SELECT value FROM meta WHERE name = 'epoch'")
        if not rows:
            raise self._damaged("it has no epoch")
        self._epoch = str(rows[0][0])
        self._last_seq = self.last_seq()
        self._forget()

    # --- what each store does in its own way ---

    @abstractmethod
    def _write_group(self) -> None:
        """Write `_events`, `_decisions` and `_others` as one transaction; return when it is durable.

        Raises `StoreFailed` after `_stop`.
        """

    @abstractmethod
    def _ask(self, sql: str, *values: Any) -> list[Row]:
        """Read for the writer; what cannot be read for it ends the store, as a write that fails does."""

    @abstractmethod
    def _ask_keys(self, keys: list[bytes]) -> Iterable[Row]:
        """Return the rows (`EVENT_ROW`) of the events that have one of these keys; as `_ask`."""

    @abstractmethod
    def _read(self, sql: str, *values: Any, where: str = "") -> list[Row]:
        """Read what is committed, for any thread. Raises `CorruptionError` (which begins with `where`)."""

    @abstractmethod
    def _damaged(self, what: str) -> CorruptionError:
        """Return the error that says so, and what to do."""

    def _stop(self, reason: str) -> None:
        if self._failed is None:
            self._failed = reason

    # --- for everybody ---

    @property
    def epoch(self) -> str:
        """See `Store.epoch`."""
        return self._epoch

    @property
    def path(self) -> str:
        """See `Store.path`; without secrets."""
        return self._name

    @property
    def failed(self) -> str | None:
        """See `Store.failed`."""
        return self._failed

    @property
    def unfinished_starts(self) -> int:
        """See `Store.unfinished_starts`."""
        return self._unfinished_starts

    # --- the writer thread ---

    def begin(self) -> None:
        self._check_writable()
        if self._in_group:
            raise RuntimeError("a group is open already")
        self._in_group = True

    def commit(self) -> None:
        self._check_group()
        if self._events or self._decisions or self._others:
            self._write_group()
        self._in_group = False
        self._last_seq = self._next_seq - 1
        self._empty()

    def rollback(self) -> None:
        self._in_group = False
        self._forget()

    @abstractmethod
    def tidy(self) -> None:
        """See `Store.tidy`."""

    def started(self) -> None:
        self._check_group()
        self._others.append(("DELETE FROM meta WHERE name = 'unfinished_starts'", ()))

    def _forget(self) -> None:
        """Forget what the open group did, and what is remembered of the store: it is asked again when needed."""
        self._next_seq = self._last_seq + 1
        self._streams: dict[StreamKey, tuple[int, int]] | None = None
        self._letters: dict[int, tuple[int, int, str, int, int]] | None = None
        self._empty()

    def _empty(self) -> None:
        self._events: list[Row] = []
        """(seq, kind, source_key, recorded_ms, sha, body)"""
        self._decisions: list[Row] = []
        """(stream, version, seq, sha, body)"""
        self._others: list[tuple[str, Row]] = []
        self._keys: dict[int, tuple[AnyEvent, bytes]] = {}
        """By identity: the event, kept so that its identity stays its own, and the bytes of its key."""
        self._fresh: set[bytes] = set()
        self._expected: dict[bytes, Row | None] = {}
        self._open_events: dict[bytes, tuple[int, bytes]] = {}
        self._open_decisions: dict[tuple[int, int], bytes] = {}
        self._open_references: dict[str, bytes] = {}

    def _key(self, event: AnyEvent) -> bytes:
        known = self._keys.get(id(event))
        if known is None:
            known = self._keys[id(event)] = (event, source_key(event).encode())
        return known[1]

    def expect(self, events: Iterable[AnyEvent]) -> None:
        self._check_group()
        keys = list(dict.fromkeys(map(self._key, events)))
        if keys:
            self._expected |= dict.fromkeys(keys)
            self._expected |= {row[4]: row for row in self._ask_keys(keys)}

    def look_up(self, event: AnyEvent, raw: bytes) -> Status:
        self._check_group()
        body = self.stored(event)
        if body is None:
            self._fresh.add(self._key(event))
            return "new"
        return "duplicate" if body == raw else "conflict"

    def stored(self, event: AnyEvent) -> bytes | None:
        key = self._key(event)
        if (in_group := self._open_events.get(key)) is not None:
            return in_group[1]
        row = self._expected[key] if key in self._expected else next(iter(self._ask_keys([key])), None)
        if row is None:
            return None
        if not matches(*row):
            # Without this check a flipped bit would turn every repetition into a conflict that nobody can resolve.
            damage = self._damaged(f"event {row[1]} does not match its checksum")
            self._stop(str(damage))
            raise damage
        body: bytes = row[5]
        return body

    def append(self, event: AnyEvent, raw: bytes, recorded_ms: int) -> int:
        self._check_group()
        key = self._key(event)
        if key in self._open_events or (key not in self._fresh and self.stored(event) is not None):
            raise ValueError(f"event {source_key(event)!r} is in the log already; look_up first")
        seq, kind = self._next_seq, _kind(event)
        self._events.append((seq, kind, key, recorded_ms, event_checksum(seq, recorded_ms, kind, key, raw), raw))
        self._open_events[key] = (seq, raw)
        self._next_seq = seq + 1
        return seq

    def put_decision(self, seq: int, decision: Decision) -> None:
        self._check_group()
        self._check_seq(seq)
        key, version, body = decision.key, decision.version, decision_bytes(decision)
        stream, newest = self._stream(key)
        if version > newest:
            self._decisions.append((stream, version, seq, checksum(stream, version, seq, body), body))
            self._open_decisions[stream, version] = body
            self._known_streams()[key] = (stream, version)
            return
        same = self._open_decisions.get((stream, version))
        if same is None:
            rows = self._ask("SELECT body FROM decisions WHERE stream = ? AND version = ?", stream, version)
            same = rows[0][0] if rows else None
        if same != body:
            raise ValueError(f"{key}: version {version} does not follow version {newest}; versions grow, from 1")

    def _known_streams(self) -> dict[StreamKey, tuple[int, int]]:
        if self._streams is None:
            rows = self._ask(
                "SELECT id, model, symbol, timeframe, (SELECT coalesce(max(version), 0) FROM decisions"
                " WHERE stream = streams.id) FROM streams"
            )
            self._streams = {StreamKey(*key): (number, newest) for number, *key, newest in rows}
        return self._streams

    def _stream(self, key: StreamKey) -> tuple[int, int]:
        known = self._known_streams()
        if key not in known:
            number = max((number for number, _ in known.values()), default=0) + 1
            self._others.append(("INSERT INTO streams VALUES (?, ?, ?, ?)", (number, *key)))
            known[key] = (number, 0)
        return known[key]

    def put_reference(self, reference_id: str, raw: bytes) -> None:
        self._check_group()
        sha = checksum(reference_id, raw)
        known = self._open_references.get(reference_id)
        if known is None:
            rows = self._ask("SELECT sha FROM reference_samples WHERE reference_id = ?", reference_id)
            known = rows[0][0] if rows else None
        if known is None:
            # Level 1: the writer waits for this, and floating-point numbers hardly shrink further at level 9.
            insert = "INSERT INTO reference_samples (reference_id, sha, body) VALUES (?, ?, ?)"
            self._others.append((insert, (reference_id, sha, zlib.compress(raw, 1))))
            self._open_references[reference_id] = sha
        elif known != sha:
            raise ValueError(f"reference {reference_id} is known with other content")

    def put_snapshot(self, seq: int, fingerprint: str, raw: bytes) -> None:
        self._check_group()
        self._check_seq(seq)
        insert = "INSERT INTO snapshots (seq, fingerprint, sha, body) VALUES (?, ?, ?, ?)"
        self._others.append((insert, (seq, fingerprint, checksum(seq, fingerprint, raw), raw)))
        # By id, not by seq: a new fingerprint starts over at the first event, behind the snapshots of the old one.
        delete = "DELETE FROM snapshots WHERE id NOT IN (SELECT id FROM snapshots ORDER BY id DESC LIMIT ?)"
        self._others.append((delete, (SNAPSHOTS_KEPT,)))

    def open_letter(self, seq: int, key: StreamKey, error: str, opened_ms: int) -> int:
        self._check_group()
        self._check_seq(seq)
        stream, _ = self._stream(key)
        known = self._open_letters()
        if any(letter[0] == stream for letter in known.values()):
            raise ValueError(f"{key} has an open dead letter already")
        newest = int(self._ask("SELECT coalesce(max(id), 0) FROM dead_letter")[0][0])
        letter = max(newest, self._newest_letter) + 1
        row = (stream, seq, _text(error), opened_ms, 1, None, "")
        self._others.append(
            (
                "INSERT INTO dead_letter (id, stream, seq, error, opened_ms, attempts, closed_seq, how, sha)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (letter, *row, checksum(*letter_parts(*row))),
            )
        )
        known[letter] = row[:5]
        self._newest_letter = letter
        return letter

    def letter_failed_again(self, letter: int, error: str) -> None:
        stream, seq, _, opened_ms, attempts = self._letter(letter)
        self._change_letter(letter, (stream, seq, _text(error), opened_ms, attempts + 1), None, "")

    def close_letter(self, letter: int, closed_seq: int, how: str) -> None:
        self._check_seq(closed_seq)
        self._change_letter(letter, self._letter(letter), closed_seq, how)
        del self._open_letters()[letter]

    def _open_letters(self) -> dict[int, tuple[int, int, str, int, int]]:
        if self._letters is None:
            rows = self._ask(
                "SELECT id, stream, seq, error, opened_ms, attempts FROM dead_letter WHERE closed_seq IS NULL"
            )
            self._letters = {row[0]: row[1:] for row in rows}
        return self._letters

    def _letter(self, letter: int) -> tuple[int, int, str, int, int]:
        self._check_group()
        found = self._open_letters().get(letter)
        if found is None:
            raise ValueError(f"no dead letter {letter} is open")
        return found

    def _change_letter(
        self, letter: int, row: tuple[int, int, str, int, int], closed_seq: int | None, how: str
    ) -> None:
        self._others.append(
            (
                "UPDATE dead_letter SET error = ?, attempts = ?, closed_seq = ?, how = ?, sha = ? WHERE id = ?",
                (row[2], row[4], closed_seq, how, checksum(*letter_parts(*row, closed_seq, how)), letter),
            )
        )
        self._open_letters()[letter] = row

    def number_of(self, event: AnyEvent) -> int:
        self._check_group()
        key = self._key(event)
        if (in_group := self._open_events.get(key)) is not None:
            return in_group[0]
        rows = self._ask("SELECT seq FROM events WHERE source_key = ?", key)
        return int(rows[0][0]) if rows else 0

    def put_message(self, seq: int, key: str, body: bytes) -> None:
        self._check_group()
        self._check_seq(seq)
        insert = (
            "INSERT INTO outbox (seq, message_key, sha, body) VALUES (?, ?, ?, ?) ON CONFLICT (message_key) DO NOTHING"
        )
        self._others.append((insert, (seq, self._message_key(key), checksum(seq, key, body), body)))

    def _message_key(self, key: str) -> str | bytes:
        return key

    def message_sent(self, message: int, sent_ms: int) -> None:
        self._check_group()
        self._others.append(("UPDATE outbox SET sent_ms = ? WHERE id = ? AND sent_ms IS NULL", (sent_ms, message)))

    def _check_writable(self) -> None:
        if self._failed is not None:
            raise StoreFailed(self._failed)

    def _check_group(self) -> None:
        self._check_writable()
        if not self._in_group:
            raise RuntimeError("no group is open; begin one first")

    def _check_seq(self, seq: int) -> None:
        if not 0 <= seq < self._next_seq:
            raise ValueError(f"there is no event {seq}; the newest is {self._next_seq - 1}")

    # --- any thread ---

    def events(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, bytes]]:
        for rows in self._event_pages(after_seq, until_seq):
            for row in rows:
                yield row[1], row[5]

    def logged(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, int, bytes]]:
        for rows in self._event_pages(after_seq, until_seq):
            for row in rows:
                yield row[1], row[2], row[5]

    def served(self, after_id: int = 0) -> Iterator[tuple[int, int, Decision]]:
        select = "SELECT sha, stream, version, seq, body, id FROM decisions WHERE id > ? ORDER BY id LIMIT ?"
        last = after_id
        while rows := self._read(select, last, _ROWS_AT_ONCE):
            for *row, last in rows:
                yield last, row[3], self._decision(tuple(row))

    def _event_pages(self, after_seq: int, until_seq: int | None) -> Iterator[list[Row]]:
        select = f"SELECT {EVENT_ROW} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        until = _SEQ_MAX if until_seq is None else until_seq
        while True:
            try:
                rows = self._read(select, after_seq, until, _ROWS_AT_ONCE)
            except CorruptionError:
                # One by one, so that the good ones come out and the message names the first that is not.
                rows = self._read(select, after_seq, until, 1, where=f"event {after_seq + 1}")
            for number, row in enumerate(rows):
                seq = row[1]
                if seq == after_seq + 1 and matches(*row):
                    after_seq = seq
                    continue
                if number:
                    yield rows[:number]
                if seq != after_seq + 1:
                    raise self._damaged(f"event {after_seq + 1} is missing (the next one is {seq})")
                raise self._damaged(f"event {seq} does not match its checksum")
            if not rows:
                return
            yield rows

    def bodies(self, source_keys: Sequence[str]) -> list[bytes]:
        found: list[bytes] = []
        # In pieces: other readers get their turn in between.
        for start in range(0, len(source_keys), _ROWS_AT_ONCE):
            some = [key.encode() for key in source_keys[start : start + _ROWS_AT_ONCE]]
            marks = ", ".join("?" * len(some))
            for row in self._read(f"SELECT {EVENT_ROW} FROM events WHERE source_key IN ({marks})", *some):
                if not matches(*row):
                    raise self._damaged(f"event {row[1]} does not match its checksum")
                found.append(row[5])
        return found

    def last_seq(self) -> int:
        return int(self._read("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def decisions(self, key: StreamKey, since_version: int = 0, limit: int = 100) -> list[Decision]:
        rows = self._read(
            "SELECT sha, stream, version, seq, body FROM decisions WHERE stream = ("
            "SELECT id FROM streams WHERE model = ? AND symbol = ? AND timeframe = ?"
            ") AND version > ? ORDER BY version LIMIT ?",
            *(*key, since_version, limit),
        )
        return [self._decision(row) for row in rows]

    def latest(self) -> dict[StreamKey, Decision]:
        rows = self._read(
            "SELECT d.sha, d.stream, d.version, d.seq, d.body FROM streams s JOIN decisions d ON d.stream = s.id"
            " AND d.version = (SELECT max(version) FROM decisions WHERE stream = s.id) ORDER BY s.id"
        )
        return {decision.key: decision for decision in map(self._decision, rows)}

    def _decision(self, row: Row) -> Decision:
        _, _, version, seq, body = row
        if not matches(*row):
            raise self._damaged(f"decision version {version} of event {seq} does not match its checksum")
        try:
            return decode_decision(body)
        except msgspec.MsgspecError as error:
            raise self._damaged(f"decision version {version} of event {seq} cannot be read: {error}") from error

    def dead_letters(self, *, closed: bool = False) -> list[DeadLetter]:
        rows = self._read(
            "SELECT d.sha, d.stream, d.seq, d.error, d.opened_ms, d.attempts, d.closed_seq, d.how, d.id, s.model,"
            " s.symbol, s.timeframe, (SELECT kind FROM events WHERE seq = d.seq) FROM dead_letter d"
            " JOIN streams s ON s.id = d.stream WHERE ? OR d.closed_seq IS NULL ORDER BY d.id",
            closed,
        )
        return [self._dead_letter(row) for row in rows]

    def _dead_letter(self, row: Row) -> DeadLetter:
        sha, stream, seq, error, opened_ms, attempts, closed_seq, how, letter, *key, kind = row
        if not matches(sha, *letter_parts(stream, seq, error, opened_ms, attempts, closed_seq, how)):
            raise self._damaged(f"dead letter {letter} does not match its checksum")
        return DeadLetter(letter, StreamKey(*key), seq, str(kind), error, opened_ms, attempts, closed_seq, how)

    def messages(self, limit: int = 100) -> list[Message]:
        rows = self._read(
            "SELECT id, sha, seq, message_key, body FROM outbox WHERE sent_ms IS NULL ORDER BY id LIMIT ?", limit
        )
        return [self._message(row) for row in rows]

    def _message(self, row: Row) -> Message:
        number, sha, seq, key, body = row
        if not matches(sha, seq, key, body):
            raise self._damaged(f"message {number} of the outbox does not match its checksum")
        return Message(number, key.decode() if isinstance(key, bytes) else key, body)

    def reference(self, reference_id: str) -> bytes:
        rows = self._read("SELECT reference_id, sha, body FROM reference_samples WHERE reference_id = ?", reference_id)
        if not rows:
            raise KeyError(reference_id)
        return self._reference(rows[0])

    def _reference(self, row: Row) -> bytes:
        reference_id, sha, body = row
        try:
            raw = zlib.decompress(body)
        except (zlib.error, TypeError) as error:
            raise self._damaged(f"reference {reference_id} cannot be unpacked: {error}") from error
        if not matches(sha, reference_id, raw):
            raise self._damaged(f"reference {reference_id} does not match its checksum")
        return raw

    def newest_snapshot(self, fingerprint: str) -> tuple[int, bytes] | None:
        ids = self._read("SELECT id FROM snapshots WHERE fingerprint = ? ORDER BY seq DESC, id DESC", fingerprint)
        for (number,) in ids:
            try:
                rows = self._read("SELECT sha, seq, fingerprint, body FROM snapshots WHERE id = ?", number)
            except CorruptionError:
                continue
            for row in rows:
                if matches(*row) and row[2] == fingerprint:
                    return row[1], row[3]
        return None

    def verify(self) -> Iterator[Checked]:
        count = 0
        for rows in self._event_pages(0, None):
            for _, seq, _, kind, key, body in rows:
                try:
                    event = decode(body)
                except CorruptionError as error:
                    raise self._damaged(f"event {seq}: {error}") from error
                if source_key(event).encode() != key or _kind(event) != kind:
                    raise self._damaged(f"event {seq} stands under the key of another one")
            count += len(rows)
            yield Checked("events", count)
        for table, columns in self._tables():
            for count, row in self._rows(table, columns):
                match table:
                    case "decisions":
                        self._decision(row)
                        if row[3] > self.last_seq():  # asked anew each time: the log may be growing
                            raise self._damaged(f"a decision is of event {row[3]}, but the log ends before it")
                    case "reference_samples":
                        self._reference(row)
                    case "outbox":
                        self._message(row)
                    case _:
                        if not matches(*row):
                            raise self._damaged(f"the snapshot after event {row[1]} does not match its checksum")
                yield Checked(table, count)
        if letters := self.dead_letters(closed=True):
            yield Checked("dead_letter", len(letters))
        self._verify_below()

    def _tables(self) -> list[tuple[str, str]]:
        """Name tables beside the log, and their columns."""
        return [
            ("decisions", "sha, stream, version, seq, body"),
            ("reference_samples", "reference_id, sha, body"),
            ("snapshots", "sha, seq, fingerprint, body"),
            ("outbox", "id, sha, seq, message_key, body"),
        ]

    @abstractmethod
    def _verify_below(self) -> None:
        """Let the database itself look for damage, where it can."""

    def _rows(self, table: str, columns: str) -> Iterator[tuple[int, Row]]:
        """Number and yield the rows of a table, one at a time: references and snapshots are large."""
        count = after = 0
        number = self._row_id
        select = f"SELECT {number}, {columns} FROM {table} WHERE {number} > ? ORDER BY {number} LIMIT 1"
        while rows := self._read(select, after, where=f"{table}, after row {after}"):
            count, after = count + 1, int(rows[0][0])
            yield count, rows[0][1:]

    def oldest_ms(self) -> int | None:
        """Return when the first event of the log was written; None for an empty log."""
        rows = self._read("SELECT recorded_ms FROM events ORDER BY seq LIMIT 1")
        return int(rows[0][0]) if rows else None


def _kind(event: AnyEvent) -> str:
    return str(event.__struct_config__.tag)


def _text(words: str) -> str:
    """Return words as every database can keep them: any Unicode but NUL and lone surrogates."""
    return words.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
