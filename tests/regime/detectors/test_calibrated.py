"""The calibrated detector: planted changes are found with the right feature, kind and start; state is exact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from regime import calibration_kernels as kernels
from regime.calibration import CHANNEL_KINDS, DAY_MS, Calibration, calibrate, family_statistic
from regime.detectors.calibrated import Calibrated, Explanation
from regime.reference import Reference

Floats = NDArray[np.float64]
NAMES = ["atr", "copy", "flag", "roc", "rsi", "vol"]
ROWS = 6_000
STEP_MS = 300_000


def rows_of(seed: int, rows: int) -> Floats:
    """Autocorrelated features; `copy` nearly repeats `atr`, `flag` is 0 or 1. In name order."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 6))
    for t in range(1, rows):
        x[t] = 0.8 * x[t - 1] + 0.6 * x[t]
    x[:, 1] = 2 * x[:, 0] + 0.01 * x[:, 1] + 7
    x[:, 2] = x[:, 2] > 0.5
    return x


REFERENCE = Reference(NAMES, rows_of(1, ROWS))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(REFERENCE, rows_per_false_alarm=10_000)


@pytest.fixture
def detector(calibration: Calibration) -> Calibrated:
    found = Calibrated(rows_per_false_alarm=10_000)
    found.reset_calibrated(REFERENCE, calibration)
    return found


def until_alarm(detector: Calibrated, rows: Iterable[Floats]) -> tuple[int, Explanation]:
    for i, x in enumerate(rows):
        detector.update(x)
        if detector.drift_detected:
            found = detector.explain()
            assert found is not None
            return i, found
    raise AssertionError("no alarm")


def test_reset_calibrates_as_calibrate_does(calibration: Calibration) -> None:
    found = Calibrated(rows_per_false_alarm=10_000)
    found.reset(REFERENCE)
    assert found.calibration == calibration
    assert found.threshold == calibration.limit_alarm


def test_a_calibration_of_another_reference_is_refused(calibration: Calibration) -> None:
    with pytest.raises(ValueError, match="another reference"):
        Calibrated().reset_calibrated(Reference(NAMES, rows_of(2, ROWS)), calibration)


