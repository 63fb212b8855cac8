"""What the pictures show is what the store holds, and no more of it is read than they need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from regime import codec
from regime.decision import Decision, Reason, SideDecision, Sides, TradingState
from regime.errors import CallerError
from regime.events import AnyEvent, Candle, Observation, Ohlcv, StreamKey, source_key
from regime.reference import Reference
from regime_service.drawing.distance import COLUMN_ROWS
from regime_service.drawing.shown import ROWS_MAX
from regime_service.page.history import DECISIONS_MAX, KEPT_S, Histories

STEP_MS = 300_000
START_MS = 1_700_000_000_000 // STEP_MS * STEP_MS
KEY = StreamKey("m", "s", "5m")


class Log:
    """Events and decisions as the store has them; counts what is asked."""

    def __init__(self, events: Sequence[AnyEvent] = (), trail: Sequence[Decision] = ()) -> None:
        self.rows = {source_key(event): codec.encode(event) for event in events}
        self.trail = list(trail)
        self.references: dict[str, bytes] = {}
        self.asked = self.decisions_read = self.references_read = 0
        self.now_s = 0.0
        self.histories = Histories(self.bodies, self.decisions, self.reference, clock=lambda: self.now_s)

    def bodies(self, keys: Sequence[str]) -> list[bytes]:
        self.asked += len(keys)
        return [self.rows[key] for key in keys if key in self.rows]

    def decisions(self, key: StreamKey, since: int, limit: int) -> list[Decision]:
        found = [d for d in self.trail if d.version > since][:limit]
        self.decisions_read += len(found)
        return found

    def reference(self, reference_id: str) -> bytes:
        self.references_read += 1
        return self.references[reference_id]


def candle(close: float) -> Ohlcv:
    return Ohlcv(open=close, high=close, low=close, close=close, volume=0.0)


def observation(i: int, close: float | None = None, **features: float | None) -> Observation:
    shown = None if close is None else candle(close)
    return Observation(
        model="m", symbol="s", timeframe="5m", ts_ms=START_MS + i * STEP_MS, candle=shown,
        features=features or {"a": 1.0},
    )  # fmt: skip


def side(state: str = "ACTIVE", **changes: object) -> SideDecision:
    plain = {"entry": 0.8, "exit": 0.75, "size_factor": 1.0, "reasons": []}
    return SideDecision(state=TradingState(state), **{**plain, **changes})  # type: ignore[arg-type]


def decision(i: int, version: int = 1, long: SideDecision | None = None, reference_id: str | None = None) -> Decision:
    """The answer after the candle `i` has closed."""
    at_ms = START_MS + (i + 1) * STEP_MS
    return Decision(
        model="m", symbol="s", timeframe="5m", mode="enforce", version=version, as_of_ms=at_ms, data_until_ms=at_ms,
        regime=None, sides=Sides(long=long or side(), short=side()), reference_id=reference_id, policy_id="p",
    )  # fmt: skip


def test_prices_are_those_of_the_observations_else_those_that_were_posted_and_holes_stay_holes() -> None:
    posted = Candle(symbol="s", timeframe="5m", ts_ms=START_MS + 3 * STEP_MS, open=7, high=7, low=7, close=7, volume=0)
    other = Candle(symbol="s", timeframe="5m", ts_ms=START_MS + STEP_MS, open=9, high=9, low=9, close=9, volume=0)
    log = Log([observation(0, 1.0), observation(1, 2.0), observation(3), posted, other, observation(5, 6.0)])
    found = log.histories.of(decision(5), 288)
    assert found.closes == [1.0, 2.0, None, 7.0, None, 6.0]
    assert found.times_ms == [START_MS + (i + 1) * STEP_MS for i in range(6)]
    assert (found.start_ms, found.end_ms) == (START_MS, START_MS + 6 * STEP_MS)


def test_a_month_is_sampled_and_the_newest_candle_is_always_in_it() -> None:
    log = Log([observation(i, float(i + 1)) for i in range(8640)])
    found = log.histories.of(decision(8639), 8640)
    assert len(found.closes) <= ROWS_MAX and found.closes[-1] == 8640.0
    assert np.diff(np.array(found.closes, dtype=float)).tolist() == [18.0] * (len(found.closes) - 1)
    assert log.asked <= 2 * ROWS_MAX


def test_a_period_nobody_offered_is_refused() -> None:
    with pytest.raises(CallerError, match="288, 2016, 8640"):
        Log().histories.of(decision(0), 10**9)


def test_states_are_joined_where_they_are_the_same_and_cut_to_the_period() -> None:
    paused = side("REDUCING", size_factor=0.0)
    trail = [
        decision(-500, 1), decision(10, 2, paused),
        decision(12, 3, msg_reason(paused)), decision(20, 4, side(size_factor=0.5)), decision(25, 5, side(entry=0.85)),
    ]  # fmt: skip
    log = Log([observation(i, 1.0) for i in range(30)], trail)
    found = log.histories.of(decision(29, 5, side(entry=0.85)), 288)
    at = [START_MS, *(START_MS + (i + 1) * STEP_MS for i in (10, 20, 25, 29))]
    assert [(s.since_ms, s.until_ms, s.state, s.entry) for s in found.spans["long"]] == [
        (at[0], at[1], "ACTIVE", 0.8), (at[1], at[2], "REDUCING", 0.8), (at[2], at[3], "probation", 0.8),
        (at[3], at[4], "ACTIVE", 0.85),
    ]  # fmt: skip
    assert [(s.since_ms, s.until_ms) for s in found.spans["short"]] == [(at[0], at[-1])]


def msg_reason(told: SideDecision) -> SideDecision:
    return side("REDUCING", size_factor=told.size_factor, reasons=[Reason(code="x", text="y", since_ms=0)])


def test_a_trail_of_any_length_is_read_to_its_bound_and_no_further() -> None:
    trail = [decision(i, i + 1, side(entry=0.5 + 0.1 * (i % 2))) for i in range(6000)]
    log = Log([observation(i, 1.0) for i in range(6000)], trail)
    found = log.histories.of(trail[-1], 8640)
    assert log.decisions_read <= DECISIONS_MAX + 250
    assert found.spans["long"][0].since_ms > START_MS  # What is older is not made up.
    short = Log([observation(i, 1.0) for i in range(6000)], trail)
    short.histories.of(trail[-1], 288)
    assert short.decisions_read <= 2 * 288 + 250


def test_a_picture_serves_until_something_changed_and_ten_seconds_are_over() -> None:
    log = Log([observation(i, 1.0) for i in range(40)])
    log.histories.of(decision(20), 288)
    once = log.asked
    log.histories.of(decision(20), 288)
    log.histories.of(decision(21), 288)
    assert log.asked == once
    log.now_s += KEPT_S
    log.histories.of(decision(20), 288)
    assert log.asked == once
    assert log.histories.of(decision(21), 288).end_ms == START_MS + 22 * STEP_MS


# --- drift ---


def features(rng: np.random.Generator, rows: int, shift: float = 0.0) -> list[dict[str, float]]:
    values = rng.standard_normal((rows, 3))
    values[:, 1] += shift
    return [dict(zip("abc", row.tolist(), strict=True)) for row in values]


def with_reference(log: Log, rng: np.random.Generator, rows: int = 3000) -> str:
    reference = Reference(["a", "b", "c"], rng.standard_normal((rows, 3)))
    log.references[reference.reference_id] = reference.to_bytes()
    return reference.reference_id


def test_the_feature_that_moved_stands_on_top_and_only_from_when_it_moved() -> None:
    rng = np.random.default_rng(3)
    rows = features(rng, 144) + features(rng, 144, shift=3.0)
    log = Log([observation(i, 1.0, **row) for i, row in enumerate(rows)])
    known = with_reference(log, rng)
    drift = log.histories.of(decision(287, reference_id=known), 288).drift
    assert drift is not None and drift.names[0] == "b" and drift.features == 3
    values = np.array(drift.values)
    assert values.shape == (3, 288 // COLUMN_ROWS) and len(drift.edges_ms) == values.shape[1] + 1
    half = values.shape[1] // 2
    assert values[0, half:].min() > 3 and values[0, :half].max() < 1.5


def test_where_nothing_changed_one_window_in_a_hundred_is_over_one() -> None:
    rng = np.random.default_rng(4)
    over = total = 0
    for _ in range(6):
        log = Log([observation(i, 1.0, **row) for i, row in enumerate(features(rng, 2016))])
        drift = log.histories.of(decision(2015, reference_id=with_reference(log, rng, rows=9000)), 2016).drift
        assert drift is not None
        over += int((np.array(drift.values) >= 1).sum())
        total += np.array(drift.values).size
    assert total == 6 * 3 * 28
    assert 0 < over / total < 0.04  # 0.01 expected; 504 windows have 5 of them, give or take 4


def test_missing_values_are_not_known_rather_than_near() -> None:
    rng = np.random.default_rng(5)
    rows: list[dict[str, float | None]] = [{**row, "c": None} for row in features(rng, 288)]
    log = Log([observation(i, 1.0, **row) for i, row in enumerate(rows) if i < 200 or i > 260])
    drift = log.histories.of(decision(287, reference_id=with_reference(log, rng)), 288).drift
    assert drift is not None and "c" not in drift.names
    gap = np.isnan(np.array(drift.values)).all(axis=0)
    assert gap[(200 + COLUMN_ROWS) // COLUMN_ROWS : 260 // COLUMN_ROWS].all() and not gap[:10].any()


def test_a_dead_feature_of_the_reference_says_nothing() -> None:
    rng = np.random.default_rng(6)
    log = Log([observation(i, 1.0, **row) for i, row in enumerate(features(rng, 288))])
    values = rng.standard_normal((3000, 3))
    values[:, 0] = 1.0
    reference = Reference(["a", "b", "c"], values)
    log.references[reference.reference_id] = reference.to_bytes()
    drift = log.histories.of(decision(287, reference_id=reference.reference_id), 288).drift
    assert drift is not None and "a" not in drift.names and len(drift.names) == 2


@pytest.mark.parametrize(
    ("rows", "reference_rows", "why"),
    [
        (288, None, "there is no reference"),
        (5, 3000, "too few candles"),
        (288, 100, "too short"),
        (288, -1, "beginning"),
    ],
)
def test_where_there_is_no_picture_it_is_said_why(rows: int, reference_rows: int | None, why: str) -> None:
    rng = np.random.default_rng(7)
    log = Log([observation(i, 1.0, **row) for i, row in enumerate(features(rng, rows))])
    known = (
        None if reference_rows is None else "gone" if reference_rows < 0 else with_reference(log, rng, reference_rows)
    )
    found = log.histories.of(decision(rows - 1, reference_id=known), 288)
    assert found.drift is None and why in found.why_no_drift


def test_a_reference_is_read_once_however_often_somebody_looks() -> None:
    rng = np.random.default_rng(8)
    log = Log([observation(i, 1.0, **row) for i, row in enumerate(features(rng, 300))])
    known = with_reference(log, rng)
    for i in range(288, 300):
        log.now_s += KEPT_S
        assert log.histories.of(decision(i, reference_id=known), 288).drift is not None
    assert log.references_read == 1
