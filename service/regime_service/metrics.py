"""What Prometheus sees: one collector that reads the board and the counters when it is asked.

Names are fixed, dashboards and alert rules depend on them. A scrape has a budget, `series_max`: it never gives more
series than that, whatever the number of streams. What matters most comes first (`GROUPS`, in this order: the service
itself is always there, then the state and thresholds of every stream, and at the end single features), and what found
no room is counted in `regime_series_dropped_total`. Streams keep the order in which they came, so that those shown are
the same ones in every scrape.

Traps. A count is of what this process saw: it begins at zero with each start, as Prometheus expects of a counter. What
is not known (a detector that is not warm, a win rate without trades) gives no sample at all: its silence is not a zero.
Times are Unix times; on `clock = "event"` they are those of the data, which may be years ago.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from regime.decision import Decision, TradingState
from regime.edge import Z
from regime.events import SIDES, Command, StreamKey
from regime.outcomes import wilson_interval, wins
from regime.timeframe import timeframe_ms
from regime_service.board import Board, Posted, StreamView

SERIES_MAX = 2_000
"""Series of one scrape; `metrics_series_max` in the configuration. One stream with everything known has some 70."""
SERIES_MIN = 200
"""Less would not hold the service's own."""
LABELS_MAX = 10_000
"""Label sets one counter keeps; what comes with a new one after that is counted in `regime_counts_dropped_total`."""
DETECTORS_MAX = 8
"""Detectors exported per stream."""
FEATURES_MAX = 10
"""Features exported per stream: those that stand out most."""
WINDOW_TRADES = 50
"""Trades in the win rate: enough for an interval that says something, few enough to see a change."""
DURATIONS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds of the histograms, in seconds."""
EXEMPLAR_LENGTH_MAX = 110
"""Characters of a decision's name in an exemplar; OpenMetrics allows 128 with the name of its label."""

STREAM = ("model", "symbol", "timeframe")
SIDE = (*STREAM, "side")

GROUPS = ("state", "decision", "times", "counts", "outcomes", "drift", "features")
"""What a scrape has beside the service's own figures, in order of importance."""


class Readiness(Protocol):
    """What a scrape says of the service itself; `ports.Health` is one."""

    @property
    def ready(self) -> bool: ...
    @property
    def queue_depth(self) -> int: ...
    @property
    def queue_max(self) -> int: ...


class ChannelFigures(Protocol):
    """What a scrape says of one alert channel; `alerts.outbox.Figures` is one."""

    @property
    def deliveries(self) -> Mapping[str, int]: ...
    @property
    def waiting(self) -> int: ...
    @property
    def dead(self) -> int: ...
    @property
    def oldest_s(self) -> float: ...


def decision_name(decision: Decision) -> str:
    """Return what an exemplar calls a decision: its stream and version, as `GET /v1/decisions` asks for them. The end
    counts, so a name that is too long loses its beginning."""
    return f"{decision.model} {decision.symbol} {decision.timeframe} #{decision.version}"[-EXEMPLAR_LENGTH_MAX:]


