"""What a scrape says: fixed names, bounded size, and silence where nothing is known."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from regime.decision import Decision, Reason, RegimeLabel, SideDecision, Sides, TradingState
from regime.engine import AlarmRate
from regime.events import Command, StreamKey
from regime.outcomes import Outcome, wilson_interval
from regime.rules import Evidence
from regime_service.board import Board, SideView, StreamView
from regime_service.metrics import (
    FEATURES_MAX,
    GROUPS,
    SERIES_MIN,
    Counters,
    RegimeCollector,
    Traffic,
    decision_name,
    exposition,
)

KEY = StreamKey("m", "BTC/USDT:USDT", "5m")


class Well(NamedTuple):
    ready: bool = True
    queue_depth: int = 3
    queue_max: int = 100


def side(state: str = "ACTIVE", size_factor: float = 1.0, *codes: str) -> SideDecision:
    reasons = [Reason(code=code, text=code, since_ms=0) for code in codes]
    return SideDecision(state=TradingState(state), entry=0.86, exit=0.75, size_factor=size_factor, reasons=reasons)


def trade(profit: float, *, shadow: bool = False) -> Outcome:
    return Outcome(closed_ms=0, profit_ratio=profit, exit_kind="ml_exit", shadow=shadow)


CALM = Evidence("ks", 1.5, 2.0, warm=True, drift=False, top=())


def view(**changes: Any) -> StreamView:
    fields: dict[str, Any] = {
        "evidence": (CALM,), "alarm_rates": {}, "outcomes": {"long": (), "short": ()}, "drawdown_ratio": 0.0,
        "drawdown_source": "trades", "observations": 1, "late": 0, "holes": 0,
        "sides": {name: SideView(None, 0.5, 0.0) for name in ("long", "short")},
    }  # fmt: skip
    return StreamView(**{**fields, **changes})


def everything(key: StreamKey = KEY) -> tuple[Decision, StreamView]:
    """A stream of which all is known."""
    outcomes = tuple(trade(0.01 if i % 3 else -0.01, shadow=i % 5 == 0) for i in range(60))
    evidence = [Evidence(kind, 1.0, 2.0, warm=True, drift=False, top=(), channel=c)
                for kind in ("calibrated",) for c in ("features", "scores")]  # fmt: skip
    return (
        decision(
            key, regime=RegimeLabel(label="calm", probability=0.8, since_ms=0),
            sides=Sides(long=side("REDUCING", 0.0, "drift", "break-even"), short=side("ACTIVE", 1.0, "edge")),
        ),
        view(
            evidence=tuple(evidence), close=107_770.2,
            alarm_rates={found.name: AlarmRate(0.02, 0.1, 2880) for found in evidence},
            outcomes={name: outcomes for name in ("long", "short")},
            sides={name: SideView(0.6, 0.5, 0.1) for name in ("long", "short")},
        ),
    )  # fmt: skip


def board_of(*streams: tuple[Decision, StreamView]) -> Board:
    board = Board()
    board.post([told for told, _ in streams], {told.key: seen for told, seen in streams})
    return board


def top(keys: Sequence[StreamKey]) -> dict[StreamKey, tuple[tuple[str, float], ...]]:
    return {key: tuple((f"f{i}", 1.0 - i / 100) for i in range(20)) for key in keys}


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
    text = exposition(collector)("")[0].decode()
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
    assert found["regime_data_until_timestamp_seconds", labelled()] == 1_762_146_300.5
    assert found["regime_decision_timestamp_seconds", labelled()] == 1.0


def test_the_age_of_the_input_is_told_by_the_clock_that_counts_beside_its_limit_and_the_lease(board: Board) -> None:
    asked: list[Sequence[Command]] = []

    def lease_ms(told: Decision, overrides: Sequence[Command]) -> int:
        asked.append(overrides)
        return 360_000

    override = Command(id="1", action="set", ts_ms=0, model="m", state="ACTIVE")
    board.post([], {KEY: view(overrides=(override,))})
    found = scrape(board, clock_ms=lambda told: 1_762_146_330_500, lease_ms=lease_ms, stale_after=3)
    assert found["regime_input_age_seconds", labelled()] == 30.0
    assert found["regime_input_age_limit_seconds", labelled()] == 900.0
    assert found["regime_lease_expiry_timestamp_seconds", labelled()] == 361.0
    assert asked == [(override,)], "an operator's word may cut the lease short"


def test_every_reason_that_stands_is_1_and_there_is_none_where_all_is_well() -> None:
    told, seen = everything()
    reasons = {k: v for k, v in scrape(board_of((told, seen))).items() if k[0] == "regime_reason"}
    assert reasons == {
        ("regime_reason", labelled(side="long", reason="drift")): 1,
        ("regime_reason", labelled(side="long", reason="break-even")): 1,
        ("regime_reason", labelled(side="short", reason="edge")): 1,
    }


def test_in_shadow_mode_it_shows_what_would_have_been_said_beside_what_was(board: Board) -> None:
    assert not [name for name, _ in scrape(board) if name == "regime_computed_state"]
    told = Sides(long=side(), short=side())
    board.post([decision(mode="shadow", sides=told, computed=Sides(long=side("REDUCING", 0.0), short=side()))])
    found = scrape(board)
    for name, said, would in (("long", "ACTIVE", "REDUCING"), ("short", "ACTIVE", "ACTIVE")):
        for state in ("ACTIVE", "REDUCING", "HALTED"):
            assert found["regime_state", labelled(side=name, state=state)] == (state == said)
            assert found["regime_computed_state", labelled(side=name, state=state)] == (state == would)


def test_the_regime_is_silent_until_it_is_known(board: Board) -> None:
    assert not [name for name, _ in scrape(board) if name == "regime_probability"]
    assert scrape(board_of(everything()))["regime_probability", labelled(regime="calm")] == 0.8


def test_win_rate_with_interval_break_even_and_edge() -> None:
    outcomes = tuple(trade(0.01 if i < 30 else -0.01) for i in range(70))  # the last 50: 10 won, 40 lost
    seen = view(
        outcomes={"long": outcomes, "short": ()},
        sides={"long": SideView(0.45, 0.52, 0.1), "short": SideView(None, float("nan"), 0.0)},
    )
    found = scrape(board_of((decision(), seen)))
    low, high = wilson_interval(10, 50, 1.645)
    long = {name: found[f"regime_{name}", labelled(side="long")] for name in (
        "win_ratio", "win_ratio_low", "win_ratio_high", "win_ratio_trades", "break_even_ratio", "edge_ratio",
        "drawdown_ratio",
    )}  # fmt: skip
    assert long == pytest.approx({
        "win_ratio": 0.2, "win_ratio_low": low, "win_ratio_high": high, "win_ratio_trades": 50,
        "break_even_ratio": 0.52, "edge_ratio": -0.07, "drawdown_ratio": 0.1,
    })  # fmt: skip
    short = {name for name, labels in found if ("side", "short") in labels and re.search("win|edge|even", name)}
    assert short == {"regime_win_ratio_trades"}, "of a side without trades only that is known"


def test_the_guard_value_is_what_the_refused_signals_would_have_lost() -> None:
    outcomes = (trade(0.05), trade(-0.02, shadow=True), trade(0.005, shadow=True))
    found = scrape(board_of((decision(), view(outcomes={"long": outcomes, "short": ()}, close=100.5))))
    assert found["regime_guard_value_ratio", labelled(side="long")] == pytest.approx(0.015)
    assert found["regime_guard_refused", labelled(side="long")] == 2
    assert found["regime_guard_value_ratio", labelled(side="short")] == 0.0
    assert found["regime_close_price", labelled()] == 100.5


def test_before_the_first_candle_there_is_no_time_of_it() -> None:
    board = Board()
    board.post([decision(data_until_ms=None)])
    assert not [name for name, _ in scrape(board) if name == "regime_data_until_timestamp_seconds"]


def test_a_scrape_shows_the_board_as_it_is_now(board: Board) -> None:
    counters = Counters()
    text = exposition(RegimeCollector(board, counters, health=Well))
    assert b"regime_decision_version{" in text("")[0]
    board.post([decision(version=8)])
    counters.event("trade", "accepted")
    assert b"} 8.0" in text("")[0]
    assert b'regime_events_total{kind="trade",result="accepted"} 1.0' in text("")[0]


def test_a_detector_that_is_warm_shows_its_statistic_and_limit_and_a_cold_one_is_silent(board: Board) -> None:
    nan = float("nan")
    evidence = (
        CALM,
        Evidence("adwin", nan, nan, warm=False, drift=False, top=()),
        Evidence("odd", nan, 2.0, warm=True, drift=False, top=()),
    )
    board.post([], {KEY: view(evidence=evidence), StreamKey("not", "on", "1m"): view()})
    found = scrape(board)
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


def test_only_the_features_that_stand_out_most_are_shown_and_only_of_streams_that_are_warm() -> None:
    cold = StreamKey("m", "cold", "5m")
    board = board_of((decision(), view()), (decision(cold), view(evidence=(CALM._replace(warm=False),))))
    asked: list[Sequence[StreamKey]] = []

    def features(keys: Sequence[StreamKey]) -> dict[StreamKey, tuple[tuple[str, float], ...]]:
        asked.append(keys)
        return top(keys)

    found = {k: v for k, v in scrape(board, features=features).items() if k[0] == "regime_feature_drift_ratio"}
    assert asked == [[KEY]]
    assert len(found) == FEATURES_MAX
    assert found["regime_feature_drift_ratio", labelled(feature="f0")] == 1.0
    assert ("regime_feature_drift_ratio", labelled(feature="f10")) not in found


def many(count: int) -> Board:
    return board_of(*(everything(StreamKey("m", f"S{i}", "5m")) for i in range(count)))


def lively() -> dict[str, Any]:
    """Counts of all kinds."""
    counters, traffic = Counters(), Traffic()
    counters.event("trade", "accepted")
    counters.pause(KEY, "long", "drift")
    counters.transition(KEY, "long", "REDUCING")
    counters.non_finite(KEY, 2)
    counters.schema_mismatch(KEY)
    counters.judged(0.001, decision())
    counters.acknowledged(0.002, decision())
    counters.committed(0.003, decision())
    traffic.answered("/v1/observations", 200, 0.004, decision())
    traffic.refused("rate")
    return {"counters": counters, "traffic": traffic, "features": top}


@pytest.mark.parametrize("streams", [1, 20, 40, 60, 100, 200, 400])
def test_a_scrape_never_has_more_series_than_its_budget_and_the_state_of_streams_comes_first(streams: int) -> None:
    found = scrape(many(streams), **lively(), series_max=2_000)
    assert len(found) <= 2_000
    shown = {name: sum(n == f"regime_{name}" for n, _ in found) for name in ("state", "threshold", "size_factor")}
    dropped = {group: found["regime_series_dropped_total", (("group", group),)] for group in GROUPS}
    if streams <= 20:
        assert not any(dropped.values())
    else:
        assert dropped["features"] > 0
    if streams <= 180:
        assert (shown["state"], shown["threshold"], dropped["state"]) == (6 * streams, 4 * streams, 0)
    if streams == 400:
        assert shown["state"] > 1_800, "whose state is known matters more than anybody's threshold"
        assert shown["threshold"] < 6, "what is left is not enough for one more state"
        assert shown["state"] + shown["threshold"] + dropped["state"] == 10 * 400
        assert all(dropped.values()), "and it is counted of everything"
    assert found["regime_streams", ()] == streams


def test_what_was_dropped_and_what_was_shown_make_up_the_whole() -> None:
    whole = scrape(many(50), **lively(), series_max=100_000)
    part = scrape(many(50), **lively(), series_max=1_000)
    assert len(part) == pytest.approx(1_000, abs=20)
    lost = sum(v for (name, _), v in part.items() if name == "regime_series_dropped_total")
    assert len(whole) == len(part) + lost


def test_what_is_dropped_is_counted_over_scrapes_and_the_same_streams_stay() -> None:
    collector = RegimeCollector(many(100), Counters(), health=Well, series_max=500)
    text = exposition(collector)
    first, second = text("")[0].decode(), text("")[0].decode()
    counts = [re.search(r'series_dropped_total\{group="state"\} (\S+)', t) for t in (first, second)]
    assert counts[0] is not None and counts[1] is not None
    assert float(counts[1][1]) == 2 * float(counts[0][1])
    assert re.findall(r"regime_state\{.*", first) == re.findall(r"regime_state\{.*", second)


def test_the_service_itself_always_has_room_and_less_than_that_is_refused() -> None:
    found = scrape(many(500), **lively(), series_max=SERIES_MIN)
    assert len(found) <= SERIES_MIN
    assert ("regime_ready", ()) in found and ("process_resident_memory_bytes", ()) in found
    with pytest.raises(ValueError, match="at least"):
        RegimeCollector(Board(), Counters(), health=Well, series_max=SERIES_MIN - 1)


def test_counts_beyond_the_cap_are_dropped_and_counted_and_known_ones_go_on() -> None:
    counters = Counters(labels_max=2)
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


def full() -> RegimeCollector:
    """A collector that shows every family there is."""
    return RegimeCollector(board_of(everything()), health=Well, **lively())


def test_names_follow_the_conventions_of_prometheus() -> None:
    families = list(text_string_to_metric_families(exposition(full())("")[0].decode()))
    assert {family.name for family in families} >= {
        "regime_state", "regime_threshold", "regime_build_info", "regime_events", "regime_pauses",
    }  # fmt: skip
    for family in families:
        assert re.fullmatch(r"(regime|process)(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter", "histogram")
        assert not re.search(r"_(ms|millis|percent|count|sum|bucket|total)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            for label in sample.labels:
                assert re.fullmatch(r"[a-z]+", label)
                assert label not in ("quantile", "job", "instance")
                assert (label == "le") <= (family.type == "histogram")


def test_no_series_stands_twice() -> None:
    lines = [line.rpartition(" ")[0] for line in exposition(full())("")[0].decode().splitlines() if line[0] != "#"]
    assert len(lines) == len(set(lines))


@pytest.fixture(scope="session")
def promtool(need: Callable[[object, str], None]) -> str:
    found = shutil.which("promtool")
    need(found, "promtool is missing: apt-get install prometheus")
    assert found is not None
    return found


def check(promtool: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)


def test_promtool_finds_nothing_to_say_about_a_scrape(promtool: str) -> None:
    said = check(promtool, exposition(full())("")[0])
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_promtool_would_have_said_something(promtool: str) -> None:
    text = exposition(full())("")[0]
    assert check(promtool, text.replace(b"regime_events_total", b"regime_events")).returncode != 0


OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("Application/OpenMetrics-Text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain; version=0.0.4; charset=utf-8"),
        ("\xff;;=,,application/openmetrics-text-not", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_openmetrics_is_given_to_who_asks_for_it(accept: str, media: str) -> None:
    text, said = exposition(full())(accept)
    assert said == media
    assert text.endswith(b"# EOF\n") == media.startswith("application/openmetrics-text")


def test_exemplars_of_all_durations_name_the_decision() -> None:
    families = list(openmetrics_families(exposition(full())(OPENMETRICS)[0].decode()))
    named = {
        family.name: {sample.exemplar.labels["decision"] for sample in family.samples if sample.exemplar}
        for family in families
        if family.type == "histogram"
    }
    assert named == {
        f"regime_{what}_duration_seconds": {"m BTC/USDT:USDT 5m #7"}
        for what in ("decision", "acknowledgement", "commit", "http_request")
    }


def test_the_name_of_a_decision_keeps_its_end_and_the_length_that_openmetrics_allows() -> None:
    named = decision_name(decision(StreamKey("m" * 128, "S" * 128, "5m"), version=4182))
    assert named.endswith("S 5m #4182")
    assert len("decision" + named) <= 128


def test_a_histogram_counts_every_duration_once_and_in_the_bucket_that_holds_it() -> None:
    counters = Counters()
    for seconds in (0.00001, 0.001, 0.0011, 3.0, 100.0):
        counters.committed(seconds, None)
    found = scrape(None, counters)
    buckets = {
        dict(labels)["le"]: v for (name, labels), v in found.items() if name == "regime_commit_duration_seconds_bucket"
    }
    assert [buckets[le] for le in ("0.0001", "0.0005", "0.001", "0.0025", "2.5", "10.0", "+Inf")] == [
        1,
        1,
        2,
        3,
        3,
        4,
        5,
    ]
    assert found["regime_commit_duration_seconds_count", ()] == 5
    assert found["regime_commit_duration_seconds_sum", ()] == pytest.approx(103.00211)


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
    shown = {le: found[f"{name}_bucket", (("le", le), route)] for le in ("0.0001", "0.00025", "0.005", "10.0", "+Inf")}
    assert shown == {"0.0001": 1, "0.00025": 2, "0.005": 3, "10.0": 4, "+Inf": 5}
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
    assert b"regime_decision_version{" in full("")[0]
    assert b"regime_decision_version{" not in empty("")[0]


def test_the_measured_rate_of_alarms_stands_beside_the_one_that_was_asked(board: Board) -> None:
    rates = {"calibrated": AlarmRate(0.02, 0.1, 2880), "scores.ks": AlarmRate(None, None, 0)}
    board.post([], {KEY: view(alarm_rates=rates)})
    found = scrape(board)
    assert found["regime_false_alarm_budget", labelled(detector="calibrated")] == 0.02
    assert found["regime_alarm_rate", labelled(detector="calibrated")] == 0.1
    assert not any(("detector", "scores.ks") in labels for _, labels in found), "no promise, no figure: silence"
