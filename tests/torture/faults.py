"""The matrix of faults: what is done to a running service, and what it comes to.

    python tests/torture/faults.py        runs every case and prints the table of docs/measurements/reliability.md

A case has a service of its own: the whole of it but for the socket (store, writer thread, engine, HTTP application), a
wall clock that is wound by hand, and a file system underneath SQLite that fails on demand. Two streams are brought to
ACTIVE, then something breaks. From that moment on the thresholds are polled, and within a second they must be what the
case says:

* `paused`: both sides of the stream that is hit are REDUCING, with the reason named; where it says so, the other
  stream stays ACTIVE;
* `503`: no threshold is given any more, with a reason; `ends` says that the process was told to end with exit code 1;
* `refused`: nothing changed, the sender was told; the stream is as good as its data, and is paused when those are old;
* `does not start`: exit code 2 with a sentence, nothing is answered;
* `goes on`: nothing that a bot relies on is hurt, the answers are right.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import apsw
import httpx

from regime.errors import OperatorError, RegimeError
from regime.events import StreamKey
from regime.rules.engine_error import EngineError
from regime_service.app import Service
from regime_service.clock import GuardedClock
from regime_service.settings import from_toml
from regime_service.stores.sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parent))

import faults_plugins

CANDLE_MS = 300_000
NOW_MS = 1_800_000_000_000 // CANDLE_MS * CANDLE_MS
LIMIT_S = 1.0
HIT, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
KEY = StreamKey("m", HIT, "5m")


class Disk:
    """What goes wrong from now on: (call, end of the file's name) -> the error, or what to do instead."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], type[Exception] | Callable[[], object]] = {}

    def happen(self, call: str, name: str) -> None:
        ending = next((e for e in ("-wal", "-shm", "-journal") if name.endswith(e)), "db")
        fault = self.faults.get((call, ending))
        if isinstance(fault, type):
            raise fault("simulated")
        if fault is not None:
            fault()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, usual: str, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__(usual, name, flags)

    def xSync(self, flags: int) -> None:
        self._disk.happen("sync", self._name)
        super().xSync(flags)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.happen("write", self._name)
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.happen("read", self._name)
        return super().xRead(amount, offset)


class _Files(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk, self._usual = disk, apsw.vfs_names()[0]
        super().__init__("faults", self._usual, maxpathname=0)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _File(self._disk, self._usual, name, flags)


@contextlib.contextmanager
def failing_disk() -> Iterator[Disk]:
    """Put a disk that fails on demand under every SQLite connection."""
    disk, usual = Disk(), apsw.vfs_names()[0]
    files = _Files(disk)
    apsw.set_default_vfs("faults")
    try:
        yield disk
    finally:
        apsw.set_default_vfs(usual)
        files.unregister()


class Clock:
    """The machine's two clocks, wound by hand."""

    def __init__(self) -> None:
        self.wall_s = self.monotonic_s = NOW_MS / 1000
        self.boot()

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def boot(self) -> None:
        """The machine starts again: what the guard knew is gone."""
        self._guarded = GuardedClock(lambda: self.wall_s, lambda: self.monotonic_s)

    def now_ms(self) -> int:
        return self._guarded.now_ms()

    def not_before(self, ms: int) -> None:
        self._guarded.not_before(ms)

    def behind(self) -> str | None:
        return self._guarded.behind()


class Verdict(NamedTuple):
    """What is told of a stream: `state` ("503" where nothing is told), reason codes or the reason in words."""

    state: str
    reasons: tuple[str, ...]


class Bench:
    """A service with two streams that trade, ready to be broken."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder, self.disk, self.clock = folder, disk, Clock()
        self.settings = from_toml(
            {
                "warmup_observations": 5,
                "detectors": [{"kind": "faults_plugins.Brittle"}], "rules": [{"kind": "faults_plugins.Grumpy"}],
                "store": {"file": str(folder / "store.db"), "snapshot_every": 1000}, "server": {"queue_max": 4},
            },
            source="faults",
        )  # fmt: skip
        self.ended: list[str] = []
        self.client: httpx.AsyncClient | None = None
        self.at_end: Callable[[], None] = lambda: None
        self.waiting: asyncio.Task[httpx.Response] | None = None
        self.at = 0

    def start(self) -> None:
        self.client = None  # what was stopped answers no more
        self.service = Service(self.settings, clock=self.clock)
        self.service.on_failure = self.ended.append
        self.service.start()
        transport = httpx.ASGITransport(self.service.http())
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def asked(self) -> httpx.AsyncClient:
        assert self.client is not None
        return self.client

    async def ready(self) -> None:
        """Bring both streams to ACTIVE."""
        self.start()
        sample = "a,b\n" + "".join(f"{i % 7},{i % 5}\n" for i in range(300))
        put = await self.asked().put("/v1/models/m/references/v1", content=sample, headers={"Content-Type": "text/csv"})
        assert put.status_code == 200, put.text
        for _ in range(6):
            assert (await self.candle()).status_code == 200
        for symbol in (HIT, OTHER):
            assert (await self.verdict(symbol)).state == "ACTIVE", await self.verdict(symbol)

    async def candle(self, symbols: tuple[str, ...] = (HIT, OTHER), **changes: Any) -> httpx.Response:
        """A new candle closes, and its observation is sent."""
        self.at += 1
        self.clock.pass_s(CANDLE_MS / 1000)
        return await self.send([self.observation(symbol, **changes) for symbol in symbols])

    def observation(self, symbol: str = HIT, **changes: Any) -> dict[str, Any]:
        return {
            "model": "m", "symbol": symbol, "timeframe": "5m", "ts_ms": NOW_MS + (self.at - 1) * CANDLE_MS,
            "features": {"a": self.at % 7, "b": self.at % 5}, **changes,
        }  # fmt: skip

    async def send(self, body: Any) -> httpx.Response:
        if isinstance(body, bytes):
            return await self.asked().post(
                "/v1/observations", content=body, headers={"Content-Type": "application/json"}
            )
        return await self.asked().post("/v1/observations", json=body)

    async def trade(self, profit_ratio: float) -> httpx.Response:
        now = NOW_MS + self.at * CANDLE_MS
        return await self.asked().post(
            "/v1/trades",
            json={
                "model": "m", "symbol": HIT, "timeframe": "5m", "trade_id": str(self.at), "side": "long",
                "opened_ms": now - CANDLE_MS, "closed_ms": now, "entry_price": 1.0, "exit_price": 1.0,
                "profit_ratio": profit_ratio,
            },
        )  # fmt: skip

    async def verdict(self, symbol: str = HIT) -> Verdict:
        if self.client is None:
            return Verdict("silence", ())
        told = await self.client.get("/v1/thresholds", params={"model": "m", "symbol": symbol, "timeframe": "5m"})
        if told.status_code != 200:
            return Verdict(str(told.status_code), (told.json()["detail"],))
        sides = told.json()["thresholds"][0]["sides"]
        states = {side["state"] for side in sides.values()}
        codes = {reason["code"] for side in sides.values() for reason in side["reasons"]}
        # The least cautious side counts.
        return Verdict("ACTIVE" if "ACTIVE" in states else states.pop(), tuple(sorted(codes)))

    def stop(self) -> None:
        self.disk.faults.clear()
        with contextlib.suppress(RegimeError):
            self.service.stop()


Break = Callable[[Bench], Awaitable[None]]


class Case(NamedTuple):
    """One fault: its name, what must come of it ("paused", "503", "503 ends", "refused", "goes on"), the reason's code
    or a word of it, and how it is made. `others` says whether the other stream must stay ACTIVE."""

    name: str
    outcome: str
    reason: str
    make: Break
    others: bool = False
    restarts: bool = False


CASES: list[Case] = []


def case(name: str, outcome: str, reason: str, **more: Any) -> Callable[[Break], Break]:
    def add(make: Break) -> Break:
        CASES.append(Case(name, outcome, reason, make, **more))
        return make

    return add


# --- the store ---


async def _idle(bench: Bench) -> None:
    """Wait until the writer has done all that came before, the checkpoint after its last answers, too."""
    while bench.service.runner._doing is not None:
        await asyncio.sleep(0.005)


def _write_fault(call: str, ending: str, error: type[Exception]) -> Break:
    async def make(bench: Bench) -> None:
        assert isinstance(bench.service._store, SqliteStore)
        if ending == "db":
            await _idle(bench)
            bench.service._store._checkpoint_at = 0  # after the next commit the WAL is moved into the file
        bench.disk.faults[call, ending] = error
        # An event is answered before the WAL is moved: it is durable, and was judged.
        assert (await bench.candle()).status_code == (200 if ending == "db" else 503)

    return make


for _name, _call, _ending, _error, _words in (
    ("disk full while an event is written", "write", "-wal", apsw.FullError, "the disk is full"),
    ("I/O error while an event is written", "write", "-wal", apsw.IOError, "the disk reports an error"),
    ("fsync of the log fails", "sync", "-wal", apsw.IOError, "the disk reports an error"),
    ("file system becomes read-only", "write", "-wal", apsw.ReadOnlyError, "it is read-only"),
    ("disk full in a checkpoint", "write", "db", apsw.FullError, "the disk is full"),
    ("I/O error in a checkpoint", "write", "db", apsw.IOError, "the disk reports an error"),
    ("fsync of the file fails in a checkpoint", "sync", "db", apsw.IOError, "the disk reports an error"),
):
    case(_name, "503 ends", _words)(_write_fault(_call, _ending, _error))


@case("disk full when only time passes (a Tick)", "503 ends", "the disk is full")
async def _(bench: Bench) -> None:
    bench.disk.faults["write", "-wal"] = apsw.FullError
    bench.clock.pass_s(4 * CANDLE_MS / 1000)


@case("I/O error while a decision is read from the file", "refused", "")
async def _(bench: Bench) -> None:
    bench.service._store._reader.pragma("cache_size", 0)
    bench.disk.faults["read", "db"] = bench.disk.faults["read", "-wal"] = apsw.IOError
    asked = await bench.asked().get("/v1/decisions", params={"model": "m", "symbol": HIT, "timeframe": "5m"})
    assert (asked.status_code, "cannot be read" in asked.text) == (503, True), asked.text
    bench.disk.faults.clear()


@case("disk hangs in fsync", "503", "the disk hangs")
async def _(bench: Bench) -> None:
    released = threading.Event()
    bench.at_end = released.set
    bench.disk.faults["sync", "-wal"] = lambda: released.wait(20)
    # Not awaited: it is answered when the disk is.
    bench.waiting = asyncio.create_task(bench.candle())
    await asyncio.sleep(0.05)


@case("disk hangs in a checkpoint, after the answer", "503", "the disk hangs")
async def _(bench: Bench) -> None:
    released = threading.Event()
    bench.at_end = released.set
    await _idle(bench)
    bench.service._store._checkpoint_at = 0
    bench.disk.faults["sync", "db"] = lambda: released.wait(20)
    assert (await bench.candle()).status_code == 200


@case("disk is slow (0.2 s an fsync)", "goes on", "")
async def _(bench: Bench) -> None:
    bench.disk.faults["sync", "-wal"] = lambda: time.sleep(0.2)
    for _ in range(2):
        assert (await bench.candle()).status_code == 200


@case("disk is full at the start", "503", "the disk is full", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    bench.disk.faults["write", "-wal"] = apsw.FullError
    bench.start()


@case("folder cannot be written at the start", "503", "cannot be opened", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    with mock.patch("os.open", side_effect=PermissionError(13, "Permission denied")):
        bench.start()


@case("an event of the log is damaged at the start", "503", "event 3 does not match", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    _edit(bench, "DELETE FROM snapshots; UPDATE events SET recorded_ms = 8 WHERE seq = 3")
    bench.start()


@case("an event of the log is missing at the start", "503", "event 3 is missing", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    _edit(bench, "DELETE FROM snapshots; DELETE FROM events WHERE seq = 3")
    bench.start()


@case("the reference in force is damaged at the start", "503", "reference", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    _edit(bench, "UPDATE reference_samples SET body = x'00'")
    bench.start()


@case("the snapshot is damaged at the start", "goes on", "", restarts=True)
async def _(bench: Bench) -> None:
    digest = bench.service.digest()
    bench.service.stop()
    _edit(bench, "UPDATE snapshots SET body = x'00'")
    bench.start()
    assert bench.service.digest() == digest, "the log was replayed instead"


@case("the file was written by a newer version", "does not start", "", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    _edit(bench, "PRAGMA user_version = 99")
    try:
        bench.start()
    except OperatorError as error:
        assert "newer regimegate" in str(error)
    else:
        raise AssertionError("it was opened")


@case("a second service on the same file", "goes on", "")
async def _(bench: Bench) -> None:
    try:
        Service(bench.settings, clock=bench.clock).start()
    except OperatorError as error:
        assert "in use by another process" in str(error)
    else:
        raise AssertionError("two services write one file")
    assert (await bench.candle()).status_code == 200


@case("the disk is almost full", "goes on", "")
async def _(bench: Bench) -> None:
    with mock.patch("regime_service.retention.FREE_BYTES_MIN", 2**60):
        assert "the disk is short" in bench.service.look_after_store()[0]


# --- the writer ---


@case("an exception in the writer thread", "503 ends", "MemoryError")
async def _(bench: Bench) -> None:
    bench.service.runner._due = mock.Mock(side_effect=MemoryError())  # type: ignore[method-assign]
    assert (await bench.candle()).status_code == 503


@case("the writer thread is killed", "503 ends", "SystemExit")
async def _(bench: Bench) -> None:
    bench.service.runner._due = mock.Mock(side_effect=SystemExit())  # type: ignore[method-assign]


@case("the writer thread is gone without a word", "503", "the writer thread died")
async def _(bench: Bench) -> None:
    runner = bench.service.runner
    gone = threading.Thread(target=lambda: None)
    gone.start()
    gone.join()
    alive = runner._thread

    def end() -> None:
        runner._thread = alive

    bench.at_end = end
    runner._thread = gone
    assert bench.service.writer_failed() is not None, "what makes `regime serve` end itself"


@case("the queue is full", "goes on", "")
async def _(bench: Bench) -> None:
    with bench.service.runner.lock:  # the writer waits, as for a slow disk
        bench.at += 1
        bench.clock.pass_s(CANDLE_MS / 1000)
        waiting = []
        for symbol in [HIT, OTHER, *(f"S{i}" for i in range(20))]:
            waiting.append(asyncio.create_task(bench.send(bench.observation(symbol))))
            await asyncio.sleep(0.01)
        refused = [task.result() for task in waiting if task.done()]
        assert refused and all(answer.status_code == 503 and "queue" in answer.text for answer in refused)
        assert all("retry-after" in answer.headers for answer in refused)
    for task in waiting:
        assert (await task).status_code in (200, 503)


# --- time ---


@case("input stops", "paused", "stale")
async def _(bench: Bench) -> None:
    bench.clock.pass_s(3 * CANDLE_MS / 1000)


@case("input of one stream stops", "paused", "stale", others=True)
async def _(bench: Bench) -> None:
    for _ in range(3):
        await bench.candle((OTHER,))


@case("clock jumps 1 h ahead", "paused", "stale")
async def _(bench: Bench) -> None:
    bench.clock.wall_s += 3600


@case("clock jumps 1 h back, and input stops", "paused", "stale")
async def _(bench: Bench) -> None:
    bench.clock.wall_s -= 3600
    bench.clock.pass_s(3 * CANDLE_MS / 1000)


@case("clock jumps 1 h back, and input goes on", "goes on", "")
async def _(bench: Bench) -> None:
    bench.clock.wall_s -= 3600
    assert (await bench.candle()).status_code == 200


def _comes_back_in_the_past(bench: Bench) -> None:
    bench.service.stop()
    bench.clock.wall_s -= 3600
    bench.clock.boot()
    bench.start()


@case("the machine comes back with its clock 1 h in the past", "503", "the clock is wrong", restarts=True)
async def _(bench: Bench) -> None:
    _comes_back_in_the_past(bench)


@case("the clock that stood in the past is set right, and input has stopped", "paused", "stale", restarts=True)
async def _(bench: Bench) -> None:
    _comes_back_in_the_past(bench)
    bench.clock.pass_s(4 * CANDLE_MS / 1000)
    bench.clock.wall_s += 3600


@case("the service was down for a day", "paused", "stale", restarts=True)
async def _(bench: Bench) -> None:
    bench.service.stop()
    bench.clock.pass_s(86_400)
    bench.start()


@case("old data comes late", "paused", "stale")
async def _(bench: Bench) -> None:
    bench.clock.pass_s(10 * CANDLE_MS / 1000)
    bench.at += 1
    assert (await bench.send([bench.observation()])).status_code == 200


@case("an observation from the future", "refused", "")
async def _(bench: Bench) -> None:
    sent = await bench.send(bench.observation(ts_ms=bench.clock.now_ms() + 3_600_000))
    assert (sent.status_code, "in the future" in sent.text) == (422, True)


@case("seconds for milliseconds", "refused", "")
async def _(bench: Bench) -> None:
    sent = await bench.send(bench.observation(ts_ms=NOW_MS // 1000))
    assert (sent.status_code, "seconds" in sent.text) == (422, True)


# --- the data ---


@case("a feature has no value", "paused", "non-finite", others=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    await bench.send(bench.observation(features={"a": None, "b": 1}))


@case("NaN in the body, and nothing else comes", "refused", "")
async def _(bench: Bench) -> None:
    raw = b'{"model":"m","symbol":"BTC/USDT:USDT","timeframe":"5m","ts_ms":1,"features":{"a":NaN,"b":1}}'
    sent = await bench.send(raw)
    assert (sent.status_code, "finite" in sent.text) == (422, True)


@case("a feature is missing", "paused", "schema-change", others=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    await bench.send(bench.observation(features={"a": 1}))


@case("a feature nobody knows", "paused", "schema-change", others=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    await bench.send(bench.observation(features={"a": 1, "b": 1, "c": 1}))


@case("a feature is renamed", "paused", "schema-change", others=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    await bench.send(bench.observation(features={"a": 1, "B": 1}))


@case("the same candle with another content", "refused", "")
async def _(bench: Bench) -> None:
    sent = await bench.send(bench.observation(features={"a": 99, "b": 99}))
    assert sent.status_code == 409


@case("half a body", "refused", "")
async def _(bench: Bench) -> None:
    assert (await bench.send(b'[{"model":"m","symb')).status_code == 400


@case("the detector raises (poison event)", "paused", "engine-error", others=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    sent = await bench.send(bench.observation(features={"a": 1e6, "b": 1}))
    assert sent.status_code == 200, "it was accepted: the log holds it"
    assert bench.service.runner.dead_letters == 1


@case("the detector has no memory", "paused", "engine-error", others=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    await bench.send(bench.observation(features={"a": 2e6, "b": 1}))


@case("a rule raises", "paused", "engine-error", others=True)
async def _(bench: Bench) -> None:
    assert (await bench.trade(-0.5)).status_code == 200
    assert bench.service.runner.dead_letters == 1


@case("a poison event, and a restart", "paused", "engine-error", others=True, restarts=True)
async def _(bench: Bench) -> None:
    await bench.candle((OTHER,))
    await bench.send(bench.observation(features={"a": 1e6, "b": 1}))
    bench.service.stop()
    bench.start()
    assert bench.service.runner.dead_letters == 1


@case("the detector hangs", "503", "judging one event")
async def _(bench: Bench) -> None:
    bench.at_end = faults_plugins.HANGING.set
    faults_plugins.HANGING.clear()
    bench.at += 1
    bench.clock.pass_s(CANDLE_MS / 1000)
    bench.waiting = asyncio.create_task(bench.send([bench.observation(features={"a": 77, "b": 1})]))
    await asyncio.sleep(0.05)


@case("an error that cannot even be voted", "503 ends", "RuntimeError")
async def _(bench: Bench) -> None:
    with mock.patch.object(EngineError, "judge", side_effect=RuntimeError("no rule left")):
        assert (await bench.send(bench.observation(ts_ms=NOW_MS + bench.at * CANDLE_MS - 1))).status_code == 503


@case("an error that cannot even be voted, and a restart", "503", "of the log cannot be judged", restarts=True)
async def _(bench: Bench) -> None:
    await bench.send(bench.observation(ts_ms=NOW_MS + bench.at * CANDLE_MS - 1, features={"a": 1e6, "b": 1}))
    bench.service.stop()
    _edit(bench, "DELETE FROM snapshots")
    with mock.patch.object(EngineError, "judge", side_effect=RuntimeError("no rule left")):
        bench.start()


async def _died_while_starting(bench: Bench, crash: str, starts: int, sql: str = "") -> None:
    """Start after so many starts that were ended by what is in the store; in a process of its own each would be."""
    bench.service.stop()
    _edit(bench, f"INSERT OR REPLACE INTO meta VALUES ('unfinished_starts', '{starts}'); {sql}")
    with mock.patch.dict("os.environ", {faults_plugins.CRASH: crash}):
        bench.start()


@case("an event that kills the process in every start", "503", "ends this program (signal 11", restarts=True)
async def _(bench: Bench) -> None:
    await bench.candle(features={"a": 3, "b": 3})
    await _died_while_starting(bench, "event", 2, "DELETE FROM snapshots")


@case("a snapshot that kills the process in every start", "goes on", "", restarts=True)
async def _(bench: Bench) -> None:
    digest = bench.service.digest()
    await _died_while_starting(bench, "snapshot", 2)
    assert bench.service.digest() == digest, "the log was replayed instead"


@case("two starts that were killed from outside", "goes on", "", restarts=True)
async def _(bench: Bench) -> None:
    await _died_while_starting(bench, "", 2)


@case("start after start ends before an event is judged", "503", "ended before a single event", restarts=True)
async def _(bench: Bench) -> None:
    await _died_while_starting(bench, "", 8)


def _edit(bench: Bench, sql: str) -> None:
    connection = apsw.Connection(str(bench.folder / "store.db"))
    connection.execute(sql)
    connection.close()


# --- running them ---


class Result(NamedTuple):
    """What a case came to; `after_s` is the time from the fault to the first safe answer."""

    outcome: str
    reasons: tuple[str, ...]
    after_s: float
    fault: str
    """What is wrong with that; empty if nothing."""


async def run(one: Case, folder: Path) -> Result:
    """Break a service of its own in `folder` and hold what is told against what must be told."""
    with failing_disk() as disk:
        bench = Bench(folder, disk)
        try:
            await bench.ready()
            return await _judge(one, bench)
        finally:
            bench.at_end()
            if bench.waiting is not None:
                await bench.waiting
            bench.stop()


async def _judge(one: Case, bench: Bench) -> Result:
    wanted_state = {"paused": "REDUCING", "503": "503", "503 ends": "503", "does not start": "silence"}.get(
        one.outcome, "ACTIVE"
    )
    began = time.monotonic()
    await one.make(bench)
    if one.outcome == "refused":
        # Nothing changed; and what nothing new comes for is paused as ever.
        before = await bench.verdict()
        if before != Verdict("ACTIVE", ()):
            return Result(before.state, before.reasons, 0.0, "a refused request changed something")
        bench.clock.pass_s(3 * CANDLE_MS / 1000)
        wanted_state, began = "REDUCING", time.monotonic()
    made = time.monotonic()
    while True:
        told = await bench.verdict()
        after_s = time.monotonic() - (made if one.restarts else began)
        if told.state == wanted_state or time.monotonic() - made > 5 * LIMIT_S:
            break
        await asyncio.sleep(0.002)
    fault = ""
    if told.state != wanted_state:
        fault = f"{told.state} instead of {wanted_state}"
    elif one.reason and not any(one.reason in reason for reason in told.reasons):
        fault = f"{one.reason!r} is not said: {told.reasons}"
    elif wanted_state != "ACTIVE" and after_s > LIMIT_S:
        fault = f"only after {after_s:.2f} s"
    elif one.others and (other := await bench.verdict(OTHER)).state != "ACTIVE":
        fault = f"the other stream is {other}"
    if one.outcome == "503 ends":
        while not bench.ended and time.monotonic() - made < 5 * LIMIT_S:
            await asyncio.sleep(0.002)
    if bool(bench.ended) != (one.outcome == "503 ends"):
        fault = fault or ("it was told to end" if bench.ended else "it was not told to end")
    if one.outcome == "503 ends" and (await bench.candle()).status_code != 503:
        fault = fault or "an event was taken afterwards"
    return Result(told.state, told.reasons, after_s, fault)


def main() -> int:
    bad = 0
    print("| fault | comes to | said | after |")
    print("| --- | --- | --- | --- |")
    cases = list(CASES)
    random.Random(1).shuffle(cases)  # no case leans on the one before it
    found = {}
    for one in cases:
        with tempfile.TemporaryDirectory() as folder:
            found[one.name] = asyncio.run(run(one, Path(folder)))
    for one in CASES:
        result = found[one.name]
        bad += bool(result.fault)
        said = "; ".join(reason.replace("\n", " ") for reason in result.reasons)
        if result.outcome == "503":
            said = one.reason
        if one.outcome == "refused":
            said = f"the sender is told; then, with nothing new, {said}"
        told = f"**{result.fault}**" if result.fault else one.outcome
        print(f"| {one.name} | {told} | {said} | {result.after_s * 1000:.0f} ms |")
    print(f"\n{len(CASES)} faults, {bad} of them not as they should be", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
