"""References: files are read like logs, bodies all or nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime.errors import CallerError, OperatorError
from regime_service.logs import Caps, LogMapping, read_features, read_reference, reference_from_bytes
from regime_service.logs.reference import CONTENT_TYPES

T0 = 1_762_145_100_000
STEP = 300_000
CSV = (
    f"ts_ms,rsi,open,high,low,close,volume,probability_long,note\n{T0},1.5,1,2,1,2,3,0.5,x\n{T0 + STEP},,1,2,1,2,3,,y\n"
).encode()


def frame() -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(CSV))


def bodies() -> dict[str, bytes]:
    parquet = io.BytesIO()
    frame().to_parquet(parquet)
    return {
        "text/csv": CSV,
        "application/x-ndjson": frame().to_json(orient="records", lines=True).encode(),
        "application/vnd.apache.parquet": parquet.getvalue(),
    }


def test_the_three_kinds_of_body_are_the_same_reference() -> None:
    found = [reference_from_bytes(raw, kind, timeframe="5m", trained_until_ms=7)[0] for kind, raw in bodies().items()]
    assert set(bodies()) == set(CONTENT_TYPES)
    assert len({reference.reference_id for reference in found}) == 1
    reference = found[0]
    assert reference.names == ("rsi",)
    assert reference.trained_until_ms == 7
    assert reference.ts_ms is not None
    assert reference.ts_ms.tolist() == [T0, T0 + STEP]
    np.testing.assert_array_equal(reference.values, [[1.5], [np.nan]])
    assert reference.probability_long is not None
    np.testing.assert_array_equal(reference.probability_long, [0.5, np.nan])
    assert reference.probability_short is None


def test_a_body_streamed_to_disk_is_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(CSV)
    reference, findings = reference_from_bytes(tmp_path / "body", "text/csv; charset=utf-8")
    assert reference.rows == 2
    assert str(tmp_path) not in str(findings.to_builtins())


def test_without_time_rows_stay_as_they_stand() -> None:
    reference, findings = reference_from_bytes(b"a,b\n3,1\n1,2\n3,1\n", "text/csv")
    assert reference.ts_ms is None
    np.testing.assert_array_equal(reference.values[:, 0], [3, 1, 3])
    assert findings.balanced


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"", "text/csv", "no rows at all"),
        (b"a,b\n", "text/csv", "no rows at all"),
        (b"a,b\n1,2\n1,2\n1,x\n", "text/csv", "line 4, column b: 'x' is not a number"),
        (b"a,b\n1,2\n1,2,3\n", "text/csv", "line 3: 3 cells, but no header names so many columns"),
        (b"a,a\n1,2\n", "text/csv", "column 2: the name `a` stood there before"),
        (b"time,a\n1762145100,1\n1762145400,2\nsoon,3\n", "text/csv", "line 4, column time: 'soon' is not a time"),
        (b"ts_ms,note\n1762145100000,x\n", "text/csv", "there is no feature in it"),
        (b"{]\n", "application/x-ndjson", "line 1: not a complete line of JSON"),
        (b"[1]\n", "application/x-ndjson", "line 1: not an object"),
        (b'{"a":1}\n{"a":[2]}\n{"a":3}\n', "application/x-ndjson", "line 2, column a: '(list)' is not a number"),
        (b"a,b\n1,2\n", "application/vnd.apache.parquet", "cannot be read as Parquet"),
        (b"PAR1\0\0\0\0PAR1", "application/vnd.apache.parquet", "cannot be read as Parquet"),
        (bytes(range(256)), "text/csv", ""),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_refused_with_row_and_column(raw: bytes, kind: str, words: str) -> None:
    with pytest.raises(CallerError) as caught:
        reference_from_bytes(raw, kind)
    assert caught.value.status_hint == 422
    assert words in caught.value.detail
    assert caught.value.detail.endswith("Nothing was stored.")


def test_a_number_beyond_all_times_is_no_time_and_no_warning() -> None:
    with pytest.raises(CallerError, match="line 3, column ts_ms"):
        reference_from_bytes(b"ts_ms,a\n1762145100000,2\n1.7e308,1\n1762145700000,2\n", "text/csv")


def test_each_refused_row_is_named_in_the_errors() -> None:
    with pytest.raises(CallerError) as caught:
        reference_from_bytes(b"a,b\n1,2\n1,2\n1,x\n1,2\ny,2\n", "text/csv")
    assert [error.path for error in caught.value.errors] == ["[line 4].b", "[line 6].a"]


@pytest.mark.parametrize("caps", [Caps(rows=1), Caps(bytes=10), Caps(columns=0, rows=10)])
@pytest.mark.parametrize("kind", sorted(CONTENT_TYPES))
def test_bodies_beyond_the_caps_are_too_large(caps: Caps, kind: str) -> None:
    wide = pd.DataFrame({f"f{i}": [1.0, 2.0] for i in range(20)})
    parquet = io.BytesIO()
    wide.to_parquet(parquet)
    raw = {
        "text/csv": wide.to_csv(index=False).encode(),
        "application/x-ndjson": wide.to_json(orient="records", lines=True).encode(),
        "application/vnd.apache.parquet": parquet.getvalue(),
    }[kind]
    with pytest.raises(CallerError) as caught:
        reference_from_bytes(raw, kind, caps=caps)
    assert caught.value.status_hint == 413


@pytest.mark.parametrize("names", ["entry_price,exit_price,exit_time", "Open_Rate,close_rate,close_date"])
def test_a_list_of_trades_is_no_sample_of_features(tmp_path: Path, names: str) -> None:
    """Each of its numbers would become a feature, and everything after it would be nonsense that looks well."""
    (tmp_path / "list.csv").write_text(f"time,side,{names},pnl\n{T0},long,1,2,{T0 + 1},0.1\n", "utf-8")
    with pytest.raises(OperatorError, match=r"these are trades .* belong to --trades"):
        read_reference(tmp_path / "list.csv")
    with pytest.raises(OperatorError, match="these are trades"):
        read_features(tmp_path / "list.csv", model="m", symbol="s", timeframe="5m")
    with pytest.raises(CallerError, match="these are trades"):
        reference_from_bytes((tmp_path / "list.csv").read_bytes(), "text/csv")


def test_an_unknown_content_type_is_the_callers_matter() -> None:
    with pytest.raises(KeyError):
        reference_from_bytes(CSV, "application/x-python-pickle")


def test_a_file_lists_what_it_could_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"ts_ms,a,b\n1762145100000,1,2\n1762145400000,x,2\n1762145700000,1,3\n")
    reference, findings = read_reference(tmp_path / "a.csv", mapping=LogMapping(ignore=["b"]), timeframe="5m")
    assert (reference.rows, reference.names) == (2, ("a",))
    assert (findings.refused_rows, findings.missing_candles, findings.balanced) == (1, 1, True)
    with pytest.raises(OperatorError, match="there is no feature in it"):
        read_reference(tmp_path / "a.csv", mapping=LogMapping(ignore=["a", "b"]))


@settings(max_examples=150)
@given(raw=st.binary(max_size=200), kind=st.sampled_from(sorted(CONTENT_TYPES)))
def test_no_bytes_do_more_than_a_refusal(raw: bytes, kind: str) -> None:
    for body in (raw, b"PAR1" + raw + b"PAR1", b"a,b\n" + raw):
        try:
            reference_from_bytes(body, kind)
        except CallerError as error:
            assert error.detail
