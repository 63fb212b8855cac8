from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.outcomes import Outcome
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

RULE = BreakEven(explore_after_candles=100, explore_trades=5, explore_size=0.2)
COLLAPSED = [W, W, L, W, W] * 20 + [L] * 15


def standing() -> Vote:
    vote = RULE.judge(VIEW._replace(outcomes=closed(*COLLAPSED)))
    assert vote is not None
    return vote


def paused(*after: float, candles: int = 1, followed: bool = True, vote: Vote | None = None) -> View:
    """The pause began at NOW_MS; one trade closed each candle after it."""
    return VIEW._replace(
        now_ms=NOW_MS + max(candles, len(after)) * CANDLE_MS, followed=followed,
        outcomes=closed(*COLLAPSED, from_ms=NOW_MS - 115 * CANDLE_MS) + closed(*after, from_ms=NOW_MS + CANDLE_MS),
        standing=vote or standing(), standing_since_ms=NOW_MS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("profits", "voted"),
    [
        ([], False),
        ([L] * 4, False),  # fewer than trades_min
        ([L] * 40, True),
        ([W] * 200, False),
        ([L, W] * 100, False),  # exactly at break-even
        (COLLAPSED, True),
        ([W, W, L, W, W] * 20 + [L] * 3, False),
        ([W, W, L, W, W] * 40 + [W, W, L] * 20, False),  # from 80 % to 67 %: it still earns
    ],
)
def test_it_pauses_when_the_outcomes_are_evidence_against_break_even(profits: list[float], voted: bool) -> None:
    vote = RULE.judge(VIEW._replace(outcomes=closed(*profits)))
    assert (vote is not None) is voted
    if vote is not None:
        assert (vote.state, vote.fault, vote.entry) == (TradingState.REDUCING, False, None)
        assert vote.value is not None and vote.limit is not None and vote.value < vote.limit


def test_a_payoff_of_three_needs_fewer_wins() -> None:
    profits = [W, L, L] * 60
    assert RULE.judge(VIEW._replace(outcomes=closed(*profits), break_even=0.5)) is not None
    assert RULE.judge(VIEW._replace(outcomes=closed(*profits), break_even=0.25)) is None


def test_the_stated_rate_is_the_configurations_or_its_own() -> None:
    fall = [W, W, L, W, W] * 20
    needed = [
        next(n for n in range(1, 60) if rule.judge(VIEW._replace(outcomes=closed(*fall, *[L] * n))) is not None)
        for rule in (BreakEven(false_pause_trades=100.0), BreakEven(), BreakEven(false_pause_trades=100_000.0))
    ]
    assert needed == sorted(needed) and needed[0] < needed[2]


def test_the_sentence_tells_real_from_paper_and_when_it_began() -> None:
    outcomes = closed(*COLLAPSED[:-5])
    paper = tuple(
        Outcome(closed_ms=NOW_MS - i, profit_ratio=L, exit_kind="other", shadow=True) for i in range(5, 0, -1)
    )
    vote = RULE.judge(VIEW._replace(outcomes=outcomes + paper))
    assert vote is not None
    assert "5 on paper" in vote.text and "UTC" in vote.text
    assert "out of sample" not in vote.text
    trained = RULE.judge(VIEW._replace(outcomes=outcomes + paper, trained_until_ms=0))
    assert trained is not None and "out of sample since 1970-01-01" in trained.text


def test_it_resumes_on_outcomes_after_the_pause_that_earn_and_only_on_them() -> None:
    assert RULE.judge(paused(*[W] * 15)) is None
    assert RULE.judge(paused(*[L] * 15)) is not None
    assert RULE.judge(paused(*[W, L] * 20)) is not None
    for candles in (1, 1_000, 100_000):  # Never by time alone.
        vote = RULE.judge(paused(candles=candles))
        assert vote is not None and vote.state is TradingState.REDUCING


def test_where_nothing_can_be_followed_it_tries_a_few_small_trades() -> None:
    waiting = RULE.judge(paused(candles=99, followed=False))
    assert waiting is not None and waiting.state is TradingState.REDUCING
    assert waiting.recheck_ms == NOW_MS + 100 * CANDLE_MS
    trying = RULE.judge(paused(candles=100, followed=False))
    assert trying is not None
    assert (trying.state, trying.size_factor, trying.exploring_ms) == (None, 0.2, NOW_MS + 100 * CANDLE_MS)


def test_a_try_that_loses_ends_in_a_longer_pause_and_one_that_wins_goes_on_until_the_evidence_is_there() -> None:
    def tried(*profits: float, wait: int = 0) -> Vote | None:
        began_ms = NOW_MS + 100 * CANDLE_MS
        vote = RULE.judge(paused(candles=100, followed=False))
        assert vote is not None
        after = closed(*profits, from_ms=began_ms + CANDLE_MS)
        view = paused(followed=False, vote=vote)
        now_ms = began_ms + (len(profits) + wait) * CANDLE_MS
        return RULE.judge(view._replace(outcomes=(*view.outcomes, *after), now_ms=now_ms))

    few, lost, won = tried(L, L, L, L), tried(L, L, L, L, L), tried(W, W, L, W, L)
    assert few is not None and few.state is None
    assert lost is not None and lost.state is TradingState.REDUCING and lost.exploring_ms is None
    assert lost.recheck_ms == NOW_MS + 100 * CANDLE_MS + 5 * CANDLE_MS + 200 * CANDLE_MS
    assert won is not None and won.state is None
    assert tried(*[W] * 15) is None


def test_after_the_pause_was_lifted_only_later_trades_count() -> None:
    before = closed(*COLLAPSED)
    lifted = VIEW._replace(outcomes=before, lifts={"break-even": NOW_MS + 200 * CANDLE_MS})
    assert RULE.judge(lifted) is None
    assert (
        RULE.judge(lifted._replace(outcomes=before + closed(*[L] * 40, from_ms=NOW_MS + 300 * CANDLE_MS))) is not None
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [({"trades_min": 0}, "trades_min"), ({"false_pause_trades": -1.0}, "false_pause"), ({"explore_size": 2.0}, "size")],
)
def test_wrong_options_are_refused_by_name(options: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BreakEven(**options)  # type: ignore[arg-type]
