"""One event, one row, and back: nothing is lost, nothing is rounded."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime import codec
from regime.errors import CorruptionError
from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Ohlcv,
    Probabilities,
    Recalibrated,
    Reconfigured,
    Taken,
    Tick,
    Trade,
)
from regime_service.archive.rows import (
    OWN,
    Logged,
    column_of,
    event_table,
    events_of,
    feature_of,
    observation_table,
    observations_of,
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
prices = st.floats(min_value=5e-324, allow_infinity=False)
claims = st.none() | st.floats(0, 1)
names = st.sampled_from(["rsi", "close", "seq", "feature:seq", "feature:feature:x", "ä/ö", "late", "b"])
candles = st.builds(
    Ohlcv, open=prices, high=prices, low=prices, close=prices, volume=st.floats(0, allow_infinity=False)
)  # fmt: skip
flags = st.none() | st.booleans()
observations = st.builds(
    Observation, model=st.just("m"), symbol=st.just("BTC/USDT:USDT"), timeframe=st.just("5m"),
    ts_ms=st.integers(0, 4_102_444_800_000), features=st.dictionaries(names, st.none() | numbers, max_size=6),
    probabilities=st.none() | st.builds(Probabilities, long=claims, short=claims, exit_long=claims, exit_short=claims),
    taken=st.none() | st.builds(Taken, long=flags, short=flags), candle=st.none() | candles,
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(observations, min_size=1, max_size=8), st.booleans())
def test_observations_come_back_byte_for_byte(events: list[Observation], late: bool) -> None:
    rows = [Logged(i + 1, 10 * i, late, event) for i, event in enumerate(events)]
    table = observation_table(rows)
    found = list(observations_of(table))
    assert [codec.encode(row.event) for row in found] == [codec.encode(event) for event in events]
    assert [(row.seq, row.recorded_ms, row.late) for row in found] == [(r.seq, r.recorded_ms, r.late) for r in rows]


@given(st.text(min_size=1, max_size=20) | st.sampled_from(sorted(OWN)))
def test_no_two_features_share_a_column_and_none_is_ours(name: str) -> None:
    assert feature_of(column_of(name)) == name
    assert column_of(name) not in OWN


def test_a_missing_value_and_a_missing_feature_are_told_apart() -> None:
    def seen(**features: float | None) -> Observation:
        return Observation(model="m", symbol="s", timeframe="5m", ts_ms=0, features=features)

    table = observation_table([Logged(1, 0, False, seen(a=1.0, b=None)), Logged(2, 0, False, seen(a=2.0))])
    b = table.column("b")
    assert [value.as_py() is None for value in b] == [False, True]
    assert math.isnan(b[0].as_py())


def test_features_come_in_the_order_they_are_known_and_new_ones_after_them() -> None:
    event = Observation(model="m", symbol="s", timeframe="5m", ts_ms=0, features={"z": 1.0, "a": 2.0})
    table = observation_table([Logged(1, 0, False, event)], ["b", "a"])
    assert table.column_names[-3:] == ["b", "a", "z"]
    assert table.column("candle_time_utc").type == pa.timestamp("ms", tz="UTC")


OTHERS: list[AnyEvent] = [
    Candle(symbol="s", timeframe="5m", ts_ms=1, open=1.0, high=2.0, low=0.5, close=1.5, volume=0.0),
    Trade(
        model="m", symbol="s", timeframe="5m", trade_id="1", side="long", opened_ms=1, closed_ms=2, entry_price=1.0,
        exit_price=2.0, profit_ratio=-0.01, entry_probability=0.9, exit_reason="ML Exit", leverage=4.0, size_ratio=0.1,
        signal_ts_ms=0, shadow=True,
    ),
    Trade(
        model="m", symbol="s", timeframe="5m", trade_id="2", side="short", opened_ms=1, closed_ms=2, entry_price=1.0,
        exit_price=2.0, profit_ratio=0.1 + 0.2,
    ),
    Equity(model="m", ts_ms=1, equity=1e308, net_flow=None),
    Tick(model="m", symbol="s", timeframe="5m", ts_ms=4_102_444_800_000),
    Command(id="1", action="set", ts_ms=1, model="m", state="HALTED", reason="\u2028 \"'", letter=3),
    Recalibrated(model="m", version="1", reference_id="r", calibrations={"features.calibrated": "c"}),
    ModelPromoted(model="m", model_version="2", ts_ms=5, trained_until_ms=4),
    Reconfigured(model="m", symbol="s", timeframe="5m", policy_id="p", served_version=7),
]  # fmt: skip


@pytest.mark.parametrize("event", OTHERS, ids=lambda event: type(event).__name__)
def test_every_other_kind_comes_back_byte_for_byte_and_shows_its_fields(event: AnyEvent) -> None:
    table = event_table(type(event), [Logged(5, 6, False, event)])
    (found,) = events_of(table)
    assert (found.seq, found.recorded_ms, codec.encode(found.event)) == (5, 6, codec.encode(event))
    row = table.to_pylist()[0]
    for field in event.__struct_fields__:
        if field != "calibrations":
            assert row[field] == getattr(event, field), field
    assert row["time_utc"].tzinfo is not None


def test_another_table_is_corrupt() -> None:
    with pytest.raises(CorruptionError):
        list(observations_of(pa.table({"seq": [1]})))
    with pytest.raises(CorruptionError):
        list(events_of(pa.table({"seq": [1]})))
