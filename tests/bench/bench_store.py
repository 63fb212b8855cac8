"""Durable appends in groups: the store against a bare log (write + fdatasync) of the same rows, in turns.

    python tests/bench/bench_store.py [--folder DIR] [--features 20] [--rounds 5] [--seconds 1] [--postgres]
                                      [--never-tidy]

The floor is a log that nothing but appends can be made of: for each event the columns that the store keeps (number,
kind, key, time, the same SHA-256 over them, body), all of a group in one write and one fdatasync. It finds nothing
again and knows no duplicates. With --never-tidy SQLite's WAL is never moved into the file (a store that did so would
fill the disk): what is left to gain there. With --postgres a server is started in a temporary folder, and takes turns.

Two questions. *In flight*: so many producers, each waiting for its acknowledgement before it sends the next event, and
one writer thread that takes what has queued up: that is how the service works, and the ratio to look at. *In hand*: a
whole group is there at once, so that nothing but the writing is measured; the faster the disk, the more of it is CPU.

The ratio is what counts. Disks of shared machines change from second to second: the two take turns, and the median of
the rounds is printed. `fsyncs` are those that begin or end between the moment an event is sent and its acknowledgement,
at the median and the worst, counted under SQLite in a run of its own.
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
from typing import Any, NamedTuple

import apsw

from regime.codec import encode
from regime.events import Observation, source_key
from regime_service.stores import group, offer
from regime_service.stores.opening import open_store
from regime_service.stores.rows import event_checksum
from regime_service.stores.sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgres_server import MISSING, PostgresServer, programs

Item = tuple[Observation, bytes]


class Writing(NamedTuple):
    """A log: write a group and return when it is durable, do what can wait, close."""

    write: Callable[[list[Item]], None]
    tidy: Callable[[], None]
    close: Callable[[], None]


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


def bare_log(folder: Path) -> Writing:
    handle = os.open(folder / "bare.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    numbers = itertools.count(1)

    def write(items: list[Item]) -> None:
        rows = []
        for event, raw in items:
            seq, kind, key = next(numbers), str(event.__struct_config__.tag), source_key(event).encode()
            head = b"%d %b %b 0 %b " % (seq, kind.encode(), key, event_checksum(seq, 0, kind, key, raw))
            rows += (head, raw, b"\n")
        os.write(handle, b"".join(rows))
        os.fdatasync(handle)

    return Writing(write, lambda: None, lambda: os.close(handle))


class _CountingFile(apsw.VFSFile):
    def __init__(self, count: Callable[[], None], usual: str, name: Any, flags: list[int]) -> None:
        self._count = count
        super().__init__(usual, name, flags)

    def xSync(self, flags: int) -> None:
        self._count()
        super().xSync(flags)
        self._count()


class _CountingFiles(apsw.VFS):
    """Counts the beginnings and ends of fsyncs, of every file."""

    def __init__(self) -> None:
        self._usual, self.edges = apsw.vfs_names()[0], 0
        super().__init__("counting", self._usual, maxpathname=0)

    def count(self) -> None:
        self.edges += 1

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _CountingFile(self.count, self._usual, name, flags)


def sqlite(folder: Path, *, tidy: bool = True) -> Writing:
    store = SqliteStore(folder / "store.db")

    def write(items: list[Item]) -> None:
        with group(store):
            store.expect(event for event, _ in items)
            for event, raw in items:
                offer(store, event, raw, 0)

    return Writing(write, store.tidy if tidy else lambda: None, store.close)


def postgres(server: PostgresServer) -> Writing:
    server.empty()
    store = open_store(server.url)

    def write(items: list[Item]) -> None:
        with group(store):
            store.expect(event for event, _ in items)
            for event, raw in items:
                offer(store, event, raw, 0)

    return Writing(write, store.tidy, store.close)


def in_hand(log: Writing, items: list[Item], size: int, seconds: float) -> float:
    """Events per second, in groups of `size`."""
    started, done = time.perf_counter(), 0
    while done + size <= len(items) and time.perf_counter() - started < seconds:
        log.write(items[done : done + size])
        log.tidy()
        done += size
    return done / (time.perf_counter() - started)


def in_flight(
    log: Writing,
    items: list[Item],
    producers: int,
    seconds: float,
    each: Callable[[], Callable[[], None]] | None = None,
) -> float:
    """Events per second, with so many waiting for their acknowledgement at any time.

    `each` is called when an event is sent, and what it returns when that was acknowledged.
    """
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
            log.write([item for item, _ in taken])
            loop.call_soon_threadsafe(acknowledge, taken)
            log.tidy()

    async def producer(until: float) -> int:
        sent = 0
        while time.perf_counter() < until and (item := next(supply, None)) is not None:
            future = asyncio.get_running_loop().create_future()
            done = None if each is None else each()
            waiting.put((item, future))
            await future
            sent += 1
            if done is not None:
                done()
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
    parser.add_argument("--never-tidy", action="store_true", help="leave out the checkpoints: a bound, not a store")
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


def fsyncs_waited_for(folder: Path, features: int, producers: int) -> list[int]:
    """Return, for each acknowledged event, how many fsyncs were under way or came between sending and answer."""
    files, usual = _CountingFiles(), apsw.vfs_names()[0]
    apsw.set_default_vfs("counting")
    waited: list[int] = []

    def sent() -> Callable[[], None]:
        before = files.edges
        # One under way at first (an odd number of edges) counts as a whole.
        return lambda: waited.append((files.edges + 1) // 2 - before // 2)

    try:
        log = sqlite(folder)
        in_flight(log, observations(features, 4_000 + 40 * producers), producers, 3.0, sent)
        log.close()
    finally:
        apsw.set_default_vfs(usual)
        files.unregister()
    return waited


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
            logs = [sqlite(Path(folder), tidy=not options.never_tidy), bare_log(Path(folder))]
            if server is not None:
                logs.append(postgres(server))
            rates: list[list[float]] = [[] for _ in logs]
            items = observations(options.features, min(20_000, 4_000 * count))
            measure(logs[0], observations(options.features, 256), count, 1.0)  # what is loaded once
            for turn in range(options.rounds):
                # Who comes first pays for what the one before left in the disk's cache: they change places.
                for at in range(len(logs))[:: -1 if turn % 2 else 1]:
                    rates[at].append(measure(logs[at], items, count, options.seconds))
                items = observations(options.features, len(items))
            for log in logs:
                log.close()
        ratios = [a / b for a, b in zip(rates[0], rates[1], strict=True)]
        medians = [statistics.median(each) for each in rates]
        line = (
            f"{name:>9} {count:>4} {medians[0]:>10,.0f} {medians[1]:>10,.0f}"
            f" {statistics.median(ratios):>6.2f}  ({min(ratios):.2f} .. {max(ratios):.2f})"
        )
        if server is not None:
            line += f"  {medians[2]:>10,.0f} {medians[2] / medians[0]:>5.2f}"
        if measure is in_flight:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                waited = sorted(fsyncs_waited_for(Path(folder), options.features, count))
            line += f"  fsyncs: {statistics.median(waited):.0f}, at most {waited[-1]}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
