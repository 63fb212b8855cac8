"""What every detector in regime/detectors promises, tried on each of its examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regime.detectors import Detector
from regime.plugins import available, load
from regime.reference import Reference

PACKAGE = "regime.detectors"
NAMES = ["rsi", "atr", "up", "flat", "roc", "gappy"]
ROWS = 3200
Floats = NDArray[np.float64]
INSTANCES = [
    pytest.param(kind, i, id=f"{kind}-{i}")
    for kind in available(PACKAGE)
    for i in range(len(load(PACKAGE, kind).examples()))
]


def draw(seed: int, rows: int, *, shift: float = 0.0) -> Floats:
    """No change, or `shift` standard deviations in every feature that can move. Columns stand as in NAMES."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, len(NAMES)))
    x[:, 1] = 100 + 20 * x[:, 1]
    x += shift * np.array([1, 20, 0, 0, 1, 1])
    x[:, 2] = rng.random(rows) < (0.5 if shift == 0 else 0.999)
    x[:, 3] = 7.0
    x[rng.random(rows) < 0.1, 5] = np.nan
    return x


REFERENCE = Reference(NAMES, draw(1, ROWS))
ORDER = [NAMES.index(name) for name in REFERENCE.names]


def rows_of(seed: int, rows: int, *, shift: float = 0.0) -> Iterator[Floats]:
    yield from draw(seed, rows, shift=shift)[:, ORDER]


def observe(detector: Detector) -> tuple[Any, ...]:
    return (
        detector.warm,
        repr(detector.statistic),
        detector.threshold,
        detector.drift_detected,
        detector.feature_statistics.tobytes(),
        detector.fingerprint(),
    )


def feed(detector: Detector, rows: Iterator[Floats]) -> list[tuple[Any, ...]]:
    seen = []
    for x in rows:
        detector.update(x)
        seen.append(observe(detector))
    return seen


@pytest.fixture(params=INSTANCES and [p.values for p in INSTANCES], ids=[p.id for p in INSTANCES])
def make(request: pytest.FixtureRequest) -> Any:
    kind, i = request.param

    def build() -> Detector:
        found: Detector = load(PACKAGE, kind).examples()[i]
        found.reset(REFERENCE)
        return found

    return build


def test_is_a_detector(make: Any) -> None:
    assert isinstance(make(), Detector)


def test_examples_are_new_each_time(make: Any) -> None:
    one, other = make(), make()
    before = observe(other)
    feed(one, rows_of(2, 100))
    assert observe(other) == before


def test_cold_is_nan_and_not_zero(make: Any) -> None:
    detector = make()
    assert not detector.warm
    assert np.isnan(detector.statistic)
    assert not detector.drift_detected


def test_statistic_is_nan_exactly_while_cold(make: Any) -> None:
    detector = make()
    warm = []
    for x in rows_of(2, 500):
        detector.update(x)
        warm.append(detector.warm)
        assert np.isnan(detector.statistic) is not detector.warm
    assert warm == sorted(warm), "once warm, always warm"
    assert warm[-1]


def test_drift_is_detected_exactly_when_the_statistic_is_over_the_threshold(make: Any) -> None:
    detector = make()
    answers = set()
    for rows in (rows_of(2, 500), rows_of(3, 500, shift=3.0)):
        for x in rows:
            detector.update(x)
            assert detector.drift_detected is (detector.statistic > detector.threshold)
            answers.add(detector.drift_detected)
    assert answers == {False, True}


def test_feature_statistics_are_one_per_feature_of_the_reference(make: Any) -> None:
    detector = make()
    for x in rows_of(2, 400):
        detector.update(x)
        assert detector.feature_statistics.shape == (len(REFERENCE.names),)
        assert detector.feature_statistics.dtype == np.float64


def test_columns_stand_in_the_order_of_the_reference(make: Any) -> None:
    detector = make()
    feed(detector, rows_of(2, 500))
    moved = REFERENCE.names.index("atr")
    for x in rows_of(3, 500):
        x[moved] += 100.0
        detector.update(x)
        if detector.feature_statistics[moved] > 1:
            break
    assert np.nanargmax(detector.feature_statistics) == moved


def test_the_order_in_which_the_reference_was_given_does_not_matter(make: Any) -> None:
    one, other = make(), make()
    other.reset(Reference(NAMES[::-1], draw(1, ROWS)[:, ::-1]))
    assert feed(one, rows_of(2, 400)) == feed(other, rows_of(2, 400))


