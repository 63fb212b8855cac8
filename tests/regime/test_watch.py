"""One watch over columns: its part of the budget, its limits, what it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from regime.config import DetectorConfig, EngineConfig
from regime.engine import FEATURE_SHARE, SCORE_SHARE, SIGNAL_SHARE, Engine, scores, watches
from regime.events import Observation, Recalibrated, StreamKey
from regime.reference import Reference
from regime.watch import Watch

FIVE_MINUTES = 300_000
DAY = 288


def sample(seed: int = 1, rows: int = 3000, features: int = 4) -> Reference:
    values = np.random.default_rng(seed).standard_normal((rows, features))
    return Reference([f"f{i}" for i in range(features)], values, ts_ms=np.arange(rows) * FIVE_MINUTES)


def test_the_parts_of_a_streams_budget_make_up_the_whole() -> None:
    assert pytest.approx(1.0) == FEATURE_SHARE + SCORE_SHARE + SIGNAL_SHARE


@pytest.mark.parametrize(
    ("days", "streams", "rows"), [(30.0, 1, 30 * DAY * 2), (30.0, 10, 300 * DAY * 2), (7.0, 2, 14 * DAY * 2)]
)
def test_the_budget_is_shared_by_the_streams_and_by_what_is_watched(days: float, streams: int, rows: float) -> None:
    features, _ = watches(EngineConfig(false_alarm_days=days, streams_expected=streams), FIVE_MINUTES)
    assert features.detectors["calibrated"].rows_per_false_alarm == rows  # type: ignore[attr-defined]


def test_two_calibrated_detectors_share_their_part() -> None:
    config = EngineConfig(detectors=[DetectorConfig(kind="calibrated"), DetectorConfig(kind="ks")])
    watch = Watch("features", config, FIVE_MINUTES, 1.0)
    assert watch.detectors["calibrated"].rows_per_false_alarm == 2 * 30 * DAY  # type: ignore[attr-defined]


def test_limits_that_were_kept_are_used_as_they_are() -> None:
    reference = sample()
    first = Watch("features", EngineConfig(), FIVE_MINUTES, 1.0)
    first.compare_with(reference)
    kept = first.calibrations()
    other = Watch("features", EngineConfig(false_alarm_days=3.0), FIVE_MINUTES, 1.0)
    other.compare_with(reference, kept)
    assert other.calibrations() == kept
    assert first.within_budget() and not other.within_budget()


def test_a_planted_change_is_named_dated_and_said() -> None:
    watch = Watch("features", EngineConfig(), FIVE_MINUTES, 1.0)
    watch.compare_with(sample())
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((1500, 4))
    rows[900:, 2] += 1.5
    alarm_row = None
    for i, row in enumerate(rows):
        watch.update(row, (3000 + i) * FIVE_MINUTES)
        (evidence,) = watch.evidence()
        if i >= 900 and evidence.drift:
            alarm_row = i
            break
        assert not evidence.drift, i
    assert alarm_row is not None and alarm_row < 960
    assert evidence.level == "alarm"
    assert evidence.top[0][0] == "f2"
    change = watch.change(watch.detectors["calibrated"])
    assert change is not None
    assert (change.kind, change.features[0]["name"]) == ("location", "f2")
    assert change.start_low_ms <= change.start_ms <= change.start_high_ms
    assert abs(change.start_ms - 3900 * FIVE_MINUTES) <= 40 * FIVE_MINUTES
    assert "f2" in evidence.note and "since about" in evidence.note


def moved(rows: int, *, gap: int | None = None) -> Watch:
    """A watch of four features, one of them up by 1.5 for the last so many of 1,000 rows."""
    watch = Watch("features", EngineConfig(), FIVE_MINUTES, 1.0)
    watch.compare_with(sample())
    values = np.random.default_rng(7).standard_normal((1000, 4))
    values[1000 - rows :, 2] += 1.5
    for i, row in enumerate(values):
        if gap is None or i not in range(gap, 1000 - rows):
            watch.update(row, (3000 + i) * FIVE_MINUTES)
    return watch


def sizes(watch: Watch) -> tuple[float | None, float | None]:
    change = watch.change(watch.detectors["calibrated"])
    assert change is not None and change.features[0]["name"] == "f2"
    return change.features[0]["psi"], change.features[0]["wasserstein"]


@pytest.mark.parametrize("rows", [60, 200, 600])
def test_a_change_is_sized_over_the_rows_since_its_start(rows: int) -> None:
    watch = moved(rows)
    change = watch.change(watch.detectors["calibrated"])
    assert change is not None
    first = max(change.start_ms // FIVE_MINUTES - 3000, 1000 - 288)
    stream = np.random.default_rng(7).standard_normal((1000, 4))
    stream[1000 - rows :, 2] += 1.5
    used, reference = stream[first:, 2], sample().values[:, 2]
    psi, wasserstein = sizes(watch)
    assert wasserstein == pytest.approx(wasserstein_distance(reference, used) / reference.std(), abs=0.002)
    assert wasserstein == pytest.approx(1.5, abs=0.4)
    assert psi is not None and psi > 1
    assert set(change.features[0]) == {"name", "statistic", "channel", "like", "psi", "wasserstein"}


def test_a_change_of_a_few_rows_has_no_size_yet() -> None:
    assert sizes(moved(18)) == (None, None)


def test_rows_before_a_gap_are_told_by_their_time() -> None:
    """The ring counts rows, a change is dated in time: candles that never came must not let older rows in."""
    psi, wasserstein = sizes(moved(60, gap=900))
    assert wasserstein == pytest.approx(1.5, abs=0.4)
    assert psi is not None and psi > 1


def test_sizes_are_made_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nobody asked how large the change is")

    watch = moved(200)
    monkeypatch.setattr("regime.sizes.SizesOf.of", never)
    assert watch.evidence()[0].note
    with pytest.raises(AssertionError, match="nobody"):
        watch.change(watch.detectors["calibrated"])


def test_the_rows_that_sizes_are_made_of_are_part_of_the_state() -> None:
    watch, other = moved(200), Watch("features", EngineConfig(), FIVE_MINUTES, 1.0)
    other.compare_with(sample())
    state = watch.state()
    assert state is not None
    kept = {kind: {name: array.copy() for name, array in arrays.items()} for kind, arrays in state.items()}
    other.load_state(state)
    assert other.fingerprint() == watch.fingerprint()
    assert sizes(other) == sizes(watch)
    for one in (watch, other):
        one.update(np.zeros(4), 4000 * FIVE_MINUTES)
    assert other.fingerprint() == watch.fingerprint()
    for kind, arrays in kept.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(state[kind][name], array, err_msg="a state is not a view of the watch")
    kept[""]["rows"][5, 1] += 1
    other.load_state(kept)
    watch.load_state(state)
    assert other.fingerprint() != watch.fingerprint()
    kept[""]["rows"] = kept[""]["rows"][:, :3]
    with pytest.raises(ValueError, match="another set-up"):
        other.load_state(kept)


def test_another_reference_forgets_the_rows() -> None:
    watch, fresh = moved(200), Watch("features", EngineConfig(), FIVE_MINUTES, 1.0)
    for one in (watch, fresh):
        one.compare_with(sample(2))
    watch._now_ms = fresh._now_ms
    assert watch.fingerprint() == fresh.fingerprint()


def test_without_a_reference_it_is_silent_and_takes_anything() -> None:
    watch = Watch("features", EngineConfig(), FIVE_MINUTES, 1.0)
    watch.update(np.zeros(3), 0)
    assert not watch.evidence()[0].warm
    assert watch.columns == ()
    assert watch.within_budget()


def test_scores_are_a_reference_of_their_own_where_there_are_any() -> None:
    plain = sample()
    assert scores(plain) is None
    claims = np.linspace(0, 1, plain.rows)
    with_claims = Reference(plain.names, plain.values, probability_long=claims)
    found = scores(with_claims)
    assert found is not None and found.names == ("probability_long",)


def test_alarms_less_than_a_day_apart_are_one_and_are_held_against_the_budget() -> None:
    reference = sample()
    key = StreamKey("m", "s", "5m")
    engine = Engine(key, EngineConfig(clock="event"), {reference.reference_id: reference}.__getitem__)
    engine.step(Recalibrated(model="m", version="1", reference_id=reference.reference_id))
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((2000, 4))
    rows[900:, 2] += 1.5
    for i, row in enumerate(rows):
        features = dict(zip(reference.names, row.tolist(), strict=True))
        engine.step(
            Observation(model="m", symbol="s", timeframe="5m", ts_ms=(3000 + i) * FIVE_MINUTES, features=features)
        )
    rate = engine.alarm_rates()["calibrated"]
    assert engine.state.alarms == {"calibrated": 1}, "it never stopped ringing: one alarm"
    assert rate.asked == pytest.approx(0.5 / 30)
    assert rate.measured == pytest.approx(1 / (rate.candles / DAY))
    assert 1600 <= rate.candles <= 2000, "not judged while cold"
