"""Replay: files merged by availability, the Ticks in between, the same answers however they are fed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from regime.config import EngineConfig
from regime.decision import TradingState
from regime.events import AnyEvent, Candle, Equity, Observation, Recalibrated, StreamKey, Tick, Trade
from regime.fleet import Fleet
from regime.reference import Reference
from regime.replay import Played, merged, replay

STEP = 300_000
T0 = 1_700_000_100_000 // STEP * STEP
KEY = StreamKey("bot", "BTC/USDT:USDT", "5m")
CONFIG = EngineConfig(clock="event", detectors=[], warmup_observations=3)


def observation(i: int, **features: float | None) -> Observation:
    return Observation(
        model="bot", symbol=KEY.symbol, timeframe="5m", ts_ms=T0 + i * STEP, features=features or {"a": 1.0}
    )


def candle(i: int) -> Candle:
    return Candle(
        symbol=KEY.symbol, timeframe="5m", ts_ms=T0 + i * STEP, open=1.0, high=1.0, low=1.0, close=1.0, volume=0.0
    )


def trade(closed_ms: int, profit: float = 0.01, name: str = "t") -> Trade:
    return Trade(
        model="bot", symbol=KEY.symbol, timeframe="5m", trade_id=f"{name}{closed_ms}", side="long", opened_ms=closed_ms,
        closed_ms=closed_ms, entry_price=1.0, exit_price=1.0, profit_ratio=profit,
    )  # fmt: skip


def fleet(config: EngineConfig = CONFIG, *references: Reference) -> Fleet:
    known = {reference.reference_id: reference for reference in references}
    return Fleet(config, known.__getitem__)


def played(events: Iterable[AnyEvent], config: EngineConfig = CONFIG) -> tuple[list[Played], Fleet]:
    streams = fleet(config)
    return list(replay(events, streams)), streams


def states(found: list[Played]) -> list[str]:
    return [str(step.decision.sides.long.state) for p in found for _, step in p.steps]


def test_a_candle_is_merged_where_it_closes_and_a_trade_where_it_was_closed() -> None:
    first, second = observation(0), observation(1)  # available at T0 + 1 and + 2 candles
    between = trade(T0 + STEP + 1)
    assert merged([first, second], [between]) == [first, between, second]


def test_at_one_instant_candle_trade_equity_observation_in_this_order() -> None:
    at = T0 + STEP
    equity = Equity(model="bot", ts_ms=at, equity=1.0)
    events: list[AnyEvent] = [observation(0), equity, trade(at), candle(0)]
    assert merged(events) == [candle(0), trade(at), equity, observation(0)]


def test_events_of_one_kind_and_instant_keep_the_order_of_their_file() -> None:
    trades = [trade(T0, name=name) for name in ("b", "a", "c")]
    assert merged(trades) == trades


def test_a_reference_without_a_time_comes_first() -> None:
    recalibrated = Recalibrated(model="bot", version="v1", reference_id="r")
    assert merged([observation(0)], [recalibrated])[0] is recalibrated


def test_a_hole_makes_the_stream_stale_by_a_tick_at_the_moment_it_is_due() -> None:
    found, _ = played([*(observation(i) for i in range(5)), observation(20)])
    ticks = [p.event for p in found if isinstance(p.event, Tick)]
    # The newest candle closed 5 candles after T0; three candles later nothing new has come.
    assert [tick.ts_ms for tick in ticks] == [T0 + 8 * STEP]
    assert states(found) == ["REDUCING"] * 2 + ["ACTIVE"] * 3 + ["REDUCING", "ACTIVE"]


def test_no_tick_is_made_on_wall_time() -> None:
    config = msgspec.structs.replace(CONFIG, clock="wall")
    found, _ = played([observation(0), observation(20)], config)
    assert not [p for p in found if isinstance(p.event, Tick)]


def test_a_replay_of_the_log_with_its_ticks_gives_the_same_digest() -> None:
    files, first = played([*(observation(i) for i in range(4)), trade(T0 + 9 * STEP), observation(30)])
    again, second = played([p.event for p in files])
    assert [p.event for p in again] == [p.event for p in files]
    assert first.digest() == second.digest()


def test_the_digest_does_not_depend_on_batches() -> None:
    events = [*(observation(i) for i in range(6)), observation(30)]
    _, whole = played(events)
    parts = fleet()
    for start in range(0, len(events), 2):
        list(replay(events[start : start + 2], parts))
    assert parts.digest() == whole.digest()


def test_one_changed_number_changes_the_digest() -> None:
    _, first = played([observation(0, a=1.0), observation(1, a=2.0)])
    _, second = played([observation(0, a=1.0), observation(1, a=2.0), observation(2, a=2.0)])
    assert first.digest() != second.digest()


def test_a_late_observation_changes_no_answer() -> None:
    found, streams = played([observation(5), observation(3)])
    step = found[-1].steps[0].step
    assert step.late and not step.changed
    assert streams.engine(KEY).state.late == 1


def test_the_reference_counts_as_warm_up() -> None:
    reference = Reference(["a"], np.arange(10.0)[:, None])
    streams = fleet(CONFIG, reference)
    event = Recalibrated(model="bot", version="v1", reference_id=reference.reference_id)
    found = list(replay(merged([event], [observation(0)]), streams))
    assert found[-1].steps[0].step.decision.sides.long.state is TradingState.ACTIVE


@pytest.mark.parametrize("preset", ["default", "seed-rules"])
def test_trades_alone_are_judged_without_warm_up_and_staleness(preset: str) -> None:
    config = EngineConfig(clock="event", detectors=[], require_observations=False, preset=preset)  # type: ignore[arg-type]
    found, _ = played([trade(T0 + i * 100 * STEP) for i in range(5)], config)
    assert set(states(found)) == {"ACTIVE"}
