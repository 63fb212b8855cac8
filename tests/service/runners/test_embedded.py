"""The embedded runner: durable before it is answered, the same after a restart, 503 rather than unsafe."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import apsw
import msgspec
import numpy as np
import pytest

from regime import codec
from regime.config import DetectorConfig, EngineConfig
from regime.decision import TradingState
from regime.engine import find_limits
from regime.errors import CallerError, Unavailable
from regime.events import TS_MS_MAX, Command, Observation, Recalibrated, StreamKey, Tick, Trade
from regime.fleet import Fleet
from regime.plugins import load
from regime.reference import Reference
from regime.replay import replay
from regime_service.board import Board
from regime_service.metrics import Counters
from regime_service.runners.embedded import EmbeddedRunner, name_limits
from regime_service.runners.recovery import RecoveryFailed
from regime_service.stores import StoreFailed
from regime_service.stores.sqlite import SqliteStore
from regime_service.testing import HandClock

KEY = StreamKey("m", "BTC/USDT", "5m")
STEP_MS = 300_000
NAMES = ["a", "b", "c"]


def reference() -> Reference:
    return Reference(NAMES, np.random.default_rng(3).standard_normal((3000, 3)))


def observation(i: int, *, timeframe: str = "5m", ts_ms: int | None = None, **changes: Any) -> Observation:
    values = np.random.default_rng(1000 + i).standard_normal(3) * (1 if i < 150 else 3)
    features = dict(zip(NAMES, values.tolist(), strict=True))
    at_ms = i * STEP_MS if ts_ms is None else ts_ms
    return Observation(model="m", symbol="BTC/USDT", timeframe=timeframe, ts_ms=at_ms, features=features | changes)


def trade(i: int, profit_ratio: float) -> Trade:
    return Trade(
        model="m", symbol="BTC/USDT", timeframe="5m", trade_id=f"t{i}", side="long", opened_ms=i * STEP_MS,
        closed_ms=(i + 1) * STEP_MS, entry_price=100.0, exit_price=101.0, profit_ratio=profit_ratio,
    )  # fmt: skip


def history() -> tuple[list[Any], dict[str, bytes]]:
    sample = reference()
    events: list[Any] = [
        Recalibrated(model="m", symbol="BTC/USDT", timeframe="5m", version="1", reference_id=sample.reference_id)
    ]
    for i in range(300):
        if not 200 <= i < 206:  # a hole, long enough to be stale
            events.append(observation(i))
        if i % 7 == 0:
            events.append(trade(i, 0.01 if i < 150 else -0.02))
    return events, {sample.reference_id: sample.to_bytes()}


Start = Callable[..., EmbeddedRunner]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[EmbeddedRunner] = []

    def begin(config: EngineConfig | None = None, *, now_ms: Callable[[], int] = lambda: 0, **options: Any) -> Any:
        store = options.pop("store", None) or SqliteStore(tmp_path / "s.db")
        chosen = EngineConfig(clock="event") if config is None else config
        runner = EmbeddedRunner(store, chosen, Board(), Counters(), now_ms=now_ms, **options)
        runner.start()
        running.append(runner)
        return runner

    yield begin
    for runner in running:
        runner.stop()


def feed(runner: EmbeddedRunner, events: list[Any], references: dict[str, bytes], *, size: int) -> None:
    for at in range(0, len(events), size):
        runner.submit(events[at : at + size], references=references if at == 0 else None).result(timeout=30)


def offline_digest(config: EngineConfig) -> str:
    events, raw = history()
    references = {name: Reference.from_bytes(body) for name, body in raw.items()}
    fleet = Fleet(config, references.__getitem__)
    for _ in replay(events, fleet):
        pass
    return fleet.digest()


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_digest_is_that_of_a_replay_whatever_the_batches(start: Start, size: int) -> None:
    runner = start()
    feed(runner, *history(), size=size)
    assert runner.digest() == offline_digest(EngineConfig(clock="event"))


def test_a_tick_is_in_the_log_where_time_alone_changed_something(start: Start) -> None:
    runner = start()
    feed(runner, *history(), size=50)
    kinds = [raw for _, raw in runner._store.events()]
    assert any(b'"kind":"tick"' in raw for raw in kinds)


@pytest.mark.parametrize("kind", ["calibrated", "ks", "adwin", "river_adwin"])
@pytest.mark.parametrize("snapshot_every", [40, 10_000])
def test_a_restart_half_way_continues_bit_for_bit(start: Start, tmp_path: Path, kind: str, snapshot_every: int) -> None:
    """With ks from snapshot and tail; with river's objects, which nothing can take out, from the log alone."""
    config = EngineConfig(clock="event", detectors=[DetectorConfig(kind=kind)])
    events, references = history()
    runner = start(config, snapshot_every=snapshot_every)
    feed(runner, events[:170], references, size=10)
    before, answer = runner.digest(), runner._board.now.decisions[KEY]
    runner.stop()
    again = start(config, snapshot_every=snapshot_every)
    assert again.digest() == before
    assert again._board.now.decisions[KEY] == answer
    feed(again, events[170:], {}, size=10)
    assert again.digest() == offline_digest(config)


