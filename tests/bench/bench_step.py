"""What one candle costs in the engine, and what one stream holds in memory, beside river's own loop over features.

    python tests/bench/bench_step.py [--features 200] [--rounds 7] [--streams 12]

The engine is the one that serves: preset `default`, a reference with limits, 500 outcomes on each side. river's loop is
what one writes with river: an ADWIN per feature, `update` and `drift_detected` of each for every row. Both take the
same rows, in turns in one process; CPU time, and the median of the rounds counts. Memory is what Python and numpy have
allocated for streams beyond what they share (tracemalloc).
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from regime.calibration import Calibration
from regime.config import EngineConfig
from regime.engine import OUTCOMES_MAX, Engine, find_limits
from regime.events import SIDES, AnyEvent, Observation, Ohlcv, Probabilities, Recalibrated, StreamKey, Trade
from regime.reference import Reference

FIVE_MINUTES = 300_000
REFERENCE_ROWS = 6_000
ROWS = 200
"""Rows in one round."""
WARM_ROWS = 600
MIB = 1024 * 1024
KEY = StreamKey("bench-xgb", "BTC/USDT:USDT", "5m")

Make = Callable[[StreamKey], Engine]


def rows_of(seed: int, rows: int, features: int) -> NDArray[np.float64]:
    """Autocorrelated rows, float64[rows, features]."""
    x = np.random.default_rng(seed).standard_normal((rows, features))
    for at in range(1, rows):
        x[at] = 0.8 * x[at - 1] + 0.6 * x[at]
    return x


def events_of(values: NDArray[np.float64], names: tuple[str, ...], key: StreamKey) -> list[Observation]:
    candle = Ohlcv(open=100.0, high=101.0, low=99.0, close=100.5, volume=10.0)
    return [
        Observation(
            model=key.model, symbol=key.symbol, timeframe=key.timeframe, ts_ms=(REFERENCE_ROWS + at) * FIVE_MINUTES,
            features=dict(zip(names, row.tolist(), strict=True)), candle=candle,
            probabilities=Probabilities(long=1 / (1 + math.exp(-row[0])), short=1 / (1 + math.exp(-row[1]))),
        )
        for at, row in enumerate(values)
    ]  # fmt: skip


def outcomes_of(key: StreamKey) -> Iterator[Trade]:
    rng = np.random.default_rng(5)
    for side in SIDES:
        for at in range(OUTCOMES_MAX):
            opened_ms = (REFERENCE_ROWS - OUTCOMES_MAX + at) * FIVE_MINUTES
            yield Trade(
                model=key.model, symbol=key.symbol, timeframe=key.timeframe, trade_id=f"{side}-{at}", side=side,
                opened_ms=opened_ms, closed_ms=opened_ms + FIVE_MINUTES, entry_price=100.0, exit_price=101.0,
                profit_ratio=0.012 if rng.random() < 0.6 else -0.01, exit_reason="ml_exit",
                entry_probability=0.8 + 0.2 * float(rng.random()),
            )  # fmt: skip


def maker(features: int, *, detectors: bool) -> tuple[Make, tuple[str, ...]]:
    """Return what makes an engine that is compared with a reference and knows its outcomes."""
    values = rows_of(1, REFERENCE_ROWS, features)
    claims = 1 / (1 + np.exp(-values[:, :2]))
    reference = Reference(
        [f"feature_{i:03d}" for i in range(features)], values, ts_ms=np.arange(REFERENCE_ROWS) * FIVE_MINUTES,
        probability_long=claims[:, 0], probability_short=claims[:, 1],
    )  # fmt: skip
    config = EngineConfig(clock="event", **({} if detectors else {"detectors": []}))
    event = Recalibrated(
        model=KEY.model, timeframe=KEY.timeframe, version="1", reference_id=reference.reference_id
    )  # fmt: skip
    found = find_limits(event, reference, config)
    texts = {limits.digest: limits.to_json() for limits in found.values()}
    event = msgspec.structs.replace(event, calibrations={name: limits.digest for name, limits in found.items()})

    def make(key: StreamKey) -> Engine:
        engine = Engine(key, config, lambda _: reference, lambda known: Calibration.from_json(texts[known]))
        engine.step(event)
        for trade in outcomes_of(key):
            engine.step(trade)
        return engine

    return make, reference.names


def cpu_us(work: Callable[[Any], None], items: list[Any]) -> float:
    before = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - before) / len(items) * 1e6


def speed(features: int, rounds: int) -> None:
    full, names = maker(features, detectors=True)
    bare, _ = maker(features, detectors=False)
    watched, alone = full(KEY), bare(KEY)
    values = rows_of(2, WARM_ROWS + rounds * ROWS, features)
    events = events_of(values, names, KEY)
    bank = [ADWIN() for _ in range(features)]

    def loop(row: list[float]) -> None:
        for value, detector in zip(row, bank, strict=True):
            detector.update(value)
            _ = detector.drift_detected

    def nothing(event: AnyEvent) -> None:
        alone.step(event)

    def everything(event: AnyEvent) -> None:
        watched.step(event)

    works: dict[str, tuple[Callable[[Any], None], list[Any]]] = {
        "river's loop": (loop, values.tolist()), "engine, no detector": (nothing, events),
        "engine, preset default": (everything, events),
    }  # fmt: skip
    for work, items in works.values():
        cpu_us(work, items[:WARM_ROWS])
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        start = WARM_ROWS + turn * ROWS
        for name, (work, items) in works.items():
            found[name].append(cpu_us(work, items[start : start + ROWS]))
    floor = statistics.median(found["river's loop"])
    print(f"{features} features, {OUTCOMES_MAX} outcomes a side: one observation")
    print(f"{'':<26}{'us CPU':>8}{'of the floor':>14}")
    for name, times in found.items():
        median = statistics.median(times)
        print(f"{name:<26}{median:>8.0f}{median / floor:>14.2f}")


def memory(features: int, streams: int) -> None:
    make, names = maker(features, detectors=True)
    values = rows_of(3, WARM_ROWS, features)

    def filled(number: int) -> Engine:
        key = StreamKey(KEY.model, f"S{number}", KEY.timeframe)
        engine = make(key)
        for event in events_of(values, names, key):
            engine.step(event)
        return engine

    kept = [filled(-1)]  # what all streams share is paid by this one
    gc.collect()
    tracemalloc.start()
    kept += [filled(number) for number in range(streams)]
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    snapshot = kept[-1].snapshot()
    assert snapshot is not None
    before = time.process_time()
    kept[0].restore(kept[0].snapshot() or b"")
    restored_ms = (time.process_time() - before) * 1e3
    print(f"\nmemory a stream: {held / streams / MIB:.2f} MiB (target: 1 at 200 features), "
          f"snapshot {len(snapshot) / MIB:.2f} MiB, taken and restored in {restored_ms:.0f} ms CPU")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=12)
    chosen = parser.parse_args()
    speed(chosen.features, chosen.rounds)
    memory(chosen.features, chosen.streams)


if __name__ == "__main__":
    main()
