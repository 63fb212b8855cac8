"""What is knocked at: the whole service but for its socket, asked in process, and a reader of its store.

The application is asked as a server would ask it (an ASGI scope, messages in chunks, a peer that hangs up), on one
event loop. Nothing here knows how the door is built: `Service.http()` is all that is used of it.

The store is the shipped one, with every `fsync`; callers may put its folder on a RAM disk, where that costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from unittest import mock
from urllib.parse import unquote

from regime import codec
from regime.calibration import Calibration
from regime.events import AnyEvent, Tick
from regime.fleet import Fleet
from regime.reference import Reference
from regime.replay import step_with_ticks
from regime_service import app as app_module
from regime_service import keys
from regime_service.apart import _result, read
from regime_service.app import Service
from regime_service.settings import Settings, from_toml
from regime_service.stores.sqlite import SqliteStore
from regime_service.testing import HandClock

CANDLE_MS = 300_000
START_MS = 1_800_000_000_000 // CANDLE_MS * CANDLE_MS
HOST = (b"host", b"127.0.0.1:8080")
JSON, NDJSON, CSV = b"application/json", b"application/x-ndjson", b"text/csv"

App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Asked(NamedTuple):
    """One request, as it would stand on the wire. `hangs_up`: the peer is gone before the last chunk."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = (HOST,)
    chunks: tuple[bytes, ...] = (b"",)
    hangs_up: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


class Answer(NamedTuple):
    """What came back; `status` 0: nothing did, for the peer had hung up."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(app: App, asked: Asked) -> Answer:
    """Ask the application; an exception that it lets out is the caller's to see."""
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": asked.method, "path": unquote(asked.path), "raw_path": asked.path.encode("utf-8", "replace"),
        "query_string": asked.query, "root_path": "", "scheme": "http", "headers": list(asked.headers),
        "client": ("127.0.0.1", 40000), "server": ("127.0.0.1", 8080), "state": {},
    }  # fmt: skip
    coming = iter(asked.chunks)
    left = len(asked.chunks)
    status, headers, body = 0, {}, []

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0 or (left == 0 and asked.hangs_up):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": next(coming), "more_body": left > 0}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.lower(): value for name, value in message.get("headers", ())}
        else:
            body.append(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, headers, b"".join(body))


def post(path: str, body: Any, *headers: tuple[bytes, bytes], query: bytes = b"") -> Asked:
    """Return a well-formed POST of one JSON value."""
    raw = json.dumps(body).encode()
    return Asked("POST", path, query, (HOST, (b"content-type", JSON), *headers), (raw,))


def read_here(file: IO[bytes], content_type: str, **limits: Any) -> Reference:
    """Read an uploaded reference as the process apart would, in this one: a process each would be a second each."""
    if content_type == "application/vnd.apache.parquet":
        return _APART(file, content_type, **limits)  # Compiled code on crafted bytes: never here.
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(file.read())
        copy.flush()
        said = read(Path(copy.name), content_type)
    return _result(said[:1], said[1:], 0, 2048)


_APART = app_module.reference_apart


class Target:
    """A service with a clock that is wound by hand, its application, and a reader of what it has stored.

    Parameters
    ----------
    folder
        For the store; a second `Target` in the same folder goes on from it.
    settings
        As in a configuration file, without the store's place.
    locked
        Whether there are keys: then `token` is the text of one that may do everything.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, locked: bool = False) -> None:
        self.folder, self.locked = folder, locked
        self.file = folder / "store.db"
        self.settings: Settings = from_toml(
            {**settings, "store": {"file": str(self.file), **settings.get("store", {})}}, source="fuzz"
        )
        self.token = ""
        if locked:
            _, self.token = keys.create(self.settings.keys_path(), name="fuzz", scopes=["admin"])
        self.clock = HandClock(START_MS)
        self.start()

    def start(self) -> None:
        self.service = Service(self.settings, clock=self.clock)
        self.service.start()
        # A machine that is busy with other work for ten seconds is not what is looked for here (`make faults` does).
        self._patch = mock.patch.multiple(app_module, reference_apart=read_here, STUCK_S=600.0, LOOK_S=120.0)
        self._patch.start()
        self.app: App = self.service.http()
        self.log = SqliteStore(self.file, read_only=True)

    def stop(self) -> None:
        self._patch.stop()
        self.log.close()
        self.service.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def key_header(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"authorization", b"Bearer " + self.token.encode()),) if self.locked else ()

    async def ask(self, asked: Asked) -> Answer:
        return await ask(self.app, asked)

    async def get(self, path: str, query: bytes = b"") -> Answer:
        return await self.ask(Asked("GET", path, query, (HOST, *self.key_header)))

    async def post(self, path: str, body: Any, query: bytes = b"") -> Answer:
        return await self.ask(post(path, body, *self.key_header, query=query))

    # --- what the log says ---

    def last_seq(self) -> int:
        return self.log.last_seq()

    def since(self, seq: int) -> list[AnyEvent]:
        """Return the events of the log after number `seq`, Ticks left out: time is nobody's request."""
        return [event for event in self.all_since(seq) if not isinstance(event, Tick)]

    def all_since(self, seq: int) -> list[AnyEvent]:
        return [codec.decode(raw) for _, raw in self.log.events(seq)]

    def fleet(self) -> Fleet:
        """Return engines that have seen nothing yet, with the references and limits of this store."""

        def reference(known: str) -> Reference:
            return Reference.from_bytes(self.log.reference(known))

        def calibration(known: str) -> Calibration:
            return Calibration.from_json(self.log.reference(known).decode())

        return Fleet(self.settings.engine, reference, calibration)

    def replayed(self) -> Fleet:
        """Return engines that have seen the whole log, which holds its Ticks."""
        fleet = self.fleet()
        for event in self.all_since(0):
            fleet.step(event)
        return fleet

    def verify(self) -> int:
        """Read the whole store back; return the number of events. Raises `CorruptionError`."""
        events = 0
        for checked in self.log.verify():
            events = max(events, checked.rows) if checked.table == "events" else events
        return events


def feed(fleet: Fleet, event: AnyEvent, *, now_ms: int) -> None:
    """Feed an event to engines of our own as the runner does: what time makes due first, then the event, then again."""
    _pass(fleet, now_ms)
    for _ in step_with_ticks(event, fleet):
        pass
    _pass(fleet, now_ms)


def _pass(fleet: Fleet, now_ms: int) -> None:
    while fleet._config.clock == "wall" and (tick := fleet.next_tick(now_ms)) is not None:
        fleet.step(tick)


__all__ = [
    "CANDLE_MS", "CSV", "HOST", "JSON", "NDJSON", "START_MS", "Answer", "Asked", "Target", "ask", "feed", "post",
]  # fmt: skip


def run(work: Awaitable[Any]) -> Any:
    """Run on an event loop of the kind the service has."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)  # type: ignore[arg-type]
