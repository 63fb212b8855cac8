"""What a scrape says: fixed names, bounded size, and silence where nothing is known."""

from __future__ import annotations

import re
import threading
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from regime.decision import Decision, SideDecision, Sides, TradingState
from regime.engine import AlarmRate
from regime.events import StreamKey
from regime.rules import Evidence
from regime_service.board import Board
from regime_service.metrics import Counters, RegimeCollector, Traffic, exposition

KEY = StreamKey("m", "BTC/USDT:USDT", "5m")


class Well(NamedTuple):
    ready: bool = True
    queue_depth: int = 3
    queue_max: int = 100


def side(state: str = "ACTIVE", size_factor: float = 1.0) -> SideDecision:
    return SideDecision(state=TradingState(state), entry=0.86, exit=0.75, size_factor=size_factor, reasons=[])


def decision(key: StreamKey = KEY, **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        **key._asdict(), "mode": "enforce", "version": 7, "as_of_ms": 1_000, "data_until_ms": 1_762_146_300_500,
        "regime": None, "sides": Sides(long=side("REDUCING", 0.0), short=side(size_factor=0.5)), "reference_id": None,
        "policy_id": "p",
    }  # fmt: skip
    return Decision(**{**fields, **changes})


def scrape(
    board: Board | None = None, counters: Counters | None = None, **changes: Any
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels."""
    collector = RegimeCollector(board or Board(), counters or Counters(), **{"health": Well, **changes})
    text = exposition(collector)().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**KEY._asdict(), **labels}.items()))


@pytest.fixture
def board() -> Board:
    board = Board()
    board.post([decision()])
    return board


def test_exactly_one_state_of_a_side_is_1(board: Board) -> None:
    found = scrape(board)
    for name, active, reducing in (("long", 0, 1), ("short", 1, 0)):
        states = {s: found["regime_state", labelled(side=name, state=s)] for s in ("ACTIVE", "REDUCING", "HALTED")}
        assert states == {"ACTIVE": active, "REDUCING": reducing, "HALTED": 0}


def test_thresholds_size_version_and_age_of_data(board: Board) -> None:
    found = scrape(board)
    assert found["regime_threshold", labelled(side="long", threshold="entry")] == 0.86
    assert found["regime_threshold", labelled(side="long", threshold="exit")] == 0.75
    assert found["regime_size_factor", labelled(side="long")] == 0.0
    assert found["regime_size_factor", labelled(side="short")] == 0.5
    assert found["regime_decision_version", labelled()] == 7
    assert found["regime_data_until_seconds", labelled()] == 1_762_146_300.5


def test_before_the_first_candle_there_is_no_time_of_it() -> None:
    board = Board()
    board.post([decision(data_until_ms=None)])
    assert not [name for name, _ in scrape(board) if name == "regime_data_until_seconds"]


def test_a_scrape_shows_the_board_as_it_is_now(board: Board) -> None:
    counters = Counters()
    text = exposition(RegimeCollector(board, counters, health=Well))
    assert b"regime_decision_version{" in text()
    board.post([decision(version=8)])
    counters.event("trade", "accepted")
    assert b"} 8.0" in text()
    assert b'regime_events_total{kind="trade",result="accepted"} 1.0' in text()


def test_a_detector_that_is_warm_shows_its_statistic_and_limit_and_a_cold_one_is_silent(board: Board) -> None:
    nan = float("nan")
    evidence = {
        KEY: [
            Evidence("ks", 1.5, 2.0, warm=True, drift=False, top=()),
            Evidence("adwin", nan, nan, warm=False, drift=False, top=()),
            Evidence("odd", nan, 2.0, warm=True, drift=False, top=()),
        ],
        StreamKey("not", "on", "1m"): [Evidence("ks", 1.0, 2.0, warm=True, drift=False, top=())],
    }
    found = scrape(board, evidence=lambda: evidence)
    assert {k: v for k, v in found.items() if k[0].startswith("regime_drift")} == {
        ("regime_drift_statistic", labelled(detector="ks")): 1.5,
        ("regime_drift_limit", labelled(detector="ks")): 2.0,
    }


def test_events_and_pauses_are_counted_by_their_labels() -> None:
    counters = Counters()
    counters.event("observation", "accepted", 3)
    counters.event("observation", "accepted")
    counters.event("observation", "late", 2)
    counters.pause(KEY, "long", "win-rate")
    found = scrape(None, counters)
    assert found["regime_events_total", (("kind", "observation"), ("result", "accepted"))] == 4
    assert found["regime_events_total", (("kind", "observation"), ("result", "late"))] == 2
    assert found["regime_pauses_total", labelled(side="long", reason="win-rate")] == 1


def test_the_service_itself() -> None:
    found = scrape(version="1.2.3")
    [build] = [labels for name, labels in found if name == "regime_build_info"]
    assert dict(build)["version"] == "1.2.3"
    assert found["regime_ready", ()] == 1
    assert found["regime_queue_depth", ()] == 3
    assert found["regime_queue_max", ()] == 100
    assert scrape(health=lambda: Well(ready=False))["regime_ready", ()] == 0


def test_versions_that_fell_are_counted_from_the_board(board: Board) -> None:
    board.post([decision(version=6)])
    assert scrape(board)["regime_version_falls_total", ()] == 1


def test_streams_beyond_the_cap_are_left_out_and_counted() -> None:
    board = Board()
    board.post(decision(StreamKey("m", f"S{i}", "5m")) for i in range(5))
    found = scrape(board, streams_max=2)
    assert {dict(labels)["symbol"] for name, labels in found if name == "regime_state"} == {"S0", "S1"}
    assert found["regime_streams", ()] == 5
    assert found["regime_streams_unexported", ()] == 3


def test_counts_beyond_the_cap_are_dropped_and_counted_and_known_ones_go_on() -> None:
    counters = Counters(series_max=2)
    for symbol in ("A", "B", "C", "D", "A"):
        counters.pause(StreamKey("m", symbol, "5m"), "long", "drift")
    assert counters.pauses()["m", "A", "5m", "long", "drift"] == 2
    assert len(counters.pauses()) == 2
    assert counters.dropped == 2
    assert scrape(None, counters)["regime_counts_dropped_total", ()] == 2


def test_a_counter_never_falls() -> None:
    with pytest.raises(ValueError, match="only grows"):
        Counters().event("trade", "accepted", -1)


def test_counting_from_many_threads_loses_nothing() -> None:
    counters = Counters()

    def count() -> None:
        for _ in range(2_000):
            counters.event("trade", "accepted")
            counters.pause(KEY, "long", "drift")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.events()["trade", "accepted"] == 16_000
    assert counters.pauses()[(*KEY, "long", "drift")] == 16_000


def test_names_follow_the_conventions_of_prometheus(board: Board) -> None:
    counters = Counters()
    counters.event("trade", "accepted")
    counters.pause(KEY, "long", "drift")
    evidence = {KEY: [Evidence("ks", 1.5, 2.0, warm=True, drift=False, top=())]}
    traffic = Traffic()
    traffic.answered("/v1/thresholds", 200, 0.001)
    traffic.refused("rate")
    collector = RegimeCollector(board, counters, health=Well, evidence=lambda: evidence, traffic=traffic)
    families = list(text_string_to_metric_families(exposition(collector)().decode()))
    assert {family.name for family in families} >= {"regime_state", "regime_threshold", "regime_build_info"}
    for family in families:
        assert re.fullmatch(r"regime(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter", "histogram")
        assert not re.search(r"_(ms|millis|percent|count|sum|bucket|total)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            for label in sample.labels:
                assert re.fullmatch(r"[a-z]+", label)
                assert label not in ("quantile", "job", "instance")
                assert label != "le" or family.type == "histogram"


def test_requests_are_shown_by_route_and_status_and_their_durations_add_up() -> None:
    traffic = Traffic()
    for seconds in (0.0001, 0.0002, 0.003, 99.0):
        traffic.answered("/v1/thresholds", 200, seconds)
    traffic.answered("/v1/thresholds", 503, 0.2)
    traffic.refused("not-ready")
    traffic.streaming(3)
    traffic.pushed(10, 2)
    traffic.pushed(1, 0)
    found = scrape(Board(), traffic=traffic)
    route = ("route", "/v1/thresholds")
    assert found["regime_http_requests_total", (route, ("status", "200"))] == 4
    assert found["regime_http_requests_total", (route, ("status", "503"))] == 1
    assert found["regime_http_refusals_total", (("kind", "not-ready"),)] == 1
    name = "regime_http_request_duration_seconds"
    shown = {le: found[f"{name}_bucket", (("le", le), route)] for le in ("0.0001", "0.00025", "0.005", "10", "+Inf")}
    assert shown == {"0.0001": 1, "0.00025": 2, "0.005": 3, "10": 4, "+Inf": 5}
    assert found[f"{name}_count", (route,)] == 5
    assert found[f"{name}_sum", (route,)] == pytest.approx(99.2033)
    assert found["regime_push_streams", ()] == 3
    assert (found["regime_pushed_answers_total", ()], found["regime_push_superseded_total", ()]) == (11, 2)


def test_labels_may_hold_anything_a_name_may_hold() -> None:
    key = StreamKey('m"\\', "ü/ {}", "5m")
    board = Board()
    board.post([decision(key)])
    assert ("regime_decision_version", tuple(sorted(key._asdict().items()))) in scrape(board)


def test_two_services_in_one_process_do_not_see_each_other(board: Board) -> None:
    empty = exposition(RegimeCollector(Board(), Counters(), health=Well))
    full = exposition(RegimeCollector(board, Counters(), health=Well))
    assert b"regime_decision_version{" in full()
    assert b"regime_decision_version{" not in empty()


def test_the_measured_rate_of_alarms_stands_beside_the_one_that_was_asked(board: Board) -> None:
    rates = {KEY: {"calibrated": AlarmRate(0.02, 0.1, 2880), "scores.ks": AlarmRate(None, None, 0)}}
    found = scrape(board, alarm_rates=lambda: rates)
    assert found["regime_false_alarm_budget", labelled(detector="calibrated")] == 0.02
    assert found["regime_alarm_rate", labelled(detector="calibrated")] == 0.1
    assert not any(("detector", "scores.ks") in labels for _, labels in found), "no promise, no figure: silence"
