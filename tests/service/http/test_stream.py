"""Server push: what a reader gets, in which order, what renews a lease, and how a stream ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from regime_service.http import stream
from regime_service.keys import KeyRing, create, revoke
from regime_service.ports import Health

A, B, C = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"


class Event(NamedTuple):
    name: str
    id: str
    data: dict[str, Any]


class Reader:
    """One reader of the app, without a server: what was sent, and whether it takes more."""

    def __init__(self, service: Any, query: str = "", **headers: str) -> None:
        self.status, self.headers, self.ended = 0, dict[str, str](), False
        self.text = ""
        self.takes = asyncio.Event()
        self.takes.set()
        self.on_text: Callable[[str], Any] | None = None
        self._gone = asyncio.Event()
        self._service = service
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/v1/stream",
            "query_string": query.encode(), "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
            "headers": [
                (b"host", b"localhost"), *((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())
            ],
        }  # fmt: skip
        self.task = asyncio.create_task(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message["body"].decode()
            if self.on_text is not None:
                await self.on_text(message["body"].decode())
            self.ended = not message.get("more_body", False)

    async def hang_up(self) -> None:
        self._gone.set()
        await self.task

    @property
    def events(self) -> list[Event]:
        return list(parsed(self.text))

    @property
    def pushed(self) -> list[tuple[str, int]]:
        return [(e.data["symbol"], e.data["version"]) for e in self.events if e.name == "thresholds"]

    async def until(self, what: Callable[[Reader], Any]) -> Reader:
        for _ in range(2000):
            if what(self):
                return self
            await asyncio.sleep(0.005)
        raise AssertionError(f"it never came to that: {self.text}")

    async def leased(self, times: int = 1) -> Reader:
        return await self.until(lambda r: sum(e.name == "lease" for e in r.events) >= times)


def parsed(text: str) -> Iterator[Event]:
    """Events as a client reads them; anything that is no event stream fails."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    for block in blocks:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))


async def observe(service: Any, symbol: str = A, candle: int = 0, **changes: Any) -> dict[str, Any]:
    """Post an observation and return the answer of its stream."""
    response = await service._ask(
        "POST", "/v1/observations", json=service.observation(candle, symbol=symbol, **changes)
    )
    assert response.status_code == 200, response.text
    return dict(response.json()["thresholds"][0])


async def override(service: Any, **changes: Any) -> str:
    body = {"model": "m", "state": "HALTED", "actor": "ana", "reason": "r", **changes}
    response = await service._ask("POST", "/v1/overrides", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.01)


@pytest.fixture
def two(make_service: Callable[..., Any]) -> Any:
    """A service with two streams."""
    service = make_service()
    service.warm(symbol=A)
    service.warm(symbol=B)
    return service


def run(service: Any, story: Callable[[], Any]) -> None:
    service._runner.run(asyncio.wait_for(story(), 60))


def test_what_stands_comes_first_then_a_lease_then_every_change(two: Any) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        assert reader.status == 200
        assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reader.headers["cache-control"] == "no-store"
        first = reader.events
        assert [e.name for e in first] == ["thresholds", "thresholds", "lease"]
        assert (first[2].data["streams"], first[2].data["valid_for_ms"], first[2].data["epoch"]) == (
            2,
            60_000,
            two.epoch,
        )
        await override(two, symbol=A)
        reader = await reader.until(lambda r: len(r.pushed) == 3)
        last = reader.events[-1].data
        assert (last["symbol"], last["sides"]["long"]["state"]) == (A, "HALTED")
        assert last["version"] > first[0].data["version"]
        await reader.hang_up()

    run(two, story)


def test_a_pushed_answer_is_that_of_a_poll_and_as_documented(two: Any) -> None:
    async def story() -> None:
        reader = await Reader(two, "symbol=" + A).leased()
        polled = await two._ask("GET", "/v1/thresholds", params={"model": "m", "symbol": A, "timeframe": "5m"})
        thresholds, lease = reader.events
        assert {k: v for k, v in thresholds.data.items() if k != "elapsed_ms"} == polled.json()["thresholds"][0]
        schemas = two.document["paths"]["/v1/stream"]["get"]["responses"]["200"]["content"]["text/event-stream"][
            "schema"
        ]
        two.app.leave()
        await reader.task
        for event in reader.events:
            assert event.name in schemas["properties"]["event"]["enum"]
            assert not list(two.checker.faults(event.data, schemas["properties"]["data"]["contentSchema"])), event
        assert [e.name for e in reader.events] == ["thresholds", "lease", "closing"]
        assert lease.data["streams"] == 1

    run(two, story)


