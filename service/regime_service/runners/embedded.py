"""The default runner: a bounded queue, one writer thread, group commit.

    request -> queue -> [ look up, append, step ]* -> COMMIT -> board -> answer

What waits in the queue when the writer comes round is one group: one transaction, one fsync. Events are stepped
inside the transaction, so that an event and the decisions it made are durable together or not at all; nobody sees
either before COMMIT has returned. Should the COMMIT fail, the engine has seen events that may not be on disk: it is
not used again. The runner says so (`failed`), answers everybody with 503, and the service ends.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import msgspec

from regime import codec
from regime.calibration import Calibration
from regime.config import EngineConfig
from regime.decision import Decision, TradingState
from regime.engine import Engine, Step, find_limits
from regime.errors import CallerError, FieldError, RegimeError, Unavailable
from regime.events import (
    SIDES,
    AnyEvent,
    Command,
    Observation,
    Recalibrated,
    Reconfigured,
    StreamKey,
    Tick,
    Trade,
    source_key,
)
from regime.fleet import Fleet, StreamStep
from regime.timeframe import timeframe_ms
from regime_service.board import Board, StreamView
from regime_service.ports import Counts, Receipt
from regime_service.runners.recovery import RecoveryFailed, Samples, fingerprint, recover
from regime_service.stores import Store, group

log = logging.getLogger("regimegate")

GROUP_MAX = 256
"""Requests in one group: bounds how long the first of them waits for the others."""
GROUP_S = 0.5
"""Seconds after which a group takes no further request, for the same reason."""
TICK_EVERY_S = 0.25
"""How often the wall clock is looked at."""
SNAPSHOT_AFTER_S = 1.0
"""Seconds spent judging since the last snapshot after which there is a new one: a start replays about as much."""
SNAPSHOT_SHARE = 20
"""Snapshots of many streams take their time: judging takes at least so many times theirs."""
SNAPSHOT_BYTES_MAX = 2**29
"""A row of either store holds a little less than 1 GiB."""
SETTLED_S = 60.0
"""Having lived so long a start was a good one, also where no event came."""
STUCK_GROUP_S = 10.0
"""A group that goes on and on is one that hangs, too."""

_STORE = "the store"


class _Job(NamedTuple):
    events: Sequence[AnyEvent]
    on_conflict: Literal["refuse", "keep"]
    references: dict[str, bytes]
    done: Future[Receipt]


class _Letter(NamedTuple):
    id: int
    poison: bytes
    error: str


class EmbeddedRunner:
    """Owns the store, the fleet and the one thread that touches them.

    Parameters
    ----------
    store
        Open; the runner closes it.
    config
        The engine's configuration.
    board, counters
        Where results are shown and counted.
    now_ms
        Wall clock that never goes back; not asked when `config.clock` is "event".
    not_before
        Told, before the clock is first asked, the time up to which the log surely reaches.
    queue_max
        Requests that may wait.
    snapshot_every
        Events between two snapshots, at most; see `SNAPSHOT_AFTER_S`.
    snapshots
        Whether a snapshot may be restored at the start; else the whole log is replayed.
    on_failure
        Called once, from the writer thread, with the reason when nothing can be written any more.
    """

    def __init__(
        self,
        store: Store,
        config: EngineConfig,
        board: Board,
        counters: Counts,
        *,
        now_ms: Callable[[], int],
        not_before: Callable[[int], None] = lambda ms: None,
        queue_max: int = 1024,
        snapshot_every: int = 5000,
        snapshots: bool = True,
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._store = store
        self._config = config
        self._board = board
        self._counters = counters
        self._now_ms = now_ms
        self._not_before = not_before
        self._snapshot_every = snapshot_every
        self._on_failure = on_failure
        self._queue: queue.Queue[_Job | None] = queue.Queue(queue_max)
        self._snapshots = snapshots
        self._samples = Samples(store)
        self._fingerprint = fingerprint(config)
        self._fleet = Fleet(config, self._samples.reference, self._samples.calibration)
        self._lock = threading.Lock()
        self._failed: str | None = None
        self._doing: tuple[str, float] | None = None
        self._group_since_s = 0.0
        self._judged_s = self._snapshot_cost_s = 0.0
        self._settled = False
        self._letters: dict[StreamKey, _Letter] = {}
        self._last_seq = 0
        self._snapshot_seq = 0
        self._stopping = self._interrupted = False
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore the state from the newest matching snapshot and the log after it, and begin to take events.

        Returns when the first answer can be given: what went stale while nobody ran is judged before anyone asks.
        Raises what recovery raised: `CorruptionError`, `StoreFailed`, `RecoveryFailed`; `Unavailable` where
        `interrupt` came first.
        """
        self._thread.start()
        self._started.result()

    def interrupt(self) -> None:
        """End a `start` that is under way in another thread; it raises `Unavailable` there, unless it is done."""
        self._interrupted = True

    def stop(self) -> None:
        """Finish what is queued, write a snapshot, close the store. May be called twice."""
        if not self._stopping:
            self._stopping = True
            if self._thread.is_alive():
                self._queue.put(None)
                self._thread.join()
            self._store.close()

    def _recover(self) -> None:
        began_s = time.monotonic()
        self._fleet, self._last_seq, self._snapshot_seq = recover(
            self._store, self._config, self._samples, snapshots=self._snapshots, before=self._before
        )
        # A candle less than the stream's own time: some send an observation when its candle opens, not when it closes.
        reached = [self._fleet.engine(key).state.clock_ms - timeframe_ms(key.timeframe) for key in self._fleet]
        self._not_before(max(reached, default=0))
        shown = dict.fromkeys(self._fleet)
        with group(self._store):
            self._recover_letters()
            for key, served in self._store.latest().items():
                again = self._fleet.engine(key).decision if key in self._fleet else None
                if again is not None and _differs(again, served):
                    event = Reconfigured(
                        model=key.model, symbol=key.symbol, timeframe=key.timeframe, policy_id=again.policy_id,
                        served_version=max(served.version, again.version),
                    )  # fmt: skip
                    self._step(event, codec.encode(event), shown)
            self._recalibrate(shown)
            self._tick_all(shown)
        self._samples.forget()
        self._show(shown)
        self._doing = None
        # What took its time now is not to take it again, should this life be a short one.
        self._judged_s = time.monotonic() - began_s

    def _before(self, seq: int) -> None:
        self._last_seq = seq
        if self._interrupted:
            raise Unavailable("the service was told to stop while it started")

    # -- the way in --------------------------------------------------------------------------------------------------

    async def ingest(
        self,
        events: Sequence[AnyEvent],
        *,
        on_conflict: Literal["refuse", "keep"] = "refuse",
        references: dict[str, bytes] | None = None,
    ) -> Receipt:
        """See `regime_service.ports.Ingest`."""
        return await asyncio.wrap_future(self.submit(events, on_conflict=on_conflict, references=references))

    def submit(
        self,
        events: Sequence[AnyEvent],
        *,
        on_conflict: Literal["refuse", "keep"] = "refuse",
        references: dict[str, bytes] | None = None,
    ) -> Future[Receipt]:
        """Queue events; the future is done when they are on disk and judged. Raises `Unavailable`."""
        if self._failed is not None:
            raise Unavailable(self._failed, retry_after_s=5)
        if self._stopping:
            raise Unavailable("the service is stopping", retry_after_s=5)
        job = _Job(events, on_conflict, references or {}, Future())
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise Unavailable("the queue of events to be written is full; send it again in a second") from None
        return job.done

    # -- what others may ask, from any thread ------------------------------------------------------------------------

    @property
    def failed(self) -> str | None:
        """Why nothing can be written any more; None while all is well."""
        if (
            self._failed is None
            and self._thread.ident is not None
            and not self._thread.is_alive()
            and not self._stopping
        ):
            return "the writer thread died"
        return self._failed

    @property
    def recovered_seq(self) -> int:
        """While it starts: the event of the log that is being judged."""
        return self._last_seq

    def stuck(self, limit_s: float) -> str | None:
        """Return what has held the writer up for longer than `limit_s` seconds, as a sentence; None while it moves.

        Time does not pass for streams meanwhile: nothing goes stale while the writer hangs in a disk that does not
        answer, or in an event that is never done. Whoever gives answers must look here.
        """
        doing, now_s = self._doing, time.monotonic()
        if doing is None:
            return None
        what, since_s = doing
        if now_s - since_s > limit_s:
            if what is _STORE:
                return f"the store has not answered for {now_s - since_s:.1f} s: the disk hangs, or is far too slow"
            return f"{what} has taken {now_s - since_s:.1f} s so far, and nothing else can be judged meanwhile"
        if (group_s := now_s - self._group_since_s) > STUCK_GROUP_S:
            return f"the events of one group have taken {group_s:.0f} s so far, and time stands still meanwhile"
        return None

    @property
    def queue_depth(self) -> int:
        return self._queue.qsize()

    @property
    def dead_letters(self) -> int:
        """Open dead letters: streams that are paused because an event made judging fail."""
        return len(self._letters)

    @property
    def lock(self) -> threading.Lock:
        """Held while the fleet is stepped; hold it to look at engines from another thread."""
        return self._lock

    @property
    def fleet(self) -> Fleet:
        """The engines; hold `lock` to look at them."""
        return self._fleet

    def digest(self) -> str:
        """Return the fleet's digest."""
        with self._lock:
            return self._fleet.digest()

    # -- the writer thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._lock:
                self._recover()
        except Exception as error:
            self._started.set_exception(error)
            return
        except BaseException as error:  # A rule that calls sys.exit must not end in a loop of starts either.
            self._started.set_exception(RecoveryFailed(f"recovery was ended by {type(error).__name__}: {error}"))
            return
        self._started.set_result(None)
        born_s = time.monotonic()
        try:
            while self._round():
                if not self._settled and time.monotonic() - born_s > SETTLED_S:
                    with self._writing():
                        self._settle()
            with self._writing():
                self._settle()
                if self._last_seq > self._snapshot_seq:
                    self._snapshot()
        except BaseException as error:
            self._fail(str(error) if isinstance(error, RegimeError) else f"{type(error).__name__}: {error}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A group of our own, while nobody waits."""
        self._group_since_s = time.monotonic()
        self._at(_STORE)
        with group(self._store):
            yield
            self._at(_STORE)
        self._doing = None

    def _at(self, what: str) -> None:
        """Say what the writer begins to do: whoever looks sees that it moves."""
        self._doing = (what, time.monotonic())

    def _settle(self) -> None:
        """Note, once, that this start was a good one: it judged something, lived for a while or ended in order."""
        if not self._settled:
            self._settled = True
            self._store.started()

    def _round(self) -> bool:
        """Take what waits; False when it is time to stop."""
        jobs: list[_Job] = []
        stop = False
        try:
            item = self._queue.get(timeout=TICK_EVERY_S)
            while True:
                if item is None:
                    stop = True
                    break
                jobs.append(item)
                if len(jobs) >= GROUP_MAX:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            pass
        left = jobs
        try:
            while left or self._due() is not None:
                self._group_since_s = time.monotonic()
                with self._lock:
                    left = self._group(left)
                # Nobody waits for what follows.
                self._at(_STORE)
                self._store.tidy()
                if self._wants_snapshot():
                    began_s = time.monotonic()
                    with self._writing():
                        self._snapshot()
                    self._snapshot_cost_s = time.monotonic() - began_s
                self._doing = None
        except BaseException:
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(
                        Unavailable("the store failed; whether this was stored is unknown. Send it again.")
                    )
            raise
        return not stop

    def _wants_snapshot(self) -> bool:
        if self._last_seq == self._snapshot_seq:
            return False
        enough_s = max(SNAPSHOT_AFTER_S, SNAPSHOT_SHARE * self._snapshot_cost_s)
        return self._judged_s >= enough_s or self._last_seq - self._snapshot_seq >= self._snapshot_every

    def _due(self) -> Tick | None:
        """The next Tick that the wall clock makes due; None on event time, where events make them."""
        return self._fleet.next_tick(self._now_ms()) if self._config.clock == "wall" else None

    def _tick_all(self, shown: dict[StreamKey, None]) -> None:
        while (tick := self._due()) is not None:
            self._step(tick, codec.encode(tick), shown)

    def _group(self, jobs: list[_Job]) -> list[_Job]:
        """Store, judge and answer requests as one group; return those that it had no time for."""
        results: list[tuple[_Job, Receipt | RegimeError]] = []
        shown: dict[StreamKey, None] = {}
        self._at(_STORE)
        with group(self._store):
            self._store.expect(event for job in jobs for event in job.events)
            self._tick_all(shown)
            for job in jobs:
                if results and time.monotonic() - self._group_since_s > GROUP_S:
                    break
                try:
                    results.append((job, self._take(job, shown)))
                except CallerError as error:
                    results.append((job, error))
                # Old data does not become fresh by arriving: the clock judges it before it is answered.
                self._tick_all(shown)
            if shown:
                self._settle()
            self._at(_STORE)
        self._samples.forget()
        self._at("showing what was judged")
        self._show(shown)
        for job, result in results:
            if not job.done.set_running_or_notify_cancel():
                continue
            if isinstance(result, Receipt):
                # The answer is what stands after the whole group: a GET after it is never older.
                newest = tuple(d for key in result.touched if (d := self._fleet.engine(key).decision) is not None)
                job.done.set_result(result._replace(decisions=newest))
            else:
                job.done.set_exception(result)
        return jobs[len(results) :]

    def _take(self, job: _Job, shown: dict[StreamKey, None]) -> Receipt:
        """Store and step one request's events: all of them, or none. Raises `CallerError` before anything is stored."""
        fresh, duplicates, conflicts = self._sort_out(job)
        for reference_id, raw in job.references.items():
            # The store shows what is committed; within this group the engine needs the bytes in hand.
            self._samples.keep(reference_id, raw)
            self._store.put_reference(reference_id, raw)
        late = 0
        for event, raw in fresh:
            while (tick := self._fleet.tick_before(event)) is not None:
                self._step(tick, codec.encode(tick), shown)
            was_late = any([step.step.late for step in self._step(event, raw, shown)])
            late += was_late
            self._counters.event(_kind(event), "late" if was_late else "accepted")
        if duplicates or conflicts:
            self._counters.event(_kind(job.events[0]), "duplicate", duplicates)
            self._counters.event(_kind(job.events[0]), "conflict", conflicts)
        touched = dict.fromkeys(key for event in job.events for key in self._fleet.reached(event))
        return Receipt(len(fresh), duplicates, conflicts, late, tuple(touched), ())

    def _sort_out(self, job: _Job) -> tuple[list[tuple[AnyEvent, bytes]], int, int]:
        """Tell new events from known ones; nothing is stored yet."""
        fresh: list[tuple[AnyEvent, bytes]] = []
        pending: dict[str, bytes] = {}
        errors: list[FieldError] = []
        duplicates = conflicts = 0
        for i, event in enumerate(job.events):
            if isinstance(event, Command) and event.action in ("retry", "drop"):
                self._require_letter(event)
            if isinstance(event, Observation | Trade):
                self._admit(StreamKey(event.model, event.symbol, event.timeframe))
            raw = codec.encode(event)
            key = source_key(event)
            status = self._store.look_up(event, raw)
            if status == "conflict" and self._same_but_for_time(event):
                status = "duplicate"
            if status == "new" and key in pending:  # the same key twice in one request
                status = "duplicate" if pending[key] == raw else "conflict"
            if status == "new":
                pending[key] = raw
                fresh.append((event, raw))
            elif status == "duplicate":
                duplicates += 1
            elif job.on_conflict == "keep":
                conflicts += 1
            else:
                what = "is stored already with other content"
                errors.append(FieldError(f"[{i}]", f"{_name(event)} {what}"))
        if errors:
            self._counters.event(_kind(job.events[0]), "conflict", len(errors))
            keep = "" if isinstance(job.events[0], Recalibrated | Command) else ", or ?on_conflict=keep to leave it so"
            raise CallerError(
                f"{errors[0].message}. Nothing of this request was stored. Send what was sent before{keep}.",
                status=409,
                errors=errors[: codec.ERRORS_MAX],
            )
        return fresh, duplicates, conflicts

    def _same_but_for_time(self, event: AnyEvent) -> bool:
        """Whether the stored one differs only in the moment at which we stamped it, which the caller never sent."""
        if not isinstance(event, Recalibrated | Command):
            return False
        stored = self._store.stored(event)
        return stored is not None and _unstamped(codec.decode(stored)) == _unstamped(event)

    def _require_letter(self, event: Command) -> None:
        open_ids = {letter.id: key for key, letter in self._letters.items()}
        key = open_ids.get(event.letter or 0)
        if key is None or key != (event.model, event.symbol, event.timeframe):
            raise CallerError(
                f"No dead letter {event.letter} is open: it was retried or dropped, a new reference ended it, or it "
                "never was. Nothing was changed. `regime dead-letter list` shows what is open.",
                status=404,
            )

    def _admit(self, key: StreamKey) -> None:
        if not self._fleet.accepts(key):
            raise CallerError(
                f"the stream {key} is not known and auto_register is off; register a reference for it first", status=404
            )

    def _step(self, event: AnyEvent, raw: bytes, shown: dict[StreamKey, None]) -> list[StreamStep]:
        self._last_seq = self._store.append(event, raw, self._now_ms())
        self._at("judging one event")
        began_s = time.monotonic()
        steps = self._fleet.step(event)
        self._judged_s += time.monotonic() - began_s
        for key, step in steps:
            shown[key] = None
            self._note_letter(key, event)
            if step.changed:
                self._store.put_decision(self._last_seq, step.decision)
                self._count_pauses(key, step)
        return steps

    def _note_letter(self, key: StreamKey, event: AnyEvent) -> None:
        """Keep the dead letters as the engine sees them: what it failed on, and what ended that."""
        state, letter = self._fleet.engine(key).state, self._letters.get(key)
        if state.error is None and letter is None:
            return
        if letter is not None and state.poison != letter.poison:
            how = "reference" if isinstance(event, Recalibrated) else "program"
            if isinstance(event, Command):
                how = event.action
            self._store.close_letter(letter.id, self._last_seq, how)
            del self._letters[key]
            letter = None
        if state.error is None:
            return
        if letter is None:
            # Not always this event: a stream that joins its model later is first told what stands for the model.
            seq = self._store.number_of(codec.decode(state.poison))
            letter_id = self._store.open_letter(seq, key, state.error, self._now_ms())
            log.error("stream %s is paused, event %d made judging fail: %s", key, seq, state.error)
            self._letters[key] = _Letter(letter_id, state.poison, state.error)
        elif isinstance(event, Command) and event.action in ("retry", "drop"):
            self._store.letter_failed_again(letter.id, state.error)
            self._letters[key] = letter._replace(error=state.error)

    def _recover_letters(self) -> None:
        """Hold the letters of the store against the log as it is judged today: another program may judge otherwise."""
        standing = {letter.key: letter for letter in self._store.dead_letters()}
        for key in self._fleet:
            state = self._fleet.engine(key).state
            letter = standing.pop(key, None)
            if state.error is None:
                if letter is not None:
                    self._store.close_letter(letter.id, self._last_seq, "program")
                continue
            seq = self._store.number_of(codec.decode(state.poison))
            if letter is not None and letter.seq != seq:
                self._store.close_letter(letter.id, self._last_seq, "program")
                letter = None
            number = self._store.open_letter(seq, key, state.error, self._now_ms()) if letter is None else letter.id
            self._letters[key] = _Letter(number, state.poison, state.error)
        for letter in standing.values():
            self._store.close_letter(letter.id, self._last_seq, "program")

    def _count_pauses(self, key: StreamKey, step: Step) -> None:
        if step.before is None:
            return
        for side in SIDES:
            before, after = step.before.sides.of(side), step.decision.sides.of(side)
            if before.state is TradingState.ACTIVE and after.state is not TradingState.ACTIVE:
                self._counters.pause(key, side, after.reasons[0].code if after.reasons else "unknown")

    def _snapshot(self) -> None:
        self._at("taking a snapshot")
        raw = self._fleet.snapshot()
        # Where there is none to be had, do not try again with every event.
        self._snapshot_seq, self._judged_s = self._last_seq, 0.0
        if raw is not None and len(raw) > SNAPSHOT_BYTES_MAX:
            log.warning(
                "a snapshot of %d streams has %d MiB, more than can be kept: the next start replays more of the log. "
                "Register references for streams that have none, or divide the streams among services",
                len(self._fleet), len(raw) >> 20,
            )  # fmt: skip
        elif raw is not None:
            self._store.put_snapshot(self._last_seq, self._fingerprint, raw)

    def _show(self, keys: Iterable[StreamKey]) -> None:
        engines = [self._fleet.engine(key) for key in keys]
        self._board.post(
            [engine.decision for engine in engines if engine.decision is not None],
            {engine.key: _view(engine) for engine in engines},
        )

    def _recalibrate(self, shown: dict[StreamKey, None]) -> None:
        """Limits that were found for another budget are found anew, on record, before anyone is answered."""
        for key in list(self._fleet):
            event = self._fleet.engine(key).outdated_limits()
            if event is not None:
                found = find_limits(event, self._samples.reference(event.reference_id), self._config)
                named, blobs = name_limits(event, found)
                for known, raw in blobs.items():
                    self._samples.keep(known, raw)
                    self._store.put_reference(known, raw)
                self._step(named, codec.encode(named), shown)

    def _fail(self, reason: str) -> None:
        self._failed = reason
        log.critical("nothing can be written any more: %s", reason)
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.done.set_exception(Unavailable(reason, retry_after_s=5))
        self._on_failure(reason)


def name_limits(event: Recalibrated, found: dict[str, Calibration]) -> tuple[Recalibrated, dict[str, bytes]]:
    """Return the event with the ids of its limits, and the limits' bytes by id."""
    blobs = {limits.digest: limits.to_json().encode() for limits in found.values()}
    named = {name: limits.digest for name, limits in found.items()}
    return msgspec.structs.replace(event, calibrations=named), blobs


def _differs(again: Decision, served: Decision) -> bool:
    """Whether recovery came to another answer than the one that was served; the time of judging does not count."""
    return (again.version, again.policy_id, again.sides) != (served.version, served.policy_id, served.sides)


def _view(engine: Engine) -> StreamView:
    state = engine.state
    return StreamView(
        evidence=tuple(engine.evidence()), alarm_rates=engine.alarm_rates(),
        outcomes={side: tuple(outcomes[-50:]) for side, outcomes in state.outcomes.items()},
        drawdown_ratio=state.drawdown.ratio, drawdown_source=state.drawdown.source,
        observations=state.observations, late=state.late, holes=state.holes,
    )  # fmt: skip


def _unstamped(event: AnyEvent) -> AnyEvent:
    # The limits follow from the reference and from our budget; the caller sent neither of them.
    changes: dict[str, Any] = {"calibrations": {}} if isinstance(event, Recalibrated) else {}
    return msgspec.structs.replace(event, ts_ms=0, **changes)


def _kind(event: AnyEvent) -> str:
    return str(type(event).__struct_config__.tag)


def _name(event: AnyEvent) -> str:
    match event:
        case Trade():
            return f"trade {event.trade_id}"
        case Command():
            return f"override {event.id}"
        case Recalibrated():
            return f"reference version {event.version}"
        case _:
            return f"the {_kind(event)} of {event.ts_ms}" if hasattr(event, "ts_ms") else f"this {_kind(event)}"
