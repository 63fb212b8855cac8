"""The engine of one stream, event by event. Time is counted in candles: `obs(3)` bears the open time of candle 3 and is
available when candle 4 begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regime import codec
from regime.calibration import Calibration
from regime.config import DetectorConfig, EngineConfig, ExitRules, ModelConfig, RuleConfig
from regime.decision import Decision, SideDecision, TradingState
from regime.engine import CANDLES_MAX, OUTCOMES_MAX, Engine, Step, find_limits
from regime.errors import CorruptionError, OperatorError
from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Ohlcv,
    Probabilities,
    Recalibrated,
    Reconfigured,
    StreamKey,
    Taken,
    Tick,
    Trade,
)
from regime.reference import Reference
from regime.rules import View, Vote
from regime.watch import build_detectors, top_features

A, R, H = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED
M, S, TF = "m", "BTC/USDT:USDT", "5m"
KEY = StreamKey(M, S, TF)
CANDLE_MS = 300_000
FEATURES: dict[str, float | None] = {"a": 1.0, "b": 2.0}


# -- test doubles, named in the configuration by their dotted path ----------------------------------------------------


class Level:
    """Rings when the newest value of the first feature is over 10. Its options say where it fails."""

    def __init__(self, *, fails_at: str = "") -> None:
        self._fails_at, self._last, self._names = fails_at, np.zeros(0), ("",)

    def _fail(self, where: str) -> None:
        if where == self._fails_at:
            raise ZeroDivisionError(f"{where} of {self!r}")

    def reset(self, reference: Reference) -> None:
        self._fail("reset")
        self._last, self._names = np.full(len(reference.names), np.nan), reference.names

    def update(self, x: NDArray[np.float64]) -> None:
        if np.nanmax(x) > 1000:
            self._fail("update")
        self._last = x.copy()

    @property
    def warm(self) -> bool:
        self._fail("warm")
        return bool(self._last.size and not np.isnan(self._last[0]))

    @property
    def statistic(self) -> float:
        return float(self._last[0]) if self._last.size else math.nan

    @property
    def threshold(self) -> float:
        return 10.0

    @property
    def drift_detected(self) -> bool:
        return self.statistic > self.threshold

    @property
    def feature_statistics(self) -> NDArray[np.float64]:
        return self._last / 10.0

    def state(self) -> dict[str, NDArray[Any]] | None:
        return None if self._fails_at == "state" else {"last": self._last.copy()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        self._last = state["last"]

    def fingerprint(self) -> bytes:
        return self._last.tobytes()

    @classmethod
    def examples(cls) -> list[Level]:
        return [cls()]


class Half:
    """Not a detector."""


class Fails:
    """A rule that fails, or says nonsense, while the newest trade has this profit."""

    code = "fails"

    def __init__(self, *, how: str = "raise") -> None:
        self._how = how

    def judge(self, view: View) -> Vote | None:
        if not view.outcomes or view.outcomes[-1].profit_ratio != 0.666:
            return None
        if self._how == "raise":
            raise KeyError(f"nothing of {object()!r}")
        if self._how == "halt":
            return Vote(code="fails", text="", state=TradingState.HALTED)
        if self._how == "nan":
            return Vote(code="fails", text="", entry=math.nan)
        return "REDUCING"  # type: ignore[return-value]


def rule(name: str, **options: Any) -> RuleConfig:
    return RuleConfig(kind=name if name.islower() else f"{__name__}.{name}", options=options)


def detector(name: str, **options: Any) -> DetectorConfig:
    return DetectorConfig(kind=f"{__name__}.{name}", options=options)


REFERENCES = {
    "ref": Reference(["a", "b"], np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])),
    "gappy": Reference(["a", "b"], np.array([[1.0, np.nan], [2.0, 3.0], [3.0, 4.0]])),
    "other": Reference(["x", "y"], np.ones((3, 2))),
}


def engine(**config: Any) -> Engine:
    options: dict[str, Any] = {
        "warmup_observations": 1, "detectors": [], "rules": [], "cooldown_candles": 0, "probation_candles": 0,
        "clock": "event", **config,
    }  # fmt: skip
    return Engine(KEY, EngineConfig(**options), REFERENCES.__getitem__)


def obs(at: int, features: dict[str, float | None] | None = None, **more: Any) -> Observation:
    return Observation(
        model=M, symbol=S, timeframe=TF, ts_ms=at * CANDLE_MS,
        features=FEATURES if features is None else features, **more,
    )  # fmt: skip


_numbers = itertools.count()


def trade(at: int, profit: float = 0.01, side: Any = "long", **more: Any) -> Trade:
    return Trade(
        model=M, symbol=S, timeframe=TF, trade_id=str(next(_numbers)), side=side, opened_ms=0,
        closed_ms=at * CANDLE_MS, entry_price=1.0, exit_price=1.0, profit_ratio=profit, **more,
    )  # fmt: skip


def candle(at: int, close: float = 1.0) -> Candle:
    return Candle(
        symbol=S, timeframe=TF, ts_ms=at * CANDLE_MS, open=close, high=close, low=close, close=close, volume=1.0
    )


def ohlcv(close: float) -> Ohlcv:
    return Ohlcv(open=close, high=close, low=close, close=close, volume=1.0)


def equity(at: int, value: float, flow: float | None = None) -> Equity:
    return Equity(model=M, ts_ms=at * CANDLE_MS, equity=value, net_flow=flow)


def tick(at: int) -> Tick:
    return Tick(model=M, symbol=S, timeframe=TF, ts_ms=at * CANDLE_MS)


def override(state: Any, id: str = "1", at: int = 0, until: int | None = None, side: Any = None) -> Command:
    until_ms = None if until is None else until * CANDLE_MS
    return Command(id=id, action="set", ts_ms=at * CANDLE_MS, model=M, state=state, until_ms=until_ms, side=side)


def clear(id: str = "1", at: int = 0) -> Command:
    return Command(id=id, action="clear", ts_ms=at * CANDLE_MS, model=M)


def reference(id: str = "ref") -> Recalibrated:
    return Recalibrated(model=M, version=id, reference_id=id)


def play(made: Engine, *events: AnyEvent) -> Step:
    for event in events:
        step = made.step(event)
    return step


def long(step: Step | Decision) -> SideDecision:
    decision = step.decision if isinstance(step, Step) else step
    return decision.sides.long


def codes(step: Step | Decision) -> list[str]:
    return [reason.code for reason in long(step).reasons]


# -- warm-up ---------------------------------------------------------------------------------------------------------


def test_fewer_observations_than_the_warm_up_asks_for_is_reducing() -> None:
    made = engine(warmup_observations=3)
    steps = [made.step(obs(i)) for i in range(4)]
    assert [long(step).state for step in steps] == [R, R, A, A]
    assert codes(steps[1]) == ["warm-up"]
    assert codes(steps[2]) == []


def test_the_rows_of_a_reference_count_but_one_observation_must_have_come() -> None:
    made = engine(warmup_observations=4)
    assert codes(play(made, reference())) == ["warm-up"]
    assert long(play(made, obs(0))).state is A


def test_trades_may_come_before_any_observation_and_do_not_end_the_warm_up() -> None:
    made = engine()
    step = play(made, trade(1), trade(2))
    assert (long(step).state, codes(step)) == (R, ["warm-up"])
    assert step.decision.data_until_ms is None
    assert step.decision.as_of_ms == 2 * CANDLE_MS
    assert len(made.state.outcomes["long"]) == 2
    assert long(play(made, obs(3))).state is A


def test_missing_outcomes_never_pause() -> None:
    made = engine(rules=None)
    step = play(made, *(obs(i) for i in range(100)))
    assert (long(step).state, long(step).entry, long(step).exit) == (A, 0.80, 0.75)


def test_a_bot_that_sends_trades_only_needs_no_warm_up_and_is_never_stale() -> None:
    made = engine(require_observations=False)
    assert long(play(made, trade(1))).state is A
    assert made.next_change_ms() is None
    assert long(play(made, tick(1000))).state is A


# -- staleness -------------------------------------------------------------------------------------------------------


def test_nothing_new_for_stale_after_candles_is_stale_to_the_millisecond() -> None:
    made = engine(stale_after=3)
    assert long(play(made, obs(0))).state is A
    due_ms = made.next_change_ms()
    assert due_ms == (1 + 3) * CANDLE_MS
    just_before = Tick(model=M, symbol=S, timeframe=TF, ts_ms=due_ms - 1)
    assert not play(made, just_before).changed
    step = play(made, tick(4))
    assert (step.changed, long(step).state, codes(step)) == (True, R, ["stale"])
    assert step.decision.as_of_ms == due_ms
    assert step.decision.data_until_ms == CANDLE_MS
    assert made.next_change_ms() is None


def test_a_stale_stream_stays_as_it_is_and_the_next_observation_ends_it_at_once() -> None:
    made = engine(stale_after=3, cooldown_candles=50, probation_candles=50)
    stale = play(made, obs(0), tick(4))
    assert play(made, tick(9)).decision.version == stale.decision.version
    step = play(made, obs(9))
    assert (long(step).state, long(step).size_factor) == (A, 1.0)


def test_events_of_other_kinds_do_not_keep_a_stream_fresh() -> None:
    made = engine(stale_after=3)
    step = play(made, obs(0), candle(2), trade(3), equity(3, 100.0))
    assert long(step).state is A
    step = play(made, trade(4))
    assert codes(step) == ["stale"]


# -- non-finite and schema ---------------------------------------------------------------------------------------------


def test_a_value_the_reference_always_had_may_not_be_missing() -> None:
    made = engine()
    step = play(made, reference(), obs(0, {"a": None, "b": 1.0}))
    assert (long(step).state, codes(step)) == (R, ["non-finite"])
    assert long(play(made, obs(1))).state is A


def test_a_value_the_reference_missed_now_and_then_may_be_missing() -> None:
    assert long(play(engine(), reference("gappy"), obs(0, {"a": 1.0, "b": None}))).state is A


def test_without_reference_a_value_may_be_missing_that_was_missing_in_the_warm_up() -> None:
    made = engine(warmup_observations=2)
    play(made, obs(0, {"a": 1.0, "b": None}), obs(1))
    assert long(play(made, obs(2, {"a": 1.0, "b": None}))).state is A
    assert codes(play(made, obs(3, {"a": None, "b": 1.0}))) == ["non-finite"]
    assert codes(play(made, obs(4, {"a": None, "b": 1.0}))) == ["non-finite"], "a fault does not become usual"


@pytest.mark.parametrize("extra_features", ["pause", "ignore"])
@pytest.mark.parametrize(
    ("features", "fault_if_pause", "fault_if_ignore"),
    [
        ({"a": 1.0, "b": 2.0}, False, False),
        ({"b": 2.0, "a": 1.0}, False, False),
        ({"a": 1.0}, True, True),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, True, False),
        ({"a": 1.0, "c": 3.0}, True, True),
        ({}, True, True),
    ],
)
@pytest.mark.parametrize("first", ["reference", "observation"])
def test_another_schema_than_that_of_the_reference_or_the_first_observation_pauses(
    first: str, features: dict[str, float | None], fault_if_pause: bool, fault_if_ignore: bool,
    extra_features: str,
) -> None:  # fmt: skip
    made = engine(extra_features=extra_features)
    play(made, reference() if first == "reference" else obs(0))
    step = play(made, obs(1, features))
    fault = fault_if_pause if extra_features == "pause" else fault_if_ignore
    assert (codes(step) == ["schema-change"]) is fault
    assert long(step).state is (R if fault else A)
    assert long(play(made, obs(2))).state is A


def test_ignored_features_are_no_part_of_the_schema() -> None:
    made = engine(models={M: ModelConfig(ignore_features=["close", "raw_*"])})
    play(made, reference(), obs(0, {**FEATURES, "close": 1.0, "raw_x": None}))
    assert long(play(made, obs(1))).state is A
    assert made.watched == ("a", "b")


def test_an_observation_without_features_leaves_the_schema_open() -> None:
    made = engine()
    play(made, obs(0, {}), obs(1))
    assert codes(play(made, obs(2, {"a": 1.0}))) == ["schema-change"]


def test_a_new_reference_brings_its_own_schema() -> None:
    made = engine()
    assert codes(play(made, obs(0), obs(1, {"x": 1.0, "y": 1.0}))) == ["schema-change"]
    play(made, reference("other"))
    assert codes(play(made, obs(2, {"x": 1.0, "y": 1.0}))) == []
    assert made.decision is not None
    assert made.decision.reference_id == "other"


# -- late observations and candles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 4, 5])
def test_a_late_observation_is_counted_and_not_judged(at: int) -> None:
    made = engine()
    before = play(made, obs(5)).decision
    step = play(made, obs(at, {"other": None}, candle=ohlcv(9.0)))
    assert (step.late, step.changed, step.decision) == (True, False, before)
    assert (made.state.late, made.state.observations, made.state.candles) == (1, 1, 0)


def test_candles_between_two_observations_are_counted_as_holes() -> None:
    made = engine()
    play(made, obs(0), obs(1), obs(4))
    assert made.state.holes == 2


@pytest.mark.parametrize("own_first", [True, False])
def test_the_observations_own_candle_wins_and_a_difference_is_counted(own_first: bool) -> None:
    made = engine()
    own, posted = obs(1, candle=ohlcv(7.0)), candle(1, 8.0)
    play(made, *((own, posted) if own_first else (posted, own)))
    assert dict(made.state.recent_candles)[CANDLE_MS].close == 7.0
    assert (made.state.candle_differences, made.state.candles) == (1, 1)


def test_equal_candles_are_no_difference() -> None:
    made = engine()
    play(made, candle(1, 7.0), obs(1, candle=ohlcv(7.0)))
    assert (made.state.candle_differences, made.state.candles) == (0, 1)


def test_memory_of_candles_and_outcomes_is_bounded_and_keeps_the_newest() -> None:
    made = engine()
    play(made, *(candle(i) for i in range(CANDLES_MAX + 9)), *(trade(1, i / 1e6) for i in range(OUTCOMES_MAX + 9)))
    assert min(dict(made.state.recent_candles)) == 9 * CANDLE_MS
    assert len(made.state.recent_candles) == CANDLES_MAX
    assert made.state.candles == CANDLES_MAX + 9
    kept = made.state.outcomes["long"]
    assert (len(kept), kept[0].profit_ratio) == (OUTCOMES_MAX, 9 / 1e6)


def test_signals_are_counted_from_the_base_entry_threshold_on() -> None:
    made = engine()
    for i, value in enumerate([0.79, 0.80, 0.81, None]):
        play(made, obs(i, probabilities=Probabilities(long=value, short=0.9 if i == 0 else None)))
    assert made.state.signals == {"long": 2, "short": 1}


# -- outcomes and the account ----------------------------------------------------------------------------------------


def test_trades_count_for_their_side_only() -> None:
    made = engine(rules=[rule("win_rate", window=3)])
    step = play(made, obs(0), *(trade(1, -0.01, "short") for _ in range(3)))
    assert (step.decision.sides.long.entry, step.decision.sides.short.entry) == (0.80, 0.85)


def test_a_trade_counts_when_it_arrives_however_old_it_is() -> None:
    made = engine(rules=[rule("win_rate", window=3)])
    step = play(made, obs(100), *(trade(1, -0.01) for _ in range(3)))
    assert not step.late
    assert long(step).entry == 0.85
    assert step.decision.as_of_ms == 101 * CANDLE_MS


def test_both_sides_pause_in_a_drawdown() -> None:
    made = engine(rules=[rule("drawdown", limit=0.1, release=0.08)])
    play(made, obs(0), equity(1, 100.0))
    step = play(made, equity(1, 89.0))
    assert step.decision.sides.long.state is step.decision.sides.short.state is R
    assert long(play(made, equity(2, 92.0))).state is A


def test_money_paid_out_is_no_drawdown() -> None:
    made = engine(rules=[rule("drawdown")])
    assert long(play(made, obs(0), equity(1, 100.0), equity(2, 20.0, -80.0))).state is A


def test_whole_numbers_as_options_survive_a_snapshot() -> None:
    def make() -> Engine:
        return engine(rules=[rule("win_rate", window=3, limit=1, release=1, entry=1)])

    one, other = make(), make()
    play(one, obs(0), *(trade(1, -0.01) for _ in range(3)))
    other.restore(taken(one))
    assert other.digest() == one.digest()


# -- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["wall", "event"])
def test_an_override_is_in_force_until_exactly_until_ms(clock: str) -> None:
    made = engine(clock=clock, stale_after=100)
    assert long(play(made, obs(0), override("REDUCING", at=1, until=5))).state is R
    assert made.next_change_ms() == 5 * CANDLE_MS
    assert long(play(made, Tick(model=M, symbol=S, timeframe=TF, ts_ms=5 * CANDLE_MS - 1))).state is R
    step = play(made, tick(5))
    assert (long(step).state, step.changed) == (A, True)


def test_when_halted_runs_out_it_is_reducing_until_an_observation_was_judged() -> None:
    made = engine(stale_after=100)
    assert long(play(made, obs(0), override("HALTED", until=5))).state is H
    assert long(play(made, tick(5))).state is R
    assert long(play(made, trade(6))).state is R
    assert long(play(made, obs(0))).state is R, "a late observation is not judged"
    assert long(play(made, obs(6))).state is A


def test_where_no_observations_are_sent_a_trade_ends_the_wait_after_halted() -> None:
    made = engine(require_observations=False)
    play(made, trade(1), override("HALTED"), clear())
    assert made.decision is not None
    assert long(made.decision).state is R
    assert long(play(made, trade(2))).state is A


def test_an_override_of_a_side_leaves_the_other_alone() -> None:
    made = engine()
    sides = play(made, obs(0), override("HALTED", side="short")).decision.sides
    assert (sides.long.state, sides.short.state) == (A, H)
    sides = play(made, clear()).decision.sides
    assert (sides.long.state, sides.short.state) == (A, R)
    sides = play(made, obs(1)).decision.sides
    assert (sides.long.state, sides.short.state) == (A, A)


def test_an_operators_active_overrides_the_rules_but_no_fault() -> None:
    made = engine(rules=[rule("break_even", trades_min=3, false_pause_trades=2.0)])
    assert codes(play(made, obs(0), *(trade(1, -0.01) for _ in range(5)))) == ["break-even"]
    assert long(play(made, override("ACTIVE"))).state is A
    assert long(play(made, obs(1, {"a": 1.0}))).state is R
    assert long(play(made, obs(2))).state is A
    assert long(play(made, clear())).state is R


def test_setting_an_override_again_replaces_it_and_clearing_what_is_not_there_changes_nothing() -> None:
    made = engine()
    play(made, obs(0), override("REDUCING"), override("ACTIVE"))
    assert [o.state for o in made.state.overrides] == ["ACTIVE"]
    before = made.decision
    assert not play(made, clear("nobody")).changed
    assert made.decision == before


def test_on_event_time_the_operators_clock_does_not_age_the_data() -> None:
    made = engine(clock="event")
    step = play(made, obs(0), override("ACTIVE", at=1_000_000))
    assert (step.decision.as_of_ms, long(step).state) == (CANDLE_MS, A)


def test_on_the_wall_clock_it_does() -> None:
    made = engine(clock="wall")
    assert "stale" in codes(play(made, obs(0), override("ACTIVE", at=1_000)))


# -- detectors -------------------------------------------------------------------------------------------------------


def watching(**config: Any) -> Engine:
    return engine(detectors=[detector("Level")], rules=[rule("drift", detectors=f"{__name__}.Level")], **config)


def test_without_reference_a_detector_is_silent() -> None:
    made = watching()
    step = play(made, obs(0, {"a": 99.0, "b": 1.0}))
    assert codes(step) == []
    (evidence,) = made.evidence()
    assert not evidence.warm
    assert math.isnan(evidence.statistic)
    assert made.watched == ()


def test_evidence_of_drift_raises_the_entry_threshold_and_names_features() -> None:
    made = watching()
    step = play(made, reference(), obs(0, {"a": 11.0, "b": 50.0}))
    assert (long(step).entry, codes(step)) == (pytest.approx(0.85), ["drift"])
    (evidence,) = made.evidence()
    assert evidence.top == (("b", 5.0), ("a", 1.1))
    assert long(play(made, obs(1))).entry == 0.80


def test_without_reference_a_stream_is_compared_with_its_own_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regime.engine.SELF_REFERENCE_ROWS", 5)
    made, again = watching(), watching()
    play(made, *(obs(i) for i in range(4)))
    assert made.watched == ()
    again.restore(taken(made))
    for each in (made, again):
        play(each, obs(4))
        assert each.watched == ("a", "b")
        assert each.state.self_reference
        assert each.decision is not None
        assert each.decision.reference_id is None
    third = watching()
    third.restore(taken(made))
    assert codes(play(third, obs(5, {"a": 11.0, "b": 1.0}))) == ["drift"]
    play(made, obs(5, {"a": 11.0, "b": 1.0}))
    assert made.digest() == third.digest()
    play(made, reference())
    assert not made.state.self_reference


def calibrated(named: bool) -> tuple[Engine, Reference, dict[str, Calibration], Recalibrated]:
    """An engine with the `calibrated` detector, its reference and limits; `named`: the event names them."""
    values = np.random.default_rng(1).standard_normal((2000, 3))
    sample = Reference(["a", "b", "c"], values, ts_ms=np.arange(2000) * CANDLE_MS, probability_long=values[:, 0] ** 2)
    config = EngineConfig(clock="event", warmup_observations=1, detectors=[DetectorConfig(kind="calibrated")])
    event = Recalibrated(model=M, symbol=S, timeframe=TF, version="1", reference_id=sample.reference_id)
    limits: dict[str, Calibration] = {}
    if named:
        found = find_limits(event, sample, config)
        limits = {limit.digest: limit for limit in found.values()}
        event = msgspec.structs.replace(event, calibrations={name: limit.digest for name, limit in found.items()})
    return Engine(KEY, config, lambda _: sample, limits.__getitem__), sample, limits, event


@pytest.mark.parametrize("named", [True, False])
def test_a_restart_asks_for_no_reference_and_finds_no_limits_anew(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take seconds, for each stream, before the first answer."""
    made, _, limits, event = calibrated(named)
    made.step(event)
    rng = np.random.default_rng(2)

    def row(at: int) -> Observation:
        return obs(
            2000 + at, dict(zip("abc", rng.standard_normal(3), strict=True)), probabilities=Probabilities(long=0.5)
        )

    for at in range(400):
        made.step(row(at))

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("this takes seconds")

    raw = taken(made)
    monkeypatch.setattr("regime.detectors.calibrated.calibrate", never)
    again = Engine(KEY, made._config, never, limits.__getitem__)
    again.restore(raw)
    assert again.digest() == made.digest()
    assert [watch.columns for watch in again.watches] == [("a", "b", "c"), ("probability_long",)]
    for at in range(400, 450):
        event = row(at)
        assert again.step(event) == made.step(event)
    assert again.digest() == made.digest() and taken(again) == taken(made)