class Durations:
    """How often something took how long. One thread writes, any may read: a reader may see the newest one half.

    Each bucket remembers the decision that fell into it last, for exemplars.
    """

    __slots__ = ("_counts", "_last", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATIONS_S) + 1)
        self._last: list[tuple[Decision, float, float] | None] = [None] * (len(DURATIONS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float, decision: Decision | None = None) -> None:
        """Count one that took `seconds` and ended in `decision`."""
        at = bisect_left(DURATIONS_S, seconds)
        self._counts[at] += 1
        self._sum_s += seconds
        if decision is not None:
            self._last[at] = (decision, seconds, time.time())

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add what was counted to a family."""
        sums = accumulate(self._counts.copy())
        bounds = (*map(floatToGoString, DURATIONS_S), "+Inf")
        family.add_metric(
            labels,
            [
                (bound, count) if last is None else (bound, count, _exemplar(*last))
                for bound, count, last in zip(bounds, sums, self._last.copy(), strict=True)
            ],
            self._sum_s,
        )


def _exemplar(decision: Decision, seconds: float, at_s: float) -> Exemplar:
    return Exemplar({"decision": decision_name(decision)}, seconds, at_s)


HISTOGRAM_SERIES = len(DURATIONS_S) + 3
"""Series of one histogram: its buckets, their sum and their count."""


class Counters:
    """Plain numbers that only grow. Whoever lets events in or judges them adds here, from any thread; the durations are
    the writer's alone."""

    def __init__(self, *, labels_max: int = LABELS_MAX) -> None:
        self._lock = threading.Lock()
        self._labels_max = labels_max
        self._events: dict[tuple[str, ...], int] = {}
        self._pauses: dict[tuple[str, ...], int] = {}
        self._transitions: dict[tuple[str, ...], int] = {}
        self._non_finite: dict[tuple[str, ...], int] = {}
        self._mismatches: dict[tuple[str, ...], int] = {}
        self._dropped = 0
        self._judged, self._acknowledged, self._committed = Durations(), Durations(), Durations()

    def event(self, kind: str, result: str, n: int = 1) -> None:
        """Count `n` events of a kind (`observation`, `trade`, ...) by what became of them.

        Results in use: `accepted`, `duplicate`, `conflict`, `late`, `refused`. A late event counts as `late` only, so
        that the sum over results is the number of events sent.
        """
        self._add(self._events, (kind, result), n)

    def pause(self, key: StreamKey, side: str, reason: str) -> None:
        """Count that a side went from ACTIVE to REDUCING or HALTED; `reason` is the code of its first reason."""
        self._add(self._pauses, (*key, side, reason), 1)

    def transition(self, key: StreamKey, side: str, state: str) -> None:
        """Count that a side came into another state than it was in."""
        self._add(self._transitions, (*key, side, state), 1)

    def stream(self, key: StreamKey) -> None:
        """Begin the counts of a stream at zero: of a count that begins at one Prometheus never sees it grow."""
        for side in SIDES:
            for state in TradingState:
                self._add(self._transitions, (*key, side, state.value), 0)
        self._add(self._non_finite, tuple(key), 0)
        self._add(self._mismatches, tuple(key), 0)

    def non_finite(self, key: StreamKey, n: int) -> None:
        """Count `n` features of an observation that had no value although the schema says that they have one."""
        self._add(self._non_finite, tuple(key), n)

    def schema_mismatch(self, key: StreamKey) -> None:
        """Count an observation with features missing, or with unknown ones."""
        self._add(self._mismatches, tuple(key), 1)

    def judged(self, seconds: float, decision: Decision) -> None:
        """Count how long the engines took over one event."""
        self._judged.add(seconds, decision)

    def acknowledged(self, seconds: float, decision: Decision | None) -> None:
        """Count how long a request's events took from the queue to being durable and judged."""
        self._acknowledged.add(seconds, decision)

    def committed(self, seconds: float, decision: Decision | None) -> None:
        """Count how long the store took to make one group durable."""
        self._committed.add(seconds, decision)

    def events(self) -> dict[tuple[str, ...], int]:
        """Return a copy of the events counted, by (kind, result)."""
        with self._lock:
            return dict(self._events)

    def pauses(self) -> dict[tuple[str, ...], int]:
        """Return a copy of the pauses counted, by (model, symbol, timeframe, side, reason)."""
        with self._lock:
            return dict(self._pauses)

    @property
    def dropped(self) -> int:
        """Counts that found no room: their label set was new and `labels_max` of them were known."""
        return self._dropped

    def families(self, room: Room) -> Iterator[Metric]:
        """Yield what a scrape shows of the counts."""
        for name, about, labels, series in (
            ("regime_events", "Events by what became of them since the start.", ("kind", "result"), self._events),
            ("regime_pauses", "Times a side was paused or halted since the start, by the code of its first reason.",
             (*SIDE, "reason"), self._pauses),
            ("regime_transitions", "Times a side came into another state since the start.",
             (*SIDE, "state"), self._transitions),
            ("regime_non_finite_values", "Features that came without a value where one is expected.",
             STREAM, self._non_finite),
            ("regime_schema_mismatches", "Observations with features missing, or with unknown ones.",
             STREAM, self._mismatches),
        ):  # fmt: skip
            family = CounterMetricFamily(name, about, labels=labels)
            with self._lock:
                counted = sorted(series.items())
            for values, count in counted:
                if room.take(1):
                    family.add_metric(values, count)
            yield family

    def durations(self, room: Room) -> Iterator[Metric]:
        """Yield the histograms."""
        for name, about, found in (
            ("regime_decision_duration_seconds", "Judging one event, all the streams it reaches.", self._judged),
            ("regime_acknowledgement_duration_seconds",
             "From a request's place in the queue to its events being on disk and judged.", self._acknowledged),
            ("regime_commit_duration_seconds", "Making one group durable: the disk's fsync.", self._committed),
        ):  # fmt: skip
            if room.take(HISTOGRAM_SERIES):
                family = HistogramMetricFamily(name, about, labels=())
                found.add_to(family, ())
                yield family

    def _add(self, series: dict[tuple[str, ...], int], labels: tuple[str, ...], n: int) -> None:
        if n < 0:
            raise ValueError(f"a counter only grows: {n}")
        with self._lock:
            if labels in series or len(series) < self._labels_max:
                series[labels] = series.get(labels, 0) + n
            else:
                self._dropped += n


class Traffic:
    """What the HTTP door counts. Written by the event loop's thread only, read by any: a request takes no lock."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, Durations] = {}
        self._refusals: dict[str, int] = {}
        self._streams = self._pushed = self._superseded = 0

    def answered(self, route: str, status: int, seconds: float, decision: Decision | None = None) -> None:
        """Count an answer; `route` must be one of a bounded number of labels, `decision` is one that it holds."""
        counted = (route, status)
        self._requests[counted] = self._requests.get(counted, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = Durations()
        durations.add(seconds, decision)

    def refused(self, kind: str) -> None:
        """Count a refusal; `kind` must be one of a bounded number of words."""
        self._refusals[kind] = self._refusals.get(kind, 0) + 1

    def streaming(self, open_now: int) -> None:
        """So many event streams are open now."""
        self._streams = open_now

    def pushed(self, sent: int, superseded: int) -> None:
        """So many answers were pushed, and so many were overtaken before they could be."""
        self._pushed += sent
        self._superseded += superseded

    def families(self, room: Room) -> Iterator[Metric]:
        """Yield what a scrape shows."""
        requests = CounterMetricFamily(
            "regime_http_requests", "Requests answered since the start.", labels=("route", "status")
        )
        for (route, status), count in sorted(self._requests.copy().items()):
            if room.take(1):
                requests.add_metric((route, str(status)), count)
        durations = HistogramMetricFamily(
            "regime_http_request_duration_seconds",
            "From the header of a request to its answer; for a POST the body's way and the disk are in it.",
            labels=("route",),
        )
        for route, found in sorted(self._durations.copy().items()):
            if room.take(HISTOGRAM_SERIES):
                found.add_to(durations, (route,))
        refusals = CounterMetricFamily(
            "regime_http_refusals", "Requests and connections refused since the start, by why.", labels=("kind",)
        )
        for kind, count in sorted(self._refusals.copy().items()):
            if room.take(1):
                refusals.add_metric((kind,), count)
        yield from (requests, durations, refusals)
        if room.take(3):
            yield GaugeMetricFamily("regime_push_streams", "Event streams open now.", self._streams)
            yield CounterMetricFamily("regime_pushed_answers", "Answers sent over event streams.", self._pushed)
            yield CounterMetricFamily(
                "regime_push_superseded", "Answers overtaken by a newer one before a reader took them.",
                self._superseded,
            )  # fmt: skip


class Room:
    """What is left of a scrape's budget. `group` is whose turn it is; what finds no room is counted under its name."""

    def __init__(self, series_max: int) -> None:
        self.series_max = series_max
        self.left = series_max
        self.group = GROUPS[0]
        self.dropped = dict.fromkeys(GROUPS, 0)

    def take(self, series: int) -> bool:
        """Whether so many more series fit; they are given away with that."""
        if series > self.left:
            self.dropped[self.group] += series
            return False
        self.left -= series
        return True


Features = Callable[[Sequence[StreamKey]], Mapping[StreamKey, Sequence[tuple[str, float]]]]
"""(streams) -> the features of each that stand out most, as (name, times its own limit); those unknown are left out."""


class RegimeCollector(Collector):
    """Reads everything at scrape time.

    Parameters
    ----------
    board
        The newest decisions, and what is known of their streams.
    counters
        What the runner counts.
    health
        Whether the service can answer and store, and how full its queue is. Must be quick and must not raise.
    features
        The features that stand out most, of those streams that have room; called once a scrape, must not raise.
    clock_ms
        What time it is for a stream: by the wall, or by its own newest event.
    lease_ms
        How long a reply that bears a decision is good for, where these words of an operator are in force.
    stale_after
        Candles without anything new until a stream is paused.
    dead_letters
        How many are open.
    unsent
        How many alerts wait to be sent.
    store_size
        Bytes of the store, and bytes free beside it (None where that is another machine's disk).
    alerts
        What became of alerts, by channel.
    version
        Of this software.
    series_max
        Series of one scrape at the most.
    traffic
        What the HTTP door counts.
    """

    def __init__(
        self,
        board: Board,
        counters: Counters,
        *,
        health: Callable[[], Readiness],
        features: Features = lambda keys: {},
        clock_ms: Callable[[Decision], int] = lambda decision: decision.as_of_ms,
        lease_ms: Callable[[Decision, Sequence[Command]], int] = lambda decision, overrides: 0,
        stale_after: int = 3,
        dead_letters: Callable[[], int] = lambda: 0,
        unsent: Callable[[], int] = lambda: 0,
        store_size: Callable[[], tuple[int, int | None]] = lambda: (0, 0),
        alerts: Callable[[], Mapping[str, ChannelFigures]] = dict,
        version: str = "",
        series_max: int = SERIES_MAX,
        traffic: Traffic | None = None,
    ) -> None:
        if series_max < SERIES_MIN:
            raise ValueError(f"{series_max} series would not hold the service's own; {SERIES_MIN} at least")
        self._board = board
        self._counters = counters
        self._health = health
        self._features = features
        self._clock_ms = clock_ms
        self._lease_ms = lease_ms
        self._stale_after = stale_after
        self._dead_letters = dead_letters
        self._unsent = unsent
        self._store_size = store_size
        self._alerts = alerts
        self._version = version
        self._series_max = series_max
        self._traffic = traffic or Traffic()
        self._process = ProcessCollector(registry=None)
        self._dropped = dict.fromkeys(GROUPS, 0)
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not look at a board that is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        posted, room = self._board.now, Room(self._series_max)
        own = [
            *self._service(streams=len(posted.decisions)), *_alerts(self._alerts()), *self._process.collect(),
        ]  # fmt: skip
        # The service's own come first whatever happens: they are few, and `SERIES_MIN` holds them.
        room.take(sum(len(family.samples) for family in own) + len(GROUPS))
        yield from own
        for group, families in self._groups(posted, room):
            room.group = group
            yield from families
        with self._lock:
            dropped = self._dropped = {name: n + room.dropped[name] for name, n in self._dropped.items()}
        family = CounterMetricFamily(
            "regime_series_dropped",
            "Series left out of scrapes because the budget was spent, by what they were about; 0 is well.",
            labels=("group",),
        )
        for name, count in dropped.items():
            family.add_metric((name,), count)
        yield family

    def _groups(self, posted: Posted, room: Room) -> Iterator[tuple[str, Iterator[Metric]]]:
        decisions, views = posted.decisions, posted.views
        seen = [(key, views[key]) for key in decisions if key in views]
        families: dict[str, Iterator[Metric]] = {
            "state": _state(decisions, room),
            "decision": chain(_decision(decisions, room), self._times_of(posted, room)),
            "times": chain(self._counters.durations(room), self._traffic.families(room)),
            "counts": self._counters.families(room),
            "outcomes": chain(_outcomes(seen, room), _money(seen, room)),
            "drift": chain(_drift(seen, room), _rates(seen, room)),
            "features": self._feature_drift(seen, room),
        }
        for group in GROUPS:
            yield group, families[group]

    def _service(self, *, streams: int) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "regime_build",
            "What is running.",
            value={"version": self._version, "python": platform.python_version()},
        )
        health = self._health()
        yield GaugeMetricFamily(
            "regime_ready", "1 when the service can answer and store, whatever the streams' states.", int(health.ready)
        )
        yield GaugeMetricFamily("regime_queue_depth", "Requests waiting to be stored.", health.queue_depth)
        yield GaugeMetricFamily("regime_queue_max", "Requests that may wait before we answer 503.", health.queue_max)
        yield GaugeMetricFamily("regime_streams", "Streams known.", streams)
        yield GaugeMetricFamily("regime_series_max", "Series that one scrape may have.", self._series_max)
        yield GaugeMetricFamily(
            "regime_dead_letters",
            "Streams paused because an event made judging fail (regime dead-letter list); 0 is well.",
            self._dead_letters(),
        )
        yield GaugeMetricFamily(
            "regime_outbox_unsent",
            "Alerts that wait to be sent, but for those that quiet hours hold back; 0 is well.",
            self._unsent(),
        )
        size, free = self._store_size()
        yield GaugeMetricFamily("regime_store_bytes", "Size of the store with its WAL, at the last look.", size)
        if free is not None:
            yield GaugeMetricFamily("regime_store_free_bytes", "Room left on its disk, at the last look.", free)
        yield CounterMetricFamily(
            "regime_counts_dropped", "Counts that found no room among the labels; 0 is well.", self._counters.dropped
        )
        yield CounterMetricFamily(
            "regime_version_falls",
            "Decisions passed over because a later version of the same stream stood already.",
            self._board.counters().get(("version_fell",), 0),
        )

    def _times_of(self, posted: Posted, room: Room) -> Iterator[Metric]:
        until = _gauge("regime_data_until_timestamp_seconds", "Close of the newest candle in the decision.", STREAM)
        age = _gauge(
            "regime_input_age_seconds",
            "Time since the newest candle's close, on the service's clock.",
            STREAM,
        )
        limit = _gauge("regime_input_age_limit_seconds", "Age from which on the input is stale.", STREAM)
        lease = _gauge(
            "regime_lease_expiry_timestamp_seconds",
            "When the lease of an answer ends that was given with the newest decision.",
            STREAM,
        )
        for key, decision in posted.decisions.items():
            if decision.data_until_ms is None or not room.take(4):
                continue
            view = posted.views.get(key)
            until.add_metric(key, decision.data_until_ms / 1000)
            age.add_metric(key, (self._clock_ms(decision) - decision.data_until_ms) / 1000)
            limit.add_metric(key, self._stale_after * timeframe_ms(key.timeframe) / 1000)
            leased_ms = self._lease_ms(decision, () if view is None else view.overrides)
            lease.add_metric(key, (decision.as_of_ms + leased_ms) / 1000)
        yield from (until, age, limit, lease)

    def _feature_drift(self, seen: _Seen, room: Room) -> Iterator[Metric]:
        family = _gauge(
            "regime_feature_drift_ratio",
            f"Drift statistic of the {FEATURES_MAX} features that stand out most, over its own limit; 1 is an alarm.",
            (*STREAM, "feature"),
        )
        wanted = [key for key, view in seen if any(found.warm for found in view.evidence)]
        fits = room.left // FEATURES_MAX
        room.dropped[room.group] += FEATURES_MAX * max(0, len(wanted) - fits)
        for key, top in self._features(wanted[:fits]).items():
            for name, statistic in top[:FEATURES_MAX]:
                if room.take(1):
                    family.add_metric((*key, name), statistic)
        yield family


