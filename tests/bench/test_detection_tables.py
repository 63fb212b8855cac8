"""What the tables of `bench_detection.py` rest on, against figures that others printed."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from detection_tables.limits import (
    Passages,
    mean_run,
    optimal_cusum,
    oracle_limit,
    run_length,
    steps_mean,
    steps_scale,
    tuned,
)
from worlds import NAMES, Planted, market, planted


@pytest.mark.parametrize(
    ("height", "two_sided", "two_sided_at_1"),
    [(4.0, 168.0, 8.38), (5.0, 465.0, 10.4)],
)
def test_run_lengths_are_those_of_the_textbook(height: float, two_sided: float, two_sided_at_1: float) -> None:
    """CUSUM for a shift of 1 (k = 0.5) with h = 4 and 5: D. C. Montgomery, Statistical Quality Control, CUSUM table.

    Sums of z - 1/2 are log likelihood ratios for a shift of 1 as they are.
    """
    before, after, _ = steps_mean(1.0)
    assert run_length(before, height) / 2 == pytest.approx(two_sided, rel=0.005)
    assert run_length(after, height) == pytest.approx(two_sided_at_1, rel=0.01)


def test_the_best_test_rings_as_asked_and_is_as_late_as_simulated() -> None:
    for steps, draw in (
        (steps_mean(0.5), lambda rng, shape, changed: rng.standard_normal(shape) + 0.5 * changed),
        (
            steps_scale(math.sqrt(2)),
            lambda rng, shape, changed: rng.standard_normal(shape) * (1 + 0.41421356 * changed),
        ),
    ):
        best = optimal_cusum(steps, 200.0)
        for changed, expected in ((False, 200.0), (True, best.delay)):
            rng = np.random.default_rng(5)
            runs = 4000
            total, first = np.zeros(runs), np.zeros(runs)
            for t in range(1, 4000):
                x = draw(rng, runs, changed)
                step = 0.5 * x - 0.125 if steps[2] == 0.125 else 0.25 * x * x - 0.25 * math.log(4)
                total = np.maximum(total + step, 0.0)
                first[(first == 0) & (total > best.limit)] = t
                if (first > 0).all():
                    break
            assert first.mean() == pytest.approx(expected, rel=0.06)


def test_limits_at_5000_rows_are_those_the_design_was_judged_by() -> None:
    found = [optimal_cusum(steps_mean(d), 5000.0).delay for d in (0.25, 0.5, 1.0)]
    found += [optimal_cusum(steps_scale(math.sqrt(v)), 5000.0).delay for v in (1.5, 2.0)]
    assert found == pytest.approx([131.3, 43.6, 13.7, 91.1, 35.4], rel=0.01)


def test_passages_find_the_limit_of_independent_values() -> None:
    # The rate at which uniform values pass 1 - p is p: one in 50 rows at 0.98.
    passages = Passages()
    rng = np.random.default_rng(1)
    for _ in range(2000):
        passages.add(rng.random(65))
    assert passages.limit(50.0) == pytest.approx(0.98, abs=0.002)
    rows, alarms = passages.run_length(2.0)
    assert (rows, alarms) == (2000 * 65, 0)


def test_a_mean_run_counts_what_was_watched_without_alarm() -> None:
    assert mean_run([(10, 1), (30, 0)]) == (40.0, 1)


def test_an_option_is_tuned_by_bisection() -> None:
    assert tuned(lambda option: option**2, 0.0, 100.0, 2500.0, 20) == pytest.approx(50.0, abs=0.01)


def test_the_oracle_counts_alarms_close_together_once() -> None:
    statistic = np.zeros(1000)
    statistic[[100, 105, 400, 800]] = (3.0, 4.0, 2.0, 1.0)
    # Allowed 2 alarms: over 1 there are the pair at 100 and the one at 400, at anything less the one at 800 as well.
    found = oracle_limit([statistic], 500.0, 50)
    assert 1.0 <= found < 1.01
    # Below 0 everything is one long alarm, which must not look like a good limit.
    assert oracle_limit([statistic], 1000.0, 50) >= 2.0


@pytest.mark.parametrize("kind", ["skewed", "heavy", "dependence"])
def test_planted_changes_keep_mean_and_variance(kind: str) -> None:
    reference = market("iid", 1, 20_000)
    x = market("iid", 2, 20_000)
    found = planted(x, Planted(at=1000, kind=kind, count=1), world="iid", seed=3, reference=reference)
    column = int(np.flatnonzero((found != x).any(axis=0))[0])
    after = found[1000:, column]
    assert (found[:1000] == x[:1000]).all() and found.shape[1] == len(NAMES)
    assert after.mean() == pytest.approx(0.0, abs=0.04) and after.std() == pytest.approx(1.0, abs=0.08)
    skewness = float(np.mean((after - after.mean()) ** 3) / after.std() ** 3)
    assert (skewness > 1.5) == (kind == "skewed")
