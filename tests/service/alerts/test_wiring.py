"""Alerts in a whole service: which decisions reach an operator, and what the service says of its own failure."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alert_receivers import HttpReceiver

from regime.errors import OperatorError
from regime.events import Command, Equity, Observation, Trade
from regime_service import app as app_module
from regime_service.app import Service
from regime_service.clock import GuardedClock
from regime_service.metrics import RegimeCollector, exposition
from regime_service.runners import embedded
from regime_service.runners.recovery import RecoveryFailed
from regime_service.settings import from_toml
from regime_service.stores import StoreFailed
from regime_service.testing import HandClock

sys.path.insert(0, str(Path(__file__).parents[2] / "torture"))  # for `faults_plugins`

CANDLE_MS = 300_000
FIRST_MS = 1_762_145_100_000
STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
Make = Callable[..., Service]


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    server = HttpReceiver()
    yield server
    server.close()


@pytest.fixture
def make(tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A service whose only channel is the receiver; `alerts` and other keys change its configuration."""
    monkeypatch.setenv("HOOK_SECRET", "sixteen or more bytes of it")
    made: list[Service] = []

    def start(alerts: dict[str, Any] | None = None, *, now: Any = None, deliver: bool = True, **keys: Any) -> Service:
        channel = {
            "name": "hook", "kind": "webhook", "url": f"http://127.0.0.1:{receiver.port}/", "secret_env": "HOOK_SECRET",
            "timeout_s": 2.0,
        }  # fmt: skip
        mapping = {
            "warmup_observations": 2, "rules": [], "detectors": [], "store": {"file": str(tmp_path / "s.db")},
            "alerts": {"channels": [channel], **(alerts or {})}, **keys,
        }  # fmt: skip
        made.append(Service(from_toml(mapping, source="test"), clock=now, deliver=deliver))
        made[-1].start()
        return made[-1]

    yield start
    for service in made:
        service.stop()


def observe(service: Service, i: int, value: float | None = 1.0) -> None:
    event = Observation(**STREAM, ts_ms=FIRST_MS + i * CANDLE_MS, features={"a": value})
    asyncio.run(service.ingest([event]))


def said(receiver: HttpReceiver) -> list[tuple[str, str]]:
    return [(one.json()["kind"], ",".join(one.json()["codes"])) for one in receiver.requests]


def until(found: Callable[[], object]) -> None:
    until_s = time.monotonic() + 15
    while not found():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_pause_its_end_and_stale_input_reach_the_operator(make: Make, receiver: HttpReceiver) -> None:
    clock = HandClock(FIRST_MS)
    service = make(now=clock)
    for i, value in enumerate((1.0, 2.0, 1.0, None, 2.0)):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i, value)
    until(lambda: len(receiver.requests) == 2)
    clock.ms += 4 * CANDLE_MS  # The bot falls silent.
    until(lambda: len(receiver.requests) == 3)
    assert said(receiver) == [("paused", "non-finite"), ("resumed", "non-finite"), ("paused", "stale")]
    stale = receiver.requests[2].json()
    assert stale["lift"][0].startswith("first: see that your bot runs")
    until(lambda: service.alerts_listed()["waiting"] == [])
    (channel,) = service.alerts_listed()["channels"]
    assert (channel["delivered"], channel["dead"], channel["waiting"]) == (3, 0, 0)


def test_an_operators_word_reaches_the_others_and_a_restart_says_nothing_again(
    make: Make, receiver: HttpReceiver
) -> None:
    clock = HandClock(FIRST_MS + CANDLE_MS)
    service = make(now=clock)
    for i in range(3):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i)
    halt = Command(
        id="h", action="set", ts_ms=clock.ms, model="m", state="HALTED", actor="ana", reason="exchange is down"
    )
    asyncio.run(service.ingest([halt]))
    until(lambda: receiver.requests)
    until(lambda: service._store.messages() == [])
    service.stop()
    make(now=clock)
    time.sleep(0.5)
    assert said(receiver) == [("paused", "operator")]
    assert "ana set HALTED: exchange is down" in receiver.requests[0].json()["happened"]