_Seen = Sequence[tuple[StreamKey, StreamView]]


def _gauge(name: str, about: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=labels)


def _state(decisions: Mapping[StreamKey, Decision], room: Room) -> Iterator[Metric]:
    state = _gauge(
        "regime_state",
        "1 for the state a side is in (ACTIVE trade, REDUCING paused, HALTED by an operator), 0 for the others.",
        (*SIDE, "state"),
    )
    threshold = _gauge(
        "regime_threshold",
        "Probability the bot's model must reach to enter or to exit.",
        (*SIDE, "threshold"),
    )
    for key, decision in decisions.items():
        if room.take(len(SIDES) * len(TradingState)):
            for side in SIDES:
                told = decision.sides.of(side)
                for name in TradingState:
                    state.add_metric((*key, side, name.value), int(told.state is name))
    for key, decision in decisions.items():
        if room.take(len(SIDES) * 2):
            for side in SIDES:
                threshold.add_metric((*key, side, "entry"), decision.sides.of(side).entry)
                threshold.add_metric((*key, side, "exit"), decision.sides.of(side).exit)
    yield from (state, threshold)


def _decision(decisions: Mapping[StreamKey, Decision], room: Room) -> Iterator[Metric]:
    size = _gauge("regime_size_factor", "Share of its usual position a side may take; 0 while paused.", SIDE)
    reason = _gauge(
        "regime_reason", "1 for each reason that stands behind the answer, by its code; none where all is well.",
        (*SIDE, "reason"),
    )  # fmt: skip
    computed = _gauge(
        "regime_computed_state",
        "In shadow mode: 1 for the state a side would be in if the service were listened to, 0 for the others.",
        (*SIDE, "state"),
    )
    version = _gauge("regime_decision_version", "Version of the newest decision.", STREAM)
    judged = _gauge("regime_decision_timestamp_seconds", "When the newest decision was judged.", STREAM)
    probability = _gauge(
        "regime_probability", "Probability of the market regime the stream is in, by its label.", (*STREAM, "regime")
    )
    for key, decision in decisions.items():
        codes = {side: dict.fromkeys(found.code for found in decision.sides.of(side).reasons) for side in SIDES}
        known, hidden = decision.regime, decision.computed
        series = len(SIDES) + 2 + sum(map(len, codes.values())) + (known is not None)
        if not room.take(series + (0 if hidden is None else len(SIDES) * len(TradingState))):
            continue
        for side in SIDES:
            size.add_metric((*key, side), decision.sides.of(side).size_factor)
            for code in codes[side]:
                reason.add_metric((*key, side, code), 1)
            if hidden is not None:
                for name in TradingState:
                    computed.add_metric((*key, side, name.value), int(hidden.of(side).state is name))
        version.add_metric(key, decision.version)
        judged.add_metric(key, decision.as_of_ms / 1000)
        if known is not None:
            probability.add_metric((*key, known.label), known.probability)
    yield from (size, reason, computed, version, judged, probability)


