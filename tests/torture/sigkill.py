"""SIGKILL at random moments of the real `regime serve`, with bots that repeat what was not answered.

    python tests/torture/sigkill.py [--kills 1000] [--bots 6] [--seed 1] [--store postgres] [--control ack-early]

Each bot has a stream of its own, sends observations (now and then one without a value, so that versions rise) and
trades in batches of 1 to 5, repeats a batch until it is answered, and sometimes sends an answered one again. Most kills
come while events flow, some while the service starts and recovers. Held against the store after every kill:

* every acknowledged event is in the log, with the bytes that were sent; acknowledged events keep their number;
* a batch that was sent again is a duplicate or new, never a conflict, never late;
* the versions that a bot is told never fall, and the epoch stays;

and at the end, in a service that is left alive: no event was applied twice (each stream has counted exactly the
observations and trades of the log, and its digest is that of a replay of the log from the start), and `verify` passes.

With `--store postgres` the log is in a PostgreSQL server of its own, and every third time it is the *server* that dies
at once (`pg_ctl stop -m immediate`: no process of it writes anything more), with the service killed the moment after,
or left to find out and end by itself, with exit code 1.

The negative controls (`nursery.py`) answer before anything is on disk, or do not wait for the server's; they must lose.

Exit codes: 0 nothing was lost (the control: it lost), 1 it was the other way round.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from regime import codec
from regime.errors import RegimeError
from regime.events import Observation, StreamKey, Trade, source_key
from regime.fleet import Fleet
from regime.replay import replay
from regime_service import settings
from regime_service.app import EXIT_FAILED
from regime_service.stores import Store
from regime_service.stores.opening import open_store
from regime_service.stores.sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgres_server import MISSING, PostgresServer, programs

CONFIG = """
clock = "event"
warmup_observations = 5
[[detectors]]
kind = "adwin"
[store]
snapshot_every = 100
"""
"""Detectors that need no calibration: a stream without a reference would find its limits anew with every start."""
CANDLE_MS = 300_000


class FilePlace:
    """The log in a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store.db"
        self._aside = folder / "aside"
        self.where = str(self._path)

    def exists(self) -> bool:
        return self._path.exists()

    @contextlib.contextmanager
    def read(self) -> Iterator[Store]:
        """The store as the kill left it. It is not touched: what lies in the WAL is read from a copy of that."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir()
        # The file itself is written to by nobody but who moves the WAL, and a reader does not.
        os.link(self._path, self._aside / self._path.name)
        if (wal := Path(f"{self._path}-wal")).exists():
            shutil.copy(wal, self._aside / wal.name)
        with contextlib.closing(SqliteStore(self._aside / self._path.name, read_only=True)) as store:
            yield store

    def die(self, rng: random.Random) -> bool:
        """A file does not die."""
        return False

    def revive(self) -> None:
        """Nothing to do."""

    def remove(self) -> None:
        """The folder is removed by who made it."""


class ServerPlace:
    """The log in a PostgreSQL server of its own."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise RuntimeError(MISSING)
        self._server = PostgresServer(found)
        self.where = self._server.url
        self.deaths = 0

    def exists(self) -> bool:
        return True

    @contextlib.contextmanager
    def read(self) -> Iterator[Store]:
        with contextlib.closing(open_store(self.where, read_only=True)) as store:
            yield store

    def die(self, rng: random.Random) -> bool:
        """Let the server die at once, every third time."""
        if rng.random() > 1 / 3:
            return False
        self._server.stop("immediate")
        self.deaths += 1
        return True

    def revive(self) -> None:
        if not self._server.running():
            self._server.start()

    def remove(self) -> None:
        self._server.remove()


Place = FilePlace | ServerPlace


