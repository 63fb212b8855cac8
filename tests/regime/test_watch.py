"""One watch over columns: its part of the budget, its limits, what it says."""

from __future__ import annotations

import numpy as np
import pytest

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
