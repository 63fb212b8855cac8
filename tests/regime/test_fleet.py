"""All streams together: which engine an event reaches, which Ticks are due; decisions depend on events only."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime.config import DetectorConfig, EngineConfig, RuleConfig
from regime.decision import Decision, TradingState, decision_bytes
from regime.errors import CorruptionError
from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Recalibrated,
    Reconfigured,
    StreamKey,
    Tick,
    Trade,
    available_ms,
)
from regime.fleet import Fleet
from regime.reference import Reference
from regime.replay import Played, replay

A, R, H = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED
CANDLE_MS = 300_000
BTC, ETH = StreamKey("m", "BTC", "5m"), StreamKey("m", "ETH", "5m")
HOURLY, OTHER = StreamKey("m", "BTC", "1h"), StreamKey("n", "BTC", "5m")

_rng = np.random.default_rng(3)
REFERENCES = {
    "one": Reference(["a", "b"], _rng.standard_normal((100, 2))),
    "two": Reference(["a", "b"], 1.0 + _rng.standard_normal((120, 2))),
    "xy": Reference(["x", "y"], _rng.standard_normal((100, 2))),
}


def config(**changes: Any) -> EngineConfig:
    options: dict[str, Any] = {
        "warmup_observations": 1, "detectors": [], "rules": [], "cooldown_candles": 0, "probation_candles": 0,
        "clock": "event", **changes,
    }  # fmt: skip
    return EngineConfig(**options)


def fleet(**changes: Any) -> Fleet:
    return Fleet(config(**changes), REFERENCES.__getitem__)


def obs(at: int, key: StreamKey = BTC, **features: float | None) -> Observation:
    return Observation(
        model=key.model, symbol=key.symbol, timeframe=key.timeframe, ts_ms=at * CANDLE_MS,
        features=features or {"a": 0.0, "b": 0.0},
    )  # fmt: skip


def trade(at: int, profit: float, key: StreamKey = BTC, **more: Any) -> Trade:
    return Trade(
        model=key.model, symbol=key.symbol, timeframe=key.timeframe, trade_id=f"{at} {profit}", side="long",
        opened_ms=0, closed_ms=at * CANDLE_MS, entry_price=1.0, exit_price=1.0, profit_ratio=profit, **more,
    )  # fmt: skip


def candle(at: int, symbol: str = "BTC", timeframe: str = "5m", close: float = 1.0) -> Candle:
    return Candle(
        symbol=symbol, timeframe=timeframe, ts_ms=at * CANDLE_MS, open=close, high=close, low=close, close=close,
        volume=0.0,
    )  # fmt: skip


def equity(at: int, value: float, model: str = "m", flow: float | None = None) -> Equity:
    return Equity(model=model, ts_ms=at * CANDLE_MS, equity=value, net_flow=flow)


def override(state: Any, id: str = "1", at: int = 0, until: int | None = None, **scope: Any) -> Command:
    until_ms = None if until is None else until * CANDLE_MS
    return Command(id=id, action="set", ts_ms=at * CANDLE_MS, model="m", state=state, until_ms=until_ms, **scope)


def clear(id: str = "1", **scope: Any) -> Command:
    return Command(id=id, action="clear", ts_ms=0, model="m", **scope)


def reference(id: str, symbol: str | None = None, timeframe: str | None = None) -> Recalibrated:
    return Recalibrated(model="m", version=id, reference_id=id, symbol=symbol, timeframe=timeframe)


def feed(made: Fleet, *events: AnyEvent) -> Fleet:
    for event in events:
        made.step(event)
    return made


def answer(made: Fleet, key: StreamKey = BTC) -> Decision:
    decision = made.engine(key).decision
    assert decision is not None
    return decision


def state(made: Fleet, key: StreamKey = BTC) -> TradingState:
    return answer(made, key).sides.long.state


# -- who is reached --------------------------------------------------------------------------------------------------


def test_a_stream_comes_into_being_with_its_first_observation_trade_or_reference() -> None:
    made = feed(fleet(), obs(0, BTC), trade(0, 0.1, ETH), reference("one", "BTC", "1h"))
    assert list(made) == [BTC, ETH, HOURLY]
    assert len(made) == 3
    assert BTC in made
    assert OTHER not in made
    with pytest.raises(KeyError):
        made.engine(OTHER)


@pytest.mark.parametrize(
    "event",
    [
        candle(0), equity(0, 1.0), override("HALTED"), reference("one"), reference("one", "BTC"),
        Tick(model="m", symbol="BTC", timeframe="5m", ts_ms=0), ModelPromoted(model="m", model_version="1", ts_ms=0),
        Reconfigured(model="m", symbol="BTC", timeframe="5m", policy_id="p", served_version=1),
    ],
)  # fmt: skip
def test_no_other_event_makes_a_stream(event: AnyEvent) -> None:
    made = fleet()
    assert made.step(event) == []
    assert len(made) == 0


def test_each_event_reaches_the_streams_it_concerns_in_the_order_they_came() -> None:
    made = feed(fleet(), obs(0, BTC), obs(0, ETH), obs(0, HOURLY), obs(0, OTHER))

    def reached(event: AnyEvent) -> list[StreamKey]:
        found = [step.key for step in made.step(event)]
        assert found == made.reached(event)
        return found

    assert reached(obs(1, ETH)) == [ETH]
    assert reached(candle(1)) == [BTC, OTHER]
    assert reached(equity(1, 1.0)) == [BTC, ETH, HOURLY]
    assert reached(override("REDUCING", symbol="BTC")) == [BTC, HOURLY]
    assert reached(reference("one", timeframe="5m")) == [BTC, ETH]
    assert reached(Tick(model="n", symbol="BTC", timeframe="5m", ts_ms=10**9)) == [OTHER]


def test_models_are_those_of_the_configuration_and_those_heard_of() -> None:
    made = Fleet(EngineConfig(models={"known": msgspec.convert({}, type(EngineConfig().model("x")))}), REFERENCES.get)  # type: ignore[arg-type]
    feed(made, equity(0, 1.0), obs(0, OTHER))
    assert made.models == {"known", "m", "n"}


@pytest.mark.parametrize(("auto", "unknown"), [(True, True), (False, False)])
def test_a_new_stream_is_accepted_if_the_configuration_allows(auto: bool, unknown: bool) -> None:
    made = feed(fleet(auto_register=auto), obs(0, BTC))
    assert made.accepts(BTC)
    assert made.accepts(ETH) is unknown


# -- streams that come later -----------------------------------------------------------------------------------------

LATE = {"warmup_observations": 1, "rules": [RuleConfig(kind="drawdown", options={"limit": 0.1, "release": 0.08})]}


def test_equity_reaches_every_stream_of_the_model_also_later_ones() -> None:
    made = feed(fleet(**LATE), obs(0, BTC), equity(1, 100.0), equity(2, 80.0), obs(2, ETH), obs(2, OTHER))
    assert state(made, BTC) is state(made, ETH) is R
    assert answer(made, ETH).sides.long.reasons[0].value == pytest.approx(0.2)
    assert state(made, OTHER) is A
    feed(made, equity(3, 95.0))
    assert state(made, BTC) is state(made, ETH) is A


def test_equity_that_came_before_any_stream_is_not_lost() -> None:
    assert state(feed(fleet(**LATE), equity(1, 100.0), equity(2, 80.0), obs(2))) is R


def test_later_streams_do_not_share_the_account_they_were_given() -> None:
    made = feed(fleet(**LATE), equity(1, 100.0), obs(1, BTC), obs(1, ETH), equity(2, 80.0, flow=-5.0))
    assert made.engine(BTC).state.drawdown.ratio == pytest.approx(0.15)
    assert made.engine(ETH).state.drawdown.ratio == pytest.approx(0.15)


def test_a_drawdown_from_trades_is_the_streams_own() -> None:
    made = feed(fleet(**LATE), obs(0, BTC), trade(1, -0.5, BTC), obs(1, ETH))
    assert (state(made, BTC), state(made, ETH)) == (R, A)


@pytest.mark.parametrize(
    ("scope", "btc", "eth", "hourly"),
    [
        ({}, R, R, R), ({"symbol": "BTC"}, R, A, R), ({"timeframe": "5m"}, R, R, A),
        ({"symbol": "BTC", "timeframe": "1h"}, A, A, R),
    ],
)  # fmt: skip
def test_an_override_of_a_model_reaches_later_streams_of_its_scope(
    scope: dict[str, str], btc: TradingState, eth: TradingState, hourly: TradingState
) -> None:
    made = feed(fleet(), override("REDUCING", **scope), obs(0, BTC), obs(0, ETH), obs(0, HOURLY), obs(0, OTHER))
    assert (state(made, BTC), state(made, ETH), state(made, HOURLY), state(made, OTHER)) == (btc, eth, hourly, A)
    feed(made, clear(), obs(1, BTC), obs(1, ETH), obs(12, HOURLY))
    assert {state(made, key) for key in made} == {A}


def test_a_halted_that_stands_reaches_a_later_stream_and_one_that_is_over_does_not() -> None:
    made = feed(fleet(clock="wall"), override("HALTED", at=0, until=5))
    assert state(feed(made, obs(3, BTC)), BTC) is H
    assert state(feed(made, obs(5, ETH)), ETH) is A


def test_on_event_time_another_word_does_not_end_a_halted_for_a_stream_that_joins_before_its_end() -> None:
    made = feed(
        fleet(), obs(0, BTC), override("HALTED", "h", at=1, until=4), obs(5, BTC), override("ACTIVE", "a", at=6)
    )
    assert state(made, BTC) is R  # the HALTED is over here, and the next observation has not come
    assert state(feed(made, obs(1, ETH)), ETH) is H
    assert set(made.overrides()) == {"a"}


def test_a_cleared_override_is_forgotten_also_for_later_streams() -> None:
    made = feed(fleet(), obs(0, BTC), override("HALTED"), clear(), obs(1, ETH))
    assert state(made, ETH) is A
    assert made.overrides() == {}


def test_clearing_ends_an_override_everywhere_whatever_the_clearing_names() -> None:
    made = feed(fleet(), obs(0, BTC), obs(0, ETH), override("REDUCING"), clear(symbol="ETH"))
    assert state(made, BTC) is state(made, ETH) is A


def test_overrides_are_those_in_force() -> None:
    made = feed(
        fleet(clock="wall"),
        obs(0, BTC),
        override("HALTED", "a"),
        override("ACTIVE", "b", until=9),
        override("ACTIVE", "c"),
    )
    assert set(made.overrides()) == {"a", "b", "c"}
    feed(made, obs(8, BTC))
    assert set(made.overrides()) == {"a", "c"}
    feed(made, clear("c"))
    assert set(made.overrides()) == {"a"}


def test_a_later_stream_gets_the_newest_reference_that_concerns_it() -> None:
    def of(*events: AnyEvent) -> list[str | None]:
        made = feed(fleet(), *events, obs(0, BTC), obs(0, ETH), obs(0, HOURLY))
        return [made.engine(key).state.reference_id for key in (BTC, ETH, HOURLY)]

    assert of(reference("one")) == ["one", "one", "one"]
    assert of(reference("one", "BTC")) == ["one", None, "one"]
    assert of(reference("one", "BTC"), reference("two", "ETH")) == ["one", "two", "one"]
    assert of(reference("one", "BTC"), reference("two", None, "5m")) == ["two", "two", "one"]
    assert of(reference("one", "BTC"), reference("two", "BTC")) == ["two", None, "two"]
    assert of(reference("one", "BTC"), reference("two")) == ["two", "two", "two"]
    assert of(reference("two"), reference("one", "BTC")) == ["one", "two", "one"]


def test_a_reference_for_one_stream_is_that_streams_own() -> None:
    made = feed(fleet(), reference("one", "BTC", "5m"), obs(0, ETH))
    assert made.engine(BTC).state.reference_id == "one"
    assert made.engine(ETH).state.reference_id is None


def test_a_later_stream_knows_the_promoted_model() -> None:
    made = feed(fleet(), ModelPromoted(model="m", model_version="9", ts_ms=0), obs(0, BTC), obs(0, OTHER))
    assert made.engine(BTC).state.model_version == "9"
    assert made.engine(OTHER).state.model_version is None


# -- failures --------------------------------------------------------------------------------------------------------


class Grumpy:
    """A rule that fails for good on the side of a losing trade."""

    code = "grumpy"

    def judge(self, view: Any) -> None:
        if view.outcomes and view.outcomes[-1].profit_ratio < 0:
            raise RuntimeError("no")


def test_a_failure_of_one_stream_leaves_the_others_alone() -> None:
    made = fleet(rules=[RuleConfig(kind=f"{__name__}.Grumpy")])
    feed(made, obs(0, BTC), obs(0, ETH), trade(1, -0.1, BTC), obs(1, BTC), obs(1, ETH))
    assert (state(made, BTC), state(made, ETH)) == (R, A)
    assert answer(made, BTC).sides.short.reasons[0].code == "engine-error"


# -- Ticks -----------------------------------------------------------------------------------------------------------


def test_the_next_tick_is_the_earliest_that_is_due() -> None:
    made = feed(fleet(stale_after=3), obs(2, BTC), obs(0, ETH), obs(1, OTHER))
    assert made.next_tick(4 * CANDLE_MS - 1) is None
    tick = made.next_tick(4 * CANDLE_MS)
    assert tick == Tick(model="m", symbol="ETH", timeframe="5m", ts_ms=4 * CANDLE_MS)
    feed(made, tick)
    assert state(made, ETH) is R
    assert made.next_tick(4 * CANDLE_MS) is None
    assert made.next_tick(10**12, [BTC]) == Tick(model="m", symbol="BTC", timeframe="5m", ts_ms=6 * CANDLE_MS)
    assert made.next_tick(10**12, [StreamKey("no", "such", "1m")]) is None


def test_on_event_time_the_ticks_that_are_due_come_before_the_next_event_of_their_stream() -> None:
    made = fleet(stale_after=3)
    played = list(replay([obs(0, BTC), obs(9, ETH), obs(9, BTC)], made))
    assert [type(each.event).__name__ for each in played] == ["Observation", "Observation", "Tick", "Observation"]
    assert available_ms(played[2].event) == 4 * CANDLE_MS
    assert played[2].steps[0].step.decision.sides.long.state is R


def test_an_observation_that_comes_in_time_to_the_millisecond_has_no_tick_before_it() -> None:
    made = fleet(stale_after=3)
    assert len(list(replay([obs(0), obs(3), obs(6)], made))) == 3


def test_on_the_wall_clock_a_replay_makes_no_ticks() -> None:
    made = fleet(clock="wall", stale_after=3)
    assert made.tick_before(obs(9)) is None
    assert len(list(replay([obs(0), obs(90)], made))) == 2


def test_an_operators_word_or_a_tick_brings_no_ticks_before_it() -> None:
    made = feed(fleet(stale_after=3), obs(0))
    assert made.tick_before(override("HALTED", at=10**6)) is None
    assert made.tick_before(Tick(model="m", symbol="BTC", timeframe="5m", ts_ms=10**12)) is None
    assert made.tick_before(reference("one")) is None
    assert made.tick_before(equity(9, 1.0)) is not None


# -- snapshots -------------------------------------------------------------------------------------------------------


def taken(made: Fleet) -> bytes:
    raw = made.snapshot()
    assert raw is not None
    return raw


def test_a_restored_fleet_knows_what_later_streams_must_know() -> None:
    made = feed(fleet(**LATE), override("REDUCING"), reference("one", "BTC"), equity(0, 100.0), equity(1, 50.0))
    again = fleet(**LATE)
    again.restore(taken(made))
    for each in (made, again):
        feed(each, obs(1, BTC), obs(1, ETH))
    assert again.digest() == made.digest()
    assert again.models == made.models
    assert again.overrides() == made.overrides()
    assert taken(again) == taken(made)


class NoState:
    """A detector whose state cannot be taken out."""

    warm, statistic, threshold, drift_detected, feature_statistics = False, 0.0, 1.0, False, np.zeros(2)

    def reset(self, reference: Reference) -> None: ...
    def update(self, x: Any) -> None: ...
    def state(self) -> None: ...
    def load_state(self, state: Any) -> None: ...
    def fingerprint(self) -> bytes:
        return b""

    @classmethod
    def examples(cls) -> list[NoState]:
        return [cls()]


def test_there_is_no_snapshot_where_one_stream_has_none() -> None:
    made = feed(fleet(detectors=[DetectorConfig(kind=f"{__name__}.NoState")]), obs(0, BTC), obs(0, ETH))
    assert made.snapshot() is not None
    feed(made, reference("one", "BTC", "5m"))
    assert made.snapshot() is None


def test_a_snapshot_of_another_configuration_is_refused() -> None:
    with pytest.raises(CorruptionError, match="another configuration"):
        fleet(stale_after=4).restore(taken(feed(fleet(), obs(0))))


def test_a_snapshot_that_is_refused_changes_nothing() -> None:
    made = feed(fleet(), obs(0))
    before = made.digest()
    with pytest.raises(CorruptionError):
        made.restore(taken(feed(fleet(), obs(0, ETH)))[:-3])
    assert (list(made), made.digest()) == ([BTC], before)


def test_an_engine_under_another_streams_name_is_refused() -> None:
    body = msgspec.msgpack.decode(taken(feed(fleet(), obs(0))))
    body["engines"][0][0] = list(ETH)
    with pytest.raises(CorruptionError):
        fleet().restore(msgspec.msgpack.encode(body))


RICH = taken(
    feed(
        fleet(), reference("one", "BTC"), obs(0, BTC), obs(0, ETH), trade(1, -0.1), equity(1, 5.0), override("HALTED"),
        ModelPromoted(model="m", model_version="1", ts_ms=0), candle(1),
    )
)  # fmt: skip


@given(st.data())
def test_changed_bytes_never_raise_anything_but_corruption(data: st.DataObject) -> None:
    raw = bytearray(RICH)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    made = fleet()
    try:
        made.restore(bytes(raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))]))
    except CorruptionError:
        assert len(made) == 0
    else:
        for key in made:
            assert made.engine(key).key == key
            decision = made.engine(key).decision
            assert decision is None or decision.key == key


@given(st.binary(max_size=80))
def test_any_bytes_are_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptionError):
        fleet().restore(raw)


# -- decisions depend on the events and on nothing else ----------------------------------------------------------------

KEYS = [BTC, ETH, HOURLY, OTHER]
KINDS = (
    ["obs"] * 5 + ["trade"] * 3 + ["candle", "equity", "set", "clear", "reference", "promoted", "tick", "late", "odd"]
)
plans = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.sampled_from([0, 0, 1, 1, 1, 2, 7, 60]), st.integers(0, 5)),
    max_size=80,
)


def busy(mode: str = "enforce", clock: str = "event") -> Fleet:
    return fleet(
        mode=mode, clock=clock, warmup_observations=2, stale_after=3, cooldown_candles=2, probation_candles=4,
        detectors=[DetectorConfig(kind="ks", options={"window": 8})],
        rules=[
            RuleConfig(kind="drift"), RuleConfig(kind="drawdown", options={"limit": 0.1, "release": 0.05}),
            RuleConfig(kind="break_even", options={"trades_min": 2, "false_pause_trades": 1.5, "explore_trades": 2,
                                                   "explore_after_candles": 6}),
            RuleConfig(kind="edge"),
            RuleConfig(kind="win_rate", options={"window": 2}),
            RuleConfig(kind="ml_exit", options={"window": 2, "latch_candles": 4}),
        ],
    )  # fmt: skip


def history(plan: list[tuple[str, int, int, int]], keys: list[StreamKey] | None = None) -> list[AnyEvent]:
    keys, now, events = keys or KEYS, 0, list[AnyEvent]()
    for number, (kind, stream, gap, pick) in enumerate(plan):
        key = keys[stream % len(keys)]
        now += gap
        scope = {"symbol": key.symbol if pick % 2 else None, "timeframe": key.timeframe if pick > 3 else None}
        match kind:
            case "obs":
                events.append(obs(now, key, a=(pick - 2) * 0.7, b=None if pick == 5 else now % 3 - 1.0))
            case "odd":
                events.append(obs(now, key, **{"ab"[: pick % 2 + 1]: 1.0}, c=None))
            case "late":
                events.append(obs(max(0, now - 1 - pick), key))
            case "trade":
                profit = [-0.08, -0.03, -0.01, 0.01, 0.02, 0.03][pick] + number * 1e-9
                events.append(trade(now, profit, key, shadow=pick == 4, exit_reason="ml_exit" if pick == 3 else None))
            case "candle":
                events.append(candle(now, key.symbol, key.timeframe, close=1.0 + pick))
            case "equity":
                events.append(equity(now, [100.0, 95.0, 85.0, 70.0, 110.0, 0.0][pick], key.model))
            case "set":
                events.append(
                    Command(
                        id=str(pick % 3), action="set", ts_ms=now * CANDLE_MS, model=key.model, **scope,
                        state=["ACTIVE", "REDUCING", "HALTED"][pick % 3],  # type: ignore[arg-type]
                        side=[None, "long", "short"][gap % 3],  # type: ignore[arg-type]
                        until_ms=None if pick < 2 else (now + 3) * CANDLE_MS,
                    )
                )  # fmt: skip
            case "clear":
                events.append(
                    Command(id=str(pick % 3), action="clear", ts_ms=now * CANDLE_MS, model=key.model, **scope)
                )
            case "reference":
                id = ["one", "two", "one", "two", "xy", "nowhere"][pick]
                events.append(Recalibrated(model=key.model, version=str(number), reference_id=id, **scope))
            case "promoted":
                events.append(ModelPromoted(model=key.model, model_version=str(pick), ts_ms=now * CANDLE_MS))
            case _:
                events.append(Tick(model=key.model, symbol=key.symbol, timeframe=key.timeframe, ts_ms=now * CANDLE_MS))
    return events


def told(played: list[Played]) -> list[tuple[StreamKey, bytes, bool, bool]]:
    return [
        (step.key, decision_bytes(step.step.decision), step.step.changed, step.step.late)
        for each in played
        for step in each.steps
    ]


modes, clocks = st.sampled_from(["enforce", "shadow"]), st.sampled_from(["event", "wall"])


@settings(max_examples=120)
@given(plans, modes, clocks, st.data())
def test_batches_snapshots_and_restarts_at_any_moment_change_nothing(
    plan: list[tuple[str, int, int, int]], mode: str, clock: str, data: st.DataObject
) -> None:
    events = history(plan)
    whole = busy(mode, clock)
    expected = told(list(replay(events, whole)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    made, found = busy(mode, clock), []
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        found += told(list(replay(events[start:end], made)))
        fresh = busy(mode, clock)
        fresh.restore(taken(made))
        assert fresh.digest() == made.digest()
        made = fresh
    assert found == expected
    assert made.digest() == whole.digest()


@settings(max_examples=60)
@given(plans, modes)
def test_a_log_with_its_ticks_replayed_gives_the_decisions_of_the_day(
    plan: list[tuple[str, int, int, int]], mode: str
) -> None:
    live = busy(mode)
    day = list(replay(history(plan), live))
    again = busy(mode)
    log = [Played(each.event, again.step(each.event)) for each in day]
    assert told(log) == told(day)
    assert again.digest() == live.digest()


@settings(max_examples=60)
@given(plans, plans, modes, st.integers(0, 2**32))
def test_how_streams_are_interleaved_does_not_change_their_digests(
    one: list[tuple[str, int, int, int]], two: list[tuple[str, int, int, int]], mode: str, seed: int
) -> None:
    left = history(one, [BTC, HOURLY])
    right = history(two, [StreamKey("n", "SOL", "5m"), StreamKey("n", "SOL", "15m")])
    chance = random.Random(seed)
    turns = [True] * len(left) + [False] * len(right)
    chance.shuffle(turns)
    ones, twos = iter(left), iter(right)
    together = busy(mode)
    list(replay([next(ones if turn else twos) for turn in turns], together))
    for events in (left, right):
        alone = busy(mode)
        list(replay(events, alone))
        for key in alone:
            assert together.engine(key).digest() == alone.engine(key).digest()


@settings(max_examples=60)
@given(plans, clocks, st.integers(0, 40))
def test_the_next_tick_is_the_one_found_by_asking_every_stream(
    plan: list[tuple[str, int, int, int]], clock: str, cut: int
) -> None:
    made = busy(clock=clock)

    def asked(until_ms: int) -> tuple[int, StreamKey] | None:
        due = [(at_ms, key) for key in made if (at_ms := made.engine(key).next_change_ms()) is not None]
        return min(((at_ms, key) for at_ms, key in due if at_ms <= until_ms), default=None)

    for number, event in enumerate(history(plan)):
        if number == cut:
            fresh = busy(clock=clock)
            fresh.restore(taken(made))
            made = fresh
        made.step(event)
        for until_ms in (made._clock_ms("m") + CANDLE_MS, 10**15):
            tick, expected = made.next_tick(until_ms), asked(until_ms)
            found = None if tick is None else (tick.ts_ms, StreamKey(tick.model, tick.symbol, tick.timeframe))
            assert found == expected
    assert len(made._heap) <= 65 + 4 * len(made)


@settings(max_examples=60)
@given(plans)
def test_stepping_the_ticks_that_are_due_comes_to_an_end(plan: list[tuple[str, int, int, int]]) -> None:
    made = busy()
    list(replay(history(plan), made))
    seen: dict[StreamKey, int] = {}
    for _ in range(200):
        tick = made.next_tick(10**15)
        if tick is None:
            break
        key = StreamKey(tick.model, tick.symbol, tick.timeframe)
        assert tick.ts_ms > seen.get(key, made.engine(key).state.clock_ms)
        seen[key] = tick.ts_ms
        made.step(tick)
    assert made.next_tick(10**15) is None


def test_the_digest_of_a_fleet_does_not_depend_on_which_stream_came_first() -> None:
    one = feed(fleet(), obs(0, BTC), obs(0, OTHER))
    other = feed(fleet(), obs(0, OTHER), obs(0, BTC))
    assert one.digest() == other.digest()
    assert feed(fleet(), obs(0, BTC)).digest() != one.digest()