class Service:
    """The service, killed and started again at will."""

    def __init__(self, folder: Path, place: Place, control: str) -> None:
        self.config = folder / "config.toml"
        self.config.write_text(CONFIG, "utf-8")
        self._word = f"serve-{control}" if control else "serve"
        self._arguments = ("--config", str(self.config), "--store", place.where, "--port", "0")
        self._nursery = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._child = 0
        self.address = ""

    def start(self) -> None:
        self._tell("\t".join((self._word, *self._arguments)))
        self._child = int(self._answer("child"))

    def wait_until_it_answers(self) -> None:
        self.address = self._answer("regimegate answers at").removeprefix("http://")

    def kill(self, *, by_itself: bool = False) -> None:
        """Kill it, or wait until it has ended with exit code 1."""
        self.address = ""
        if not by_itself:
            os.kill(self._child, signal.SIGKILL)
        self._tell("reap")
        status = int(self._answer("ended"))
        self._child = 0
        if status != (EXIT_FAILED << 8 if by_itself else signal.SIGKILL):
            raise RuntimeError(f"the service ended by itself with status {status}: {self._last_words()}")

    def close(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
        self._nursery.kill()
        self._nursery.communicate()

    def _tell(self, line: str) -> None:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(line + "\n")
        self._nursery.stdin.flush()

    def _answer(self, word: str) -> str:
        assert self._nursery.stdout is not None
        while line := self._nursery.stdout.readline():
            if line.startswith(word):
                return line.removeprefix(word).strip()
            # A service killed while starting may have said that it answers.
            if not line.startswith("regimegate answers"):
                break
        raise RuntimeError(f"expected {word!r}, got {line!r}: {self._last_words()}")

    def _last_words(self) -> str:
        self._nursery.kill()
        return self._nursery.communicate()[1]


class Bot(threading.Thread):
    """Sends events of one stream until it is told to stop; everything it finds wrong is in `faults`."""

    def __init__(self, service: Service, number: int, seed: int, *, control: str) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._rng = random.Random(seed * 1000 + number)
        self.key = StreamKey("m", f"S{number}", "5m")
        self._number, self._control = number, control
        self._n = 0
        self._version, self._epoch = 0, ""
        self.acknowledged: list[tuple[str, bytes]] = []
        self.repeats = 0
        self.faults: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                kind, batch = self._batch()
                answer = self._send_until_answered(kind, batch)
                if answer is None:
                    return
                self._note(answer, batch)
                if self._rng.random() < 0.05 and not self._control:
                    again = self._send_until_answered(kind, batch)
                    if again is not None and (again["accepted"], again["duplicates"]) != (0, len(batch)):
                        self.faults.append(f"{self.key}: acknowledged, sent again, and no duplicate: {again}")
        except Exception as error:
            self.faults.append(f"{self.key}: {type(error).__name__}: {error}")

    def _batch(self) -> tuple[str, list[Observation] | list[Trade]]:
        rng, count = self._rng, self._rng.randint(1, 5)
        first, self._n = self._n, self._n + count
        stream = self.key._asdict()
        if rng.random() < 0.2:
            return "trades", [
                Trade(
                    **stream, trade_id=f"{self._number}-{i}", side="long", opened_ms=i * CANDLE_MS,
                    closed_ms=(i + 1) * CANDLE_MS, entry_price=100.0, exit_price=101.0,
                    profit_ratio=rng.choice((0.01, -0.01)),
                )
                for i in range(first, first + count)
            ]  # fmt: skip
        return "observations", [
            Observation(
                **stream, ts_ms=i * CANDLE_MS,
                features={f"f{j}": rng.random() if j or rng.random() > 0.1 else None for j in range(8)},
            )
            for i in range(first, first + count)
        ]  # fmt: skip

    def _send_until_answered(self, kind: str, batch: list[Any]) -> dict[str, Any] | None:
        body = b"[" + b",".join(map(codec.encode, batch)) + b"]"
        while not self.stop.is_set():
            address = self._service.address
            if not address:
                time.sleep(0.002)
                continue
            connection = http.client.HTTPConnection(address, timeout=10)
            try:
                connection.request("POST", f"/v1/{kind}", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                status, said = response.status, response.read()
            except (OSError, http.client.HTTPException):
                self.repeats += 1
                continue
            finally:
                connection.close()
            if status == 200:
                answer: dict[str, Any] = json.loads(said)
                return answer
            if status != 503:
                raise RuntimeError(f"answered {status}: {said!r}")
        return None

    def _note(self, answer: dict[str, Any], batch: list[Any]) -> None:
        if answer["accepted"] + answer["duplicates"] != len(batch) or answer["late"]:
            self.faults.append(f"{self.key}: a batch of {len(batch)} was answered with {answer}")
        for told in answer["thresholds"]:
            if told["version"] < self._version:
                self.faults.append(f"{self.key}: version {told['version']} after {self._version}")
            if self._epoch and told["epoch"] != self._epoch:
                self.faults.append(f"{self.key}: epoch {told['epoch']} after {self._epoch}")
            self._version, self._epoch = told["version"], told["epoch"]
        self.acknowledged += [(source_key(event), codec.encode(event)) for event in batch]


class Auditor:
    """Holds what was acknowledged against the store, each event once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._log: dict[str, bytes] = {}
        self._seq = 0
        self._seen: dict[Bot, int] = {}
        self.lost = 0

    def look(self, bots: list[Bot]) -> None:
        """Read what is new in the store."""
        acknowledged = {bot: len(bot.acknowledged) for bot in bots}
        with self._place.read() as store:
            # Numbers that were seen once stay, so only what is new is read.
            for seq, raw in store.events(self._seq):
                self._log[source_key(codec.decode(raw))] = raw
                self._seq = seq
            self.lost += max(0, self._seq - store.last_seq())
        for bot, count in acknowledged.items():
            for key, raw in bot.acknowledged[self._seen.get(bot, 0) : count]:
                self.lost += self._log.get(key) != raw
            self._seen[bot] = count


class Outcome(NamedTuple):
    """What the run came to. `starting` are the kills before the service answered, `deaths` those of the server.
    `slowest_s` is the longest time from the start of a service (forked) to its first answer."""

    kills: int
    starting: int
    deaths: int
    acknowledged: int
    repeats: int
    lost: int
    faults: tuple[str, ...]
    slowest_s: float
    seconds: float


def torture(
    folder: Path, kills: int, *, bots: int = 6, seed: int = 1, control: str = "", store: str = "sqlite"
) -> Outcome:
    """Kill the service `kills` times; the control stops at its first loss."""
    began, rng = time.monotonic(), random.Random(seed)
    place = ServerPlace() if store == "postgres" else FilePlace(folder)
    service = Service(folder, place, control)
    crowd = [Bot(service, number, seed, control=control) for number in range(bots)]
    auditor = Auditor(place)
    done = starting = 0
    slowest_s = 0.0
    faults: list[str] = []
    try:
        for bot in crowd:
            bot.start()
        while done < kills:
            started_s = time.monotonic()
            service.start()
            if done and place.exists() and rng.random() < 0.15:
                time.sleep(rng.random() * 0.15)
                starting += 1
                service.kill()
            else:
                service.wait_until_it_answers()
                slowest_s = max(slowest_s, time.monotonic() - started_s)
                wait_for_progress(crowd)
                time.sleep(rng.random() ** 2 * 0.3)
                server_died = place.die(rng)
                service.kill(by_itself=server_died and rng.random() < 0.2)
                place.revive()
            done += 1
            auditor.look(crowd)
            faults = [fault for bot in crowd for fault in bot.faults]
            if faults or auditor.lost:
                break
            if done % 50 == 0:
                print(f"{done} of {kills}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        if not control and not faults and not auditor.lost:
            service.start()
            service.wait_until_it_answers()
            wait_for_progress(crowd)
            for bot in crowd:
                bot.stop.set()
            for bot in crowd:
                bot.join(30)
            faults += [fault for bot in crowd for fault in bot.faults]
            faults += _compare(service, place, crowd)
            service.kill()
            auditor.look(crowd)
            faults += _verify(place)
    finally:
        for bot in crowd:
            bot.stop.set()
        service.close()
        place.remove()
    return Outcome(
        done, starting, place.deaths if isinstance(place, ServerPlace) else 0,
        sum(len(bot.acknowledged) for bot in crowd), sum(bot.repeats for bot in crowd), auditor.lost, tuple(faults),
        slowest_s, time.monotonic() - began,
    )  # fmt: skip


def wait_for_progress(crowd: Sequence[Bot]) -> None:
    """Until somebody was answered in this life, so that there is something to lose."""
    before, until = sum(len(bot.acknowledged) for bot in crowd), time.monotonic() + 30
    while sum(len(bot.acknowledged) for bot in crowd) == before and not any(bot.faults for bot in crowd):
        if time.monotonic() > until:
            raise RuntimeError("no event was answered within 30 s")
        time.sleep(0.002)


def _compare(service: Service, place: Place, crowd: list[Bot]) -> list[str]:
    """Hold the living service's state against a replay of its log."""
    config = settings.load(str(service.config), environ={}).engine
    with contextlib.closing(open_store(place.where, read_only=True)) as store:
        log = [codec.decode(raw) for _, raw in store.events()]
    fleet = Fleet(config, {}.__getitem__)
    for _ in replay(log, fleet):
        pass
    faults = []
    for bot in crowd:
        sent = {key for key, _ in bot.acknowledged}
        there = [e for e in log if isinstance(e, Observation | Trade) and e.symbol == bot.key.symbol]
        if len(there) != len({source_key(e) for e in there}):
            faults.append(f"{bot.key}: the log holds an event twice")
        if missing := sent - {source_key(e) for e in there}:
            faults.append(f"{bot.key}: {len(missing)} acknowledged events are missing")
        query = "&".join(f"{name}={value}" for name, value in bot.key._asdict().items())
        connection = http.client.HTTPConnection(service.address, timeout=30)
        connection.request("GET", f"/v1/explain?{query}")
        told = json.loads(connection.getresponse().read())
        connection.close()
        counted = told["data"]["observations"], told["sides"]["long"]["real_trades"]
        # Outcomes are remembered up to a number; observations are all counted.
        expected = (
            sum(isinstance(e, Observation) for e in there),
            min(500, sum(isinstance(e, Trade) for e in there)),
        )
        if counted != expected:
            faults.append(f"{bot.key}: {counted} observations and trades were applied, the log has {expected}")
        if told["digest"] != fleet.engine(bot.key).digest():
            faults.append(f"{bot.key}: its state is not that of a replay of the log")
    return faults


def _verify(place: Place) -> list[str]:
    with place.read() as store:
        try:
            for _ in store.verify():
                pass
        except RegimeError as error:
            return [str(error)]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description="SIGKILL at random moments of the real service.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--bots", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--control", choices=("ack-early", "no-sync"), help="a service that must lose events")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = torture(
            Path(folder), arguments.kills, bots=arguments.bots, seed=arguments.seed, control=arguments.control or "",
            store=arguments.store,
        )  # fmt: skip
    print(
        f"{arguments.store}, {arguments.control or 'as shipped'}: {found.kills} kills ({found.starting} while "
        f"starting, {found.deaths} of the server), slowest start {found.slowest_s:.1f} s, "
        f"{found.acknowledged} events acknowledged, {found.repeats} requests repeated, {found.lost} events lost, "
        f"{len(found.faults)} other faults ({found.seconds:.0f} s)"
    )
    for fault in found.faults[:5]:
        print(f"  {fault}")
    return int((found.lost > 0 or bool(found.faults)) if arguments.control is None else found.lost == 0)


if __name__ == "__main__":
    sys.exit(main())