def test_the_same_batch_twice_changes_nothing_the_second_time(start: Start) -> None:
    runner = start()
    batch = [observation(i) for i in range(60)]
    first = runner.submit(batch).result(30)
    digest = runner.digest()
    second = runner.submit(batch).result(30)
    assert (first.accepted, first.duplicates) == (60, 0)
    assert (second.accepted, second.duplicates) == (0, 60)
    assert runner.digest() == digest
    assert second.decisions == first.decisions


def test_a_batch_with_a_conflict_changes_nothing_at_all(start: Start) -> None:
    runner = start()
    runner.submit([observation(0)]).result(30)
    digest, last_seq = runner.digest(), runner._store.last_seq()
    with pytest.raises(CallerError) as refused:
        runner.submit([observation(1), observation(0, a=9.0), observation(2)]).result(30)
    assert refused.value.status_hint == 409
    assert refused.value.errors[0].path == "[1]"
    assert (runner.digest(), runner._store.last_seq()) == (digest, last_seq)


def test_a_conflict_within_one_batch_is_seen_too(start: Start) -> None:
    runner = start()
    with pytest.raises(CallerError):
        runner.submit([observation(0), observation(0, a=9.0)]).result(30)
    assert runner._store.last_seq() == 0


def test_keep_leaves_the_stored_one_and_counts_it(start: Start) -> None:
    runner = start()
    runner.submit([observation(0)]).result(30)
    kept = runner.submit([observation(0, a=9.0), observation(1)], on_conflict="keep").result(30)
    assert (kept.accepted, kept.conflicts) == (1, 1)


def test_an_old_observation_is_stored_and_counted_but_not_judged(start: Start) -> None:
    runner = start()
    feed(runner, [observation(i) for i in range(60) if i != 30], {}, size=60)
    before = runner._board.now.decisions[KEY]
    receipt = runner.submit([observation(30)]).result(30)
    assert (receipt.accepted, receipt.late) == (1, 1)
    assert runner._board.now.decisions[KEY] == before
    assert runner._store.last_seq() == 60


def test_silence_is_judged_without_any_request(start: Start) -> None:
    clock = HandClock(60 * STEP_MS)
    runner = start(EngineConfig(clock="wall"), now_ms=clock)
    runner.submit([observation(i) for i in range(60)]).result(30)
    assert runner._board.now.decisions[KEY].sides.long.state is TradingState.ACTIVE
    clock.ms += 3 * STEP_MS
    for _ in range(200):
        decision = runner._board.now.decisions[KEY]
        if decision.sides.long.state is TradingState.REDUCING:
            break
        runner._thread.join(0.05)
    assert decision.sides.long.reasons[0].code == "stale"


def test_what_went_stale_while_nobody_ran_is_stale_in_the_first_answer(start: Start) -> None:
    clock = HandClock(60 * STEP_MS)
    runner = start(EngineConfig(clock="wall"), now_ms=clock)
    runner.submit([observation(i) for i in range(60)]).result(30)
    runner.stop()
    clock.ms += 10 * STEP_MS
    again = start(EngineConfig(clock="wall"), now_ms=clock)
    assert again._board.now.decisions[KEY].sides.long.state is TradingState.REDUCING


