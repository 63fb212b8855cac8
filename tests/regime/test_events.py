from __future__ import annotations

import itertools

import pytest

from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Recalibrated,
    Reconfigured,
    StreamKey,
    Tick,
    Trade,
    available_ms,
    concerns,
    merge_order,
    source_key,
)
from regime.timeframe import timeframe_ms

M, S, TF = "m", "BTC/USDT:USDT", "5m"
KEY = StreamKey(M, S, TF)
MINUTES_5 = 300_000

OBSERVATION = Observation(model=M, symbol=S, timeframe=TF, ts_ms=600_000, features={})
CANDLE = Candle(symbol=S, timeframe=TF, ts_ms=600_000, open=1.0, high=1.0, low=1.0, close=1.0, volume=0.0)
TRADE = Trade(
    model=M, symbol=S, timeframe=TF, trade_id="1", side="long", opened_ms=1, closed_ms=900_000, entry_price=1.0,
    exit_price=1.0, profit_ratio=0.1,
)  # fmt: skip
EQUITY = Equity(model=M, ts_ms=900_000, equity=1.0)
COMMAND = Command(id="1", action="set", ts_ms=900_000, model=M, state="HALTED")
TICK = Tick(model=M, symbol=S, timeframe=TF, ts_ms=900_000)
RECALIBRATED = Recalibrated(model=M, version="1", reference_id="r", ts_ms=900_000)
PROMOTED = ModelPromoted(model=M, model_version="2", ts_ms=900_000)
RECONFIGURED = Reconfigured(model=M, symbol=S, timeframe=TF, policy_id="p", served_version=3)


@pytest.mark.parametrize("event", [OBSERVATION, CANDLE])
def test_candles_and_observations_are_available_at_their_close(event: AnyEvent) -> None:
    assert available_ms(event) == 600_000 + MINUTES_5


@pytest.mark.parametrize("event", [TRADE, EQUITY, COMMAND, TICK, RECALIBRATED, PROMOTED])
def test_other_events_are_available_when_they_happen(event: AnyEvent) -> None:
    assert available_ms(event) == 900_000


@pytest.mark.parametrize("event", [RECONFIGURED, Recalibrated(model=M, version="1", reference_id="r")])
def test_an_event_without_time_comes_before_all_others(event: AnyEvent) -> None:
    assert available_ms(event) is None
    assert merge_order(event) < merge_order(Tick(model=M, symbol=S, timeframe=TF, ts_ms=0))


def test_at_the_same_instant_candle_trade_equity_observation_command() -> None:
    wanted: list[AnyEvent] = [CANDLE, TRADE, EQUITY, OBSERVATION, COMMAND]
    for shuffled in itertools.permutations(wanted):
        assert sorted(shuffled, key=merge_order) == wanted


def test_earlier_availability_comes_first_whatever_the_kind() -> None:
    early = Command(id="1", action="clear", ts_ms=899_999, model=M)
    assert sorted([CANDLE, early], key=merge_order) == [early, CANDLE]


def test_each_kind_of_event_has_its_own_keys() -> None:
    events = [OBSERVATION, CANDLE, TRADE, EQUITY, COMMAND, TICK, RECALIBRATED, PROMOTED, RECONFIGURED]
    assert len({source_key(event) for event in events}) == len(events)


def observation(**changes: object) -> Observation:
    fields = {"model": M, "symbol": S, "timeframe": TF, "ts_ms": 0, "features": {}, **changes}
    return Observation(**fields)  # type: ignore[arg-type]


def test_an_observation_is_idempotent_on_stream_and_time_alone() -> None:
    one = source_key(observation())
    assert source_key(observation(features={"a": 1.0})) == one
    for name, value in (("model", "n"), ("symbol", "t"), ("timeframe", "1h"), ("ts_ms", 1)):
        assert source_key(observation(**{name: value})) != one


def test_a_trade_is_idempotent_on_model_and_trade_id_alone() -> None:
    def trade(**changes: object) -> Trade:
        fields = {
            "model": M, "symbol": S, "timeframe": TF, "trade_id": "1", "side": "long", "opened_ms": 0, "closed_ms": 1,
            "entry_price": 1.0, "exit_price": 1.0, "profit_ratio": 0.0, **changes,
        }  # fmt: skip
        return Trade(**fields)  # type: ignore[arg-type]

    assert source_key(trade(symbol="t", timeframe="1h", profit_ratio=1.0)) == source_key(trade())
    assert source_key(trade(trade_id="2")) != source_key(trade())
    assert source_key(trade(model="n")) != source_key(trade())


