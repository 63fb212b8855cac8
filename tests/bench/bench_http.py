"""What the HTTP door costs: CPU time of the server, beside a bare server of the same run.

    python tests/bench/bench_http.py [--seconds 1.5] [--rounds 7] [--only get,post,split,push,hostile,start]

Three servers, each a process of its own on core 0, with the same uvicorn, uvloop, httptools and options: *bare* (a raw
ASGI function that answers "ok", and decodes a body with msgspec where there is one), *ours* (`regime serve` with its
store on disk; keys, ETag and metrics on, detectors off) and *door* (ours without queue, store and engine: what is
handed in is receipted at once). The load comes from this process on core 1, so many requests in flight at any time.

CPU time is that of the whole server process, the writer's thread included. The servers take turns; printed is the
median of the rounds' ratios. Microseconds change with the machine and its other work, ratios hardly.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import queue
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from regime import codec
from regime.config import EngineConfig
from regime.engine import Engine
from regime.events import AnyEvent, Observation, StreamKey
from regime.fleet import Fleet
from regime_service.board import Board
from regime_service.http.api import create_app
from regime_service.http.connections import Patience, PatientServer, protocol
from regime_service.keys import AccessScope, KeyRing, create
from regime_service.ports import Health, Ports, Receipt
from regime_service.settings import from_toml
from regime_service.stores import group, offer
from regime_service.stores.opening import open_store

FEATURES = 200
STREAMS = 64
"""Requests go round so many streams, so that none overtakes another of its own stream and comes late."""
BATCH = 100
TS_MS = 1_700_000_000_000 // 300_000 * 300_000
CONFIG = """
clock = "event"
warmup_observations = 1
detectors = []
[server]
requests_per_s = 1000000
requests_burst = 1000000
connections_max = 2000
push_key_max = 1000
"""
ONE, MANY, BACKLOG = "POST one", f"POST {BATCH}", f"POST {BATCH} of one stream"
TARGETS = {"GET": 1.25, "304": 1.25, ONE: 2.2, MANY: 1.15, BACKLOG: 1.15}


# --- the servers ----------------------------------------------------------------------------------------------------


class Row(msgspec.Struct):
    """What the bare server makes of a candle: no constraints, no checks."""

    model: str
    symbol: str
    timeframe: str
    ts_ms: int
    features: dict[str, float | None]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    body = b"ok"
    if scope["method"] == "POST":
        chunks = []
        while True:
            message = await receive()
            chunks.append(message["body"])
            if not message["more_body"]:
                break
        rows = _ROWS.decode(b"".join(chunks))
        body = b'{"accepted":%d}' % (len(rows) if isinstance(rows, list) else 1)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_ROWS = msgspec.json.Decoder(Row | list[Row])


def door(keys: Path) -> Any:
    """The application with nothing behind it: every event is receipted at once with an answer that stands."""
    config = EngineConfig(clock="event", detectors=[], warmup_observations=1)
    board = Board()

    async def ingest(events: list[AnyEvent], **_: Any) -> Receipt:
        touched = dict.fromkeys(StreamKey(e.model, e.symbol, e.timeframe) for e in events)  # type: ignore[union-attr]
        missing = [key for key in touched if key not in board.now.decisions]
        if missing:
            board.post([_first(config, key) for key in missing])
        decisions = board.now.decisions
        return Receipt(len(events), 0, 0, 0, tuple(touched), tuple(decisions[key] for key in touched))

    ports = Ports(
        config=config, board=board, ingest=ingest, epoch=lambda: "01K94RZZZZZZZZZZZZZZZZZZZZ",
        decisions=lambda *_: [], explain=lambda _: {}, outcomes=lambda _: {}, has_model=lambda _: True, overrides=dict,
        now_ms=lambda: int(time.time() * 1000), event_now_ms=lambda _: 0, metrics=lambda: b"",
        health=lambda: Health(True, "", 0, 1024), fault=lambda: None, hosts=frozenset({"127.0.0.1"}),
        keys=KeyRing(keys), requests_per_s=1e6, requests_burst=1_000_000,
    )  # fmt: skip
    return create_app(ports, lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]


def _first(config: EngineConfig, key: StreamKey) -> Any:
    event = msgspec.structs.replace(codec.parse(one(0), Observation)[0], symbol=key.symbol)
    return Engine(key, config, lambda _: 1 / 0).step(event).decision  # type: ignore[arg-type,return-value]


def serve(kind: str, keys: Path) -> None:
    """Run one of our servers in this process, announcing its port; the options are those of `regime serve`."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app: Any = bare if kind == "bare" else door(keys)
    http: Any = "httptools" if kind == "bare" else protocol(Patience(connections_max=2000), at_once=app.at_once)
    config = uvicorn.Config(
        app, http=http, ws="none", log_config=None, log_level="error", access_log=False, lifespan="off",
        server_header=False, date_header=False, timeout_keep_alive=75,
    )  # fmt: skip
    server = uvicorn.Server(config) if kind == "bare" else PatientServer(config)
    print(f"answers at http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    uvloop.run(server.serve(sockets=[sock]))


class Server:
    """A server in a process of its own, pinned to core 0; ended by its own id."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.began_s = time.monotonic()
        self.process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=folder)
        os.sched_setaffinity(self.process.pid, {0})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"{arguments} did not start: {line}")
        self.started_s = time.monotonic() - self.began_s
        host, _, port = line.split("http://")[1].strip().rpartition(":")
        self.address = (host, int(port))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self, of: str = "VmRSS") -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(of + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no such process")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@contextlib.contextmanager
def ours(folder: Path, scope: AccessScope = "ingest", config: str = CONFIG) -> Iterator[tuple[Server, bytes]]:
    (folder / "config.toml").write_text(config)
    _, token = create(folder / "store.keys.json", name="bench", scopes=[scope])
    server = Server(
        ["-m", "regime_service.cli", "serve", "--config", "config.toml", "--store", "store.db", "--port", "0"], folder
    )
    try:
        yield server, token.encode()
    finally:
        server.stop()


@contextlib.contextmanager
def other(kind: str, folder: Path) -> Iterator[Server]:
    server = Server([__file__, "--serve", kind, "--keys", str(folder / "store.keys.json")], folder)
    try:
        yield server
    finally:
        server.stop()


# --- the load -------------------------------------------------------------------------------------------------------

_FEATURES = b",".join(b'"feature_%03d":%.8f' % (i, (i * 0.6180339887) % 2 - 1) for i in range(FEATURES))
_NUMBER = iter(range(1, 10**12))
_BACKLOGS = iter(range(10**12))


def one(number: int) -> bytes:
    """The body of a candle; each number is another one."""
    lap, stream = divmod(number, STREAMS)
    return candle(b"S%d" % stream, lap)


def candle(symbol: bytes, lap: int) -> bytes:
    return b'{"model":"m","symbol":"%b","timeframe":"5m","ts_ms":%d,"features":{%b}}' % (
        symbol, TS_MS + lap * 300_000, _FEATURES,
    )  # fmt: skip


def backlog(size: int) -> bytes:
    """So many candles of one stream, as a bot sends them that was cut off; each call is of another stream."""
    lap, stream = divmod(next(_BACKLOGS), STREAMS)
    return b"[" + b",".join(candle(b"C%d" % stream, lap * size + i) for i in range(size)) + b"]"


def get(token: bytes, *headers: bytes) -> Callable[[], bytes]:
    request = b"\r\n".join(
        [b"GET /v1/thresholds?model=m&symbol=S0&timeframe=5m HTTP/1.1", b"Host: 127.0.0.1", *_bearer(token), *headers]
    )
    return lambda: request + b"\r\n\r\n"


def post(token: bytes, size: int, *, of_one: bool = False) -> Callable[[], bytes]:
    head = b"\r\n".join([b"POST /v1/observations HTTP/1.1", b"Host: 127.0.0.1", *_bearer(token)])

    def make() -> bytes:
        if of_one:
            body = backlog(size)
        else:
            numbers = [next(_NUMBER) for _ in range(size)]
            body = one(numbers[0]) if size == 1 else b"[" + b",".join(map(one, numbers)) + b"]"
        return head + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    return make


def _bearer(token: bytes) -> list[bytes]:
    return [b"Authorization: Bearer " + token]


class Asking(asyncio.Protocol):
    """One connection with one request in flight, until it is told to stop."""

    def __init__(self, make: Callable[[], bytes], wanted: bytes, until_s: float) -> None:
        self._make, self._wanted, self._until_s = make, wanted, until_s
        self._buffer = b""
        self.answered = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._make())

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            self._buffer = data
            return
        if not head.startswith(self._wanted):
            self._finish(RuntimeError(data[:600].decode("latin-1")))
            return
        at = head.lower().find(b"content-length: ")
        if at >= 0 and len(body) < int(head[at + 16 :].partition(b"\r\n")[0]):
            self._buffer = data
            return
        self._buffer = b""
        self.answered += 1
        if time.monotonic() < self._until_s:
            self._transport.write(self._make())
        else:
            self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(RuntimeError(f"the connection was lost: {exc}"))

    def _finish(self, error: Exception | None) -> None:
        if not self.done.done():
            _ = self.done.set_exception(error) if error is not None else self.done.set_result(None)
        self._transport.close()


async def load(
    server: Server, make: Callable[[], bytes], *, seconds: float, in_flight: int, wanted: bytes = b"HTTP/1.1 200"
) -> tuple[float, int]:
    """Return (CPU seconds of the server per request, requests)."""
    loop = asyncio.get_running_loop()
    before_s, until_s = server.cpu_s(), time.monotonic() + seconds
    asking = [
        (await loop.create_connection(lambda: Asking(make, wanted, until_s), *server.address))[1]
        for _ in range(in_flight)
    ]
    await asyncio.gather(*(one.done for one in asking))
    count = sum(one.answered for one in asking)
    return (server.cpu_s() - before_s) / count, count


def compare(
    title: str, chosen: argparse.Namespace, sides: list[tuple[str, Server, Callable[[], bytes], bytes]], in_flight: int
) -> None:
    """Let the sides take turns; print each one's CPU per request and its ratio to the first."""
    costs: dict[str, list[float]] = {name: [] for name, *_ in sides}
    for turn in range(chosen.rounds + 1):
        for name, server, make, wanted in sides:
            cost, _ = uvloop.run(load(server, make, seconds=chosen.seconds, in_flight=in_flight, wanted=wanted))
            if turn:  # The first round is for what is loaded once.
                costs[name].append(cost)
    base = sides[0][0]
    for name in list(costs)[1:]:
        ratios = [a / b for a, b in zip(costs[name], costs[base], strict=True)]
        target = TARGETS.get(title) if name == "ours" else None
        print(
            f"{title:10} {name:6} {statistics.median(costs[name]) * 1e6:8.1f} us  {base} "
            f"{statistics.median(costs[base]) * 1e6:8.1f} us  ratio {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f} .. {max(ratios):.2f})" + (f"  target {target}" if target else ""),
            flush=True,
        )


def compare_gets(chosen: argparse.Namespace, folder: Path) -> None:
    with ours(folder) as (served, token), other("bare", folder) as floor:
        first = uvloop.run(load(served, post(token, STREAMS), seconds=0.0, in_flight=1))
        assert first[1] == 1
        etag = asyncio.run(_etag(served, token))
        ok = b"HTTP/1.1 200"
        compare("GET", chosen, [("hello", floor, get(token), ok), ("ours", served, get(token), ok)], 32)
        same = get(token, b"If-None-Match: " + etag)
        compare("304", chosen, [("hello", floor, same, ok), ("ours", served, same, b"HTTP/1.1 304")], 32)


async def _etag(server: Server, token: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(get(token)())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return next(line[6:] for line in head.split(b"\r\n") if line.lower().startswith(b"etag: "))


def compare_posts(chosen: argparse.Namespace, folder: Path) -> None:
    with ours(folder) as (served, token), other("bare", folder) as floor, other("door", folder) as empty:
        ok = b"HTTP/1.1 200"
        for title, size, in_flight in ((ONE, 1, 32), (MANY, BATCH, 8), (BACKLOG, BATCH, 8)):
            make = post(token, size, of_one=title == BACKLOG)
            compare(
                title, chosen, [("bare", floor, make, ok), ("door", empty, make, ok), ("ours", served, make, ok)],
                in_flight,
            )  # fmt: skip


def split_a_post(chosen: argparse.Namespace, _folder: Path) -> None:
    """Where the time of a candle goes behind the door, in this process: medians of short loops."""
    with tempfile.TemporaryDirectory() as folder:
        mapping = tomllib.loads(CONFIG) | {"store": {"file": str(Path(folder) / "split.db")}}
        config = from_toml(mapping, source="bench").engine
        store = open_store(str(Path(folder) / "split.db"))
        fleet = Fleet(config, lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
        laps = chosen.rounds * 300
        events = [codec.parse(one(next(_NUMBER)), Observation)[0] for _ in range(laps)]
        raws = [codec.encode(event) for event in events]
        row = msgspec.json.Decoder(Row)
        bodies = [one(i) for i in range(laps)]

        async def hop() -> None:
            """The way into a thread and back, as the runner goes it."""
            waiting: queue.SimpleQueue[Future[None] | None] = queue.SimpleQueue()

            def answer() -> None:
                while (future := waiting.get()) is not None:
                    future.set_result(None)

            thread = threading.Thread(target=answer)
            thread.start()

            async def ask() -> None:
                future: Future[None] = Future()
                waiting.put(future)
                await asyncio.wrap_future(future)

            for _ in range(laps // 32):
                await asyncio.gather(*(ask() for _ in range(32)))
            waiting.put(None)
            thread.join()

        def write() -> None:
            for at in range(0, laps, 32):
                with group(store):
                    for event, raw in zip(events[at : at + 32], raws[at : at + 32], strict=True):
                        offer(store, event, raw, 0)

        for name, work in (
            ("bare decode", lambda: [row.decode(body) for body in bodies]),
            ("our parse and check", lambda: [codec.parse(body, Observation) for body in bodies]),
            ("into a thread and back", lambda: uvloop.run(hop())),
            ("encode for the log", lambda: [codec.encode(event) for event in events]),
            ("store, groups of 32", write),
            ("engine", lambda: [fleet.step(event) for event in events]),
        ):
            begun_s = time.process_time()
            work()
            print(f"of a POST: {name:24} {(time.process_time() - begun_s) / laps * 1e6:8.1f} us", flush=True)
        store.close()


# --- server push ----------------------------------------------------------------------------------------------------

READERS, UPDATES, PAUSE_S = 200, 6, 2.0
Arrived = Callable[[int], None]


class Streaming(asyncio.Protocol):
    """A reader of the event stream."""

    def __init__(self, token: bytes, arrived: Arrived) -> None:
        self._token, self._arrived, self._buffer = token, arrived, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        lines = [b"GET /v1/stream?model=m&symbol=S0 HTTP/1.1", b"Host: 127.0.0.1", *_bearer(self._token), b"", b""]
        transport.write(b"\r\n".join(lines))

    def data_received(self, data: bytes) -> None:
        *events, self._buffer = (self._buffer + data).split(b"\n\n")
        for event in events:
            if b"event: thresholds" in event:
                self._arrived(_version(event))


class Polling(asyncio.Protocol):
    """A bot that asks once a second, with the ETag of what it holds."""

    def __init__(self, token: bytes, arrived: Arrived) -> None:
        self._token, self._arrived, self._buffer, self._etag = token, arrived, b"", b"x"
        self._began_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        asyncio.get_running_loop().call_later(random.random(), self._ask)

    def _ask(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(get(self._token, b"If-None-Match: " + self._etag)())
            asyncio.get_running_loop().call_later(1.0, self._ask)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        at = head.find(b"content-length: ")
        if not found or (at >= 0 and len(body) < int(head[at + 16 :].partition(b"\r\n")[0])):
            return
        self._buffer = b""
        if b" 200 " in head[:16]:
            at = head.find(b"etag: ")
            self._etag = head[at + 6 :].partition(b"\r\n")[0]
            self._arrived(_version(body))


def _version(text: bytes) -> int:
    return int(text.partition(b'"version":')[2].partition(b",")[0])


def compare_push(chosen: argparse.Namespace, folder: Path) -> None:
    """Readers of the event stream beside bots that ask once a second; changes come every other second."""
    with ours(folder, "admin") as (served, token):
        uvloop.run(load(served, post(token, STREAMS), seconds=0.0, in_flight=1))
        found: dict[str, list[tuple[float, float]]] = {"pushed": [], "polled": []}
        for _ in range(max(1, chosen.rounds // 3)):
            for name, kind in (("pushed", Streaming), ("polled", Polling)):
                found[name].append(uvloop.run(deliver(served, token, kind)))
        medians = {
            name: [statistics.median(figures) for figures in zip(*runs, strict=True)] for name, runs in found.items()
        }
        for name, (latency_s, cost_s) in medians.items():
            print(f"{name}: median latency {latency_s * 1e3:.1f} ms, CPU {cost_s * 1e6:.1f} us a delivery")
        (pushed_s, push_cost), (polled_s, poll_cost) = medians["pushed"], medians["polled"]
        print(f"push to poll: latency {pushed_s / polled_s:.3f}, CPU {push_cost / poll_cost:.2f}", flush=True)


async def deliver(server: Server, token: bytes, kind: Callable[[bytes, Arrived], Any]) -> tuple[float, float]:
    """Return (median latency, CPU seconds of the server per delivery), both with what the change itself costs."""
    loop = asyncio.get_running_loop()
    changed_s: dict[int, float] = {}
    latencies: list[float] = []

    def arrived(version: int) -> None:
        if version in changed_s:
            latencies.append(time.monotonic() - changed_s[version])

    made = [(await loop.create_connection(lambda: kind(token, arrived), *server.address))[1] for _ in range(READERS)]
    await asyncio.sleep(2.0)
    before_s = server.cpu_s()
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(get(token)())
    version = _version(await _answer(reader))
    name = b"o%d" % next(_NUMBER)
    for number in range(UPDATES):
        changed_s[version + 1] = time.monotonic()
        version = await _change(reader, writer, token, name, lift=number % 2 == 1)
        name = b"o%d" % next(_NUMBER) if number % 2 == 1 else name
        await asyncio.sleep(PAUSE_S)
    cost_s = (server.cpu_s() - before_s) / max(1, len(latencies))
    writer.close()
    for one in made:
        one.transport.close()
    assert len(latencies) == READERS * UPDATES, f"{len(latencies)} of {READERS * UPDATES} came"
    return statistics.median(latencies), cost_s


async def _change(reader: Any, writer: Any, token: bytes, name: bytes, *, lift: bool) -> int:
    """Set or lift an override; return the version that stands then."""
    head = b"Host: 127.0.0.1\r\nAuthorization: Bearer " + token
    if lift:
        writer.write(b"DELETE /v1/overrides/%b HTTP/1.1\r\n%b\r\n\r\n" % (name, head))
    else:
        body = b'{"model":"m","symbol":"S0","state":"HALTED","actor":"b","reason":"r","id":"%b"}' % name
        request = b"POST /v1/overrides HTTP/1.1\r\n%b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(request % (head, len(body)) + body)
    await _answer(reader)
    writer.write(get(token)())
    return _version(await _answer(reader))


async def _answer(reader: Any) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    body: bytes = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(body.decode())
    return body


# --- hostile clients ------------------------------------------------------------------------------------------------

HOSTILE, BODY_BYTES, ATTACK_S = 200, 8 * 1024 * 1024, 10.0


def bear_hostile_clients(_chosen: argparse.Namespace, folder: Path) -> None:
    """A third of them hold half a header, a third half of a large body, a third send one that is wrong at its end."""
    with ours(folder) as (served, token):
        uvloop.run(load(served, post(token, STREAMS), seconds=1.0, in_flight=8))
        before = served.rss_bytes()
        Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")  # The peak counts from here.
        answered = uvloop.run(attack(served, token))
        extra = (served.rss_bytes("VmHWM") - before) / 2**20
        print(
            f"{HOSTILE} hostile clients: {extra:.1f} MiB more at the peak (of {before / 2**20:.0f} MiB)  target 64\n"
            f"a bot beside them: {len(answered)} answers, median {statistics.median(answered) * 1e3:.1f} ms, "
            f"slowest {max(answered) * 1e3:.0f} ms",
            flush=True,
        )


async def attack(server: Server, token: bytes) -> list[float]:
    """Return how long a bot waited for each of its answers meanwhile."""
    rows = one(0)
    large = b"[" + b",".join([rows] * (BODY_BYTES // (len(rows) + 1) - 1)) + b',{"model":NaN}]'
    head = b"POST /v1/observations HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + token
    full = head + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(large)
    statuses: list[bytes] = []
    turns = asyncio.Semaphore(2)

    async def told(parts: list[bytes]) -> None:
        """Send these, and wait for what is said to it."""
        reader, writer = await asyncio.open_connection(*server.address)
        with contextlib.suppress(OSError):
            writer.write(b"".join(parts))
            statuses.append((await reader.read(65536))[9:12])
        writer.close()
        await asyncio.sleep(0.5)

    async def hostile(number: int) -> None:
        if number % 3 == 1:
            await asyncio.sleep(ATTACK_S / 2)  # Else they would take the room from those that send it all.
        while True:
            if number % 3 == 0:
                await told([head[:60]])
            elif number % 3 == 1:
                await told([full, large[: len(large) // 2]])
            else:
                async with turns:  # More at once would take each other's room, too.
                    await told([full, large])

    tasks = [asyncio.create_task(hostile(i)) for i in range(HOSTILE)]
    waited_s: list[float] = []
    until_s = time.monotonic() + ATTACK_S
    reader, writer = await asyncio.open_connection(*server.address)
    while time.monotonic() < until_s:
        begun_s = time.monotonic()
        writer.write(get(token)())
        await _answer(reader)
        waited_s.append(time.monotonic() - begun_s)
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print("what they were told:", {status.decode(): statuses.count(status) for status in sorted(set(statuses))})
    return waited_s


def time_the_start(chosen: argparse.Namespace, folder: Path) -> None:
    """From the command to the line that says it answers; default settings, and libraries that the disk holds ready."""
    found = []
    for _ in range(max(3, chosen.rounds // 2)):
        with ours(folder, config="") as (served, _token):
            found.append((served.started_s, served.cpu_s()))
    walls, costs = zip(*found, strict=True)
    spread = f"({min(walls):.2f} .. {max(walls):.2f})"
    print(f"start: {statistics.median(walls):.2f} s to the first answer {spread}  target 1.5")
    print(f"start: {statistics.median(costs):.2f} s of CPU")


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "get": compare_gets, "post": compare_posts, "split": split_a_post, "push": compare_push,
    "hostile": bear_hostile_clients, "start": time_the_start,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(PARTS), help="which parts, with commas")
    parser.add_argument("--serve", choices=("bare", "door"), help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.keys)
        return
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    print(f"uvicorn {importlib.metadata.version('uvicorn')}, {FEATURES} features, {os.cpu_count()} cores")
    for part in chosen.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](chosen, Path(folder))


if __name__ == "__main__":
    main()
