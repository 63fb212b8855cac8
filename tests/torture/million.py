"""A million events through the live runner, and once more through the engine alone: is it the same?

    python tests/torture/million.py [--events 1000000] [--streams 10] [--seed 1]

What bots of ten streams send (observations with two features, trades, equity, operators' words, silences that go
stale) goes through the real runner, in groups of any size, on a clock that is wound by hand, so that the runner makes
its Ticks itself. Ten times it is stopped and started; now and then its snapshots are taken away first, so that a start
replays more. Then the log is read back and stepped through a fresh fleet, event for event, and these must be equal:

* the digest over the state of all streams (detectors and the chain over every decision included);
* a SHA-256 over every decision that the store holds, and over those that the replay makes.

Few features keep it affordable: what is proved is the order of events, time and restarts, not arithmetic on many
columns, which `tests/acceptance/test_live_equals_replay.py` looks at. The control changes one number of one event near
the beginning of the log, replays a tenth of it, and must come to another state.

Exit codes: 0 equal (and the control differs), 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from regime import codec
from regime.decision import Decision, decision_bytes
from regime.events import AnyEvent, Command, Equity, Observation, StreamKey, Trade
from regime.fleet import Fleet
from regime_service.board import Board
from regime_service.metrics import Counters
from regime_service.runners.embedded import EmbeddedRunner
from regime_service.settings import from_toml
from regime_service.stores.sqlite import SqliteStore
from regime_service.testing import HandClock

CANDLE_MS = 300_000
BEGAN_MS = 1_700_000_000_000 // CANDLE_MS * CANDLE_MS
CONFIG = from_toml({"warmup_observations": 20, "detectors": [{"kind": "adwin"}]}, source="million").engine
RESTARTS = 10


class Digests(NamedTuple):
    """Of the state of all streams, and of all decisions, stream by stream."""

    state: str
    decisions: str


class Outcome(NamedTuple):
    """What a run came to."""

    events: int
    kinds: dict[str, int]
    starts: int
    live: Digests
    replayed: Digests
    control_differs: bool
    live_s: float
    replay_s: float


def sent(rng: random.Random, streams: int, candle: int) -> Iterator[AnyEvent]:
    """What comes in as one candle closes."""
    ts_ms = BEGAN_MS + candle * CANDLE_MS
    close_ms = ts_ms + CANDLE_MS
    for i in range(streams):
        # Each stream is silent for some hours now and then.
        if (candle // 60 + i * 7) % 41 == 0:
            continue
        stream = {"model": f"m{i % 3}", "symbol": f"S{i}", "timeframe": "5m"}
        shift = 0.5 * ((candle // 4000) % 2)
        yield Observation(
            **stream, ts_ms=ts_ms,
            features={"a": round(rng.gauss(shift, 1), 4), "b": rng.random() if rng.random() > 0.001 else None},
        )  # fmt: skip
        if rng.random() < 0.05:
            yield Trade(
                **stream, trade_id=f"{i}-{candle}", side=rng.choice(("long", "short")), opened_ms=ts_ms,
                closed_ms=close_ms, entry_price=100.0, exit_price=101.0, profit_ratio=rng.choice((0.012, -0.01)),
            )  # fmt: skip
    if candle % 12 == 0:
        yield Equity(model="m0", ts_ms=close_ms, equity=1000.0 + rng.gauss(0, 20))
    if candle % 500 == 250:
        yield Command(
            id=f"c{candle}", action="set", ts_ms=close_ms, model=f"m{candle % 3}",
            state=rng.choice(("REDUCING", "HALTED")), until_ms=close_ms + rng.randint(1, 40) * 60_000, actor="ana",
            reason="a test",
        )  # fmt: skip


def live(path: Path, events: int, streams: int, rng: random.Random) -> tuple[Digests, int]:
    """Send until the log holds so many events; return what came of it, and how often the runner was started."""
    clock, candle, starts = HandClock(BEGAN_MS), 0, 0
    began_s = time.monotonic()
    while True:
        store = SqliteStore(path)
        runner = EmbeddedRunner(store, CONFIG, Board(), Counters(), now_ms=clock, snapshot_every=20_000)
        runner.start()
        starts += 1
        until = min(events, starts * events // RESTARTS)
        while store.last_seq() < until:
            waiting = []
            for _ in range(rng.randint(1, 20)):
                clock.ms = BEGAN_MS + (candle + 1) * CANDLE_MS + rng.randint(0, 20_000)
                batch = list(sent(rng, streams, candle))
                candle += 1
                cut = rng.randint(0, len(batch))
                waiting += [runner.submit(part) for part in (batch[:cut], batch[cut:]) if part]
                if rng.random() < 0.5:
                    waiting[-1].result(600)
            for each in waiting:
                each.result(600)
        digest, done = runner.digest(), store.last_seq() >= events
        runner.stop()
        if sys.stderr.isatty() or starts == 1:
            rate = until / (time.monotonic() - began_s)
            print(f"{until:,} of {events:,}, {rate:,.0f} a second", file=sys.stderr)
        if done:
            return Digests(digest, _of_all(map(_sha, _kept(path)))), starts
        if rng.random() < 0.4:
            connection = apsw.Connection(str(path))
            connection.execute("DELETE FROM snapshots WHERE id = (SELECT max(id) FROM snapshots)")
            connection.close()


def _kept(path: Path) -> Iterator[Decision]:
    store = SqliteStore(path, read_only=True)
    try:
        for key in sorted(store.latest()):
            version = 0
            while page := store.decisions(key, version, 1000):
                yield from page
                version = page[-1].version
    finally:
        store.close()


def _sha(decision: Decision) -> bytes:
    return hashlib.sha256(decision_bytes(decision)).digest()


def _of_all(hashes: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for each in hashes:
        digest.update(each)
    return digest.hexdigest()


def replayed(path: Path, until_seq: int | None = None, *, spoiled: bool = False) -> tuple[Digests, Counter[str]]:
    """Step the log through a fresh fleet; `spoiled` changes a number of the first observation."""
    fleet, kinds = Fleet(CONFIG, {}.__getitem__), Counter[str]()
    made: dict[StreamKey, list[bytes]] = {}
    store = SqliteStore(path, read_only=True)
    try:
        for _, raw in store.events(0, until_seq):
            event = codec.decode(raw)
            if spoiled and isinstance(event, Observation):
                event, spoiled = msgspec.structs.replace(event, features={**event.features, "b": 0.123456}), False
            kinds[str(event.__struct_config__.tag)] += 1
            for key, step in fleet.step(event):
                if step.changed:
                    made.setdefault(key, []).append(_sha(step.decision))
    finally:
        store.close()
    return Digests(fleet.digest(), _of_all(each for key in sorted(made) for each in made[key])), kinds


def run(folder: Path, events: int, *, streams: int = 10, seed: int = 1) -> Outcome:
    """Log so many events, replay them, and replay the beginning once more with a number changed."""
    began_s = time.monotonic()
    told, starts = live(folder / "store.db", events, streams, random.Random(seed))
    live_s = time.monotonic() - began_s
    began_s = time.monotonic()
    again, kinds = replayed(folder / "store.db")
    replay_s = time.monotonic() - began_s
    part, _ = replayed(folder / "store.db", events // 10)
    control, _ = replayed(folder / "store.db", events // 10, spoiled=True)
    return Outcome(kinds.total(), dict(kinds), starts, told, again, part.state != control.state, live_s, replay_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), options.events, streams=options.streams, seed=options.seed)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.kinds.items()))
    print(f"{found.events:,} events ({kinds}), {found.starts} starts")
    print(f"live {found.live_s:.0f} s, replay {found.replay_s:.0f} s")
    print(f"state     {found.live.state}\n          {found.replayed.state}")
    print(f"decisions {found.live.decisions}\n          {found.replayed.decisions}")
    print(
        f"{'equal' if found.live == found.replayed else 'NOT EQUAL'}; the control "
        f"{'came to another state' if found.control_differs else 'WAS NOT FOUND OUT'}"
    )
    return int(found.live != found.replayed or not found.control_differs)


if __name__ == "__main__":
    sys.exit(main())
