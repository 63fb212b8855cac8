from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.outcomes import Outcome
from regime.rules import DataView, View
from regime.rules.win_rate import WinRateRule

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


@pytest.mark.parametrize(
    ("profits", "voted"),
    [
        ([], False),
        ([L] * 9, False),
        ([L] * 10, True),
        ([L] * 6 + [W] * 4, True),
        ([L] * 5 + [W] * 5, False),
        ([0.0] * 6 + [W] * 4, True),
        ([L] * 90 + [W] * 10, False),
        ([W] * 90 + [L] * 6 + [W] * 4, True),
    ],
)
def test_under_half_of_the_last_ten_raises_the_entry_threshold(profits: list[float], voted: bool) -> None:
    vote = WinRateRule().judge(VIEW._replace(outcomes=closed(*profits)))
    assert (vote is not None) is voted
    if vote is not None:
        assert (vote.entry, vote.exit, vote.state, vote.limit) == (0.85, None, None, 0.5)
        assert vote.value == sum(profit > 0 for profit in profits[-10:]) / 10


@pytest.mark.parametrize(("wins", "stands"), [(4, True), (5, True), (6, False)])
def test_it_ends_at_its_release(wins: int, stands: bool) -> None:
    rule = WinRateRule(limit=0.5, release=0.6)
    view = VIEW._replace(outcomes=closed(*[L] * (10 - wins), *[W] * wins))
    standing = rule.judge(VIEW._replace(outcomes=closed(*[L] * 10)))
    vote = rule.judge(view._replace(standing=standing, standing_since_ms=NOW_MS - CANDLE_MS))
    assert (vote is not None) is stands


def test_it_never_lowers_a_threshold() -> None:
    view = VIEW._replace(outcomes=closed(*[L] * 10), model=ModelConfig(entry=0.9))
    vote = WinRateRule().judge(view)
    assert vote is not None
    assert vote.entry == 0.9


def test_a_release_under_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="release"):
        WinRateRule(limit=0.5, release=0.4)