def test_what_changes_nothing_a_bot_acts_on_is_not_pushed(two: Any) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        before = two.board.now.decisions
        two.now_ms += 300_000
        await observe(two, A, 1)
        assert two.board.now.decisions != before, "the answer was judged anew, and says so in as_of_ms"
        await asyncio.sleep(0.05)
        assert len(reader.pushed) == 2
        await reader.hang_up()

    run(two, story)


@pytest.mark.parametrize(
    ("query", "symbols"),
    [("", [A, B]), ("model=m", [A, B]), ("model=x", []), (f"symbol={B}", [B]), (f"symbol={A},{C},{B}", [A, B]),
     ("timeframe=5m", [A, B]), ("timeframe=1h", []), (f"model=m&symbol={A}&timeframe=5m", [A])],
)  # fmt: skip
def test_a_filter_takes_what_it_names_and_one_that_matches_none_waits(two: Any, query: str, symbols: list[str]) -> None:
    async def story() -> None:
        reader = await Reader(two, query).leased()
        assert [symbol for symbol, _ in reader.pushed] == symbols
        assert reader.events[-1].data["streams"] == len(symbols)
        await observe(two, C)
        await asyncio.sleep(0.05)
        wants = query in ("", "model=m", "timeframe=5m") or C in query
        assert [symbol for symbol, _ in reader.pushed] == symbols + [C] * wants
        await reader.hang_up()

    run(two, story)


@pytest.mark.parametrize(
    ("query", "status"), [("symbol=", 422), ("symbol=,", 422), ("model=%ff", 400), ("model=", 422)]
)
def test_a_filter_that_cannot_be_read_is_refused(two: Any, query: str, status: int) -> None:
    async def story() -> None:
        reader = Reader(two, query)
        await reader.task
        assert reader.status == status

    run(two, story)


def test_who_comes_back_gets_what_changed_meanwhile_and_nothing_else(two: Any) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        seen = reader.events[-1].id
        await reader.hang_up()
        again = await Reader(two, last_event_id=seen).leased()
        assert again.pushed == []
        await again.hang_up()
        await override(two, symbol=B)
        await override(two, symbol=B, state="REDUCING", id="two")
        back = await Reader(two, last_event_id=seen).leased()
        assert [symbol for symbol, _ in back.pushed] == [B], "the newest of it, once"
        await back.hang_up()

    run(two, story)


def test_the_cursor_of_each_event_claims_no_more_than_was_sent_up_to_it(two: Any) -> None:
    async def story() -> None:
        first, second, lease = (await Reader(two).leased()).events
        for seen, missing in ((first, [second]), (second, []), (lease, [])):
            back = await Reader(two, last_event_id=seen.id).leased()
            assert back.pushed == [(e.data["symbol"], e.data["version"]) for e in missing]
            await back.hang_up()

    run(two, story)


@pytest.mark.parametrize(
    "cursor", ["", "x", "0", "00000000.00000000.1", "{home}.99999999", "{home}.-1", "{home}.", "{home}.1x", "1" * 9000,
               "{other}", "\xff", "{home}.1, {home}.1"],
)  # fmt: skip
def test_a_cursor_that_is_not_ours_brings_everything(two: Any, cursor: str) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        home = reader.events[-1].id.rpartition(".")[0]
        other = await Reader(two, "symbol=" + A).leased()
        text = cursor.replace("{home}", home).replace("{other}", other.events[-1].id)
        back = await Reader(two, last_event_id=text).leased()
        assert len(back.pushed) == 2
        for one in (reader, other, back):
            await one.hang_up()

    run(two, story)


def test_a_service_that_was_restarted_knows_no_cursor_of_its_former_life(make_service: Callable[..., Any]) -> None:
    ids = []
    for _ in range(2):
        service = make_service()
        service.warm(symbol=A)

        async def story(service: Any = service) -> None:
            reader = await Reader(service, **({"last_event_id": ids[0]} if ids else {})).leased()
            ids.append(reader.events[-1].id)
            assert len(reader.pushed) == 1
            await reader.hang_up()

        run(service, story)


def test_another_epoch_is_pushed_for_every_stream(two: Any) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        two.epoch = "01K94S00000000000000000000"
        await observe(two, A, 0)
        await reader.until(lambda r: len(r.pushed) == 4)
        assert {e.data["epoch"] for e in reader.events[-2:]} == {two.epoch}
        await reader.hang_up()

    run(two, story)


