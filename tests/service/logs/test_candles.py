"""Candle files: the last row of a download, overlaps, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regime.errors import OperatorError
from regime_service.logs import CandleLog, LogMapping, read_candles

T0 = 1_762_145_100_000
STEP = 300_000
HEADER = "timestamp,open,high,low,close,volume"


def read(*paths: Path, **options: Any) -> CandleLog:
    log = read_candles(paths, symbol="s", timeframe="5m", **options)
    assert log.findings.balanced
    assert log.findings.sentences()
    return log


def write(path: Path, *rows: tuple[int, float]) -> Path:
    body = "".join(f"{T0 + i * STEP},10,12,9,{close},5\n" for i, close in rows)
    path.write_text(f"{HEADER}\n{body}")
    return path


@pytest.mark.parametrize(("drop_last", "kept"), [("auto", 2), (True, 2), (False, 3)])
def test_the_last_row_is_dropped_unless_told_otherwise(tmp_path: Path, drop_last: Any, kept: int) -> None:
    log = read(write(tmp_path / "a.csv", (0, 10), (1, 11), (2, 10)), drop_last=drop_last)
    assert len(log.candles) == kept
    assert log.findings.forming_dropped == 3 - kept
    assert [f.dropped for f in log.findings.still_forming] == [kept == 2]


def test_a_forming_last_row_gives_way_to_the_finished_one_of_the_next_file(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", (0, 10), (1, 9.5))
    b = write(tmp_path / "b.csv", (1, 11), (2, 11), (3, 10))
    log = read(a, b)
    assert [c.close for c in log.candles] == [10, 11, 11]
    assert log.findings.forming_dropped == 2
    assert not log.findings.conflicts


def test_two_finished_rows_that_differ_are_a_conflict(tmp_path: Path) -> None:
    log = read(write(tmp_path / "a.csv", (0, 10), (0, 11), (1, 10), (1, 10), (2, 10)))
    assert (log.findings.conflict_rows, log.findings.duplicates) == (1, 1)
    assert log.candles[0].close == 10


def test_what_is_no_candle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = ["10,12,9,11,5", "10,8,9,11,5", "10,12,9,,5", "1,1,1,1,-5"]
    path.write_text("\n".join([HEADER, *(f"{T0 + i * STEP},{row}" for i, row in enumerate(rows)), ""]))
    log = read(path, drop_last=False)
    assert len(log.candles) == 1
    assert [(r.first_line, r.column) for r in log.findings.refused] == [(3, "high"), (4, "close"), (5, "high")]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"timestamp,open,high,low,last,volume\n{T0},10,12,9,11,5\n")
    with pytest.raises(OperatorError, match=r"a\.csv: no column `close` .*`last`.*rename"):
        read(path)
    assert read(path, mapping=LogMapping(rename={"last": "close"}), drop_last=False).candles[0].close == 11


def test_other_columns_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER},rsi,note\n{T0},10,12,9,11,5,oops,x\n{T0 + STEP},10,12,9,11,5,3,x\n")
    assert len(read(path, drop_last=False).candles) == 2


def test_a_single_candle_that_may_be_forming_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="the only candle was still forming"):
        read(write(tmp_path / "a.csv", (0, 10)))
