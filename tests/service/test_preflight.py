"""`regime preflight`, as it is typed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regime_service.cli import main
from regime_service.preflight import computed

ROWS = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("preflight")
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(0.001 * rng.standard_normal(ROWS)))
    times = pd.date_range("2025-01-01", periods=ROWS, freq="5min", tz="UTC")
    pd.DataFrame({
        "time": times.astype("int64") // 10**6, "open": close, "high": close * 1.001, "low": close * 0.999,
        "close": close, "volume": rng.lognormal(size=ROWS),
    }).to_csv(made / "candles.csv", index=False)  # fmt: skip
    (made / "leaving.py").write_text("import sys\nsys.exit(4)\n", "utf-8")
    (made / "one.csv").write_text("rsi\n50\n", "utf-8")
    (made / "mine.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            import pandas as pd

            def good(candles):
                candles["scratch"] = 1.0
                made = pd.DataFrame(index=candles.index)
                made["ret"] = candles.close.pct_change()
                made["z"] = (candles.close - candles.close.rolling(100).mean()) / candles.close.rolling(100).std()
                return made.dropna()

            def bad(candles):
                made = good(candles)
                made["obv"] = (np.sign(candles.close.diff()).fillna(0) * candles.volume).cumsum()
                made["lead"] = candles.close.pct_change().shift(-1)
                return made

            def last(candles):
                return {"mean": float(candles.close.tail(30).mean() / candles.close.iloc[-1]), "size": None}

            def broken(candles):
                raise KeyError("vwap")

            def text(candles):
                return "none"

            def talks(candles):
                print("rows", len(candles))
                made = good(candles)
                return made.assign(side="long", time=made.index)

            def leaves(candles):
                raise SystemExit(3)

            def twice(candles):
                return good(candles).set_axis(["x", "x"], axis=1)

            def moved(candles):
                return good(candles).reset_index(drop=True)

            def dice(candles):
                return pd.DataFrame({"r": np.random.default_rng().random(len(candles))}, index=candles.index)

            def words(candles):
                return pd.DataFrame({"side": "long"}, index=candles.index)
            """
        ),
        "utf-8",
    )
    return made


