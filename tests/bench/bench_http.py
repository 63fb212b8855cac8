"""What the HTTP door costs: CPU time of the server, beside a bare server of the same run.

    python tests/bench/bench_http.py [--seconds 1.5] [--rounds 7] [--only get,post,parts,push,hostile,start]

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
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from regime.config import EngineConfig
from regime.engine import Engine
from regime.events import AnyEvent, StreamKey
from regime_service.board import Board
from regime_service.http.api import create_app
from regime_service.http.connections import Patience, PatientServer, protocol
from regime_service.keys import KeyRing, create
from regime_service.ports import Health, Ports, Receipt

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
"""
TARGETS = {"GET": 1.25, "304": 1.25, "POST one": 2.2, f"POST {BATCH}": 1.15}


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
        decisions=lambda *_: [], explain=lambda _: {}, has_model=lambda _: True, overrides=dict,
        now_ms=lambda: int(time.time() * 1000), event_now_ms=lambda _: 0, metrics=lambda: b"",
        health=lambda: Health(True, "", 0, 1024), fault=lambda: None, hosts=frozenset({"127.0.0.1"}),
        keys=KeyRing(keys), requests_per_s=1e6, requests_burst=1_000_000,
    )  # fmt: skip
    return create_app(ports, lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]


def _first(config: EngineConfig, key: StreamKey) -> Any:
    event = msgspec.json.decode(one(0), type=_observation())
    event = msgspec.structs.replace(event, model=key.model, symbol=key.symbol, timeframe=key.timeframe)
    return Engine(key, config, lambda _: 1 / 0).step(event).decision  # type: ignore[arg-type,return-value]


def _observation() -> Any:
    from regime.events import Observation

    return Observation


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
def ours(folder: Path) -> Iterator[tuple[Server, bytes]]:
    (folder / "config.toml").write_text(CONFIG)
    _, token = create(folder / "store.keys.json", name="bench", scopes=["ingest"])
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


def one(number: int) -> bytes:
    """The body of a candle; each number is another one."""
    lap, stream = divmod(number, STREAMS)
    return b'{"model":"m","symbol":"S%d","timeframe":"5m","ts_ms":%d,"features":{%b}}' % (
        stream, TS_MS + lap * 300_000, _FEATURES,
    )  # fmt: skip


def get(token: bytes, *headers: bytes) -> Callable[[], bytes]:
    request = b"\r\n".join(
        [b"GET /v1/thresholds?model=m&symbol=S0&timeframe=5m HTTP/1.1", b"Host: 127.0.0.1", *_bearer(token), *headers]
    )
    return lambda: request + b"\r\n\r\n"


def post(token: bytes, size: int) -> Callable[[], bytes]:
    head = b"\r\n".join([b"POST /v1/observations HTTP/1.1", b"Host: 127.0.0.1", *_bearer(token)])

    def make() -> bytes:
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
        for title, size, in_flight in (("POST one", 1, 32), (f"POST {BATCH}", BATCH, 8)):
            make = post(token, size)
            compare(
                title, chosen, [("bare", floor, make, ok), ("door", empty, make, ok), ("ours", served, make, ok)],
                in_flight,
            )  # fmt: skip


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {"get": compare_gets, "post": compare_posts}


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
