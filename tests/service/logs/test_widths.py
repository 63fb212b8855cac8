"""Rows that grow while nobody rewrites the header: matched by width, checked, or refused. Never padded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regime.errors import OperatorError
from regime_service.logs import FeatureLog, LogMapping, read_features

T0 = 1_762_145_100_000
STEP = 300_000


def read(*paths: Path, mapping: LogMapping | None = None) -> FeatureLog:
    log = read_features(paths, model="m", symbol="s", timeframe="5m", mapping=mapping)
    assert log.findings.balanced
    return log


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_columns_inserted_anywhere_keep_every_value_under_its_name(tmp_path: Path, data: st.DataObject) -> None:
    """Three files, growing in mid-file, columns inserted at random places; values are those that were written."""
    names = [f"f{i}" for i in range(data.draw(st.integers(1, 6)))]
    stages = [list(names)]
    for stage in range(data.draw(st.integers(1, 3))):
        grown = list(stages[-1])
        for i in range(data.draw(st.integers(1, 3))):
            grown.insert(data.draw(st.integers(0, len(grown))), f"new{stage}_{i}")
        stages.append(grown)
    values = st.floats(allow_nan=False, allow_infinity=False, width=64)
    expected: dict[int, dict[str, float]] = {}
    for old in tmp_path.glob("*.csv"):
        old.unlink()
    now = T0
    for number, stage_names in enumerate(stages):
        later = stages[min(number + 1, len(stages) - 1)]
        lines = [",".join(["time", *stage_names])]
        for columns in [stage_names] * data.draw(st.integers(1, 3)) + [later] * data.draw(st.integers(0, 3)):
            row = {name: data.draw(values) for name in columns}
            expected[now] = row
            lines.append(",".join([str(now), *(repr(row[name]) for name in columns)]))
            now += STEP
        write(tmp_path / f"log_{number}.csv", *lines)
    log = read(tmp_path)
    assert {o.ts_ms: o.features for o in log.observations} == expected
    assert not log.findings.refused


def test_a_width_without_header_is_refused_and_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,a,b", f"{T0},1,2", f"{T0 + STEP},1,9,2", f"{T0 + 2 * STEP},1,9,2")
    log = read(path)
    assert len(log.observations) == 1
    (refused,) = log.findings.refused
    assert (refused.place, refused.rows, refused.code) == (f"{path}, lines 3 to 4", 2, "width")
    assert "4 cells, but no header names so many columns (known: 3)" in refused.reason
    assert log.findings.files[0].widths == (3, 4)


def test_the_nearest_later_header_wins_over_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "time,x,a,b", f"{T0},7,1,2")
    write(tmp_path / "2.csv", "time,a,b", f"{T0 + STEP},1,2", f"{T0 + 2 * STEP},1,5,2")
    write(tmp_path / "3.csv", "time,a,y,b", f"{T0 + 3 * STEP},1,5,2")
    assert read(tmp_path).observations[2].features == {"a": 1.0, "y": 5.0, "b": 2.0}
    (tmp_path / "3.csv").unlink()
    assert read(tmp_path).observations[2].features == {"x": 1.0, "a": 5.0, "b": 2.0}


def test_a_header_written_again_in_mid_file_names_what_follows(tmp_path: Path) -> None:
    lines = ["time,a,b", f"{T0},1,2", "time,a,b", f"{T0 + STEP},3,4", "time,a,n,b", f"{T0 + 2 * STEP},5,6,7"]
    path = write(tmp_path / "a.csv", *lines)
    log = read(path)
    assert [o.features for o in log.observations] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "n": 6, "b": 7}]
    assert log.findings.rows_in == 3


def test_a_file_without_header_takes_it_from_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "time,a,b", f"{T0},1,2")
    write(tmp_path / "2.csv", f"{T0 + STEP},3,4", f"{T0 + 2 * STEP},5,6")
    assert [o.features["b"] for o in read(tmp_path).observations] == [2, 4, 6]
    with pytest.raises(OperatorError, match=r"2\.csv, lines 1 to 2: no file has a header line for these 3 columns"):
        read(tmp_path / "2.csv")


@pytest.mark.parametrize(
    ("row", "code", "column", "words"),
    [
        (f"{T0 + STEP},2025-11-03 09:00:00,1,2,3", "times-disagree", "timestamp", "timestamp says 2025-11-03 09:00"),
        (f"{T0 + STEP},2025-11-03 04:50:00,1,oops,3", "header", "n", "'oops', which is not a number"),
        (f"{T0 + STEP},0.25,1,2,3", "times-disagree", "timestamp", "timestamp says nothing"),
        (f"{T0 + STEP * 1_000_000},2035-05-07 10:05:00,1,2,3", "header", "time", "far outside of this log"),
        ("0.5,2025-11-03 04:50:00,1,2,3", "time", "time", "'0.5' is not a time"),
    ],
)
def test_a_wide_row_that_does_not_look_like_the_log_is_refused(
    tmp_path: Path, row: str, code: str, column: str, words: str
) -> None:
    write(tmp_path / "1.csv", "time,timestamp,a,b", f"{T0},2025-11-03 04:45:00,1,2", row)
    write(tmp_path / "2.csv", "time,timestamp,a,n,b", f"{T0 + 2 * STEP},2025-11-03 04:55:00,1,2,3")
    log = read(tmp_path)
    assert len(log.observations) == 2
    (refused,) = log.findings.refused
    assert (refused.code, refused.column, refused.first_line) == (code, column, 3)
    assert words in refused.reason


def test_a_header_that_breaks_the_columns_of_0_and_1_is_not_theirs(tmp_path: Path) -> None:
    flags = [f"is_{i}" for i in range(4)]
    lines = [f"{T0 + i * STEP},{i * 1.5}," + ",".join(str((i + j) % 2) for j in range(4)) for i in range(60)]
    wide = [f"{T0 + i * STEP},0,1,0,1,{i * 1.5},{i * 2.5}" for i in range(60, 80)]
    write(tmp_path / "1.csv", ",".join(["time", "price", *flags]), *lines, *wide)
    write(tmp_path / "2.csv", ",".join(["time", "price", "more", *flags]), f"{T0 + 90 * STEP},1,2,0,1,0,1")
    log = read(tmp_path)
    # `wide` puts numbers under two flags only; that can be chance. Under three it cannot.
    assert not log.findings.refused
    wide = [f"{T0 + i * STEP},0,1,0,{i * 3.5},{i * 1.5},{i * 2.5}" for i in range(60, 80)]
    write(tmp_path / "1.csv", ",".join(["time", "price", *flags]), *lines, *wide)
    (refused,) = read(tmp_path).findings.refused
    assert (refused.code, refused.rows) == ("header", 20)
    assert "3 columns that hold only 0 and 1 elsewhere" in refused.reason


def test_an_unfinished_last_line_is_refused_even_if_a_header_has_its_width(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "time,a", f"{T0},1")
    path = tmp_path / "2.csv"
    path.write_text(f"time,a,b\n{T0 + STEP},1,2\n{T0 + 2 * STEP},1")
    log = read(tmp_path)
    assert len(log.observations) == 2
    assert "the last line is not finished (2 of 3 cells and no line end)" in log.findings.refused[0].reason


def test_a_whole_last_line_without_line_end_is_read_and_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"time,a,b\n{T0},1,2\n{T0 + STEP},1,2.5")
    log = read(path)
    assert log.observations[1].features == {"a": 1.0, "b": 2.5}
    assert any("its last cell may be cut off" in note for note in log.findings.notes)


def test_a_quote_never_closed_costs_its_own_line_only(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "time,a,b", f"{T0},1,2", f'{T0 + STEP},"1,2', f"{T0 + 2 * STEP},3,4", f"{T0 + 3 * STEP},5,6"
    )
    log = read(path)
    assert [o.ts_ms for o in log.observations] == [T0, T0 + 2 * STEP, T0 + 3 * STEP]
    assert [(r.first_line, r.column, r.code) for r in log.findings.refused] == [(3, "a", "number")]
