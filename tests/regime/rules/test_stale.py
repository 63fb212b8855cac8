from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.rules import DataView, View
from regime.rules.stale import Stale

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=(),
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


def seen(**data: object) -> View:
    return VIEW._replace(data=DATA._replace(**data))


@pytest.mark.parametrize(
    ("age_ms", "stale"),
    [(0, False), (2 * CANDLE_MS, False), (3 * CANDLE_MS - 1, False), (3 * CANDLE_MS, True), (9 * CANDLE_MS, True)],
)
def test_stale_is_nothing_new_for_stale_after_candles_inclusive(age_ms: int, stale: bool) -> None:
    vote = Stale().judge(seen(data_until_ms=NOW_MS - age_ms))
    assert (vote is not None) is stale
    if vote is not None:
        assert (vote.fault, vote.state, vote.limit) == (True, TradingState.REDUCING, 3.0)


def test_stale_after_is_counted_in_candles_of_the_stream() -> None:
    old = seen(data_until_ms=NOW_MS - CANDLE_MS, stale_after=1)
    assert Stale().judge(old) is not None
    assert Stale().judge(old._replace(timeframe_ms=CANDLE_MS + 1)) is None


def test_the_vote_is_the_same_however_old_the_data_gets() -> None:
    votes = [Stale().judge(seen(data_until_ms=NOW_MS - age * CANDLE_MS)) for age in (3, 4, 400)]
    assert votes[0] is not None
    assert votes[0] == votes[1] == votes[2]


def test_before_the_first_observation_it_is_warm_up_and_not_stale() -> None:
    assert Stale().judge(seen(data_until_ms=None, observations=0)) is None


def test_a_bot_that_sends_no_observations_is_never_stale() -> None:
    assert Stale().judge(seen(data_until_ms=0, require_observations=False)) is None
