from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.rules import DataView, View
from regime.rules.non_finite import NonFinite

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
    ("names", "text"),
    [(("a",), "no value for a,"), (("a", "b", "c"), "a, b, c,"), (("a", "b", "c", "d", "e"), "a, b, c and 2 more")],
)
def test_a_missing_value_that_matters_is_a_fault_that_names_it(names: tuple[str, ...], text: str) -> None:
    vote = NonFinite().judge(VIEW._replace(data=DATA._replace(non_finite=names)))
    assert vote is not None
    assert text in vote.text
    assert (vote.fault, vote.state, vote.value) == (True, TradingState.REDUCING, len(names))


def test_all_values_there_is_no_vote() -> None:
    assert NonFinite().judge(VIEW) is None
