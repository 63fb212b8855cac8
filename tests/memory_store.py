"""A store in memory, for simulations that cannot wait for a disk; it passes the contract suite of every store.

What is durable is one immutable `Content`. A group works on a copy of it, and `commit` puts the copy in its place: a
crash at any moment leaves the one or the other, and a back-up is a reference to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from regime.decision import Decision, decision_bytes, decode_decision
from regime.events import AnyEvent, StreamKey, source_key
from regime_service.stores import Checked, DeadLetter, Message, Status, StoreFailed
from regime_service.stores.rows import new_ulid


@dataclass(frozen=True)
class Content:
    """All that a store holds. The containers are never changed once it is in place."""

    events: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By source key, in order of their numbers."""
    kinds: list[str] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    decisions: dict[StreamKey, tuple[tuple[int, bytes], ...]] = field(default_factory=dict)
    served: list[tuple[int, bytes]] = field(default_factory=list)
    """Number of the event and decision, in the order they were made."""
    references: dict[str, bytes] = field(default_factory=dict)
    snapshots: tuple[tuple[int, str, bytes], ...] = ()
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    messages: dict[str, tuple[Message, bool]] = field(default_factory=dict)
    starts: int = 0
    """Times in a row that it was opened and nobody said that he was at work."""

    def copy(self) -> Content:
        return Content(
            self.events.copy(), self.kinds.copy(), self.recorded.copy(), self.decisions.copy(), self.served.copy(),
            self.references.copy(), self.snapshots, self.letters.copy(), self.messages.copy(), self.starts,
        )  # fmt: skip


class Medium:
    """Where a store lives: what survives when it is closed or its process dies."""

    def __init__(self, epoch: str | None = None, content: Content | None = None) -> None:
        self.epoch = epoch or new_ulid(0, os.urandom(10))
        self.content = content or Content()
        self.strike: Callable[[str], None] = lambda moment: None
        """Called with "before" and "after" each commit; what it raises is what the disk does. A `StoreFailed` fails
        the store, anything else is the death of the process."""


