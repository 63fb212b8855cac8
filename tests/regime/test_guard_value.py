"""Guard value: which trades would have been refused, and what that was worth. Every figure is worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regime.decision import Decision, Reason, SideDecision, Sides, TradingState
from regime.events import StreamKey, Trade
from regime.guard_value import (
    BELOW_ENTRY,
    SHIFTS,
    curves,
    guard_value,
    live_value,
    max_drawdown,
    mean_interval,
    verdicts,
)
from regime.outcomes import Outcome

KEY = StreamKey("bot", "BTC/USDT:USDT", "5m")
ACTIVE, REDUCING, HALTED = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED


def trade(opened: int, profit: float, *, closed: int | None = None, side: str = "long", **more: object) -> Trade:
    return Trade(
        model="bot", symbol="BTC/USDT:USDT", timeframe="5m", trade_id=f"t{opened}-{side}", side=side,  # type: ignore[arg-type]
        opened_ms=opened, closed_ms=opened + 5 if closed is None else closed, entry_price=100.0, exit_price=100.0,
        profit_ratio=profit, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def side(
    state: TradingState = ACTIVE, *, entry: float = 0.8, size: float = 1.0, code: str = "drawdown"
) -> SideDecision:
    reasons = [] if state is ACTIVE else [Reason(code=code, text="why", since_ms=0)]
    return SideDecision(state=state, entry=entry, exit=0.75, size_factor=size, reasons=reasons)


def decision(
    at: int, long: SideDecision, short: SideDecision | None = None, *, computed: Sides | None = None
) -> Decision:
    return Decision(
        model="bot", symbol="BTC/USDT:USDT", timeframe="5m", version=at, mode="shadow" if computed else "enforce",
        as_of_ms=at, data_until_ms=None, regime=None, sides=Sides(long=long, short=short or long), reference_id=None,
        policy_id="p", computed=computed,
    )  # fmt: skip


def refused(trades: list[Trade], *decisions: Decision) -> list[bool]:
    return [v.refused for v in verdicts(trades, {KEY: decisions})]


def test_the_last_decision_before_the_entry_is_in_force() -> None:
    decisions = (decision(10, side(REDUCING)), decision(20, side()), decision(30, side(HALTED)))
    assert refused([trade(15, 0.1), trade(25, 0.1), trade(35, 0.1)], *decisions) == [True, False, True]


def test_a_decision_judged_at_the_instant_of_the_entry_counts() -> None:
    decisions = (decision(10, side()), decision(20, side(REDUCING)))
    assert refused([trade(19, 0.1), trade(20, 0.1)], *decisions) == [False, True]


def test_of_two_decisions_of_one_instant_the_later_one_counts() -> None:
    assert refused([trade(20, 0.1)], decision(20, side(REDUCING)), decision(20, side())) == [False]


def test_a_trade_closed_at_the_instant_it_was_opened_is_not_judged_by_its_own_outcome() -> None:
    # The decision of 20 may already know this trade's outcome.
    assert refused([trade(20, -0.1, closed=20)], decision(10, side()), decision(20, side(REDUCING))) == [False]


def test_before_the_first_decision_a_trade_is_taken_and_counted() -> None:
    judged = verdicts([trade(5, 0.1)], {KEY: [decision(10, side(REDUCING))]})
    value = guard_value(judged)
    assert (value.refused, value.taken, value.unjudged) == (0, 1, 1)
    assert value.profit_with_ratio == pytest.approx(0.1)


def test_each_side_is_judged_by_its_own_state() -> None:
    decisions = (decision(10, side(REDUCING), side()),)
    assert refused([trade(15, 0.1), trade(15, 0.1, side="short")], *decisions) == [True, False]


def test_the_entry_threshold_is_inclusive_and_an_unknown_probability_passes() -> None:
    decisions = (decision(10, side(entry=0.85)),)
    trades = [trade(11, 0.1, entry_probability=0.85), trade(12, 0.1, entry_probability=0.8499), trade(13, 0.1)]
    judged = verdicts(trades, {KEY: decisions})
    assert [v.codes for v in judged] == [(), (BELOW_ENTRY,), ()]


def test_a_trade_of_another_stream_is_not_judged_by_this_one() -> None:
    other = Trade(
        model="bot", symbol="ETH/USDT:USDT", timeframe="5m", trade_id="e", side="long", opened_ms=15, closed_ms=20,
        entry_price=1.0, exit_price=1.0, profit_ratio=0.1,
    )  # fmt: skip
    assert refused([other], decision(10, side(REDUCING))) == [False]


def test_in_shadow_mode_what_was_computed_counts() -> None:
    computed = Sides(long=side(REDUCING), short=side(REDUCING))
    assert refused([trade(15, 0.1)], decision(10, side(), computed=computed)) == [True]


def test_shadow_trades_are_left_out() -> None:
    assert verdicts([trade(15, 0.1, shadow=True)], {KEY: [decision(10, side())]}) == []


def test_figures_worked_out_by_hand() -> None:
    # +10 % taken, -20 % and +5 % refused, -10 % taken in probation at half size.
    trades = [trade(11, 0.1), trade(21, -0.2), trade(22, 0.05), trade(31, -0.1)]
    decisions = [decision(10, side()), decision(20, side(REDUCING)), decision(30, side(size=0.5))]
    value = guard_value(verdicts(trades, {KEY: decisions}))

    assert (value.trades, value.taken, value.refused, value.smaller) == (4, 2, 2, 1)
    assert (value.winners_missed, value.losers_avoided) == (1, 1)
    assert value.refused_by == {"drawdown": 2}
    assert value.gains_missed_ratio == pytest.approx(0.05)
    assert value.losses_avoided_ratio == pytest.approx(0.2)
    assert value.profit_without_ratio == pytest.approx(1.1 * 0.8 * 1.05 * 0.9 - 1)  # -16.84 %
    assert value.profit_with_ratio == pytest.approx(1.1 * 0.95 - 1)  # +4.5 %
    assert value.drawdown_without_ratio == pytest.approx(1 - 0.8 * 1.05 * 0.9)  # from the peak of 1.1 down to the end
    assert value.drawdown_with_ratio == pytest.approx(0.05)
    # Exposures 1, 0, 0, 0.5 shifted by 1, 2, 3 places:
    #   0.5, 1, 0, 0  ->  1.05 * 0.80        = 0.840
    #   0, 0.5, 1, 0  ->  0.90 * 1.05        = 0.945
    #   0, 0, 0.5, 1  ->  1.025 * 0.90       = 0.9225    all below 1.045: no shift does as well.
    assert (value.shifts, value.shifts_as_good_ratio) == (3, 0.0)


def test_leverage_and_size_scale_the_account_but_not_the_count() -> None:
    judged = verdicts([trade(11, -0.01, leverage=4.0, size_ratio=0.5)], {KEY: [decision(10, side())]})
    assert guard_value(judged).profit_without_ratio == pytest.approx(-0.02)


def test_a_trade_of_exactly_zero_is_no_winner() -> None:
    value = guard_value(verdicts([trade(11, 0.0)], {KEY: [decision(10, side(REDUCING))]}))
    assert (value.winners_missed, value.losers_avoided, value.losses_avoided_ratio) == (0, 1, 0.0)
    assert math.copysign(1, value.losses_avoided_ratio) == 1


def test_curves_follow_the_order_of_closing() -> None:
    first, second = trade(11, 0.1, closed=50), trade(12, -0.5, closed=20)
    curve = curves(verdicts([first, second], {KEY: [decision(10, side())]}))
    assert curve.closed_ms == [20, 50]
    assert curve.without == pytest.approx([0.5, 0.55])


def test_without_a_refusal_there_is_nothing_to_shift() -> None:
    value = guard_value(verdicts([trade(11, 0.1), trade(12, 0.1)], {KEY: [decision(10, side())]}))
    assert (value.shifts, value.shifts_as_good_ratio) == (0, None)


def test_on_a_list_that_always_loses_the_same_every_shift_does_as_well() -> None:
    # The guard "earns" here, and it is all luck: each shift refuses as many equal losses.
    decisions = [decision(10, side()), decision(50, side(REDUCING))]
    value = guard_value(verdicts([trade(10 + i, -0.01) for i in range(80)], {KEY: decisions}))
    assert value.profit_with_ratio > value.profit_without_ratio
    assert (value.shifts, value.shifts_as_good_ratio) == (79, 1.0)


def test_a_guard_that_knew_when_beats_nearly_all_shifts() -> None:
    profits = [0.01] * 60 + [-0.02] * 20 + [0.01] * 60
    decisions = [decision(0, side()), decision(60, side(REDUCING)), decision(80, side())]
    value = guard_value(verdicts([trade(i, p) for i, p in enumerate(profits)], {KEY: decisions}))
    assert value.refused == 20
    assert value.shifts_as_good_ratio == 0.0


def test_a_long_list_tries_a_thousand_seeded_shifts() -> None:
    noise = np.random.default_rng(7)
    trades = [trade(i, float(profit)) for i, profit in enumerate(noise.normal(0, 0.01, 3000))]
    decisions = [decision(at, side(REDUCING if noise.random() < 0.3 else ACTIVE)) for at in range(0, 3000, 40)]
    judged = verdicts(trades, {KEY: decisions})
    value = guard_value(judged)
    assert value.shifts == SHIFTS
    assert value == guard_value(judged)
    assert value.shifts_as_good_ratio is not None and 0 < value.shifts_as_good_ratio < 1


def test_a_total_loss_stays_one() -> None:
    value = guard_value(verdicts([trade(1, -0.5, leverage=4.0), trade(2, 0.5)], {KEY: [decision(0, side())]}))
    assert value.profit_without_ratio == pytest.approx(-1.0)
    assert value.drawdown_without_ratio == pytest.approx(1.0)


def test_an_empty_history_has_no_profit_and_no_drawdown() -> None:
    value = guard_value([])
    assert (value.trades, value.profit_with_ratio, value.drawdown_with_ratio) == (0, 0.0, 0.0)
    assert max_drawdown([]) == 0.0


def test_drawdown_counts_from_the_start() -> None:
    assert max_drawdown([0.9, 1.2, 0.6]) == pytest.approx(0.5)
    assert max_drawdown([0.9]) == pytest.approx(0.1)


def test_a_trade_under_the_bots_own_threshold_is_refused_only_while_the_guard_asks_for_more() -> None:
    calm, raised = decision(10, side(entry=0.80)), decision(20, side(entry=0.85))
    trades = [trade(15, 0.1, entry_probability=0.70), trade(25, 0.1, entry_probability=0.70)]
    judged = verdicts(trades, {KEY: [calm, raised]}, base_entry=0.80)
    assert [v.refused for v in judged] == [False, True]
    assert [v.refused for v in verdicts(trades, {KEY: [calm, raised]})] == [True, True]


# -- live ------------------------------------------------------------------------------------------------------------


def outcomes(*profits: float, shadow: bool) -> list[Outcome]:
    return [Outcome(closed_ms=i, profit_ratio=p, exit_kind="other", shadow=shadow) for i, p in enumerate(profits)]


def test_live_refused_signals_are_held_against_always_and_never() -> None:
    value = live_value([*outcomes(0.02, 0.01, shadow=False), *outcomes(-0.03, -0.01, shadow=True)], [0.005, -0.001])
    assert (value.real, value.refused, value.open) == (2, 2, 2)
    assert value.always_ratio == pytest.approx(-0.01)
    assert value.guarded_ratio == pytest.approx(0.03)
    assert value.refused_mean_ratio == pytest.approx(-0.02)
    assert value.open_ratio == pytest.approx(0.004)
    assert value.shifts_as_good_ratio == 0.0
    assert "2 refused signals resolved" in value.sentence


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ([], "no refused signal"),
        ([-0.01, -0.02] * 10, "worth having"),
        ([0.01, 0.02] * 10, "it costs"),
        ([0.01, -0.01] * 10, "neither"),
    ],
)
def test_live_the_sentence_says_whether_the_guard_is_worth_having(refused: list[float], words: str) -> None:
    value = live_value([*outcomes(0.01, -0.01, 0.01, shadow=False), *outcomes(*refused, shadow=True)])
    assert words in value.sentence


def test_the_interval_holds_the_mean_of_its_law_about_nine_times_in_ten() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        _, low, high = mean_interval(rng.normal(0.3, 1.0, 40).tolist())
        assert low is not None and high is not None
        held += low <= 0.3 <= high
    assert 0.83 <= held / 300 <= 0.95
    assert mean_interval([1.0, 2.0]) == (1.5, None, None)
