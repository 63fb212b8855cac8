"""`regime preflight` on a real bot's reference, candles and trade lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regime_service.cli import main

pytestmark = pytest.mark.shared_data

DEAD = {
    "bb_position", "near_support", "near_resistance", "downtrend_confirmed", "volatility_asymmetry", "rsi_divergence",
    "macd_histogram_slope", "rsi_bullish_divergence", "rsi_bearish_divergence", "macd_bullish_divergence",
    "macd_bearish_divergence",
}  # fmt: skip
"""Named by whoever looked at the files by hand."""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    code = main(["preflight", "--json", *arguments])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_dead_duplicate_and_price_level_features_of_the_reference(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(capsys, "--features", str(shared / "data" / "reference_features_20251026_20251101.csv"))
    assert code == 0
    assert set(found["dead features"]["figures"]["features"]) == DEAD  # type: ignore[index]
    assert found["independent features"]["sentence"] == "181 live features carry about 13 independent ones."
    priced = set(found["price levels"]["figures"]["features"])  # type: ignore[index]
    assert {"open", "close", "ema_200", "ma_200", "vp_poc", "vwap", "bb_mid", "nearest_support"} <= priced
    assert not priced & {"rsi", "rsi_200", "atr_pct", "volume_sma", "price_vs_ma200", "macd"}
    same = [set(group) for group in found["duplicates"]["figures"]["groups"]]  # type: ignore[index]
    assert {"sma_20", "bb_mid", "ma_20"} in same


def test_the_last_candle_of_the_download_is_no_history(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was still forming; and averages of 200 candles get their known look-backs on real prices."""
    (tmp_path / "mine.py").write_text(
        "def features(candles):\n"
        "    close = candles.close\n"
        "    step = close.diff()\n"
        "    up = step.clip(lower=0).ewm(alpha=1 / 200, adjust=False).mean()\n"
        "    down = (-step.clip(upper=0)).ewm(alpha=1 / 200, adjust=False).mean()\n"
        "    return candles.assign(\n"
        "        ema_200=close.ewm(span=200, adjust=False).mean() / close, rsi_200=100 * up / (up + down),\n"
        "        z_100=(close - close.rolling(100).mean()) / close.rolling(100).std(),\n"
        "        total=(step.fillna(0) * candles.volume).cumsum(),\n"
        "    )[['ema_200', 'rsi_200', 'z_100', 'total']]\n",
        "utf-8",
    )
    code, found = run(
        capsys, "--function", f"{tmp_path}/mine.py:features", "--candles",
        str(shared / "data" / "ohlcv_5m_20250806_20251104.csv"), "--candles-max", "12000", "--live-candles", "300",
    )  # fmt: skip
    assert code == 1
    needed = found["look-back"]["figures"]
    assert needed["z_100"] == pytest.approx(101, abs=2)  # type: ignore[index]
    assert 400 <= needed["ema_200"] <= 1000 and 1400 <= needed["rsi_200"] <= 3000  # type: ignore[index, operator]
    assert found["depends on the start"]["figures"] == {"features": ["total"]}
    assert "The bot loads 300 candles and 2 features need more" in str(found["look-back"]["sentence"])


def test_a_score_that_says_nothing_is_too_sure_of_itself(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = shared / "data" / "trades" / "bt_enhanced_baseline_20250714_20251026.csv"
    code, found = run(capsys, "--trades", str(file), "--trained-until", "2025-09-30")
    assert code == 1
    assert found["score ranks outcomes"]["verdict"] == "WARN"
    assert found["claimed against realised"]["verdict"] == "FAIL"
    assert found["out of sample"]["figures"]["trades"] < 1225  # type: ignore[index, operator]
