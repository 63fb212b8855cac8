from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from regime.detectors.ks import Ks
from regime.reference import Reference

Floats = NDArray[np.float64]


def oracle(window: Floats, sample: Floats) -> float:
    return float(ks_2samp(window, sample, method="asymp").statistic)


def last(column: Floats, count: int) -> Floats:
    return column[np.isfinite(column)][-count:]


def detector(values: Floats, **options: float) -> Ks:
    found = Ks(**options)  # type: ignore[arg-type]
    found.reset(Reference([f"f{i:03}" for i in range(values.shape[1])], values))
    return found


VALUES = st.one_of(
    st.sampled_from([0.0, 1.0, -0.0, 2.5, np.nan, 1e300, -1e300, 5e-324, np.finfo(float).max]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-3, 3).map(float),
)


@given(
    sample=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=60),
    stream=st.lists(st.tuples(VALUES, VALUES), min_size=8, max_size=60),
)
@settings(max_examples=200)
def test_distance_is_scipys(sample: list[tuple[float, float]], stream: list[tuple[float, float]]) -> None:
    values = np.array(sample)
    ks = detector(values, window=8)
    values = np.where(np.isfinite(values), values, np.nan)
    for end, x in enumerate(stream, 1):
        ks.update(np.array(x))
        for feature, distance in enumerate(ks.distances):
            window = last(np.array(stream[:end])[:, feature], 8)
            column = last(values[:, feature], len(values))
            if len(window) < 8 or len(column) == 0:
                assert np.isnan(distance)
            else:
                assert distance == pytest.approx(oracle(window, column), abs=1e-12)


def test_distance_is_scipys_for_every_kind_of_feature() -> None:
    rng = np.random.default_rng(7)

    def draw(rows: int) -> Floats:
        x = rng.standard_normal((rows, 9))
        x[:, 1] = rng.integers(0, 2, rows)
        x[:, 2] = np.round(x[:, 2])
        x[:, 3] = 4.0
        x[:, 4] = rng.standard_cauchy(rows)
        x[rng.random(rows) < 0.3, 5] = np.nan
        x[:, 6] = np.cumsum(x[:, 6])
        x[:, 7] = 1e-300 * x[:, 7]
        x[:, 8] = rng.random(rows) < 0.001
        return x

    values, stream = draw(4001), draw(700)
    ks = detector(values, window=144)
    for end, x in enumerate(stream, 1):
        ks.update(x)
        if end % 20 == 0 and end >= 300:
            expected = [oracle(last(stream[:end, f], 144), last(values[:, f], 4001)) for f in range(9)]
            np.testing.assert_allclose(ks.distances, expected, rtol=0, atol=1e-12)


def test_a_constant_feature_is_at_no_distance_until_it_moves() -> None:
    values = np.random.default_rng(1).standard_normal((3000, 2))
    values[:, 1] = 4.0
    ks = detector(values, window=50)
    for x in values[:50]:
        ks.update(x)
    assert ks.distances[1] == 0.0
    assert ks.feature_statistics[1] == 0.0
    before = ks.statistic
    for moved in range(1, 51):
        ks.update(np.array([np.nan, 4.5]))
        assert ks.distances[1] == pytest.approx(moved / 50, abs=1e-12)
    assert ks.feature_statistics[1] > 1
    assert ks.statistic == before, "a dead feature has no say in the family"
    assert not ks.drift_detected


def test_a_feature_that_hardly_ever_moves_does_not_ring_when_it_does_so_twice() -> None:
    values = np.zeros((3000, 1))
    values[1000] = 1.0
    ks = detector(values, window=50)
    for x in [0.0] * 50 + [1.0, 0.0, 1.0] + [0.0] * 30:
        ks.update(np.array([x]))
        assert not ks.drift_detected
    for _ in range(50):
        ks.update(np.array([1.0]))
    assert ks.drift_detected


def test_a_feature_without_reference_values_is_never_compared() -> None:
    values = np.random.default_rng(1).standard_normal((3000, 2))
    values[:, 1] = np.nan
    ks = detector(values, window=50)
    for x in np.random.default_rng(2).standard_normal((60, 2)):
        ks.update(x)
    assert ks.warm
    assert np.isnan(ks.distances[1])
    assert np.isnan(ks.feature_statistics[1])


def test_ten_windows_of_reference_justify_a_limit_and_nine_do_not() -> None:
    values = np.random.default_rng(1).standard_normal((500, 3))
    assert np.isfinite(detector(values, window=50).threshold)
    short = detector(values[:499], window=50)
    assert short.threshold == np.inf
    for _ in range(50):
        short.update(np.full(3, 1e9))
    assert short.warm
    assert short.statistic > 5
    assert not short.drift_detected
    assert np.isnan(short.feature_statistics).all()


def test_a_feature_with_too_few_values_is_left_out_and_the_others_judged() -> None:
    values = np.random.default_rng(1).standard_normal((1000, 2))
    values[:600, 0] = np.nan
    ks = detector(values, window=50)
    for _ in range(50):
        ks.update(np.array([99.0, 0.0]))
    assert np.isfinite(ks.threshold)
    assert ks.distances[0] == 1.0
    assert np.isnan(ks.feature_statistics[0])
    assert ks.feature_statistics[1] > 1


def test_the_family_rings_exactly_when_a_live_feature_is_over_its_own_limit() -> None:
    rng = np.random.default_rng(3)
    ks = detector(rng.standard_normal((3000, 5)), window=50)
    seen = set()
    for i, x in enumerate(rng.standard_normal((400, 5))):
        x[2] += 0.01 * i
        ks.update(x)
        if ks.warm:
            assert ks.drift_detected == bool((ks.feature_statistics > 1).any())
            seen.add(ks.drift_detected)
    assert seen == {False, True}


def test_warm_when_half_of_the_live_windows_are_full() -> None:
    ks = detector(np.random.default_rng(3).standard_normal((3000, 4)), window=50)
    one, two = np.array([0.0, np.nan, np.nan, np.nan]), np.array([np.nan, 0.0, np.nan, np.nan])
    for _ in range(50):
        ks.update(one)
    assert not ks.warm
    for _ in range(49):
        ks.update(two)
    assert not ks.warm
    ks.update(two)
    assert ks.warm
    np.testing.assert_array_equal(np.isnan(ks.distances), [False, False, True, True])


def test_margin_multiplies_the_limit() -> None:
    values = np.random.default_rng(3).standard_normal((3000, 4))
    one = detector(values, window=50, margin=1.0).threshold
    assert detector(values, window=50, margin=1.5).threshold == pytest.approx(1.5 * one)


def test_a_mean_shift_is_found_at_this_row() -> None:
    rng = np.random.default_rng(8)
    ks = detector(rng.standard_normal((5000, 20)), window=100)
    stream = rng.standard_normal((1000, 20))
    stream[500:, :3] += 1.0
    alarms = []
    for i, x in enumerate(stream):
        ks.update(x)
        if ks.drift_detected:
            alarms.append(i)
    assert alarms[0] == 555
    assert set(np.flatnonzero(ks.feature_statistics > 1)) == {0, 1, 2}


def test_state_of_another_set_up_is_refused() -> None:
    values = np.random.default_rng(3).standard_normal((600, 4))
    with pytest.raises(ValueError, match="another set-up"):
        detector(values, window=50).load_state(detector(values, window=40).state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 7}, "window"),
        ({"window": 50.0}, "window"),
        ({"window": True}, "window"),
        ({"margin": 0.0}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"margin": float("inf")}, "margin"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ks(**options)  # type: ignore[arg-type]
