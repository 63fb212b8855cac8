from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.outcomes import Outcome
from regime.rules import DataView, View, Vote
from regime.rules.ml_exit import MlExit

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

RULE = MlExit(latch_candles=288)


def exits(ml: int, others: int) -> tuple[Outcome, ...]:
    start = NOW_MS - 100 * CANDLE_MS
    return closed(*[W] * others, from_ms=start) + closed(*[W] * ml, kind="ml_exit", from_ms=start + others * CANDLE_MS)


def standing() -> Vote:
    vote = RULE.judge(VIEW._replace(outcomes=exits(0, 20)))
    assert vote is not None
    return vote


@pytest.mark.parametrize(
    ("ml", "others", "voted"), [(0, 0, False), (0, 19, False), (0, 20, True), (13, 7, True), (14, 6, False),
                                (20, 70, False), (20, 0, False)],
)  # fmt: skip
def test_under_the_limit_of_the_last_trades_raises_the_exit_threshold(ml: int, others: int, voted: bool) -> None:
    vote = RULE.judge(VIEW._replace(outcomes=exits(ml, others)))
    assert (vote is not None) is voted
    if vote is not None:
        assert (vote.exit, vote.entry, vote.state, vote.limit) == (0.8, None, None, 0.7)
        assert vote.value == ml / 20
        assert vote.earliest_ms == NOW_MS + 288 * CANDLE_MS


@pytest.mark.parametrize(("candles", "stands"), [(0, True), (287, True), (288, False), (289, False)])
def test_it_lets_go_by_itself_after_its_latch(candles: int, stands: bool) -> None:
    view = VIEW._replace(
        outcomes=exits(0, 20), standing=standing(), standing_since_ms=NOW_MS, now_ms=NOW_MS + candles * CANDLE_MS
    )
    vote = RULE.judge(view)
    assert (vote is not None) is stands
    if vote is not None:
        assert vote.earliest_ms == NOW_MS + 288 * CANDLE_MS


def test_it_lets_go_when_the_model_closes_enough_again() -> None:
    view = VIEW._replace(outcomes=exits(14, 6), standing=standing(), standing_since_ms=NOW_MS)
    assert RULE.judge(view) is None
    slow = MlExit(limit=0.7, release=0.75)
    assert slow.judge(view) is not None
    assert slow.judge(view._replace(outcomes=exits(15, 5))) is None


def test_after_it_let_go_it_waits_for_a_window_of_new_trades() -> None:
    before = exits(0, 20)
    lifted = VIEW._replace(outcomes=before, lifted_ms=NOW_MS)
    assert RULE.judge(lifted) is None
    later = closed(*[W] * 20, from_ms=NOW_MS)
    assert RULE.judge(lifted._replace(outcomes=before + later)) is None, "the first of them closed no later"
    later = closed(*[W] * 20, from_ms=NOW_MS + 1)
    assert RULE.judge(lifted._replace(outcomes=before + later)) is not None


def test_it_never_lowers_a_threshold() -> None:
    vote = RULE.judge(VIEW._replace(outcomes=exits(0, 20), model=ModelConfig(exit=0.9)))
    assert vote is not None
    assert vote.exit == 0.9


def test_the_answer_says_that_the_rule_feeds_itself() -> None:
    assert "fewer ML exits" in standing().text


def test_a_release_under_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="release"):
        MlExit(limit=0.7, release=0.6)
