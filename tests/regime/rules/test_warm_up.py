from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.rules import DataView, View
from regime.rules.warm_up import WarmUp

NOW_MS, CANDLE_MS = 1_762_146_300_000, 300_000
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=NOW_MS,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip
VIEW = View(
    now_ms=NOW_MS, timeframe_ms=CANDLE_MS, side="long", model=ModelConfig(), data=DATA, evidence=(), outcomes=(),
    drawdown_ratio=0.0, drawdown_source="none", standing=None, standing_since_ms=None, lifted_ms=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("observations", "rows", "needed", "text"),
    [
        (0, 0, 50, "no observation has arrived yet"),
        (1, 0, 50, "1 of 50"),
        (49, 0, 50, "49 of 50"),
        (50, 0, 50, None),
        (1, 48, 50, "49 of 50"),
        (1, 49, 50, None),
        (0, 5000, 50, "no observation has arrived yet"),
        (1, 5000, 50, None),
        (0, 0, 0, "no observation has arrived yet"),
        (1, 0, 0, None),
    ],
)
def test_warm_up_ends_at_the_wanted_number_the_reference_counts(
    observations: int, rows: int, needed: int, text: str | None
) -> None:
    data = DATA._replace(observations=observations, reference_rows=rows, warmup_observations=needed)
    vote = WarmUp().judge(VIEW._replace(data=data))
    if text is None:
        assert vote is None
    else:
        assert vote is not None
        assert text in vote.text
        assert (vote.code, vote.fault, vote.state) == ("warm-up", True, TradingState.REDUCING)
        assert (vote.value, vote.limit) == (observations + rows, needed)


def test_a_bot_that_sends_no_observations_needs_no_warm_up() -> None:
    assert WarmUp().judge(VIEW._replace(data=DATA._replace(observations=0, require_observations=False))) is None
