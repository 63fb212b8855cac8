"""The real files: what their README says is wrong with them must be found, and every value under its own name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regime.codec import decode, encode
from regime.errors import OperatorError
from regime.events import Observation, Trade
from regime_service.logs import (
    FeatureLog,
    LogMapping,
    TradeMapping,
    read_candles,
    read_features,
    read_reference,
    read_trades,
)

pytestmark = pytest.mark.shared_data

DEAD = {
    "bb_position", "near_support", "near_resistance", "downtrend_confirmed", "volatility_asymmetry", "rsi_divergence",
    "macd_histogram_slope", "rsi_bullish_divergence", "rsi_bearish_divergence", "macd_bullish_divergence",
    "macd_bearish_divergence",
}  # fmt: skip


@pytest.fixture(scope="module")
def log(shared: Path) -> FeatureLog:
    return read_features(shared / "data" / "production_features", model="m", symbol="BTC/USDT:USDT", timeframe="5m")


Floats = NDArray[np.float64]


def column(log: FeatureLog, name: str) -> Floats:
    return np.array([o.features.get(name, np.nan) for o in log.observations], dtype=float)


def test_all_rows_of_the_three_days_are_read(log: FeatureLog) -> None:
    assert [file.rows for file in log.findings.files] == [117, 240, 288]
    assert len(log.observations) == log.findings.rows_in == 645
    assert log.findings.balanced
    assert not log.findings.refused
    assert all(o.candle is not None for o in log.observations)


def test_rows_that_grew_are_named_by_the_next_file(log: FeatureLog) -> None:
    borrowed = [
        (Path(f.name).name, u.first_line, u.last_line, u.width, Path(u.header).name)
        for f in log.findings.files
        for u in f.headers
        if u.borrowed
    ]
    assert borrowed == [
        ("features_20251103.csv", 97, 118, 196, "features_20251104.csv, line 1"),
        ("features_20251104.csv", 142, 241, 210, "features_20251105.csv, line 1"),
    ]


def test_seventeen_gaps_hold_161_candles(log: FeatureLog) -> None:
    gaps = log.findings.gaps
    assert (len(gaps), log.findings.missing_candles, log.findings.longest_gap) == (17, 161, 144)
    longest = max(gaps, key=lambda gap: gap.missing)
    assert (longest.from_ms, longest.to_ms) == (1762184700000, 1762228200000)


def test_dead_columns_are_those_of_the_readme_in_log_and_reference(shared: Path, log: FeatureLog) -> None:
    assert set(log.findings.dead_columns) == DEAD
    reference, findings = read_reference(
        shared / "data" / "reference_features_20251026_20251101.csv", timeframe="5m", trained_until_ms=1
    )
    assert reference.rows == 1707
    assert reference.trained_until_ms == 1
    assert (
        set(findings.dead_columns)
        == DEAD
        == {n for n, dead in zip(reference.names, reference.dead(), strict=True) if dead}
    )
    # Names are the live ones; only the fourteen columns of 4 November came later.
    assert set(reference.names) < set(log.columns.features)
    assert len(set(log.columns.features) - set(reference.names)) == 14


def test_the_log_time_that_is_none_is_found(log: FeatureLog) -> None:
    (found,) = log.findings.misnamed
    assert (found.name, found.rows) == ("logged_at_kst", 550)
    assert "opening time in UTC" in found.holds
    assert not {"logged_at", "logged_at_utc", "logged_at_kst", "time", "timestamp"} & set(log.columns.features)


def test_change_of_the_log_times_format_and_delay_are_reported(log: FeatureLog) -> None:
    times = log.findings.log_times
    assert times is not None
    assert [(f.format, f.column, f.rows) for f in times.formats] == [
        ("microseconds with offset", "logged_at", 95),
        ("plain seconds", "logged_at_utc", 550),
    ]
    assert (times.delay_min_s, times.delay_max_s) == (306.0, 328.0)
    assert not log.findings.still_forming
    assert log.log_ms[0] == 1762145407677


def test_columns_that_begin_in_mid_file_are_reported(log: FeatureLog) -> None:
    assert {c.name for c in log.findings.appeared if c.ts_ms == 1762178400000} == {"logged_at_utc", "logged_at_kst"}
    assert len([c for c in log.findings.appeared if c.ts_ms == 1762270500000]) == 14
    assert [c.name for c in log.findings.vanished] == ["logged_at"]
    assert "ema12_slope" not in log.observations[0].features
    assert "ema12_slope" in log.observations[-1].features


def test_every_cell_stands_under_its_own_name(shared: Path, log: FeatureLog) -> None:
    """Once more by hand: each width has one header, and the cells are those of the file."""
    rows, headers = [], {}
    for path in sorted((shared / "data" / "production_features").glob("*.csv")):
        with path.open(newline="") as file:
            header, *body = csv.reader(file)
        headers[len(header)] = header
        rows += body
    assert sorted(headers) == [195, 196, 210]
    by_time = {o.ts_ms: o for o in log.observations}
    for row in rows:
        named = dict(zip(headers[len(row)], row, strict=True))
        o = by_time[int(named["time"])]
        assert o.features == {name: float(named[name]) for name in log.columns.features if name in named}
        assert o.candle is not None
        assert (o.candle.open, o.candle.volume) == (float(named["open"]), float(named["volume"]))


def test_values_behind_the_inserted_columns_are_what_their_names_say(log: FeatureLog) -> None:
    """Independent of any header: recomputed from the candle, or from a neighbour that says the same."""
    assert len(log.observations) == 645
    np.testing.assert_allclose(column(log, "rsi"), column(log, "rsi_raw"), rtol=1e-12)
    np.testing.assert_array_equal(column(log, "returns"), column(log, "close_change_1"))
    assert set(column(log, "bb_position")) == {0.5}
    close = np.array([o.candle.close for o in log.observations if o.candle])
    vwap = column(log, "vwap")
    assert np.abs(vwap / close - 1).max() < 0.2
    assert np.abs(np.diff(vwap) / vwap[1:]).max() < 0.05
    step = np.diff([o.ts_ms for o in log.observations]) == 300_000
    np.testing.assert_allclose((close[1:] / close[:-1] - 1)[step], column(log, "returns")[1:][step], atol=1e-4)
    for name in ("volume_surge", "rsi_overbought", "rsi_oversold", "macd_crossover", "macd_crossunder", "higher_high"):
        assert set(column(log, name)) <= {0.0, 1.0}, name


def test_the_inserted_columns_can_be_recomputed(log: FeatureLog) -> None:
    """The fourteen of 4 November, in the 100 rows with a borrowed header and in the 288 with their own."""
    late = [o for o in log.observations if "ema12_slope" in o.features]
    assert len(late) == 388
    assert set(np.diff([o.ts_ms for o in late])) == {300_000}

    def of(name: str) -> Floats:
        return np.array([o.features[name] for o in late], dtype=float)

    close = np.array([o.candle.close for o in late if o.candle])
    red = np.array([o.candle.close < o.candle.open for o in late if o.candle])
    ema, ma, atr = of("ema_12"), of("ma_200"), of("atr")
    np.testing.assert_allclose(of("ema12_slope")[5:], ema[5:] / ema[:-5] - 1, atol=1e-12)
    np.testing.assert_allclose(of("price_change_5")[5:], close[5:] / close[:-5] - 1, atol=1e-12)
    np.testing.assert_allclose(of("atr_change")[5:], atr[5:] / atr[:-5] - 1, atol=1e-12)
    np.testing.assert_allclose(of("price_below_ma200_pct"), close / ma - 1, atol=1e-12)
    np.testing.assert_allclose(of("price_below_ema12_pct"), close / ema - 1, atol=1e-12)
    np.testing.assert_array_equal(of("is_below_ma200"), close < ma)
    np.testing.assert_array_equal(of("is_below_ema12"), close < ema)
    streak = of("consecutive_red_candles")
    np.testing.assert_array_equal(streak > 0, red)
    np.testing.assert_array_equal(streak[1:][red[1:]], streak[:-1][red[1:]] + 1)
    assert of("price_distance_from_high_pct").max() <= 0
    assert of("volatility_expansion_down").min() == 0
    assert 0 <= of("volume_on_down_days_ratio").min() <= of("volume_on_down_days_ratio").max() <= 1
    assert set(of("lower_highs_pattern")) == {0.0, 1.0}
    assert set(of("below_multiple_mas")) == {0.0, 1.0, 2.0}
    assert of("downtrend_strength").min() > 0


def test_values_are_bit_equal_to_those_sent_as_json(shared: Path, log: FeatureLog) -> None:
    with (shared / "data" / "production_features" / "features_20251105.csv").open(newline="") as file:
        header, first = [row for row, _ in zip(csv.reader(file), range(2), strict=False)]
    body = ",".join(
        f'"{name}":{cell}' for name, cell in zip(header, first, strict=True) if name in log.columns.features
    )
    sent = decode(
        b'{"kind":"observation","model":"m","symbol":"s","timeframe":"5m","ts_ms":1762300500000,"features":{'
        + body.encode()
        + b"}}"
    )
    assert isinstance(sent, Observation)
    (read,) = [o for o in log.observations if o.ts_ms == 1762300500000]
    assert read.features == sent.features


def test_findings_and_events_are_plain_enough_to_be_written(log: FeatureLog) -> None:
    json.dumps(log.findings.to_builtins(), allow_nan=False)
    assert all(decode(encode(o)) == o for o in log.observations[::50])
    assert not any("None" in sentence for sentence in log.findings.sentences())


def test_one_file_alone_refuses_the_rows_it_cannot_name(shared: Path) -> None:
    path = shared / "data" / "production_features" / "features_20251103.csv"
    log = read_features(path, model="m", symbol="s", timeframe="5m")
    assert len(log.observations) == 95
    (refused,) = log.findings.refused
    assert (refused.first_line, refused.last_line, refused.rows, refused.code) == (97, 118, 22, "width")
    assert "196 cells" in refused.reason
    assert "extra_headers" in refused.reason
    assert log.findings.balanced


def test_an_extra_header_names_them(shared: Path) -> None:
    folder = shared / "data" / "production_features"
    with (folder / "features_20251104.csv").open(newline="") as file:
        names = next(csv.reader(file))
    mapping = LogMapping(extra_headers=[names])
    log = read_features(folder / "features_20251103.csv", model="m", symbol="s", timeframe="5m", mapping=mapping)
    assert len(log.observations) == 117
    assert log.findings.files[0].headers[1].header == "mapping key extra_headers[0]"


@pytest.mark.parametrize(
    ("name", "rows", "kept", "units"),
    [
        ("bt_7day_20251030_20251103.csv", 30, 30, [("pnl_pct", "percent", 4.0, 0.0)]),
        ("bt_90days_current_20251007_20251104.csv", 3741, 3741, [("pnl_pct", "fraction", 4.0, 0.0)]),
        (
            "bt_current_production_20250722_20251101.csv", 488, 488,
            [("leveraged_pnl_pct", "percent", 4.0, 0.0), ("price_change_pct", "percent", 1.0, 0.0)],
        ),
        ("bt_enhanced_baseline_20250714_20251026.csv", 1225, 1225, [("pnl_pct", "fraction", 4.0, 0.001)]),
        ("bt_production_080_20250709_20251025.csv", 607, 607, [("pnl_pct", "percent", 4.0, 0.0)]),
        ("bt_threshold_080_windows_20250709_20251022.csv", 2986, 611, [("pnl_pct", "percent", 4.0, 0.0)]),
    ],
)  # fmt: skip
def test_all_six_trade_lists_are_read(
    shared: Path, name: str, rows: int, kept: int, units: list[tuple[str, str, float, float]]
) -> None:
    log = read_trades(shared / "data" / "trades" / name, model="m", symbol="s", timeframe="5m", fee_ratio=0.0005)
    assert (log.findings.rows_in, len(log.trades)) == (rows, kept)
    assert log.findings.duplicates == rows - kept
    assert log.findings.balanced
    assert not log.findings.refused
    assert len({trade.trade_id for trade in log.trades}) == kept
    found = [(u.column, u.unit, u.leverage, u.fee_round_trip_ratio) for u in log.findings.profit_units]
    for one, expected in zip(found, units, strict=True):
        assert one[:2] == expected[:2]
        assert one[2:] == pytest.approx(expected[2:], abs=1e-5)
    assert all(decode(encode(trade)) == trade for trade in log.trades[:20])


def test_the_glued_windows_are_noticed(shared: Path) -> None:
    path = shared / "data" / "trades" / "bt_threshold_080_windows_20250709_20251022.csv"
    findings = read_trades(path, model="m", symbol="s", timeframe="5m").findings
    assert findings.duplicates == 2375
    assert findings.reordered > 0
    assert {overlap.side for overlap in findings.overlaps} == {"long", "short"}
    assert "overlapping windows glued together" in " ".join(findings.sentences())


def test_probabilities_of_the_entry_are_taken_by_side(shared: Path) -> None:
    path = shared / "data" / "trades" / "bt_current_production_20250722_20251101.csv"
    log = read_trades(path, model="m", symbol="s", timeframe="5m", mapping=TradeMapping(leverage=4))
    by_opening: dict[int, Trade] = {trade.opened_ms: trade for trade in log.trades}
    short, long = by_opening[1753185000000], by_opening[1753192500000]
    assert (short.side, short.entry_probability, short.leverage) == ("short", 0.8150452, 4)
    assert (long.side, long.entry_probability) == ("long", 0.83840966)


@pytest.mark.parametrize(
    ("name", "timeframe", "rows"),
    [
        ("ohlcv_5m_20250806_20251104.csv", "5m", 25920),
        ("ohlcv_5m_other_feed_20251006_20251103.csv", "5m", 8064),
        ("ohlcv_15m_20250301_20251102.csv", "15m", 23712),
    ],
)
def test_candle_files_are_read_without_their_last_row(shared: Path, name: str, timeframe: str, rows: int) -> None:
    log = read_candles(shared / "data" / name, symbol="BTC/USDT:USDT", timeframe=timeframe)
    assert len(log.candles) == rows - 1
    assert log.findings.forming_dropped == 1
    assert log.findings.still_forming[0].line == rows + 1
    assert log.findings.balanced
    whole = read_candles(shared / "data" / name, symbol="BTC/USDT:USDT", timeframe=timeframe, drop_last=False)
    assert len(whole.candles) == rows


def test_a_header_and_nothing_else_is_said_to_be_empty(shared: Path) -> None:
    empty = shared / "data" / "ohlcv_header_only.csv"
    with pytest.raises(OperatorError, match=r"no rows at all in .*ohlcv_header_only\.csv"):
        read_candles(empty, symbol="s", timeframe="5m")
    both = read_candles([empty, shared / "data" / "ohlcv_5m_20250806_20251104.csv"], symbol="s", timeframe="5m")
    assert len(both.candles) == 25919
    assert any("No rows at all in" in sentence for sentence in both.findings.sentences())


def test_local_time_of_a_bot_is_turned_into_utc(shared: Path) -> None:
    mapping = LogMapping(timezone="+09:00", time_is="logged", only={"signal_type": "MARKET"})
    log = read_features(
        shared / "data" / "live_signals_20251015_20251016.csv", model="m", symbol="s", timeframe="5m", mapping=mapping
    )
    # 04:05:03 in Seoul is 19:05:03 UTC; the last closed candle opened at 19:00.
    assert log.observations[0].ts_ms == 1760468400000
    assert log.findings.balanced
    assert {left.name for left in log.findings.left_out} == {"signal_type", "direction", "regime"}


def test_probabilities_are_found_by_mapping(shared: Path) -> None:
    mapping = LogMapping(probability_short="probability")
    path = shared / "data" / "short_model_predictions_20250701_20251015.csv"
    log = read_features(path, model="m", symbol="s", timeframe="5m", mapping=mapping)
    assert len(log.observations) == 30517
    first = log.observations[0].probabilities
    assert first is not None
    assert (first.long, first.short) == (None, 0.55540323)
