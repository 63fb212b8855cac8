"""Feature logs: times, order, holes, roles of columns, and CSV, JSONL and Parquet telling the same story."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regime.config import from_mapping
from regime.errors import OperatorError
from regime.events import Ohlcv, Probabilities, Taken
from regime_service.logs import FeatureLog, LogMapping, read_features

T0 = 1_762_145_100_000  # 2025-11-03 04:45 UTC
STEP = 300_000


def read(*paths: Path | str, mapping: LogMapping | None = None, **options: Any) -> FeatureLog:
    log = read_features(paths, model="m", symbol="s", timeframe="5m", mapping=mapping, **options)
    assert log.findings.balanced
    json.dumps(log.findings.to_builtins(), allow_nan=False)
    assert log.findings.sentences()
    return log


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def one(tmp_path: Path, *lines: str, **options: Any) -> FeatureLog:
    return read(write(tmp_path / "log.csv", *lines), **options)


# --- what a cell may be


def test_empty_nan_and_infinite_cells_are_missing_and_counted(tmp_path: Path) -> None:
    log = one(
        tmp_path,
        "time,a,b",
        f"{T0},,1",
        f"{T0 + STEP},nan,inf",
        f"{T0 + 2 * STEP},2.5,-Infinity",
        f"{T0 + 3 * STEP},1e999,NULL",
    )
    assert [o.features for o in log.observations] == [
        {"a": None, "b": 1.0}, {"a": None, "b": None}, {"a": 2.5, "b": None}, {"a": None, "b": None}
    ]  # fmt: skip
    assert log.findings.non_finite == {"a": 3, "b": 3}
    assert set(log.findings.near_empty_columns) == {"a", "b"}


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    log = one(tmp_path, "time,a", f"{T0},true", f"{T0 + STEP},False")
    assert [o.features["a"] for o in log.observations] == [1.0, 0.0]


@pytest.mark.parametrize("cell", ["abc", "1_000", "0x1F", "1,5", "٣", "1.2.3", "--1", "1e", "$5"])
def test_a_row_with_a_word_in_a_feature_is_refused_by_line_and_column(tmp_path: Path, cell: str) -> None:
    log = one(tmp_path, "time,a,b", f"{T0},1,1", f'{T0 + STEP},"{cell}",2', f"{T0 + 2 * STEP},3,3")
    assert [o.features["a"] for o in log.observations] == [1.0, 3.0]
    (refused,) = log.findings.refused
    assert (refused.first_line, refused.column, refused.code) == (3, "a", "number")
    assert refused.reason == f"{cell!r} is not a number"


def test_columns_of_words_are_left_out_and_named(tmp_path: Path) -> None:
    log = one(tmp_path, "time,regime,a,when", f"{T0},calm,1,2025-11-03", f"{T0 + STEP},wild,2,2025-11-03")
    assert log.columns.features == ("a",)
    assert {left.name: left.reason for left in log.findings.left_out} == {
        "regime": "holds words, not numbers",
        "when": "holds times",
    }


def test_bom_crlf_quotes_blank_lines_and_other_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f'\ufeff"time";"a b";c\r\n\r\n{T0};"1.5";2\r\n\r\n{T0 + STEP};3;"4"\r\n'.encode())
    assert [o.features for o in read(path).observations] == [{"a b": 1.5, "c": 2.0}, {"a b": 3.0, "c": 4.0}]


def test_utf16_and_foreign_bytes_do_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"time,größe\n{T0},1\n".encode("utf-16"))
    assert read(path).observations[0].features == {"größe": 1.0}
    path.write_bytes(b"time,a,note\n%d,1,\xff\xfe\x00\n" % T0)
    assert read(path).observations[0].features == {"a": 1.0}


# --- time


@pytest.mark.parametrize(
    "cell",
    [
        T0, T0 // 1000, T0 * 1000, T0 * 1_000_000, f"{T0 / 1000:.3f}", "2025-11-03 04:45:00", "2025-11-03T04:45:00Z",
        "2025-11-03T13:45:00+09:00", "2025-11-03T04:45:00.000000", "2025/11/03 04:45", "2025-11-03 04:45:00 UTC",
    ],
)  # fmt: skip
def test_every_spelling_of_a_time_is_the_same_moment(tmp_path: Path, cell: Any) -> None:
    assert one(tmp_path, "timestamp,a", f"{cell},1").observations[0].ts_ms == T0


@pytest.mark.parametrize("zone", ["Asia/Seoul", "+09:00", "UTC+9"])
def test_times_without_zone_are_in_the_mappings(tmp_path: Path, zone: str) -> None:
    mapping = LogMapping(timezone=zone)
    assert one(tmp_path, "date,a", "2025-11-03 13:45:00,1", mapping=mapping).observations[0].ts_ms == T0
    assert one(tmp_path, "date,a", f"{T0},1", mapping=mapping).observations[0].ts_ms == T0


@pytest.mark.parametrize(("time_is", "cell"), [("open", T0), ("close", T0 + STEP), ("logged", T0 + STEP + 7_123)])
def test_the_time_may_be_the_open_the_close_or_the_writing(tmp_path: Path, time_is: str, cell: int) -> None:
    mapping = from_mapping({"time_is": time_is}, LogMapping)
    assert one(tmp_path, "time,a", f"{cell},1", mapping=mapping).observations[0].ts_ms == T0


def test_a_time_that_is_none_refuses_the_row(tmp_path: Path) -> None:
    good = [f"{T0 + i * STEP},1" for i in range(5)]
    log = one(tmp_path, "time,a", "later,2", ",3", "12,4", "99999999999999999999999,5", *good)
    assert [(r.first_line, r.last_line, r.reason) for r in log.findings.refused] == [(2, 5, "'later' is not a time")]
    assert log.findings.refused_rows == 4


def test_two_times_that_otherwise_agree_must_agree_in_each_row(tmp_path: Path) -> None:
    log = one(
        tmp_path, "time,timestamp,a", f"{T0},2025-11-03 04:45,1", f"{T0 + STEP},2025-11-03 04:50,1",
        f"{T0 + 2 * STEP},2025-11-03 05:50,1",
    )  # fmt: skip
    assert len(log.observations) == 2
    assert "time says 2025-11-03 04:55, timestamp says 2025-11-03 05:50" in log.findings.refused[0].reason


def test_a_second_time_that_is_always_later_is_the_time_of_writing(tmp_path: Path) -> None:
    rows = [f"{T0 + i * STEP},{T0 + i * STEP + STEP + 9000},1" for i in range(4)]
    log = one(tmp_path, "open_time,timestamp,a", *rows)
    assert log.columns.log_times == ("timestamp",)
    assert log.log_ms[0] == T0 + STEP + 9000
    assert log.columns.features == ("a",)


def test_a_log_time_in_another_zone_is_mentioned(tmp_path: Path) -> None:
    rows = [f"{T0 + i * STEP},{T0 + i * STEP + STEP + 9000 + 9 * 3_600_000},1" for i in range(4)]
    log = one(tmp_path, "time,logged_at,a", *rows)
    assert any("+9 h" in note for note in log.findings.notes)


# --- order


def test_holes_are_listed_and_nothing_is_filled_in(tmp_path: Path) -> None:
    log = one(tmp_path, "time,a", *(f"{T0 + i * STEP},1" for i in (0, 1, 4, 5, 7)))
    assert [(g.from_ms, g.to_ms, g.missing) for g in log.findings.gaps] == [
        (T0 + STEP, T0 + 4 * STEP, 2), (T0 + 5 * STEP, T0 + 7 * STEP, 1)
    ]  # fmt: skip
    assert (log.findings.missing_candles, log.findings.longest_gap) == (3, 2)


def test_same_rows_are_duplicates_and_other_content_is_a_conflict(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = one(tmp_path, "time,a,b", f"{T0},1,2", f"{T0},1,2", f"{T0 + STEP},1,", f"{T0 + STEP},1,", f"{T0},1,3")
    assert [o.features for o in log.observations] == [{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": None}]
    assert (log.findings.duplicates, log.findings.conflict_rows) == (2, 1)
    (conflict,) = log.findings.conflicts
    assert (conflict.file, conflict.line, conflict.kept_line, conflict.columns) == (str(path), 6, 2, ("b",))


def test_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    log = one(tmp_path, "time,a", f"{T0 + STEP},1", f"{T0},2", f"{T0 + 2 * STEP},3")
    assert [o.features["a"] for o in log.observations] == [2.0, 1.0, 3.0]
    assert log.findings.reordered == 1


def test_rows_beside_the_grid_and_a_wrong_timeframe_are_mentioned(tmp_path: Path) -> None:
    log = one(tmp_path, "time,a", *(f"{T0 + i * 3 * STEP + (7 if i == 5 else 0)},1" for i in range(12)))
    assert log.findings.off_grid_rows == 1
    assert any("usually 15 min apart, but the timeframe is 5m" in note for note in log.findings.notes)


def test_a_row_written_before_its_candle_closed_is_flagged(tmp_path: Path) -> None:
    rows = [f"{T0 + i * STEP},{T0 + i * STEP + STEP + 5000},1" for i in range(3)]
    early = f"{T0 + 3 * STEP},{T0 + 3 * STEP + 60_000},1"
    log = one(tmp_path, "time,logged_at,a", *rows, early)
    assert (len(log.observations), log.findings.forming_dropped) == (3, 1)
    assert log.findings.still_forming[0].proven
    kept = one(tmp_path, "time,logged_at,a", *rows, early, drop_last=False)
    assert (len(kept.observations), kept.findings.forming_dropped, len(kept.findings.still_forming)) == (4, 0, 1)
    closed = one(tmp_path, "time,logged_at,a", *rows)
    assert not closed.findings.still_forming
    unknown = one(tmp_path, "time,a", f"{T0},1")
    assert [(f.proven, f.dropped) for f in unknown.findings.still_forming] == [(False, False)]
    dropped = one(tmp_path, "time,logged_at,a", *rows, drop_last=True)
    assert len(dropped.observations) == 2


# --- roles of columns


def test_candle_and_probabilities_are_no_features(tmp_path: Path) -> None:
    header = "time,Open,High,Low,Close,Volume,long_prob,prob_short,exit_long_prob,rsi"
    log = one(tmp_path, header, f"{T0},10,12,9,11,5,0.9,,0.5,55")
    (o,) = log.observations
    assert o.features == {"rsi": 55.0}
    assert o.candle == Ohlcv(open=10.0, high=12.0, low=9.0, close=11.0, volume=5.0)
    assert o.probabilities == Probabilities(long=0.9, exit_long=0.5)
    both = one(tmp_path, header, f"{T0},10,12,9,11,5,0.9,,0.5,55", mapping=LogMapping(candle_as_features=True))
    assert set(both.observations[0].features) == {"Open", "High", "Low", "Close", "Volume", "rsi"}
    assert both.observations[0].candle == o.candle


def test_prices_that_are_no_candle_refuse_the_row(tmp_path: Path) -> None:
    rows = [
        f"{T0},10,12,9,11,5,1",
        f"{T0 + STEP},10,9,9,11,5,1",
        f"{T0 + 2 * STEP},0,9,0,0,5,1",
        f"{T0 + 3 * STEP},10,12,9,11,,1",
    ]
    log = one(tmp_path, "time,open,high,low,close,volume,a", *rows)
    assert [(r.first_line, r.last_line, r.code) for r in log.findings.refused] == [(3, 4, "candle")]
    assert [o.candle is None for o in log.observations] == [False, True]


def test_a_probability_in_percent_is_refused_with_the_way_out(tmp_path: Path) -> None:
    log = one(tmp_path, "time,prob_long,a", f"{T0},0.8,1", f"{T0 + STEP},82,1")
    assert "82 is not a probability" in log.findings.refused[0].reason


def test_probabilities_that_are_words_are_not_dropped_in_silence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="line 2, column prob_long: '82%' is not a number"):
        one(tmp_path, "time,prob_long,a", f"{T0},82%,1")


def test_empty_cells_of_candles_and_probabilities_are_counted(tmp_path: Path) -> None:
    rows = [f"{T0},10,12,9,11,,0.5,1", f"{T0 + STEP},10,12,9,11,5,,1"]
    log = one(tmp_path, "time,open,high,low,close,volume,prob_long,a", *rows)
    assert log.findings.non_finite == {"volume": 1, "prob_long": 1}


def test_columns_that_are_no_features_by_their_names_or_values(tmp_path: Path) -> None:
    header = f"time,model,close_time,{'x' * 200},close,timestamp,a"
    log = one(tmp_path, header, f"{T0},7,{T0 + STEP},1,2,{T0 - 1},3", f"{T0 + STEP},7,{T0 + 2 * STEP},1,2,{T0},3")
    assert log.observations[0].features == {"a": 3.0}
    reasons = {left.name[:10]: left.reason for left in log.findings.left_out}
    assert reasons == {
        "model": "names the stream",
        "close_time": "holds times",
        "xxxxxxxxxx": "its name is longer than 128 characters or not printable",
        "timestamp": "holds another time than time",
        "close": "part of a candle, but there is no open, high, low, volume",
    }


def test_only_that_leaves_nothing_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="`only` leaves none of 1 row"):
        one(tmp_path, "time,n,w,a", f"{T0},7,x,1", mapping=LogMapping(only={"n": "8"}))
    mapping = LogMapping(only={"n": "7", "w": "x"})
    assert len(one(tmp_path, "time,n,w,a", f"{T0},7,x,1", f"{T0 + STEP},7,y,1", mapping=mapping).observations) == 1
    with pytest.raises(OperatorError, match=r"`only.m`: no file has a column `m`"):
        one(tmp_path, "time,n,a", f"{T0},7,1", mapping=LogMapping(only={"m": "8"}))


def test_files_may_name_the_time_differently(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "timestamp,a", f"{T0},1")
    write(tmp_path / "2.jsonl", json.dumps({"ts_ms": T0 + STEP, "a": 2}), json.dumps({"a": 3}))
    log = read(tmp_path)
    assert [o.ts_ms for o in log.observations] == [T0, T0 + STEP]
    assert log.findings.refused[0].reason == "this row has no such column, so no time"


def test_a_json_array_and_half_characters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'[{{"time": {T0}, "a": 1, "\\ud800": 2, "w": "\\ud800"}}]')
    log = read(path)
    assert log.observations[0].features == {"a": 1.0, "\\ud800": 2.0}
    path.write_text("[1, 2")
    with pytest.raises(OperatorError, match=r"a\.json: neither one JSON array"):
        read(path)


def test_rename_ignore_and_selection(tmp_path: Path) -> None:
    mapping = LogMapping(rename={"o": "open", "RSI14": "feat_rsi"}, ignore=["junk*"], features=["feat_*"])
    log = one(tmp_path, "time,RSI14,feat_b,junk_1,other,o", f"{T0},1,2,x,3,4", mapping=mapping)
    assert log.observations[0].features == {"feat_rsi": 1.0, "feat_b": 2.0}
    reasons = {left.name: left.reason for left in log.findings.left_out}
    assert set(reasons) == {"junk_1", "other", "open"}


def test_a_mixed_file_needs_only(tmp_path: Path) -> None:
    lines = ["time,symbol,a", f"{T0},BTC,1", f"{T0},ETH,2"]
    with pytest.raises(OperatorError, match=r"column symbol names 2 different ones \(BTC, ETH\).*only"):
        one(tmp_path, *lines)
    log = one(tmp_path, *lines, mapping=LogMapping(only={"symbol": "ETH"}))
    assert log.observations[0].features == {"a": 2.0}
    assert log.findings.filtered_rows == 1


def test_the_row_numbers_of_pandas_are_no_feature(tmp_path: Path) -> None:
    log = one(tmp_path, ",time,a", f"0,{T0},1", f"1,{T0 + STEP},2")
    assert log.columns.features == ("a",)
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.to_datetime([T0, T0 + STEP], unit="ms"))
    frame.to_csv(tmp_path / "index.csv")
    assert [o.ts_ms for o in read(tmp_path / "index.csv").observations] == [T0, T0 + STEP]


def test_a_name_that_stands_twice_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        OperatorError, match=r"log\.csv, line 1, column 4: the name `a` stood there before \(column 2\)"
    ):
        one(tmp_path, "time,a,b,a", f"{T0},1,2,3")
    assert one(tmp_path, "time,a,b,a", f"{T0},1,2,3", mapping=LogMapping(ignore=["a"])).columns.features == ("b",)


def test_dead_columns_are_named(tmp_path: Path) -> None:
    log = one(tmp_path, "time,a,b,c", f"{T0},1,1,", f"{T0 + STEP},1,2,")
    assert log.findings.dead_columns == ("a",)
    assert log.findings.near_empty_columns == ("c",)


# --- files


def test_files_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a_1.csv", "time,a", f"{T0},1")
    (tmp_path / "a_2.csv.gz").write_bytes(gzip.compress(f"time,a\n{T0 + STEP},2\n".encode()))
    write(tmp_path / "readme.md", "not a table")
    (tmp_path / "empty.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert len(read(tmp_path).observations) == 2
    globbed = read("a_*", "a_1.csv")
    assert [f.name for f in globbed.findings.files] == ["a_1.csv", "a_2.csv.gz"]
    assert [f.format for f in globbed.findings.files] == ["csv", "csv+gzip"]
    assert str(tmp_path) not in json.dumps(globbed.findings.to_builtins())


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.csv", "nowhere.csv: there is no such file"),
        ("nothing*.csv", r"nothing\*.csv: no file matches"),
        ("folder", "folder: the folder holds no table"),
        ("zero.csv", "no rows at all in zero.csv: header only or empty"),
        ("x" * 5000, "is not a file name"),
        ("a\0b", "is not a file name"),
    ],
)
def test_files_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero.csv").touch()
    with pytest.raises(OperatorError, match=words):
        read(path)


def test_a_log_without_any_usable_row_says_why(tmp_path: Path) -> None:
    words = (
        r"no usable row: .*log\.csv, lines 2 to 3, column prob_long: 82 is not a probability.*\(2 rows refused in all\)"
    )
    with pytest.raises(OperatorError, match=words):
        one(tmp_path, "time,a,prob_long", f"{T0},1,82", f"{T0 + STEP},2,84")


def test_a_table_without_time_says_which_columns_there_are(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"no column holds the candle's time .*`a`, `b`.*mapping key `time`"):
        one(tmp_path, "a,b", "1,2")
    with pytest.raises(OperatorError, match="`time`: no file has a column `tme`; did you mean `time`"):
        one(tmp_path, "time,b", f"{T0},2", mapping=LogMapping(time="tme"))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(OperatorError, match="unknown time zone 'Mars'"):
        read_features(__file__, model="m", symbol="s", timeframe="5m", mapping=LogMapping(timezone="Mars"))
    with pytest.raises(OperatorError, match="unknown timeframe '5x'"):
        read_features(__file__, model="m", symbol="s", timeframe="5x")
    with pytest.raises(OperatorError, match="unknown key `tiem`; did you mean `time`"):
        from_mapping({"tiem": "x"}, LogMapping)


def test_progress_counts_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    path = write(tmp_path / "a.csv", "time,a", *(f"{T0 + i * STEP},1" for i in range(10_000)))
    read(path, progress=lambda done, label: seen.append((done, label)))
    assert seen[-1] == (10_000, str(path))
    assert len(seen) >= 3


# --- JSON lines and Parquet


def test_json_lines_as_the_api_takes_them(tmp_path: Path) -> None:
    row = {
        "model": "m", "symbol": "s", "timeframe": "5m", "ts_ms": T0, "features": {"rsi": 1, "close": 5.5, "b": None},
        "probabilities": {"long": 0.5}, "taken": {"long": True},
        "candle": {"open": 1, "high": 2, "low": 1, "close": 2, "volume": 3},
    }  # fmt: skip
    (o,) = read(write(tmp_path / "a.jsonl", json.dumps(row))).observations
    assert o.features == {"rsi": 1.0, "close": 5.5, "b": None}
    assert o.probabilities == Probabilities(long=0.5)
    assert o.taken == Taken(long=True)
    assert o.candle == Ohlcv(open=1.0, high=2.0, low=1.0, close=2.0, volume=3.0)


def test_json_lines_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text(
        f'{{"time":{T0},"a":NaN}}\n[1]\n{{"time":{T0 + STEP},"a":{{}}}}\n'
        f'{{"time":{T0 + STEP},"a":2}}\n{{"time":{T0 + STEP}'
    )
    log = read(path)
    assert [o.features for o in log.observations] == [{"a": None}, {"a": 2.0}]
    assert [(r.first_line, r.code) for r in log.findings.refused] == [(2, "json"), (3, "number"), (5, "json")]
    assert log.findings.rows_in == 5


def test_json_lines_may_lack_a_column(tmp_path: Path) -> None:
    rows = [{"time": T0, "a": 1, "b": 2}, {"b": 3, "time": T0 + STEP}, {"time": T0 + 2 * STEP, "b": 1, "a": 4}]
    log = read(write(tmp_path / "a.jsonl", *map(json.dumps, rows)))
    assert [o.features for o in log.observations] == [{"a": 1, "b": 2}, {"b": 3}, {"a": 4, "b": 1}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_csv_json_lines_and_parquet_are_the_same(tmp_path: Path, data: st.DataObject) -> None:
    names = data.draw(
        st.lists(st.text("abcdefgh_", min_size=1, max_size=6).map("f_".__add__), min_size=1, max_size=4, unique=True)
    )
    rows = data.draw(st.integers(1, 8))
    values = {n: data.draw(st.lists(st.none() | st.floats(width=64), min_size=rows, max_size=rows)) for n in names}
    times = [T0 + i * STEP for i in range(rows)]
    records = [{"ts_ms": at, **{n: values[n][i] for n in names}} for i, at in enumerate(times)]
    write(tmp_path / "a.jsonl", *map(json.dumps, records))
    write(
        tmp_path / "a.csv", ",".join(["ts_ms", *names]),
        *(",".join([str(r["ts_ms"]), *("" if r[n] is None else repr(r[n]) for n in names)]) for r in records),
    )  # fmt: skip
    frame = pd.DataFrame(
        {"ts_ms": times, **{n: pd.array(values[n], dtype="Float64").to_numpy(float, na_value=math.nan) for n in names}}
    )
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    frame["ts_ms"] = pd.to_datetime(frame["ts_ms"], unit="ms", utc=True)
    frame.set_index("ts_ms").to_parquet(tmp_path / "b.parquet")
    logs = [read(tmp_path / name) for name in ("a.csv", "a.jsonl", "a.parquet", "b.parquet")]
    for other in logs[1:]:
        assert other.observations == logs[0].observations
        assert other.findings.non_finite == logs[0].findings.non_finite
        assert other.findings.dead_columns == logs[0].findings.dead_columns
    expected = [
        {n: v if v is not None and math.isfinite(v) else None for n, v in ((n, values[n][i]) for n in names)}
        for i in range(rows)
    ]
    assert [o.features for o in logs[0].observations] == expected


def test_what_is_called_parquet_and_is_not_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"ts_ms,x\n0,1\n")
    with pytest.raises(OperatorError, match=r"a\.parquet: is no Parquet file"):
        read(tmp_path / "a.parquet")


def test_parquet_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "date": pd.to_datetime(["2025-11-03 13:45", "2025-11-03 13:50"]),
            "a": pd.array([1, None], dtype="Int64"),
            "b": [True, False],
            "c": pd.Categorical(["x", "y"]),
            "d": ["1.5", "2.5"],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    log = read(tmp_path / "a.parquet", mapping=LogMapping(timezone="Asia/Seoul"))
    assert [o.ts_ms for o in log.observations] == [T0, T0 + STEP]
    assert [o.features for o in log.observations] == [{"a": 1.0, "b": 1.0, "d": 1.5}, {"a": None, "b": 0.0, "d": 2.5}]


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\0" * 100, b"PAR1garbagePAR1"])
def test_damaged_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(OperatorError, match=r"a\.parquet: cannot be read as Parquet"):
        read(tmp_path / "a.parquet")


def test_a_torn_gzip_gives_what_it_holds(tmp_path: Path) -> None:
    import random

    noise = random.Random(1)
    whole = gzip.compress(
        "".join(["time,a\n", *(f"{T0 + i * STEP},{noise.random()!r}\n" for i in range(5000))]).encode()
    )
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    log = read(tmp_path / "a.csv.gz")
    assert 0 < len(log.observations) < 5000
    assert any("gzip file ends in the middle" in note for note in log.findings.notes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    raw=st.binary(max_size=300)
    | st.text('time,a\n\r"{}[]:0123456789. -\\u\0', max_size=300).map(lambda t: ("time,a\n" + t).encode())
)
def test_no_bytes_do_more_than_raise_one_sentence(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(raw)
    try:
        read(tmp_path / "a.csv")
    except OperatorError as error:
        assert str(error)