def test_old_data_does_not_become_fresh_by_arriving(start: Start) -> None:
    runner = start(EngineConfig(clock="wall"), now_ms=HandClock(1000 * STEP_MS))
    receipt = runner.submit([observation(i) for i in range(60)]).result(30)
    assert receipt.decisions[0].sides.long.reasons[0].code == "stale"


def test_a_wall_clock_history_replays_to_the_same_digest(start: Start, tmp_path: Path) -> None:
    """Ticks that the wall made are in the log; nothing else of the wall is."""
    config = EngineConfig(clock="wall")
    clock = HandClock(60 * STEP_MS)
    runner = start(config, now_ms=clock)
    runner.submit([observation(i) for i in range(60)]).result(30)
    clock.ms += 4 * STEP_MS
    until = 64 * STEP_MS
    word = Command(id="x", action="set", ts_ms=until, model="m", state="ACTIVE", until_ms=until + 1000, actor="me")
    runner.submit([word]).result(30)
    clock.ms += 5000
    runner.submit([observation(63)]).result(30)
    digest = runner.digest()
    events = [codec.decode(raw) for _, raw in runner._store.events()]
    assert sum(isinstance(event, Tick) for event in events) >= 2
    fleet = Fleet(config, {}.__getitem__)
    for _ in replay(events, fleet):
        pass
    assert fleet.digest() == digest


def test_a_version_never_falls_when_the_configuration_changes(start: Start) -> None:
    events, references = history()
    runner = start(EngineConfig(clock="event"))
    feed(runner, events, references, size=50)
    served = runner._board.now.decisions[KEY].version
    runner.stop()
    calm = start(EngineConfig(clock="event", rules=[], detectors=[]))
    decision = calm._board.now.decisions[KEY]
    assert decision.version > served
    assert calm._store.decisions(KEY, served, 10) == [decision]
    calm.stop()
    same = start(EngineConfig(clock="event", rules=[], detectors=[]))
    assert same._board.now.decisions[KEY] == decision, "the same configuration again is no change"


def test_a_changed_configuration_restarts_to_the_same_digest_without_a_snapshot(start: Start) -> None:
    events, references = history()
    river = [DetectorConfig(kind="river_adwin")]
    runner = start(EngineConfig(clock="event", detectors=river))
    feed(runner, events[:200], references, size=50)
    runner.stop()
    changed = EngineConfig(clock="event", detectors=river, rules=[])
    runner = start(changed)
    feed(runner, events[200:], references, size=50)
    digest = runner.digest()
    runner.stop()
    assert start(changed).digest() == digest


def test_every_served_change_is_in_the_audit_trail(start: Start) -> None:
    events, references = history()
    runner = start()
    feed(runner, events, references, size=1)
    trail = runner._store.decisions(KEY, 0, 1000)
    assert [d.version for d in trail] == list(range(1, runner._board.now.decisions[KEY].version + 1))


def test_a_failed_store_answers_everybody_and_takes_nothing_more(start: Start, tmp_path: Path) -> None:
    class Broken(SqliteStore):
        def commit(self) -> None:
            if self.broken:
                raise self_failed(self)
            super().commit()

        broken = False

    def self_failed(store: Broken) -> StoreFailed:
        store._stop("disk full")
        return StoreFailed("disk full")

    reasons: list[str] = []
    store = Broken(tmp_path / "b.db")
    runner = start(store=store, on_failure=reasons.append)
    runner.submit([observation(0)]).result(30)
    before = runner._board.now.decisions[KEY]
    store.broken = True
    waiting: Future[Any] = runner.submit([observation(1)])
    with pytest.raises(Unavailable):
        waiting.result(30)
    runner._thread.join(10)
    assert reasons and "disk full" in reasons[0]
    assert runner.failed is not None
    with pytest.raises(Unavailable):
        runner.submit([observation(2)])
    assert runner._board.now.decisions[KEY] == before, "no new version without a store"


