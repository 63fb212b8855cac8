"""`regime sweep`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regime_service.cli import main
from regime_service.sweep import read_grid


@pytest.fixture(scope="module")
def trade_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    count = 240
    opened = pd.date_range("2025-03-01", periods=count, freq="2h")
    won = rng.random(count) < np.where(np.arange(count) < 120, 0.65, 0.3)
    file = tmp_path_factory.mktemp("sweep") / "trades.csv"
    pd.DataFrame({
        "side": "long", "entry_time": opened, "exit_time": opened + pd.Timedelta("1h"), "entry_price": 100.0,
        "exit_price": np.where(won, 101.0, 99.0), "entry_prob": rng.uniform(0.8, 0.95, count),
    }).to_csv(file, index=False)  # fmt: skip
    return file


def test_a_grid_is_played_over_processes_and_told_in_a_table_a_page_and_json(
    trade_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "sweep",
        "--trades",
        str(trade_list),
        "--grid",
        "false_pause_trades=50,1000",
        "preset=default,seed-rules",
    ]
    assert main([*arguments, "--out", str(tmp_path / "one"), "--jobs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tried"], found["trades"], found["held_out_trades"]) == (4, 240, 48)
    choices = [row["choice"] for row in found["rows"]]
    assert sorted(map(str, choices)) == sorted(
        str({"false_pause_trades": each, "preset": preset})
        for each in (50, 1000)
        for preset in ("default", "seed-rules")
    )
    profits = [row["profit_ratio"] for row in found["rows"]]
    assert profits == sorted(profits, reverse=True) and len(set(profits)) > 1
    assert json.loads((tmp_path / "one/sweep.json").read_text("utf-8")) == found
    page = (tmp_path / "one/sweep.html").read_text("utf-8")
    assert page.count('class="mark long"') == 4 and "://" not in page and "<img" not in page
    assert main([*arguments, "--out", str(tmp_path / "two"), "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "4 configurations were tried on 240 trades" in said and "held-out end" in said
    assert (tmp_path / "one/sweep.json").read_bytes() == (tmp_path / "two/sweep.json").read_bytes(), (
        "how many processes there are changes nothing"
    )


def test_values_are_read_as_what_they_are() -> None:
    assert read_grid(["a=1,2.5,x", "b=true,false", "c=-3"]) == {"a": [1, 2.5, "x"], "b": [True, False], "c": [-3]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "preset"], "KEY=VALUE"),
        (["--grid", "a=1", "a=2"], "stands twice"),
        (["--grid", "entry=0.8,,0.9"], "a value is missing between two commas"),
        (["--grid", "drawdown.nope=1"], "rule 'drawdown' has no option `nope`; known are"),
        (["--grid", "preset=default", "--jobs", "-1"], "--jobs"),
        (["--grid", "nothing=1"], "unknown key `nothing`"),
        (["--grid", "preset=default", "--folds", "1"], "--folds"),
        (["--grid", "preset=default", "--held-out", "0.9"], "--held-out"),
        (["--grid", *(f"{key}=" + ",".join(map(str, range(1, 41))) for key in ("stale_after", "cooldown_candles",
                                                                               "probation_candles"))], "64,000"),
    ],
)  # fmt: skip
def test_wrong_usage_is_said_before_any_work(
    trade_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["sweep", "--trades", str(trade_list), "--out", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_trades_there_is_nothing_to_judge_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--grid", "preset=default", "--out", str(tmp_path)]) == 2
    assert "--trades" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_played(
    trade_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regime_service.sweep._play", None)
    (tmp_path / "file").write_text("", "utf-8")
    arguments = ["sweep", "--trades", str(trade_list), "--grid", "preset=default", "--out", str(tmp_path / "file")]
    assert main(arguments) == 2
    assert f"{tmp_path / 'file'}: cannot be written" in capsys.readouterr().err
