"""Durable appends in groups: the store against a bare log (write + fdatasync) of the same bytes, in turns.

    python tests/bench/bench_store.py [--folder DIR] [--features 20] [--rounds 5] [--seconds 1] [--postgres]

With --postgres a server is started in a temporary folder, and takes turns with the other two.

Two questions. *In flight*: so many producers, each waiting for its acknowledgement before it sends the next event, and
one writer thread that takes what has queued up: that is how the service works, and the ratio to look at. *In hand*: a
whole group is there at once, so that nothing but the writing is measured; the faster the disk, the more of it is CPU.

The ratio is what counts. Disks of shared machines change from second to second: the two take turns, and the median of
the rounds is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from regime.codec import encode
from regime.events import Observation
from regime_service.stores import group, offer
from regime_service.stores.opening import open_store
from regime_service.stores.sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgres_server import MISSING, PostgresServer, programs

Item = tuple[Observation, bytes]
Write = Callable[[list[Item]], None]
Waiting = tuple[Item, asyncio.Future[None]]

NUMBERS = itertools.count()
GROUP_MAX = 512


def observations(features: int, count: int) -> list[Item]:
    """New ones at every call."""
    values: dict[str, float | None] = {f"feature_{i}": i * 1.2345678901 for i in range(features)}
    made = [
        Observation(model="m", symbol="BTC/USDT:USDT", timeframe="5m", ts_ms=next(NUMBERS) * 1000, features=values)
        for _ in range(count)
    ]
    return [(event, encode(event)) for event in made]


def bare_log(folder: Path) -> tuple[Write, Callable[[], None]]:
    handle = os.open(folder / "bare.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(items: list[Item]) -> None:
        os.write(handle, b"".join(raw + b"\n" for _, raw in items))
        os.fdatasync(handle)

    return write, lambda: os.close(handle)


def sqlite(folder: Path) -> tuple[Write, Callable[[], None]]:
    store = SqliteStore(folder / "store.db")

    def write(items: list[Item]) -> None:
        with group(store):
            for event, raw in items:
                offer(store, event, raw, 0)

    return write, store.close


def postgres(server: PostgresServer) -> tuple[Write, Callable[[], None]]:
    server.empty()
    store = open_store(server.url)

    def write(items: list[Item]) -> None:
        with group(store):
            store.expect(event for event, _ in items)
            for event, raw in items:
                offer(store, event, raw, 0)

    return write, store.close


def in_hand(write: Write, items: list[Item], size: int, seconds: float) -> float:
    """Events per second, in groups of `size`."""
    started, done = time.perf_counter(), 0
    while done + size <= len(items) and time.perf_counter() - started < seconds:
        write(items[done : done + size])
        done += size
    return done / (time.perf_counter() - started)


def in_flight(write: Write, items: list[Item], producers: int, seconds: float) -> float:
    """Events per second, with so many waiting for their acknowledgement at any time."""
    waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
    supply = iter(items)

    def acknowledge(taken: list[Waiting]) -> None:
        for _, future in taken:
            future.set_result(None)

    def writer(loop: asyncio.AbstractEventLoop) -> None:
        while (first := waiting.get()) is not None:
            taken = [first]
            while len(taken) < GROUP_MAX and not waiting.empty() and (item := waiting.get()) is not None:
                taken.append(item)
            write([item for item, _ in taken])
            loop.call_soon_threadsafe(acknowledge, taken)

    async def producer(until: float) -> int:
        sent = 0
        while time.perf_counter() < until and (item := next(supply, None)) is not None:
            future = asyncio.get_running_loop().create_future()
            waiting.put((item, future))
            await future
            sent += 1
        return sent

    async def run() -> float:
        thread = threading.Thread(target=writer, args=(asyncio.get_running_loop(),))
        thread.start()
        started = time.perf_counter()
        sent = await asyncio.gather(*(producer(started + seconds) for _ in range(producers)))
        elapsed = time.perf_counter() - started
        waiting.put(None)
        thread.join()
        return sum(sent) / elapsed

    return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure (a new one below it)")
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="at most, of each measurement")
    parser.add_argument("--postgres", action="store_true", help="measure the PostgreSQL store, too")
    options = parser.parse_args()
    if options.postgres and programs() is None:
        parser.error(MISSING)
    server = PostgresServer(programs() or Path()) if options.postgres else None
    try:
        compare(options, server)
    finally:
        if server is not None:
            server.remove()


def compare(options: argparse.Namespace, server: PostgresServer | None) -> None:
    size = len(observations(options.features, 1)[0][1])
    print(f"{options.features} features, {size} bytes an event, apsw {apsw.apsw_version()}, {os.cpu_count()} cores")
    print(
        f"{'':>9} {'':>4} {'store /s':>10} {'bare /s':>10} {'ratio':>6}  (medians; ratio least .. most)"
        + ("  PostgreSQL /s, to SQLite" if server is not None else "")
    )
    for name, measure, count in (
        *(("in flight", in_flight, count) for count in (1, 16, 128)),
        *(("in hand", in_hand, count) for count in (1, 16, 128)),
    ):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_store, close_store = sqlite(Path(folder))
            write_bare, close_bare = bare_log(Path(folder))
            write_postgres, close_postgres = postgres(server) if server is not None else (write_bare, lambda: None)
            store_rates, bare_rates, postgres_rates = list[float](), list[float](), list[float]()
            items = observations(options.features, min(20_000, 4_000 * count))
            measure(write_store, observations(options.features, 256), count, 1.0)  # what is loaded once
            for _ in range(options.rounds):
                store_rates.append(measure(write_store, items, count, options.seconds))
                bare_rates.append(measure(write_bare, items, count, options.seconds))
                if server is not None:
                    postgres_rates.append(measure(write_postgres, items, count, options.seconds))
                items = observations(options.features, len(items))
            close_store()
            close_bare()
            close_postgres()
        ratios = [a / b for a, b in zip(store_rates, bare_rates, strict=True)]
        print(
            f"{name:>9} {count:>4} {statistics.median(store_rates):>10,.0f} {statistics.median(bare_rates):>10,.0f}"
            f" {statistics.median(ratios):>6.2f}  ({min(ratios):.2f} .. {max(ratios):.2f})"
            + "".join(
                f"  {rate:>10,.0f} {rate / statistics.median(store_rates):>5.2f}"
                for rate in ([statistics.median(postgres_rates)] if postgres_rates else [])
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