def test_a_full_queue_is_said_and_nothing_is_lost(start: Start) -> None:
    runner = start(queue_max=2)
    with runner.lock:  # The writer waits: what is sent now stays in the queue.
        futures, refused = [], 0
        for i in range(40):
            try:
                futures.append(runner.submit([observation(i)]))
            except Unavailable:
                refused += 1
    accepted = sum(future.result(30).accepted for future in futures)
    assert refused > 0
    stored = sum(b'"kind":"observation"' in raw for _, raw in runner._store.events())
    assert stored == accepted == len(futures)


@pytest.mark.parametrize("timeframe", ["3M", "9999M"])
def test_a_candle_longer_than_the_false_alarm_budget_does_not_stop_the_writer(start: Start, timeframe: str) -> None:
    runner = start()
    events, references = history()
    long = [msgspec.structs.replace(event, symbol="ETH/USDT", timeframe=timeframe) for event in events[:2]]
    feed(runner, long, references, size=1)
    feed(runner, events, references, size=100)
    assert runner.failed is None
    assert runner.fleet.engine(KEY).decision is not None
    assert runner.dead_letters == 0


def test_a_log_at_the_end_of_time_can_be_read_again(start: Start) -> None:
    runner = start()
    last_ms = TS_MS_MAX - 86_400_000
    for event in (
        observation(0, ts_ms=0), observation(1, timeframe="1d", ts_ms=last_ms - 86_400_000 * 1000),
        observation(2, timeframe="1d", ts_ms=last_ms),
    ):  # fmt: skip
        assert not codec.check(event)
        feed(runner, [event], {}, size=1)
    now_ms = max(decision.as_of_ms for decision in runner._board.now.decisions.values())
    word = Command(id="x", action="set", ts_ms=now_ms, model="m", state="HALTED")
    feed(runner, [word, observation(3, ts_ms=TS_MS_MAX - STEP_MS)], {}, size=1)
    digest = runner.digest()
    runner.stop()
    again = start()
    assert again.digest() == digest
    assert [checked.table for checked in again._store.verify()]


def test_auto_register_off_knows_only_what_has_a_reference(start: Start) -> None:
    events, references = history()
    runner = start(EngineConfig(clock="event", auto_register=False))
    with pytest.raises(CallerError) as refused:
        runner.submit([observation(0)]).result(30)
    assert refused.value.status_hint == 404
    feed(runner, events[:5], references, size=1)
    assert KEY in runner.fleet


def test_the_moment_we_stamped_is_no_content(start: Start) -> None:
    """Sent again a minute later, the same reference or override is a duplicate, not a conflict."""
    sample = reference()
    runner = start(EngineConfig(clock="wall"), now_ms=HandClock(60 * STEP_MS))
    raw = {sample.reference_id: sample.to_bytes()}
    for ts_ms, accepted in ((1000, 1), (61_000, 0)):
        again = Recalibrated(model="m", version="1", reference_id=sample.reference_id, ts_ms=ts_ms)
        assert runner.submit([again], references=raw).result(30).accepted == accepted
        word = Command(id="x", action="set", ts_ms=ts_ms, model="m", state="REDUCING", actor="a", reason="b")
        assert runner.submit([word]).result(30).accepted == accepted
    other = Recalibrated(model="m", version="1", reference_id="f" * 32, ts_ms=1000)
    with pytest.raises(CallerError) as refused:
        runner.submit([other]).result(30)
    assert refused.value.status_hint == 409
    assert "on_conflict" not in refused.value.detail


