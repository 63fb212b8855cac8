"""What Prometheus sees: one collector that reads the board and the counters when it is asked.

Names are fixed, dashboards and alert rules depend on them. Nothing is kept per stream between scrapes, so a scrape
costs what is exported and no more; `STREAMS_MAX` bounds that, and `regime_streams_unexported` says how many were left
out.

Traps. A count is of what this process saw: it begins at zero with each start, as Prometheus expects of a counter. A
detector that is not warm gives no sample at all: its silence is not a zero.
"""

from __future__ import annotations

import math
import platform
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from regime.decision import Decision, TradingState
from regime.engine import AlarmRate
from regime.events import SIDES, StreamKey
from regime.rules import Evidence
from regime_service.board import Board

STREAMS_MAX = 500
"""Streams exported in one scrape, the oldest of the board first: some 8,000 series, with two detectors each."""
SERIES_MAX = 10_000
"""Label sets one counter keeps; what comes with a new one after that is counted in `regime_counts_dropped_total`."""
DETECTORS_MAX = 8
"""Detectors exported per stream."""

DURATIONS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds of the histogram of requests, in seconds."""

STREAM = ("model", "symbol", "timeframe")


class Readiness(Protocol):
    """What a scrape says of the service itself; `ports.Health` is one."""

    @property
    def ready(self) -> bool: ...
    @property
    def queue_depth(self) -> int: ...
    @property
    def queue_max(self) -> int: ...


class Counters:
    """Plain numbers that only grow. Whoever lets events in or judges them adds here, from any thread."""

    def __init__(self, *, series_max: int = SERIES_MAX) -> None:
        self._lock = threading.Lock()
        self._series_max = series_max
        self._events: dict[tuple[str, ...], int] = {}
        self._pauses: dict[tuple[str, ...], int] = {}
        self._dropped = 0

    def event(self, kind: str, result: str, n: int = 1) -> None:
        """Count `n` events of a kind (`observation`, `trade`, ...) by what became of them.

        Results in use: `accepted`, `duplicate`, `conflict`, `late`, `refused`. A late event counts as `late` only, so
        that the sum over results is the number of events sent.
        """
        self._add(self._events, (kind, result), n)

    def pause(self, key: StreamKey, side: str, reason: str) -> None:
        """Count that a side went from ACTIVE to REDUCING or HALTED; `reason` is the code of its first reason."""
        self._add(self._pauses, (*key, side, reason), 1)

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
        """Counts that found no room: their label set was new and `series_max` of them were known."""
        return self._dropped

    def _add(self, series: dict[tuple[str, ...], int], labels: tuple[str, ...], n: int) -> None:
        if n < 0:
            raise ValueError(f"a counter only grows: {n}")
        with self._lock:
            if labels in series or len(series) < self._series_max:
                series[labels] = series.get(labels, 0) + n
            else:
                self._dropped += n


class Traffic:
    """What the HTTP door counts. Written by the event loop's thread only, read by any: a request takes no lock."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, _Durations] = {}
        self._refusals: dict[str, int] = {}
        self._streams = self._pushed = self._superseded = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` must be one of a bounded number of labels."""
        counted = (route, status)
        self._requests[counted] = self._requests.get(counted, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = _Durations()
        durations.counts[bisect_left(DURATIONS_S, seconds)] += 1
        durations.sum_s += seconds

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

    def families(self) -> Iterator[Metric]:
        """Yield what a scrape shows."""
        requests = CounterMetricFamily(
            "regime_http_requests", "Requests answered since the start.", labels=("route", "status")
        )
        for (route, status), count in sorted(self._requests.copy().items()):
            requests.add_metric((route, str(status)), count)
        refusals = CounterMetricFamily(
            "regime_http_refusals", "Requests and connections refused since the start, by why.", labels=("kind",)
        )
        _fill(refusals, {(kind,): count for kind, count in self._refusals.copy().items()})
        durations = HistogramMetricFamily(
            "regime_http_request_duration_seconds",
            "From the header of a request to its answer; for a POST the body's way and the disk are in it.",
            labels=("route",),
        )
        for route, found in sorted(self._durations.copy().items()):
            sums = list(accumulate(found.counts))
            bounds = [*(f"{bound:g}" for bound in DURATIONS_S), "+Inf"]
            durations.add_metric((route,), list(zip(bounds, sums, strict=True)), found.sum_s)
        yield from (requests, refusals, durations)
        yield GaugeMetricFamily("regime_push_streams", "Event streams open now.", self._streams)
        yield CounterMetricFamily("regime_pushed_answers", "Answers sent over event streams.", self._pushed)
        yield CounterMetricFamily(
            "regime_push_superseded", "Answers overtaken by a newer one before a reader took them.", self._superseded
        )


class _Durations:
    """How often a request took how long."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATIONS_S) + 1)
        self.sum_s = 0.0


def no_evidence() -> Mapping[StreamKey, Sequence[Evidence]]:
    """What to say where there are no detectors."""
    return {}


def no_rates() -> Mapping[StreamKey, Mapping[str, AlarmRate]]:
    """What to say where nothing is watched."""
    return {}


class RegimeCollector(Collector):
    """Reads everything at scrape time.

    Parameters
    ----------
    board
        The newest decisions.
    counters
        What the runner counts.
    health
        Whether the service can answer and store, and how full its queue is. Must be quick and must not raise.
    evidence
        What each stream's detectors say now; called once a scrape.
    alarm_rates
        How often they rang, and how often they were asked to; called once a scrape.
    dead_letters
        How many are open.
    store_size
        Bytes of the store, and bytes free beside it (None where that is another machine's disk).
    version
        Of this software.
    streams_max
        Streams exported at the most.
    traffic
        What the HTTP door counts.
    """

    def __init__(
        self,
        board: Board,
        counters: Counters,
        *,
        health: Callable[[], Readiness],
        evidence: Callable[[], Mapping[StreamKey, Sequence[Evidence]]] = no_evidence,
        alarm_rates: Callable[[], Mapping[StreamKey, Mapping[str, AlarmRate]]] = no_rates,
        dead_letters: Callable[[], int] = lambda: 0,
        store_size: Callable[[], tuple[int, int | None]] = lambda: (0, 0),
        version: str = "",
        streams_max: int = STREAMS_MAX,
        traffic: Traffic | None = None,
    ) -> None:
        self._board = board
        self._counters = counters
        self._health = health
        self._evidence = evidence
        self._alarm_rates = alarm_rates
        self._dead_letters = dead_letters
        self._store_size = store_size
        self._version = version
        self._streams_max = streams_max
        self._traffic = traffic or Traffic()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not look at a board that is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        known = self._board.now.decisions
        shown = dict(islice(known.items(), self._streams_max))
        yield from self._service(streams=len(known), unexported=len(known) - len(shown))
        yield from _decisions(shown)
        yield from _drift(shown, self._evidence())
        yield from _rates(shown, self._alarm_rates())
        yield from self._counts()
        yield from self._traffic.families()

    def _service(self, *, streams: int, unexported: int) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "regime_build",
            "What is running.",
            value={"version": self._version, "python": platform.python_version()},
        )
        health = self._health()
        yield GaugeMetricFamily(
            "regime_ready", "1 when the service can answer and store, whatever the streams' states.", int(health.ready)
        )
        yield GaugeMetricFamily("regime_queue_depth", "Events waiting to be stored.", health.queue_depth)
        yield GaugeMetricFamily("regime_queue_max", "Events that may wait before we answer 503.", health.queue_max)
        yield GaugeMetricFamily("regime_streams", "Streams known.", streams)
        yield GaugeMetricFamily(
            "regime_dead_letters",
            "Streams paused because an event made judging fail (regime dead-letter list); 0 is well.",
            self._dead_letters(),
        )
        size, free = self._store_size()
        yield GaugeMetricFamily("regime_store_bytes", "Size of the store with its WAL, at the last look.", size)
        if free is not None:
            yield GaugeMetricFamily("regime_store_free_bytes", "Room left on its disk, at the last look.", free)
        yield GaugeMetricFamily("regime_streams_unexported", "Streams left out of this scrape; 0 is well.", unexported)

    def _counts(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "regime_events", "Events by what became of them since the start.", labels=("kind", "result")
        )
        _fill(events, self._counters.events())
        yield events
        pauses = CounterMetricFamily(
            "regime_pauses",
            "Times a side was paused or halted since the start, by the code of its first reason.",
            labels=(*STREAM, "side", "reason"),
        )
        _fill(pauses, self._counters.pauses())
        yield pauses
        yield CounterMetricFamily(
            "regime_counts_dropped", "Counts that found no room among the labels; 0 is well.", self._counters.dropped
        )
        yield CounterMetricFamily(
            "regime_version_falls",
            "Decisions passed over because a later version of the same stream stood already.",
            self._board.counters().get(("version_fell",), 0),
        )


def _fill(family: CounterMetricFamily, series: Mapping[tuple[str, ...], int]) -> None:
    for labels, count in sorted(series.items()):
        family.add_metric(labels, count)


def _decisions(shown: Mapping[StreamKey, Decision]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "regime_state",
        "1 for the state a side is in (ACTIVE trade, REDUCING paused, HALTED by an operator), 0 for the others.",
        labels=(*STREAM, "side", "state"),
    )
    threshold = GaugeMetricFamily(
        "regime_threshold",
        "Probability the bot's model must reach to enter or to exit.",
        labels=(*STREAM, "side", "threshold"),
    )
    size = GaugeMetricFamily(
        "regime_size_factor", "Share of its usual position a side may take; 0 while paused.", labels=(*STREAM, "side")
    )
    version = GaugeMetricFamily("regime_decision_version", "Version of the newest decision.", labels=STREAM)
    data_until = GaugeMetricFamily(
        "regime_data_until_seconds", "Close of the newest candle in the decision, as Unix time.", labels=STREAM
    )
    for key, decision in shown.items():
        for side in SIDES:
            told = decision.sides.of(side)
            for name in TradingState:
                state.add_metric((*key, side, name.value), int(told.state is name))
            threshold.add_metric((*key, side, "entry"), told.entry)
            threshold.add_metric((*key, side, "exit"), told.exit)
            size.add_metric((*key, side), told.size_factor)
        version.add_metric(key, decision.version)
        if decision.data_until_ms is not None:
            data_until.add_metric(key, decision.data_until_ms / 1000)
    yield from (state, threshold, size, version, data_until)


def _drift(shown: Mapping[StreamKey, Decision], evidence: Mapping[StreamKey, Sequence[Evidence]]) -> Iterator[Metric]:
    labels = (*STREAM, "detector")
    statistic = GaugeMetricFamily("regime_drift_statistic", "What a detector measures now.", labels=labels)
    limit = GaugeMetricFamily("regime_drift_limit", "What that is held against; above it is drift.", labels=labels)
    for key in shown:
        for found in evidence.get(key, ())[:DETECTORS_MAX]:
            if found.warm and not math.isnan(found.statistic) and not math.isnan(found.limit):
                statistic.add_metric((*key, found.name), found.statistic)
                limit.add_metric((*key, found.name), found.limit)
    yield from (statistic, limit)


def _rates(shown: Mapping[StreamKey, Decision], rates: Mapping[StreamKey, Mapping[str, AlarmRate]]) -> Iterator[Metric]:
    labels = (*STREAM, "detector")
    asked = GaugeMetricFamily(
        "regime_false_alarm_budget", "False alarms a day that a detector was calibrated for.", labels=labels
    )
    measured = GaugeMetricFamily(
        "regime_alarm_rate", "Alarms a day since the reference came into force, true ones included.", labels=labels
    )
    for key in shown:
        for detector, rate in list(rates.get(key, {}).items())[:DETECTORS_MAX]:
            if rate.asked is not None:
                asked.add_metric((*key, detector), rate.asked)
            if rate.measured is not None:
                measured.add_metric((*key, detector), rate.measured)
    yield from (asked, measured)


def exposition(collector: Collector) -> Callable[[], bytes]:
    """Return a function that makes the text of a scrape (format 0.0.4) from `collector` and from nothing else.

    The registry is its own: two services in one process, as in tests, do not see each other.
    """
    registry = CollectorRegistry()
    registry.register(collector)

    def scrape() -> bytes:
        return generate_latest(registry)

    return scrape


__all__ = ["STREAMS_MAX", "Counters", "Readiness", "RegimeCollector", "Traffic", "exposition", "no_evidence"]