def test_a_pause_that_stands_is_said_again(make: Make, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from regime_service.alerts import outbox

    monkeypatch.setattr(outbox, "LOOK_EVERY_S", 0.0)
    clock = HandClock(FIRST_MS)
    service = make({"repeat_after_hours": 4.0}, now=clock)
    for i in range(3):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i)
    clock.ms += 4 * CANDLE_MS
    until(lambda: len(receiver.requests) == 1)
    clock.ms += 4 * 3_600_000
    until(lambda: len(receiver.requests) == 2)
    assert said(receiver) == [("paused", "stale"), ("still", "stale")]


def test_on_event_time_nobody_is_told_of_the_past_unless_it_is_asked_for(
    make: Make, receiver: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(clock="event")
    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        observe(service, i, value)
    time.sleep(0.4)
    assert receiver.requests == []
    assert service._store.messages() == []
    assert service.alerts_listed() == {"channels": [], "waiting": [], "dead": []}
    assert "alerts are off" in caplog.text
    service.stop()
    again = make({"on_event_clock": True, "repeat_after_hours": 0.001}, clock="event")
    observe(again, 4)
    until(lambda: receiver.requests)
    assert said(receiver) == [("resumed", "non-finite")]


def test_without_a_channel_nothing_runs(tmp_path: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}
    settings = {"store": {"file": str(tmp_path / "s.db")}, "archive": {"enabled": False}, "warmup_observations": 2}
    service = Service(from_toml(settings, source="test"), clock=HandClock(FIRST_MS + 5 * CANDLE_MS))
    service.start()
    assert {thread.name for thread in threading.enumerate()} - before == {"writer"}
    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        observe(service, i, value)
    (decision,) = service.board.now.decisions.values()
    assert [reason.code for reason in decision.sides.long.reasons] == ["non-finite"]
    assert service._store.messages() == []
    assert service.alert_figures() == {}
    assert b"regime_alert" not in _scrape(service)
    service.stop()


def _scrape(service: Service) -> bytes:
    collector = RegimeCollector(service.board, service.counters, health=service.health, alerts=service.alert_figures)
    return exposition(collector)("")[0]


def test_metrics_count_deliveries_and_what_waits(make: Make, receiver: HttpReceiver) -> None:
    clock = HandClock(FIRST_MS)
    receiver.mood = "refuse"
    service = make(now=clock)
    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i, value)
    until(lambda: service.alerts_listed()["dead"])
    receiver.mood = "broken"
    observe(service, 4)
    until(lambda: service.alert_figures()["hook"].deliveries["failed"])
    clock.ms += 60_000
    scraped = _scrape(service).decode()
    for line in (
        'regime_alert_deliveries_total{channel="hook",result="dead"} 1.0',
        'regime_alert_deliveries_total{channel="hook",result="delivered"} 0.0',
        'regime_alerts_waiting{channel="hook"} 1.0',
        'regime_alerts_dead{channel="hook"} 1.0',
        'regime_alert_oldest_waiting_seconds{channel="hook"} 60',
    ):
        assert line in scraped, scraped


