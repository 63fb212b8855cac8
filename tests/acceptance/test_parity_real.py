"""`regime parity` on the sample data: figures worked out by hand, and the faults that are known to be in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regime.parity import CLEAN, compare
from regime_service.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from parity_worlds import FAULTS, OF_THE_TABLE, STEP, Material, clean, read_bars, read_logged

pytestmark = pytest.mark.shared_data


def parity(capsys: pytest.CaptureFixture[str], *files: Path) -> tuple[int, dict[str, Any]]:
    code = main(["parity", *map(str, files), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def data(shared: Path) -> Path:
    return shared / "data"


def test_six_hours_of_probabilities_are_no_look_back_problem(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = parity(capsys, data / "signals_production_vs_backtest_6h.csv")
    assert code == 1 and report["matched"] == 72
    (long,) = (p for p in report["probabilities"] if p["name"] == "probability_long")
    assert f"{long['mean_difference']:.4f}" == "0.1630"
    assert f"{long['largest_difference']:.4f}" == "0.4428"
    assert f"{long['over_0_1']:.1%}" == "77.8%"
    assert f"{long['correlation']:.3f}" == "0.225"
    assert report["verdict"]["cause"] == "unexplained"
    assert report["verdict"]["sentence"].startswith("not a look-back problem: no lag or window explains it")


def test_two_candle_files_of_the_same_weeks_are_two_feeds(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = parity(
        capsys, data / "ohlcv_5m_other_feed_20251006_20251103.csv", data / "ohlcv_5m_20250806_20251104.csv"
    )
    assert code == 1 and report["matched"] == 8064
    assert report["verdict"]["cause"] == "other-feed"
    prices, _, volume = report["verdict"]["evidence"][:3]
    assert "99 % within 2.2 bps" in prices
    assert "volume is 3.55 times" in volume


def test_the_last_row_of_a_download_and_a_misnamed_column_are_found(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = parity(capsys, data / "production_features", data / "ohlcv_5m_20250806_20251104.csv")
    assert code == 1 and report["matched"] == 263 and report["differing_candles"] == 1
    assert report["verdict"]["cause"] == "forming-candle"
    said = " ".join(report["verdict"]["evidence"])
    assert "2025-11-04 16:00" in said and "103408.8 against 103269.4" in said and "last row of BACKTEST" in said
    assert any("logged_at_kst is misnamed" in sentence for sentence in report["reading"]["sentences"])
    assert report["live_only"]["rows"] + report["matched"] == report["live_rows"]


def test_logged_candles_are_those_of_the_first_feed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control of the two tests above: where nothing is wrong, nothing is said."""
    code, report = parity(
        capsys, data / "reference_features_20251026_20251101.csv", data / "ohlcv_5m_20250806_20251104.csv"
    )
    assert code == 0 and report["matched"] == 1707 and report["clean"]


def test_a_log_against_a_reference_of_other_days_proves_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = parity(capsys, data / "production_features", data / "reference_features_20251026_20251101.csv")
    assert code == 2 and report["matched"] == 0 and not report["clean"]
    assert report["verdict"]["cause"] == "no-candle-in-common"
    assert any(column["ks"] > 0.5 for column in report["columns"])


def test_simple_features_of_the_log_match_their_recomputation(data: Path, tmp_path: Path) -> None:
    """What the users found, too: the look-back is not at fault. Recomputed from candles, written, compared as files."""
    bars = read_bars(data / "ohlcv_5m_20250806_20251104.csv")
    change = bars.c[1:] / bars.c[:-1] - 1
    mean = np.convolve(bars.c, np.ones(10) / 10, mode="valid")
    lines = ["time,close_change_1,sma_10"]
    rows = range(len(bars.ts) - 1000, len(bars.ts))
    lines += [f"{bars.ts[i]},{float(change[i - 1])!r},{float(mean[i - 9])!r}" for i in rows]
    file = tmp_path / "recomputed.csv"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    assert main(["parity", str(data / "production_features"), str(file)]) == 0


@pytest.fixture(scope="module")
def materials(shared: Path) -> list[Material]:
    data = shared / "data"
    return [
        read_bars(data / "ohlcv_5m_20250806_20251104.csv"),
        read_logged(data / "reference_features_20251026_20251101.csv"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["clean", *FAULTS])
def test_a_fault_planted_on_real_candles_and_features_is_named_first(materials: list[Material], fault: str) -> None:
    for number, material in enumerate(materials if fault in (CLEAN, *OF_THE_TABLE) else materials[:1]):
        named = []
        for run in range(6):
            live, backtest = (clean if fault == CLEAN else FAULTS[fault])(
                np.random.default_rng([815, number, run]), material
            )
            named.append(compare(live, backtest, step_ms=STEP).verdict.cause)
        assert named.count(fault) >= (6 if fault == CLEAN else 5), named
