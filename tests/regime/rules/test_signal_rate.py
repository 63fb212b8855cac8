from __future__ import annotations

import pytest

from regime.decision import TradingState
from regime.rules import View, Vote
from regime.rules.signal_rate import SignalRate
from regime.signals import SignalLaw, SignalView

LAW = SignalLaw(horizon=864, expected=40.0, low=20, high=80, windows=30.0)


def view(count: int | None, standing: Vote | None = None) -> View:
    signals = None if count is None else SignalView(count=count, law=LAW)
    return View(
        now_ms=1, timeframe_ms=1, side="long", model=None, data=None, evidence=(), outcomes=(), drawdown_ratio=0.0,
        drawdown_source="none", standing=standing, standing_since_ms=None if standing is None else 0, lifted_ms=None,
        signals=signals,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("count", [None, 20, 40, 80])
def test_what_is_usual_has_no_vote(count: int | None) -> None:
    assert SignalRate().judge(view(count)) is None


@pytest.mark.parametrize(("count", "limit"), [(19, 20.0), (0, 20.0), (81, 80.0)])
def test_too_few_and_too_many_are_said_and_change_nothing_by_themselves(count: int, limit: float) -> None:
    vote = SignalRate().judge(view(count))
    assert vote is not None
    assert (vote.value, vote.limit, vote.state, vote.entry) == (float(count), limit, None, None)
    assert f"{count} signals in the last 864 candles; the training period had 40" in vote.text


def test_it_ends_a_quarter_of_the_way_back() -> None:
    standing = SignalRate().judge(view(5))
    assert SignalRate().judge(view(24, standing)) == standing
    assert SignalRate().judge(view(25, standing)) is None
    assert SignalRate().judge(view(71, standing)) == standing
    assert SignalRate().judge(view(70, standing)) is None


def test_it_pauses_where_that_is_wanted() -> None:
    vote = SignalRate(pause=True).judge(view(0))
    assert vote is not None and vote.state is TradingState.REDUCING