def test_a_store_that_fails_is_told_at_once_and_not_by_the_outbox(
    make: Make, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock(FIRST_MS + CANDLE_MS + 1000)
    service = make(now=clock)

    def full() -> None:
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(service._store, "commit", full)
    with pytest.raises(Exception, match=r"store failed|disk is full"):
        observe(service, 0)
    until(lambda: receiver.requests)
    told = receiver.requests[0].json()
    assert (told["kind"], told["name"], told["urgent"]) == ("service", "RegimeServiceDown", True)
    assert "the disk is full" in told["happened"]
    assert "exits are free" in told["now"]


def test_a_supervisor_that_starts_it_in_circles_wakes_nobody_twice(
    make: Make, receiver: HttpReceiver, tmp_path: Path
) -> None:
    service = make()
    service.stop()
    (tmp_path / "s.db").write_bytes((tmp_path / "s.db").read_bytes()[:8192].replace(b"meta", b"atem"))
    for _ in range(3):
        broken = make()
        assert not broken.health().ready
        broken.stop()
    assert [one.json()["name"] for one in receiver.requests] == ["RegimeServiceDown"]


def test_a_disk_that_hangs_is_told_and_so_is_its_end(
    make: Make, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "STUCK_S", 0.05)
    monkeypatch.setattr(app_module, "TELL_STUCK_S", 0.3)
    clock = HandClock(FIRST_MS + CANDLE_MS + 1000)
    service, release = make(now=clock), threading.Event()
    usual = service._store.commit

    def commit() -> None:
        release.wait(30)
        usual()

    monkeypatch.setattr(service._store, "commit", commit)
    service.runner.submit([Observation(**STREAM, ts_ms=FIRST_MS, features={"a": 1.0})])
    # Bots hear of it at once, people when it lasts.
    until(lambda: service.fault() is not None)
    until(lambda: (service.look_for_trouble(), receiver.requests)[1])
    for _ in range(3):
        service.look_for_trouble()
    release.set()
    until(lambda: service.fault() is None)
    service.look_for_trouble()
    until(lambda: len(receiver.requests) == 2)
    told = [one.json() for one in receiver.requests]
    assert [(one["name"], one["resolved"]) for one in told] == [
        ("RegimeServiceStuck", False), ("RegimeServiceStuck", True),
    ]  # fmt: skip
    assert "the store has not answered for 0." in told[0]["happened"]


def test_a_clock_that_cannot_be_right_is_told_and_so_is_its_end(make: Make, receiver: HttpReceiver) -> None:
    first = make(now=HandClock(FIRST_MS + CANDLE_MS + 1000))
    observe(first, 0)
    first.stop()
    wall = [FIRST_MS / 1000 - 7200]  # The machine came back two hours in the past.
    service = make(now=GuardedClock(lambda: wall[0], lambda: 0.0))
    assert "the clock is wrong" in str(service.fault())
    for _ in range(3):
        service.look_for_trouble()
    until(lambda: receiver.requests)
    wall[0] += 7200 + 600
    service.look_for_trouble()
    until(lambda: len(receiver.requests) == 2)
    assert service.fault() is None
    told = [one.json() for one in receiver.requests]
    assert [(one["name"], one["resolved"]) for one in told] == [
        ("RegimeClockBehind", False), ("RegimeClockBehind", True),
    ]  # fmt: skip
    assert told[0]["subject"].startswith("REGIMEGATE WAITS on ")
    assert "if it is right now, it was ahead when those events were written" in told[0]["happened"]
    assert told[0]["lift"][0].startswith("set the clock of the machine right")


def test_a_moment_in_which_nothing_moves_wakes_nobody(
    make: Make, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock(FIRST_MS + CANDLE_MS + 1000)
    service, release = make(now=clock), threading.Event()
    usual = service._store.commit

    def commit() -> None:
        release.wait(30)
        usual()

    monkeypatch.setattr(service._store, "commit", commit)
    service.runner.submit([Observation(**STREAM, ts_ms=FIRST_MS, features={"a": 1.0})])
    until(lambda: service.fault() is not None)
    service.look_for_trouble()
    release.set()
    until(lambda: service.fault() is None)
    service.look_for_trouble()
    service.stop()
    assert receiver.requests == []


def test_a_log_that_cannot_be_judged_is_told_with_what_to_do(
    make: Make, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RecoveryFailed("event 7 of the log cannot be judged. Go back to the version that could")

    monkeypatch.setattr(embedded, "recover", refuse)
    service = make(now=HandClock(FIRST_MS))
    assert "event 7 of the log" in str(service.fault())
    until(lambda: receiver.requests)
    (told,) = (one.json() for one in receiver.requests)
    assert (told["kind"], told["name"]) == ("service", "RegimeCannotStart")
    assert "Go back to the version that could" in told["happened"]
    assert "disk" not in "".join(told["lift"])


def test_deliveries_that_end_one_after_the_other_keep_no_event_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a mark to be written down, and the next one may be there when it is."""
    clock = HandClock(FIRST_MS + CANDLE_MS + 1000)
    service = make(now=clock)
    monkeypatch.setattr(service._outbox, "due", lambda: True)
    for i in range(3):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        service.runner.submit([Observation(**STREAM, ts_ms=FIRST_MS + i * CANDLE_MS, features={"a": 1.0})]).result(10)


def test_a_command_that_opens_the_store_itself_writes_alerts_down_for_the_next_service(
    make: Make, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_SECRET")
    clock = HandClock(FIRST_MS)
    service = make(now=clock, deliver=False)
    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i, value)
    service.stop()
    assert receiver.requests == []
    monkeypatch.setenv("HOOK_SECRET", "sixteen or more bytes of it")
    make(now=clock)
    until(lambda: receiver.requests)
    assert said(receiver) == [("paused", "non-finite")]


def test_a_secret_that_is_missing_is_said_before_anything_is_opened(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HOOK_SECRET")
    with pytest.raises(OperatorError, match="HOOK_SECRET"):
        make()
    assert not (tmp_path / "s.db").exists()


def test_no_log_line_repeats_a_secret(
    make: Make, receiver: HttpReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.mood, receiver.echo = "refuse", True
    monkeypatch.setenv("HOOK_URL", f"http://127.0.0.1:{receiver.port}/services/very-secret-path")
    channel = {"name": "slack", "kind": "slack", "url_env": "HOOK_URL"}
    clock = HandClock(FIRST_MS)
    service = make({"channels": [channel]}, now=clock)
    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i, value)
    until(lambda: service.alerts_listed()["dead"])
    shown = caplog.text + str(service.alerts_listed()) + _scrape(service).decode() + repr(service.settings)
    assert "no such thing" in shown
    assert "very-secret-path" not in shown


def test_an_event_that_makes_judging_fail_is_told_with_the_command_that_shows_it(
    make: Make, receiver: HttpReceiver
) -> None:
    clock = HandClock(FIRST_MS)
    service = make(now=clock, rules=[{"kind": "faults_plugins.Grumpy"}])
    for i in range(3):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i)
    loss = Trade(
        **STREAM, trade_id="1", side="long", opened_ms=FIRST_MS, closed_ms=clock.ms, entry_price=100.0, exit_price=50.0,
        profit_ratio=-0.5,
    )  # fmt: skip
    asyncio.run(service.ingest([loss]))
    until(lambda: receiver.requests)
    (told,) = (one.json() for one in receiver.requests)
    assert (told["kind"], told["codes"]) == ("paused", ["engine-error"])
    assert "RuntimeError: no" in told["happened"]
    assert told["lift"][0].startswith("first: `regime dead-letter list` shows the event")


def test_in_shadow_mode_a_vote_wakes_nobody_and_a_fault_does(make: Make, receiver: HttpReceiver) -> None:
    clock = HandClock(FIRST_MS)
    rules = [{"kind": "win_rate", "options": {"window": 2, "limit": 0.5, "release": 0.5, "entry": 0.85}}]
    service = make(now=clock, mode="shadow", rules=[*rules, {"kind": "drawdown", "options": {"limit": 0.1}}])
    for i in range(3):
        clock.ms = FIRST_MS + (i + 1) * CANDLE_MS + 1000
        observe(service, i)
    for equity in (100.0, 50.0, 50.0):
        clock.ms += 1000
        asyncio.run(service.ingest([Equity(model="m", ts_ms=clock.ms, equity=equity)]))
    (decision,) = service.board.now.decisions.values()
    assert decision.computed is not None and decision.computed.long.state == "REDUCING"
    assert decision.sides.long.state == "ACTIVE"
    clock.ms += 4 * CANDLE_MS
    until(lambda: receiver.requests)
    assert said(receiver) == [("paused", "stale")]
