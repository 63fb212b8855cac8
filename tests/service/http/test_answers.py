"""Answers kept as bytes are the answers of the contract, and are never kept longer than their decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given

from regime.decision import Decision, Reason, RegimeLabel, Resume, SideDecision, Sides, TradingState, to_answer
from regime_service.http.answers import Answers, to_thresholds

texts = st.text(max_size=8)
shares = st.floats(0, 1)
times = st.integers(0, 4_102_444_800_000)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
reasons = st.builds(Reason, code=texts, text=texts, since_ms=times, value=numbers, limit=numbers)
sides = st.builds(
    SideDecision, state=st.sampled_from(TradingState), entry=shares, exit=shares, size_factor=shares,
    reasons=st.lists(reasons, max_size=2),
    resume=st.none() | st.builds(Resume, conditions=st.lists(texts, max_size=2), earliest_ms=st.none() | times),
)  # fmt: skip
both = st.builds(Sides, long=sides, short=sides)
decisions = st.builds(
    Decision, model=texts, symbol=texts, timeframe=st.just("5m"), mode=texts, version=st.integers(0, 2**53),
    as_of_ms=times, data_until_ms=st.none() | times,
    regime=st.none() | st.builds(RegimeLabel, label=texts, probability=shares, since_ms=times), sides=both,
    reference_id=st.none() | texts, policy_id=texts, computed=st.none() | both,
)  # fmt: skip


@given(decision=decisions, epoch=texts, lease=st.integers(0, 10**9))
def test_an_answer_is_what_the_core_says_it_is_byte_for_byte(decision: Decision, epoch: str, lease: int) -> None:
    told = msgspec.json.encode(to_thresholds(decision, epoch, lease))
    assert told == msgspec.json.encode(to_answer(decision, epoch=epoch, valid_for_ms=lease))


def test_bytes_are_kept_until_the_next_decision_or_epoch(make_service: Callable[..., Any]) -> None:
    service = make_service()
    service.warm()
    answers = Answers(service.ports)
    (key, decision), *_ = service.board.now.decisions.items()
    first = answers.spelled(key, decision)
    assert answers.spelled(key, decision) is first
    same = msgspec.structs.replace(decision)
    assert answers.spelled(key, same) is not first
    assert answers.spelled(key, same).etag == first.etag
    later = answers.spelled(key, msgspec.structs.replace(decision, version=decision.version + 1))
    assert later.etag != first.etag
    assert b'"version":%d' % (decision.version + 1) in answers.polled(later)
    service.epoch = "01K94S00000000000000000000"
    assert answers.spelled(key, decision).etag != first.etag
    assert b"01K94S00000000000000000000" in answers.polled(answers.spelled(key, decision))


def test_a_lease_that_runs_down_is_never_kept(make_service: Callable[..., Any]) -> None:
    service = make_service()
    service.warm()
    service.post("/v1/overrides", {
        "model": "m", "state": "ACTIVE", "actor": "a", "reason": "r", "until_ms": service.now_ms + 30_000,
    })  # fmt: skip
    told = []
    for _ in range(3):
        told.append(service.thresholds().json()["thresholds"][0]["valid_for_ms"])
        service.now_ms += 10_000
    assert told == [30_000, 20_000, 10_000]
