from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.outcomes import Outcome, wilson_interval
from regime.rules import DataView, View, Vote
from regime.rules.break_even import BreakEven

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=(),
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


def closed(*profits: float, kind: str = "other", from_ms: int = NOW_MS - 100 * CANDLE_MS) -> tuple[Outcome, ...]:
    """One trade a candle."""
    return tuple(
        Outcome(closed_ms=from_ms + i * CANDLE_MS, profit_ratio=profit, exit_kind=kind, shadow=False)
        for i, profit in enumerate(profits)
    )


W, L = 0.01, -0.01

RULE = BreakEven(resume_trades=20, explore_after_candles=576)


def standing() -> Vote:
    vote = RULE.judge(VIEW._replace(outcomes=closed(*[W] * 10, *[L] * 40)))
    assert vote is not None
    return vote


def paused(*after: float, candles: int = 100) -> View:
    """The pause began at NOW_MS; one trade closed each candle after it."""
    before = closed(*[W] * 10, *[L] * 40)
    return VIEW._replace(
        now_ms=NOW_MS + candles * CANDLE_MS, outcomes=before + closed(*after, from_ms=NOW_MS + CANDLE_MS),
        standing=standing(), standing_since_ms=NOW_MS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("profits", "voted"),
    [
        ([], False),
        ([L] * 14, False),
        ([L] * 15, True),  # none ever won: nothing could earn the fees
        ([W] * 50, False),
        ([L, W] * 25, False),
        ([W] * 20 + [L] * 30, False),  # upper end of the interval: 0.516
        ([W] * 19 + [L] * 31, True),  # 0.496
        ([W] * 100 + [L] * 32 + [W] * 18, True),  # only the last 50 count
        ([3 * W] * 18 + [L] * 32, False),  # a payoff of 3 breaks even at 25 %
        ([W] * 25 + [3 * L] * 25, True),  # one of 1/3 at 75 %
    ],
)
def test_it_pauses_when_the_win_rate_is_credibly_under_break_even(profits: list[float], voted: bool) -> None:
    vote = RULE.judge(VIEW._replace(outcomes=closed(*profits)))
    assert (vote is not None) is voted
    if vote is not None:
        assert (vote.state, vote.fault, vote.entry) == (TradingState.REDUCING, False, None)
        assert vote.value == sum(profit > 0 for profit in profits[-50:]) / len(profits[-50:])


def test_credibly_is_the_upper_end_of_the_wilson_interval() -> None:
    for won in range(51):
        vote = RULE.judge(VIEW._replace(outcomes=closed(*[L] * 50, *[W] * 50, *[W] * won, *[L] * (50 - won))))
        payoff_one_breaks_even_at = 0.5
        upper = wilson_interval(won, 50, 1.64)[1]
        assert (vote is not None) is (upper < payoff_one_breaks_even_at), won


def test_a_bot_that_never_lost_is_left_alone_and_zero_is_no_win() -> None:
    assert RULE.judge(VIEW._replace(outcomes=closed(*[0.0] * 20, *[W] * 3))) is None
    assert RULE.judge(VIEW._replace(outcomes=closed(*[0.0] * 20))) is not None


def test_no_time_ends_it_while_no_evidence_comes_but_the_exploration() -> None:
    assert standing().earliest_ms == NOW_MS + 576 * CANDLE_MS
    for candles, stands in ((1, True), (575, True), (576, False)):
        assert (RULE.judge(paused(candles=candles)) is not None) is stands, candles


@pytest.mark.parametrize(
    ("after", "stands"),
    [
        ([W] * 19, True),
        ([W] * 20, False),
        ([L] * 10 + [W] * 10, False),
        ([L] * 11 + [W] * 9, True),
        ([L] * 50 + [W] * 20, False),
        ([L] * 20, True),
    ],
)
def test_it_resumes_on_trades_after_the_pause_that_win_as_often_as_break_even_asks(
    after: list[float], stands: bool
) -> None:
    assert (RULE.judge(paused(*after)) is not None) is stands


def test_while_outcomes_arrive_no_time_is_promised_and_it_is_judged_again_when_they_cease() -> None:
    vote = RULE.judge(paused(L, L, candles=2))
    assert vote is not None
    assert vote.earliest_ms is None
    assert vote.recheck_ms == NOW_MS + 2 * CANDLE_MS + 576 * CANDLE_MS
    assert RULE.judge(paused(L, L, candles=577)) is not None
    assert RULE.judge(paused(L, L, candles=578)) is None


def test_the_sentence_and_figures_stay_those_of_the_beginning() -> None:
    first, later = standing(), RULE.judge(paused(L, W, W))
    assert later is not None
    assert (later.text, later.value, later.limit) == (first.text, first.value, first.limit)


def test_after_the_pause_was_lifted_only_later_trades_count() -> None:
    before = closed(*[W] * 10, *[L] * 40)
    lifted = VIEW._replace(outcomes=before, lifted_ms=NOW_MS)
    assert RULE.judge(lifted) is None
    assert RULE.judge(lifted._replace(outcomes=before + closed(*[L] * 14, from_ms=NOW_MS + 1))) is None
    assert RULE.judge(lifted._replace(outcomes=before + closed(*[L] * 15, from_ms=NOW_MS + 1))) is not None


def test_a_window_smaller_than_the_least_number_is_refused() -> None:
    with pytest.raises(ValueError, match="trades_min"):
        BreakEven(window=10, trades_min=11)