def _outcomes(seen: _Seen, room: Room) -> Iterator[Metric]:
    about = f"of the last {WINDOW_TRADES} trades, real and paper ones"
    trades = _gauge("regime_win_ratio_trades", f"Trades in the win rate: those {about}.", SIDE)
    rate = _gauge("regime_win_ratio", f"Share {about}, that made money after fees.", SIDE)
    low = _gauge("regime_win_ratio_low", "Lower end of its 90 % interval.", SIDE)
    high = _gauge("regime_win_ratio_high", "Upper end of its 90 % interval.", SIDE)
    needed = _gauge("regime_break_even_ratio", "The win rate that pays for the fees.", SIDE)
    edge = _gauge(
        "regime_edge_ratio",
        "Calibrated probability of a win at the signals of late, less break-even; below 0 the side loses money.",
        SIDE,
    )
    for key, view in seen:
        for side, known in view.sides.items():
            last = view.outcomes.get(side, ())[-WINDOW_TRADES:]
            has_edge = known.win_rate is not None and not math.isnan(known.break_even)
            if not room.take((4 if last else 1) + (not math.isnan(known.break_even)) + has_edge):
                continue
            labels = (*key, side)
            trades.add_metric(labels, len(last))
            if last:
                ends = wilson_interval(wins(last), len(last), Z)
                rate.add_metric(labels, wins(last) / len(last))
                low.add_metric(labels, ends[0])
                high.add_metric(labels, ends[1])
            if not math.isnan(known.break_even):
                needed.add_metric(labels, known.break_even)
                if known.win_rate is not None:
                    edge.add_metric(labels, known.win_rate - known.break_even)
    yield from (trades, rate, low, high, needed, edge)


