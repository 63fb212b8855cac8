from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.rules import DataView, View
from regime.rules.engine_error import EngineError

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=(),
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


@pytest.mark.parametrize("error", [None, "ValueError: x", ""])
def test_a_failure_is_a_fault_that_says_what_failed(error: str | None) -> None:
    vote = EngineError().judge(VIEW._replace(data=DATA._replace(error=error)))
    assert (vote is None) is (error is None)
    if vote is not None:
        assert str(error) in vote.text
        assert (vote.code, vote.fault, vote.state) == ("engine-error", True, TradingState.REDUCING)
