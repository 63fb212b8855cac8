"""The outbox on a real store, its writer wound by hand: nothing is lost, nothing is said twice without a crash."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from regime.decision import Decision
from regime.errors import CallerError, CorruptionError, Unavailable
from regime.events import StreamKey
from regime_service.alerts import Alert, Delivery
from regime_service.alerts import outbox as module
from regime_service.alerts.outbox import Outbox, Quiet, Row, Way, Word, settle_in, shout, unsent
from regime_service.stores import group
from regime_service.stores.opening import open_store
from regime_service.testing import CapturingChannel, HandClock

HOUR_MS = 3_600_000
NOW_MS = 1_762_146_300_000  # 05:05 UTC
NEVER, LATER = Delivery("never", "refused"), Delivery("later", "not now")


def alert(key: str, **changes: Any) -> Alert:
    usual: dict[str, Any] = {
        "kind": "paused", "name": "RegimePaused", "at_ms": NOW_MS, "recorded_ms": NOW_MS, "subject": f"subject {key}",
        "happened": "h", "model": "m", "symbol": "S", "timeframe": "5m",
    }  # fmt: skip
    return Alert(key=key, **{**usual, **changes})


class Script:
    """Words that were written beforehand."""

    def __init__(self) -> None:
        self.next: list[Alert] = []
        self.since_ms: int | None = None
        self.fails = False

    def alerts_of(self, before: Any, after: Any, recorded_ms: int) -> list[Alert]:
        if self.fails:
            raise ArithmeticError("no words")
        found, self.next = self.next, []
        return found

    def without_words(self, after: Any, recorded_ms: int) -> Alert:
        return alert("poor", recorded_ms=recorded_ms)

    def standing_since_ms(self, decision: Any) -> int | None:
        if self.fails:
            raise ArithmeticError("no words")
        return self.since_ms

    def still(self, decision: Any, since_ms: int, slot: int, now_ms: int) -> Alert:
        return alert(f"still {since_ms} {slot}", kind="still", urgent=False, recorded_ms=now_ms)

    def channel_refuses(self, channel: str, reason: str, slot: int, now_ms: int) -> Alert:
        return alert(f"{channel} refuses {slot}", kind="service", happened=reason, model="", symbol="", timeframe="")


DECISION: Any = msgspec.convert(
    {
        "model": "m", "symbol": "S", "timeframe": "5m", "mode": "enforce", "version": 1, "as_of_ms": 1,
        "data_until_ms": None, "regime": None, "reference_id": None, "policy_id": "",
        "sides": {side: {"state": "ACTIVE", "entry": 0.8, "exit": 0.7, "size_factor": 1.0, "reasons": []}
                  for side in ("long", "short")},
    }, Decision,
)  # fmt: skip


class Bench:
    """A store, a script and lives of an outbox on them; `pump` is the writer."""

    def __init__(self, where: str) -> None:
        self.store = open_store(where)
        self.clock = HandClock(NOW_MS)
        self.script = Script()
        self.outbox: Outbox | None = None

    def live(self, *channels: CapturingChannel, names: str = "ab", **options: Any) -> Outbox:
        """Begin another life; the one before is ended as a crash would: what it did not write is not written."""
        if self.outbox is not None:
            self.outbox.stop()
        chosen: dict[str, Any] = {
            "decisions": lambda: {StreamKey("m", "S", "5m"): DECISION}, "now_ms": self.clock,
            "repeat_after_ms": 0, "give_up_after_ms": 24 * HOUR_MS,
        }  # fmt: skip
        ways = [Way(name, "test", channel, 1.0) for name, channel in zip(names, channels, strict=False)]
        self.outbox = Outbox(self.store, [way.name for way in ways], self.script, **(chosen | options))
        self.outbox.start(ways)
        return self.outbox

    def say(self, *alerts: Alert) -> None:
        """One group of the runner in which a decision gives reason for these."""
        assert self.outbox is not None
        self.script.next = list(alerts)
        with group(self.store):
            self.outbox.note(0, None, DECISION)
            self.outbox.write(0)
        self.outbox.committed()

    def pump(self) -> None:
        assert self.outbox is not None
        if self.outbox.due():
            with group(self.store):
                self.outbox.write(0)
            self.outbox.committed()

    def until(self, found: Callable[[], object], within_s: float = 10.0) -> None:
        until_s = time.monotonic() + within_s
        while not found():
            assert time.monotonic() < until_s, self.outbox and self.outbox.listed()
            self.pump()
            time.sleep(0.002)

    def settle(self, seconds: float = 0.1) -> None:
        """Give whatever might still happen the time to happen."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.pump()
            time.sleep(0.002)

    def waiting(self) -> list[str]:
        return [message.key for message in self.store.messages()]


