"""The outbox: what is to be said is written with the decision that gives reason to say it, in one transaction.

Theory of operation
-------------------
Rule 1: nothing is sent that is not committed, and nothing that is committed is forgotten before it was delivered or
given up on record.

    writer thread     note    a decision changed: one row a channel, in the decision's own group
                      write   rows that were delivered (or given up) are marked, in whatever group comes next
    loader thread     reads rows that were committed, hands them to their channels
    one thread a      takes what is due, oldest first, tries, and notes what became of it
    channel

A row whose delivery was not yet marked when the process died is sent again by the next one: at least once, under the
same key. Without a crash it is sent once.

What waits for what: alerts about the same stream go in order, so that "trades again" never comes before "paused".
Streams do not wait for each other, channels do not wait for each other. What failed is tried again after 1, 2, 4 ...
60 seconds (each shortened by chance, so that many do not come back at once), or when the receiver asks for it.

What is never delivered (the receiver refuses it, it is too old, the channel is gone from the configuration) becomes a
dead one: a row of its own, with the reason, which stays in the store; the newest `DEAD_MAX` are listed. An operator may
have it sent again, as a new row with the same alert under the same key, or dropped.

The state of tries is not kept: a new process tries at once. The store has one mark, sent or not. What takes a row's
place is written in the group that marks it: a dead one under the key `dead ID`, which stays unmarked until an operator
says what to do; then `again ID`, an alert like any other, or `dropped ID`, which is marked as soon as it is read. Both
hold the operator's word, for who wants to know later.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from regime.decision import Decision
from regime.errors import CallerError, CorruptionError, RegimeError, Unavailable
from regime.events import StreamKey
from regime_service.alerts import Alert, Channel, dated
from regime_service.stores import Message, Store, group

log = logging.getLogger("regimegate")

BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0
BACKLOG_MAX = 5000
"""Alerts that may wait for one channel; the oldest is given up for one more."""
DEAD_MAX = 500
"""Dead ones that are kept; of more, the oldest are forgotten."""
GIVE_UP_TRIES = 10
"""Tries that a process makes before it gives up: what waited through a long silence of ours gets its chance, too."""
LOOK_EVERY_S = 30.0
"""How often it is looked which pauses still stand."""
CHANNEL_NEWS_MS = 6 * 3600 * 1000
"""Of a channel that refuses alerts the others hear once in so long."""
WORD_S = 10.0
"""How long an operator's word about dead alerts waits to be written down."""
_DEAD, _AGAIN, _DROPPED = "dead ", "again ", "dropped "
_PAGE = 1000
_STORED_MAX = 50_000
"""Rows that are looked at in a store that no service holds."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants done with alerts that were given up."""

    action: Literal["retry", "drop"]
    actor: str
    reason: str
    said_ms: int
    key_id: str | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of the outbox holds; `reason` and `dead_ms` of a dead one only, `word` of one it made."""

    channel: str
    alert: Alert
    reason: str = ""
    dead_ms: int = 0
    word: Word | None = None


class Way(NamedTuple):
    """A channel (as `make_channel` made it, so that it raises nothing) with what the outbox needs beside it."""

    name: str
    kind: str
    channel: Channel
    timeout_s: float


class Quiet(NamedTuple):
    """Hours in which only urgent alerts are sent: minutes of the day, the end not included, in a zone."""

    start: int
    end: int
    zone: tzinfo

    def holds(self, now_ms: int) -> bool:
        """Whether it is such an hour now.

        >>> night = Quiet(22 * 60, 7 * 60, UTC)
        >>> night.holds(23 * 3_600_000), night.holds(7 * 3_600_000)
        (True, False)
        """
        at = datetime.fromtimestamp(now_ms / 1000, self.zone)
        minute = at.hour * 60 + at.minute
        if self.start <= self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


class Voice(Protocol):
    """Who finds the words: `words.py`, bound to what it needs beside a decision."""

    def alerts_of(self, before: Decision | None, after: Decision, recorded_ms: int) -> list[Alert]: ...

    def without_words(self, after: Decision, recorded_ms: int) -> Alert:
        """Return a poor alert that needs no reasoning: what to say where finding words failed."""
        ...

    def standing_since_ms(self, decision: Decision) -> int | None: ...

    def still(self, decision: Decision, since_ms: int, slot: int, now_ms: int) -> Alert: ...

    def channel_refuses(self, channel: str, reason: str, slot: int, now_ms: int) -> Alert: ...


class Figures(NamedTuple):
    """What metrics show of one channel."""

    deliveries: Mapping[str, int]
    """Tries since the start by result: `delivered` (alerts), `failed` (tries that may work later), `dead` (alerts)."""
    waiting: int
    """Not delivered yet and due: those that quiet hours hold back are none of them."""
    held: int
    """Held back by quiet hours."""
    dead: int
    oldest_s: float
    """How long the oldest that waits has waited; 0 where none does."""


class _Waiting:
    """One alert on its way through one channel."""

    def __init__(self, row: int, alert: Alert, since_ms: int) -> None:
        self.row, self.alert, self.since_ms = row, alert, since_ms
        self.tries = 0
        self.not_before_s = 0.0
        self.error = ""
        self.alone = False
        """Refused in company: it may be another one's fault."""