def test_another_budget_finds_the_limits_anew_on_record(start: Start) -> None:
    """Once, before anyone is answered; the same budget again changes nothing."""
    sample = reference()
    event = Recalibrated(model="m", symbol="BTC/USDT", timeframe="5m", version="1", reference_id=sample.reference_id)
    config = EngineConfig(clock="event")
    named, blobs = name_limits(event, find_limits(event, sample, config))
    runner = start(config)
    runner.submit([named], references={sample.reference_id: sample.to_bytes()} | blobs).result(60)
    feed(runner, [observation(i) for i in range(60)], {}, size=60)
    digest = runner.digest()
    runner.stop()
    same = start(config)
    assert (same.digest(), same._store.last_seq()) == (digest, 61)
    same.stop()
    shared = EngineConfig(clock="event", streams_expected=5)
    for _ in range(2):
        again = start(shared)
        events = [codec.decode(raw) for _, raw in again._store.events()]
        revisions = [e.revision for e in events if isinstance(e, Recalibrated)]
        assert revisions == [0, 1]
        limits = again.fleet.engine(KEY).watches[0].calibrations()["calibrated"]
        assert limits.rows_per_false_alarm == 5 * 30 * 288 / 0.5
        again.stop()


def test_a_reference_for_all_timeframes_finds_its_limits_when_it_is_stepped(start: Start) -> None:
    sample = reference()
    runner = start()
    event = Recalibrated(model="m", version="1", reference_id=sample.reference_id)
    runner.submit([event], references={sample.reference_id: sample.to_bytes()}).result(60)
    feed(runner, [observation(i) for i in range(60)], {}, size=30)
    digest = runner.digest()
    runner.stop()
    assert start().digest() == digest


# --- dead letters ---