@pytest.fixture(params=["sqlite", "postgres"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    sqlite = request.param == "sqlite"
    made = Bench(str(tmp_path / "s.db") if sqlite else request.getfixturevalue("postgres").url)
    yield made
    if made.outbox is not None:
        made.outbox.stop()
    made.store.close()


class Picky(CapturingChannel):
    """Says the same to every message with that alert in it, so many times."""

    def __init__(self, key: str, result: Delivery, times: int, batch_max: int = 1) -> None:
        super().__init__(batch_max=batch_max)
        self.key, self.result, self.times = key, result, times

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        if self.times and self.key in [one.key for one in alerts]:
            self.times -= 1
            self.tried.append(list(alerts))
            return self.result
        return super().send(alerts, within_s=within_s)


def keys(channel: CapturingChannel) -> list[str]:
    return [one.key for one in channel.delivered]


# --- at least once, and once without a crash -------------------------------------------------------------------------


def test_every_channel_gets_an_alert_once_and_the_store_forgets_it(bench: Bench) -> None:
    a, b = CapturingChannel(), CapturingChannel()
    bench.live(a, b)
    bench.say(alert("1"), alert("2"))
    bench.until(lambda: len(a.delivered) == len(b.delivered) == 2 and not bench.waiting())
    bench.settle()
    assert keys(a) == keys(b) == ["1", "2"]
    bench.live(a, b)
    bench.settle()
    assert keys(a) == ["1", "2"]


def test_nothing_is_sent_before_its_group_is_committed_and_nothing_of_one_that_never_is(bench: Bench) -> None:
    a = CapturingChannel()
    outbox = bench.live(a)
    bench.script.next = [alert("1")]
    bench.store.begin()
    outbox.note(0, None, DECISION)
    time.sleep(0.1)
    assert a.tried == []
    bench.store.rollback()
    outbox.committed()
    bench.settle()
    assert (a.tried, bench.waiting()) == ([], [])


def test_what_a_crash_left_is_sent_by_the_next_life_under_the_same_key(bench: Bench) -> None:
    a = CapturingChannel()
    bench.live(a)
    bench.say(alert("1"))
    while not a.delivered:  # Delivered, and no writer came to mark it.
        time.sleep(0.002)
    assert bench.waiting() == ["1 a"]
    again = CapturingChannel()
    bench.live(again)
    bench.until(lambda: again.delivered and not bench.waiting())
    assert keys(a) == keys(again) == ["1"]


def test_the_same_key_is_written_down_once(bench: Bench) -> None:
    a = CapturingChannel()
    bench.live(a)
    bench.say(alert("1"))
    bench.say(alert("1", subject="in other words"))
    bench.until(lambda: not bench.waiting())
    bench.settle()
    assert keys(a) == ["1"]


# --- trying again ----------------------------------------------------------------------------------------------------


def test_what_fails_is_tried_until_it_works_and_counted(bench: Bench) -> None:
    a = CapturingChannel(LATER, LATER, LATER)
    outbox = bench.live(a)
    bench.say(alert("1"))
    bench.until(lambda: a.delivered and not bench.waiting())
    assert len(a.tried) == 4
    assert outbox.figures()["a"].deliveries == {"delivered": 1, "failed": 3, "dead": 0}


def test_waits_between_tries_double_to_a_minute_and_are_shortened_by_chance(bench: Bench) -> None:
    module.BACKOFF_S = 1.0
    outbox = bench.live(CapturingChannel())
    for tries, longest in ((1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (1000, 60.0)):
        waits = [outbox._backoff_s(tries) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert len(set(waits)) > 100


def test_a_receiver_that_asks_to_be_left_alone_is_left_alone_with_everything(bench: Bench) -> None:
    a = CapturingChannel(Delivery("later", "busy", 0.4))
    bench.live(a)
    bench.say(alert("1"))
    bench.until(lambda: a.tried)
    began_s = time.monotonic()
    bench.say(alert("2", symbol="another"))
    bench.until(lambda: len(a.delivered) == 2)
    assert time.monotonic() - began_s > 0.3
    assert sorted(keys(a)) == ["1", "2"]


def test_alerts_about_one_stream_go_in_order_and_other_streams_and_channels_do_not_wait(bench: Bench) -> None:
    a, b = Picky("paused", LATER, 3), CapturingChannel()
    bench.live(a, b)
    bench.say(alert("paused"), alert("resumed", kind="resumed"), alert("other", symbol="another"))
    bench.until(lambda: len(a.delivered) == 3)
    assert keys(a) == ["other", "paused", "resumed"]
    assert [one.key for batch in a.tried for one in batch][:2] == ["paused", "other"]
    assert keys(b) == ["paused", "resumed", "other"]


def test_what_waits_goes_into_one_message_where_the_channel_can_hold_it(bench: Bench) -> None:
    a = CapturingChannel(LATER, batch_max=3)
    bench.live(a)
    bench.say(*[alert(f"{i}") for i in range(5)])
    bench.until(lambda: len(a.delivered) == 5)
    assert max(map(len, a.tried)) == 3
    assert keys(a) == list("01234")


# --- sent again, or dropped, at an operator's word ------------------------------------------------------------------


def word(action: Any = "retry", said_ms: int = NOW_MS) -> Word:
    return Word(action=action, actor="ana", reason="the token is mended", said_ms=said_ms, key_id="k1")


def settle(bench: Bench, ids: list[int], said: Word) -> None:
    """As the HTTP door does: in a thread of its own, while the writer goes round."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(bench.outbox.settle, ids, said)  # type: ignore[union-attr]
        bench.until(done.done)
        done.result()


def dead(bench: Bench, refusals: int, *alerts: Alert) -> tuple[CapturingChannel, list[int]]:
    """Alerts that were given up, and the channel that delivers from now on."""
    channel = CapturingChannel(*[NEVER] * refusals)
    outbox = bench.live(channel)
    bench.say(*alerts)
    bench.until(lambda: len(outbox.listed()["dead"]) == refusals)
    return channel, [one["id"] for one in outbox.listed()["dead"]]


def test_a_dead_alert_is_sent_again_under_its_key_once_and_after_what_came_since(bench: Bench) -> None:
    a, (number, other) = dead(bench, 2, alert("1"), alert("2"))
    settle(bench, [number], word())
    bench.until(lambda: keys(a) == ["1"] and bench.waiting() == ["dead 2"])
    # A second word about the same alert, and one about an alert that waits or never was, change nothing.
    for ids in ([number], [other, number], [4711]):
        with pytest.raises(CallerError, match="Nothing was changed") as refused:
            bench.outbox.settle(ids, word())  # type: ignore[union-attr]
        assert refused.value.status_hint == 404
    bench.settle()
    assert keys(a) == ["1"]
    assert [one["key"] for one in bench.outbox.listed()["dead"]] == ["2"]  # type: ignore[union-attr]
    fresh = CapturingChannel()
    after = bench.live(fresh)
    bench.settle()
    assert (fresh.tried, [one["id"] for one in after.listed()["dead"]]) == ([], [other])


def test_what_is_asked_for_twice_in_one_breath_is_sent_once(bench: Bench) -> None:
    a, (number,) = dead(bench, 1, alert("1"))
    settle(bench, [number, number], word())
    bench.until(lambda: not bench.waiting())
    bench.settle()
    assert keys(a) == ["1"]


def test_one_that_is_refused_again_is_dead_again_and_can_be_sent_once_more(bench: Bench) -> None:
    a, (number,) = dead(bench, 1, alert("1"))
    a.results = [NEVER]
    settle(bench, [number], word())
    bench.until(lambda: [one["id"] for one in bench.outbox.listed()["dead"]] not in ([], [number]))  # type: ignore[union-attr]
    (again,) = [one["id"] for one in bench.outbox.listed()["dead"]]  # type: ignore[union-attr]
    settle(bench, [again], word())
    bench.until(lambda: keys(a) == ["1"] and not bench.waiting())


def test_a_crash_between_the_word_and_the_delivery_loses_neither(bench: Bench) -> None:
    _, (number,) = dead(bench, 1, alert("1"))
    waits = CapturingChannel(*[LATER] * 10_000)
    bench.live(waits)
    settle(bench, [number], word())
    assert bench.waiting() == [f"again {number}"]
    assert [one["key"] for one in unsent(bench.store)["waiting"]] == ["1"]
    fresh = CapturingChannel()
    bench.live(fresh)
    bench.until(lambda: keys(fresh) == ["1"] and not bench.waiting())


def test_a_word_that_was_not_written_down_is_not_acknowledged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORD_S", 0.05)
    _, (number,) = dead(bench, 1, alert("1"))
    with pytest.raises(Unavailable, match="whether this was done is unknown"):
        bench.outbox.settle([number], word())  # type: ignore[union-attr]
    fresh = CapturingChannel()
    after = bench.live(fresh)  # The writer died before it came to it.
    bench.settle()
    assert (fresh.tried, [one["id"] for one in after.listed()["dead"]]) == ([], [number])


def test_a_dropped_alert_is_never_sent_and_the_store_forgets_it(bench: Bench) -> None:
    a, (number, other) = dead(bench, 2, alert("1"), alert("2"))
    settle(bench, [number], word("drop"))
    bench.until(lambda: bench.waiting() == ["dead 2"])
    for listed in (bench.outbox.listed(), unsent(bench.store)):  # type: ignore[union-attr]
        assert ([one["id"] for one in listed["dead"]], listed["waiting"]) == ([other], [])
    fresh = CapturingChannel()
    bench.live(fresh)
    bench.settle()
    assert (a.delivered, fresh.tried) == ([], [])


def test_who_asked_for_it_and_why_stands_in_the_store_and_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    _, numbers = dead(bench, 2, alert("1"), alert("2"))
    bench.live(CapturingChannel(*[LATER] * 10_000))
    written: dict[str, Row] = {}
    put = bench.store.put_message

    def note(seq: int, key: str, body: bytes) -> None:
        written[key] = msgspec.json.decode(body, type=Row)
        put(seq, key, body)

    bench.store.put_message = note  # type: ignore[method-assign]
    settle(bench, numbers[:1], word())
    settle(bench, numbers[1:], word("drop"))
    assert written[f"again {numbers[0]}"].word == word()
    assert written[f"dropped {numbers[1]}"].word == word("drop")
    for said in ("sent again by 'ana' with the key k1: 'the token is mended'", "dropped by 'ana'"):
        assert said in caplog.text


def test_time_for_one_that_is_sent_again_counts_from_the_word(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_MAX_S", 0.02)
    _, (number,) = dead(bench, 1, alert("1"))
    outbox = bench.live(CapturingChannel(*[LATER] * (module.GIVE_UP_TRIES + 2)))
    bench.clock.ms += 30 * HOUR_MS
    settle(bench, [number], word(said_ms=bench.clock.ms))
    assert outbox.figures()["a"].oldest_s == 0.0
    bench.until(lambda: outbox.figures()["a"].deliveries["delivered"] == 1)
    assert outbox.figures()["a"].deliveries["dead"] == 0


def test_where_no_service_runs_the_store_takes_the_word_for_the_next_one(bench: Bench) -> None:
    _, numbers = dead(bench, 3, alert("1"), alert("2"), alert("3"))
    bench.outbox.stop()  # type: ignore[union-attr]
    with pytest.raises(CallerError, match="No alert 4711 was given up"):
        settle_in(bench.store, [numbers[0], 4711], word())
    assert [one["id"] for one in unsent(bench.store)["dead"]] == numbers
    settle_in(bench.store, numbers[:1], word())
    settle_in(bench.store, numbers[1:2], word("drop"))
    for again in (word(), word("drop")):
        with pytest.raises(CallerError, match="Nothing was changed"):
            settle_in(bench.store, numbers[:2], again)
    listed = unsent(bench.store)
    assert ([one["key"] for one in listed["waiting"]], [one["key"] for one in listed["dead"]]) == (["1"], ["3"])
    fresh = CapturingChannel()
    bench.live(fresh)
    bench.until(lambda: keys(fresh) == ["1"] and bench.waiting() == ["dead 3"])


# --- given up, on record ---------------------------------------------------------------------------------------------


def test_what_is_refused_becomes_dead_and_stays_listed_and_the_others_go_on(bench: Bench) -> None:
    a = CapturingChannel(NEVER)
    outbox = bench.live(a)
    bench.say(alert("1"), alert("2"))
    bench.until(lambda: keys(a) == ["2"] and outbox.listed()["dead"])
    assert bench.waiting() == ["dead 1"]
    for listed in (outbox.listed(), unsent(bench.store)):
        assert [(one["key"], one["reason"], one["channel"]) for one in listed["dead"]] == [("1", "refused", "a")]
        assert listed["waiting"] == []
    assert outbox.figures()["a"].deliveries == {"delivered": 1, "failed": 0, "dead": 1}
    # The next life lists it, and does not try it.
    fresh = CapturingChannel()
    after = bench.live(fresh)
    bench.until(lambda: after.figures()["a"].dead == 1)
    assert fresh.tried == []


def test_one_that_is_refused_in_company_takes_nobody_with_it(bench: Bench) -> None:
    a = Picky("1", NEVER, 99, batch_max=5)
    bench.live(a)
    bench.say(*[alert(f"{i}", symbol=f"S{i}") for i in range(3)])
    bench.until(lambda: len(a.delivered) == 2 and bench.waiting() == ["dead 2"])
    assert keys(a) == ["0", "2"]
    assert [len(batch) for batch in a.tried] == [3, 1, 1, 1]


def test_one_that_always_fails_is_in_nobodys_way(bench: Bench) -> None:
    a = Picky("0", LATER, 10_000)
    outbox = bench.live(a)
    bench.say(alert("0", symbol="S0"))
    for i in range(1, 20):
        bench.say(alert(f"{i}", symbol=f"S{i}"))
    bench.until(lambda: len(a.delivered) == 19)
    assert [one["key"] for one in outbox.listed()["waiting"]] == ["0"]


def test_the_other_channels_hear_of_one_that_does_not_work_once(bench: Bench) -> None:
    a, b = CapturingChannel(NEVER, NEVER), CapturingChannel()
    bench.live(a, b)
    bench.say(alert("1"))
    bench.until(lambda: len(b.delivered) == 2)
    bench.say(alert("2"))
    bench.until(lambda: len(b.delivered) == 3)
    bench.settle()
    assert sorted(keys(b)) == ["1", "2", f"a refuses {NOW_MS // module.CHANNEL_NEWS_MS}"]
    assert keys(a) == []


def test_what_could_not_be_delivered_for_a_day_is_given_up_after_some_more_tries(bench: Bench) -> None:
    a = CapturingChannel(*[LATER] * 100)
    outbox = bench.live(a)
    bench.clock.ms += 25 * HOUR_MS  # The service was down.
    bench.say(alert("1"))
    bench.until(lambda: outbox.listed()["dead"])
    assert len(a.tried) == module.GIVE_UP_TRIES
    assert "not delivered within 24 h; the last reason: not now" in outbox.listed()["dead"][0]["reason"]


def test_an_old_alert_whose_receiver_is_back_is_delivered_however_old(bench: Bench) -> None:
    a = CapturingChannel()
    bench.live(a)
    bench.clock.ms += 300 * HOUR_MS
    bench.say(alert("1"))
    bench.until(lambda: keys(a) == ["1"])


def test_one_that_comes_late_says_so_first_and_keeps_its_key(bench: Bench) -> None:
    a = CapturingChannel(LATER)
    bench.live(a)
    bench.say(alert("1"))
    bench.until(lambda: a.tried)
    bench.clock.ms += 3 * HOUR_MS
    bench.until(lambda: keys(a) == ["1"])
    assert [batch[0].subject for batch in a.tried] == ["subject 1", "3 h ago: subject 1"]


def test_alerts_for_a_channel_that_is_gone_from_the_configuration_are_listed(bench: Bench) -> None:
    bench.live(CapturingChannel(LATER), names="x")
    bench.say(alert("1"))
    outbox = bench.live(CapturingChannel(), names="a")
    bench.until(lambda: outbox.listed()["dead"])
    assert "no channel 'x'" in outbox.listed()["dead"][0]["reason"]
    assert {one["name"]: one["kind"] for one in outbox.listed()["channels"]} == {"a": "test", "x": None}


def test_a_backlog_without_end_loses_its_oldest_on_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_MAX", 3)
    a = CapturingChannel(*[LATER] * 10_000)
    outbox = bench.live(a)
    bench.say(*[alert(f"{i}") for i in range(5)])
    bench.until(lambda: len(outbox.listed()["dead"]) == 2)
    assert [one["key"] for one in outbox.listed()["dead"]] == ["0", "1"]
    assert [one["key"] for one in outbox.listed()["waiting"]] == ["2", "3", "4"]


def test_of_the_dead_the_newest_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEAD_MAX", 2)
    outbox = bench.live(CapturingChannel(*[NEVER] * 5))
    bench.say(*[alert(f"{i}", symbol=f"S{i}") for i in range(5)])
    bench.until(lambda: outbox.figures()["a"].deliveries["dead"] == 5 and len(bench.waiting()) == 2)
    assert [one["key"] for one in outbox.listed()["dead"]] == ["3", "4"]


def test_a_row_that_cannot_be_read_stops_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with group(bench.store):
        bench.store.put_message(0, "strange", b'{"of": "another version"}')
    a = CapturingChannel()
    bench.live(a)
    bench.say(alert("1"))
    bench.until(lambda: keys(a) == ["1"])
    assert "message 1 of the outbox cannot be read" in caplog.text
    assert unsent(bench.store)["dead"] == []


def test_more_alerts_than_are_read_at_once_are_all_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    a = CapturingChannel()
    bench.live(a)
    bench.say(*[alert(f"{i}") for i in range(20)])
    bench.until(lambda: len(a.delivered) == 20 and not bench.waiting())
    assert keys(a) == [f"{i}" for i in range(20)]


# --- quiet hours and reminders ---------------------------------------------------------------------------------------

NIGHT = Quiet(0, 7 * 60, UTC)


def test_quiet_hours_hold_back_what_is_not_urgent_and_never_a_pause(bench: Bench) -> None:
    a = CapturingChannel()
    bench.live(a, quiet=NIGHT)
    bench.say(alert("over", kind="resumed", urgent=False), alert("pause", symbol="another"))
    bench.until(lambda: keys(a) == ["pause"])
    bench.settle()
    assert keys(a) == ["pause"]
    bench.clock.ms += 2 * HOUR_MS  # 07:05
    with bench.outbox._lock:  # type: ignore[union-attr]
        bench.outbox._lock.notify_all()  # type: ignore[union-attr]
    bench.until(lambda: keys(a) == ["pause", "over"])


def test_a_pause_at_night_takes_along_what_was_held_back_about_its_stream(bench: Bench) -> None:
    a = CapturingChannel(batch_max=5)
    bench.live(a, quiet=NIGHT)
    bench.say(alert("over", kind="resumed", urgent=False))
    bench.settle()
    assert a.tried == []
    bench.say(alert("pause"), alert("over again", kind="resumed", urgent=False))
    bench.until(lambda: a.delivered)
    bench.settle()
    assert keys(a) == ["over", "pause"]


@pytest.mark.parametrize(
    ("start", "end", "zone", "at", "quiet"),
    [
        (22, 7, UTC, 21, False), (22, 7, UTC, 22, True), (22, 7, UTC, 6, True), (22, 7, UTC, 7, False),
        (1, 3, UTC, 0, False), (1, 3, UTC, 2, True), (5, 5, UTC, 5, False),
        (22, 7, ZoneInfo("Asia/Seoul"), 13, True), (22, 7, ZoneInfo("Asia/Seoul"), 22, False),
    ],
)  # fmt: skip
def test_quiet_hours_are_a_span_of_the_day_in_their_zone(start: int, end: int, zone: Any, at: int, quiet: bool) -> None:
    assert Quiet(start * 60, end * 60, zone).holds(NOW_MS // (24 * HOUR_MS) * 24 * HOUR_MS + at * HOUR_MS) is quiet


def test_a_pause_that_stands_is_said_again_after_each_interval_and_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    a = CapturingChannel()
    bench.live(a, repeat_after_ms=4 * HOUR_MS)
    bench.script.since_ms = NOW_MS
    bench.settle()
    bench.clock.ms += 4 * HOUR_MS
    bench.until(lambda: len(a.delivered) == 1)
    bench.settle()
    bench.clock.ms += HOUR_MS
    bench.live(a, repeat_after_ms=4 * HOUR_MS)  # A restart is no reason to say it again.
    bench.settle()
    assert keys(a) == [f"still {NOW_MS} 1"]
    bench.clock.ms += 8 * HOUR_MS
    bench.until(lambda: len(a.delivered) == 2)
    bench.script.since_ms = None  # Lifted.
    bench.clock.ms += 24 * HOUR_MS
    bench.settle()
    assert keys(a) == [f"still {NOW_MS} 1", f"still {NOW_MS} 3"]


def test_no_reminder_is_made_in_quiet_hours_or_where_none_is_wanted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    a = CapturingChannel()
    bench.script.since_ms = NOW_MS - 9 * HOUR_MS
    for options in ({"repeat_after_ms": 4 * HOUR_MS, "quiet": NIGHT}, {"repeat_after_ms": 0}):
        bench.live(a, **options)
        bench.settle()
        assert bench.waiting() == []
    bench.live(a, repeat_after_ms=4 * HOUR_MS, quiet=NIGHT)
    bench.clock.ms += 2 * HOUR_MS
    bench.until(lambda: keys(a) == [f"still {NOW_MS - 9 * HOUR_MS} 2"])


# --- words that fail, figures, last words ----------------------------------------------------------------------------


def test_words_that_fail_neither_stop_the_writer_nor_swallow_the_alert(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    a = CapturingChannel()
    bench.live(a, repeat_after_ms=1)
    bench.script.fails = True
    bench.say()
    bench.until(lambda: keys(a) == ["poor"])
    assert "no words were found" in caplog.text
    assert "no reminders were made" in caplog.text


def test_figures_tell_how_many_wait_and_how_long_the_oldest_has(bench: Bench) -> None:
    a = CapturingChannel(*[LATER] * 10_000)
    outbox = bench.live(a, CapturingChannel())
    bench.say(alert("1"), alert("2"))
    bench.until(lambda: a.tried and len(bench.waiting()) == 2)
    bench.clock.ms += 90_000
    figures = outbox.figures()
    assert (figures["a"].waiting, figures["a"].oldest_s, figures["a"].dead) == (2, 90.0, 0)
    assert (figures["b"].waiting, figures["b"].oldest_s) == (0, 0.0)
    listed = outbox.listed()
    assert [one["key"] for one in listed["waiting"]] == ["1", "2"]
    assert listed["waiting"][0]["last_error"] == "not now"
    assert listed["channels"][0]["last_error"] == "not now"


def test_what_quiet_hours_hold_back_is_not_counted_as_waiting(bench: Bench) -> None:
    """Else the night would look like a channel that does not answer."""
    a = CapturingChannel()
    outbox = bench.live(a, quiet=Quiet(22 * 60, 7 * 60, UTC))  # It is 05:05.
    bench.say(alert("resumed", kind="resumed", urgent=False))
    bench.until(lambda: len(outbox.listed()["waiting"]) == 1)
    bench.clock.ms += HOUR_MS
    figures = outbox.figures()["a"]
    assert (figures.waiting, figures.held, figures.oldest_s) == (0, 1, 0.0)
    assert (outbox.listed()["channels"][0]["waiting"], outbox.listed()["channels"][0]["held"]) == (0, 1)
    bench.clock.ms += HOUR_MS
    assert (outbox.figures()["a"].waiting, outbox.figures()["a"].held) == (1, 0)
    assert a.tried == []


def test_an_alert_survives_the_store_as_it_was() -> None:
    one = alert("1", evidence=["Müßig 漢字 🙂"], sides=["long"], shadow=True)
    row = msgspec.json.decode(msgspec.json.encode(Row(channel="a", alert=one)), type=Row)
    assert row.alert == one


def test_last_words_go_to_every_channel_at_once_without_a_store(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    good, flaky, bad = CapturingChannel(), CapturingChannel(LATER), CapturingChannel(NEVER, NEVER)
    threads = shout([Way(n, "test", c, 1.0) for n, c in (("g", good), ("f", flaky), ("b", bad))], alert("1"))
    for thread in threads:
        thread.join(5)
    assert (keys(good), keys(flaky), keys(bad)) == (["1"], ["1"], [])
    assert (len(flaky.tried), len(bad.tried)) == (2, 1)
    assert "alert channel b: refused" in caplog.text


def test_rows_that_cannot_be_read_are_told_of_by_other_means(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(limit: int = 100) -> Any:
        raise CorruptionError("message 1 does not match its checksum")

    said: list[str] = []
    monkeypatch.setattr(bench.store, "messages", damaged)
    bench.live(CapturingChannel(), on_failure=said.append)
    bench.until(lambda: said)
    assert said == ["message 1 does not match its checksum"]