def _money(seen: _Seen, room: Room) -> Iterator[Metric]:
    drawdown = _gauge("regime_drawdown_ratio", "Loss from the peak that counts for a side; 0.1 is 10 %.", SIDE)
    value = _gauge(
        "regime_guard_value_ratio",
        "What refusing saved: sum of what the refused signals lost on paper, as ratios; below 0 it cost.",
        SIDE,
    )
    refused = _gauge("regime_guard_refused", "Refused signals behind the guard value.", SIDE)
    close = _gauge("regime_close_price", "Close of the newest candle, as the bot or its feed sent it.", STREAM)
    for key, view in seen:
        if view.close is not None and room.take(1):
            close.add_metric(key, view.close)
        for side, known in view.sides.items():
            if not room.take(3):
                continue
            shadows = [found.profit_ratio for found in view.outcomes.get(side, ()) if found.shadow]
            drawdown.add_metric((*key, side), known.drawdown_ratio)
            value.add_metric((*key, side), -math.fsum(shadows) + 0.0)
            refused.add_metric((*key, side), len(shadows))
    yield from (drawdown, value, refused, close)


def _drift(seen: _Seen, room: Room) -> Iterator[Metric]:
    labels = (*STREAM, "detector")
    statistic = _gauge("regime_drift_statistic", "What a detector measures now.", labels)
    limit = _gauge("regime_drift_limit", "What that is held against; above it is drift.", labels)
    for key, view in seen:
        for found in view.evidence[:DETECTORS_MAX]:
            known = found.warm and not math.isnan(found.statistic) and not math.isnan(found.limit)
            if known and room.take(2):
                statistic.add_metric((*key, found.name), found.statistic)
                limit.add_metric((*key, found.name), found.limit)
    yield from (statistic, limit)


