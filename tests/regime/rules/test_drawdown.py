from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.outcomes import Outcome
from regime.rules import DataView, View, Vote
from regime.rules.drawdown import DrawdownRule

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=(),
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


def standing() -> Vote:
    vote = DrawdownRule().judge(VIEW._replace(drawdown_ratio=0.2, drawdown_source="equity"))
    assert vote is not None
    return vote


@pytest.mark.parametrize(
    ("lost", "source", "stood", "voted"),
    [
        (0.0, "equity", False, False),
        (0.10, "equity", False, False),
        (0.1001, "equity", False, True),
        (0.1001, "trades", False, True),
        (0.1001, "none", False, False),
        (0.09, "equity", False, False),
        (0.09, "equity", True, True),
        (0.0801, "equity", True, True),
        (0.08, "equity", True, False),
        (0.0, "equity", True, False),
    ],
)
def test_over_the_limit_it_pauses_and_at_the_release_it_lets_go(
    lost: float, source: str, stood: bool, voted: bool
) -> None:
    view = VIEW._replace(drawdown_ratio=lost, drawdown_source=source)
    if stood:
        view = view._replace(standing=standing(), standing_since_ms=NOW_MS - CANDLE_MS)
    vote = DrawdownRule(limit=0.1, release=0.08).judge(view)
    assert (vote is not None) is voted
    if vote is not None:
        assert (vote.state, vote.fault, vote.value, vote.limit) == (TradingState.REDUCING, False, lost, 0.1)


@pytest.mark.parametrize(("source", "words"), [("equity", "equity feed"), ("trades", "closed trades")])
def test_the_answer_says_where_the_figure_comes_from(source: str, words: str) -> None:
    vote = DrawdownRule().judge(VIEW._replace(drawdown_ratio=0.5, drawdown_source=source))
    assert vote is not None
    assert words in vote.text


def test_a_release_above_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="release"):
        DrawdownRule(limit=0.1, release=0.2)


def since(profit: float, count: int) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(closed_ms=NOW_MS + i * CANDLE_MS, profit_ratio=profit, exit_kind="other", shadow=True)
        for i in range(1, count + 1)
    )


def test_outcomes_that_earn_again_end_it_and_ask_for_a_new_peak() -> None:
    view = VIEW._replace(
        drawdown_ratio=0.2, drawdown_source="trades", standing=standing(), standing_since_ms=NOW_MS, followed=True,
        now_ms=NOW_MS + 20 * CANDLE_MS,
    )  # fmt: skip
    ended = DrawdownRule().judge(view._replace(outcomes=since(0.01, 15)))
    assert ended is not None and ended.rebase
    stays = DrawdownRule().judge(view._replace(outcomes=since(-0.01, 15)))
    assert stays is not None and not stays.rebase and stays.state is TradingState.REDUCING


def test_where_nothing_can_be_followed_it_tries_small_trades_after_a_while() -> None:
    rule = DrawdownRule(explore_after_candles=50, explore_size=0.1)
    view = VIEW._replace(drawdown_ratio=0.2, drawdown_source="trades", standing=standing(), standing_since_ms=NOW_MS)
    before = rule.judge(view._replace(now_ms=NOW_MS + 49 * CANDLE_MS))
    after = rule.judge(view._replace(now_ms=NOW_MS + 50 * CANDLE_MS))
    assert before is not None and before.state is TradingState.REDUCING
    assert after is not None and (after.state, after.size_factor) == (None, 0.1)
    assert "tries" in " ".join(after.lift)
