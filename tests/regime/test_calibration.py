"""`calibrate`: what it finds in a reference, what it promises, and that a calibration survives its JSON bit for bit."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from regime import calibration_kernels as kernels
from regime.calibration import DAY_MS, VERSION, Calibration, calibrate, episodes, season_basis
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


def statistic(found: Calibration, values: Floats) -> Floats:
    z, present = np.empty(values.shape), np.empty(values.shape)
    kernels.scores(values, np.zeros((len(values), 0)), found.table, z, present)
    state, clock = kernels.fresh_state(values.shape[1])
    family = np.empty((len(values), kernels.CHANNELS + 2 * kernels.DENSE))
    nothing, none = np.zeros((0, 0)), np.zeros((0, 0, 0))
    ones = np.ones(len(values))
    kernels.walk(z, present, ones, found.table, found.numbers, state, clock, family, nothing, nothing, none, 1)
    answer: Floats = family.max(axis=1)
    return answer


def test_limits_stand_in_order(usual: Calibration) -> None:
    assert 0 < usual.limit_alarm < math.inf
    assert usual.limit_recovery < usual.limit_warning < usual.limit_alarm


def test_the_run_length_on_fresh_autocorrelated_rows_is_about_the_one_asked() -> None:
    ratios = []
    for seed in range(3):
        found = calibrate(Reference(NAMES, autocorrelated(seed, 12_000)), rows_per_false_alarm=1_000)
        fresh = statistic(found, autocorrelated(100 + seed, 60_000))[600:]
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