def run(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    code = main(["preflight", "--json", *(argument.replace("@", f"{folder}/") for argument in arguments)])
    out = capsys.readouterr().out
    found = json.loads(out)
    assert out.count("\n") == 1 and found["verdict"] == ("FAIL" if code else found["verdict"])
    return code, {check["name"]: check for check in found["checks"]}


def test_a_good_function_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(
        folder, capsys, "--function", "@mine.py:good", "--candles", "@candles.csv", "--live-candles", "300"
    )  # fmt: skip
    assert code == 0
    # It drops the rows in which one of them is missing, so that both need what one needs.
    assert found["look-back"]["figures"] == {"ret": 100, "z": 100}
    assert {check["verdict"] for name, check in found.items() if name != "missing values"} == {"PASS"}


def test_a_bad_function_fails_and_each_fault_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(folder, capsys, "--function", "@mine.py:bad", "--candles", "@candles.csv", "--live-candles", "50")
    assert code == 1
    assert found["depends on the start"]["verdict"] == "FAIL"
    assert found["depends on the start"]["figures"] == {"features": ["obv"]}
    assert found["look-back"]["verdict"] == "FAIL"
    assert list(found["look-ahead"]["figures"]) == ["lead"]  # type: ignore[call-overload]


def test_a_function_of_the_last_candle_alone_will_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = run(folder, capsys, "--function", "@mine.py:last", "--candles", "@candles.csv")
    assert found["look-back"]["figures"] == {"mean": pytest.approx(30, abs=1), "size": 1}
    assert found["look-ahead"]["verdict"] == "PASS" and "dead features" not in found


def test_what_a_function_prints_is_not_our_answer_and_what_is_no_number_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--function", str(folder / "mine.py:talks"), "--candles", str(folder / "candles.csv"), "--json"]
    assert main(["preflight", *arguments]) == 0
    told = capsys.readouterr()
    found = {check["name"]: check for check in json.loads(told.out)["checks"]}
    assert "rows 2999" in told.err
    assert found["no numbers"]["verdict"] == "WARN" and found["no numbers"]["figures"] == {"features": ["side"]}
    assert set(found["look-back"]["figures"]) == {"ret", "z"}


def test_a_function_that_throws_dice_is_found_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(folder, capsys, "--function", "@mine.py:dice", "--candles", "@candles.csv")
    assert code == 1 and found["repeatable"]["verdict"] == "FAIL"
    assert found["repeatable"]["figures"] == {"features": ["r"]}


def test_text_for_people_says_what_was_not_looked_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--features", str(folder / "candles.csv")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "WARN price levels: 4 are in price units: close, high, low, open." in said
    assert "Not looked at: look-back and look-ahead (--function, --candles); what the model did (--trades)." in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to look at"),
        (["--function", "@mine.py:good"], "needs --candles"),
        (["--function", "mine", "--candles", "@candles.csv"], "with a colon"),
        (["--function", "@nowhere.py:f", "--candles", "@candles.csv"], "no file"),
        (["--function", "no_such_module_here:f", "--candles", "@candles.csv"], "cannot be imported"),
        (["--function", "@mine.py:nothing", "--candles", "@candles.csv"], "no function nothing"),
        (["--function", "@mine.py:broken", "--candles", "@candles.csv"], "raised KeyError: 'vwap'"),
        (["--function", "@mine.py:broken", "--candles", "@candles.csv"], "in mine.py, line"),
        (["--function", "@mine.py:text", "--candles", "@candles.csv"], "returned str"),
        (["--function", "@mine.py:leaves", "--candles", "@candles.csv"], "it called exit(3)"),
        (["--function", "@leaving.py:f", "--candles", "@candles.csv"], "it called exit(4)"),
        (["--function", "@mine.py:twice", "--candles", "@candles.csv"], "more than one column called x"),
        (["--function", "@mine.py:moved", "--candles", "@candles.csv"], "2,900 rows for 2,999 candles"),
        (["--function", "@mine.py:words", "--candles", "@candles.csv"], "no column of numbers"),
        (["--function", "@mine.py:good", "--candles", "@candles.csv", "--tolerance", "0"], "--tolerance"),
        (["--function", "@mine.py:good", "--candles", "@candles.csv", "--live-candles", "0"], "--live-candles"),
        (["--features", "@one.csv"], "there is 1 row; nothing can be told of fewer than 30"),
        (["--function", "@mine.py:good", "--candles", "@candles.csv", "--candles-max", "50"], "50 candles are too few"),
        (["--features", "@nothing.csv"], "nothing.csv"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["preflight", *(argument.replace("@", f"{folder}/") for argument in arguments)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and words in told.err and told.err.count("\n") == 1


def test_trades_are_judged_from_the_end_of_training_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(2)
    opened = pd.date_range("2025-03-01", periods=400, freq="6h")
    won = rng.random(400) < 0.4
    pd.DataFrame({
        "side": "long", "entry_time": opened, "exit_time": opened + pd.Timedelta("1h"), "entry_price": 100.0,
        "exit_price": np.where(won, 101.0, 99.0), "entry_prob": rng.uniform(0.8, 0.95, 400),
    }).to_csv(tmp_path / "trades.csv", index=False)  # fmt: skip
    file = str(tmp_path / "trades.csv")
    code, found = run(tmp_path, capsys, "--trades", file, "--trained-until", "2025-03-31")
    assert code == 1
    # The one that was opened at the very end of the last day was entered on a candle of that day.
    assert found["out of sample"]["figures"]["trades"] == 400 - 31 * 4 - 1  # type: ignore[index]
    assert found["claimed against realised"]["verdict"] == found["edge after fees"]["verdict"] == "FAIL"
    assert main(["preflight", "--trades", file, "--trained-until", "soon"]) == 2
    assert "YYYY-MM-DD" in capsys.readouterr().err


def test_answers_of_every_shape_are_lined_up_with_the_candles() -> None:
    index = pd.date_range("2025-01-01", periods=4, freq="5min", tz="UTC")
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [True, False, True, False], "c": list("wxyz")}, index=index)
    whole = computed(frame, index)
    assert whole.names == ("a", "b")
    np.testing.assert_array_equal(whole.values[:, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(computed(frame.reset_index(drop=True), index).values, whole.values)
    np.testing.assert_array_equal(computed(frame.iloc[2:], index).values[:, 0], [np.nan, np.nan, 3, 4])
    np.testing.assert_array_equal(computed(frame["a"], index).values[:, 0], [1, 2, 3, 4])
    for answer in ({"x": 5, "y": None}, pd.Series({"x": 5.0, "y": np.nan})):
        last = computed(answer, index)
        assert last.names == ("x", "y")
        np.testing.assert_array_equal(last.values, [[np.nan] * 2] * 3 + [[5.0, np.nan]])
