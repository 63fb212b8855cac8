from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from river import drift

from regime.detectors.adwin import Adwin
from regime.reference import Reference


def world(seed: int) -> tuple[Reference, Any]:
    """A reference, and a stream with jumps, gaps, a constant feature and scales far apart."""
    rng = np.random.default_rng(seed)
    scale = np.array([1.0, 1e6, 1e-6, 1.0, 0.0, 1.0])
    reference = rng.standard_normal((800, 6)) * scale + 3.0
    stream = rng.standard_normal((1500, 6))
    stream[400:, :3] += 2.0
    stream[900:, 1:5] -= 3.0
    stream[:, 5] = rng.random(1500) < 0.5
    stream = stream * scale + 3.0
    stream[:, 4] += rng.standard_normal(1500)
    stream[rng.random((1500, 6)) < 0.1] = np.nan
    return Reference(list("abcdef"), reference), stream


@pytest.mark.parametrize("options", [{}, {"delta": 0.05, "clock": 1}])
def test_alarms_where_a_plain_loop_over_rivers_objects_does(options: dict[str, Any]) -> None:
    reference, stream = world(3)
    mean, spread = reference.values.mean(axis=0), reference.values.std(axis=0)
    detector = Adwin(**options, memory=40)
    detector.reset(reference)
    expected, found = [], []
    loop = [drift.ADWIN(**options) for _ in range(6)]
    for row, x in enumerate(stream):
        for feature in (0, 1, 2, 3, 5):
            if not np.isnan(x[feature]):
                loop[feature].update((x[feature] - mean[feature]) / spread[feature])
                if loop[feature].drift_detected:
                    expected.append((row, feature))
        detector.update(x)
        new = detector.feature_statistics == detector.memory + 1
        found += [(row, int(feature)) for feature in np.flatnonzero(new & ~np.isnan(x))]
    assert len(expected) > 3
    assert found == expected


def test_statistic_is_the_share_that_alarmed_within_memory() -> None:
    reference, stream = world(4)
    detector = Adwin(memory=60)
    detector.reset(reference)
    shares = set()
    for x in stream:
        detector.update(x)
        if detector.warm:
            live = detector.feature_statistics[[0, 1, 2, 3, 5]]
            assert detector.statistic == (live > 1).mean()
            shares.add(detector.statistic)
    assert len(shares) > 2


def test_an_alarm_is_recent_for_memory_values_of_its_feature() -> None:
    rng = np.random.default_rng(5)
    detector = Adwin(memory=40)
    detector.reset(Reference(["a"], rng.standard_normal((500, 1))))
    recent = 0
    for x in [*rng.standard_normal((200, 1)), *(4 + rng.standard_normal((300, 1)))]:
        detector.update(x)
        if recent:
            assert detector.statistic == 1.0
            detector.update(np.array([np.nan]))
            assert detector.statistic == 1.0, "a missing value is no time"
            recent += 1
        elif detector.warm and detector.statistic == 1.0:
            recent = 1
        if recent == 40:
            break
    assert recent == 40
    detector.update(np.array([4.0]))
    assert detector.statistic == 0.0


def test_a_dead_feature_has_no_say() -> None:
    reference, stream = world(6)
    detector = Adwin()
    detector.reset(reference)
    for x in stream:
        detector.update(x)
    assert np.isnan(detector.feature_statistics[4])


def test_a_window_grows_beyond_the_levels_it_began_with_and_a_state_keeps_them() -> None:
    rng = np.random.default_rng(9)
    reference = Reference(["a", "b"], rng.standard_normal((500, 2)))
    detector = Adwin()
    detector.reset(reference)
    levels = detector.state()["held"].shape[1]
    stream = rng.standard_normal((3000, 2))
    stream[:, 1] = np.nan
    for x in stream:
        detector.update(x)
    state = detector.state()
    assert state["held"].shape[1] > levels
    sizes = 2 ** np.arange(state["held"].shape[1])
    np.testing.assert_array_equal(state["held"] @ sizes, [3000, 0])
    again = Adwin()
    again.reset(reference)
    again.load_state(state)
    assert again.fingerprint() == detector.fingerprint()


def test_share_limit_is_the_threshold() -> None:
    assert Adwin(share_limit=0.25).threshold == 0.25


def test_the_module_can_be_imported_without_river_or_numba() -> None:
    code = "import sys; sys.modules['river'] = sys.modules['numba'] = None"
    code += "; from regime.detectors.adwin import Adwin as D; D.examples()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_state_of_another_set_up_is_refused() -> None:
    reference, _ = world(3)
    one, other = Adwin(), Adwin()
    one.reset(reference)
    other.reset(reference.select(["a", "b"]))
    with pytest.raises(ValueError, match="another set-up"):
        other.load_state(one.state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"clock": 0}, "clock"),
        ({"clock": True}, "clock"),
        ({"max_buckets": 0}, "max_buckets"),
        ({"min_window_length": 0}, "min_window_length"),
        ({"grace_period": -1}, "grace_period"),
        ({"memory": 0}, "memory"),
        ({"memory": 1.5}, "memory"),
        ({"share_limit": 1.1}, "share_limit"),
        ({"share_limit": float("nan")}, "share_limit"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Adwin(**options)
