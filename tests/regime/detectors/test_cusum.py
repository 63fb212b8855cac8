from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from regime.detectors.cusum import CusumBank, limit_of, run_length
from regime.reference import Reference


def integral_equation(drift: float, limit: float, offset: float = 0.0) -> float:
    """The run length from 0 by the equation L(s) = 1 + L(0) P(to 0) + integral of L(y) f(y - s): what is exact."""
    nodes, weights = np.polynomial.legendre.leggauss(60 + int(4 * limit))
    y, w = 0.5 * limit * (nodes + 1), 0.5 * limit * weights
    start, mean = np.concatenate(([0.0], y)), offset - 0.5 * drift
    system = np.eye(len(start))
    system[:, 1:] -= w * norm.pdf(y - start[:, None] - mean)
    system[:, 0] -= norm.cdf(-start - mean)
    return float(np.linalg.solve(system, np.ones(len(start)))[0])


@pytest.mark.parametrize(
    ("drift", "limit", "offset", "share"),
    [(1.0, 4.0, 0.0, 0.009), (1.0, 5.0, 0.1, 0.009), (0.5, 8.0, 0.0, 0.003), (0.25, 20.0, -0.02, 0.001),
     (0.1, 30.0, 0.0, 0.001), (0.1, 30.0, 0.08, 0.001), (0.1, 30.0, 0.05, 0.001)],
)  # fmt: skip
def test_the_run_length_is_that_of_the_integral_equation(
    drift: float, limit: float, offset: float, share: float
) -> None:
    assert run_length(drift, limit, offset) == pytest.approx(integral_equation(drift, limit, offset), rel=share)


def test_the_run_length_of_a_long_limit_is_infinite_and_no_error() -> None:
    assert run_length(2.0, 500.0) == math.inf


def test_a_limit_gives_the_run_length_it_was_asked_for() -> None:
    assert run_length(0.5, limit_of(0.5, 5000.0, 10**9)) == pytest.approx(5000, rel=1e-6)


def test_a_short_reference_widens_the_limits_and_in_the_end_closes_them() -> None:
    limits = [limit_of(0.5, 1e5, rows) for rows in (10**6, 5000, 500, 20)]
    assert limits == sorted(limits)
    assert math.isfinite(limits[2])
    assert limits[3] == math.inf


def test_independent_features_ring_no_more_often_than_asked_and_not_half_as_often() -> None:
    rng = np.random.default_rng(12)
    rang, exposure = 0, 0
    for _ in range(40):
        detector = CusumBank(arl=500)
        detector.reset(Reference(list("abcde"), rng.standard_normal((5000, 5))))
        for x in rng.standard_normal((3000, 5)):
            exposure += 1
            detector.update(x)
            if detector.drift_detected:
                rang += 1
                break
    assert 500 < exposure / rang < 1300


def test_the_sums_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    values, stream = (
        rng.standard_normal((1000, 3)) * [1, 50, 1e-6] + 7,
        rng.standard_normal((600, 3)) * [1, 50, 1e-6] + 7,
    )
    stream[300:] += [1.0, -30.0, 0.0]
    stream[rng.random(stream.shape) < 0.1] = np.nan
    detector = CusumBank(drifts=[0.5, 1.0], arl=1e4)
    detector.reset(Reference(["a", "b", "c"], values))
    mean, spread = values.mean(axis=0), values.std(axis=0)
    up, down = np.zeros((2, 3)), np.zeros((2, 3))
    for x in stream:
        detector.update(x)
        for f in np.flatnonzero(~np.isnan(x)):
            for k, drift in enumerate((0.5, 1.0)):
                most = 2 * limit_of(drift, 1e4 * 12, 861)
                z = (x[f] - mean[f]) / spread[f]
                up[k, f] = min(max(0.0, up[k, f] + z - drift / 2), most)
                down[k, f] = min(max(0.0, down[k, f] - z - drift / 2), most)
        expected = np.maximum(up, down) / [[limit_of(d, 1e4 * 12, 861)] for d in (0.5, 1.0)]
        np.testing.assert_allclose(detector.feature_statistics, expected.max(axis=0), rtol=1e-6, atol=1e-9)
        assert detector.statistic == detector.feature_statistics.max()


def test_the_alarm_goes_when_the_feature_is_as_before() -> None:
    rng = np.random.default_rng(4)
    detector = CusumBank()
    detector.reset(Reference(["a"], rng.standard_normal((30_000, 1))))
    for _ in range(2000):
        detector.update(np.array([3.0]))
    assert detector.statistic == pytest.approx(2.0)
    back = 0
    while detector.drift_detected:
        detector.update(rng.standard_normal(1))
        back += 1
    assert back < 2500


def test_a_mean_shift_is_found_at_this_row() -> None:
    rng = np.random.default_rng(8)
    detector = CusumBank()
    detector.reset(Reference([f"f{i:02}" for i in range(20)], rng.standard_normal((5000, 20))))
    stream = rng.standard_normal((1000, 20))
    stream[500:, :3] += 1.0
    alarms = []
    for i, x in enumerate(stream):
        detector.update(x)
        if detector.drift_detected:
            alarms.append(i)
    assert alarms[0] == 512
    assert set(np.flatnonzero(detector.feature_statistics > 1)) == {0, 1, 2}


def test_robust_is_not_impressed_by_outliers_in_the_reference() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((5000, 1))
    values[:100] = 1000.0
    plain, robust = CusumBank(), CusumBank(robust=True)
    for detector in (plain, robust):
        detector.reset(Reference(["a"], values))
        for x in 2 + rng.standard_normal((100, 1)):
            detector.update(x)
    assert robust.drift_detected
    assert not plain.drift_detected


def test_the_module_can_be_imported_without_numba() -> None:
    code = "import sys; sys.modules['numba'] = None; from regime.detectors.cusum import CusumBank as D; D.examples()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_state_of_another_set_up_is_refused() -> None:
    values = np.random.default_rng(3).standard_normal((600, 2))
    one, other = CusumBank(), CusumBank(drifts=[1.0])
    for detector in (one, other):
        detector.reset(Reference(["a", "b"], values))
    with pytest.raises(ValueError, match="another set-up"):
        other.load_state(one.state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drifts": []}, "drifts"),
        ({"drifts": [0.0]}, "drifts"),
        ({"drifts": [1.0, 1.0]}, "drifts"),
        ({"drifts": ["a"]}, "drifts"),
        ({"drifts": 1.0}, "drifts"),
        ({"drifts": [float("inf")]}, "drifts"),
        ({"arl": 0.5}, "arl"),
        ({"arl": float("nan")}, "arl"),
        ({"robust": 1}, "robust"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CusumBank(**options)