def test_a_slow_reader_gets_the_newest_and_never_what_was_overtaken(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1)

    async def story() -> None:
        reader = await Reader(two).leased()
        reader.takes.clear()
        ids = [await override(two, symbol=A, id=f"o{i}", state="REDUCING", reason=f"r{i}") for i in range(20)]
        await override(two, symbol=B)
        await asyncio.sleep(0.05)
        assert len(reader.pushed) == 2
        reader.takes.set()
        await reader.until(lambda r: any(s == B for s, _ in r.pushed[2:]))
        late = [e for e in reader.events if e.name == "thresholds"][2:]
        assert 2 <= len(late) <= 4, "what was under way when it stopped, and the newest of each"
        assert late[-2].data["version"] == two.board.now.decisions[next(iter(two.fleet))].version
        numbers = [int(e.id.rpartition(".")[2]) for e in reader.events]
        assert numbers == sorted(numbers)
        assert len(ids) == 20
        await reader.hang_up()

    run(two, story)


def test_no_lease_renews_what_was_overtaken(two: Any, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases as often as can be, changes from beside the loop: after a POST's reply none may come before its answer."""
    monkeypatch.setattr(stream, "LEASE_S", 0.0)

    async def story() -> None:
        reader = await Reader(two).leased(3)
        for i in range(30):
            answer = await override_answer(two, f"o{i}")
            # From now on every lease must follow the newest version.
            said = len(reader.events)
            await reader.until(lambda r, said=said: sum(e.name == "lease" for e in r.events[said:]) >= 2)
            events = reader.events
            newest = max(i for i, e in enumerate(events) if e.name == "thresholds")
            assert events[newest].data["version"] == answer
            assert all(e.name == "thresholds" for e in events[said : newest + 1])
        await reader.hang_up()

    async def override_answer(service: Any, name: str) -> int:
        await override(service, symbol=A, id=name, reason=name, state="REDUCING")
        return int(service.board.now.decisions[next(iter(service.fleet))].version)

    run(two, story)


def test_the_board_is_looked_at_before_a_lease_even_if_nobody_was_woken(
    two: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer posts, and the lease is due before the loop has come round to what the writer said."""
    monkeypatch.setattr(stream, "LEASE_S", 0.0)

    async def story() -> None:
        reader = await Reader(two).leased()
        two.app._push._loop = None
        said = len(reader.events)
        await override(two, symbol=A)
        await reader.until(lambda r: len(r.pushed) == 3)
        await reader.leased(5)
        version = two.board.now.decisions[next(iter(two.fleet))].version
        after = reader.events[said:]
        at = next(i for i, e in enumerate(after) if e.name == "thresholds")
        assert after[at].data["version"] == version
        assert at <= 1, "a lease renewed what had been overtaken before it"
        await reader.hang_up()

    run(two, story)


def test_what_changes_while_a_batch_is_under_way_is_sent_once(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1)

    async def story() -> None:
        reader = Reader(two)

        async def change(text: str) -> None:
            if f'"symbol":"{A}"' in text:
                reader.on_text = None
                await override(two, symbol=B)
                two.app._push.look()

        reader.on_text = change
        await reader.leased()
        newest = {d.symbol: d.version for d in two.board.now.decisions.values()}
        assert reader.pushed == [(A, newest[A]), (B, newest[B])]
        await reader.hang_up()

    run(two, story)


def test_a_lease_is_as_short_as_the_shortest_word_of_an_operator(two: Any) -> None:
    async def story() -> None:
        await override(two, symbol=A, state="ACTIVE", until_ms=two.now_ms + 20_000)
        reader = await Reader(two).leased()
        by_symbol = {e.data["symbol"]: e.data["valid_for_ms"] for e in reader.events if e.name == "thresholds"}
        assert by_symbol == {A: 20_000, B: 60_000}
        assert reader.events[-1].data["valid_for_ms"] == 20_000
        other = await Reader(two, "symbol=" + B).leased()
        assert other.events[-1].data["valid_for_ms"] == 60_000
        for one in (reader, other):
            await one.hang_up()

    run(two, story)


def test_a_silent_line_beats_and_its_age_is_told_by_our_monotonic_clock(
    two: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        now_s = 1000.0
        two.app._push.clock = lambda: now_s
        reader = await Reader(two).leased()
        assert {e.data["elapsed_ms"] for e in reader.events} == {0}
        now_s += stream.BEAT_S
        await reader.until(lambda r: r.text.endswith(":\n\n"))
        now_s += stream.LEASE_S - stream.BEAT_S
        await reader.leased(2)
        assert reader.events[-1].data["elapsed_ms"] == 1000 * stream.LEASE_S
        await reader.hang_up()

    run(two, story)


def test_when_the_service_cannot_answer_the_stream_says_why_and_ends(two: Any, quick: None) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        two.health = Health(ready=False, reason="The disk is full", queue_depth=0, queue_max=10)
        await override_quietly(two)
        await reader.task
        assert reader.events[-1] == Event("closing", "", {"status": 503, "reason": "The disk is full"})
        assert reader.ended
        assert len(reader.pushed) == 2, "what changed meanwhile cannot be kept up, so it is not told"
        refused = Reader(two)
        await refused.task
        assert refused.status == 503

    async def override_quietly(service: Any) -> None:
        service.now_ms += 10_000_000
        service.tick()

    run(two, story)


def test_a_health_that_cannot_be_told_closes_the_stream_too(make_service: Callable[..., Any], quick: None) -> None:
    broken = False

    def fault() -> str | None:
        if broken:
            raise OSError("gone")
        return None

    service = make_service(ports={"fault": fault})

    async def story() -> None:
        nonlocal broken
        reader = await Reader(service).leased()
        broken = True
        await reader.task
        assert reader.events[-1].name == "closing"

    run(service, story)


def test_when_the_server_stops_every_stream_is_told_and_none_is_opened(two: Any) -> None:
    async def story() -> None:
        readers = [await Reader(two).leased() for _ in range(3)]
        two.app.leave()
        for reader in readers:
            await reader.task
            assert reader.events[-1].data == {"status": 503, "reason": "the service is stopping"}
        late = Reader(two)
        await late.task
        assert late.status == 503

    run(two, story)


def test_a_revoked_key_ends_its_streams_and_no_others(
    make_service: Callable[..., Any], tmp_path: Path, quick: None
) -> None:
    path = tmp_path / "s.keys.json"
    (one, first), (_, second) = (create(path, name=n, scopes=["read"]) for n in "ab")
    now_s = 0.0
    service = make_service(ports={"keys": KeyRing(path, clock=lambda: now_s), "push_key_max": 2})

    async def story() -> None:
        nonlocal now_s
        readers = [await Reader(service, authorization=f"Bearer {t}").leased() for t in (first, first, second)]
        full = Reader(service, authorization=f"Bearer {first}")
        await full.task
        assert (full.status, full.headers["retry-after"]) == (429, "5")
        nobody = Reader(service)
        await nobody.task
        assert nobody.status == 401
        revoke(path, one.id)
        now_s += 10
        for reader in readers[:2]:
            await reader.task
            assert reader.events[-1].data["status"] == 401
            assert one.id in reader.events[-1].data["reason"]
        await asyncio.sleep(0.05)
        assert not readers[2].ended
        await readers[2].hang_up()

    run(service, story)


def test_the_first_key_ends_streams_that_were_opened_without_one(
    make_service: Callable[..., Any], tmp_path: Path, quick: None
) -> None:
    path = tmp_path / "s.keys.json"
    now_s = 0.0
    service = make_service(ports={"keys": KeyRing(path, clock=lambda: now_s)})

    async def story() -> None:
        nonlocal now_s
        reader = await Reader(service).leased()
        create(path, name="a", scopes=["read"])
        now_s += 10
        await reader.task
        assert reader.events[-1].data["status"] == 401

    run(service, story)


def test_a_damaged_keys_file_ends_every_stream(make_service: Callable[..., Any], tmp_path: Path, quick: None) -> None:
    path = tmp_path / "s.keys.json"
    _, token = create(path, name="a", scopes=["read"])
    now_s = 0.0
    service = make_service(ports={"keys": KeyRing(path, clock=lambda: now_s)})

    async def story() -> None:
        nonlocal now_s
        reader = await Reader(service, authorization=f"Bearer {token}").leased()
        path.write_text("nonsense")
        now_s += 10
        await reader.task
        assert "damaged" in reader.events[-1].data["reason"]

    run(service, story)


def test_so_many_streams_and_no_more(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"push_max": 2})

    async def story() -> None:
        readers = [await Reader(service).leased() for _ in range(2)]
        third = Reader(service)
        await third.task
        assert third.status == 503
        await readers[0].hang_up()
        again = await Reader(service).leased()
        for reader in (readers[1], again):
            await reader.hang_up()
        assert not service.app._push._readers
        assert service.app._push._ticker is None

    run(service, story)


def test_whoever_hangs_up_while_it_is_being_sent_to_leaves_nothing_behind(two: Any) -> None:
    async def story() -> None:
        reader = await Reader(two).leased()
        reader.takes.clear()
        await override(two, symbol=A)
        await asyncio.sleep(0.02)
        reader._gone.set()
        await asyncio.sleep(0.02)
        reader.takes.set()
        await reader.task
        assert not two.app._push._readers
        await override(two, symbol=B)  # Nobody is there to be told, and nothing breaks.

    run(two, story)
