"""The log of events on disk, and what is kept beside it: decisions, references, snapshots.

Rules
-----
1. *The log is the truth.* Everything else can be computed from it; a snapshot is a cache and may be thrown away. One
   exception: the decisions are the authority on what was served, even where a later version would decide otherwise.
2. *Answer after commit.* Nothing may be seen by anybody before the `commit` of its group has returned.
3. *A write error is the end.* After the first one the store refuses every further write: a second `fsync` may succeed
   although the data of the first is lost. `failed` holds the reason; the service pauses everybody, answers 503, exits.
4. *One writer.* A store is held by one process, and written to by one thread of it.
5. *A group is written at its end.* Until `commit` it is kept in memory, so errors of disk or server show there.

What a runner does with a group of events, in full:

    store.begin()
    store.expect(events of the group)
    for event, raw in group:
        seq, status = offer(store, event, raw, now_ms)
        if status == "new":
            for decision in engine.step(event): store.put_decision(seq, decision)
    store.commit()                  # then, and only then, the board and the waiting requests
    store.tidy()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

from regime.decision import Decision
from regime.errors import RegimeError
from regime.events import AnyEvent, StreamKey

Status = Literal["new", "duplicate", "conflict"]


class StoreFailed(RegimeError):
    """The store cannot be written: disk full, I/O error, read-only. Pause, answer 503, exit; do not try again.

    Whether the group in hand is on disk is unknown. Sending it again is harmless: its keys are known, or they are new.
    """

    status_hint = 503


class StoreUnreachable(StoreFailed):
    """The server of the store does not answer. It may do so soon: end, and let the supervisor try again."""


class Appended(NamedTuple):
    """What became of one offered event; `seq` is 0 unless it is new."""

    seq: int
    status: Status


class Checked(NamedTuple):
    """Progress of `verify`: so many rows of that table have been found good."""

    table: str
    rows: int


class DeadLetter(NamedTuple):
    """An event of the log that made the engine of one stream fail. The log still holds it: this is a note beside it.

    `attempts` counts the times it failed. While `closed_seq` is None it is open and the stream is paused; then it is
    the number of the event that closed it, and `how` says in a word what that was: `retry`, `drop`, `reference` (a new
    one started the detectors anew) or `program` (another version or configuration judges the log without failing).
    """

    id: int
    key: StreamKey
    seq: int
    kind: str
    error: str
    opened_ms: int
    attempts: int
    closed_seq: int | None
    how: str


class Message(NamedTuple):
    """A row of the outbox: something to be sent once it is committed, under a `key` that a receiver can know again."""

    id: int
    key: str
    body: bytes


class Store(Protocol):
    """A durable log. The suite in `tests/contracts/test_stores.py` is this docstring as code.

    Threads: `begin` to `put_snapshot` and `close` belong to the writer thread; all others may be called from any
    thread, at any time until `close`. Those others see committed groups only, **not** the one that is open: do not look
    for a reference that was put a moment ago, keep the bytes in hand.

    Errors: `StoreFailed` as above, `CorruptionError` where something cannot be read back as it was written.
    `ValueError` is a mistake of the calling code (an append without `look_up`, a version that falls): the group can
    still be rolled back and the store goes on. `RuntimeError`: a write outside of a group, or a group within a group.
    """

    @property
    def epoch(self) -> str:
        """ULID, made with the store and stable for its life. Versions of decisions are comparable within one epoch.

        Trap: clients ignore an *older* epoch, so a store made while the clock stood in the past is not listened to.
        """
        ...

    @property
    def path(self) -> str:
        """Where it is, for messages."""
        ...

    @property
    def failed(self) -> str | None:
        """Why nothing can be written any more, as a sentence; None while all is well. Once set it stays."""
        ...

    @property
    def unfinished_starts(self) -> int:
        """Times in a row that this store was opened for writing, before this time, and `started` never came: whoever
        did it died of something while starting, or was killed."""
        ...

    # --- the writer thread ---

    def started(self) -> None:
        """Note, with the open group, that whoever opened the store is at work."""
        ...

    def begin(self) -> None:
        """Open a group: all of it becomes durable, or nothing."""
        ...

    def commit(self) -> None:
        """Return when the group is durable (survives a power cut), not before."""
        ...

    def tidy(self) -> None:
        """Do what can wait until those who wait for a group have been answered. Call it after each, between groups."""
        ...

    def rollback(self) -> None:
        """Forget the open group; its numbers are given out again. Harmless without a group and on a failed store."""
        ...

    def expect(self, events: Iterable[AnyEvent]) -> None:
        """Hear which events will be looked up in the open group: a store at the end of a wire asks for them at once.

        A hint and no more: every answer is the same without it.
        """
        ...

    def look_up(self, event: AnyEvent, raw: bytes) -> Status:
        """Say whether the log, with the open group, knows the event's `source_key`, and with the same bytes.

        `raw` must be the canonical bytes (`codec.encode`): another spelling of the same content is a conflict.
        """
        ...

    def stored(self, event: AnyEvent) -> bytes | None:
        """Return the bytes that the log, with the open group, holds for the event's `source_key`."""
        ...

    def append(self, event: AnyEvent, raw: bytes, recorded_ms: int) -> int:
        """Add an event that `look_up` called new, and return its number: 1, 2, 3... without gaps.

        `recorded_ms` is when we wrote it: for people. No decision may depend on it.
        """
        ...

    def put_decision(self, seq: int, decision: Decision) -> None:
        """Keep what event `seq` made of a stream. Versions of a stream grow; the very same decision again is fine."""
        ...

    def put_reference(self, reference_id: str, raw: bytes) -> None:
        """Keep a reference's bytes. The same again is fine, other bytes under a known id are a `ValueError`."""
        ...

    def put_snapshot(self, seq: int, fingerprint: str, raw: bytes) -> None:
        """Keep the engine's state after event `seq`; only the newest three are kept, whatever their fingerprints."""
        ...

    def open_letter(self, seq: int, key: StreamKey, error: str, opened_ms: int) -> int:
        """Note that event `seq` made the engine of a stream fail, and return the letter's number, which grows.

        A stream has one open letter at the most: a second one is a `ValueError`.
        """
        ...

    def letter_failed_again(self, letter: int, error: str) -> None:
        """Note that it was retried and failed again. `ValueError` where no letter of that number is open."""
        ...

    def close_letter(self, letter: int, closed_seq: int, how: str) -> None:
        """Note what ended it (`DeadLetter`). `ValueError` where no letter of that number is open."""
        ...

    def number_of(self, event: AnyEvent) -> int:
        """Return the number of an event in the log, with the open group; 0 if it is not there."""
        ...

    def put_message(self, seq: int, key: str, body: bytes) -> None:
        """Add something that event `seq` gives reason to send. The same key again changes nothing, and is no error."""
        ...

    def message_sent(self, message: int, sent_ms: int) -> None:
        """Note that a message was delivered. Once more is fine."""
        ...

    # --- any thread ---

    def events(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of the events after `after_seq` up to and including `until_seq`.

        Each is checked as it is read; `CorruptionError` names the first that is damaged or missing. Without `until_seq`
        it ends at what was committed when it got there, so it may be run while events come in.
        """
        ...

    def bodies(self, source_keys: Sequence[str]) -> list[bytes]:
        """Return the bytes of the events that stand in the log under these keys (`regime.events.source_key`), in any
        order; a key that is not there is passed over. For pictures: a few hundred looks into an index, not a scan."""
        ...

    def logged(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, int, bytes]]:
        """As `events`, with the time of writing: number, `recorded_ms`, bytes."""
        ...

    def served(self, after_id: int = 0) -> Iterator[tuple[int, int, Decision]]:
        """Yield decisions of all streams in the order they were made: row, number of the event, decision.

        Those after row `after_id` (0: all), each checked as it is read; ends at what was committed when it got there.
        """
        ...

    def last_seq(self) -> int:
        """Return the number of the newest committed event, 0 for an empty log."""
        ...

    def decisions(self, key: StreamKey, since_version: int = 0, limit: int = 100) -> list[Decision]:
        """Return decisions of a stream with a version above `since_version`, ascending, at most `limit`."""
        ...

    def latest(self) -> dict[StreamKey, Decision]:
        """Return the newest decision of every stream."""
        ...

    def dead_letters(self, *, closed: bool = False) -> list[DeadLetter]:
        """Return the open dead letters, oldest first; with `closed` those as well."""
        ...

    def messages(self, limit: int = 100) -> list[Message]:
        """Return messages that were not sent yet, oldest first, at most `limit`."""
        ...

    def reference(self, reference_id: str) -> bytes:
        """Return a reference's bytes. `KeyError` where there is none."""
        ...

    def newest_snapshot(self, fingerprint: str) -> tuple[int, bytes] | None:
        """Return number and bytes of the newest good snapshot of that fingerprint; a damaged one is passed over."""
        ...

    def verify(self) -> Iterator[Checked]:
        """Read everything, yielding progress; `CorruptionError` names the first bad row and what is wrong with it."""
        ...

    def close(self) -> None:
        """Give the store back. What was not committed is gone. May be called twice."""
        ...


@contextmanager
def group(store: Store) -> Iterator[None]:
    """One group as a block: committed at its end, rolled back where the block raises."""
    store.begin()
    try:
        yield
        store.commit()
    except BaseException:
        store.rollback()
        raise


def offer(store: Store, event: AnyEvent, raw: bytes, recorded_ms: int) -> Appended:
    """Append `event` to the open group if it is new, and say what became of it."""
    status = store.look_up(event, raw)
    return Appended(store.append(event, raw, recorded_ms) if status == "new" else 0, status)


__all__ = [
    "Appended", "Checked", "DeadLetter", "Message", "Status", "Store", "StoreFailed", "StoreUnreachable", "group",
    "offer",
]  # fmt: skip