class MemoryStore:
    """A `Store` on a `Medium`."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._epoch = medium.epoch
        self._failed: str | None = None
        self._closed = False
        self._group: Content | None = None
        self._unfinished_starts = medium.content.starts
        medium.content = replace(medium.content, starts=medium.content.starts + 1)

    @property
    def unfinished_starts(self) -> int:
        return self._unfinished_starts

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def path(self) -> str:
        return "memory"

    @property
    def failed(self) -> str | None:
        return self._failed

    def _stop(self, reason: str) -> None:
        self._failed = self._failed or reason

    # --- the writer thread ---

    def begin(self) -> None:
        self._check_writable()
        if self._group is not None:
            raise RuntimeError("a group is open already")
        self._group = self._medium.content.copy()

    def commit(self) -> None:
        group = self._open()
        try:
            self._medium.strike("before")
            self._medium.content = group
            self._medium.strike("after")
        except StoreFailed as error:
            self._stop(str(error))
            raise
        self._group = None

    def started(self) -> None:
        self._group = replace(self._open(), starts=0)

    def tidy(self) -> None:
        """There is nothing that could wait."""

    def rollback(self) -> None:
        self._group = None

    def expect(self, events: Iterable[AnyEvent]) -> None:
        self._open()

    def look_up(self, event: AnyEvent, raw: bytes) -> Status:
        known = self._open().events.get(source_key(event))
        return "new" if known is None else "duplicate" if known[1] == raw else "conflict"

    def stored(self, event: AnyEvent) -> bytes | None:
        known = self._open().events.get(source_key(event))
        return None if known is None else known[1]

    def append(self, event: AnyEvent, raw: bytes, recorded_ms: int) -> int:
        group, key = self._open(), source_key(event)
        if key in group.events:
            raise ValueError(f"event {key!r} is in the log already; look_up first")
        group.events[key] = (len(group.events) + 1, raw)
        group.kinds.append(str(event.__struct_config__.tag))
        group.recorded.append(recorded_ms)
        return len(group.events)

    def put_decision(self, seq: int, decision: Decision) -> None:
        group, key, raw = self._check_seq(seq), decision.key, decision_bytes(decision)
        kept = group.decisions.get(key, ())
        newest = kept[-1][0] if kept else 0
        if decision.version > newest:
            group.decisions[key] = (*kept, (decision.version, raw))
            group.served.append((seq, raw))
        elif (decision.version, raw) not in kept:
            raise ValueError(f"{key}: version {decision.version} does not follow version {newest}; versions grow")

    def put_reference(self, reference_id: str, raw: bytes) -> None:
        if self._open().references.setdefault(reference_id, raw) != raw:
            raise ValueError(f"reference {reference_id} is known with other content")

    def put_snapshot(self, seq: int, fingerprint: str, raw: bytes) -> None:
        group = self._check_seq(seq)
        self._group = replace(group, snapshots=(*group.snapshots, (seq, fingerprint, raw))[-3:])

    def open_letter(self, seq: int, key: StreamKey, error: str, opened_ms: int) -> int:
        group = self._check_seq(seq)
        if any(letter.key == key and letter.closed_seq is None for letter in group.letters.values()):
            raise ValueError(f"{key} has an open dead letter already")
        number = len(group.letters) + 1
        group.letters[number] = DeadLetter(number, key, seq, group.kinds[seq - 1], error, opened_ms, 1, None, "")
        return number

    def letter_failed_again(self, letter: int, error: str) -> None:
        found = self._letter(letter)
        self._open().letters[letter] = found._replace(error=error, attempts=found.attempts + 1)

    def close_letter(self, letter: int, closed_seq: int, how: str) -> None:
        self._check_seq(closed_seq).letters[letter] = self._letter(letter)._replace(closed_seq=closed_seq, how=how)

    def _letter(self, letter: int) -> DeadLetter:
        found = self._open().letters.get(letter)
        if found is None or found.closed_seq is not None:
            raise ValueError(f"no dead letter {letter} is open")
        return found

    def number_of(self, event: AnyEvent) -> int:
        return self._open().events.get(source_key(event), (0, b""))[0]

    def put_message(self, seq: int, key: str, body: bytes) -> None:
        messages = self._check_seq(seq).messages
        messages.setdefault(key, (Message(len(messages) + 1, key, body), False))

    def message_sent(self, message: int, sent_ms: int) -> None:
        messages = self._open().messages
        for key, (found, _) in list(messages.items()):
            if found.id == message:
                messages[key] = (found, True)

    def _stop(self, reason: str) -> None:
        if self._failed is None:
            self._failed = reason

    def _check_writable(self) -> None:
        if self._closed:
            raise StoreFailed("the store is closed")
        if self._failed is not None:
            raise StoreFailed(self._failed)

    def _open(self) -> Content:
        self._check_writable()
        if self._group is None:
            raise RuntimeError("no group is open; begin one first")
        return self._group

    def _check_seq(self, seq: int) -> Content:
        group = self._open()
        if not 0 <= seq <= len(group.events):
            raise ValueError(f"there is no event {seq}; the newest is {len(group.events)}")
        return group

    # --- any thread ---

    def _content(self) -> Content:
        if self._closed:
            raise StoreFailed("the store is closed")
        return self._medium.content

    def events(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, bytes]]:
        until = self.last_seq() if until_seq is None else until_seq
        yield from [found for found in self._content().events.values() if after_seq < found[0] <= until]

    def bodies(self, source_keys: Sequence[str]) -> list[bytes]:
        kept = self._content().events
        return [kept[key][1] for key in source_keys if key in kept]

    def logged(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, int, bytes]]:
        recorded = self._content().recorded
        for seq, raw in self.events(after_seq, until_seq):
            yield seq, recorded[seq - 1], raw

    def served(self, after_id: int = 0) -> Iterator[tuple[int, int, Decision]]:
        for row, (seq, raw) in enumerate(self._content().served, start=1):
            if row > after_id:
                yield row, seq, decode_decision(raw)

    def last_seq(self) -> int:
        return len(self._content().events)

    def decisions(self, key: StreamKey, since_version: int = 0, limit: int = 100) -> list[Decision]:
        kept = self._content().decisions.get(key, ())
        return [decode_decision(raw) for version, raw in kept if version > since_version][:limit]

    def latest(self) -> dict[StreamKey, Decision]:
        return {key: decode_decision(kept[-1][1]) for key, kept in self._content().decisions.items()}

    def dead_letters(self, *, closed: bool = False) -> list[DeadLetter]:
        return [letter for letter in self._content().letters.values() if closed or letter.closed_seq is None]

    def messages(self, limit: int = 100) -> list[Message]:
        return [found for found, sent in self._content().messages.values() if not sent][:limit]

    def reference(self, reference_id: str) -> bytes:
        return self._content().references[reference_id]

    def newest_snapshot(self, fingerprint: str) -> tuple[int, bytes] | None:
        found = [(seq, raw) for seq, of, raw in self._content().snapshots if of == fingerprint]
        return found[-1] if found else None

    def verify(self) -> Iterator[Checked]:
        content = self._content()
        for table, rows in (
            ("events", len(content.events)), ("decisions", sum(map(len, content.decisions.values()))),
            ("references", len(content.references)), ("snapshots", len(content.snapshots)),
            ("dead letters", len(content.letters)), ("messages", len(content.messages)),
        ):  # fmt: skip
            if rows:
                yield Checked(table, rows)

    def close(self) -> None:
        self._closed = True
        self._group = None
