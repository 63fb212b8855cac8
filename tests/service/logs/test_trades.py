"""Trade lists: names, units, doubles, overlaps, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from regime.config import from_mapping
from regime.errors import OperatorError
from regime_service.logs import TradeLog, TradeMapping, profit_ratio, read_trades

HEADER = "entry_time,exit_time,side,entry_price,exit_price"


def read(tmp_path: Path, *lines: str, **options: Any) -> TradeLog:
    path = tmp_path / "t.csv"
    path.write_text("".join(line + "\n" for line in lines))
    log = read_trades(path, model="m", symbol="s", timeframe="5m", **options)
    assert log.findings.balanced
    assert log.findings.sentences()
    assert log.findings.to_builtins()
    return log


def test_profit_is_worked_out_from_the_prices_and_net_of_fees(tmp_path: Path) -> None:
    log = read(tmp_path, HEADER + ",pnl_pct", "2025-01-01 00:00,2025-01-01 01:00,LONG,100,101,999", fee_ratio=0.001)
    assert log.trades[0].profit_ratio == pytest.approx(0.01 - 0.002)
    assert profit_ratio("short", 100.0, 101.0, 0.001) == pytest.approx(-0.012)


def test_the_trades_number_is_made_of_its_content(tmp_path: Path) -> None:
    lines = [HEADER, "2025-01-01 00:00,2025-01-01 01:00,sell,100.5,101"]
    first, again = read(tmp_path, *lines), read(tmp_path, *lines)
    assert first.trades == again.trades
    assert first.trades[0].trade_id == "short-1735689600000-1735693200000-100.5"


@pytest.mark.parametrize("number", ["77", "A-77"])
def test_the_trades_own_number_is_kept(tmp_path: Path, number: str) -> None:
    log = read(tmp_path, HEADER + ",id", f"2025-01-01 00:00,2025-01-01 01:00,1,100,101,{number}")
    assert (log.trades[0].trade_id, log.trades[0].side) == (number, "long")


def test_doubles_are_dropped_and_contradictions_listed(tmp_path: Path) -> None:
    row = "2025-01-01 00:00,2025-01-01 01:00,LONG,100,101"
    log = read(tmp_path, HEADER, row, row, row.replace(",101", ",102"))
    assert (len(log.trades), log.findings.duplicates, log.findings.conflict_rows) == (1, 1, 1)
    assert "exit_price" in log.findings.conflicts[0].columns


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ("2025-01-01 00:00,2025-01-01 01:00,up,100,101", "side", "'up' is neither long nor short"),
        ("2025-01-01 00:00,2025-01-01 01:00,,100,101", "side", "'' is neither long nor short"),
        ("yesterday,2025-01-01 01:00,long,100,101", "entry_time", "the entry time is missing or not a time"),
        ("2025-01-01 00:00,,long,100,101", "exit_time", "the exit time is missing or not a time"),
        ("2025-01-01 00:00,,long,100,", "exit_time", "the trade is still open"),
        ("2025-01-01 02:00,2025-01-01 01:00,long,100,101", "exit_time", "the trade ends before it begins"),
        ("2025-01-01 00:00,2025-01-01 01:00,long,0,101", "entry_price", "the entry price is missing or not above 0"),
        ("2025-01-01 00:00,2025-01-01 01:00,long,100,x", "exit_price", "the exit price is missing or not above 0"),
    ],
)
def test_a_trade_that_makes_no_sense_is_refused_by_line_and_column(
    tmp_path: Path, row: str, column: str, words: str
) -> None:
    log = read(tmp_path, HEADER, *["2025-01-02 00:00,2025-01-02 01:00,long,100,101"] * 2, row)
    assert len(log.trades) == 1
    (refused,) = log.findings.refused
    assert (refused.first_line, refused.column) == (4, column)
    assert words in refused.reason


def test_probability_size_leverage_and_reason(tmp_path: Path) -> None:
    header = HEADER + ",entry_long_prob,entry_short_prob,position_size_pct,leverage,exit_reason,signal_time"
    rows = [
        "1735689600,1735693200,short,100,101,0.1,0.9,0.5,,ML Exit 0.9,1735689300",
        "1735689600,1735693200,long,100,101,1.5,0.9,0.5,3,x,",
    ]
    log = read(tmp_path, header, *rows, mapping=TradeMapping(leverage=4, shadow=True))
    (trade,) = log.trades
    assert (trade.entry_probability, trade.size_ratio, trade.leverage) == (0.9, 0.5, 4)
    assert (trade.exit_reason, trade.signal_ts_ms, trade.shadow) == ("ML Exit 0.9", 1735689300000, True)
    assert log.findings.refused[0].column == "entry_long_prob"


def test_local_times_and_other_names_by_mapping(tmp_path: Path) -> None:
    mapping = from_mapping(
        {"timezone": "+09:00", "opened": "a", "closed": "b", "side": "c", "entry_price": "d", "exit_price": "e"},
        TradeMapping,
    )
    log = read(tmp_path, "a,b,c,d,e", "2025-01-01 09:00,2025-01-01 10:00,Buy,1,2", mapping=mapping)
    assert log.trades[0].opened_ms == 1735689600000


def test_a_missing_column_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"t\.csv: no column for the exit price of a trade .*`entry_time`"):
        read(tmp_path, "entry_time,exit_time,side,entry_price", "1735689600,1735693200,long,1")
    with pytest.raises(OperatorError, match="`opened`: no file has a column `entri_time`; did you mean `entry_time`"):
        read(tmp_path, HEADER, "1735689600,1735693200,long,1,2", mapping=TradeMapping(opened="entri_time"))
    with pytest.raises(OperatorError, match="fee_ratio must lie in"):
        read(tmp_path, HEADER, "1735689600,1735693200,long,1,2", fee_ratio=5.0)


def test_overlapping_trades_of_one_side_are_noticed(tmp_path: Path) -> None:
    rows = [
        "1735689600,1735693200,long,1,2",
        "1735690000,1735693000,long,1,2",
        "1735690000,1735693000,short,1,2",
        "1735693200,1735693300,long,1,2",
    ]
    (overlap,) = read(tmp_path, HEADER, *rows).findings.overlaps
    assert (overlap.side, overlap.trades, overlap.of) == ("long", 1, 3)


@pytest.mark.parametrize(
    ("slope", "fees", "unit", "leverage"),
    [
        (1.0, 0.0, "fraction", 1.0),
        (100.0, 0.0, "percent", 1.0),
        (10.0, 0.0008, "fraction", 10.0),
        (2000.0, 0.001, "percent", 20.0),
    ],
)
def test_the_unit_of_a_stated_profit_is_told(
    tmp_path: Path, slope: float, fees: float, unit: str, leverage: float
) -> None:
    rows = [
        f"{1735689600 + i * 600},{1735689700 + i * 600},long,100,{100 + i % 7},{slope * ((i % 7) / 100 - fees)}"
        for i in range(30)
    ]
    (found,) = read(tmp_path, HEADER + ",pnl_pct", *rows).findings.profit_units
    assert (found.unit, found.leverage, found.fee_round_trip_ratio) == (
        unit,
        pytest.approx(leverage),
        pytest.approx(fees),
    )


def test_a_stated_profit_that_is_ours_is_not_worth_a_word_and_nonsense_is(tmp_path: Path) -> None:
    def rows(stated: Any) -> list[str]:
        return [f"{1735689600 + i * 600},{1735689700 + i * 600},long,100,{100 + i % 7},{stated(i)}" for i in range(30)]

    header = HEADER + ",profit_ratio"
    assert not read(tmp_path, header, *rows(lambda i: i % 7 / 100 - 0.001)).findings.profit_units
    (found,) = read(tmp_path, header, *rows(lambda i: (i * 7919) % 13)).findings.profit_units
    assert found.unit == "unknown"
    assert "does not follow from entry and exit price" in found.sentence()


def test_json_lines_and_parquet_lists_are_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "trade_id": ["a", "b"], "side": ["long", "SHORT"], "opened_ms": [1735689600000, 1735689700000],
            "closed_ms": [1735689800000, 1735689900000], "entry_price": [1.25, 2.0], "exit_price": [1.5, 2.125],
        }
    )  # fmt: skip
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    logs = [
        read_trades(tmp_path / f"a.{e}", model="m", symbol="s", timeframe="5m").trades
        for e in ("csv", "jsonl", "parquet")
    ]
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0]) == 2


def test_all_files_together_are_one_list(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text(f"{HEADER}\n1735689600,1735693200,long,1,2\n")
    log = read_trades(tmp_path, model="m", symbol="s", timeframe="5m")
    assert (len(log.trades), log.findings.duplicates) == (1, 1)
