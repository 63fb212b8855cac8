"""The policy alone: votes are given by a scripted rule, overrides by hand, time by the view."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from regime.config import EngineConfig, ModelConfig, RuleConfig
from regime.decision import TradingState
from regime.errors import OperatorError
from regime.events import Command
from regime.policy import FAULT_RULES, Policy, Ruling, SideState, build_rules
from regime.rules import DataView, View, Vote

A, R, H = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED
CANDLE_MS = 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=0,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
FAULT = DATA._replace(missing=("rsi",))


def vote(**changes: Any) -> Vote:
    return Vote(**{"code": "scripted", "text": "because", "lift": ("it gets better",), **changes})


class Scripted:
    """Gives whatever vote `wanted` holds."""

    code = "scripted"
    wanted: Any = None

    def judge(self, view: View) -> Vote | None:
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted  # type: ignore[no-any-return]


class NoRule:
    pass


class Desk:
    """A policy, its side and a clock that counts candles."""

    def __init__(self, model: ModelConfig | None = None, **config: Any) -> None:
        options = {"cooldown_candles": 0, "probation_candles": 0, **config}
        self.config = EngineConfig(rules=[RuleConfig(kind=f"{__name__}.Scripted")], **options)
        self.model = model or ModelConfig()
        self.policy = Policy(self.config, self.model)
        self.rule: Any = self.policy._rules[-1]
        self.side = SideState()
        self.now = 0

    def at(
        self, now: int, wanted: Any = None, overrides: list[Command] | None = None, *, data: DataView = DATA,
        observed: bool = True,
    ) -> Ruling:  # fmt: skip
        self.now = now
        self.rule.wanted = wanted
        view = View(
            now_ms=now * CANDLE_MS, timeframe_ms=CANDLE_MS, side="long", model=self.model,
            data=data._replace(data_until_ms=now * CANDLE_MS), evidence=(), outcomes=(), drawdown_ratio=0.0,
            drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
        )  # fmt: skip
        return self.policy.decide(self.side, view, overrides or [], observed=observed)

    def due(self) -> int | None:
        due_ms = self.policy.next_change_ms(self.side, self.now * CANDLE_MS, CANDLE_MS)
        return None if due_ms is None else due_ms // CANDLE_MS


def override(state: str, id: str = "1", **more: Any) -> Command:
    return Command(id=id, action="set", ts_ms=5, model="m", state=state, **more)  # type: ignore[arg-type]


def codes(ruling: Ruling) -> list[str]:
    return [reason.code for reason in ruling.told.reasons]


# -- precedence ------------------------------------------------------------------------------------------------------

PAUSE = vote(state=R)


@pytest.mark.parametrize(
    ("fault", "words", "wanted"),
    [
        (fault, words, wanted)
        for fault in (False, True)
        for count in range(4)
        for words in itertools.combinations(["HALTED", "REDUCING", "ACTIVE"], count)
        for wanted in (None, PAUSE)
    ],
)
def test_fault_then_halted_or_reducing_then_active_then_rules(
    fault: bool, words: tuple[str, ...], wanted: Vote | None
) -> None:
    overrides = [override(state, id=state) for state in words]
    ruling = Desk().at(1, wanted, overrides, data=FAULT if fault else DATA)
    if "HALTED" in words:
        expected = H  # A fault does not soften it: whatever happens, the bot stays out.
    elif fault or "REDUCING" in words:
        expected = R
    elif "ACTIVE" in words:
        expected = A
    else:
        expected = A if wanted is None else R
    assert ruling.told.state is expected
    assert ruling.told.size_factor == (1.0 if expected is A else 0.0)
    assert ("schema-change" in codes(ruling)) is fault
    assert ("scripted" in codes(ruling)) is (wanted is not None)
    assert codes(ruling).count("operator") == len(words)


@pytest.mark.parametrize("words", list(itertools.permutations(["HALTED", "REDUCING", "ACTIVE"])))
def test_the_order_in_which_overrides_were_set_does_not_matter(words: tuple[str, ...]) -> None:
    assert Desk().at(1, None, [override(state, id=state) for state in words]).told.state is H


def test_the_reason_of_the_strongest_voice_stands_first() -> None:
    ruling = Desk().at(1, PAUSE, [override("ACTIVE", id="a"), override("REDUCING", id="r")], data=FAULT)
    assert codes(ruling) == ["schema-change", "operator", "operator", "scripted"]
    assert "REDUCING" in ruling.told.reasons[1].text


def test_the_operators_reason_names_who_and_why() -> None:
    ruling = Desk().at(1, None, [override("REDUCING", actor="ann", reason="news at noon", until_ms=9)])
    (reason,) = ruling.told.reasons
    assert (reason.code, reason.since_ms) == ("operator", 5)
    assert reason.text == "ann set REDUCING for a set time: news at noon"
    assert Desk().at(1, None, [override("ACTIVE")]).told.reasons[0].text == "an operator set ACTIVE"


def test_the_operators_active_means_the_models_own_thresholds_and_full_size() -> None:
    ruling = Desk().at(1, vote(state=R, entry=0.9, exit=0.9, size_factor=0.1), [override("ACTIVE")])
    told = ruling.told
    assert (told.state, told.entry, told.exit, told.size_factor, told.resume) == (A, 0.80, 0.75, 1.0, None)


# -- thresholds and size ---------------------------------------------------------------------------------------------


def test_without_configuration_the_thresholds_are_080_and_075() -> None:
    told = Desk().at(1).told
    assert (told.state, told.entry, told.exit, told.size_factor, told.reasons) == (A, 0.80, 0.75, 1.0, [])


def test_the_most_cautious_threshold_and_size_win_and_none_is_lowered() -> None:
    desk = Desk(ModelConfig(entry=0.7, exit=0.6))
    told = desk.at(1, vote(entry=0.9, exit=0.5, size_factor=0.25)).told
    assert (told.state, told.entry, told.exit, told.size_factor) == (A, 0.9, 0.6, 0.25)
    assert told.resume is not None
    assert desk.at(2, vote(entry=0.1)).told.entry == 0.7


def test_thresholds_stand_also_while_paused() -> None:
    told = Desk().at(1, vote(state=R, entry=0.9)).told
    assert (told.state, told.entry, told.exit, told.size_factor) == (R, 0.9, 0.75, 0.0)


def test_a_pause_says_what_would_lift_it() -> None:
    told = Desk().at(1, vote(state=R, earliest_ms=7)).told
    assert told.resume is not None
    assert (told.resume.conditions, told.resume.earliest_ms) == (["it gets better"], 7)
    held = Desk().at(1, vote(state=R), [override("REDUCING", id="42", until_ms=9)]).told.resume
    assert held is not None
    assert "it gets better" in held.conditions
    assert "an operator ends override 42, or its time is up" in held.conditions
    assert held.earliest_ms == 9


# -- what a rule may not say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["entry", "exit", "size_factor"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01])
def test_a_threshold_or_size_outside_0_to_1_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Desk().at(1, vote(**{name: value}))


def test_a_rule_cannot_halt() -> None:
    with pytest.raises(ValueError, match="only an operator"):
        Desk().at(1, vote(state=H))


@pytest.mark.parametrize("wanted", ["REDUCING", True, 0.5])
def test_what_is_no_vote_is_refused(wanted: Any) -> None:
    with pytest.raises(TypeError, match="Vote was expected"):
        Desk().at(1, wanted)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_none_is_not_told(value: float) -> None:
    desk = Desk()
    first = desk.at(1, vote(value=value, limit=-value))
    assert (first.told.reasons[0].value, first.told.reasons[0].limit) == (None, None)
    assert desk.at(2, vote(value=value, limit=-value)) == first


def test_numbers_of_a_vote_are_kept_as_a_snapshot_keeps_them() -> None:
    desk = Desk()
    desk.at(1, vote(entry=1, value=np.float64(0.5)))
    raw = msgspec.msgpack.encode(desk.side)
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(raw, type=SideState)) == raw


def test_what_is_wrong_with_a_vote_leaves_nothing_behind() -> None:
    desk = Desk()
    with pytest.raises(ValueError, match="entry"):
        desk.at(1, vote(entry=2.0))
    assert desk.at(2).told.reasons == []


# -- cool-down and probation -----------------------------------------------------------------------------------------


def test_a_vote_stands_for_the_cool_down_at_the_least() -> None:
    desk = Desk(cooldown_candles=3)
    first = desk.at(10, PAUSE)
    assert desk.due() == 13
    assert desk.at(12) == first
    assert desk.due() == 13
    assert desk.at(13).told.state is A
    assert desk.due() is None


def test_a_vote_that_is_given_on_stands_on_and_keeps_its_beginning() -> None:
    desk = Desk(cooldown_candles=3)
    desk.at(10, PAUSE)
    ruling = desk.at(20, vote(state=R, text="still"))
    assert ruling.told.reasons[0].since_ms == 10 * CANDLE_MS
    assert ruling.told.reasons[0].text == "still"
    assert desk.at(21).told.state is A


def test_a_fault_has_no_cool_down_and_no_probation() -> None:
    desk = Desk(cooldown_candles=3, probation_candles=5)
    assert desk.at(10, data=FAULT).told.state is R
    ruling = desk.at(11)
    assert (ruling.told.state, ruling.told.size_factor, ruling.told.reasons) == (A, 1.0, [])


def test_a_pause_by_a_rule_is_followed_by_probation() -> None:
    desk = Desk(probation_candles=5, probation_size=0.5)
    desk.at(10, PAUSE)
    told = desk.at(11).told
    assert (told.state, told.size_factor) == (A, 0.5)
    (reason,) = told.reasons
    assert (reason.code, reason.since_ms, reason.value) == ("probation", 11 * CANDLE_MS, 0.5)
    assert told.resume is not None
    assert told.resume.earliest_ms == 16 * CANDLE_MS
    assert desk.due() == 16
    assert desk.at(15).told == told
    ended = desk.at(16).told
    assert (ended.state, ended.size_factor, ended.reasons, ended.resume) == (A, 1.0, [], None)
    assert desk.due() is None


def test_a_new_pause_ends_probation_and_the_next_one_begins_anew() -> None:
    desk = Desk(probation_candles=5)
    desk.at(10, PAUSE)
    desk.at(11)
    assert desk.at(12, PAUSE).told.state is R
    assert desk.due() is None
    assert desk.at(14).told.size_factor == 0.5
    assert desk.due() == 19


def test_a_vote_without_a_pause_has_no_probation() -> None:
    desk = Desk(probation_candles=5)
    assert desk.at(10, vote(entry=0.9)).told.state is A
    assert desk.at(11).told.size_factor == 1.0


def test_the_smaller_of_probation_and_vote_is_the_size() -> None:
    desk = Desk(probation_candles=5, probation_size=0.5)
    desk.at(10, PAUSE)
    assert desk.at(11, vote(size_factor=0.2)).told.size_factor == 0.2
    assert desk.at(12, vote(size_factor=0.8)).told.size_factor == 0.5


def test_a_fault_or_an_operator_hides_probation_but_its_time_goes_on() -> None:
    desk = Desk(probation_candles=5)
    desk.at(10, PAUSE)
    assert desk.at(11, overrides=[override("ACTIVE")]).told.size_factor == 1.0
    assert desk.at(12, data=FAULT).told.size_factor == 0.0
    assert desk.at(13).told.size_factor == 0.5
    assert desk.at(16).told.size_factor == 1.0


@pytest.mark.parametrize("name", ["earliest_ms", "recheck_ms"])
def test_a_vote_is_judged_again_when_it_asked_to_be(name: str) -> None:
    desk = Desk()
    desk.at(10, vote(**{name: 15 * CANDLE_MS}))
    assert desk.due() == 15
    desk.at(15, vote(**{name: 15 * CANDLE_MS}))
    assert desk.due() is None


# -- HALTED and its end ----------------------------------------------------------------------------------------------


def test_after_halted_it_is_reducing_until_the_next_observation_was_judged() -> None:
    desk = Desk()
    assert desk.at(10, overrides=[override("HALTED")]).told.state is H
    ended = desk.at(11, observed=False)
    assert ended.told.state is R
    assert codes(ended) == ["halt-ended"]
    assert ended.told.resume is not None
    assert ended.told.resume.conditions == ["the next observation arrives"]
    assert desk.at(12, observed=False) == ended
    assert desk.at(13).told.state is A


def test_an_observation_that_ends_halted_is_not_the_next_one() -> None:
    desk = Desk()
    desk.at(10, overrides=[override("HALTED")])
    assert desk.at(11, observed=True).told.state is R
    assert desk.at(12, observed=True).told.state is A


def test_no_active_that_stood_all_along_wakes_a_halted_bot() -> None:
    desk = Desk()
    desk.at(10, overrides=[override("HALTED", id="h"), override("ACTIVE", id="a")])
    assert desk.at(11, overrides=[override("ACTIVE", id="a")], observed=False).told.state is R
    assert desk.at(12, overrides=[override("ACTIVE", id="a")]).told.state is A


def test_halted_again_while_waiting_starts_over() -> None:
    desk = Desk()
    desk.at(10, overrides=[override("HALTED")])
    desk.at(11, observed=False)
    assert desk.at(12, overrides=[override("HALTED", id="2")], observed=False).told.state is H
    assert desk.at(13, observed=False).told.state is R
    assert desk.at(14).told.state is A


def test_after_halted_a_fault_and_the_rules_count_again() -> None:
    desk = Desk()
    desk.at(10, overrides=[override("HALTED")])
    assert codes(desk.at(11, PAUSE, data=FAULT, observed=False)) == ["schema-change", "scripted", "halt-ended"]
    assert desk.at(12, PAUSE).told.state is R
    assert codes(desk.at(13, PAUSE)) == ["scripted"]


def test_halted_may_be_followed_by_an_operators_reducing() -> None:
    desk = Desk()
    desk.at(10, overrides=[override("HALTED")])
    assert desk.at(11, overrides=[override("REDUCING", id="2")], observed=False).told.state is R
    assert desk.at(12, observed=False).told.state is R, "still no observation"
    assert desk.at(13).told.state is A


# -- shadow mode -----------------------------------------------------------------------------------------------------


def test_shadow_hides_the_votes_of_the_rules_only() -> None:
    desk = Desk(mode="shadow", probation_candles=5)
    told, computed = desk.at(10, vote(state=R, entry=0.9, exit=0.9))
    assert (told.state, told.entry, told.exit, told.size_factor, told.reasons) == (A, 0.80, 0.75, 1.0, [])
    assert (computed.state, computed.entry, computed.exit, computed.size_factor) == (R, 0.9, 0.9, 0.0)
    told, computed = desk.at(11)
    assert (told.size_factor, told.reasons) == (1.0, [])
    assert (computed.state, computed.size_factor) == (A, 0.5)


@pytest.mark.parametrize(("state", "expected"), [("HALTED", H), ("REDUCING", R), ("ACTIVE", A)])
def test_shadow_shows_overrides(state: str, expected: TradingState) -> None:
    told, computed = Desk(mode="shadow").at(10, PAUSE, [override(state)])
    assert told.state is computed.state is expected
    assert [reason.code for reason in told.reasons] == ["operator"]


def test_shadow_shows_faults() -> None:
    told, computed = Desk(mode="shadow").at(10, data=FAULT)
    assert told == computed
    assert told.state is R


def test_shadow_shows_the_end_of_halted() -> None:
    desk = Desk(mode="shadow")
    desk.at(10, overrides=[override("HALTED")])
    assert desk.at(11, observed=False).told.state is R
    assert desk.at(12, PAUSE).told.state is A


def test_enforce_tells_what_it_computed() -> None:
    told, computed = Desk().at(10, PAUSE)
    assert told is computed


# -- errors ----------------------------------------------------------------------------------------------------------


def test_once_the_engine_failed_only_the_data_is_judged_and_standing_votes_stand() -> None:
    desk = Desk()
    desk.at(10, PAUSE)
    broken = DATA._replace(error="ValueError: x")
    assert codes(desk.at(11, ValueError("again"), data=broken)) == ["engine-error", "scripted"]
    assert codes(desk.at(12, None)) == []


# -- building --------------------------------------------------------------------------------------------------------


def test_rules_about_the_data_are_always_on() -> None:
    kinds = [type(rule).__module__.rpartition(".")[2] for rule in build_rules(EngineConfig(rules=[]))]
    assert tuple(kinds) == FAULT_RULES


@pytest.mark.parametrize(("preset", "rules"), [("default", 6), ("conservative", 6), ("seed-rules", 3)])
def test_presets_can_be_built(preset: Any, rules: int) -> None:
    assert len(build_rules(EngineConfig(preset=preset))) == len(FAULT_RULES) + rules


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("drift", {"nonsense": 1}, "nonsense"),
        ("win_rate", {"window": 0}, "window"),
        ("win_rate", {"window": "10"}, "window"),
        ("drift", {"detectors": 5}, "detectors"),
        ("drfit", {}, "known are"),
        (f"{__name__}.NoRule", {}, "no `code` and `judge`"),
    ],
)
def test_a_rule_that_cannot_be_built_is_the_operators_error(kind: str, options: Any, words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        build_rules(EngineConfig(rules=[RuleConfig(kind=kind, options=options)]))