class Brittle:
    """A detector that cannot take a feature over 100."""

    broken = True
    broken_at_reset = False

    def __init__(self) -> None:
        self._rows = np.zeros(1)

    def reset(self, reference: Reference) -> None:
        if self.broken_at_reset:
            raise ArithmeticError("at reset")
        self._rows = np.zeros(1)

    def update(self, x: Any) -> None:
        if x.max() > 100 and self.broken:
            raise ArithmeticError("over 100")
        self._rows += 1

    warm = property(lambda self: False)
    statistic = property(lambda self: float(self._rows[0]))
    threshold = property(lambda self: 10.0)
    drift_detected = property(lambda self: False)
    feature_statistics = property(lambda self: np.zeros(3))

    def state(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state(self, state: dict[str, Any]) -> None:
        self._rows = state["rows"]

    def fingerprint(self) -> bytes:
        return self._rows.tobytes()

    @staticmethod
    def examples() -> list[dict[str, Any]]:
        return [{}]


BRITTLE = EngineConfig(
    clock="event", detectors=[DetectorConfig(kind=f"{__name__}.Brittle")], warmup_observations=5, rules=[]
)
OTHER = StreamKey("m", "ETH/USDT", "5m")


def poisoned(runner: EmbeddedRunner) -> None:
    """Two streams with a reference, and an event that the detector of one of them cannot take."""
    sample = reference()
    event = Recalibrated(model="m", version="1", reference_id=sample.reference_id)
    runner.submit([event], references={sample.reference_id: sample.to_bytes()}).result(30)
    for i in range(10):
        runner.submit([observation(i), msgspec.structs.replace(observation(i), symbol="ETH/USDT")]).result(30)
    runner.submit([observation(10, a=1000.0)]).result(30)
    runner.submit([observation(11), msgspec.structs.replace(observation(11), symbol="ETH/USDT")]).result(30)


def word(action: Any, letter: int, id_: str = "w") -> Command:
    return Command(id=id_, action=action, ts_ms=0, **KEY._asdict(), actor="ana", reason="seen", letter=letter)


def told(runner: EmbeddedRunner, key: StreamKey = KEY) -> tuple[TradingState, list[str]]:
    side = runner._board.now.decisions[key].sides.long
    return side.state, [reason.code for reason in side.reasons]


def replayed(runner: EmbeddedRunner) -> str:
    sample = reference()
    fleet = Fleet(BRITTLE, {sample.reference_id: sample}.__getitem__)
    for _ in replay([codec.decode(raw) for _, raw in runner._store.events()], fleet):
        pass
    return fleet.digest()


def test_an_event_that_makes_a_detector_raise_pauses_its_stream_alone_and_is_kept(start: Start) -> None:
    runner = start(BRITTLE)
    poisoned(runner)
    assert told(runner) == (TradingState.REDUCING, ["engine-error"])
    assert told(runner, OTHER) == (TradingState.ACTIVE, [])
    (letter,) = runner._store.dead_letters()
    assert (letter.key, letter.kind, letter.attempts) == (KEY, "observation", 1)
    assert "over 100" in letter.error
    bad = dict(runner._store.events())[letter.seq]
    assert bad == codec.encode(observation(10, a=1000.0)), "it was accepted, and the log holds it"
    assert runner.dead_letters == 1
    assert runner.digest() == replayed(runner)


@pytest.mark.parametrize("snapshots", [True, False])
def test_dropped_the_stream_goes_on_and_a_restart_and_a_replay_are_the_same(start: Start, snapshots: bool) -> None:
    runner = start(BRITTLE, snapshot_every=5 if snapshots else 10_000)
    poisoned(runner)
    letter = runner._store.dead_letters()[0].id
    runner.submit([word("drop", letter)]).result(30)
    assert told(runner) == (TradingState.ACTIVE, [])
    assert [(one.how, one.attempts) for one in runner._store.dead_letters(closed=True)] == [("drop", 1)]
    assert (runner._store.dead_letters(), runner.dead_letters) == ([], 0)
    runner.submit([observation(12)]).result(30)
    digest = runner.digest()
    assert digest == replayed(runner)
    runner.stop()
    again = start(BRITTLE)
    assert (again.digest(), again.dead_letters) == (digest, 0)


def test_retried_and_failing_again_it_stays_open_and_after_a_restart_too(start: Start) -> None:
    runner = start(BRITTLE)
    poisoned(runner)
    letter = runner._store.dead_letters()[0].id
    version = runner._board.now.decisions[KEY].version
    runner.submit([word("retry", letter)]).result(30)
    assert told(runner) == (TradingState.REDUCING, ["engine-error"])
    assert runner._store.dead_letters()[0].attempts == 2
    assert runner._board.now.decisions[KEY].version == version, "the same fault is the same answer"
    assert runner.digest() == replayed(runner)
    runner.stop()
    again = start(BRITTLE)
    assert again.dead_letters == 1
    assert again._store.dead_letters()[0][:2] == (letter, KEY)
    again.submit([word("drop", letter, "w2")]).result(30)
    assert told(again) == (TradingState.ACTIVE, [])


def test_a_new_reference_closes_the_letter(start: Start) -> None:
    runner = start(BRITTLE)
    poisoned(runner)
    sample = reference()
    event = Recalibrated(model="m", version="2", reference_id=sample.reference_id)
    runner.submit([event], references={sample.reference_id: sample.to_bytes()}).result(30)
    assert told(runner) == (TradingState.ACTIVE, [])
    assert [one.how for one in runner._store.dead_letters(closed=True)] == ["reference"]


def test_a_program_that_can_take_the_event_closes_the_letter_when_it_judges_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = start(BRITTLE)
    poisoned(runner)
    version = runner._board.now.decisions[KEY].version
    runner.stop()
    # As an upgrade that mends the detector: snapshots of before are passed over, the log is judged anew.
    monkeypatch.setattr("regime_service.runners.recovery._ENGINE_VERSION", 999)
    loaded = load("regime.detectors", f"{__name__}.Brittle")
    monkeypatch.setattr(loaded, "broken", False)
    mended = start(BRITTLE)
    assert told(mended) == (TradingState.ACTIVE, [])
    assert mended._board.now.decisions[KEY].version > version
    assert [one.how for one in mended._store.dead_letters(closed=True)] == ["program"]
    mended.stop()
    # And the other way round: a program that cannot take what another one could.
    monkeypatch.setattr("regime_service.runners.recovery._ENGINE_VERSION", 1000)
    monkeypatch.setattr(loaded, "broken", True)
    worse = start(BRITTLE)
    assert told(worse) == (TradingState.REDUCING, ["engine-error"])
    assert worse._store.dead_letters()[0].seq == 22, "the event in the log, not the restart"


def test_a_stream_that_joins_a_model_whose_reference_fails_blames_the_reference(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("regime.detectors", BRITTLE.detectors[0].kind if BRITTLE.detectors else "")
    monkeypatch.setattr(loaded, "broken_at_reset", True)
    runner = start(BRITTLE)
    sample = reference()
    event = Recalibrated(model="m", version="1", reference_id=sample.reference_id)
    runner.submit([event], references={sample.reference_id: sample.to_bytes()}).result(30)
    runner.submit([observation(0)]).result(30)
    (letter,) = runner._store.dead_letters()
    assert (letter.seq, letter.kind) == (1, "recalibrated")
    runner.stop()
    again = start(BRITTLE)
    assert again._store.dead_letters(closed=True) == [letter], "a restart comes to the same"


@pytest.mark.parametrize("letter", [7, None])
def test_a_word_about_a_letter_that_is_not_open_is_refused(start: Start, letter: Any) -> None:
    runner = start(BRITTLE)
    poisoned(runner)
    last_seq = runner._store.last_seq()
    for one in (word("drop", letter), msgspec.structs.replace(word("drop", 1), symbol="ETH/USDT")):
        with pytest.raises(CallerError) as refused:
            runner.submit([one]).result(30)
        assert refused.value.status_hint == 404
    assert runner._store.last_seq() == last_seq


# --- starts ---


def test_a_snapshot_is_taken_when_judging_has_taken_long_enough_to_be_worth_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start replays about as much as was judged since: by the clock, however few events that are."""
    config = EngineConfig(clock="event", detectors=[])
    runner = start(config)
    fingerprint = runner._fingerprint
    runner.submit([observation(0)]).result(30)
    assert runner._store.newest_snapshot(fingerprint) is None
    monkeypatch.setattr("regime_service.runners.embedded.SNAPSHOT_AFTER_S", 0.0)
    runner.submit([observation(1)]).result(30)
    runner.submit([observation(2)]).result(30)  # the snapshot of the one before is there by now
    found = runner._store.newest_snapshot(fingerprint)
    assert found is not None and found[0] >= 2
    # As with very many streams, whose snapshots take long: they wait until judging took much longer than that.
    monkeypatch.setattr("regime_service.runners.embedded.SNAPSHOT_SHARE", 1e9)
    for i in range(3, 8):
        runner.submit([observation(i)]).result(30)
    found = runner._store.newest_snapshot(fingerprint)
    assert found is not None and found[0] <= 3, "the one of the third was under way"


def test_a_start_that_replayed_for_long_leaves_a_snapshot_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EngineConfig(clock="event", detectors=[])
    runner = start(config)
    feed(runner, [observation(i) for i in range(20)], {}, size=20)
    runner.stop()
    connection = apsw.Connection(str(tmp_path / "s.db"))
    connection.execute("DELETE FROM snapshots")
    connection.close()
    monkeypatch.setattr("regime_service.runners.embedded.SNAPSHOT_AFTER_S", 0.0)
    again = start(config)
    again.submit([]).result(30)
    again.submit([]).result(30)
    found = again._store.newest_snapshot(again._fingerprint)
    assert found is not None and found[0] == 20


def test_a_snapshot_that_is_too_large_is_said_and_not_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("regime_service.runners.embedded.SNAPSHOT_BYTES_MAX", 100)
    config = EngineConfig(clock="event", detectors=[])
    runner = start(config)
    runner.submit([observation(i) for i in range(3)]).result(30)
    digest = runner.digest()
    runner.stop()
    assert "more than can be kept" in caplog.text
    again = start(config)
    assert again._store.newest_snapshot(again._fingerprint) is None
    assert again.digest() == digest


def test_a_group_takes_no_more_requests_once_it_has_lasted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = start(EngineConfig(clock="event", detectors=[]))
    monkeypatch.setattr("regime_service.runners.embedded.GROUP_S", -1.0)
    with runner.lock:  # they wait together
        waiting = [runner.submit([observation(i)]) for i in range(5)]
    assert [one.result(30).accepted for one in waiting] == [1] * 5
    assert runner._store.last_seq() == 5


def test_a_start_counts_as_one_when_an_event_was_judged_or_it_ended_in_order(tmp_path: Path, start: Start) -> None:
    config = EngineConfig(clock="event", detectors=[])

    def unfinished() -> Any:
        store = SqliteStore(tmp_path / "s.db", read_only=True)
        try:
            return store._read("SELECT value FROM meta WHERE name = 'unfinished_starts'")
        finally:
            store.close()

    runner = start(config)
    assert unfinished() == [("1",)]
    runner.submit([observation(1)]).result(30)
    assert unfinished() == []
    runner.stop()
    start(config).stop()
    assert unfinished() == []


def test_a_start_that_lived_for_a_while_counts_as_one(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regime_service.runners.embedded.SETTLED_S", 0.0)
    runner = start(EngineConfig(clock="event", detectors=[]))
    until_s = time.monotonic() + 30
    while runner._store._read("SELECT 1 FROM meta WHERE name = 'unfinished_starts'") and time.monotonic() < until_s:
        time.sleep(0.01)
    assert time.monotonic() < until_s


def test_a_start_that_is_interrupted_says_so(tmp_path: Path) -> None:
    config = EngineConfig(clock="event", detectors=[])
    events, _ = history()
    for interrupted in (False, True):
        runner = EmbeddedRunner(SqliteStore(tmp_path / "s.db"), config, Board(), Counters(), now_ms=lambda: 0)
        if interrupted:
            connection = apsw.Connection(str(tmp_path / "s.db"))
            connection.execute("DELETE FROM snapshots")
            connection.close()
            runner.interrupt()
            with pytest.raises(Unavailable, match="told to stop"):
                runner.start()
        else:
            runner.start()
            feed(runner, events[1:50], {}, size=50)
        runner.stop()


def test_a_rule_that_ends_the_program_ends_the_start_and_no_more(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EngineConfig(clock="event", detectors=[])
    runner = start(config)
    feed(runner, [observation(i) for i in range(5)], {}, size=5)
    runner.stop()
    monkeypatch.setattr(Fleet, "restore", lambda *_: sys.exit(3))
    again = EmbeddedRunner(SqliteStore(tmp_path / "s.db"), config, Board(), Counters(), now_ms=lambda: 0)
    with pytest.raises(RecoveryFailed, match="ended by SystemExit: 3"):
        again.start()
    again.stop()


def test_references_that_are_in_force_nowhere_are_let_go(start: Start, tmp_path: Path) -> None:
    """A model trained anew every day must not fill the memory of a service that runs for a year."""
    config = EngineConfig(clock="event", detectors=[DetectorConfig(kind="cusum")], warmup_observations=5)
    runner, references = start(config), list[weakref.ref[Reference]]()
    for number in range(4):
        sample = Reference(NAMES, np.random.default_rng(number).standard_normal((400, 3)))
        event = Recalibrated(model="m", version=str(number), reference_id=sample.reference_id)
        runner.submit([event], references={sample.reference_id: sample.to_bytes()}).result(60)
        runner.submit([observation(number)]).result(30)
        references.append(weakref.ref(runner._samples.reference(sample.reference_id)))
    gc.collect()
    assert [known() is not None for known in references] == [False, False, False, True]
    late = msgspec.structs.replace(observation(9), symbol="ETH/USDT")
    assert runner.submit([late]).result(30).decisions[0].reference_id == sample.reference_id
    digest = runner.digest()
    runner.stop()
    again = start(config)
    assert again.digest() == digest


def test_a_machine_that_comes_back_with_a_clock_in_the_past_does_not_hold_old_data_for_fresh(
    start: Start, tmp_path: Path
) -> None:
    config = EngineConfig(warmup_observations=1, detectors=[], rules=[])
    clock = HandClock(3 * STEP_MS)
    runner = start(config, now_ms=clock)
    runner.submit([observation(1), observation(2)]).result(30)
    assert told(runner) == (TradingState.ACTIVE, [])
    runner.stop()
    clock.ms = 0

    def not_before(ms: int) -> None:
        clock.ms = max(clock.ms, ms)

    again = start(config, now_ms=clock, not_before=not_before)
    assert clock.ms == 2 * STEP_MS, "a candle less than the log says"
    clock.ms += 4 * STEP_MS
    again.submit([trade(1, 0.01)]).result(30)
    assert told(again) == (TradingState.REDUCING, ["stale"])
