"""The calibrated detector on real candles: quiet where nothing changed, and pointing at what did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regime.calibration import episodes
from regime.detectors.calibrated import Calibrated
from regime.reference import Reference
from regime.simulate_market import Candles, indicators
from regime_service.logs import read_candles

DAY = 288
WARM_UP = 1000
"""The exponential means need about so many candles to forget their start."""


class Features:
    """Indicators of a candle file, and three raw volume averages that a bot may well have."""

    def __init__(self, file: Path) -> None:
        candles = read_candles(str(file), symbol="s", timeframe="5m").candles
        columns = {
            name: np.array([float(getattr(c, name)) for c in candles])
            for name in ("open", "high", "low", "close", "volume")
        }
        made = Candles(ts_ms=np.array([c.ts_ms for c in candles]), **columns)
        names, values = indicators(made)
        # Days are put elsewhere below: no calendar among the features, and no times in the reference.
        kept = [i for i, name in enumerate(names) if name != "weekend" and not name.startswith("hour")]
        total = np.cumsum(np.concatenate([[0.0], made.volume]))
        raw = {
            f"volume_mean_{w}": np.concatenate([np.full(w - 1, np.nan), (total[w:] - total[:-w]) / w])
            for w in (1, 12, 96)
        }
        self.names = [*(names[i] for i in kept), *raw]
        self.values = np.column_stack([values[:, kept], *raw.values()])[WARM_UP:]
        self.ts_ms = made.ts_ms[WARM_UP:]

    def reference(self, rows: np.ndarray) -> Reference:
        return Reference(self.names, self.values[rows])


@pytest.fixture(scope="module")
def first_feed(shared: Path) -> Features:
    return Features(shared / "data" / "ohlcv_5m_20250806_20251104.csv")


def watched(reference: Reference, names: list[str], values: np.ndarray) -> tuple[Calibrated, np.ndarray, np.ndarray]:
    """Run over `values`; return the detector, its statistic, and how often each feature was over its limit."""
    detector = Calibrated(rows_per_false_alarm=30 * DAY)
    detector.reset(reference)
    order = [names.index(name) for name in detector.calibration.names]
    statistic, over = np.full(len(values), -np.inf), np.zeros(len(order))
    for i, row in enumerate(values):
        detector.update(row[order])
        if detector.warm:
            statistic[i] = detector.statistic
            over += np.nan_to_num(detector.feature_statistics) > 1
    return detector, statistic, over


def test_where_only_chance_parts_reference_and_live_it_rings_about_as_often_as_allowed(first_feed: Features) -> None:
    """All 90 days in random order, calibrated on 60, watched on the rest: one alarm is allowed in 30 days.

    Three shuffles, 87 days in all: 3 alarms are expected, 8 or more come with a chance of 1 %.
    """
    days = len(first_feed.values) // DAY
    rang = 0
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(days)
        rows = np.concatenate([np.arange(d * DAY, (d + 1) * DAY) for d in order])
        detector, statistic, _ = watched(
            first_feed.reference(rows[: 60 * DAY]), first_feed.names, first_feed.values[rows[60 * DAY :]]
        )
        rang += episodes(statistic > detector.threshold, DAY)
    assert rang < 8


def test_october_is_not_august(first_feed: Features) -> None:
    """The last 30 days hold the crash of 10 October; their candles are half as wide again. That is found and named,
    in whatever order the days come."""
    width = first_feed.values[:, first_feed.names.index("range_1")]
    assert np.median(width[60 * DAY :]) > 1.4 * np.median(width[: 60 * DAY])
    detector, statistic, over = watched(
        first_feed.reference(np.arange(60 * DAY)), first_feed.names, first_feed.values[60 * DAY :]
    )
    assert (statistic > detector.threshold).any()
    worst = {detector.calibration.names[i] for i in np.argsort(-over)[:5]}
    assert any(name.startswith(("range", "volatility", "momentum", "macd")) for name in worst)


def test_another_feed_has_other_volumes_and_the_same_prices(first_feed: Features, shared: Path) -> None:
    """Both feeds over the same four weeks; the volume of the other one is 3.55 times as large."""
    other = Features(shared / "data" / "ohlcv_5m_other_feed_20251006_20251103.csv")
    same_weeks = np.flatnonzero(np.isin(first_feed.ts_ms, other.ts_ms))
    assert len(same_weeks) == len(other.ts_ms)
    detector, statistic, over = watched(first_feed.reference(same_weeks), first_feed.names, other.values)
    assert (statistic > detector.threshold).mean() > 0.5
    rang = {name for name, count in zip(detector.calibration.names, over, strict=True) if count}
    assert {"volume_mean_12", "volume_mean_96"} <= rang
    assert all("volume" in name for name in rang), rang