def test_its_own_beginning_is_not_calibrated_anew_by_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regime.engine.SELF_REFERENCE_ROWS", 700)
    made = engine(detectors=[DetectorConfig(kind="calibrated")])
    values = np.random.default_rng(3).standard_normal((900, 2))
    for at, (a, b) in enumerate(values[:800]):
        made.step(obs(at, {"a": a, "b": b}))
    assert made.state.self_reference
    again = engine(detectors=[DetectorConfig(kind="calibrated")])
    monkeypatch.setattr("regime.detectors.calibrated.calibrate", None)
    again.restore(taken(made))
    for at, (a, b) in enumerate(values[800:]):
        assert again.step(obs(800 + at, {"a": a, "b": b})) == made.step(obs(800 + at, {"a": a, "b": b}))
    assert again.digest() == made.digest()


def test_streams_that_began_differently_have_different_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regime.engine.SELF_REFERENCE_ROWS", 2)
    one, other = watching(), watching()
    play(one, obs(0), obs(1))
    play(other, obs(0), obs(1, {"a": 1.5, "b": 2.0}))
    assert one.digest() != other.digest()


def test_top_features_are_the_largest_first_without_those_that_have_none() -> None:
    statistics = np.array([1.0, np.nan, 3.0, 2.0])
    assert top_features(("a", "b", "c", "d"), statistics) == (("c", 3.0), ("d", 2.0), ("a", 1.0))
    assert top_features(("a", "b", "c", "d"), statistics, 1) == (("c", 3.0),)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([DetectorConfig(kind="kss")], "known are"),
        ([DetectorConfig(kind="ks", options={"window": 0})], "window"),
        ([DetectorConfig(kind="ks", options={"nonsense": 0})], "nonsense"),
        ([DetectorConfig(kind="ks"), DetectorConfig(kind="ks")], "stands twice"),
        ([detector("Half")], "Half lacks .*update"),
    ],
)
def test_a_detector_that_cannot_be_built_is_the_operators_error(chosen: list[DetectorConfig], words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        build_detectors(EngineConfig(detectors=chosen))


# -- failures --------------------------------------------------------------------------------------------------------

BOOM: AnyEvent = obs(5, {"a": 2000.0, "b": 1.0})


@pytest.mark.parametrize(
    ("config", "trigger"),
    [
        ({"detectors": [detector("Level", fails_at="update")]}, BOOM),
        ({"detectors": [detector("Level", fails_at="warm")]}, BOOM),
        ({"detectors": [detector("Level", fails_at="reset")]}, reference()),
        ({"rules": [rule("Fails")]}, trade(5, 0.666)),
        ({"rules": [rule("Fails", how="halt")]}, trade(5, 0.666)),
        ({"rules": [rule("Fails", how="nan")]}, trade(5, 0.666)),
        ({"rules": [rule("Fails", how="word")]}, trade(5, 0.666)),
        ({}, reference("unknown reference")),
    ],
    ids=["update", "warm", "reset", "rule", "rule-halt", "rule-nan", "rule-word", "unknown-reference"],
)
def test_a_failure_ends_in_reducing_engine_error_the_same_in_every_replay(
    config: dict[str, Any], trigger: AnyEvent
) -> None:
    def run(made: Engine) -> Engine:
        step = play(made, reference("gappy"), obs(3), trigger, obs(6))
        assert long(step).state is step.decision.sides.short.state is R
        assert "engine-error" in codes(step)
        return made

    one, other = run(engine(**config)), run(engine(**config))
    assert one.digest() == other.digest()
    assert one.decision == other.decision
    version = one.decision.version if one.decision else 0
    assert play(one, obs(7)).decision.version == version, "the same fault is the same answer"
    third = engine(**config)
    third.restore(taken(one))
    assert third.digest() == one.digest()
    assert third.decision == one.decision
    assert [e.warm for e in third.evidence()] == [False] * len(third.evidence())


def test_a_new_reference_lifts_an_engine_error() -> None:
    made = engine(detectors=[detector("Level", fails_at="update")])
    assert codes(play(made, reference(), BOOM)) == ["engine-error"]
    again = engine(detectors=[detector("Level", fails_at="update")])
    again.restore(taken(made))
    for each in (made, again):
        assert codes(play(each, reference(), obs(6))) == []
    assert made.digest() == again.digest()


def word(action: Any, number: int = 1) -> Command:
    return Command(
        id=f"w{number}", action=action, ts_ms=0, model=KEY.model, symbol=KEY.symbol, timeframe=KEY.timeframe, letter=1
    )


@pytest.mark.parametrize("given", [True, False], ids=["reference", "none"])
def test_dropping_the_event_that_failed_starts_the_detectors_anew_and_judging_goes_on(given: bool) -> None:
    made = engine(detectors=[detector("Level", fails_at="update")])
    again = engine(detectors=[detector("Level", fails_at="update")])
    start = [reference()] if given else [obs(1)]
    events = [*start, obs(4), BOOM if given else trade(4), obs(6), word("drop"), obs(7, {"a": 3.0, "b": 1.0})]
    for event in events:
        made.step(event)
        if event is BOOM:
            assert made.state.poison == codec.encode(BOOM)
        # A replay through snapshots is the same.
        fresh = engine(detectors=[detector("Level", fails_at="update")])
        if again.decision is not None:
            fresh.restore(taken(again))
        fresh.step(event)
        again = fresh
    assert made.digest() == again.digest()
    assert (made.state.error, made.state.poison) == (None, b"")
    assert made.decision is not None and made.decision.sides.long.reasons == []
    if given:
        assert made.evidence()[0].statistic == 3.0, "what came while it was paused was not measured, this was"
        assert made.state.observations == 4, "the one that failed is counted, once"


def test_retrying_measures_the_event_again_and_a_second_failure_keeps_the_first_letter() -> None:
    made = engine(detectors=[detector("Level", fails_at="update")])
    play(made, reference(), obs(4), BOOM)
    observations = made.state.observations
    assert codes(play(made, word("retry"))) == ["engine-error"]
    assert (made.state.poison, made.state.observations) == (codec.encode(BOOM), observations)
    (failing,) = made.detectors.values()
    assert isinstance(failing, Level)
    failing._fails_at = ""  # The program was mended, say.
    assert codes(play(made, word("retry", 2))) == []
    assert made.evidence()[0].statistic == 2000.0
    assert (made.state.poison, made.state.observations) == (b"", observations)


def test_a_word_about_an_event_that_did_not_fail_changes_nothing() -> None:
    made, other = engine(), engine()
    play(made, reference(), obs(4), word("retry"), word("drop", 2))
    play(other, reference(), obs(4))
    assert made.digest() == other.digest()


def test_a_rule_that_goes_on_failing_is_not_cured_by_dropping() -> None:
    made = engine(rules=[rule("Fails")])
    losing = trade(1, 0.666)
    play(made, obs(0), losing)
    held = made.state.poison
    assert held == codec.encode(losing)
    for action in ("drop", "retry"):
        assert codes(play(made, word(action))) == ["engine-error"]
        assert made.state.poison == held
    play(made, trade(2, 0.1))
    assert codes(play(made, word("drop", 3))) == []


def test_a_reference_that_fails_is_the_one_to_look_at() -> None:
    made = engine(detectors=[detector("Level", fails_at="reset")])
    play(made, obs(0), reference())
    assert made.state.poison == codec.encode(reference())
    assert codes(play(made, word("retry"))) == ["engine-error"]
    assert made.state.poison == codec.encode(reference())


def test_when_the_rule_fails_no_more_a_new_reference_lifts_it() -> None:
    made = engine(rules=[rule("Fails")])
    assert codes(play(made, obs(0), trade(1, 0.666))) == ["engine-error"]
    assert codes(play(made, reference())) == ["engine-error"], "the rule fails again"
    play(made, trade(2, 0.1))
    assert codes(play(made, reference(), obs(3))) == []


def test_a_log_at_fault_is_not_taken_for_a_failure_of_one_event() -> None:
    def broken(_: str) -> Reference:
        raise CorruptionError("the stored reference is damaged")

    made = Engine(KEY, EngineConfig(detectors=[]), broken)
    with pytest.raises(CorruptionError, match="damaged"):
        made.step(reference())


# -- versions --------------------------------------------------------------------------------------------------------


def test_the_version_grows_with_a_change_and_only_then() -> None:
    made = engine(rules=[rule("win_rate", window=3)], warmup_observations=2, stale_after=3)
    seen = []
    for event in (
        obs(0),
        obs(1),
        obs(2),
        *(trade(3, -0.1) for _ in range(3)),
        trade(3, -0.1),
        tick(6),
        tick(7),
        obs(8),
    ):
        seen.append(made.step(event))
    assert [step.changed for step in seen] == [
        True, True, False, False, False, True, False, True, False, True,
    ]  # fmt: skip
    assert [step.decision.version for step in seen] == [1, 2, 2, 2, 2, 3, 3, 4, 4, 5]


def test_a_step_says_what_the_answer_was_before() -> None:
    made = engine()
    first = play(made, obs(0))
    assert first.before is None
    assert play(made, obs(1)).before == first.decision


def test_another_configuration_never_takes_a_version_back() -> None:
    made = engine()
    play(made, obs(0))
    step = play(made, Reconfigured(model=M, symbol=S, timeframe=TF, policy_id="p", served_version=41))
    assert (step.changed, step.decision.version) == (True, 42)
    step = play(made, Reconfigured(model=M, symbol=S, timeframe=TF, policy_id="q", served_version=7))
    assert step.decision.version >= 42


def test_another_model_version_is_remembered() -> None:
    made = engine()
    play(made, obs(0), ModelPromoted(model=M, model_version="4", ts_ms=CANDLE_MS, trained_until_ms=5))
    assert (made.state.model_version, made.state.trained_until_ms) == ("4", 5)
    play(made, ModelPromoted(model=M, model_version="5", ts_ms=CANDLE_MS))
    assert (made.state.model_version, made.state.trained_until_ms) == ("5", 5)


def test_shadow_mode_tells_active_with_base_thresholds_and_computes_the_truth() -> None:
    made = engine(
        mode="shadow", rules=[rule("break_even", trades_min=3, false_pause_trades=2.0), rule("win_rate", window=3)]
    )
    calm = play(made, obs(0))
    step = play(made, *(trade(1, -0.1) for _ in range(5)))
    assert (long(step).state, long(step).entry, long(step).reasons) == (A, 0.80, [])
    assert step.decision.computed is not None
    assert (step.decision.computed.long.state, step.decision.computed.long.entry) == (R, 0.85)
    assert step.decision.version > calm.decision.version, "what is computed is part of the answer"
    assert step.decision.mode == "shadow"
    assert codes(play(made, obs(1, {}))) == ["schema-change"]
    assert long(play(made, obs(2), override("HALTED"))).state is H


# -- refused signals, followed on paper ------------------------------------------------------------------------------


BOT = ModelConfig(exits=ExitRules(take_profit_ratio=0.02, stop_loss_ratio=0.01), fee_ratio=0.0)


def signal(i: int, price: float, *, probability: float = 0.9, high: float | None = None, **more: Any) -> Observation:
    shape = Ohlcv(open=price, high=price if high is None else high, low=price, close=price, volume=1.0)
    return Observation(
        model=M, symbol=S, timeframe=TF, ts_ms=i * CANDLE_MS, features=dict(FEATURES), candle=shape,
        probabilities=Probabilities(long=probability), **more,
    )  # fmt: skip


def test_a_refused_signal_becomes_a_shadow_trade_and_its_outcome_counts_for_the_side_only() -> None:
    made = engine(models={M: BOT})
    play(made, obs(0), override("REDUCING"), signal(1, 100.0))
    book = made.state.books["long"]
    assert [(s.fate, s.refused) for s in book.signals] == [("open", True)]
    play(made, signal(2, 100.0, probability=0.1), signal(3, 100.0, probability=0.1, high=103.0))
    assert [(s.fate, s.profit_ratio) for s in book.signals] == [("won", pytest.approx(0.02))]
    (outcome,) = made.state.outcomes["long"]
    assert (outcome.shadow, outcome.exit_kind, outcome.entry_probability) == (True, "take_profit", 0.9)
    assert outcome.closed_ms == 4 * CANDLE_MS
    assert "short" not in made.state.outcomes
    assert made.state.drawdown.source == "none"
    assert made.live_value("long").refused == 1


def test_a_signal_that_was_not_refused_is_remembered_and_not_followed() -> None:
    made = engine(models={M: BOT})
    play(made, obs(0), signal(1, 100.0, taken=Taken(long=True)), signal(2, 100.0), signal(3, 100.0, probability=0.79))
    assert [(s.fate, s.taken) for s in made.state.books["long"].signals] == [("taken", True), ("passed", None)]


def test_shadows_wait_for_the_observations_own_candle_where_the_bot_sends_one() -> None:
    made = engine(models={M: BOT})
    play(made, obs(0), override("REDUCING"), signal(1, 100.0), signal(2, 100.0, probability=0.1))
    bad = Candle(symbol=S, timeframe=TF, ts_ms=3 * CANDLE_MS, open=100.0, high=100.0, low=90.0, close=100.0, volume=1.0)
    play(made, bad, signal(3, 100.0, probability=0.1))
    assert made.state.books["long"].signals[0].fate == "open"
    assert made.state.candle_differences == 1


def test_posted_candles_follow_shadows_of_a_bot_that_sends_none() -> None:
    made = engine(models={M: BOT})
    refused = Observation(
        model=M, symbol=S, timeframe=TF, ts_ms=CANDLE_MS, features=dict(FEATURES), probabilities=Probabilities(long=0.9)
    )
    play(made, obs(0), override("REDUCING"), refused)
    for i, low in ((2, 100.0), (3, 98.0)):
        play(made, Candle(symbol=S, timeframe=TF, ts_ms=i * CANDLE_MS, open=100.0, high=100.0, low=low, close=100.0,
                          volume=1.0))  # fmt: skip
    assert made.state.books["long"].signals[0].fate == "lost"


def test_a_peak_reset_ends_a_pause_for_drawdown() -> None:
    made = engine(rules=[rule("drawdown", limit=0.1, release=0.05)], cooldown_candles=0)
    assert codes(play(made, obs(0), trade(1, -0.2))) == ["drawdown"]
    reset = Command(id="r", action="reset-peak", ts_ms=CANDLE_MS, model=M, actor="me", reason="looked into")
    assert "drawdown" not in codes(play(made, reset))
    assert made.state.drawdown.ratio == 0.0


def test_out_of_sample_is_counted_from_the_end_of_the_training() -> None:
    made = engine(models={M: ModelConfig(trained_until="1970-01-01")})
    lost = (msgspec.structs.replace(trade(300 + i, -0.01), opened_ms=(299 + i) * CANDLE_MS) for i in range(40))
    play(made, obs(600), *lost)
    found = made.out_of_sample("long")
    assert (found.trades_out, found.verdict) == (40, "overfit")
    assert "1970-01-02" in found.sentence


def test_enforce_mode_has_no_computed() -> None:
    assert play(engine(), obs(0)).decision.computed is None


# -- the same engine, over the detectors that are shipped -------------------------------------------------------------


def with_ks(**config: Any) -> Engine:
    return engine(detectors=[DetectorConfig(kind="ks", options={"window": 8})], rules=[rule("drift")], **config)


def test_ks_watches_raises_the_threshold_and_continues_from_a_snapshot() -> None:
    rng = np.random.default_rng(5)
    sample = Reference(["a", "b"], rng.standard_normal((400, 2)))
    config = EngineConfig(
        warmup_observations=1, detectors=[DetectorConfig(kind="ks", options={"window": 8})], rules=[rule("drift")]
    )

    def make() -> Engine:
        return Engine(KEY, config, lambda _: sample)

    rows = np.vstack([rng.standard_normal((60, 2)), rng.standard_normal((40, 2)) + 6.0])
    events: list[AnyEvent] = [reference()]
    events += [obs(i, {"a": float(x[0]), "b": float(x[1])}) for i, x in enumerate(rows)]
    whole = make()
    answers = [whole.step(event).decision for event in events]
    assert codes(answers[60]) == []
    assert codes(answers[-1]) == ["drift"]
    assert long(answers[-1]).entry > 0.80
    for cut in (0, 1, 5, 30, 70, 101):
        before, after = make(), make()
        for event in events[:cut]:
            before.step(event)
        after.restore(taken(before))
        assert [after.step(event).decision for event in events[cut:]] == answers[cut:]
        assert after.digest() == whole.digest()


# -- snapshots -------------------------------------------------------------------------------------------------------


def taken(made: Engine) -> bytes:
    raw = made.snapshot()
    assert raw is not None
    return raw


def rich() -> Engine:
    """A stream with something of everything."""
    made = watching(warmup_observations=1, cooldown_candles=2, probation_candles=3)
    play(
        made, reference("gappy"), obs(0, candle=ohlcv(2.0)), candle(1, 3.0), trade(1, -0.5, exit_reason="ml_exit"),
        equity(1, 100.0), equity(1, 50.0), obs(2, {"a": 11.0, "b": None}), override("REDUCING", side="short", until=50),
        obs(3, {"a": 1.0}), obs(1),
    )  # fmt: skip
    return made


def test_a_restored_engine_is_the_same_engine() -> None:
    one, other = rich(), watching(warmup_observations=1, cooldown_candles=2, probation_candles=3)
    other.restore(taken(one))
    assert other.decision == one.decision
    assert other.digest() == one.digest()
    assert other.next_change_ms() == one.next_change_ms()
    assert taken(other) == taken(one)


def test_a_detector_without_state_has_no_snapshot_once_it_watches() -> None:
    made = engine(detectors=[detector("Level", fails_at="state")])
    play(made, obs(0))
    assert made.snapshot() is not None
    play(made, reference())
    assert made.snapshot() is None


@pytest.mark.parametrize(
    "change",
    [{"stale_after": 9}, {"mode": "shadow"}, {"rules": []}, {"models": {M: ModelConfig(entry=0.9)}}],
)
def test_a_snapshot_of_another_configuration_is_refused(change: dict[str, Any]) -> None:
    options = {"warmup_observations": 1, "cooldown_candles": 2, "probation_candles": 3, "detectors": [], **change}
    with pytest.raises(CorruptionError, match="another configuration"):
        engine(**options).restore(taken(rich()))


@pytest.mark.parametrize("key", [StreamKey("n", S, TF), StreamKey(M, "ETH", TF), StreamKey(M, S, "1h")])
def test_a_snapshot_of_another_stream_is_refused(key: StreamKey) -> None:
    config = EngineConfig(detectors=[], rules=[])
    one, other = Engine(KEY, config, REFERENCES.__getitem__), Engine(key, config, REFERENCES.__getitem__)
    play(one, obs(0))
    with pytest.raises(CorruptionError):
        other.restore(taken(one))


def changed(raw: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    body = msgspec.msgpack.decode(raw)
    change(body)
    return msgspec.msgpack.encode(body)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(version=99),
        lambda body: body.pop("state"),
        lambda body: body.update(state=[]),
        lambda body: body["state"].update(sides={}),
        lambda body: body["state"].update(clock_ms="x"),
        lambda body: body["state"].update(features=["nonsense"]),
        lambda body: body["state"].update(reference_id="nonsense"),
        lambda body: body.update(watches={}),
        lambda body: body.update(watches=[]),
        lambda body: body["watches"]["features"]["states"].update({f"{__name__}.Level": []}),
        lambda body: body["watches"]["features"]["states"].update(
            {f"{__name__}.Level": {"last": {"dtype": "|O", "shape": [1], "data": b""}}}
        ),
        lambda body: body["watches"]["features"]["states"].update(
            {f"{__name__}.Level": {"last": {"dtype": "<f8", "shape": [2**62, 4], "data": b""}}}
        ),
        lambda body: body["watches"]["features"].update(columns=["a", "b", "c"]),
        lambda body: body["watches"]["features"].pop("limits"),
        lambda body: body.update(rows={"dtype": "<f8", "shape": [1, 1], "data": b"\0" * 8}),
        lambda body: body.update(rows=3),
        lambda body: body.update(self_reference=b"nonsense"),
        lambda body: body.update(key=None),
    ],
)
def test_a_snapshot_that_was_tampered_with_is_corrupt(change: Callable[[dict[str, Any]], object]) -> None:
    other = watching(warmup_observations=1, cooldown_candles=2, probation_candles=3)
    with pytest.raises(CorruptionError):
        other.restore(changed(taken(rich()), change))


