from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from regime.reference import Reference
from regime.sizes import BINS, ROWS_MIN, SizesOf, binned


def sizes_of(values: list[float] | np.ndarray) -> SizesOf:
    return SizesOf(Reference(["a"], np.asarray(values, dtype=np.float64)[:, None]))


numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@given(
    st.lists(numbers, min_size=2, max_size=60), st.lists(numbers, min_size=ROWS_MIN, max_size=90), st.booleans()
)  # fmt: skip
def test_wasserstein_is_scipys(sample: list[float], recent: list[float], whole: bool) -> None:
    x, y = (np.round(values) if whole else np.array(values) for values in (sample, recent))
    found = sizes_of(x).of("a", y).wasserstein
    if np.std(x) == 0:
        assert found is None
        return
    assert found == pytest.approx(wasserstein_distance(x, y) / np.std(x), rel=1e-6, abs=1e-6 * np.abs(y).max() + 1e-9)


@pytest.mark.parametrize(("law", "bound"), [("normal", 0.015), ("student", 0.035)])
def test_wasserstein_of_large_samples_is_as_close_as_the_docstring_says(law: str, bound: float) -> None:
    rng = np.random.default_rng(1)
    draw = rng.standard_normal if law == "normal" else lambda n: rng.standard_t(3, n)
    x, y = 5 + 3 * draw(20_000), 5 + 3 * rng.standard_t(4, 288)
    known, sizes = binned(x), sizes_of(x)
    assert known is not None
    away = wasserstein_distance(known.ordered, (x - x.mean()) / x.std())
    assert 0.001 < away <= bound
    for recent in (y, y + 0.2, 2 * y):
        exact = wasserstein_distance(x, recent) / x.std()
        assert abs(sizes.of("a", recent).wasserstein - exact) <= away + 1e-6
    assert sizes.of("a", x + 2 * x.std()).wasserstein == pytest.approx(2.0, abs=away)
    assert sizes.of("a", x).wasserstein == pytest.approx(away, rel=1e-5)


def test_what_is_kept_is_small_and_gives_the_same_sizes() -> None:
    rng = np.random.default_rng(3)
    reference = Reference(
        ["a", "b", "c"], np.column_stack([rng.standard_normal(5000), np.ones(5000), np.arange(5000.0)])
    )
    sizes = SizesOf(reference)
    assert sum(array.nbytes for array in sizes.arrays.values()) < 3 * 1024
    again = SizesOf.of_arrays(reference.names, {name: array.copy() for name, array in sizes.arrays.items()})
    for name in reference.names:
        recent = 100 * rng.standard_normal(50)
        assert again.of(name, recent) == sizes.of(name, recent)
    with pytest.raises(ValueError, match="fit"):
        SizesOf.of_arrays(["a"], sizes.arrays)


def test_a_value_that_single_precision_rounds_stays_in_its_bin() -> None:
    """0.7 is a little less in single precision: rounded on one side only, it would fall out of its own bin."""
    values = np.array([0.1, 0.3, 0.7, 0.9] * 50)
    found = sizes_of(values).of("a", values.astype(np.float32).astype(np.float64))
    assert found.psi == pytest.approx(0.0, abs=1e-12)


def test_psi_by_hand() -> None:
    # 100 values, ten in each of ten bins; of 40 recent ones 20 are in the first bin, 20 in the last.
    sizes = sizes_of(np.arange(100.0))
    found = sizes.of("a", np.array([3.0] * 20 + [95.0] * 20)).psi
    p, high, low = 10.5 / 105, 20.5 / 45, 0.5 / 45
    assert found == pytest.approx(2 * (high - p) * math.log(high / p) + 8 * (low - p) * math.log(low / p))
    assert sizes.of("a", np.arange(100.0)).psi == pytest.approx(0.0, abs=1e-12)


def test_a_value_on_an_edge_belongs_to_the_bin_above_in_both_samples() -> None:
    known = binned(np.arange(100.0))
    assert known is not None
    np.testing.assert_array_equal(known.counts, [10] * BINS)


def test_equal_values_share_a_bin() -> None:
    known = binned(np.array([0.0] * 70 + [1.0] * 30))
    assert known is not None
    np.testing.assert_array_equal(known.counts, [70, 30])
    # A third of the ones are gone: 24 of 30 are zeros.
    found = SizesOf(Reference(["a"], np.array([0.0] * 70 + [1.0] * 30)[:, None])).of(
        "a", np.array([0.0] * 24 + [1.0] * 6)
    )
    p, q = 30.5 / 101, 6.5 / 31
    assert found.psi == pytest.approx((q - p) * math.log(q / p) + (p - q) * math.log((1 - q) / (1 - p)))


def test_what_nothing_changes_looks_like_is_as_the_docstring_says() -> None:
    rng = np.random.default_rng(2)
    sizes = sizes_of(rng.standard_normal(20_000))
    for rows, psi, wasserstein in ((288, 0.031, 0.08), (30, 0.26, 0.23)):
        found = np.array([sizes.of("a", rng.standard_normal(rows)) for _ in range(300)], dtype=float).mean(axis=0)
        assert found[0] == pytest.approx(psi, rel=0.15)
        assert found[1] == pytest.approx(wasserstein, rel=0.15)


def test_missing_values_do_not_count_and_too_few_have_no_size() -> None:
    sizes = sizes_of(np.append(np.arange(100.0), np.nan))
    recent = np.append(np.arange(0.0, 100.0, 2.0), [np.nan, np.inf, -np.inf])
    assert sizes.of("a", recent) == sizes.of("a", recent[:-3])
    assert sizes.of("a", np.append(np.arange(29.0), [np.nan] * 50)) == (None, None)
    assert None not in sizes.of("a", np.arange(30.0))


@pytest.mark.parametrize("sample", [[7.0] * 50, [math.nan] * 50, [1e308, -1e308] * 25])
def test_a_feature_without_a_spread_has_no_size(sample: list[float]) -> None:
    assert sizes_of(sample).of("a", np.arange(50.0)) == (None, None)


def test_an_unknown_feature_is_an_error() -> None:
    with pytest.raises(KeyError):
        sizes_of([1.0, 2.0]).of("b", np.arange(50.0))
