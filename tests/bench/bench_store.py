"""Durable appends in groups: the store against a bare log (write + fdatasync) of the same bytes, in turns.

    python tests/bench/bench_store.py [--folder DIR] [--events 20000] [--rounds 5] [--features 20]

The ratio is what counts; both depend on the disk, which on a shared machine changes from second to second, and so the
two take turns and the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from regime.codec import encode
from regime.events import Observation
from regime_service.stores import group, offer
from regime_service.stores.sqlite import SqliteStore

Item = tuple[Observation, bytes]
Write = Callable[[list[Item]], None]


def observations(features: int, start: int, count: int) -> list[Item]:
    values: dict[str, float | None] = {f"feature_{i}": i * 1.2345678901 for i in range(features)}
    made = [
        Observation(model="m", symbol="BTC/USDT:USDT", timeframe="5m", ts_ms=(start + i) * 300_000, features=values)
        for i in range(count)
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


def rate(write: Write, batches: list[list[Item]]) -> float:
    started = time.perf_counter()
    for batch in batches:
        write(batch)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure (a new one below it)")
    parser.add_argument("--events", type=int, default=20_000, help="per round and group size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--features", type=int, default=20)
    options = parser.parse_args()
    size = len(observations(options.features, 0, 1)[0][1])
    print(f"{options.features} features, {size} bytes an event, apsw {apsw.apsw_version()}, {os.cpu_count()} cores")
    print(f"{'group':>6} {'store /s':>10} {'bare /s':>10} {'ratio':>6}  (median of {options.rounds}, least .. most)")
    for group_size in (1, 8, 32, 128, 512):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_store, close_store = sqlite(Path(folder))
            write_bare, close_bare = bare_log(Path(folder))
            store_rates, bare_rates, ratios = list[float](), list[float](), list[float]()
            groups = max(1, min(options.events // group_size, 400))
            for turn in range(options.rounds):
                first = turn * groups * group_size
                batches = [observations(options.features, first + i * group_size, group_size) for i in range(groups)]
                store_rates.append(rate(write_store, batches))
                bare_rates.append(rate(write_bare, batches))
                ratios.append(store_rates[-1] / bare_rates[-1])
            close_store()
            close_bare()
        print(
            f"{group_size:>6} {statistics.median(store_rates):>10,.0f} {statistics.median(bare_rates):>10,.0f}"
            f" {statistics.median(ratios):>6.2f}  ({min(ratios):.2f} .. {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
