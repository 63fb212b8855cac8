"""SIGKILL at random moments of a service that tells a flaky receiver of every pause.

    python tests/torture/alerts.py [--kills 200] [--bots 3] [--seed 1] [--control alerts-late|alerts-early]
    python tests/torture/alerts.py --latency 300

Bots send observations, some without a value: each such one pauses its stream, and the next good one ends that. The
receiver checks the signature and then answers, or answers 503, or hangs, or is slow, or cuts the connection before or
in the middle of its answer. Held against the decisions in the store:

* lost: a decision that paused a stream, or ended a pause, of which the receiver was never told to the end;
* phantom: an alert about a decision that is not in the store as the kill left it;
* twice: one key delivered twice *within* one life of the service (after a kill it may come again, under its key).

What is expected is read from the states of the decisions alone, not from the code that finds words. The negative
controls (`nursery.py`) write the alert after the commit, and must lose; or send it before, and must tell a phantom.

`--latency` is without kills and with a healthy receiver: from the moment an alert is written down, before the commit of
its decision, to the moment at which the receiver has it.

Exit codes: 0 nothing was lost (a control: it was found out), 1 it was the other way round.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import math
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from sigkill import CANDLE_MS, Bot, FilePlace, Service, wait_for_progress

from regime.decision import Decision, TradingState
from regime.events import SIDES, Observation, StreamKey
from regime_service.stores import Store
from regime_service.stores.opening import open_store

SECRET = "a secret of the torture, 24+"
CONFIG = """
clock = "event"
warmup_observations = 5
[[detectors]]
kind = "adwin"
[store]
snapshot_every = 100
[alerts]
on_event_clock = true
[[alerts.channels]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:{port}/life/{life}"
secret_env = "REGIME_TORTURE_SECRET"
timeout_s = 2.0
"""
MOODS = {"ok": 0.83, "503": 0.05, "cut": 0.04, "cut in the answer": 0.02, "hangs": 0.01, "slow": 0.05}
PAUSE_S = 0.2
"""Between two batches of a bot: the receiver is not to be a bottleneck."""

Told = tuple[StreamKey, int, str]
"""Stream, version and kind of an alert."""


class Receiver(http.server.ThreadingHTTPServer):
    """Notes each alert that it answered to the end, by the life of the service it came from (in the address)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, seed: int, *, flaky: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rng, self.flaky = random.Random(seed), flaky
        self.lock = threading.Lock()
        self.heard: list[tuple[str, int, Told]] = []
        """(key, life, what) of everything that came, answered or not."""
        self.delivered: dict[str, list[int]] = {}
        """Lives in which a key was answered with 200."""
        self.told: set[Told] = set()
        self.delays_s: list[float] = []
        self.moods: dict[str, int] = {}
        self.faults: list[str] = []
        self.own = 0
        """Alerts of the service about itself."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def mood(self) -> str:
        with self.lock:
            found = self.rng.choices(list(MOODS), list(MOODS.values()))[0] if self.flaky else "ok"
            self.moods[found] = self.moods.get(found, 0) + 1
            return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that was killed in mid-sentence is what this is about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        came_s = time.time()
        size = int(self.headers["Content-Length"])
        raw = self.rfile.read(size)
        if len(raw) < size:
            return  # Killed in the middle of it.
        alert, life, server = json.loads(raw), int(self.path.rpartition("/")[2]), self.server
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + raw
        expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        key = alert["key"]
        told = (StreamKey(alert["model"], alert["symbol"], alert["timeframe"]), alert["version"], alert["kind"])
        mood = server.mood()
        with server.lock:
            if self.headers["webhook-signature"] != f"v1,{expected}" or self.headers["webhook-id"] != key:
                server.faults.append(f"an alert with a wrong signature or id: {key}")
            # What it says of itself (a machine that hangs, say) is about no decision, and kept nowhere.
            own = alert["kind"] == "service"
            server.own += own
            if not own:
                server.heard.append((key, life, told))
            if mood in ("ok", "slow") and not own:
                # Noted before it is answered: whoever is killed while it hears the answer has delivered.
                server.delivered.setdefault(key, []).append(life)
                server.told.add(told)
                server.delays_s.append(came_s - alert["recorded_ms"] / 1000)
        self.close_connection = True
        match mood:
            case "503":
                self._answer(503)
            case "cut":
                self._reset()
            case "cut in the answer":
                self.wfile.write(b"HTTP/1.1 20")
                self._reset()
            case "hangs":
                self.connection.settimeout(10.0)
                self.connection.recv(1)  # Until the other side gives up.
            case _:
                if mood == "slow":
                    time.sleep(0.3)
                self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class SlowBot(Bot):
    """A bot that takes its time, and whose feed breaks again and again."""

    def _batch(self) -> Any:
        self.stop.wait(PAUSE_S)
        kind, batch = super()._batch()
        if kind == "trades":
            return kind, batch
        # Not from the start: a feature that was never there is not missed.
        return kind, [
            msgspec.structs.replace(one, features={**one.features, "f0": self._value(one.ts_ms // CANDLE_MS)})
            for one in batch
            if isinstance(one, Observation)
        ]

    def _value(self, number: int) -> float | None:
        return None if number > 20 and self._rng.random() < 0.4 else 1.0


class Outcome(NamedTuple):
    """What the run came to."""

    kills: int
    starting: int
    expected: int
    requests: int
    again: int
    """Keys that came again after a kill."""
    lost: int
    phantoms: int
    twice: int
    moods: dict[str, int]
    own: int
    """What the service said of itself."""
    faults: tuple[str, ...]
    seconds: float


def torture(folder: Path, kills: int, *, bots: int = 3, seed: int = 1, control: str = "") -> Outcome:
    """Kill the service `kills` times; a control stops when it is found out."""
    began_s, rng = time.monotonic(), random.Random(seed)
    os.environ["REGIME_TORTURE_SECRET"] = SECRET
    receiver = Receiver(seed, flaky=not control)
    place = FilePlace(folder)
    service = Service(folder, place, control)
    crowd = [SlowBot(service, number, seed, control=control) for number in range(bots)]
    done = starting = phantoms = 0
    known: set[Told] = set()
    faults: list[str] = []

    def start() -> None:
        config = CONFIG.format(port=receiver.server_port, life=done)
        (folder / "config.toml").write_text(config, "utf-8")
        service.start()

    try:
        for bot in crowd:
            bot.start()
        while done < kills:
            start()
            if place.exists() and rng.random() < 0.15:
                time.sleep(rng.random() * 0.15)
                starting += 1
            else:
                service.wait_until_it_answers()
                # On a busy machine many lives would end before a single event, and the service refuse the next start.
                wait_for_progress(crowd)
                time.sleep(rng.random() ** 2 * 1.2)
            heard = len(receiver.heard)
            service.kill()
            # Let what was on its way arrive.
            while heard != (heard := len(receiver.heard)):
                time.sleep(0.05)
            time.sleep(0.05)
            done += 1
            known = _reasons(place) if place.exists() else set()
            with receiver.lock:
                phantoms = sum(told not in known for _, _, told in receiver.heard)
            faults = [fault for bot in crowd for fault in bot.faults] + receiver.faults
            if faults or (phantoms and control != "alerts-late"):
                break
        for bot in crowd:
            bot.stop.set()
        if not (phantoms or faults):
            start()
            service.wait_until_it_answers()
            for bot in crowd:
                bot.join(30)
            faults = _drain(place)
            service.kill()
            known = _reasons(place)
            faults += [fault for bot in crowd for fault in bot.faults] + receiver.faults
            if not control:
                faults += [f"lost: {told}" for told in sorted(known - receiver.told)[:3]]
    finally:
        for bot in crowd:
            bot.stop.set()
        service.close()
        receiver.shutdown()
        receiver.server_close()
    lives = receiver.delivered.values()
    return Outcome(
        done, starting, len(known), len(receiver.heard), sum(len(set(of)) > 1 for of in lives),
        len(known - receiver.told) if not phantoms else 0, phantoms,
        sum(len(of) - len(set(of)) for of in lives), dict(receiver.moods), receiver.own, tuple(faults),
        time.monotonic() - began_s,
    )  # fmt: skip


def _reasons(place: FilePlace) -> set[Told]:
    """Return what the decisions give reason to say, in the store as the kill left it."""
    found: set[Told] = set()
    with place.read() as store:
        for key in store.latest():
            before: Decision | None = None
            for after in _decisions(store, key):
                found |= {(key, after.version, kind) for kind in _kinds(before, after)}
                before = after
    return found


def _decisions(store: Store, key: StreamKey) -> Iterator[Decision]:
    version = 0
    while page := store.decisions(key, version, 1000):
        yield from page
        version = page[-1].version


FAULTS = {"stale", "non-finite", "schema-change", "engine-error"}


def _kinds(before: Decision | None, after: Decision) -> set[str]:
    """Read off states and reasons what there is to say; warm-up, where every stream begins, is no news."""
    if before is None:
        return set()
    found = set()
    for side in SIDES:
        was, told = before.sides.of(side), after.sides.of(side)
        if was.state is TradingState.ACTIVE and told.state is not TradingState.ACTIVE:
            found.add("paused")
        if was.state is not TradingState.ACTIVE and told.state is TradingState.ACTIVE:
            found |= {"resumed"} if {reason.code for reason in was.reasons} != {"warm-up"} else set()
        codes, old = {reason.code for reason in told.reasons}, {reason.code for reason in was.reasons}
        if TradingState.ACTIVE in (was.state, told.state):
            continue
        if (codes - old) & FAULTS:
            found.add("fault")
        elif (old - codes) & FAULTS and codes - {"warm-up"}:
            found.add("recovered")
    return found


def _drain(place: FilePlace) -> list[str]:
    """Wait until nothing waits any more, in the store and not only by the service's word; return what was given up."""
    until_s = time.monotonic() + 300
    while True:
        with contextlib.closing(open_store(place.where, read_only=True)) as store:
            unsent = store.messages(100_000)
        waiting = [message for message in unsent if not message.key.startswith("dead ")]
        dead = [message for message in unsent if message.key.startswith("dead ")]
        if not waiting:
            return [f"given up: {message.body.decode()}" for message in dead]
        if time.monotonic() > until_s:
            raise RuntimeError(f"{len(waiting)} alerts wait after 300 s: {waiting[0]}")
        time.sleep(0.2)


def latency(folder: Path, alerts: int, *, bots: int = 3, seed: int = 1) -> list[float]:
    """Return the seconds from writing an alert down to its arrival at a healthy receiver, sorted."""
    os.environ["REGIME_TORTURE_SECRET"] = SECRET
    receiver = Receiver(seed, flaky=False)
    service = Service(folder, FilePlace(folder), "")
    (folder / "config.toml").write_text(CONFIG.format(port=receiver.server_port, life=0), "utf-8")
    crowd = [SlowBot(service, number, seed, control="") for number in range(bots)]
    try:
        service.start()
        service.wait_until_it_answers()
        for bot in crowd:
            bot.start()
        until_s = time.monotonic() + 600
        while len(receiver.delays_s) < alerts and time.monotonic() < until_s:
            time.sleep(0.05)
    finally:
        for bot in crowd:
            bot.stop.set()
        service.close()
        receiver.shutdown()
        receiver.server_close()
    return sorted(receiver.delays_s[:alerts])


def main() -> int:
    parser = argparse.ArgumentParser(description="SIGKILL of a service that tells a flaky receiver of every pause.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--bots", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", choices=("alerts-late", "alerts-early"), help="a service that must be found out")
    parser.add_argument("--latency", type=int, metavar="ALERTS", help="no kills: how long so many alerts take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.latency:
            delays = latency(Path(folder), arguments.latency, bots=arguments.bots, seed=arguments.seed)
            rank = {p: delays[max(0, math.ceil(p / 100 * len(delays)) - 1)] for p in (50, 99)}
            print(
                f"healthy receiver: {len(delays)} alerts, p50 {rank[50]:.3f} s, p99 {rank[99]:.3f} s, "
                f"longest {delays[-1]:.3f} s"
            )
            return int(len(delays) < arguments.latency or rank[99] > 2.0)
        found = torture(
            Path(folder), arguments.kills, bots=arguments.bots, seed=arguments.seed, control=arguments.control or ""
        )
    print(
        f"{arguments.control or 'as shipped'}: {found.kills} kills ({found.starting} while starting), {found.expected} "
        f"alerts due, {found.requests} requests, {found.again} came again after a kill, {found.lost} lost, "
        f"{found.phantoms} phantoms, {found.twice} twice in one life, {len(found.faults)} other faults "
        f"({found.seconds:.0f} s)"
    )
    print("  the receiver: " + ", ".join(f"{mood} {count}" for mood, count in sorted(found.moods.items())))
    if found.own:
        print(f"  and {found.own} messages of the service about itself")
    for fault in found.faults[:5]:
        print(f"  {fault}")
    match arguments.control:
        case None:
            return int(bool(found.lost or found.phantoms or found.twice or found.faults))
        case "alerts-late":
            return int(not found.lost)
        case _:
            return int(not found.phantoms)


if __name__ == "__main__":
    sys.exit(main())