def test_equity_is_idempotent_on_model_and_time_and_candles_on_market_and_time() -> None:
    assert source_key(Equity(model=M, ts_ms=1, equity=1.0)) == source_key(Equity(model=M, ts_ms=1, equity=2.0))
    assert source_key(Equity(model=M, ts_ms=1, equity=1.0)) != source_key(Equity(model=M, ts_ms=2, equity=1.0))
    other = Candle(symbol=S, timeframe=TF, ts_ms=600_000, open=2.0, high=2.0, low=2.0, close=2.0, volume=0.0)
    assert source_key(other) == source_key(CANDLE)


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert source_key(observation(model="a b", symbol="c")) != source_key(observation(model="a", symbol="b c"))


@pytest.mark.parametrize(
    ("key", "reached"),
    [(KEY, True), (StreamKey("n", S, TF), True), (StreamKey(M, "ETH", TF), False), (StreamKey(M, S, "1h"), False)],
)
def test_a_candle_reaches_every_model_of_its_symbol_and_timeframe(key: StreamKey, reached: bool) -> None:
    assert concerns(CANDLE, key) is reached


@pytest.mark.parametrize("event", [EQUITY, PROMOTED])
def test_equity_and_a_promotion_reach_every_stream_of_the_model(event: AnyEvent) -> None:
    assert concerns(event, KEY)
    assert concerns(event, StreamKey(M, "ETH", "1h"))
    assert not concerns(event, StreamKey("n", S, TF))


@pytest.mark.parametrize("event", [OBSERVATION, TRADE, TICK, RECONFIGURED])
def test_an_event_of_one_stream_reaches_that_stream_only(event: AnyEvent) -> None:
    assert concerns(event, KEY)
    for other in (StreamKey("n", S, TF), StreamKey(M, "ETH", TF), StreamKey(M, S, "1h")):
        assert not concerns(event, other)


@pytest.mark.parametrize("symbol", [None, S, "ETH"])
@pytest.mark.parametrize("timeframe", [None, TF, "1h"])
def test_what_a_command_does_not_name_means_all(symbol: str | None, timeframe: str | None) -> None:
    command = Command(
        id="1", action="set", ts_ms=0, model=M, symbol=symbol, timeframe=timeframe, state="HALTED"
    )  # fmt: skip
    reference = Recalibrated(model=M, version="1", reference_id="r", symbol=symbol, timeframe=timeframe)
    expected = symbol in (None, S) and timeframe in (None, TF)
    assert concerns(command, KEY) is expected
    assert concerns(reference, KEY) is expected
    assert not concerns(command, StreamKey("n", S, TF))


def test_the_end_of_an_override_reaches_all_streams_of_the_model_whatever_it_names() -> None:
    clear = Command(id="1", action="clear", ts_ms=0, model=M, symbol="ETH", timeframe="1h")
    assert concerns(clear, KEY)
    assert not concerns(clear, StreamKey("n", S, TF))


def test_a_stream_is_told_by_its_three_names() -> None:
    assert str(KEY) == "m BTC/USDT:USDT 5m"


@pytest.mark.parametrize(
    ("timeframe", "expected"),
    [("1s", 1_000), ("1m", 60_000), ("5m", 300_000), ("4h", 14_400_000), ("1d", 86_400_000), ("1w", 604_800_000),
     ("1M", 30 * 86_400_000)],
)  # fmt: skip
def test_timeframes_are_those_of_ccxt(timeframe: str, expected: int) -> None:
    assert timeframe_ms(timeframe) == expected


@pytest.mark.parametrize("timeframe", ["", "5", "m", "0m", "05m", "5 m", "5min", "-5m", "5m\n", "٥m", "99999m", "1.5h"])
def test_what_is_no_timeframe_is_refused_in_words(timeframe: str) -> None:
    with pytest.raises(ValueError, match="unknown timeframe"):
        timeframe_ms(timeframe)
