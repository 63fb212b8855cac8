"""A backtest played as if the guard had run."""

from __future__ import annotations

from typing import Any

import pytest

from regime.config import EngineConfig, RuleConfig
from regime.decision import TradingState
from regime.events import StreamKey, Trade
from regime.fleet import Fleet
from regime.replay import replay
from regime.what_if import Refused, what_if

KEY = StreamKey("bot", "BTC/USDT:USDT", "5m")
T0, STEP = 1_700_000_100_000, 300_000


def trades(*profits: float) -> list[Trade]:
    return [
        Trade(
            model="bot", symbol=KEY.symbol, timeframe="5m", trade_id=f"t{i}", side="long", opened_ms=T0 + i * STEP,
            closed_ms=T0 + i * STEP + 1000, entry_price=1.0, exit_price=1.0, profit_ratio=profit,
        )
        for i, profit in enumerate(profits)
    ]  # fmt: skip


def fleet() -> Fleet:
    rules = [RuleConfig(kind="drawdown", options={"limit": 0.1, "release": 0.05, "explore_after_candles": 1000})]
    config = EngineConfig(clock="event", require_observations=False, detectors=[], rules=rules, cooldown_candles=0)

    def nothing(_: str) -> Any:
        raise KeyError

    return Fleet(config, nothing)


def drawdown(streams: Fleet) -> float:
    return streams.engine(KEY).state.drawdown.ratio


LOSING = trades(*[-0.06] * 8)


@pytest.mark.parametrize(("refused", "remembered"), [("paper", 8), ("unseen", 2)])
def test_refused_trades_do_not_lose_money_that_was_never_at_risk(refused: Refused, remembered: int) -> None:
    guarded = fleet()
    played = list(what_if(LOSING, guarded, refused))
    assert drawdown(guarded) == pytest.approx(1 - 0.94**2)  # Two losses, then the pause.
    outcomes = guarded.engine(KEY).state.outcomes["long"]
    assert (len(outcomes), sum(o.shadow for o in outcomes)) == (remembered, remembered - 2)
    assert played[-1].steps[0].step.decision.sides.long.state is TradingState.REDUCING


def test_as_it_is_the_same_list_loses_all_of_it() -> None:
    plain = fleet()
    list(replay(LOSING, plain))
    assert drawdown(plain) == pytest.approx(1 - 0.94**8)


def test_what_the_guard_lets_through_is_fed_as_it_is() -> None:
    winning = trades(*[0.01] * 8)
    guarded, plain = fleet(), fleet()
    list(what_if(winning, guarded, "paper"))
    list(replay(winning, plain))
    assert guarded.digest() == plain.digest()
