"""Matching, ranking and words of the doctor, and what each search must not believe."""

from __future__ import annotations

import numpy as np
import pytest

from regime.parity import APART, CLEAN, TOO_FEW, Table, Tolerance, compare
from regime.parity.findings import CAUSES

STEP = 300_000
START = 1_762_000_200_000
NAMES = ("rsi", "atr", "volume_ratio", "trend")


def values(rows: int = 300, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slow = np.cumsum(rng.standard_normal(rows))
    return np.column_stack([rng.standard_normal((rows, 3)), slow])


def table(data: np.ndarray, names: tuple[str, ...] = NAMES, start: int = START, **more: object) -> Table:
    return Table(start + STEP * np.arange(len(data)), names, data, **more)  # type: ignore[arg-type]


def test_every_candle_without_a_partner_is_counted_and_placed() -> None:
    data = values()
    live, backtest = table(data), table(data)
    keep = np.ones(300, dtype=bool)
    keep[[100, 101]] = False
    live = Table(live.ts_ms[10:], NAMES, data[10:])
    backtest = Table(backtest.ts_ms[keep][:-5], NAMES, data[keep][:-5])
    report = compare(live, backtest)
    assert report.clean
    assert (report.live_only.before, report.live_only.among, report.live_only.after) == (0, 2, 5)
    assert (report.backtest_only.before, report.backtest_only.among, report.backtest_only.after) == (10, 0, 0)
    assert report.live_only.first_ms == START + 100 * STEP
    assert report.matched + report.live_only.rows == report.live_rows
    assert report.matched + report.backtest_only.rows == report.backtest_rows


def test_two_points_are_no_proof() -> None:
    data = values(2)
    report = compare(table(data), table(data))
    assert report.verdict.cause == TOO_FEW
    assert not report.clean and not report.conclusive
    assert "only 2 candles" in report.verdict.sentence


def test_other_hours_are_compared_by_names_and_laws_only() -> None:
    report = compare(table(values(seed=1)), table(values(seed=2), start=START + 7_000 * STEP))
    assert report.verdict.cause == APART
    assert report.matched == 0 and not report.conclusive
    assert report.columns[0].ks is not None and report.columns[0].correlation is None
    percent = values(seed=1) * [1.0, 100.0, 1.0, 1.0]
    named = compare(table(percent), table(values(seed=2), start=START + 7_000 * STEP))
    assert named.verdict.cause == "unit" and "atr" in named.verdict.evidence[0]


def test_two_faults_are_both_listed_and_the_larger_is_first() -> None:
    data = values()
    live = data * [100.0, 1.0, 1.0, 1.0]
    live[::10, 2] = np.nan
    report = compare(table(live), table(data))
    assert [finding.cause for finding in report.findings] == ["unit", "filled"]
    assert report.findings[0].share > 0.8
    assert sum(finding.share for finding in report.findings) == pytest.approx(1.0)


def test_what_nothing_explains_is_said_to_be_unexplained() -> None:
    data = values()
    other = data.copy()
    other[:, 1] = np.random.default_rng(9).standard_normal(300)
    report = compare(table(other), table(data))
    assert report.verdict.cause == "unexplained"
    assert report.findings[0].share == 1.0


def test_probabilities_alone_of_two_models_are_no_look_back_problem() -> None:
    rng = np.random.default_rng(5)
    names = ("probability_long",)
    report = compare(table(rng.uniform(size=(200, 1)), names), table(rng.uniform(size=(200, 1)), names))
    assert report.verdict.sentence.startswith("not a look-back problem: no lag or window explains it")
    (figures,) = report.probabilities
    assert figures.candles == 200 and 0 < figures.within_5_percent < figures.over_0_1 < 1


def test_a_look_back_mean_of_probabilities_is_found() -> None:
    """The control of the test above: where a window does explain it, it is said."""
    p = np.random.default_rng(5).uniform(size=220)
    smooth = np.convolve(p, np.ones(5) / 5, mode="valid")[:200]
    names = ("probability_long",)
    report = compare(table(smooth[:, None], names), table(p[4:204, None], names))
    assert report.verdict.cause == "other-window"
    assert "5 candles" in report.verdict.evidence[0]


def test_a_shift_is_said_in_the_right_direction() -> None:
    data = values()
    late = compare(table(data, start=START + STEP), table(data))
    assert late.verdict.cause == "shift" and "LIVE is 1 candle late" in late.verdict.evidence[0]
    early = compare(table(data, start=START - 2 * STEP), table(data))
    assert "LIVE is 2 candles early" in early.verdict.evidence[0]


def test_some_columns_of_the_candle_before() -> None:
    data = values()
    live = data.copy()
    live[1:, 1] = data[:-1, 1]
    report = compare(table(live), table(data))
    assert report.verdict.cause == "shift" and report.findings[0].columns == ("atr",)
    assert "LIVE holds BACKTEST's value of 1 candle before" in report.verdict.evidence[0]


def test_a_zone_without_a_common_candle_is_still_found() -> None:
    data = values(60)
    report = compare(table(data, start=START + 9 * 12 * STEP), table(data))
    assert report.verdict.cause == "time-zone" and "9 h later" in report.verdict.evidence[0]


def test_daylight_saving_time_inside_the_log() -> None:
    data = values(600)
    ts = START + STEP * np.arange(600) + np.where(np.arange(600) < 300, 24, 12) * STEP
    _, keep = np.unique(ts, return_index=True)
    report = compare(Table(ts[keep], NAMES, data[keep]), table(data))
    assert report.verdict.cause == "time-zone"
    assert any("daylight saving time" in sentence for sentence in report.verdict.evidence)


def test_a_label_or_a_column_only_live_has_is_no_missing_input() -> None:
    data = values()
    other = data.copy()
    other[:, 2] = np.random.default_rng(0).standard_normal(300)
    report = compare(table(data, ("rsi", "atr", "mine", "trend")), table(other, ("rsi", "atr", "target_12", "trend")))
    assert report.clean
    assert any("mine" in note for note in report.notes) and any("target_12" in note for note in report.notes)


def test_a_feature_that_is_there_by_name_only_is_missing() -> None:
    data = values()
    live = data.copy()
    live[:, 1] = 0.0
    report = compare(table(live), table(data))
    assert report.verdict.cause == "missing-column" and "nothing but 0" in report.verdict.evidence[0]


def test_log_times_prove_a_forming_candle_where_there_are_no_prices() -> None:
    data = values()
    live = data.copy()
    rows = np.arange(0, 300, 7)
    live[rows] += np.random.default_rng(1).standard_normal((len(rows), 4))
    log_ms = (START + STEP * np.arange(300) + STEP + 5_000).astype(float)
    unproven = compare(table(live, log_ms=log_ms), table(data))
    assert unproven.verdict.cause == "unexplained"
    log_ms[rows] -= 60_000
    report = compare(table(live, log_ms=log_ms), table(data))
    assert report.verdict.cause == "forming-candle"
    assert "written before their candle closed" in report.verdict.evidence[0]


def test_the_same_ranking_by_another_calibration_is_said() -> None:
    data = values()
    p = 1 / (1 + np.exp(-data[:, 0]))
    names = (*NAMES, "probability_long")
    report = compare(table(np.column_stack([data, p**2]), names), table(np.column_stack([data, p]), names))
    assert report.verdict.cause == "other-model"
    assert any("another calibration" in sentence for sentence in report.verdict.evidence)


def test_decimals_are_no_difference_and_coarse_ones_are_named() -> None:
    data = values()
    assert compare(table(data.round(6)), table(data)).clean
    assert compare(table(data.astype(np.float32).astype(float)), table(data)).clean
    coarse = data.copy()
    coarse[:, 0] = coarse[:, 0].round(1)
    report = compare(table(coarse), table(data))
    assert report.verdict.cause == "rounded" and "steps of 0.1" in report.verdict.evidence[0]


def test_the_tolerance_is_what_one_says() -> None:
    data = values() + 50
    near = data * (1 + 3e-4)
    assert not compare(table(near), table(data)).clean
    assert compare(table(near), table(data), tolerance=Tolerance(relative=1e-3)).verdict.cause == CLEAN


def test_an_empty_or_alien_table_is_refused() -> None:
    data = values()
    with pytest.raises(ValueError, match="LIVE has no rows"):
        compare(Table(np.zeros(0, dtype=np.int64), NAMES, np.zeros((0, 4))), table(data))
    with pytest.raises(ValueError, match="no column in common"):
        compare(table(data, ("a", "b", "c", "d")), table(data))
    with pytest.raises(ValueError, match="15 min"):
        compare(Table(START + 3 * STEP * np.arange(300), NAMES, data), table(data))
    with pytest.raises(ValueError, match="one row on each side"):
        compare(table(data[:1]), table(data[:1]))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ts_ms": np.array([2, 1])}, "rise"),
        ({"names": ("a", "a")}, "twice"),
        ({"values": np.zeros((3, 2))}, "do not fit"),
        ({"values": np.full((2, 2), np.inf)}, "infinite"),
        ({"log_ms": np.zeros(3)}, "time of writing"),
    ],
)
def test_a_table_that_is_none_is_refused(more: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"ts_ms": np.array([1, 2]), "names": ("a", "b"), "values": np.zeros((2, 2)), **more}
    with pytest.raises(ValueError, match=words):
        Table(**given)  # type: ignore[arg-type]