class _Mark(NamedTuple):
    """What became of a row; `key` and `next` are the row that takes its place, where there is one."""

    row: int
    key: str = ""
    next: Row | None = None


class Outbox:
    """See the module. Made before the runner, told by it (`ports.Alerts`), started after it.

    Parameters
    ----------
    store
        Open. `put_message` and `message_sent` are called in the writer's groups only.
    channels
        Their names. The ways themselves are for `start`: to write alerts down needs no secret.
    voice
        Finds the words.
    decisions
        The answers that stand, for reminders.
    now_ms
        Wall clock.
    repeat_after_ms
        How long a pause stands until it is said again; 0: never.
    give_up_after_ms
        How long an alert is tried.
    quiet
        When only urgent ones are sent; None: never.
    on_failure
        Called with the reason, from a thread of ours, when rows cannot be read any more and nothing will be sent.
    rng, monotonic
        Chance and time of the waits between tries.
    """

    def __init__(
        self,
        store: Store,
        channels: Sequence[str],
        voice: Voice,
        *,
        decisions: Callable[[], Mapping[StreamKey, Decision]],
        now_ms: Callable[[], int],
        repeat_after_ms: int,
        give_up_after_ms: int,
        quiet: Quiet | None = None,
        on_failure: Callable[[str], None] = lambda reason: None,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._voice = store, voice
        self._names = list(channels)
        self._ways: dict[str, Way] = {}
        self._decisions, self._now_ms, self._monotonic = decisions, now_ms, monotonic
        self._repeat_ms, self._give_up_ms, self._quiet = repeat_after_ms, give_up_after_ms, quiet
        self._on_failure = on_failure
        self._rng = rng or random.Random()
        self._lock = threading.Condition()
        # All below is held by the lock.
        self._waiting: dict[str, dict[int, _Waiting]] = {name: {} for name in channels}
        self._known: set[int] = set()
        self._seen = 0
        self._dead: dict[int, Row] = {}
        self._marks: list[_Mark] = []
        self._words: list[threading.Event] = []
        self._fresh = True
        self._stopping = False
        self._counts: dict[tuple[str, str], int] = {}
        self._errors: dict[str, str] = {}
        # The writer thread's own.
        self._writing: list[_Mark] = []
        self._answering: list[threading.Event] = []
        self._wrote = False
        self._look_s = 0.0
        self._reminded: dict[StreamKey, tuple[int, int]] = {}
        self._reminders: list[Alert] = []
        self._news: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self, ways: Sequence[Way]) -> None:
        """Begin to deliver, what an earlier process left first."""
        self._ways = {way.name: way for way in ways}
        self._threads = [threading.Thread(target=self._load, name="alerts", daemon=True)]
        for way in ways:
            self._threads.append(
                threading.Thread(target=self._serve, args=(way,), name=f"alerts {way.name}", daemon=True)
            )
        # Here and not in the thread: who asks right after the start hears of what waits.
        if self._read():
            for thread in self._threads:
                thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """End the threads; a try that is under way has `within_s` to end. What was not sent stays in the store."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        until_s = time.monotonic() + within_s
        for thread in filter(threading.Thread.is_alive, self._threads):
            thread.join(max(0.0, until_s - time.monotonic()))

    # -- the writer thread (`ports.Alerts`) --------------------------------------------------------------------------

    def note(self, seq: int, before: Decision | None, after: Decision) -> None:
        """Write down what a changed decision gives reason to say, in the group in which the decision is written."""
        now_ms = self._now_ms()
        try:
            alerts = self._voice.alerts_of(before, after, now_ms)
        except Exception:
            # Words must not be able to stop the service, nor to swallow an alert.
            log.exception("no words were found for the change of %s to version %d", after.key, after.version)
            alerts = [self._voice.without_words(after, now_ms)]
        self._put(seq, alerts)

    def due(self) -> bool:
        """Whether there is something to write although no event came."""
        with self._lock:
            return bool(self._marks) or self._look()

    def write(self, seq: int) -> None:
        """Write what became of rows, and reminders, into the open group."""
        with self._lock:
            self._writing, self._marks = self._marks, []
            self._answering, self._words = self._words, []
            self._look()
        reminders, self._reminders = self._reminders, []
        now_ms = self._now_ms()
        for mark in self._writing:
            self._store.message_sent(mark.row, now_ms)
            if mark.next is not None:
                self._store.put_message(seq, mark.key, msgspec.json.encode(mark.next))
                self._wrote = True
                if mark.next.word is None:
                    self._tell_others(seq, mark.next, now_ms)
        self._put(seq, reminders)

    def committed(self) -> None:
        """The group is durable: what it brought may be sent."""
        if not (self._writing or self._wrote):
            return
        with self._lock:
            # A row stays known until its mark is on disk, or it would be read as new.
            self._known.difference_update(mark.row for mark in self._writing)
            self._fresh = self._fresh or self._wrote
            self._lock.notify_all()
        for written in self._answering:
            written.set()
        self._writing, self._answering, self._wrote = [], [], False

    def _put(self, seq: int, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            for name in self._names:
                raw = msgspec.json.encode(Row(channel=name, alert=alert))
                self._store.put_message(seq, f"{alert.key} {name}", raw)
                self._wrote = True

    def _look(self) -> bool:
        """Find the pauses that have stood for another interval; now and then, for it looks at every stream."""
        if not self._repeat_ms or self._monotonic() < self._look_s:
            return bool(self._reminders)
        self._look_s = self._monotonic() + LOOK_EVERY_S
        now_ms = self._now_ms()
        # A reminder is not made at night: in the morning the one that counts then is.
        if self._quiet is not None and self._quiet.holds(now_ms):
            return bool(self._reminders)
        try:
            self._remind(now_ms)
        except Exception:
            log.exception("no reminders were made")  # As in `note`: words must not be able to stop the service.
        return bool(self._reminders)

    def _remind(self, now_ms: int) -> None:
        for key, decision in self._decisions().items():
            since_ms = self._voice.standing_since_ms(decision)
            if since_ms is None:
                self._reminded.pop(key, None)
                continue
            slot = (now_ms - since_ms) // self._repeat_ms
            if slot >= 1 and self._reminded.get(key) != (since_ms, slot):
                self._reminded[key] = (since_ms, slot)
                self._reminders.append(self._voice.still(decision, since_ms, slot, now_ms))

    def _tell_others(self, seq: int, dead: Row, now_ms: int) -> None:
        """Say by the other channels that this one does not work, now and then."""
        slot = now_ms // CHANNEL_NEWS_MS
        if dead.channel not in self._names or self._news.get(dead.channel) == slot or dead.alert.kind == "service":
            return
        self._news[dead.channel] = slot
        alert = self._voice.channel_refuses(dead.channel, dead.reason, slot, now_ms)
        for name in self._names:
            if name != dead.channel:
                raw = msgspec.json.encode(Row(channel=name, alert=alert))
                self._store.put_message(seq, f"{alert.key} {name}", raw)

    # -- the loader --------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        while True:
            with self._lock:
                while not (self._fresh or self._stopping):
                    self._lock.wait()
                if self._stopping:
                    return
            if not self._read():
                return

    def _read(self) -> bool:
        """Take in rows that are new; False where they cannot be read and never will be."""
        with self._lock:
            self._fresh = False
            held = len(self._known) + len(self._dead)
        try:
            # Those at hand stand first, so that what is new comes after so many.
            found = self._store.messages(held + _PAGE)
        except RegimeError as error:
            # A store that failed (or was closed) is told of by whoever ends the service for it.
            log.error("no alert is sent any more, those that wait cannot be read: %s", error)
            if isinstance(error, CorruptionError):
                self._on_failure(str(error))
            return False
        with self._lock:
            # By number, not by what is known: one that was marked since we read is known no longer.
            for message in found:
                if message.id > self._seen:
                    self._seen = message.id
                    self._sort(message)
            self._fresh = self._fresh or len(found) >= held + _PAGE
            self._lock.notify_all()
        return True

    def _sort(self, message: Message) -> None:
        try:
            row = msgspec.json.decode(message.body, type=Row)
        except msgspec.MsgspecError as error:
            # Of another version, perhaps: it is not read, and stays listed nowhere but in the log.
            log.error("message %d of the outbox cannot be read: %s", message.id, error)
            self._known.add(message.id)
            return
        if message.key.startswith(_DEAD):
            self._dead[message.id] = row
            self._bury_oldest()
            return
        self._known.add(message.id)
        if message.key.startswith(_DROPPED):
            self._marks.append(_Mark(message.id))
            return
        # One that is sent again is as new as the word that asked for it.
        waiting = _Waiting(message.id, row.alert, row.alert.recorded_ms if row.word is None else row.word.said_ms)
        mine = self._waiting.get(row.channel)
        if mine is None:
            self._give_up(row.channel, waiting, f"there is no channel {row.channel!r} in the configuration any more")
            return
        mine[message.id] = waiting
        while len(mine) > BACKLOG_MAX:
            oldest = next(iter(mine))
            self._give_up(row.channel, mine[oldest], f"{BACKLOG_MAX} later ones wait for this channel already")

    def _bury_oldest(self) -> None:
        while len(self._dead) > DEAD_MAX:
            oldest = min(self._dead)
            del self._dead[oldest]
            # Marked like one that was sent: it is listed no longer.
            self._known.add(oldest)
            self._marks.append(_Mark(oldest))

    # -- the channels' threads ---------------------------------------------------------------------------------------

    def _serve(self, way: Way) -> None:
        failures, free_at_s = 0, 0.0
        while True:
            with self._lock:
                while not self._stopping:
                    batch, wake_s = self._due_for(way, free_at_s)
                    if batch:
                        break
                    self._lock.wait(max(0.0, wake_s - self._monotonic()) if wake_s is not None else None)
                if self._stopping:
                    return
            now_ms = self._now_ms()
            delivery = way.channel.send([dated(one.alert, now_ms) for one in batch], within_s=way.timeout_s)
            reason = delivery.reason
            with self._lock:
                if delivery.result == "delivered":
                    failures, free_at_s = 0, 0.0
                    self._count(way.name, "delivered", len(batch))
                    self._errors.pop(way.name, None)
                    for one in batch:
                        self._done(way.name, one, None)
                    continue
                self._errors[way.name] = reason
                if delivery.result == "never":
                    if len(batch) > 1:
                        for one in batch:
                            one.alone, one.error = True, reason
                    else:
                        self._give_up(way.name, batch[0], reason)
                    continue
                failures += 1
                self._count(way.name, "failed", 1)
                now_s = self._monotonic()
                asked_s = delivery.retry_after_s or 0.0
                free_at_s = now_s + max(asked_s, self._backoff_s(failures))
                for one in batch:
                    one.tries, one.error = one.tries + 1, reason
                    one.not_before_s = now_s + max(asked_s, self._backoff_s(one.tries))
                    too_old = self._now_ms() - one.since_ms > self._give_up_ms
                    if too_old and one.tries >= GIVE_UP_TRIES:
                        hours = self._give_up_ms / 3_600_000
                        self._give_up(way.name, one, f"not delivered within {hours:g} h; the last reason: {reason}")
            if failures == 1:
                log.warning("alert channel %s: %s; it is tried again", way.name, reason)

    def _due_for(self, way: Way, free_at_s: float) -> tuple[list[_Waiting], float | None]:
        """Return what to send now, and when to look again (monotonic seconds; None: when something comes)."""
        now_s, mine = self._monotonic(), self._waiting[way.name]
        if not mine:
            return [], None
        if free_at_s > now_s:
            return [], free_at_s
        for_morning = self._held(way.name)
        ready: dict[tuple[str, str, str], list[_Waiting]] = {}
        blocked: set[tuple[str, str, str]] = set()
        wake_s: float | None = None
        for one in mine.values():
            about = one.alert.about
            if about in blocked:
                continue
            held = one.row in for_morning
            if held or one.not_before_s > now_s:
                blocked.add(about)
                at_s = now_s + LOOK_EVERY_S if held else one.not_before_s
                wake_s = at_s if wake_s is None else min(wake_s, at_s)
                continue
            ready.setdefault(about, []).append(one)
        if not ready:
            return [], wake_s
        # Those that were never tried first: one that always fails must not be in the way of all others.
        queues = sorted(ready.values(), key=lambda queue: (queue[0].tries > 0, queue[0].row))
        if queues[0][0].alone:
            return queues[0][:1], None
        fresh = queues[0][0].tries == 0
        batch: list[_Waiting] = []
        for queue in queues:
            for one in queue:
                if one.alone or (one.tries == 0) is not fresh:
                    break
                batch.append(one)
        return sorted(batch[: way.channel.batch_max], key=lambda one: one.row), None

    def _held(self, channel: str) -> set[int]:
        """Return the rows that wait for the end of the quiet hours."""
        if self._quiet is None or not self._quiet.holds(self._now_ms()):
            return set()
        mine = self._waiting.get(channel, {}).values()
        # An urgent one takes along what was said about the same stream before it.
        urgent = {one.alert.about: one.row for one in mine if one.alert.urgent}
        return {one.row for one in mine if not one.alert.urgent and one.row > urgent.get(one.alert.about, 0)}

    def _backoff_s(self, tries: int) -> float:
        full = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(tries - 1, 16))
        return full * self._rng.uniform(0.5, 1.0)

    def _give_up(self, channel: str, one: _Waiting, reason: str) -> None:
        log.error("alert given up, channel %s: %s (%s)", channel, reason, one.alert.subject)
        self._count(channel, "dead", 1)
        self._done(channel, one, Row(channel=channel, alert=one.alert, reason=reason, dead_ms=self._now_ms()))

    def _done(self, channel: str, one: _Waiting, dead: Row | None) -> None:
        self._waiting.get(channel, {}).pop(one.row, None)
        self._marks.append(_Mark(one.row) if dead is None else _Mark(one.row, f"{_DEAD}{one.row}", dead))

    def _count(self, channel: str, result: str, n: int) -> None:
        self._counts[channel, result] = self._counts.get((channel, result), 0) + n

    # -- what others may ask, from any thread ------------------------------------------------------------------------

    def figures(self) -> dict[str, Figures]:
        """Return what metrics show, by channel."""
        now_ms = self._now_ms()
        with self._lock:
            dead = [row.channel for row in self._dead.values()]
            names = dict.fromkeys([*self._names, *dead, *(name for name, _ in self._counts)])
            found = {}
            for name in names:
                held = self._held(name)
                ages_ms = [now_ms - one.since_ms for row, one in self._waiting.get(name, {}).items() if row not in held]
                found[name] = Figures(
                    {result: self._counts.get((name, result), 0) for result in ("delivered", "failed", "dead")},
                    len(ages_ms), len(held), dead.count(name), max(ages_ms, default=0) / 1000,
                )  # fmt: skip
            return found

    def listed(self, limit: int = 500) -> dict[str, Any]:
        """Return what waits and what is dead, oldest first, JSON-able; `limit` of each at the most."""
        figures = self.figures()
        with self._lock:
            waiting = [
                {**_shown(name, one.alert), "tries": one.tries, "last_error": one.error}
                for name, mine in self._waiting.items()
                for one in mine.values()
            ]
            dead = [_dead(number, row) for number, row in sorted(self._dead.items())]
            errors = dict(self._errors)
        channels = [
            {
                "name": name, "kind": self._ways[name].kind if name in self._ways else None, "waiting": f.waiting,
                "held": f.held, "dead": f.dead, "delivered": f.deliveries["delivered"], "last_error": errors.get(name),
            }
            for name, f in figures.items()
        ]  # fmt: skip
        return {"channels": channels, "waiting": waiting[:limit], "dead": dead[-limit:]}

    def settle(self, ids: Sequence[int], word: Word) -> None:
        """Send dead alerts again, or forget them; returns when that is on disk. All of them, or none.

        Raises `CallerError` (404) where one of them is not dead, `Unavailable` where the writer does not come to it:
        then it is not known whether it will.
        """
        written = threading.Event()
        with self._lock:
            _require(ids, self._dead)
            for number in dict.fromkeys(ids):
                row = self._dead.pop(number)
                self._known.add(number)
                self._marks.append(_Mark(number, *_settled(number, row, word)))
                log.warning(
                    "alert %d: %s by %r%s: %r (channel %s, %s)", number,
                    "sent again" if word.action == "retry" else "dropped", word.actor,
                    f" with the key {word.key_id}" if word.key_id else "", word.reason, row.channel, row.alert.subject,
                )  # fmt: skip
            self._words.append(written)
        if not written.wait(WORD_S):
            raise Unavailable("the writer is busy; whether this was done is unknown. `regime alerts list` shows it")


def settle_in(store: Store, ids: Sequence[int], word: Word) -> None:
    """As `Outbox.settle`, in a store that no service holds: its next service sends them, or forgets them."""
    dead = {message.id: row for message, row in _rows(store) if message.key.startswith(_DEAD)}
    _require(ids, dead)
    with group(store):
        store.started()  # It was opened for this and not by a service that may fail.
        for number in dict.fromkeys(ids):
            key, row = _settled(number, dead[number], word)
            store.message_sent(number, word.said_ms)
            store.put_message(store.last_seq(), key, msgspec.json.encode(row))


def _require(ids: Sequence[int], dead: Mapping[int, Row]) -> None:
    if gone := [number for number in ids if number not in dead]:
        raise CallerError(
            f"No alert {gone[0]} was given up, or it was sent again or dropped already. Nothing was changed. "
            "`regime alerts list` shows what was given up.",
            status=404,
        )


def _settled(number: int, dead: Row, word: Word) -> tuple[str, Row]:
    """Return key and content of the row that takes a dead one's place."""
    prefix = _AGAIN if word.action == "retry" else _DROPPED
    return f"{prefix}{number}", Row(channel=dead.channel, alert=dead.alert, word=word)


