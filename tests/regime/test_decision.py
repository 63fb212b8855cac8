from __future__ import annotations

import itertools

import msgspec
import pytest

from regime.decision import (
    TRANSITIONS,
    Cause,
    Decision,
    Reason,
    RegimeLabel,
    Resume,
    SideDecision,
    Sides,
    TradingState,
    decision_bytes,
    decode_decision,
    to_answer,
    transition,
)
from regime.events import StreamKey

A, R, H = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED


def test_the_table_knows_every_state_and_cause() -> None:
    assert set(TRANSITIONS) == set(TradingState)
    for causes in TRANSITIONS.values():
        assert set(causes) == set(Cause)


@pytest.mark.parametrize(("current", "wanted", "cause"), list(itertools.product(TradingState, TradingState, Cause)))
def test_a_transition_is_allowed_if_and_only_if_the_table_says_so(
    current: TradingState, wanted: TradingState, cause: Cause
) -> None:
    if wanted in TRANSITIONS[current][cause]:
        assert transition(current, wanted, cause) is wanted
    else:
        with pytest.raises(ValueError, match=f"{current} cannot become {wanted} by {cause}"):
            transition(current, wanted, cause)


def test_only_an_operator_sets_halted() -> None:
    for current, cause in itertools.product((A, R), Cause):
        assert (H in TRANSITIONS[current][cause]) is (cause is Cause.OPERATOR)


def test_halted_never_jumps_to_active() -> None:
    assert all(A not in states for states in TRANSITIONS[H].values())


def test_nothing_softens_halted_but_an_operator_or_its_end() -> None:
    softer = {cause for cause, states in TRANSITIONS[H].items() if states - {H}}
    assert softer == {Cause.OPERATOR, Cause.RELEASE}


def test_a_fault_never_leads_to_active_from_a_pause() -> None:
    assert A not in TRANSITIONS[R][Cause.FAULT]


def test_caution_orders_the_states() -> None:
    assert A.caution < R.caution < H.caution


SIDE = SideDecision(
    state=R, entry=0.86, exit=0.75, size_factor=0.0,
    reasons=[Reason(code="win-rate", value=0.29, limit=0.53, since_ms=1, text="2 wins in the last 7 trades")],
    resume=Resume(conditions=["..."]),
)  # fmt: skip
OPEN = SideDecision(state=A, entry=0.8, exit=0.75, size_factor=1.0, reasons=[])
DECISION = Decision(
    model="m", symbol="s", timeframe="5m", mode="enforce", version=7, as_of_ms=2, data_until_ms=None,
    regime=RegimeLabel(label="volatile-down", probability=0.83, since_ms=1), sides=Sides(long=SIDE, short=OPEN),
    reference_id=None, policy_id="p",
)  # fmt: skip


def test_the_answer_has_the_fields_of_the_contract_in_its_order() -> None:
    answer = to_answer(DECISION, epoch="01K", valid_for_ms=60_000)
    assert list(answer) == [
        "model", "symbol", "timeframe", "mode", "version", "epoch", "as_of_ms", "data_until_ms", "valid_for_ms",
        "regime", "sides", "reference_id", "policy_id",
    ]  # fmt: skip
    assert answer["epoch"] == "01K"
    assert answer["valid_for_ms"] == 60_000
    assert answer["data_until_ms"] is None
    assert answer["regime"] == {"label": "volatile-down", "probability": 0.83, "since_ms": 1}
    assert answer["sides"]["long"] == {
        "state": "REDUCING", "entry": 0.86, "exit": 0.75, "size_factor": 0.0,
        "reasons": [{"code": "win-rate", "value": 0.29, "limit": 0.53, "since_ms": 1,
                     "text": "2 wins in the last 7 trades"}],
        "resume": {"earliest_ms": None, "conditions": ["..."]},
    }  # fmt: skip
    assert answer["sides"]["short"]["resume"] is None


def test_computed_stands_in_the_answer_in_shadow_mode_only() -> None:
    assert "computed" not in to_answer(DECISION, epoch="e", valid_for_ms=1)
    shadow = msgspec.structs.replace(DECISION, mode="shadow", computed=DECISION.sides)
    assert to_answer(shadow, epoch="e", valid_for_ms=1)["computed"]["long"]["state"] == "REDUCING"


def test_a_decision_comes_back_from_its_bytes() -> None:
    again = decode_decision(decision_bytes(DECISION))
    assert again == DECISION
    assert decision_bytes(again) == decision_bytes(DECISION)


def test_a_decision_names_its_stream_and_its_sides() -> None:
    assert DECISION.key == StreamKey("m", "s", "5m")
    assert DECISION.sides.of("long") is SIDE
    assert DECISION.sides.of("short") is OPEN
