from __future__ import annotations

import pytest

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.rules import DataView, View
from regime.rules.schema import Schema

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
    ("missing", "extra", "pauses", "said"),
    [
        ((), (), True, None),
        (("a",), (), True, "1 missing (a)"),
        (("a",), (), False, "1 missing (a)"),
        ((), ("x",), True, "1 not known (x)"),
        ((), ("x",), False, None),
        (("a", "b"), ("x",), True, "2 missing (a, b), 1 not known (x)"),
        (("a", "b"), ("x",), False, "2 missing (a, b)"),
        (("a", "b", "c", "d"), (), True, "4 missing (a, b, c, ...)"),
    ],
)
def test_a_feature_that_vanished_pauses_one_that_appeared_does_unless_ignored(
    missing: tuple[str, ...], extra: tuple[str, ...], pauses: bool, said: str | None
) -> None:
    data = DATA._replace(missing=missing, extra=extra, extra_pauses=pauses)
    vote = Schema().judge(VIEW._replace(data=data))
    if said is None:
        assert vote is None
    else:
        assert vote is not None
        assert vote.text == f"features differ from the reference: {said}"
        assert (vote.code, vote.fault, vote.state) == ("schema-change", True, TradingState.REDUCING)
        assert vote.value == len(missing) + (len(extra) if pauses else 0)


def test_the_way_out_for_a_bot_that_grew_is_named() -> None:
    vote = Schema().judge(VIEW._replace(data=DATA._replace(extra=("x",))))
    assert vote is not None
    assert any("extra_features" in sentence for sentence in vote.lift)