def unsent(store: Store) -> dict[str, Any]:
    """Return what waits and what is dead in a store that no service holds; as `Outbox.listed`, without its channels."""
    waiting, dead = [], []
    for message, row in _rows(store):
        if message.key.startswith(_DEAD):
            dead.append(_dead(message.id, row))
        elif not message.key.startswith(_DROPPED):
            waiting.append({**_shown(row.channel, row.alert), "tries": 0, "last_error": ""})
    return {"channels": [], "waiting": waiting, "dead": dead}


def _rows(store: Store) -> Iterator[tuple[Message, Row]]:
    for message in store.messages(_STORED_MAX):
        with contextlib.suppress(msgspec.MsgspecError):  # Of another version, perhaps.
            yield message, msgspec.json.decode(message.body, type=Row)


def _dead(number: int, row: Row) -> dict[str, Any]:
    return {"id": number, **_shown(row.channel, row.alert), "reason": row.reason, "dead_ms": row.dead_ms}


def _shown(channel: str, alert: Alert) -> dict[str, Any]:
    return {
        "channel": channel, "key": alert.key, "kind": alert.kind, "subject": alert.subject, "at_ms": alert.at_ms,
        "recorded_ms": alert.recorded_ms,
    }  # fmt: skip


def shout(ways: Sequence[Way], alert: Alert, *, tries: int = 2) -> list[threading.Thread]:
    """Send something at once by every channel, without the store: for when the store is what failed. Best effort.

    The threads end by themselves; whoever is about to end the process may wait for them a moment.
    """

    def send(way: Way) -> None:
        for number in range(tries):
            delivery = way.channel.send([alert], within_s=min(way.timeout_s, 3.0))
            if delivery.result == "delivered":
                return
            log.error("alert channel %s: %s (%s)", way.name, delivery.reason, alert.subject)
            if delivery.result == "never":
                return
            if number + 1 < tries:
                time.sleep(0.3)

    threads = [threading.Thread(target=send, args=(way,), name=f"alerts {way.name}", daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    return threads


__all__ = ["Figures", "Outbox", "Quiet", "Row", "Voice", "Way", "Word", "settle_in", "shout", "unsent"]
