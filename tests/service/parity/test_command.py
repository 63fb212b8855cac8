"""`regime parity` as a command: files as bots write them, exit codes, what is printed and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from regime_service.cli import main

STEP = 300_000
START = 1_762_000_200_000


def rows(count: int = 60, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, size=(count, 3)).round(6)


def write(
    file: Path, data: np.ndarray, header: str = "ts_ms,rsi,atr,prob_long", *, offset_ms: int = 0, text: str = ""
) -> str:
    lines = [header]
    for i, row in enumerate(data):
        lines.append(",".join([str(START + i * STEP + offset_ms), *(f"{v:.10g}" for v in row)]) + text)
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return str(file)


def test_clean_is_0_and_says_on_how_many_candles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = write(tmp_path / "live.csv", rows())
    backtest = write(tmp_path / "bt.csv", rows(), "timestamp,rsi,atr,probability_long")
    assert main(["parity", live, backtest]) == 0
    said = capsys.readouterr().out
    assert "Verdict: clean: 3 columns agree on all of 60 candles in common." in said
    assert "60 candles of 5 min in common (60 rows of LIVE, 60 of BACKTEST)" in said


def test_a_difference_is_1_with_its_cause_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = write(tmp_path / "live.csv", rows() * [1.0, 100.0, 1.0])
    assert main(["parity", live, write(tmp_path / "bt.csv", rows())]) == 1
    said = capsys.readouterr().out
    assert said.startswith(
        "Verdict: another unit or scaler.\n  atr: LIVE = 100 x BACKTEST (a percentage against a fraction)."
    )
    assert "2 columns agree on every candle." in said


def test_a_percentage_as_probability_is_a_unit_and_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = write(tmp_path / "live.csv", rows() * [1.0, 1.0, 100.0])
    assert main(["parity", live, write(tmp_path / "bt.csv", rows()), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"]["cause"] == "unit"
    assert report["findings"][0]["columns"] == ["probability_long"]
    assert report["reading"]["live"]["refused_rows"] == 0


def test_too_few_candles_are_2_and_nothing_is_called_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / name, rows(2)) for name in ("live.csv", "bt.csv")]
    assert main(["parity", *files]) == 2
    out, err = capsys.readouterr()
    assert "only 2 candles in common" in err and "clean:" not in out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--timeframe", "5x"], "unknown timeframe"),
        (["--tolerance", "2"], "--tolerance"),
        (["--pair", "BTC/USDT", "--all-pairs"], "one of them"),
        (["--pair", "BTC/USDT"], "not on both sides"),
        (["--columns", "live"], "two words"),
    ],
)
def test_wrong_usage_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str) -> None:
    files = [write(tmp_path / name, rows()) for name in ("live.csv", "bt.csv")]
    assert main(["parity", *files, *more]) == 2
    assert words in capsys.readouterr().err


def test_files_that_cannot_be_compared_are_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = write(tmp_path / "live.csv", rows())
    assert main(["parity", live, str(tmp_path / "none.csv")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["parity", live, write(tmp_path / "bt.csv", rows(), "ts_ms,a,b,c")]) == 2
    assert "no column in common" in capsys.readouterr().err
    assert main(["parity", live]) == 2
    assert "--columns LIVE,BACKTEST" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "more"),
    [
        ("ts_ms,prod_long,backtest_long,note", []),
        ("ts_ms,long_live,long_bt,note", []),
        ("ts_ms,mine_long,theirs_long,note", ["--columns", "mine,theirs"]),
    ],
)
def test_one_file_with_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, more: list[str]
) -> None:
    data = rows()
    data[:, 1] = data[:, 0]
    assert main(["parity", write(tmp_path / "both.csv", data, header), *more]) == 0
    said = capsys.readouterr().out
    assert "1 column agrees on all of 60 candles" in said
    assert "probability_long: mean |difference| 0.0000" in said
    assert "Of neither side, not compared: note." in said


def test_moments_of_writing_are_put_on_the_candle_that_had_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(2)
    live = tmp_path / "live.csv"
    lines = ["timestamp,rsi,atr,prob_long"]
    for i, row in enumerate(rows()):
        at = START + (i + 1) * STEP + int(rng.integers(2_000, 20_000))
        lines.append(",".join([str(at), *map(str, row)]))
    live.write_text("\n".join(lines), "utf-8")
    assert main(["parity", str(live), write(tmp_path / "bt.csv", rows())]) == 0
    assert "The times are moments of writing" in capsys.readouterr().out


def test_a_few_late_rows_stay_on_their_candle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backtest = write(tmp_path / "bt.csv", rows())
    text = Path(backtest).read_text("utf-8").replace(str(START + 7 * STEP), str(START + 7 * STEP + 4_321))
    (tmp_path / "live.csv").write_text(text, "utf-8")
    assert main(["parity", str(tmp_path / "live.csv"), backtest]) == 0
    assert "1 row off the grid of candles" in capsys.readouterr().out


def test_markets_of_one_file_and_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, change in (("live", 1.0), ("bt", 100.0)):
        folder = tmp_path / name
        write(folder / ("BTC_USDT-5m.csv" if name == "bt" else "BTC-USDT.csv"), rows(seed=1))
        write(folder / ("ETH_USDT-5m.csv" if name == "bt" else "ETH-USDT.csv"), rows(seed=2) * [change, 1, 1])
    folders = [str(tmp_path / "live"), str(tmp_path / "bt")]
    assert main(["parity", *folders, "--all-pairs", "--json"]) == 1
    reports = json.loads(capsys.readouterr().out)
    assert [(r["pair"], r["verdict"]["cause"]) for r in reports] == [("BTC-USDT", "clean"), ("ETH-USDT", "unit")]
    assert main(["parity", *folders, "--pair", "BTC/USDT"]) == 0
    assert "== BTC-USDT" in capsys.readouterr().out

    both = tmp_path / "both.csv"
    text = ["pair,ts_ms,rsi,atr,prob_long"]
    for name, seed in (("BTC/USDT", 1), ("ETH/USDT", 2)):
        text += [f"{name},{START + i * STEP}," + ",".join(map(str, row)) for i, row in enumerate(rows(seed=seed))]
    both.write_text("\n".join(text) + "\n", "utf-8")
    assert main(["parity", str(both), str(both)]) == 2, "two markets are not to be mixed"
    assert "names 2 different ones" in capsys.readouterr().err
    assert main(["parity", str(both), str(both), "--all-pairs"]) == 0
    assert main(["parity", str(both), str(both), "--pair", "ETH-USDT"]) == 0


def test_the_folder_holds_a_page_a_table_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = write(tmp_path / "live.csv", rows() * [1.0, 100.0, 1.0], "ts_ms,<b>rsi</b>,atr,prob_long")
    backtest = write(tmp_path / "bt.csv", rows(), "ts_ms,<b>rsi</b>,atr,prob_long")
    out = tmp_path / "out"
    assert main(["parity", live, backtest, "--out", str(out)]) == 1
    page = (out / "report.html").read_text("utf-8")
    assert "another unit or scaler" in page and "<b>rsi</b>" not in page and "&lt;b&gt;rsi" in page
    assert "://" not in page, "the page asks nobody for anything"
    header, *lines = (out / "columns.csv").read_text("utf-8").splitlines()
    assert header.startswith("name,kind,candles") and len(lines) == 3
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["matched"] == 60 and report["clean"] is False
    capsys.readouterr()
    (tmp_path / "file").write_text("", "utf-8")
    assert main(["parity", live, backtest, "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_json_lines_and_parquet_hold_the_same(tmp_path: Path) -> None:
    import pandas as pd

    data = rows()
    lines = [
        json.dumps({"ts_ms": START + i * STEP, "features": {"rsi": r, "atr": a}, "probabilities": {"long": p},
                    "candle": {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0}})
        for i, (r, a, p) in enumerate(data.tolist())
    ]  # fmt: skip
    (tmp_path / "live.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    frame = pd.DataFrame(data, columns=["rsi", "atr", "prob_long"])
    frame.insert(0, "timestamp", pd.to_datetime(START + STEP * np.arange(len(data)), unit="ms", utc=True))
    frame.to_parquet(tmp_path / "bt.parquet")
    assert main(["parity", str(tmp_path / "live.jsonl"), str(tmp_path / "bt.parquet")]) == 0


def test_many_columns_and_rows_without_a_partner_are_said_and_cut_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.random.default_rng(3).standard_normal((80, 25)).round(6)
    header = "ts_ms," + ",".join(f"f{i}" for i in range(25))
    other = data + np.random.default_rng(4).standard_normal((80, 25)).round(6)
    live = write(tmp_path / "live.csv", data[5:], header, offset_ms=5 * STEP)
    assert main(["parity", live, write(tmp_path / "bt.csv", other[:70], header)]) == 1
    said = capsys.readouterr().out
    assert "... and 5 more columns that differ" in said
    assert "Only in LIVE: 10 rows, 0 before the other side begins, 0 among its rows, 10 after it ends." in said
    assert "Only in BACKTEST: 5 rows, 5 before" in said


def test_other_hours_show_distributions_and_are_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = write(tmp_path / "live.csv", rows(seed=1))
    backtest = write(tmp_path / "bt.csv", rows(seed=2), offset_ms=90 * 86_400_000)
    assert main(["parity", live, backtest]) == 2
    out, err = capsys.readouterr()
    assert "no candle is in both files" in err
    assert "mean BACKTEST" in out and "Run the backtest's code over the hours of the live log" in out


def test_two_causes_are_both_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = rows()
    live = data * [1.0, 100.0, 1.0]
    live[5:11, 0] = 0.0
    write(tmp_path / "live.csv", live)
    out = tmp_path / "out"
    assert main(["parity", str(tmp_path / "live.csv"), write(tmp_path / "bt.csv", data), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "Also found (filled): missing values are filled differently; 9% of what differs." in said
    assert "Also: missing values are filled differently" in (out / "report.html").read_text("utf-8")