def test_no_tolerance_outside_of_0_to_1() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Tolerance(relative=2.0)


def test_every_cause_says_what_to_do() -> None:
    for code, cause in CAUSES.items():
        assert cause.code == code and cause.title and cause.do.endswith(".")


def test_with_candles_of_an_hour_one_hour_is_a_shift_and_nine_are_a_zone() -> None:
    hour = 3_600_000
    data = values()
    ts = hour * (START // hour + np.arange(300))
    backtest = Table(ts, NAMES, data)
    one = compare(Table(ts + hour, NAMES, data), backtest)
    assert one.verdict.cause == "shift" and any("also an hour" in sentence for sentence in one.verdict.evidence)
    assert compare(Table(ts + 9 * hour, NAMES, data), backtest).verdict.cause == "time-zone"


@pytest.mark.parametrize(
    ("name", "input_"), [("trade_count", True), ("macd_signal", True), ("signal", False), ("fwd_ret", False)]
)
def test_which_column_of_the_backtest_is_taken_for_a_label(name: str, input_: bool) -> None:
    data = values()
    live = Table(START + STEP * np.arange(300), NAMES[:3], data[:, :3])
    report = compare(live, table(data, (*NAMES[:3], name)))
    assert (report.verdict.cause == "missing-column") is input_
