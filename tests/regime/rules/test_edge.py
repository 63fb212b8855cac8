from __future__ import annotations

import msgspec
import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.edge import edge
from regime.outcomes import Outcome
from regime.rules import DataView, View
from regime.rules.edge import EdgeRule

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
OUTCOMES = tuple(
    Outcome(
        closed_ms=NOW_MS - (100 - i) * CANDLE_MS, profit_ratio=0.01 if i % 4 >= 2 else -0.01, exit_kind="other",
        shadow=False, entry_probability=0.8 + 0.04 * (i % 4),
    )
    for i in range(100)
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=OUTCOMES,
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
    edge=edge(OUTCOMES),
)  # fmt: skip
LOST = tuple(msgspec.structs.replace(o, profit_ratio=-0.01) if i >= 85 else o for i, o in enumerate(OUTCOMES))
BAD = VIEW._replace(outcomes=LOST, edge=edge(LOST))


def test_where_the_score_is_not_known_to_rank_the_base_threshold_stands() -> None:
    assert EdgeRule().judge(VIEW._replace(entry_known=False, entry_wanted=0.9)) is None


@pytest.mark.parametrize(("wanted", "entry"), [(0.5, None), (0.8, None), (0.86, 0.86), (0.97, 0.97)])
def test_where_it_ranks_the_threshold_is_the_smallest_score_that_earns(wanted: float, entry: float | None) -> None:
    vote = EdgeRule().judge(VIEW._replace(entry_known=True, entry_wanted=wanted))
    assert (None if vote is None else vote.entry) == entry
    if vote is not None:
        assert (vote.code, vote.state) == ("edge", None)


@pytest.mark.parametrize("wanted", [None, 0.975])
def test_where_no_score_earns_the_side_is_paused(wanted: float | None) -> None:
    vote = EdgeRule().judge(BAD._replace(entry_known=True, entry_wanted=wanted))
    assert vote is not None
    assert (vote.code, vote.state) == ("no-edge", TradingState.REDUCING)
    assert vote.lift


def test_where_no_score_earns_but_the_outcomes_do_not_bear_it_out_it_trades_smaller() -> None:
    vote = EdgeRule(size=0.3).judge(VIEW._replace(entry_known=True, entry_wanted=None))
    assert vote is not None
    assert (vote.code, vote.state, vote.size_factor) == ("edge", None, 0.3)
    assert EdgeRule(size=1.0).judge(VIEW._replace(entry_known=True, entry_wanted=None)) is None


@pytest.mark.parametrize(("now", "size"), [(None, None), (0.51, None), (0.5, None), (0.49, 0.25)])
def test_a_side_whose_score_does_not_rank_trades_smaller_while_it_wins_too_seldom(
    now: float | None, size: float | None
) -> None:
    vote = EdgeRule().judge(VIEW._replace(win_rate_now=now, break_even=0.5))
    assert (None if vote is None else vote.size_factor) == size
    assert vote is None or (vote.state is None and "doubt" in vote.text)


def test_nothing_is_said_before_there_are_fifty_outcomes() -> None:
    few = OUTCOMES[:49]
    view = VIEW._replace(outcomes=few, edge=edge(few))
    assert EdgeRule().judge(view._replace(win_rate_now=0.1)) is None
    assert EdgeRule().judge(view._replace(entry_known=True, entry_wanted=None)) is None


def test_the_pause_tries_small_trades_only_where_refused_signals_leave_no_outcome() -> None:
    rule = EdgeRule(explore_after_candles=10, explore_size=0.3)
    view = BAD._replace(entry_known=True, entry_wanted=None)
    first = rule.judge(view)
    later = view._replace(standing=first, standing_since_ms=NOW_MS, now_ms=NOW_MS + 10 * CANDLE_MS)
    blind, followed = rule.judge(later), rule.judge(later._replace(followed=True))
    assert blind is not None and (blind.state, blind.size_factor) == (None, 0.3)
    assert followed is not None and followed == msgspec.structs.replace(first, recheck_ms=None)