@pytest.mark.parametrize(
    "options", [{"rows_per_false_alarm": 0}, {"rows_per_false_alarm": math.nan}, {"rows_per_false_alarm": True},
                {"rows_per_day": 0}, {"rows_per_day": 1.5}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_in_words(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Calibrated(**options)  # type: ignore[arg-type]


def test_it_is_warm_after_289_rows(detector: Calibrated) -> None:
    for i, x in enumerate(rows_of(3, 300)):
        detector.update(x)
        assert detector.warm is (i >= 288)


def test_a_shifted_feature_is_named_once_with_its_copy(detector: Calibrated) -> None:
    x = rows_of(4, 1_400)
    x[800:, 0] += 1.5
    x[800:, 1] += 3.0
    at, _ = until_alarm(detector, x)
    assert 800 <= at < 880
    for row in x[at + 1 : 900]:
        detector.update(row)
    found = detector.explain()
    assert found is not None
    assert found.kind == "location"
    assert {found.features[0].name, *found.features[0].like} == {"atr", "copy"}
    assert all(not {"atr", "copy"} & {f.name, *f.like} for f in found.features[1:])
    assert found.started_rows_ago_low <= 100 <= found.started_rows_ago_high
    assert found.severity > 1


def test_a_wider_feature_is_a_change_of_scale(detector: Calibrated) -> None:
    x = rows_of(5, 1_400)
    x[800:, 4] *= 3.0
    at, found = until_alarm(detector, x)
    assert 800 <= at < 900
    assert found.features[0].name == "rsi"
    assert found.kind == "scale"


def test_a_flag_that_is_always_up_is_found(detector: Calibrated) -> None:
    x = rows_of(27, 1_600)
    x[800:, 2] = 1.0
    at, found = until_alarm(detector, x)
    assert 800 <= at < 1_200
    assert found.features[0].name == "flag"


def test_levels_go_up_at_their_limits_and_down_at_recovery(detector: Calibrated, calibration: Calibration) -> None:
    x = np.concatenate([rows_of(7, 700), rows_of(8, 150) + np.array([3, 6, 0, 3, 3, 3]), rows_of(9, 3_000)])
    before, seen = "calm", set()
    for row in x:
        detector.update(row)
        if not detector.warm:
            continue
        seen.add(detector.level)
        if detector.statistic > calibration.limit_alarm:
            assert detector.level == "alarm"
        elif detector.statistic < calibration.limit_recovery:
            assert detector.level == "calm"
        elif before == "alarm":
            assert detector.level == "alarm"
        before = detector.level
    assert "alarm" in seen
    assert detector.level == "calm", "it comes down again after the change has ended"


def test_state_is_bit_exact_through_copies(calibration: Calibration) -> None:
    one, other = Calibrated(), Calibrated()
    one.reset_calibrated(REFERENCE, calibration)
    other.reset_calibrated(REFERENCE, Calibration.from_json(calibration.to_json()))
    x = rows_of(10, 900)
    x[::7, 3] = np.nan
    for row in x[:500]:
        one.update(row)
    state = one.state()
    assert state is not None
    other.load_state(state)
    for row in x[500:]:
        one.update(row)
        other.update(row)
        assert one.statistic == other.statistic
        assert one.fingerprint() == other.fingerprint()
    assert one.explain() == other.explain()


def test_a_state_of_another_shape_is_refused(detector: Calibrated) -> None:
    state = detector.state()
    assert state is not None
    state["state"] = state["state"][:, :3]
    with pytest.raises(ValueError, match="another set-up"):
        detector.load_state(state)


def test_a_feature_that_stays_away_stops_counting_and_begins_anew(detector: Calibrated) -> None:
    x = rows_of(11, 1_600)
    x[500:560, 4] += 6.0
    x[560:1_200, 4] = np.nan
    quiet = []
    for i, row in enumerate(x):
        detector.update(row)
        found = detector.explain()
        if i >= 860 and found is not None:
            quiet.append(all(f.name != "rsi" for f in found.features) or i >= 1_200)
    assert all(quiet)


def test_the_hour_is_taken_into_account() -> None:
    ts = 1_699_920_000_000 + STEP_MS * np.arange(9_000, dtype=np.int64)
    wave = 1.5 * np.sin(2 * np.pi * ts / DAY_MS)[:, None]
    reference = Reference(NAMES[:2], rows_of(12, 9_000)[:8_000, [0, 3]] + wave[:8_000], ts_ms=ts[:8_000])
    calibration = calibrate(reference, rows_per_false_alarm=10_000)
    assert calibration.season
    fresh = rows_of(13, 1_000)[:, [0, 3]] + wave[8_000:]
    answers = []
    for told in (True, False):  # told the time, and counting on from the end of the reference: the same
        detector = Calibrated(rows_per_false_alarm=10_000)
        detector.reset_calibrated(reference, calibration)
        for row, at in zip(fresh, ts[8_000:], strict=True):
            detector.update(row, int(at) if told else None)
        answers.append(detector.statistic)
    assert answers[0] == answers[1]
    assert answers[0] < calibration.limit_alarm


def test_huge_values_are_only_huge(detector: Calibrated) -> None:
    for row in rows_of(14, 400):
        detector.update(row * 1e300)
    assert math.isfinite(detector.statistic)
    assert detector.drift_detected


def test_cold_has_no_explanation(detector: Calibrated) -> None:
    assert detector.explain() is None
    assert np.isnan(detector.feature_statistics).all()


GROUP_NAMES = [f"{group}{i}" for group in "abcd" for i in range(5)]


def grouped(seed: int, rows: int) -> Floats:
    """Twenty features in four groups of five; within a group they are correlated by about .8."""
    rng = np.random.default_rng(seed)
    x = 0.9 * np.repeat(rng.standard_normal((rows, 4)), 5, axis=1) + 0.45 * rng.standard_normal((rows, 20))
    for t in range(1, rows):
        x[t] = 0.7 * x[t - 1] + 0.7 * x[t]
    return x


GROUPED = Reference(GROUP_NAMES, grouped(40, ROWS))


@pytest.fixture(scope="module")
def coupled() -> Calibration:
    return calibrate(GROUPED, rows_per_false_alarm=10_000)


def watching(calibration: Calibration) -> Calibrated:
    found = Calibrated(rows_per_false_alarm=10_000)
    found.reset_calibrated(GROUPED, calibration)
    return found


def without(calibration: Calibration, kind: str) -> Calibration:
    """The same detector, with the channels of one kind never over any limit."""
    table, numbers = calibration.table.copy(), calibration.numbers.copy()
    for c, other in enumerate(CHANNEL_KINDS):
        if other == kind and c < kernels.CHANNELS:
            table[kernels.T_LOC + c] = 1e9
        elif other == kind:
            numbers[kernels.N_SUM_LOC + c - kernels.CHANNELS] = 1e9
    return dataclasses.replace(calibration, table=table, numbers=numbers)


def test_a_feature_that_leaves_its_group_is_named_though_its_own_law_stays(coupled: Calibration) -> None:
    x = grouped(41, 2_000)
    x[800:, 7] = grouped(42, 2_000)[800:, 7]
    at, found = until_alarm(watching(coupled), x)
    assert 800 <= at < 860
    assert (found.kind, found.features[0].name) == ("dependence", "b2")
    assert found.started_rows_ago_low <= at - 800 <= found.started_rows_ago_high
    blind = without(coupled, "dependence")
    assert family_statistic(blind, x)[800:1_000].max() < blind.limit_alarm - 2


def test_correlations_that_all_shrink_are_seen_by_the_sum_of_what_is_left(coupled: Calibration) -> None:
    x = grouped(43, 2_000)
    other = np.concatenate([grouped(60 + f, 2_000)[:, f : f + 1] for f in range(20)], axis=1)
    x[800:] = math.sqrt(0.9) * x[800:] + math.sqrt(0.1) * other[800:]
    at, found = until_alarm(watching(coupled), x)
    assert 800 <= at < 950
    assert found.kind == "dependence"
    assert len(found.features) == 10


def test_features_that_begin_to_move_together_are_seen(coupled: Calibration) -> None:
    """Groups a and b become correlated by .7: nothing is left unexplained, but the components are no longer apart."""
    x = grouped(44, 3_000)
    x[800:, 5:10] = math.sqrt(0.5) * x[800:, 5:10] + math.sqrt(0.5) * x[800:, :5]
    at, found = until_alarm(watching(coupled), x)
    assert 800 <= at < 1_100
    assert found.kind == "dependence"
    assert all(f.name[0] in "ab" for f in found.features[:5])


@pytest.mark.parametrize("away", [[7], [0, 6, 12, 18], list(range(5, 10)), list(range(1, 20, 2))])
def test_what_is_missing_rings_nothing(coupled: Calibration, away: list[int]) -> None:
    x = grouped(45, 3_000)
    whole = family_statistic(coupled, x)[400:]
    x[600:, away] = np.nan
    with_gap = family_statistic(coupled, x)[400:]
    assert with_gap.size == whole.size == 2_600
    assert with_gap.max() < max(coupled.limit_alarm, whole.max() + 1.0)


def test_evidence_fades_when_too_much_is_missing_to_go_on_judging(coupled: Calibration) -> None:
    x = grouped(48, 2_000)
    x[800:, 7] = grouped(49, 2_000)[800:, 7]
    x[900:, :12] = np.nan
    statistic = family_statistic(coupled, x)
    assert statistic[899] > coupled.limit_alarm
    assert statistic[1_300:].max() < coupled.limit_alarm


def test_a_skewed_feature_of_the_same_mean_and_variance_changed_its_shape(coupled: Calibration) -> None:
    rng = np.random.default_rng(46)
    reference = Reference(["a", "b", "c"], rng.standard_normal((ROWS, 3)))
    calibration = calibrate(reference, rows_per_false_alarm=10_000)
    fresh = rng.standard_normal((3_000, 3))
    fresh[800:, 1] = (rng.gamma(2.0, size=2_200) - 2.0) / math.sqrt(2.0)
    detector = Calibrated(rows_per_false_alarm=10_000)
    detector.reset_calibrated(reference, calibration)
    at, found = until_alarm(detector, fresh)
    assert 800 <= at < 1_300
    assert (found.kind, found.features[0].name) == ("shape", "b")


def test_a_doubled_spread_is_not_called_a_change_of_shape_or_dependence(coupled: Calibration) -> None:
    detector = watching(coupled)
    x = grouped(47, 1_400)
    x[800:] *= 2.0
    at, found = until_alarm(detector, x)
    assert found.kind == "scale"
    for row in x[at + 1 :]:
        detector.update(row)
    later = detector.explain()
    assert later is not None
    assert later.kind == "scale"


def in_bursts(x: Floats, features: list[int], seed: int) -> Floats:
    """The features are away for 1 to 50 rows, and there for as long, in turn."""
    rng = np.random.default_rng(seed)
    found = x.copy()
    for f in features:
        t = 0
        while t < len(x):
            t += int(rng.integers(1, 80))
            away = int(rng.integers(1, 51))
            found[t : t + away, f] = np.nan
            t += away
    return found


def with_clusters(seed: int, rows: int) -> Floats:
    """The groups of `grouped`, nearer to each other, with a volatility that all share and that wanders."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.standard_normal((rows, 4)), 5, axis=1) + 0.1 * rng.standard_normal((rows, 20))
    wander = np.zeros(rows)
    noise = 0.14 * rng.standard_normal(rows)
    for t in range(1, rows):
        wander[t] = 0.98 * wander[t - 1] + noise[t]
    x *= np.exp(0.7 * wander)[:, None]
    for t in range(1, rows):
        x[t] = 0.7 * x[t - 1] + 0.7 * x[t]
    return x


@pytest.mark.parametrize("how", ["2 %", "10 %", "30 %", "bursts", "half of a fifth of the rows"])
def test_gaps_in_features_that_move_together_ring_nothing(how: str) -> None:
    calibration = calibrate(Reference(GROUP_NAMES, with_clusters(50, ROWS)), rows_per_false_alarm=2_000)
    x = with_clusters(51, 12_000)
    rng = np.random.default_rng(1)
    if how == "bursts":
        x = in_bursts(x, [1, 3, 8, 12, 17], 1)
    elif how.endswith("rows"):
        x[(rng.random(len(x)) < 0.2)[:, None] & (rng.random(x.shape) < 0.5)] = np.nan
    else:
        x[rng.random(x.shape) < float(how[:-2]) / 100] = np.nan
    assert (family_statistic(calibration, x)[600:] > calibration.limit_alarm).mean() < 0.15


def test_a_copy_made_inside_a_gap_goes_on_bit_for_bit(coupled: Calibration) -> None:
    one, other = watching(coupled), watching(coupled)
    x = in_bursts(grouped(52, 700), [2, 9], 3)
    x[395:405, 4] = np.nan
    for row in x[:400]:
        one.update(row)
    state = one.state()
    assert state is not None
    assert state["state"][kernels.S_FAR : kernels.S_FAR + kernels.FARS, 4].any()
    other.load_state(state)
    for row in x[400:]:
        one.update(row)
        other.update(row)
        assert one.fingerprint() == other.fingerprint()


def times(rows: int, start: int = 0) -> NDArray[np.int64]:
    return 1_700_006_400_000 + STEP_MS * np.arange(start, start + rows, dtype=np.int64)


def lost(how: str, rows: int) -> NDArray[np.bool_]:
    """Candles that never came: one in twenty, five hours of each day, or four days in a row."""
    rng = np.random.default_rng(3)
    gone = rng.random(rows) < 0.05 if how == "one in twenty" else np.zeros(rows, dtype=bool)
    if how == "five hours a day":
        for day in range(0, rows, 288):
            begin = day + int(rng.integers(0, 220))
            gone[begin : begin + 60] = True
    elif how == "four days":
        gone[4_000:5_152] = True
    return gone


def smooth(seed: int, rows: int) -> Floats:
    """Features that change slowly, as indicators over many candles do: the next value is all but known."""
    x = grouped(seed, rows)
    for _ in range(2):
        for t in range(1, rows):
            x[t] = 0.95 * x[t - 1] + 0.05 * x[t]
    return x


@pytest.mark.parametrize("how", ["one in twenty", "five hours a day", "four days"])
def test_candles_that_never_came_ring_nothing(how: str) -> None:
    reference = Reference(GROUP_NAMES, smooth(50, ROWS), ts_ms=times(ROWS))
    calibration = calibrate(reference, rows_per_false_alarm=2_000)
    assert calibration.holes
    came = ~lost(how, 12_000)
    x, ts = smooth(51, 12_000)[came], times(12_000, ROWS)[came]
    assert (family_statistic(calibration, x, ts)[600:] > calibration.limit_alarm).mean() < 0.15
    if how == "one in twenty":  # The control: rows that follow each other as if nothing were missing.
        blind = dataclasses.replace(calibration, holes=False)
        assert (family_statistic(blind, x, ts)[600:] > blind.limit_alarm).mean() > 0.5


def test_a_hole_in_time_is_the_same_row_by_row_and_at_once_and_across_a_copy() -> None:
    reference = Reference(GROUP_NAMES, with_clusters(50, ROWS), ts_ms=times(ROWS))
    calibration = calibrate(reference, rows_per_false_alarm=2_000)
    came = ~lost("five hours a day", 1_500)
    x, ts = with_clusters(53, 1_500)[came], times(1_500, ROWS)[came]
    one, other = Calibrated(), Calibrated()
    one.reset_calibrated(reference, calibration)
    other.reset_calibrated(reference, calibration)
    said = []
    for i, (row, at) in enumerate(zip(x, ts, strict=True)):
        one.update(row, int(at))
        said.append(one.statistic)
        if i == 700:
            state = one.state()
            assert state is not None
            other.load_state(state)
        if i > 700:
            other.update(row, int(at))
            assert one.fingerprint() == other.fingerprint()
    np.testing.assert_array_equal(said, family_statistic(calibration, x, ts))


def test_a_market_that_closes_has_no_holes() -> None:
    open_ = (np.arange(4 * ROWS) % 288) < 100
    reference = Reference(GROUP_NAMES, with_clusters(50, 4 * ROWS)[open_], ts_ms=times(4 * ROWS)[open_])
    assert not calibrate(reference, rows_per_false_alarm=2_000).holes


def test_a_reference_with_holes_is_learned_as_one_with_rows_of_nothing() -> None:
    came = ~lost("one in twenty", ROWS)
    x, ts = with_clusters(50, ROWS), times(ROWS)
    holed = calibrate(Reference(GROUP_NAMES, x[came], ts_ms=ts[came]), rows_per_false_alarm=2_000)
    x[~came] = np.nan
    empty = calibrate(Reference(GROUP_NAMES, x, ts_ms=ts), rows_per_false_alarm=2_000)
    np.testing.assert_array_equal(holed.table, empty.table)
    assert holed.limit_alarm == empty.limit_alarm and holed.report.rows == came.sum()
