"""What a scrape costs at its budget, beside prometheus_client's own text of as many plain gauges.

    python tests/bench/bench_scrape.py [--series 2000] [--rounds 15]

Three boards: one that fills the budget with a few streams of which everything is known, one that fills it with the
state of many, and one with as many streams as a service takes (`streams_max`), most of which are left out. The floor is
as many gauges with the labels of a stream. All make their text with the same library, in turns in one process; CPU
time, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from regime.decision import Decision, Reason, SideDecision, Sides, TradingState
from regime.engine import AlarmRate
from regime.events import SIDES, StreamKey
from regime.outcomes import Outcome, Outcomes
from regime.rules import Evidence
from regime_service.board import Board, SideView, StreamView
from regime_service.metrics import SERIES_MAX, Counters, RegimeCollector, Traffic, exposition
from regime_service.settings import ServerSection

ROUTES = ("/v1/observations", "/v1/trades", "/v1/equity", "/v1/thresholds", "/metrics")
FEATURES = tuple((f"feature_{i}", 1.0 / (1 + i)) for i in range(10))
OUTCOMES = 500


class Well(NamedTuple):
    ready: bool = True
    queue_depth: int = 0
    queue_max: int = 1024


def stream(key: StreamKey) -> tuple[Decision, StreamView]:
    """A stream of which everything is known."""
    reasons = [Reason(code=code, text=code, since_ms=0) for code in ("drift", "break-even")]
    side = SideDecision(state=TradingState.REDUCING, entry=0.8, exit=0.75, size_factor=0.0, reasons=reasons)
    decision = Decision(
        **key._asdict(), mode="enforce", version=7, as_of_ms=1_762_146_300_000, data_until_ms=1_762_146_300_000,
        regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p",
    )  # fmt: skip
    outcomes = Outcomes(
        Outcome(closed_ms=i, profit_ratio=0.01 if i % 2 else -0.01, exit_kind="ml_exit", shadow=i % 3 == 0)
        for i in range(OUTCOMES)
    )
    evidence = tuple(Evidence("calibrated", 1.0, 2.0, warm=True, drift=False, top=(), channel=c)
                     for c in ("features", "scores"))  # fmt: skip
    view = StreamView(
        evidence=evidence, alarm_rates={found.name: AlarmRate(0.02, 0.1, 2880) for found in evidence},
        outcomes=dict.fromkeys(SIDES, outcomes), drawdown_ratio=0.1, drawdown_source="equity", observations=1, late=0,
        holes=0, sides=dict.fromkeys(SIDES, SideView(0.6, 0.5, 0.1)), close=107_770.2,
    )  # fmt: skip
    return decision, view


def collector(streams: int, series_max: int) -> RegimeCollector:
    """A collector of so many streams of which everything is known."""
    board, counters, traffic = Board(), Counters(), Traffic()
    made = [stream(StreamKey("my-model", f"COIN{i}/USDT:USDT", "5m")) for i in range(streams)]
    board.post([decision for decision, _ in made], {decision.key: view for decision, view in made})
    for decision, _ in made:
        counters.pause(decision.key, "long", "drift")
        counters.transition(decision.key, "long", "REDUCING")
        counters.judged(0.001, decision)
    for route in ROUTES:
        traffic.answered(route, 200, 0.001, made[0][0])

    def features(keys: Sequence[StreamKey]) -> dict[StreamKey, Any]:
        return dict.fromkeys(keys, FEATURES)

    return RegimeCollector(
        board, counters, health=Well, features=features, lease_ms=lambda decision, overrides: 360_000,
        series_max=series_max, traffic=traffic,
    )  # fmt: skip


def floor(series: int) -> Callable[[], bytes]:
    """As many plain gauges."""
    registry = CollectorRegistry()
    gauge = Gauge("plain", "A gauge.", ("model", "symbol", "timeframe", "side", "state"), registry=registry)
    for i in range(series):
        gauge.labels("my-model", f"COIN{i // 6}/USDT:USDT", "5m", "long", f"s{i % 6}").set(i)
    return lambda: generate_latest(registry)


def samples(text: bytes) -> int:
    return sum(line[:1] != b"#" for line in text.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=SERIES_MAX)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    scrapes: dict[str, Callable[[], bytes]] = {f"{asked.series} plain gauges (the floor)": floor(asked.series)}
    for streams, about in (
        (asked.series // 50, "everything known"),
        (asked.series // 6, "the state of many"),
        (ServerSection().streams_max, "as many as there may be"),
    ):
        text = exposition(collector(streams, asked.series))
        scrapes[f"{streams} streams, {about}"] = lambda text=text: text("")[0]  # type: ignore[misc]
        scrapes[f"{streams} streams, OpenMetrics"] = lambda text=text: text("application/openmetrics-text")[0]  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in scrapes}
    for _ in range(asked.rounds):
        for name, scrape in scrapes.items():
            began_s = time.thread_time()
            scrape()
            taken[name].append(time.thread_time() - began_s)
    least = statistics.median(next(iter(taken.values())))
    for name, found in taken.items():
        middle = statistics.median(found)
        print(f"{name:<48} {samples(scrapes[name]()):>6} series {middle * 1e3:>8.1f} ms {middle / least:>6.2f}x")


if __name__ == "__main__":
    main()
