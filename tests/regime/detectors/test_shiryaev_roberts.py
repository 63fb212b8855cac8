from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from regime.detectors.shiryaev_roberts import _DRIFTS, _VARIANCES, ShiryaevRoberts, weights
from regime.reference import Reference


def test_the_mixture_is_that_of_logarithms_in_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((1000, 2)) * [1, 50] + 7
    stream = rng.standard_normal((300, 2)) * [1, 50] + 7
    stream[200:] += [0.5, -30.0]
    stream[rng.random(stream.shape) < 0.1] = np.nan
    detector = ShiryaevRoberts(arl=1e4)
    detector.reset(Reference(["a", "b"], values))
    z = (stream - values.mean(axis=0)) / values.std(axis=0)
    laws = [(sign * d, 1.0) for d, _ in _DRIFTS for sign in (1, -1)] + [(0.0, math.sqrt(v)) for v, _ in _VARIANCES]
    worth = weights(math.log(1e4) - 0.33 + math.log(2), np.array([1000, 1000]))
    logs = np.full((2, len(laws)), -np.inf)
    for x, row in zip(stream, z, strict=True):
        detector.update(x)
        for f in np.flatnonzero(~np.isnan(row)):
            for j, (mean, sd) in enumerate(laws):
                ratio = -0.5 * ((row[f] - mean) / sd) ** 2 + 0.5 * row[f] ** 2 - math.log(sd)
                logs[f, j] = np.logaddexp(0.0, logs[f, j]) + ratio
        mixture = (worth * np.exp(logs)).sum(axis=1)
        if detector.warm and detector.statistic < 2 * detector.threshold:  # beyond, sums stop growing
            assert detector.statistic == pytest.approx(max(math.log(mixture.mean()), 0.0), rel=1e-9, abs=1e-9)
    assert detector.drift_detected


def test_the_ages_are_means_over_all_beginnings() -> None:
    rng = np.random.default_rng(4)
    values, stream = rng.standard_normal((5000, 1)), rng.standard_normal(40)
    detector = ShiryaevRoberts()
    detector.reset(Reference(["a"], values))
    for x in stream:
        detector.update(np.array([x]))
    z = (stream - values.mean()) / values.std()
    ratios = np.exp(0.7 * z - 0.5 * 0.49)  # mean up by 0.7: the fifth alternative
    products = np.array([ratios[i:].prod() for i in range(40)])
    state = detector.state()
    assert state["sums"][0, 4] == pytest.approx(products.sum())
    assert state["ages"][0, 4] == pytest.approx((products * np.arange(40, 0, -1)).sum() / products.sum())


def test_while_nothing_changes_the_sums_grow_by_one_a_row_on_average() -> None:
    """What the limit rests on: R(t) - t is a martingale. Early, where a mean of so many can be trusted."""
    from regime.kernels.shiryaev_roberts import take

    columns = 200_000
    sums, ages, mixed = np.zeros((columns, 5)), np.zeros((columns, 5)), np.zeros(columns)
    scale = np.array([np.ones(columns), np.zeros(columns), np.ones(columns)])
    rng = np.random.default_rng(5)
    for _ in range(5):
        take(
            rng.standard_normal(columns), scale, np.ones(columns, dtype=np.bool_), np.array([0.25, 0.7]),
            np.array([math.sqrt(0.55)]), np.ones((columns, 5)), sums, ages, mixed, 1e200,
        )  # fmt: skip
    np.testing.assert_allclose(sums.mean(axis=0), 5.0, rtol=0.03)
    np.testing.assert_allclose(mixed, sums.sum(axis=1))


def test_a_change_of_each_kind_is_named_and_dated() -> None:
    rng = np.random.default_rng(6)
    detector = ShiryaevRoberts()
    detector.reset(Reference(list("abcde"), 5 + 3 * rng.standard_normal((5000, 5))))
    stream = rng.standard_normal((600, 5))
    stream[400:, 0] += 1
    stream[400:, 1] -= 1
    stream[400:, 2] *= 2
    stream[400:, 3] *= 0.4
    for i, x in enumerate(5 + 3 * stream):
        detector.update(x)
        if i == 460:
            ages = [ago for ago, _ in detector.changes]
    assert [what for _, what in detector.changes][:4] == ["mean up", "mean down", "scale up", "scale down"]
    assert all(abs(age - 61) <= 5 for age in ages[:2])
    assert all(0 <= age - 61 <= 40 for age in ages[2:4])
    np.testing.assert_array_equal(detector.feature_statistics > 1, [True, True, True, True, False])


def test_calm_features_have_no_change() -> None:
    detector = ShiryaevRoberts()
    detector.reset(Reference(["a", "b"], np.random.default_rng(1).standard_normal((500, 2))))
    assert detector.changes == [(0, ""), (0, "")]


def test_weights_add_up_to_one_and_a_short_reference_gives_up_small_shifts() -> None:
    long, short = weights(9.0, np.array([10**12])), weights(9.0, np.array([500]))
    assert long.sum() == pytest.approx(1.0)
    kept = short[0] / long[0]
    assert (kept <= 1).all()
    assert kept[0] < 0.05 and kept[6] > 0.8


@pytest.mark.parametrize("features", [1, 5])
def test_features_ring_as_often_as_asked(features: int) -> None:
    rng = np.random.default_rng(13)
    rang, exposure = 0, 0
    for run in range(80):
        if run % 10 == 0:
            detector = ShiryaevRoberts(arl=400)
            detector.reset(Reference(list("abcde")[:features], rng.standard_normal((5000, features))))
            empty = detector.state()
        detector.load_state(empty)
        for x in rng.standard_normal((2000, features)):
            exposure += 1
            detector.update(x)
            if detector.drift_detected:
                rang += 1
                break
    assert 300 < exposure / rang < 700


def test_values_of_any_size_are_no_error_and_the_alarm_goes_again() -> None:
    rng = np.random.default_rng(7)
    detector = ShiryaevRoberts()
    detector.reset(Reference(["a", "b"], rng.standard_normal((5000, 2))))
    for value in (1e308, -1e308, 1e6, -1e6, 5e-324) * 20:
        detector.update(np.array([value, -value]))
        assert math.isfinite(detector.statistic)
        assert np.isfinite(detector.feature_statistics).all()
    assert detector.drift_detected
    assert detector.statistic < 3 * detector.threshold
    back = 0
    while detector.drift_detected:
        detector.update(rng.standard_normal(2))
        back += 1
    assert back < 2000


def test_the_module_can_be_imported_without_numba() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from regime.detectors.shiryaev_roberts import ShiryaevRoberts as D; D.examples()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_state_of_another_set_up_is_refused() -> None:
    values = np.random.default_rng(3).standard_normal((600, 2))
    one, other = ShiryaevRoberts(), ShiryaevRoberts()
    one.reset(Reference(["a", "b"], values))
    other.reset(Reference(["a"], values[:, :1]))
    with pytest.raises(ValueError, match="another set-up"):
        other.load_state(one.state())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"arl": 1.5}, "arl"), ({"arl": float("inf")}, "arl"), ({"arl": 1e101}, "arl"), ({"robust": None}, "robust")],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShiryaevRoberts(**options)
