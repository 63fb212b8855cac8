from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from regime.events import Equity, Trade
from regime.outcomes import (
    Drawdown,
    Outcome,
    break_even_win_rate,
    ml_exit_rate,
    payoff_ratio,
    wilson_interval,
    win_rate,
    wins,
)


def outcome(profit: float, kind: str = "other", *, shadow: bool = False) -> Outcome:
    return Outcome(closed_ms=0, profit_ratio=profit, exit_kind=kind, shadow=shadow)


def outcomes(*profits: float) -> list[Outcome]:
    return [outcome(profit) for profit in profits]


def trade(profit: float, **more: Any) -> Trade:
    return Trade(
        model="m", symbol="s", timeframe="5m", trade_id="1", side="long", opened_ms=0, closed_ms=0, entry_price=1.0,
        exit_price=1.0, profit_ratio=profit, **more,
    )  # fmt: skip


def equity(value: float, flow: float | None = None) -> Equity:
    return Equity(model="m", ts_ms=0, equity=value, net_flow=flow)


def test_a_trade_that_came_out_at_zero_after_fees_did_not_win() -> None:
    assert wins(outcomes(0.01, 0.0, -0.01)) == 1
    assert win_rate(outcomes(0.01, 0.0, -0.01, -0.01)) == 0.25


def test_rates_without_trades_are_undefined() -> None:
    assert math.isnan(win_rate([]))
    assert math.isnan(ml_exit_rate([]))
    assert math.isnan(payoff_ratio([]))


def test_the_ml_exit_rate_is_the_share_the_model_closed() -> None:
    assert ml_exit_rate([outcome(1, "ml_exit"), outcome(1, "stop_loss"), outcome(-1, "ml_exit"), outcome(1)]) == 0.5


def test_payoff_is_mean_win_over_mean_loss() -> None:
    assert payoff_ratio(outcomes(0.03, 0.01, -0.01, 0.0)) == pytest.approx(2.0)


@pytest.mark.parametrize("profits", [(0.01,), (-0.01,), (0.0,), (0.0, 0.01)])
def test_payoff_needs_a_win_and_a_loss(profits: tuple[float, ...]) -> None:
    assert math.isnan(payoff_ratio(outcomes(*profits)))


def test_payoff_survives_absurd_figures() -> None:
    assert payoff_ratio(outcomes(1e308, 1e308, -1e308, -1e308)) == 1.0
    assert payoff_ratio(outcomes(5e-324, -5e-324, -5e-324)) == 1.0


@pytest.mark.parametrize(("payoff", "rate"), [(1.0, 0.5), (1.5, 0.4), (3.0, 0.25), (0.25, 0.8)])
def test_break_even_is_where_wins_pay_for_losses(payoff: float, rate: float) -> None:
    assert break_even_win_rate(payoff) == pytest.approx(rate)
    assert rate * payoff - (1 - rate) == pytest.approx(0.0)


def test_break_even_of_nothing_is_undefined() -> None:
    assert math.isnan(break_even_win_rate(math.nan))


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(count: int, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, count))
    level = data.draw(st.sampled_from([0.8, 0.9, 0.95, 0.99]))
    expected = binomtest(won, count).proportion_ci(level, method="wilson")
    found = wilson_interval(won, count, float(norm.ppf(0.5 + level / 2)))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_rate_and_stays_in_0_to_1(count: int, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, count))
    low, high = wilson_interval(won, count, data.draw(st.floats(0.01, 6)))
    assert 0.0 <= low <= won / count + 1e-12
    assert won / count - 1e-12 <= high <= 1.0


def test_wilson_without_trades_is_undefined() -> None:
    assert all(math.isnan(end) for end in wilson_interval(0, 0, 1.64))


# -- drawdown --------------------------------------------------------------------------------------------------------


def test_before_anything_is_known_nothing_is_lost() -> None:
    drawdown = Drawdown()
    assert (drawdown.ratio, drawdown.source) == (0.0, "none")


def test_from_trades_it_compounds_with_leverage_and_size() -> None:
    drawdown = Drawdown()
    drawdown.on_trade(trade(0.10))
    drawdown.on_trade(trade(-0.05, leverage=2.0, size_ratio=0.5))
    drawdown.on_trade(trade(-0.10, leverage=3.0))
    assert drawdown.index == pytest.approx(1.10 * 0.95 * 0.70)
    assert drawdown.ratio == pytest.approx(1 - 0.95 * 0.70)
    assert drawdown.source == "trades"


def test_leverage_and_size_are_one_when_not_given() -> None:
    drawdown = Drawdown()
    drawdown.on_trade(trade(-0.25))
    assert drawdown.ratio == pytest.approx(0.25)


def test_shadow_trades_never_count() -> None:
    drawdown = Drawdown()
    drawdown.on_trade(trade(-0.5, shadow=True))
    assert (drawdown.ratio, drawdown.source) == (0.0, "none")


