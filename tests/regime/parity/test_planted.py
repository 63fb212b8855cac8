"""Every cause is planted where it happens, and must be named first; where nothing is planted, nothing may be.

The short form of `make bench-parity`, with seeds of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from regime.parity import CLEAN, Table, compare

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import parity_worlds
from bench_parity import without_prices
from parity_worlds import FAULTS, STEP, clean

SEED = 4711
RUNS = 8


def named(plant: object, runs: int, seed: int) -> list[str]:
    found = []
    for run in range(runs):
        live, backtest = plant(np.random.default_rng([seed, run]), None)  # type: ignore[operator]
        found.append(compare(live, backtest, step_ms=STEP).verdict.cause)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_first(fault: str) -> None:
    causes = named(FAULTS[fault], RUNS, SEED)
    assert causes.count(fault) >= RUNS - 1, causes


def test_nothing_is_named_where_there_are_only_honest_differences() -> None:
    assert named(clean, 40, SEED) == [CLEAN] * 40


def test_the_harness_sees_a_fault_that_is_not_named() -> None:
    """The negative control: another cause's worlds must not count as this one's, nor a clean world as any."""
    assert named(FAULTS["shift"], 4, SEED).count("time-zone") == 0
    assert set(named(clean, 4, SEED)).isdisjoint(FAULTS)


def test_honest_pairs_really_differ_in_their_bits() -> None:
    """Else "clean" would be proven on identical tables only."""
    different = 0
    for run in range(20):
        live, backtest = clean(np.random.default_rng([SEED, run]), None)
        different += live.values.shape != backtest.values.shape or not np.array_equal(live.values, backtest.values)
    assert different >= 15


@pytest.mark.parametrize("size", [3e-4, 1e-2, 1.0])
def test_a_difference_in_one_value_of_one_candle_is_not_clean(size: float) -> None:
    rng = np.random.default_rng(1)
    times = STEP * np.arange(300)
    values = rng.standard_normal((300, 4))
    changed = values.copy()
    changed[150, 2] += size * 10
    report = compare(Table(times, ("a", "b", "c", "d"), changed), Table(times, ("a", "b", "c", "d"), values))
    assert not report.clean
    assert report.differing_candles == 1
    assert report.findings[0].columns == ("c",)


@pytest.mark.parametrize("fault", ["other-feed", "forming-candle", "other-window", "short-warm-up"])
def test_without_prices_other_candles_are_told_by_features_of_one_candle(fault: str) -> None:
    found = []
    for run in range(RUNS):
        live, backtest = FAULTS[fault](np.random.default_rng([SEED, run]), None)
        report = compare(without_prices(live), without_prices(backtest), step_ms=STEP)
        found.append(report.verdict.cause)
    assert found.count(fault) >= RUNS - 2, found


@pytest.mark.parametrize("fault", ["forming-candle", "other-window", "short-warm-up", "cumulative"])
def test_six_hours_of_candles_are_enough_for_most(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_worlds, "ROWS", [72])
    causes = named(FAULTS[fault], 2 * RUNS, SEED)
    assert causes.count(fault) >= 2 * RUNS - 2, causes
