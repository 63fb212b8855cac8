"""The figures of a column, against scipy and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regime.parity import Table, Tolerance
from regime.parity.causes.model import weighted_window
from regime.parity.statistics import compare_columns, compare_probabilities, correlations, ks_distance
from regime.parity.table import granularity, kind, pair

STEP = 300_000


def compared(x: np.ndarray, y: np.ndarray, name: str = "a") -> object:
    times = STEP * np.arange(len(x))
    made = pair(Table(times, (name,), x[:, None]), Table(times, (name,), y[:, None]), STEP, tolerance=Tolerance())
    return made


def test_figures_by_hand() -> None:
    y = np.tile([0.0, 10.0], 20)
    x = y.copy()
    x[4], x[7] = 5.0, np.nan
    (column,) = compare_columns(compared(x, y))  # type: ignore[arg-type]
    assert (column.candles, column.missing_live, column.missing_backtest, column.over) == (39, 1, 0, 2)
    assert column.mean_difference == pytest.approx(5 / 39)
    assert column.largest_difference == 5.0
    assert column.first_over_ms == 4 * STEP
    # The value of the backtest is 0: a plain relative difference would be infinite.
    assert column.largest_relative == pytest.approx(5.0 / max(5.0, y.std()))


def test_correlation_and_ks_are_scipys() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal(300), rng.standard_normal(250)
    assert ks_distance(x, y) == pytest.approx(stats.ks_2samp(x, y).statistic)
    both = np.column_stack([x[:250], 1e9 + x[:250]])
    found = correlations(both, np.column_stack([y, y]))
    assert found == pytest.approx([stats.pearsonr(x[:250], y).statistic] * 2, abs=1e-5)
    assert np.isnan(correlations(np.ones((50, 1)), y[:50, None])).all(), "a column that never changes"
    assert np.isnan(correlations(x[:10, None], y[:10, None])).all(), "too few"


def test_the_best_lag_is_that_of_the_plant() -> None:
    y = np.random.default_rng(4).standard_normal(400)
    (late,) = compare_columns(compared(np.roll(y, 3), y))  # type: ignore[arg-type]
    assert late.best_lag == 3 and late.lag_correlation == pytest.approx(1.0)
    (same,) = compare_columns(compared(y, y))  # type: ignore[arg-type]
    assert same.best_lag == 0


def test_what_bot_authors_ask_of_probabilities() -> None:
    y = np.array([0.2, 0.4, 0.6, 0.8])
    x = np.array([0.24, 0.55, 0.58, 0.2])
    (p,) = compare_probabilities(compared(x, y, "probability_long"))  # type: ignore[arg-type]
    assert (p.candles, p.over_0_1, p.within_5_percent, p.direction_agreement) == (4, 0.5, 0.5, 0.5)
    assert p.mean_difference == pytest.approx((0.04 + 0.15 + 0.02 + 0.6) / 4)
    assert p.largest_difference == pytest.approx(0.6)
    assert p.correlation is None, "four candles have none"


def test_a_weighted_window_explains_what_it_made_and_nothing_else() -> None:
    rng = np.random.default_rng(6)
    y = rng.standard_normal(400)
    made = np.convolve(y, [0.5, 0.3, 0.2])[:400]
    assert weighted_window(made, y) == pytest.approx(1.0)
    assert abs(weighted_window(rng.standard_normal(400), y) or 0.0) < 0.1
    assert weighted_window(y[:40], y[:40]) is None


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 2.0], 0.5), ([0.125, 1.0], 0.0005), ([1 / 3, 2.0], 0.0), ([], 0.0)]
)
def test_decimals_that_a_column_is_printed_with(values: list[float], expected: float) -> None:
    assert granularity(np.array(values)) == pytest.approx(expected)


def test_kinds() -> None:
    assert [kind(name) for name in ("high", "probability_exit_long", "highest")] == ["candle", "probability", "feature"]
