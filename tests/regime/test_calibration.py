"""`calibrate`: what it finds in a reference, what it promises, and that a calibration survives its JSON bit for bit."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from regime import calibration_kernels as kernels
from regime.calibration import DAY_MS, VERSION, Calibration, calibrate, episodes, family_statistic, season_basis
from regime.detectors.calibrated import Calibrated
from regime.errors import CorruptionError
from regime.reference import Reference

Floats = NDArray[np.float64]
STEP_MS = 300_000
NAMES = ["a", "b", "c", "d", "e", "f"]


def autocorrelated(seed: int, rows: int, features: int = 6, phi: float = 0.9) -> Floats:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features)) * math.sqrt(1 - phi * phi)
    for t in range(1, rows):
        x[t] += phi * x[t - 1]
    return x


def times(rows: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = 1_699_920_000_000 + STEP_MS * np.arange(rows, dtype=np.int64)
    return found


@pytest.fixture(scope="module")
def usual() -> Calibration:
    return calibrate(Reference(NAMES, autocorrelated(1, 8_000), ts_ms=times(8_000)), rows_per_false_alarm=600)


def test_limits_stand_in_order(usual: Calibration) -> None:
    assert 0 < usual.limit_alarm < math.inf
    assert usual.limit_recovery < usual.limit_warning < usual.limit_alarm


def test_the_run_length_on_fresh_autocorrelated_rows_is_about_the_one_asked() -> None:
    ratios = []
    for seed in range(3):
        found = calibrate(Reference(NAMES, autocorrelated(seed, 12_000)), rows_per_false_alarm=1_000)
        fresh = family_statistic(found, autocorrelated(100 + seed, 60_000))[600:]
        ratios.append(len(fresh) / episodes(fresh > found.limit_alarm, 288) / 1_000)
    assert 0.5 < np.exp(np.mean(np.log(ratios))) < 2.0, ratios


def test_the_same_reference_gives_the_same_bits(usual: Calibration) -> None:
    again = calibrate(Reference(NAMES, autocorrelated(1, 8_000), ts_ms=times(8_000)), rows_per_false_alarm=600)
    assert again == usual
    assert again.digest == usual.digest


def test_json_brings_back_every_bit(usual: Calibration) -> None:
    again = Calibration.from_json(usual.to_json())
    assert again.to_json() == usual.to_json()
    assert again.digest == usual.digest
    np.testing.assert_array_equal(again.table, usual.table)
    np.testing.assert_array_equal(again.numbers, usual.numbers)
    assert again.report == usual.report


def test_the_digest_changes_with_the_content(usual: Calibration) -> None:
    assert dataclasses.replace(usual, limit_alarm=usual.limit_alarm + 1e-9).digest != usual.digest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version":1}', "null"])
def test_what_is_no_calibration_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptionError):
        Calibration.from_json(text)


def test_another_version_is_refused_in_words(usual: Calibration) -> None:
    plain = json.loads(usual.to_json())
    plain["version"] = VERSION + 1
    with pytest.raises(CorruptionError, match="calibrate again"):
        Calibration.from_json(json.dumps(plain))


def test_a_reference_of_six_days_promises_no_thirty() -> None:
    report = calibrate(Reference(NAMES, autocorrelated(2, 1_700)), rows_per_false_alarm=8_640).report
    assert report.claim == "none"
    assert "covers 5.9 days" in report.warnings[0]
    assert "cannot be promised" in report.warnings[0]


def test_fewer_than_twelve_periods_is_said_to_be_extrapolated() -> None:
    report = calibrate(Reference(NAMES, autocorrelated(2, 3_000)), rows_per_false_alarm=1_000).report
    assert report.claim == "extrapolated"
    assert "3.0 times the asked period, fewer than 12" in report.warnings[0]


def test_twelve_periods_are_counted(usual: Calibration) -> None:
    assert usual.report.claim == "counted"
    assert usual.report.run_length_low < usual.report.run_length < usual.report.run_length_high
    assert usual.report.rows_judged > 7_000


def test_a_shorter_run_length_has_a_lower_limit(usual: Calibration) -> None:
    reference = Reference(NAMES, autocorrelated(1, 8_000), ts_ms=times(8_000))
    assert calibrate(reference, rows_per_false_alarm=3_000).limit_alarm > usual.limit_alarm


@pytest.mark.parametrize("rows", [1, 40, 999])
def test_too_few_rows_carry_no_limit(rows: int) -> None:
    found = calibrate(Reference(NAMES, autocorrelated(3, rows)), rows_per_false_alarm=600)
    assert found.limit_alarm == math.inf
    assert found.report.claim == "none"
    assert Calibration.from_json(found.to_json()) == found


@pytest.mark.parametrize("wanted", [0.0, -1.0, math.nan, math.inf])
def test_a_run_length_that_makes_no_sense_is_refused(wanted: float) -> None:
    with pytest.raises(ValueError, match="rows_per_false_alarm"):
        calibrate(Reference(NAMES, autocorrelated(3, 50)), rows_per_false_alarm=wanted)


def test_a_daily_season_is_found_where_there_is_one_and_nowhere_else() -> None:
    x, ts = autocorrelated(4, 8_000), times(8_000)
    x[:, 1] += 1.0 * np.sin(2 * np.pi * ts / DAY_MS)
    found = calibrate(Reference(NAMES, x, ts_ms=ts), rows_per_false_alarm=600)
    assert found.season
    assert found.report.seasonal_features == ("b",)
    assert 0.2 < found.report.season_daily < 0.5


def test_no_season_in_rows_without_one(usual: Calibration) -> None:
    assert not usual.season
    assert usual.report.seasonal_features == ()


def test_the_basis_of_seasons_has_the_periods_of_day_and_week() -> None:
    day, week = season_basis(np.array([0, DAY_MS])), season_basis(np.array([5, 5 + 7 * DAY_MS]))
    np.testing.assert_allclose(day[0, :8], day[1, :8], atol=1e-12)
    np.testing.assert_allclose(week[0], week[1], atol=1e-12)


def test_dead_features_near_duplicates_and_wandering_ones_are_named() -> None:
    x = autocorrelated(5, 4_000)
    x[:, 0] = 3.0
    x[:, 2] = 5 * x[:, 1] + 0.01 * x[:, 3]
    x[:, 4] = np.cumsum(np.random.default_rng(1).standard_normal(4_000))
    report = calibrate(Reference(NAMES, x), rows_per_false_alarm=600).report
    assert report.dead == ("a",)
    assert report.duplicates == (("b", "c"),)
    assert report.wandering == ("e",)
    assert 2.5 < report.effective_rank < 4.5


@pytest.mark.filterwarnings("error")
def test_ties_zeros_and_ones_gaps_and_infinite_variance_do_no_harm() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4_000, 6))
    x[:, 0] = rng.random(4_000) < 0.3
    x[:, 1] = rng.random(4_000) < 0.001
    x[:, 2] = np.maximum(np.round(x[:, 2]), 0)
    x[:, 3] = rng.standard_cauchy(4_000)
    x[rng.random(4_000) < 0.3, 4] = np.nan
    x[200:, 5] = np.nan
    found = calibrate(Reference(NAMES, x), rows_per_false_alarm=600)
    assert np.isfinite(found.table[: kernels.T_CAP]).all()
    assert np.isfinite(found.limit_alarm)
    assert found.report.dead == ("f",)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    x = autocorrelated(7, 4_000)
    one = calibrate(Reference(NAMES, x), rows_per_false_alarm=600)
    other = calibrate(Reference(NAMES, x * 1024.0), rows_per_false_alarm=600)
    assert other.limit_alarm == pytest.approx(one.limit_alarm, rel=1e-9)


def test_progress_is_told_from_begin_to_end() -> None:
    told: list[tuple[float, str]] = []
    calibrate(
        Reference(NAMES, autocorrelated(8, 2_000)), rows_per_false_alarm=600,
        progress=lambda share, text: told.append((share, text)),
    )  # fmt: skip
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(text for _, text in told)


@pytest.mark.parametrize("where", ["first sixth", "last sixth", "middle", "scattered", "one value", "moves once"])
def test_a_feature_that_is_there_in_one_part_of_the_reference_only_breaks_nothing(where: str) -> None:
    rows = 6000
    values = np.random.default_rng(11).standard_normal((rows, 3))
    kept = np.zeros(rows, dtype=bool)
    if where == "first sixth":
        kept[:1000] = True
    elif where == "last sixth":
        kept[-1000:] = True
    elif where == "middle":
        kept[2500:3500] = True
    else:
        kept[::7] = True
    values[~kept, 1] = np.nan
    if where == "one value":
        values[kept, 1] = 2.0
    elif where == "moves once":
        values[:, 1] = 0.0
        values[5000:, 1] = 1.0
    reference = Reference(["a", "b", "c"], values)
    found = calibrate(reference, rows_per_false_alarm=2000)
    assert np.isfinite(found.limit_alarm)
    detector = Calibrated(rows_per_false_alarm=2000)
    detector.reset_calibrated(reference, found)
    for row in np.random.default_rng(12).standard_normal((700, 3)):
        detector.update(row)
    assert np.isfinite(detector.statistic)


def in_groups(seed: int, rows: int) -> Floats:
    """Six features, three and three of which are nearly one."""
    x = autocorrelated(seed, rows)
    for group in (x[:, :3], x[:, 3:]):
        group[:] = group[:, :1] + 0.3 * group
    return x


@pytest.mark.parametrize("with_times", [True, False])
def test_a_block_says_bit_for_bit_what_the_detector_says_row_by_row(with_times: bool) -> None:
    ts = times(9_000)
    x = in_groups(20, 9_000) + 1.5 * np.sin(2 * np.pi * ts / DAY_MS)[:, None]
    reference = Reference(NAMES, x[:8_000], ts_ms=ts[:8_000])
    found = calibrate(reference, rows_per_false_alarm=600)
    assert found.season
    fresh = x[8_000:].copy()
    fresh[np.random.default_rng(1).random(fresh.shape) < 0.1] = np.nan
    fresh[200:520, 2] = np.nan
    fresh[[0, 100, 101, 700]] = np.nan
    fresh[50, 1] = np.inf
    fresh[800:, 3] += 2.0
    detector = Calibrated(rows_per_false_alarm=600)
    detector.reset_calibrated(reference, found)
    one_by_one = []
    for row, at in zip(fresh, ts[8_000:], strict=True):
        detector.update(row, int(at) if with_times else None)
        one_by_one.append(detector.statistic)
    block = family_statistic(found, fresh, ts[8_000:] if with_times else None)
    np.testing.assert_array_equal(block, one_by_one)
    assert np.isnan(block[:290]).all()
    assert block[-1] > found.limit_alarm


def test_a_block_of_other_columns_or_times_is_refused(usual: Calibration) -> None:
    with pytest.raises(ValueError, match="5 columns"):
        family_statistic(usual, np.zeros((10, 5)))
    with pytest.raises(ValueError, match="9 times"):
        family_statistic(usual, np.zeros((10, 6)), times(9))


def test_a_block_of_nothing_says_nothing(usual: Calibration) -> None:
    assert np.isnan(family_statistic(usual, np.full((5, 6), np.nan))).all()
    assert family_statistic(usual, np.zeros((0, 6))).shape == (0,)


def test_the_others_are_asked_only_where_they_know_something(usual: Calibration) -> None:
    assert not usual.table[kernels.T_COUPLE].any(), "independent features"
    found = calibrate(Reference(NAMES, in_groups(21, 8_000)), rows_per_false_alarm=600)
    assert (found.table[kernels.T_COUPLE] > 1).all()
    loads = found.table[kernels.T_LOAD : kernels.T_BACK]
    np.testing.assert_allclose(loads @ loads.T, np.diag([1.0, 1.0, *[0.0] * 14]), atol=1e-9)
    np.testing.assert_array_equal(
        found.table[kernels.T_BACK : kernels.T_BY_ROW].reshape(len(NAMES), kernels.LOADS), loads.T
    )
    assert Calibration.from_json(found.to_json()) == found


def test_what_is_left_unexplained_gets_no_larger_by_a_gap() -> None:
    """And it would, if a missing score were taken to be 0."""
    found = calibrate(Reference(NAMES, in_groups(22, 8_000)), rows_per_false_alarm=600)
    loads = found.table[kernels.T_LOAD : kernels.T_BACK]
    back, couple = np.ascontiguousarray(loads.T), np.ascontiguousarray(found.table[kernels.T_COUPLE])
    rng = np.random.default_rng(1)
    whole: list[float] = []
    gap: list[float] = []
    zero: list[float] = []
    for _ in range(500):
        u = np.repeat(rng.standard_normal(2), 3) + 0.2 * rng.standard_normal(6)
        for there, as_zero, squares in ((6, False, whole), (5, False, gap), (5, True, zero)):
            go = np.ones(6)
            go[there:] = 0.0
            out = np.empty(6)
            seen = u * go
            counted = kernels.unexplained(
                seen, np.ones(6) if as_zero else go, couple, loads, back, np.empty(kernels.LOADS), np.empty(6), out
            )
            assert counted == (6 if as_zero else there)
            squares.append(float((out[3:5] ** 2).sum()))
    assert np.mean(gap) < np.mean(whole) < 0.2 * np.mean(zero)


def test_the_kernel_refuses_an_answer_of_another_size(usual: Calibration) -> None:
    state, clock = kernels.fresh_state(6)
    nothing, none, x = np.zeros((0, 0)), np.zeros((0, 0, 0)), np.zeros((1, 6))
    with pytest.raises(ValueError, match="FAMILY"):
        kernels.walk(x, x, np.ones(1), usual.table, usual.numbers, state, clock, x, nothing, nothing, none, 1)


def smooth(seed: int, rows: int, features: int = 6) -> Floats:
    """Features with long memory, as indicators are: each is an average of averages of noise over 3 to 13 rows."""
    x = np.random.default_rng(seed).standard_normal((rows + 200, features))
    for f in range(features):
        rate = 2.0 / (3.0 + 2.0 * f + 1.0)
        for _ in range(2):
            for t in range(1, len(x)):
                x[t, f] = x[t - 1, f] + rate * (x[t, f] - x[t - 1, f])
    return np.ascontiguousarray(x[200:] / x[200:].std(axis=0))


def thinned(x: Floats, share: float, seed: int) -> Floats:
    found = x.copy()
    found[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return found


@pytest.fixture(scope="module")
def without_gaps() -> Calibration:
    return calibrate(Reference(NAMES, smooth(30, 8_000)), rows_per_false_alarm=2_000)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_values_missing_at_random_do_not_ring(without_gaps: Calibration, share: float) -> None:
    """The limits are those of a reference without gaps."""
    statistic = family_statistic(without_gaps, thinned(smooth(131, 20_000), share, 1))[600:]
    over = statistic > without_gaps.limit_alarm
    assert over.mean() < 0.1
    assert episodes(over, 288) <= 18, "about ten were asked for"


def test_a_change_is_found_through_gaps(without_gaps: Calibration) -> None:
    x = smooth(32, 3_000)
    x[1_500:, 2] += 1.5
    over = family_statistic(without_gaps, thinned(x, 0.3, 1)) > without_gaps.limit_alarm
    assert not over[1_400:1_500].any()
    assert over[1_500:1_700].any()


def test_the_law_is_learned_through_gaps_in_the_reference() -> None:
    x = smooth(133, 12_000)
    whole = calibrate(Reference(NAMES, x), rows_per_false_alarm=2_000)
    found = calibrate(Reference(NAMES, thinned(x, 0.3, 1)), rows_per_false_alarm=2_000)
    assert found.table[kernels.T_BY_ROW].all()
    np.testing.assert_allclose(found.table[kernels.T_SIGMA], whole.table[kernels.T_SIGMA], rtol=0.2)
    for share in (0.0, 0.3):
        over = family_statistic(found, thinned(smooth(134, 20_000), share, 2))[600:] > found.limit_alarm
        assert over.mean() < 0.1


def test_a_feature_that_comes_every_twelfth_row_has_its_law_from_value_to_value() -> None:
    x = smooth(235, 45_000)
    x[np.arange(len(x)) % 12 > 0, 3] = np.nan
    found = calibrate(Reference(NAMES, x[:40_000]), rows_per_false_alarm=2_000)
    np.testing.assert_array_equal(found.table[kernels.T_BY_ROW], [1, 1, 1, 0, 1, 1])
    over = family_statistic(found, x[40_000:])[600:] > found.limit_alarm
    assert over.mean() < 0.1


def test_dependence_is_not_judged_where_too_much_of_the_reference_is_missing() -> None:
    found = calibrate(Reference(NAMES, thinned(in_groups(36, 8_000), 0.1, 1)), rows_per_false_alarm=2_000)
    assert not found.table[kernels.T_COUPLE].any()
    assert any("dependence between features is not judged" in text for text in found.report.warnings)
    whole = family_statistic(found, in_groups(37, 10_000))[600:]
    assert (whole > found.limit_alarm).mean() < 0.1
    assert family_statistic(found, in_groups(38, 2_000) * 1.5)[-1] > found.limit_alarm


def walked(calibration: Calibration, x: Floats, open_: float = 0.0) -> tuple[Floats, Floats, Floats, Floats]:
    """Whitened scores, the family, and what is remembered after the last row."""
    z, present = np.empty(x.shape), np.empty(x.shape)
    kernels.scores(x, np.zeros((len(x), 0)), calibration.table, z, present)
    state, clock = kernels.fresh_state(x.shape[1])
    clock[kernels.C_OPEN] = clock[kernels.C_LOST] = open_
    family, moments = np.empty((len(x), kernels.FAMILY)), np.zeros((kernels.MOMENTS, x.shape[1]))
    kept = np.zeros((len(x), 2, x.shape[1]))
    kernels.walk_keeping(
        z, present, np.ones(len(x)), calibration.table, calibration.numbers, state, clock, family, moments, kept
    )
    return kept, family, state, clock


def test_where_nothing_is_missing_gaps_cost_not_one_bit(without_gaps: Calibration) -> None:
    """The arithmetic for gaps, forced on rows without one, changes nothing; left alone, it is not entered at all."""
    x = smooth(39, 1_000)
    usual, forced = walked(without_gaps, x), walked(without_gaps, x, open_=1.0)
    for one, other in zip(usual, forced, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(usual[2][kernels.S_FAR :], 0.0)
    np.testing.assert_array_equal(usual[3][[kernels.C_OPEN, kernels.C_LOST]], 0.0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_innovations_after_gaps_are_as_large_as_any_and_not_correlated(without_gaps: Calibration, share: float) -> None:
    x = thinned(smooth(40, 20_000), share, 1)
    kept = walked(without_gaps, x)[0]
    for f in range(x.shape[1]):
        u = kept[~np.isnan(x[:, f]), 0, f][400:]
        assert abs(u.var() - 1.0) < 0.1
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.04


def test_what_is_missing_is_remembered_as_a_kalman_filter_would(without_gaps: Calibration) -> None:
    """Against the same filter written with matrices, feature by feature."""
    lags, past, har = kernels.LAGS, kernels.PAST, kernels.HAR
    x = thinned(smooth(41, 700), 0.2, 1)
    x[400:430, 1] = np.nan
    table, numbers = without_gaps.table, without_gaps.numbers
    z, present = np.empty(x.shape), np.empty(x.shape)
    kernels.scores(x, np.zeros((len(x), 0)), table, z, present)
    *_, state, _ = walked(without_gaps, x)
    for f in range(x.shape[1]):
        phi, noise = table[kernels.T_PHI : kernels.T_SIGMA, f], 1 / table[kernels.T_SIGMA, f] ** 2
        memory, covariance, count = np.zeros(past), np.zeros((past, past)), 0
        for t in range(len(z)):
            if count == 0:
                if present[t, f] == 0:
                    continue
                memory[:] = z[t, f]
            expected, w = phi @ memory, covariance @ phi
            total = phi @ w + noise
            if present[t, f] > 0:
                memory = memory + w / total * (z[t, f] - expected)
                covariance = covariance - np.outer(w, w) / total
            move, entering = np.zeros((past, past)), np.zeros(past)
            move[np.arange(1, lags), np.arange(lags - 1)] = 1.0
            entering[0] = 1.0
            rates = np.maximum(numbers[kernels.N_HAR : kernels.N_HAR + har], 1 / (count + 1))
            move[np.arange(lags, past), np.arange(lags, past)] = 1 - rates
            entering[lags:] = rates
            value = z[t, f] if present[t, f] > 0 else np.clip(expected, -kernels.Z_MAX, kernels.Z_MAX)
            memory = move @ memory + entering * value
            covariance = move @ covariance @ move.T
            if present[t, f] == 0:
                both = move @ w
                covariance += np.outer(both, entering) + np.outer(entering, both) + total * np.outer(entering, entering)
            elif np.trace(covariance[:lags, :lags]) < 1e-15 and noise / total > 1 - kernels.STALE_LEAST:
                covariance[:] = 0.0
            count += int(present[t, f])
        np.testing.assert_allclose(state[:past, f], memory, atol=1e-8)
        far = state[kernels.S_FAR : kernels.S_FAR + kernels.FARS, f]
        np.testing.assert_allclose(far, covariance[np.tril_indices(past)], atol=1e-8)


def test_a_law_that_runs_away_stays_finite_over_a_long_gap(without_gaps: Calibration) -> None:
    table = without_gaps.table.copy()
    table[kernels.T_PHI] = 1.8
    x = smooth(42, 1_200)
    x[400:680, 1] = np.nan
    kept, _, state, _ = walked(dataclasses.replace(without_gaps, table=table), x)
    assert np.isfinite(state).all()
    assert np.isfinite(kept).all()