RICH = taken(rich())


@given(st.data())
def test_changed_bytes_never_raise_anything_but_corruption(data: st.DataObject) -> None:
    raw = bytearray(RICH)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(raw)) | st.just(len(raw)))
    other = watching(warmup_observations=1, cooldown_candles=2, probation_candles=3)
    try:
        other.restore(bytes(raw[:cut]))
    except CorruptionError:
        return
    assert other.key == KEY
    assert other.decision is None or other.decision.key == KEY


@given(st.binary(max_size=100))
def test_any_bytes_are_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptionError):
        engine().restore(raw)


# -- properties over random histories ---------------------------------------------------------------------------------

KINDS = (
    ["obs"] * 4
    + ["trade"] * 2
    + ["candle", "equity", "set", "clear", "tick", "late", "schema", "reference", "due", "fail"]
)
steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from([0, 1, 1, 1, 1, 2, 5, 40]),
        st.integers(0, 5),
    ),
    max_size=60,
)  # fmt: skip


def history(plan: list[tuple[str, int, int]]) -> list[AnyEvent | None]:
    """Turn a drawn plan into events; None stands for the Tick that is due then."""
    now, events = 1, list[AnyEvent | None]([tick(1)])
    for kind, gap, pick in plan:
        now += gap
        value = [-5.0, 0.5, 1.0, 11.0, 50.0, None][pick]
        side = "long" if pick % 2 else "short"
        match kind:
            case "obs":
                own = ohlcv(1.0 + pick) if pick < 3 else None
                events.append(obs(now, {"a": value, "b": float(pick)}, candle=own))
            case "schema":
                events.append(obs(now, [{"a": 1.0}, {}, {"a": 1.0, "b": None, "c": 1.0}][pick % 3]))
            case "late":
                events.append(obs(max(0, now - 1 - pick)))
            case "trade":
                reason = "ml_exit" if pick == 1 else "stop_loss"
                profit = [-0.05, -0.02, -0.01, 0.01, 0.02, 0.03][pick]
                events.append(trade(now, profit, side, shadow=pick == 4, exit_reason=reason))
            case "candle":
                events.append(candle(now, 1.0 + pick))
            case "equity":
                events.append(equity(now, [100.0, 95.0, 85.0, 110.0, 0.0, 50.0][pick], [None, 5.0, -5.0][pick % 3]))
            case "set":
                state = ["ACTIVE", "REDUCING", "HALTED"][pick % 3]
                until = None if pick < 3 else now + 2
                events.append(override(state, str(pick % 2), now, until, [None, "long", "short"][pick // 2]))
            case "clear":
                events.append(clear(str(pick % 2), now))
            case "tick":
                events.append(tick(now))
            case "reference":
                events.append(reference(["ref", "gappy", "other", "ref", "gappy", "ref"][pick]))
            case "fail":
                if pick == 0:
                    events.append(trade(now, 0.666) if gap else reference("nowhere"))
            case _:
                events.append(None)
    return events


def full(mode: str = "enforce", clock: str = "event") -> Engine:
    return engine(
        mode=mode, clock=clock, warmup_observations=3, stale_after=3, cooldown_candles=2, probation_candles=4,
        detectors=[detector("Level"), DetectorConfig(kind="ks", options={"window": 8})],
        rules=[
            rule("drift", detectors=f"{__name__}.Level, ks"), rule("drawdown", limit=0.1, release=0.05),
            rule("break_even", trades_min=3, false_pause_trades=1.5, explore_trades=2, explore_after_candles=6),
            rule("edge"),
            rule("win_rate", window=3), rule("ml_exit", window=3, latch_candles=4), rule("Fails"),
        ],
    )  # fmt: skip


def step_of(made: Engine, event: AnyEvent | None) -> Step | None:
    if event is not None:
        return made.step(event)
    due_ms = made.next_change_ms()
    return None if due_ms is None else made.step(Tick(model=M, symbol=S, timeframe=TF, ts_ms=due_ms))


modes = st.sampled_from(["enforce", "shadow"])
clocks = st.sampled_from(["event", "wall"])


@settings(max_examples=150)
@given(steps, modes, clocks)
def test_what_holds_after_every_event(plan: list[tuple[str, int, int]], mode: str, clock: str) -> None:
    made = full(mode, clock)
    before: Decision | None = None
    for event in history(plan):
        step = step_of(made, event)
        if step is None:
            continue
        decision = step.decision
        assert decision == made.decision
        assert step.before == before
        said, said_before = (decision.sides, decision.computed), before and (before.sides, before.computed)
        assert step.changed is (said != said_before)
        assert decision.version == (before.version if before else 0) + step.changed
        assert decision.as_of_ms >= (before.as_of_ms if before else 0)
        for sides in filter(None, (decision.sides, decision.computed)):
            for side in (sides.long, sides.short):
                assert 0.0 <= side.entry <= 1.0
                assert 0.0 <= side.exit <= 1.0
                assert 0.0 <= side.size_factor <= 1.0
                assert (side.size_factor == 0.0) is (side.state is not A)
                assert (side.resume is not None) is (side.state is not A or side.size_factor < 1.0)
                if side.state is not A:
                    assert side.reasons
                    assert side.resume is not None
                    assert side.resume.conditions
                faults = {"warm-up", "stale", "non-finite", "schema-change", "engine-error"}
                if faults & {reason.code for reason in side.reasons}:
                    assert side.state is not A
        halted = [o for o in made.state.overrides if o.state == "HALTED"]
        assert (decision.sides.long.state is H) is any(o.side in (None, "long") for o in halted)
        due_ms = made.next_change_ms()
        assert due_ms is None or due_ms > made.state.clock_ms
        before = decision


@settings(max_examples=150)
@given(steps, modes, st.data())
def test_a_snapshot_at_any_moment_changes_nothing_that_comes_after(
    plan: list[tuple[str, int, int]], mode: str, data: st.DataObject
) -> None:
    events = history(plan)
    whole = full(mode)
    answers = [step_of(whole, event) for event in events]
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=3))
    made, again = full(mode), list[Step | None]()
    for i, event in enumerate(events):
        for _ in range(cuts.count(i)):
            fresh = full(mode)
            fresh.restore(taken(made))
            assert fresh.digest() == made.digest()
            made = fresh
        again.append(step_of(made, event))
    assert again == answers
    assert made.digest() == whole.digest()


@settings(max_examples=100)
@given(steps)
def test_ticks_that_are_due_come_to_an_end_and_each_is_later_than_the_last(plan: list[tuple[str, int, int]]) -> None:
    made = full()
    for event in history(plan):
        step_of(made, event)
    last_ms = made.state.clock_ms
    for _ in range(50):
        due_ms = made.next_change_ms()
        if due_ms is None:
            break
        assert due_ms > last_ms
        made.step(Tick(model=M, symbol=S, timeframe=TF, ts_ms=due_ms))
        last_ms = due_ms
    assert made.next_change_ms() is None


@settings(max_examples=100)
@given(steps)
def test_between_two_due_ticks_time_alone_changes_nothing(plan: list[tuple[str, int, int]]) -> None:
    made = full()
    for event in history(plan):
        step_of(made, event)
    for _ in range(20):
        due_ms = made.next_change_ms()
        if due_ms is None:
            break
        early = made.step(Tick(model=M, symbol=S, timeframe=TF, ts_ms=due_ms - 1))
        assert not early.changed
        made.step(Tick(model=M, symbol=S, timeframe=TF, ts_ms=due_ms))
    if made.decision is not None:
        late = Tick(model=M, symbol=S, timeframe=TF, ts_ms=made.state.clock_ms + 10**10)
        assert not made.step(late).changed