def test_from_equity_it_is_the_loss_from_the_peak() -> None:
    drawdown = Drawdown()
    for value in (100.0, 120.0, 90.0, 105.0):
        drawdown.on_equity(equity(value))
    assert drawdown.ratio == pytest.approx(1 - 105 / 120)
    assert drawdown.source == "equity"


def test_money_paid_out_is_no_loss_and_money_paid_in_is_no_gain() -> None:
    drawdown = Drawdown()
    drawdown.on_equity(equity(1000.0))
    drawdown.on_equity(equity(500.0, -500.0))
    assert drawdown.ratio == pytest.approx(0.0)
    drawdown.on_equity(equity(450.0))
    assert drawdown.ratio == pytest.approx(0.1)
    drawdown.on_equity(equity(1450.0, 1000.0))
    assert drawdown.ratio == pytest.approx(0.1)


def test_a_flow_with_the_first_equity_is_part_of_it() -> None:
    drawdown = Drawdown()
    drawdown.on_equity(equity(1000.0, 1000.0))
    drawdown.on_equity(equity(900.0))
    assert drawdown.ratio == pytest.approx(0.1)


def test_the_equity_feed_replaces_what_was_pieced_together_from_trades() -> None:
    drawdown = Drawdown()
    drawdown.on_trade(trade(-0.5))
    drawdown.on_equity(equity(1000.0))
    assert (drawdown.ratio, drawdown.source) == (0.0, "equity")
    drawdown.on_trade(trade(-0.5))
    assert drawdown.ratio == 0.0


def test_a_total_loss_is_a_loss_of_all_and_nothing_divides_by_zero() -> None:
    drawdown = Drawdown()
    drawdown.on_trade(trade(-3.0))
    assert drawdown.ratio == pytest.approx(1.0)
    drawdown.on_trade(trade(0.1))
    assert drawdown.ratio == pytest.approx(1.0)


@pytest.mark.parametrize("value", [0.0, -50.0])
def test_an_account_at_or_under_zero_has_lost_all_and_has_no_rate_of_return(value: float) -> None:
    drawdown = Drawdown()
    for each in (100.0, value, value, 50.0, 50.0):
        drawdown.on_equity(equity(each))
    assert drawdown.ratio == pytest.approx(1.0)


figures = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(st.booleans(), figures, st.none() | figures), max_size=30))
def test_whatever_is_reported_the_drawdown_is_a_number_in_0_to_1(reports: list[Any]) -> None:
    drawdown, peak = Drawdown(), 1.0
    for from_trade, value, flow in reports:
        if from_trade:
            drawdown.on_trade(trade(value))
        else:
            peak = 1.0 if drawdown.source != "equity" else peak
            drawdown.on_equity(equity(value, flow))
        assert 0.0 <= drawdown.ratio <= 1.0
        assert drawdown.peak >= peak
        peak = drawdown.peak


def test_one_bad_tick_of_the_equity_feed_is_dropped_and_counted() -> None:
    drawdown = Drawdown()
    for each in (100.0, 20.0, 101.0, 99.0):
        drawdown.on_equity(equity(each))
    assert drawdown.ratio == pytest.approx(1 - 99 / 101)
    assert drawdown.dropped == 1


def test_a_jump_that_the_next_figure_confirms_counts_in_full() -> None:
    drawdown = Drawdown()
    for each in (100.0, 60.0):
        drawdown.on_equity(equity(each))
    assert drawdown.ratio == 0.0  # Not believed yet.
    drawdown.on_equity(equity(59.0))
    assert drawdown.ratio == pytest.approx(0.41)
    assert drawdown.dropped == 0


def test_money_paid_in_with_a_dropped_figure_is_still_taken_out() -> None:
    drawdown = Drawdown()
    drawdown.on_equity(equity(1000.0))
    drawdown.on_equity(equity(5.0, 500.0))  # A bad tick, but the 500 were paid in.
    drawdown.on_equity(equity(1400.0))
    assert drawdown.ratio == pytest.approx(0.1)


def test_a_side_is_measured_from_its_own_peak_after_a_rebase_and_all_from_the_present_after_a_reset() -> None:
    drawdown = Drawdown()
    for each in (100.0, 80.0):
        drawdown.on_equity(equity(each))
    drawdown.rebase("long")
    assert drawdown.of_side("long") == 0.0
    assert drawdown.of_side("short") == pytest.approx(0.2)
    for each in (90.0, 72.0):
        drawdown.on_equity(equity(each))
    assert drawdown.of_side("long") == pytest.approx(0.2)
    assert drawdown.of_side("short") == drawdown.ratio == pytest.approx(0.28)
    drawdown.reset_peak()
    assert drawdown.of_side("long") == drawdown.ratio == 0.0
