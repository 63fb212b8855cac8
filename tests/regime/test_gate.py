from __future__ import annotations

import math

import numpy as np

from regime.config import ModelConfig
from regime.e_detector import pause_evidence
from regime.gate import _share, gate, judged, passes, progress
from regime.outcomes import Outcome, Outcomes
from regime.rules import DataView, View

NOW_MS = 1_762_146_300_000
DATA = DataView(
    observations=0, reference_rows=0, warmup_observations=0, require_observations=False, data_until_ms=None,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="", error=None,
)  # fmt: skip


def closed(n: int, profit: float, score: float | None, from_ms: int = NOW_MS) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(closed_ms=from_ms + i, profit_ratio=profit, exit_kind="other", shadow=False, entry_probability=score)
        for i in range(n)
    )


VIEW = View(
    now_ms=NOW_MS + 1000, timeframe_ms=300_000, side="long", model=ModelConfig(entry=0.8), data=DATA, evidence=(),
    outcomes=closed(30, 0.01, 0.95) + closed(30, -0.01, 0.82, NOW_MS + 100), drawdown_ratio=0.0,
    drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


def test_losses_under_the_threshold_in_force_do_not_speak_against_what_is_above_it() -> None:
    assert gate(VIEW, false_pause_trades=1000.0).pause
    raised = VIEW._replace(entry_known=True, entry_wanted=0.9)
    assert len(judged(raised)) == 30
    assert not gate(raised, false_pause_trades=1000.0).pause


def test_an_outcome_without_a_score_always_counts() -> None:
    raised = VIEW._replace(entry_known=True, entry_wanted=0.9)
    assert gate(raised._replace(outcomes=closed(30, -0.01, None)), false_pause_trades=1000.0).pause


def test_no_threshold_that_earns_or_one_under_the_bots_own_leaves_the_bots_own_in_force() -> None:
    for wanted in (None, 0.5):
        assert VIEW._replace(entry_known=True, entry_wanted=wanted).entry_in_force == 0.8
    assert VIEW._replace(entry_wanted=0.9).entry_in_force == 0.8


def test_what_came_before_the_last_pause_was_lifted_has_had_its_say() -> None:
    assert not judged(VIEW._replace(lifts={"break-even": NOW_MS + 129}))
    assert len(judged(VIEW._replace(lifts={"drawdown": NOW_MS + 129}))) == 60


def test_progress_says_how_far_a_pause_is_and_how_far_its_end() -> None:
    calm = progress(VIEW._replace(outcomes=closed(30, 0.01, 0.9)), paused_ms=None, false_pause_trades=1000.0)
    full = progress(VIEW, paused_ms=None, false_pause_trades=1000.0)
    assert 0.0 <= calm.share < 0.2 and full.share == 1.0
    paused = VIEW._replace(outcomes=VIEW.outcomes + closed(3, 0.01, 0.9, NOW_MS + 300))
    some = progress(paused, paused_ms=NOW_MS + 200, false_pause_trades=1000.0)
    assert some.paused and some.trades == 3 and 0.2 < some.share < 1.0
    assert some.sentence.startswith("the evidence that ends the pause stands at ")
    assert some.sentence.endswith("from 3 trades since it began")
    none = progress(VIEW, paused_ms=NOW_MS + 200, false_pause_trades=1000.0)
    assert (none.trades, none.share) == (0, 0.0)


def test_a_score_at_the_threshold_is_let_through() -> None:
    raised = VIEW._replace(entry_known=True, entry_wanted=0.95)
    assert passes(raised, Outcomes(raised.outcomes)).sum() == 30


def test_a_trade_that_comes_to_nothing_is_no_win() -> None:
    """Its fees are in the ratio: who comes out even has earned nothing."""
    even, lost = (VIEW._replace(outcomes=closed(40, profit, 0.9)) for profit in (0.0, -0.01))
    assert gate(even, false_pause_trades=1000.0) == gate(lost, false_pause_trades=1000.0)
    found = [
        progress(view, paused_ms=NOW_MS - 1, false_pause_trades=1000.0)
        for view in (even, lost, VIEW._replace(outcomes=closed(40, 0.01, 0.9)))
    ]
    assert found[0] == found[1] != found[2]


def test_what_closed_as_the_pause_began_is_not_evidence_for_its_end() -> None:
    assert progress(VIEW, paused_ms=NOW_MS + 129, false_pause_trades=1000.0).trades == 0
    one = progress(VIEW, paused_ms=NOW_MS + 128, false_pause_trades=1000.0)
    assert one.trades == 1 and one.sentence.endswith("from 1 trade since it began")


def test_the_evidence_is_asked_for_half_as_many_trades_again_as_are_allowed() -> None:
    won = np.array([o.profit_ratio > 0 for o in VIEW.outcomes], dtype=np.bool_)
    assert gate(VIEW, false_pause_trades=1000.0) == pause_evidence(won, VIEW.break_even, false_pause_trades=1500.0)


def test_a_share_that_is_no_number_is_none() -> None:
    assert [_share(log_e, 2.0) for log_e in (math.nan, math.inf, -math.inf, -1.0, 1.0, 3.0)] == [0, 0, 0, 0, 0.5, 1]