def test_reset_forgets(make: Any) -> None:
    used = make()
    feed(used, rows_of(3, 700, shift=3.0))
    used.reset(REFERENCE)
    fresh = make()
    assert observe(used) == observe(fresh)
    assert feed(used, rows_of(2, 400)) == feed(fresh, rows_of(2, 400))


def test_reset_takes_another_number_of_features(make: Any) -> None:
    detector = make()
    feed(detector, rows_of(2, 400))
    detector.reset(REFERENCE.select(["rsi", "roc"]))
    assert not detector.warm
    feed(detector, (x[:2] for x in rows_of(2, 400)))
    assert detector.feature_statistics.shape == (2,)


def test_a_row_of_nothing_changes_nothing(make: Any) -> None:
    detector = make()
    for x in rows_of(2, 400):
        detector.update(x)
        before = observe(detector)
        detector.update(np.full(len(NAMES), np.nan))
        assert observe(detector) == before


def test_a_missing_value_leaves_its_feature_as_it_was(make: Any) -> None:
    detector = make()
    feed(detector, rows_of(2, 400))
    before = detector.feature_statistics[0]
    for x in rows_of(3, 300, shift=3.0):
        x[0] = np.nan
        detector.update(x)
        np.testing.assert_array_equal(detector.feature_statistics[0], before)


def test_infinity_counts_as_missing(make: Any) -> None:
    one, other = make(), make()
    for x in rows_of(2, 400):
        x[0] = np.nan
        one.update(x)
        x[0] = np.inf
        other.update(x)
    assert observe(one) == observe(other)


def test_the_row_is_not_written_to(make: Any) -> None:
    detector = make()
    for x in rows_of(2, 400):
        x.setflags(write=False)
        before = x.tobytes()
        detector.update(x)
        assert x.tobytes() == before


def test_the_row_may_be_used_again_by_the_caller(make: Any) -> None:
    one, other = make(), make()
    buffer = np.empty(len(NAMES))
    seen = []
    for x in rows_of(2, 400):
        buffer[:] = x
        one.update(buffer)
        seen.append(observe(one))
    assert seen == feed(other, rows_of(2, 400))


def test_equal_rows_give_equal_answers_and_fingerprints(make: Any) -> None:
    assert feed(make(), rows_of(2, 400)) == feed(make(), rows_of(2, 400))


def test_other_rows_give_another_fingerprint(make: Any) -> None:
    one, other = make(), make()
    feed(one, rows_of(2, 50))
    feed(other, rows_of(4, 50))
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("after", [0, 40, 333])
def test_state_continues_bit_for_bit(make: Any, after: int) -> None:
    one, other = make(), make()
    rows = [*rows_of(2, 500), *rows_of(3, 200, shift=3.0)]
    feed(one, iter(rows[:after]))
    state = one.state()
    if state is None:
        with pytest.raises(ValueError, match="replay"):
            other.load_state({})
        return
    assert all(isinstance(column, np.ndarray) and column.dtype != object for column in state.values())
    copies = {name: column.copy() for name, column in state.items()}
    other.load_state(state)
    assert observe(other) == observe(one)
    assert feed(other, iter(rows[after:])) == feed(one, iter(rows[after:]))
    for name, column in state.items():
        np.testing.assert_array_equal(column, copies[name], err_msg="a state is not a view of the detector")


def test_a_shift_of_three_standard_deviations_in_all_features_is_found(make: Any) -> None:
    detector = make()
    feed(detector, rows_of(2, 600))
    assert not detector.drift_detected
    assert any(answer[3] for answer in feed(detector, rows_of(3, 400, shift=3.0)))


def test_no_alarm_where_nothing_changes(make: Any) -> None:
    detector = make()
    assert not any(answer[3] for answer in feed(detector, rows_of(5, 2000)))


@pytest.mark.filterwarnings("error")
def test_features_that_say_nothing_do_no_harm(make: Any) -> None:
    values = np.full((ROWS, 3), np.nan)
    values[:, 1] = 5.0
    detector = make()
    detector.reset(Reference(["never", "constant", "alone"], values))
    for x in rows_of(2, 400):
        detector.update(x[:3])
        assert not detector.drift_detected


def test_one_row_of_reference_is_enough_to_start(make: Any) -> None:
    detector = make()
    detector.reset(Reference(["a", "b"], np.zeros((1, 2))))
    for x in rows_of(2, 400):
        detector.update(x[:2])
        assert not detector.drift_detected
