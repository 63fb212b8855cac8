"""How often a model signals, against its training period."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regime.signals import remember, signal_law

DAY = 48


def bursts(seed: int, rows: int) -> np.ndarray:
    """Probabilities whose signals come in bursts: an autocorrelated level, not independent coins."""
    rng = np.random.default_rng(seed)
    level, found = 0.0, np.empty(rows)
    for i, noise in enumerate(rng.standard_normal(rows)):
        level = 0.97 * level + 0.2 * noise
        found[i] = 1 / (1 + np.exp(-level))
    return found


def test_the_expected_count_is_the_references_own_rate() -> None:
    claims = np.tile([0.9, 0.1, 0.1, 0.1], 12 * 40)
    law = signal_law(claims, 0.8, rows_per_day=DAY, rows_per_false_alarm=30 * DAY)
    assert law is not None
    assert (law.horizon, law.expected) == (3 * DAY, 3 * DAY / 4)


def test_even_signals_get_the_limits_of_a_poisson_law() -> None:
    """Counts that hardly vary are not trusted to vary less than chance would have them."""
    claims = np.tile([0.9, 0.1, 0.1, 0.1], 12 * 1000)
    law = signal_law(claims, 0.8, rows_per_day=DAY, rows_per_false_alarm=30 * DAY)
    assert law is not None
    tail = 3 * DAY / (30 * DAY * 12)
    assert law.low == pytest.approx(stats.poisson.ppf(tail, 36), abs=1)
    assert law.high == pytest.approx(stats.poisson.ppf(1 - tail, 36), abs=1)


def test_bursts_widen_the_limits_beyond_poisson() -> None:
    law = signal_law(bursts(1, 200 * DAY), 0.6, rows_per_day=DAY, rows_per_false_alarm=30 * DAY)
    assert law is not None
    tail = 3 * DAY / (30 * DAY * 12)
    assert law.high > 1.3 * stats.poisson.ppf(1 - tail, law.expected)
    assert law.low < 0.7 * stats.poisson.ppf(tail, law.expected)


def test_fewer_false_alarms_mean_wider_limits() -> None:
    laws = [
        signal_law(bursts(2, 90 * DAY), 0.6, rows_per_day=DAY, rows_per_false_alarm=days * DAY) for days in (10, 100)
    ]
    often, rarely = laws
    assert often is not None and rarely is not None
    assert rarely.low < often.low and rarely.high > often.high


@pytest.mark.parametrize("claims", [bursts(3, 20 * DAY), np.full(100 * DAY, np.nan), np.empty(0)])
def test_a_reference_that_cannot_say_gives_no_law(claims: np.ndarray) -> None:
    assert signal_law(claims, 0.6, rows_per_day=DAY, rows_per_false_alarm=30 * DAY) is None


def test_a_model_that_never_signals_may_stay_silent_and_nothing_more() -> None:
    law = signal_law(np.full(100 * DAY, 0.1), 0.8, rows_per_day=DAY, rows_per_false_alarm=30 * DAY)
    assert law is not None
    assert (law.low, law.high) == (0, 0)


def test_memory_is_as_long_as_the_horizon_and_no_longer() -> None:
    seen = b""
    for signal in (True, False, True, True):
        seen = remember(seen, signal, 3)
    assert seen == b"\0\1\1"
