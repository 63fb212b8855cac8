"""How long an answer is good for: each rule of `lease.py`, with the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from regime.decision import Decision, Reason, SideDecision, Sides, TradingState
from regime.events import Command
from regime_service.http.lease import lease_ms, override_end_ms

NOW_MS = 1_762_146_310_000
FIVE_MINUTES = 300_000


def side(state: str = "ACTIVE", *codes: str) -> SideDecision:
    return SideDecision(
        state=TradingState(state), entry=0.8, exit=0.75, size_factor=1.0,
        reasons=[Reason(code=code, text="", since_ms=0) for code in codes],
    )  # fmt: skip


def told(long: SideDecision | None = None, short: SideDecision | None = None, **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "model": "m", "symbol": "s", "timeframe": "5m", "mode": "enforce", "version": 1, "as_of_ms": NOW_MS,
        "data_until_ms": NOW_MS - 10_000, "regime": None, "sides": Sides(long=long or side(), short=short or side()),
        "reference_id": None, "policy_id": "p",
    }  # fmt: skip
    return Decision(**{**fields, **changes})


def word(state: str = "ACTIVE", until_ms: int | None = None, **changes: Any) -> Command:
    fields: dict[str, Any] = {"id": "o", "action": "set", "ts_ms": 0, "model": "m", "state": state}
    return Command(**{**fields, "until_ms": until_ms, **changes})


def lease(
    decision: Decision, *overrides: Command, replied: bool = False, clock: Any = "wall", stale_after: int | None = 3
) -> int:
    return lease_ms(decision, overrides=overrides, clock=clock, now_ms=NOW_MS, replied=replied, stale_after=stale_after)


def test_a_polled_answer_is_good_for_a_minute_on_either_clock() -> None:
    assert (lease(told()), lease(told(), clock="event")) == (60_000, 60_000)


def test_a_reply_is_good_until_the_next_observation_is_due_and_a_minute_more() -> None:
    assert lease(told(), replied=True) == FIVE_MINUTES + 60_000 - 10_000


def test_a_reply_is_never_good_for_less_than_a_polled_answer() -> None:
    assert lease(told(data_until_ms=NOW_MS - 2 * FIVE_MINUTES), replied=True) == 60_000


def test_a_reply_is_never_good_for_more_than_one_candle_and_a_minute() -> None:
    """Also when the bot's clock is ahead of ours, or it sends a candle that is not closed."""
    assert lease(told(data_until_ms=NOW_MS + FIVE_MINUTES), replied=True) == FIVE_MINUTES + 60_000


def test_a_reply_without_any_observation_is_good_for_a_minute() -> None:
    assert lease(told(data_until_ms=None), replied=True) == 60_000


def test_on_event_time_a_reply_is_good_for_one_candle_and_a_minute() -> None:
    assert lease(told(data_until_ms=5), replied=True, clock="event") == FIVE_MINUTES + 60_000


@pytest.mark.parametrize("replied", [False, True])
def test_an_active_by_override_is_not_leased_beyond_its_end(replied: bool) -> None:
    forced = told(long=side("ACTIVE", "operator", "win-rate"))
    assert lease(forced, word(until_ms=NOW_MS + 7_000), replied=replied) == 7_000


def test_an_override_that_has_ended_leaves_no_lease_at_all() -> None:
    forced = told(long=side("ACTIVE", "operator"))
    assert lease(forced, word(until_ms=NOW_MS - 1)) == 0
    assert lease(forced) == 0  # The word is gone and the decision that says so is not here yet.


def test_an_override_without_end_does_not_shorten_the_lease() -> None:
    assert lease(told(long=side("ACTIVE", "operator")), word()) == 60_000


def test_of_several_overrides_the_last_end_counts_and_of_two_sides_the_first() -> None:
    both = told(long=side("ACTIVE", "operator"), short=side("ACTIVE", "operator"))
    early, late = word(until_ms=NOW_MS + 1_000, side="long"), word(until_ms=NOW_MS + 9_000)
    assert lease(both, early, late) == 9_000
    assert lease(both, early, word(until_ms=NOW_MS + 5_000, side="short")) == 1_000


def test_a_pause_may_be_leased_beyond_the_end_of_its_override() -> None:
    paused = told(long=side("REDUCING", "operator"), short=side("REDUCING", "operator"))
    assert lease(paused, word("REDUCING", until_ms=NOW_MS + 1_000)) == 60_000


def test_another_streams_override_does_not_count() -> None:
    forced = told(long=side("ACTIVE", "operator"))
    assert lease(forced, word(), word(until_ms=NOW_MS + 1_000, symbol="other")) == 60_000
    assert lease(forced, word(until_ms=NOW_MS + 1_000), word(until_ms=NOW_MS + 9_000, symbol="other")) == 1_000


def test_a_word_that_makes_nothing_active_lengthens_nothing() -> None:
    forced = told(long=side("ACTIVE", "operator"))
    for other in (word("REDUCING", until_ms=NOW_MS + 9_000), word(action="clear", until_ms=NOW_MS + 9_000)):
        assert lease(forced, word(until_ms=NOW_MS + 1_000), other) == 1_000


def test_a_word_that_is_gone_has_ended_at_the_beginning_of_time() -> None:
    assert override_end_ms(told(long=side("ACTIVE", "operator")), []) == 0
    assert override_end_ms(told(), []) is None


def test_on_event_time_an_overrides_end_is_measured_from_the_streams_own_clock() -> None:
    forced = told(long=side("ACTIVE", "operator"), as_of_ms=1_000_000)
    assert lease(forced, word(until_ms=1_020_000), replied=True, clock="event") == 20_000


def test_an_active_on_old_data_is_leased_for_nought_until_the_writer_has_looked_at_the_clock() -> None:
    old = {"data_until_ms": NOW_MS - 3 * FIVE_MINUTES}
    assert lease(told(**old)) == lease(told(**old), replied=True) == lease(told(long=side("REDUCING"), **old)) == 0
    assert lease(told(data_until_ms=NOW_MS - 3 * FIVE_MINUTES + 1)) == 60_000
    assert lease(told(side("REDUCING"), side("REDUCING"), **old)) == 60_000, "a pause may be leased"
    assert lease(told(**old), stale_after=None) == lease(told(**old), clock="event") == 60_000
