"""Checks before a model goes live: what is planted is found and named, and clean data pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from regime.lookback import Memory, Peek
from regime.outcomes import Outcome
from regime.preflight import (
    Check,
    check_lookahead,
    check_lookback,
    check_model,
    check_values,
    cumulative,
    effective_number,
    in_price_units,
    worst,
)

Floats = NDArray[np.float64]
DAY_MS = 86_400_000


def clean(seed: int = 1, rows: int = 5000, features: int = 6) -> Floats:
    """Unrelated features, each of which comes back."""
    noise = np.random.default_rng(seed).standard_normal((rows, features))
    return np.asarray(lfilter([1], [1, -0.9], noise, axis=0))


def price(seed: int = 2, rows: int = 5000) -> Floats:
    return np.asarray(100 * np.exp(np.cumsum(0.002 * np.random.default_rng(seed).standard_normal(rows))))


def named(values: Floats, close: Floats | None = None) -> dict[str, Check]:
    return {c.name: c for c in check_values([f"f{i}" for i in range(values.shape[1])], values, close)}


def test_clean_features_pass_every_check() -> None:
    found = named(clean(), price())
    assert {c.verdict for c in found.values()} == {"PASS"}
    assert set(found) == {
        "dead features", "missing values", "price levels", "running totals", "duplicates", "independent features",
    }  # fmt: skip


def test_dead_features_are_named() -> None:
    values = clean()
    values[:, 1], values[:, 4], values[:, 5] = 3.0, np.nan, 0.0
    values[7, 5] = 1.0
    found = named(values)["dead features"]
    assert (found.verdict, found.figures["features"]) == ("WARN", ["f1", "f4"])
    assert "2 of 6 never change: f1, f4" in found.sentence


@pytest.mark.parametrize(("share", "verdict"), [(0.005, "PASS"), (0.05, "WARN"), (0.5, "FAIL")])
def test_missing_values_are_counted(share: float, verdict: str) -> None:
    values = clean()
    values[: round(share * len(values)), 2] = np.nan
    found = named(values)["missing values"]
    assert found.verdict == verdict
    assert found.figures["share"] == ({} if verdict == "PASS" else {"f2": pytest.approx(share)})


def test_features_that_are_the_same_up_to_unit_and_sign_are_grouped() -> None:
    values = clean()
    values[:, 3], values[:, 5] = -1e6 * values[:, 0] + 4, values[:, 1] * 0.1
    values[:, 2] = values[:, 4] + 0.1 * values[:, 2]
    found = named(values)["duplicates"]
    assert found.verdict == "WARN"
    assert found.figures == {"groups": [["f0", "f3"], ["f1", "f5"]], "pairs_above_0.95": 3}


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_the_effective_number_of_independent_features_is_that_of_the_originals(copies: int) -> None:
    x = np.random.default_rng(3).standard_normal((20_000, 4))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    assert effective_number(np.repeat(x, copies, axis=1)) == pytest.approx(4, abs=0.01)


def test_without_features_there_is_no_effective_number() -> None:
    assert math.isnan(effective_number(np.empty((10, 0))))
    assert named(np.ones((300, 2)))["independent features"].sentence == "There is no live feature."


def test_prices_and_what_lies_near_them_are_price_levels_and_ratios_are_not() -> None:
    close = price()
    average = np.asarray(lfilter([0.02], [1, -0.98], close, zi=[0.98 * close[0]])[0])
    values = np.column_stack(
        [average, close * 1.02, close * 1350.0, close / average - 1, np.diff(np.log(close), prepend=0.0), clean()[:, 0]]
    )
    np.testing.assert_array_equal(in_price_units(values, close), [True, True, True, False, False, False])
    assert named(values, close)["price levels"].verdict == "WARN"


def test_running_totals_are_found_and_slow_features_are_not() -> None:
    rng = np.random.default_rng(5)
    rows = 8640
    close = price(6, rows)
    noise = rng.standard_normal(rows + 4000)
    found = {"total": 0, "counter": 0, "day": 0, "slow": 0, "price": 0}
    for _ in range(20):
        columns = {
            "total": np.cumsum(rng.standard_normal(rows) * rng.lognormal(size=rows)),
            "counter": np.cumsum(rng.poisson(3.0, rows) + 1.0),
            "day": np.convolve(rng.permutation(noise), np.ones(288), "same")[4000:],
            "slow": np.asarray(lfilter([1], [1, -0.995], rng.permutation(noise)))[4000:],
            "price": close + 3.0,
        }
        marks = cumulative(np.column_stack(list(columns.values())), close)
        for name, mark in zip(columns, marks, strict=True):
            found[name] += int(mark)
    assert found["counter"] == 20 and found["total"] >= 12
    assert found["day"] == found["slow"] == found["price"] == 0


def test_a_short_sample_says_nothing_about_running_totals_but_counters() -> None:
    walk = np.cumsum(np.random.default_rng(1).standard_normal((1700, 8)), axis=0)
    assert not cumulative(walk).any()
    assert cumulative(np.arange(300.0)[:, None]).all()


def test_absurd_figures_and_empty_columns_raise_nothing() -> None:
    values = clean(rows=400)
    values[:, 0] *= 1e300
    values[5, 1] = 1e308
    values[:, 2] = np.nan
    values[::2, 3] = np.nan
    with np.errstate(over="raise", invalid="raise"):
        found = named(values, None)
    assert found["independent features"].figures["live"] == 5


def memory(name: str, candles: int | None, kind: str = "window") -> Memory:
    return Memory(name=name, kind=kind, candles=candles, away=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("live", "verdict", "words"),
    [(None, "WARN", "need 700"), (700, "PASS", "loads 700"), (699, "FAIL", "Load 700"), (50, "FAIL", "2 features")],
)
def test_the_look_back_is_held_against_what_the_bot_loads(live: int | None, verdict: str, words: str) -> None:
    start, found = check_lookback([memory("a", 1), memory("b", 700), memory("c", 60)], 5000, live_candles=live)
    assert (start.verdict, found.verdict) == ("PASS", verdict)
    assert words in found.sentence
    assert found.figures == {"a": 1, "b": 700, "c": 60}


def test_what_depends_on_the_start_or_needs_more_than_was_tried_fails() -> None:
    start, found = check_lookback(
        [memory("obv", None, "start"), memory("slow", None, "long"), memory("b", 7)], 5000, live_candles=9999
    )
    assert (start.verdict, found.verdict) == ("FAIL", "FAIL")
    assert "obv" in start.sentence and "slow" not in start.sentence
    assert "slow" in found.sentence and "2,500" in found.sentence


def test_looking_ahead_fails_and_says_how() -> None:
    assert check_lookahead([]).verdict == "PASS"
    found = check_lookahead(
        [Peek(name="lead", away=math.inf, candles=3), Peek(name="z", away=0.5, candles=None)]
    )  # fmt: skip
    assert found.verdict == "FAIL"
    assert "the last 3 before the cut" in found.sentence and "scaled over everything" in found.sentence
    assert found.figures["lead"] == {"away": None, "candles": 3}


def trades(
    count: int, *, win_rate: float = 0.6, score: str = "ranks", start_ms: int = 0, every_ms: int = DAY_MS // 8,
    seed: int = 4,
) -> list[Outcome]:  # fmt: skip
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        claimed = float(rng.uniform(0.3, 0.9))
        chance = {"ranks": claimed, "sure": win_rate, "flipped": 1.2 - claimed}.get(score, win_rate)
        claimed = 0.95 if score == "sure" else claimed
        made.append(Outcome(
            closed_ms=start_ms + (i + 1) * every_ms, opened_ms=start_ms + i * every_ms + 1, exit_kind="other",
            shadow=False, profit_ratio=0.01 if rng.random() < chance else -0.01,
            entry_probability=None if score == "none" else claimed,
        ))  # fmt: skip
    return made


def checks(outcomes: list[Outcome], **options: float) -> dict[str, Check]:
    return {c.name: c for c in check_model(outcomes, **options)}  # type: ignore[arg-type]


def test_an_honest_model_passes() -> None:
    found = checks(trades(600), trained_until_ms=0, payoff=1.0)
    assert {name: c.verdict for name, c in found.items()} == {
        "out of sample": "PASS", "score ranks outcomes": "PASS", "claimed against realised": "PASS",
        "edge after fees": "PASS",
    }  # fmt: skip


def test_a_score_that_is_too_sure_says_nothing_and_loses_fails() -> None:
    found = checks(trades(600, win_rate=0.4, score="sure"), trained_until_ms=0, payoff=1.0)
    assert found["claimed against realised"].verdict == "FAIL" and "95%" in found["claimed against realised"].sentence
    assert found["edge after fees"].verdict == "FAIL"
    assert found["score ranks outcomes"].verdict == "WARN"


def test_a_score_that_is_upside_down_fails() -> None:
    found = checks(trades(600, score="flipped"), trained_until_ms=0)
    assert found["score ranks outcomes"].verdict == "FAIL" and "upside down" in found["score ranks outcomes"].sentence


def test_trades_the_model_had_seen_do_not_count() -> None:
    seen, new = trades(300, win_rate=0.9, score="flat"), trades(200, score="flat", start_ms=300 * DAY_MS)
    found = checks([*seen, *new], trained_until_ms=200 * DAY_MS)
    assert found["out of sample"].figures == {"days": pytest.approx(125, abs=1), "trades": 200, "trades_in_sample": 300}
    assert found["edge after fees"].figures["trades"] == 200
    assert checks(seen, trained_until_ms=200 * DAY_MS).keys() == {"out of sample"}
    assert checks(seen, trained_until_ms=200 * DAY_MS)["out of sample"].verdict == "FAIL"


@pytest.mark.parametrize(("count", "every_ms"), [(40, DAY_MS), (200, DAY_MS // 100)])
def test_too_few_trades_or_days_out_of_sample_warn(count: int, every_ms: int) -> None:
    assert checks(trades(count, every_ms=every_ms), trained_until_ms=0)["out of sample"].verdict == "WARN"


def test_without_the_end_of_training_or_scores_it_says_what_cannot_be_told() -> None:
    found = checks(trades(100, score="none"))
    assert {name: c.verdict for name, c in found.items()} == {"out of sample": "WARN", "score": "WARN"}
    assert "0 of 100 trades" in found["score"].sentence


def test_the_worst_check_counts() -> None:
    checks = [Check(name="a", verdict="PASS", sentence=""), Check(name="b", verdict="WARN", sentence="")]
    assert worst([]) == "PASS" and worst(checks) == "WARN"
    assert worst([*checks, Check(name="c", verdict="FAIL", sentence="")]) == "FAIL"
