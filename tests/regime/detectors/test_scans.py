"""`xie_siegmund` and `chi_square`, and what they share."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from regime.detectors.chi_square import ChiSquare
from regime.detectors.xie_siegmund import XieSiegmund
from regime.reference import Reference
from regime.scan_bank import LOOKS, independent, limit_of, two_sided


@pytest.mark.parametrize("make", [lambda: XieSiegmund(p0=0.1, longest=16), lambda: ChiSquare(longest=16)])
def test_the_sums_are_those_of_a_plain_loop(make: Any) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((1000, 4)) * [1, 50, 1e-6, 3] + 7
    stream = rng.standard_normal((120, 4)) * [1, 50, 1e-6, 3] + 7
    stream[60:] += [1.0, -60.0, 0.0, 90.0]
    stream[rng.random(stream.shape) < 0.1] = np.nan
    stream[:30, 1] = np.nan
    detector = make()
    detector.reset(Reference(["a", "b", "c", "d"], values))
    z = (stream - values.mean(axis=0)) / values.std(axis=0)
    for t in range(len(stream)):
        detector.update(stream[t])
        expected = []
        for k, w in enumerate((1, 2, 4, 8, 16)):
            total, full = 0.0, 0
            for f in range(4):
                known = z[: t + 1, f][~np.isnan(z[: t + 1, f])]
                if len(known) >= w:
                    square = known[-w:].sum() ** 2 / (w * (1 + w / 1000))
                    # By the definition; beyond 600 e^(U^2/2) is no number any more.
                    mixed = math.log(0.9 + 0.1 * math.exp(0.5 * square)) if square < 600 else square / 2 + math.log(0.1)
                    total += mixed if isinstance(detector, XieSiegmund) else square
                    full += 1
            share = full / 4
            if share >= 0.5:
                expected.append((total - share * detector._usual[k]) / (detector._spread[k] * detector._limits[k]))
        if detector.warm:
            assert detector.statistic == pytest.approx(max(expected), rel=1e-8, abs=1e-8), t
            assert detector.window == 2 ** int(np.argmax(expected))
    assert detector.drift_detected


def test_an_outlier_leaves_no_trace() -> None:
    rng = np.random.default_rng(4)
    reference = Reference(["a", "b"], rng.standard_normal((3000, 2)))
    rows = rng.standard_normal((700, 2))
    spoiled = rows.copy()
    spoiled[50] = 1e300
    found = []
    for stream in (rows, spoiled):
        detector = ChiSquare()
        detector.reset(reference)
        for x in stream:
            detector.update(x)
            assert math.isfinite(detector.statistic)
        found.append(detector.statistic)
    assert found[0] == found[1]


@pytest.mark.parametrize("count", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("arl", [100.0, 1e4, 1e7])
def test_the_limit_of_a_sum_of_squares_is_the_quantile_of_chi_square(count: int, arl: float) -> None:
    exact = (chi2.isf(1 / (LOOKS * arl), count) - count) / math.sqrt(2 * count)
    assert limit_of(0.0, float(count), arl) == pytest.approx(exact, rel=0.015)


@pytest.mark.parametrize("count", [1, 3, 10, 60])
@pytest.mark.parametrize("sparse", [0.02, 0.1, 0.6])
def test_the_limit_of_a_mixture_is_that_of_simulated_sums(sparse: float, count: int) -> None:
    u = np.random.default_rng(count).standard_normal((4_000_000 // count, count))
    sums = np.log1p(sparse * np.expm1(0.5 * u**2)).sum(axis=1)
    mean, spread = independent(sparse)
    assert sums.mean() / count == pytest.approx(mean, abs=4 * spread / math.sqrt(4e6))
    found = (np.quantile(sums, 1 - 1e-3) - count * mean) / (math.sqrt(count) * spread)
    assert limit_of(sparse, float(count), 1000 / LOOKS) == pytest.approx(found, rel=0.12)


def test_two_sided_is_the_normal_quantile() -> None:
    assert two_sided(0.05) == pytest.approx(1.959964, abs=1e-6)
    assert two_sided(1e-12) == pytest.approx(7.1305, abs=1e-3)


def rows_to_alarm(detector: Any, rows: np.ndarray) -> int:
    for i, x in enumerate(rows):
        detector.update(x)
        if detector.drift_detected:
            return i + 1
    return len(rows) + 1


@pytest.mark.parametrize("make", [XieSiegmund, ChiSquare])
@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_normal_features_ring_as_often_as_asked_alike_or_not(make: Any, alike: float) -> None:
    rng = np.random.default_rng(13)

    def draw(rows: int) -> np.ndarray:
        common, own = rng.standard_normal((rows, 1)), rng.standard_normal((rows, 10))
        return math.sqrt(alike) * common + math.sqrt(1 - alike) * own

    rang, exposure = 0, 0
    for run in range(80):
        if run % 10 == 0:
            detector = make(arl=400)
            detector.reset(Reference(list("abcdefghij"), draw(10_000)))
            empty = detector.state()
        detector.load_state(empty)
        found = rows_to_alarm(detector, draw(2000))
        rang += found <= 2000
        exposure += min(found, 2000)
    assert 260 < exposure / rang < 900


def test_each_scan_is_fast_on_what_it_is_for() -> None:
    rng = np.random.default_rng(14)
    reference = Reference([f"f{i:03}" for i in range(150)], rng.standard_normal((5000, 150)))
    few, many = rng.standard_normal((600, 150)), rng.standard_normal((600, 150))
    few[100:, :5] += 0.8
    many[100:] += 0.12
    late = {}
    for name, make in (("xie", XieSiegmund), ("chi", ChiSquare)):
        for world, rows in (("few", few), ("many", many)):
            detector = make()
            detector.reset(reference)
            late[name, world] = rows_to_alarm(detector, rows) - 100
            if world == "few" and name == "xie":
                assert set(np.argsort(-detector.feature_statistics)[:2]) <= set(range(5))
                assert detector.window in (8, 16, 32)
    assert 0 < late["xie", "few"] < late["chi", "few"]
    assert 0 < late["chi", "many"] < late["xie", "many"]


def test_a_short_reference_has_short_windows_only_and_one_too_short_none() -> None:
    values = np.random.default_rng(5).standard_normal((300, 3))
    detector = ChiSquare()
    detector.reset(Reference(["a", "b", "c"], values))
    np.testing.assert_array_equal(np.isfinite(detector._limits), [True] * 7 + [False] * 3)
    detector.reset(Reference(["a", "b", "c"], values[:3]))
    assert detector.threshold == math.inf
    detector.update(np.array([100.0, 100.0, 100.0]))
    assert detector.warm and not detector.drift_detected


def test_a_feature_that_hardly_ever_comes_does_not_close_the_long_windows() -> None:
    values = np.random.default_rng(6).standard_normal((4000, 3))
    values[np.arange(4000) % 50 > 0, 0] = np.nan
    detector = XieSiegmund()
    detector.reset(Reference(["a", "b", "c"], values))
    assert np.isfinite(detector._limits).all()


@pytest.mark.parametrize("module, name", [("xie_siegmund", "XieSiegmund"), ("chi_square", "ChiSquare")])
def test_the_module_can_be_imported_without_numba(module: str, name: str) -> None:
    code = f"import sys; sys.modules['numba'] = None; from regime.detectors.{module} import {name} as D; D.examples()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_state_of_another_set_up_is_refused() -> None:
    values = np.random.default_rng(3).standard_normal((600, 2))
    one, other = ChiSquare(), ChiSquare(longest=64)
    for detector in (one, other):
        detector.reset(Reference(["a", "b"], values))
    with pytest.raises(ValueError, match="another set-up"):
        other.load_state(one.state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p0": 0.0}, "p0"), ({"p0": 1}, "p0"), ({"p0": True}, "p0"), ({"p0": "a"}, "p0"), ({"p0": math.nan}, "p0"),
        ({"longest": 100}, "longest"), ({"longest": 8192}, "longest"), ({"longest": True}, "longest"),
        ({"longest": 64.0}, "longest"), ({"arl": 0.5}, "arl"), ({"arl": math.inf}, "arl"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        XieSiegmund(**options)