def _rates(seen: _Seen, room: Room) -> Iterator[Metric]:
    labels = (*STREAM, "detector")
    asked = _gauge("regime_false_alarm_budget", "False alarms a day that a detector was calibrated for.", labels)
    measured = _gauge(
        "regime_alarm_rate", "Alarms a day since the reference came into force, true ones included.", labels
    )
    watched = _gauge(
        "regime_alarm_rate_window_seconds",
        "Length of the candles behind the measured rate; over days it says little.",
        labels,
    )
    for key, view in seen:
        for detector, rate in list(view.alarm_rates.items())[:DETECTORS_MAX]:
            if rate.asked is not None and room.take(1):
                asked.add_metric((*key, detector), rate.asked)
            if rate.measured is not None and room.take(2):
                measured.add_metric((*key, detector), rate.measured)
                watched.add_metric((*key, detector), rate.candles * timeframe_ms(key.timeframe) / 1000)
    yield from (asked, measured, watched)


def _alerts(channels: Mapping[str, ChannelFigures]) -> Iterator[Metric]:
    deliveries = CounterMetricFamily(
        "regime_alert_deliveries",
        "Alerts by what became of them since the start: delivered, dead (given up), or failed (a try; it is repeated).",
        labels=("channel", "result"),
    )
    waiting = GaugeMetricFamily(
        "regime_alerts_waiting",
        "Alerts not delivered yet, but for those that quiet hours hold back.",
        labels=("channel",),
    )
    oldest = GaugeMetricFamily(
        "regime_alert_oldest_waiting_seconds", "Age of the oldest of them; 0 where none waits.", labels=("channel",)
    )
    dead = GaugeMetricFamily(
        "regime_alerts_dead", "Alerts that were given up, kept and listed (regime alerts list).", labels=("channel",)
    )
    for name, figures in sorted(channels.items()):
        for result, count in sorted(figures.deliveries.items()):
            deliveries.add_metric((name, result), count)
        waiting.add_metric((name,), figures.waiting)
        oldest.add_metric((name,), figures.oldest_s)
        dead.add_metric((name,), figures.dead)
    if channels:
        yield from (deliveries, waiting, oldest, dead)


Scrape = Callable[[str], tuple[bytes, str]]
"""(the request's Accept header) -> the text, and its Content-Type."""


def exposition(collector: Collector) -> Scrape:
    """Return a function that makes the text of a scrape from `collector` and from nothing else: OpenMetrics 1.0, with
    exemplars, for who asks for it, else Prometheus' own format 0.0.4.

    The registry is its own: two services in one process, as in tests, do not see each other.
    """
    registry = CollectorRegistry()
    registry.register(collector)

    def scrape(accept: str) -> tuple[bytes, str]:
        asked = (item.partition(";")[0].strip().lower() for item in accept.split(","))
        if "application/openmetrics-text" in asked:
            return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4

    return scrape


__all__ = [
    "GROUPS", "SERIES_MAX", "SERIES_MIN", "Counters", "Durations", "Readiness", "RegimeCollector", "Room", "Traffic",
    "decision_name", "exposition",
]  # fmt: skip
