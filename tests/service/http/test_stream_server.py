"""Server push through `regime serve` in a process of its own: many readers, posts from beside them, and its end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regime_service.testing import Served

READERS = 200
STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path, 'clock = "event"\nwarmup_observations = 2\ndetectors = []\n')
    yield server
    server.kill()


def observe(served: Served, candle: int, **changes: Any) -> int:
    """Post an observation; return the version that its reply tells."""
    body = {**STREAM, "ts_ms": candle * 300_000, "features": {"a": 1.0}, **changes}
    return int(served.post("/v1/observations", body).json()["thresholds"][0]["version"])


def override(served: Served, number: int) -> None:
    body = {"model": "m", "state": "REDUCING", "actor": "a", "reason": f"r{number}", "id": f"o{number}"}
    assert served.post("/v1/overrides", body).status == 200


class Reader:
    """A reader over a socket; every event with the moment at which it came."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.ended = False

    async def read(self, served: Served) -> None:
        host, _, port = served.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
        writer.write(b"GET /v1/stream?model=m HTTP/1.1\r\nHost: localhost\r\n\r\n")
        name = ""
        try:
            while line := await reader.readline():
                if line.startswith(b"event: "):
                    name = line[7:].strip().decode()
                elif line.startswith(b"data: "):
                    self.events.append((time.monotonic(), name, json.loads(line[6:])))
        finally:
            writer.close()
        self.ended = True

    @property
    def versions(self) -> list[int]:
        return [data["version"] for _, name, data in self.events if name == "thresholds"]


async def all_have(readers: list[Reader], version: int) -> None:
    for _ in range(2000):
        if all(reader.versions and reader.versions[-1] >= version for reader in readers):
            return
        await asyncio.sleep(0.01)
    behind = [reader.versions[-3:] for reader in readers if not reader.versions or reader.versions[-1] < version]
    raise AssertionError(f"{len(behind)} readers never got version {version}: {behind[:3]}")


def test_two_hundred_readers_get_the_newest_never_an_older_one_and_are_told_when_it_stops(served: Served) -> None:
    observe(served, 1)
    observe(served, 2)

    async def story() -> None:
        readers = [Reader() for _ in range(READERS)]
        tasks = [asyncio.create_task(reader.read(served)) for reader in readers]
        await all_have(readers, 1)
        replied: list[tuple[float, int]] = []
        for i in range(10):
            await asyncio.to_thread(override, served, i)
            version = await asyncio.to_thread(observe, served, 3 + i)
            replied.append((time.monotonic(), version))
        await all_have(readers, replied[-1][1])
        for reader in readers:
            assert reader.versions == sorted(set(reader.versions)), "a version came twice, or an older one"
            assert [name for _, name, _ in reader.events].count("lease") >= 1
        begun_s = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert await asyncio.to_thread(served.stop) == 0
        assert time.monotonic() - begun_s < 8, "the streams kept it from stopping"
        assert all(reader.ended and reader.events[-1][1] == "closing" for reader in readers)

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_reader_that_stopped_reading_keeps_nobody_from_the_newest_nor_the_service_from_stopping(
    served: Served,
) -> None:
    observe(served, 1)
    host, _, port = served.address.rpartition(":")
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((host, int(port)))
        stuck.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")

        async def story() -> None:
            reader = Reader()
            task = asyncio.create_task(reader.read(served))
            await all_have([reader], 1)
            for i in range(300):
                await asyncio.to_thread(override, served, i)
            version = await asyncio.to_thread(observe, served, 3)
            await all_have([reader], version)
            assert await asyncio.to_thread(served.stop) == 0
            await task

        begun_s = time.monotonic()
        asyncio.run(asyncio.wait_for(story(), 120))
        assert time.monotonic() - begun_s < 60


def test_what_was_pushed_is_counted(served: Served) -> None:
    observe(served, 1)
    observe(served, 2)

    async def story() -> str:
        reader = Reader()
        task = asyncio.create_task(reader.read(served))
        await all_have([reader], 1)
        text = (await asyncio.to_thread(served.get, "/metrics")).body.decode()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return text

    lines = asyncio.run(story()).splitlines()
    assert "regime_push_streams 1.0" in lines
    assert "regime_pushed_answers_total 1.0" in lines
    assert 'regime_http_requests_total{route="/v1/stream",status="200"} 1.0' in lines
