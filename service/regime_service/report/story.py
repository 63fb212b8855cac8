"""What happened in a replay, put down while it is played: every change, every firing of a rule, the drift over time.

In shadow mode the story is about what was *computed* (what the guard would have said had it been listened to).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regime import watch
from regime.config import EngineConfig
from regime.decision import Decision, SideDecision, TradingState
from regime.engine import Engine
from regime.events import SIDES, Observation, Side, StreamKey, available_ms
from regime.policy import FAULT_RULES, build_rules
from regime.replay import Played
from regime.timeframe import timeframe_ms
from regime_service.drawing.shown import label

Floats = NDArray[np.float64]

DRIFT_COLUMNS = 400
"""Columns of the heat map at the most; several observations of one column show their largest value."""
PROBATION = "probation"


class Change(NamedTuple):
    """A change of state, threshold or size of one side."""

    at_ms: int
    version: int
    cause: str
    """Kind of the event that brought it: `observation`, `trade`, `tick` (time passed), ..."""
    side: Side
    before: SideDecision | None
    after: SideDecision


class Firing(NamedTuple):
    """A reason, from when it was first given to when it was lifted."""

    code: str
    kind: str
    """`fault` (data), `rule`, or `probation` (the way back from a pause)."""
    side: Side
    since_ms: int
    until_ms: int | None
    """None where it still stood at the end."""
    value: float | None
    limit: float | None
    text: str
    version: int


class Stretch(NamedTuple):
    """A time in which one side was told the same state and size; `label` is the state, or `probation`."""

    since_ms: int
    until_ms: int
    label: str
    said: SideDecision


class DriftTrack:
    """What one detector said over time: its family statistic at each observation, each feature's largest per column."""

    def __init__(self, names: tuple[str, ...], start_ms: int, step_ms: int, columns: int) -> None:
        self.names = names
        self.start_ms = start_ms
        self.step_ms = step_ms
        self.ts_ms: list[int] = []
        self.statistic: list[float] = []
        self.limit: list[float] = []
        self.over = 0
        self.first_over_ms: int | None = None
        self.change: watch.Change | None = None
        """What changed, as the detector saw it when it rang last; None where it cannot say."""
        self._asked = -1
        self.features: Floats = np.full((len(names), columns), np.nan)

    def take(self, at_ms: int, statistic: float, limit: float, drift: bool, features: Floats) -> None:
        self.ts_ms.append(at_ms)
        self.statistic.append(statistic)
        self.limit.append(limit)
        if drift:
            self.over += 1
            self.first_over_ms = at_ms if self.first_over_ms is None else self.first_over_ms
        column = self._column(at_ms)
        self.features[:, column] = np.fmax(self.features[:, column], features)

    def asks(self, at_ms: int) -> bool:
        """Whether a detector that rings is to be asked what changed: once a column, for it costs more than a step."""
        first, self._asked = self._asked != self._column(at_ms), self._column(at_ms)
        return first

    def _column(self, at_ms: int) -> int:
        return min((at_ms - self.start_ms) // self.step_ms, int(self.features.shape[1]) - 1)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the features that stood out most, largest first, each with its largest times-its-own-limit."""
        largest = np.where(np.isnan(self.features), -np.inf, self.features).max(axis=1, initial=-np.inf)
        order = np.argsort(-largest, kind="stable")[:count]
        return [(self.names[i], float(largest[i])) for i in order if np.isfinite(largest[i])]


class Story:
    """Collects while a replay is played; ask it when the replay is over.

    Parameters
    ----------
    key
        The stream the story is about.
    config
        The configuration it is played under.
    period_ms
        First and last moment of observations and trades: what states and shares are told of.
    observed_ms
        First and last close time of the observations; None without any.
    """

    def __init__(
        self,
        key: StreamKey,
        config: EngineConfig,
        *,
        period_ms: tuple[int, int],
        observed_ms: tuple[int, int] | None,
    ) -> None:
        self.key = key
        self.start_ms, self.end_ms = period_ms
        self.decisions: list[Decision] = []
        self.causes: list[str] = []
        self.drift: dict[str, DriftTrack] = {}
        self.judged = 0
        self.late = 0
        rules = build_rules(config)
        self.fault_codes = tuple(rule.code for rule in rules[: len(FAULT_RULES)])
        self.rule_codes = tuple(rule.code for rule in rules[len(FAULT_RULES) :])
        self._observed_ms = observed_ms
        if observed_ms is not None:
            span_ms = observed_ms[1] - observed_ms[0]
            self._step_ms = max(timeframe_ms(key.timeframe), -(-(span_ms + 1) // DRIFT_COLUMNS))
            self._columns = span_ms // self._step_ms + 1

    def take(self, played: Played, engine: Engine | None) -> None:
        """Put down what one event did to the stream; `engine` is its engine after the event."""
        for key, step in played.steps:
            if key != self.key:
                continue
            if step.changed:
                self.decisions.append(step.decision)
                self.causes.append(type(played.event).__name__.lower())
            if isinstance(played.event, Observation):
                self.late += step.late
                self.judged += not step.late
                if not step.late and engine is not None:
                    self._watch(played.event, engine)

    def _watch(self, event: Observation, engine: Engine) -> None:
        at_ms = available_ms(event)
        if not engine.watched or self._observed_ms is None or at_ms is None:
            return
        for kind, detector in engine.detectors.items():
            if not detector.warm:
                continue
            track = self.drift.get(kind)
            if track is None or track.names != engine.watched:
                track = DriftTrack(engine.watched, self._observed_ms[0], self._step_ms, self._columns)
                self.drift[kind] = track
            track.take(
                at_ms, detector.statistic, detector.threshold, detector.drift_detected, detector.feature_statistics
            )
            if detector.drift_detected and track.asks(at_ms):
                track.change = engine.watches[0].change(detector, sized=False) or track.change

    # -- told afterwards ---------------------------------------------------------------------------------------------

    def changes(self) -> list[Change]:
        """Return every change of state, threshold or size, in order; the first one of a side has no `before`."""
        found = []
        for side in SIDES:
            before: SideDecision | None = None
            for decision, cause in zip(self.decisions, self.causes, strict=True):
                after = said(decision, side)
                if before is None or _shown(before) != _shown(after):
                    at_ms = max(decision.as_of_ms, self.start_ms)
                    found.append(Change(at_ms, decision.version, cause, side, before, after))
                before = after
        return sorted(found, key=lambda change: change.version)

    def firings(self) -> list[Firing]:
        """Return when each reason was given and lifted, in order of beginning, then side."""
        return sorted(
            (firing for side in SIDES for firing in self._firings(side)),
            key=lambda f: (f.since_ms, f.version, f.side),
        )

    def _firings(self, side: Side) -> Iterator[Firing]:
        standing: dict[str, Firing] = {}
        for decision in self.decisions:
            reasons = {reason.code: reason for reason in said(decision, side).reasons}
            for code, firing in list(standing.items()):
                now = reasons.get(code)
                if now is None or max(now.since_ms, self.start_ms) != firing.since_ms:
                    del standing[code]
                    yield firing._replace(until_ms=max(decision.as_of_ms, self.start_ms))
            for code, reason in reasons.items():
                if code not in standing:
                    # What was said before the first event of the files began with it, as far as anybody can tell.
                    since_ms = max(reason.since_ms, self.start_ms)
                    standing[code] = Firing(
                        code, self._kind(code), side, since_ms, None, reason.value, reason.limit, reason.text,
                        decision.version,
                    )  # fmt: skip
        yield from standing.values()

    def _kind(self, code: str) -> str:
        if code in self.fault_codes:
            return "fault"
        return PROBATION if code == PROBATION else "rule"

    def stretches(self, side: Side) -> list[Stretch]:
        """Return the states of `side` over the period, without holes; neighbours that look the same are joined."""
        found: list[Stretch] = []
        for i, decision in enumerate(self.decisions):
            since_ms = max(decision.as_of_ms, self.start_ms)
            after = self.decisions[i + 1].as_of_ms if i + 1 < len(self.decisions) else self.end_ms
            until_ms = min(max(after, self.start_ms), self.end_ms)
            now = said(decision, side)
            if found and _shown(found[-1].said) == _shown(now):
                found[-1] = found[-1]._replace(until_ms=max(until_ms, found[-1].until_ms))
            elif until_ms > since_ms:
                found.append(Stretch(since_ms, until_ms, label(now), now))
        return found

    def shares(self, side: Side) -> dict[str, float]:
        """Return the share of the period in each state (ACTIVE, probation, REDUCING, HALTED); they add up to 1.

        `unknown` is the time before the first decision. All 0 where the period has no length.
        """
        spent = dict.fromkeys(("ACTIVE", PROBATION, "REDUCING", "HALTED"), 0)
        for stretch in self.stretches(side):
            spent[stretch.label] += stretch.until_ms - stretch.since_ms
        whole = self.end_ms - self.start_ms
        spent["unknown"] = whole - sum(spent.values())
        return {state: ms / whole if whole else 0.0 for state, ms in spent.items()}

    def raised(self, side: Side, base_entry: float) -> float:
        """Return the share of the period in which the entry threshold stood above its base."""
        ms = sum(s.until_ms - s.since_ms for s in self.stretches(side) if s.said.entry > base_entry)
        return ms / (self.end_ms - self.start_ms) if self.end_ms > self.start_ms else 0.0

    def pauses(self, side: Side) -> int:
        """Count how often `side` left ACTIVE (or began without it)."""
        labels = [s.said.state is TradingState.ACTIVE for s in self.stretches(side)]
        return sum(not now and (i == 0 or labels[i - 1]) for i, now in enumerate(labels))


def said(decision: Decision, side: str) -> SideDecision:
    """Return what the guard says for `side`; in shadow mode what it would have said."""
    return (decision.computed or decision.sides).of(side)


def _shown(decision: SideDecision) -> tuple[str, float, float, float]:
    return decision.state, decision.entry, decision.exit, decision.size_factor


def plain_change(change: Change) -> dict[str, Any]:
    """Return a change as plain values, for `report.json`."""
    return {
        "at_ms": change.at_ms,
        "version": change.version,
        "side": change.side,
        "cause": change.cause,
        "from": None if change.before is None else _plain_side(change.before),
        "to": _plain_side(change.after),
        "reasons": [
            {"code": r.code, "text": r.text, "value": r.value, "limit": r.limit, "since_ms": r.since_ms}
            for r in change.after.reasons
        ],
        "resume": None
        if change.after.resume is None
        else {"conditions": change.after.resume.conditions, "earliest_ms": change.after.resume.earliest_ms},
    }


def _plain_side(side: SideDecision) -> dict[str, Any]:
    return {"state": str(side.state), "entry": side.entry, "exit": side.exit, "size_factor": side.size_factor}


def plain_drift(tracks: Mapping[str, DriftTrack], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return what each detector found, as plain values; one that never had enough data says so by `judged` 0."""
    found: list[dict[str, Any]] = []
    for kind in kinds:
        track = tracks.get(kind)
        if track is None:
            nothing = {"judged": 0, "over_limit": 0, "first_over_ms": None, "limit": None, "largest": None}
            found.append({"detector": kind, **nothing, "top": []})
            continue
        limit = track.limit[-1]
        found.append(
            {
                "detector": kind,
                "judged": len(track.ts_ms),
                "over_limit": track.over,
                "first_over_ms": track.first_over_ms,
                "limit": limit if np.isfinite(limit) else None,
                "largest": float(np.max(track.statistic)),
                "top": [{"feature": name, "times_limit": value} for name, value in track.top(30)],
            }
        )
    return found
