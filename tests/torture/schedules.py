"""Simulated schedules: the real service, bots, clocks and a network, all moved by one seed.

    make schedules [SEED=n], or with tests/ in PYTHONPATH:
    python tests/torture/schedules.py [--schedules 100000] [--first 1] [--jobs 2] [--seed N] [--control NAME]

The service is all of it but the socket: settings, HTTP application, leases, board, runner, engine. Its writer is driven
by hand instead of by a thread, its store is in memory (`tests/memory_store.py`, which passes the contract of stores),
its clocks are wound. One schedule is some ten minutes of true time, and whatever it is made of comes from one seed:

* requests and answers are lost, late by up to 90 s, doubled and out of order; some are garbled; bots are cut off;
* the service is killed (also just before and just after a commit), stopped, restarted, put to sleep; its disk fails or
  hangs; its store is restored from a back-up or replaced by an empty one; its wall clock jumps by up to an hour;
* data stop, lack a value or a feature, come late; a trade breaks the engine, another one makes a rule pause;
* an operator says HALTED, REDUCING, ACTIVE, with and without an end, and takes it back;
* one to three bots poll or post, by the model client of `schedules_client.py`; they are put to sleep, too. They try to
  enter every few seconds, and whenever the oracle thinks it would be worst.

`schedules_oracle.py` says what must never happen. At the end of each schedule the log is replayed: same decisions.

Exit codes: 0 nothing unsafe happened (a control: something did), 1 it was the other way round.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import heapq
import json
import logging
import math
import multiprocessing
import random
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

from memory_store import Content, Medium, MemoryStore
from schedules_client import BROKEN, SIDES, Client
from schedules_oracle import LOOK_S, POLLED_S, POSTED_S, SLACK_S, TF_S, Oracle

from regime import codec
from regime.decision import decision_bytes
from regime.events import StreamKey, Tick, source_key
from regime.fleet import Fleet
from regime_service import app as app_module
from regime_service.app import Service
from regime_service.clock import GuardedClock
from regime_service.ports import Receipt
from regime_service.runners import embedded
from regime_service.runners.embedded import EmbeddedRunner
from regime_service.settings import from_toml
from regime_service.stores import StoreFailed
from regime_service.stores.rows import epoch_after, new_ulid

BEGIN_S = 1_800_000_000.0
KEYS = (StreamKey("m", "BTC/USDT:USDT", "1m"), StreamKey("m", "ETH/USDT:USDT", "1m"))
QUERIES = {key: f"model=m&symbol={key.symbol.replace('/', '%2F')}&timeframe=1m".encode() for key in KEYS}
SERVICE_CONTROLS = (
    "ack-early", "renews-stale", "service-stands-still", "same-epoch", "unlogged-ticks", "believes-clock",
)  # fmt: skip
WRONG_MAX = 20
"""Unsafe schedules after which there is nothing more to learn from others."""
CONTROLS = (*BROKEN, *SERVICE_CONTROLS)


class Crash(BaseException):
    """The process of the service dies."""


@types.coroutine
def _later() -> Generator[None, None, None]:
    yield


class HandDriven(EmbeddedRunner):
    """The runner without its thread: whoever drives it calls `turn` where the thread would come round."""

    def start(self) -> None:
        with self._lock:
            self._recover()

    def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._store.close()

    def turn(self) -> None:
        try:
            self._round()
        except Crash:
            raise
        except BaseException as error:
            self._fail(str(error))

    async def ingest(self, events: Any, **options: Any) -> Receipt:
        done = self.submit(events, **options)
        while not done.done():
            await _later()
        return done.result()


class AckEarly(HandDriven):
    """The control that answers before anything is on disk."""

    async def ingest(self, events: Any, **options: Any) -> Receipt:
        self.submit(events, **options).add_done_callback(lambda done: done.exception())
        return Receipt(len(events), 0, 0, 0, (), ())


class NoTicks(HandDriven):
    """The control that renews leases (`World.reply` sees to that) and never looks at the clock."""

    def _due(self) -> None:
        return None


class Unlogged(HandDriven):
    """The control that lets time pass without a word in the log."""

    def _step(self, event: Any, raw: bytes, shown: dict[StreamKey, None]) -> Any:
        if not isinstance(event, Tick):
            return super()._step(event, raw, shown)
        steps = self._fleet.step(event)
        for key, step in steps:
            shown[key] = None
            if step.changed:
                self._store.put_decision(self._last_seq, step.decision)
        return steps


RUNNERS = {"ack-early": AckEarly, "renews-stale": NoTicks, "unlogged-ticks": Unlogged}


class House:
    """The real service, started again and again in one process; routes are made once, for that takes longest."""

    def __init__(self) -> None:
        settings = from_toml(
            {
                "warmup_observations": 1, "cooldown_candles": 1, "probation_candles": 2, "detectors": [],
                "rules": [{"kind": "schedules_plugins.Moody"}],
                "store": {"file": "never-made.db", "snapshot_every": 7}, "archive": {"enabled": False},
            },
            source="schedules",
        )  # fmt: skip
        self.world: World
        self.guarded = GuardedClock()
        self.service = Service(settings, clock=self)
        self.service.look_after_store = list  # type: ignore[method-assign, assignment]
        self.app = self.service.http()

    def now_ms(self) -> int:
        return self.guarded.now_ms()

    def not_before(self, ms: int) -> None:
        self.guarded.not_before(ms)

    def behind(self) -> str | None:
        return None if self.world.control == "believes-clock" else self.guarded.behind()

    def monotonic(self) -> float:
        return self.world.monotonic()

    def start(self, world: World) -> None:
        """Begin a life of the service on what its medium holds."""
        self.world = world
        service = self.service
        service.board.__init__()  # type: ignore[misc]
        service._runner, service._store, service._cannot_start, service._epoch = None, None, None, ""
        service._starting, service._stopped = None, False
        # A life that ends before anything was judged is nothing unusual here.
        service._rehearsed = lambda: True  # type: ignore[method-assign]
        service.start()

    @contextlib.contextmanager
    def patched(self, control: str) -> Iterator[None]:
        """Put the hand-driven parts where the service looks for the usual ones."""
        logging.disable(logging.CRITICAL)
        try:
            with (
                mock.patch.object(app_module, "open_store", lambda where: MemoryStore(self.world.medium)),
                mock.patch.object(app_module, "EmbeddedRunner", RUNNERS.get(control, HandDriven)),
                mock.patch.object(embedded, "TICK_EVERY_S", 0),
                mock.patch.object(embedded, "fingerprint", lambda config: "schedules"),
                mock.patch.object(embedded, "time", types.SimpleNamespace(monotonic=self.monotonic)),
            ):
                yield
        finally:
            logging.disable(logging.NOTSET)


class Request:
    """Something asked of the service, on its way."""

    __slots__ = ("asked", "asked_s", "body", "bot", "headers", "method", "path", "query", "sent")

    def __init__(
        self, method: str, path: str, query: bytes = b"", body: bytes = b"", *, etag: str = "", bot: Bot | None = None,
        asked: Any = None, asked_s: float = 0.0, sent: dict[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.method, self.path, self.query, self.body = method, path, query, body
        self.headers = [(b"host", b"127.0.0.1")]
        if etag:
            self.headers.append((b"if-none-match", etag.encode()))
        if body:
            self.headers.append((b"content-type", b"application/json"))
        self.bot, self.asked, self.asked_s, self.sent = bot, asked, asked_s, sent or {}


class Answer:
    """What the application sends."""

    __slots__ = ("_body", "_taken", "body", "headers", "status")

    def __init__(self, body: bytes) -> None:
        self._body, self._taken = body, False
        self.status, self.headers, self.body = 0, dict[str, str](), b""

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


class Bot:
    """A bot: its client, its clock, its habits."""

    def __init__(self, world: World, number: int, key: StreamKey, client: type[Client]) -> None:
        rng = world.rng
        self.world, self.key, self.name = world, key, f"bot {number}"
        self.drift = rng.uniform(-1e-4, 1e-4)
        self.wall_s = 0.0
        self.asleep_s, self.sleeps_until_s = 0.0, -1.0
        self.cut_until_s = -1.0
        self.posts = number < len(world.keys)
        self.polls = not self.posts or rng.random() < 0.6
        self.poll_s = rng.choice((10.0, 20.0, 30.0, 45.0))
        self.patient = rng.random() < 0.5
        """Takes answers that come after its time-out, too."""
        clock = {"WallClock": self._wall, "StandsStill": self._awake}.get(client.__name__, self._monotonic)
        self.client = client(tuple(key), clock)

    def __str__(self) -> str:
        return self.name

    def _monotonic(self) -> float:
        return self.world.t * (1 + self.drift)

    def _awake(self) -> float:
        return self.world.t - self.asleep_s

    def _wall(self) -> float:
        return self.world.t + self.wall_s

    def poll(self) -> None:
        world = self.world
        if world.t < self.sleeps_until_s:
            world.at(self.sleeps_until_s, self.poll)
            return
        self.ask()
        world.at(world.t + self.poll_s * world.rng.uniform(0.9, 1.1), self.poll)

    def ask(self) -> None:
        asked, t = self.client.ask(), self.world.t
        self.world.send(
            Request("GET", "/v1/thresholds", QUERIES[self.key], etag=asked.etag, bot=self, asked=asked, asked_s=t)
        )

    def sleep(self, seconds: float) -> None:
        """Sleep, and look at once when awake."""
        world = self.world
        world.note(f"{self} sleeps for {seconds:.0f} s")
        self.sleeps_until_s = world.wakes_s = world.t + seconds
        world.at(self.sleeps_until_s, lambda: self.wake(seconds))

    def wake(self, seconds: float) -> None:
        self.asleep_s += seconds
        self.tempt()
        if self.polls:
            self.ask()
            self.world.at(self.world.t + 0.3, self.tempt)

    def cut_off(self, seconds: float) -> None:
        self.world.note(f"{self} is cut off for {seconds:.0f} s")
        self.cut_until_s = self.world.t + seconds

    def post(self, path: str, body: bytes, sent: dict[str, bytes], tries: int = 3) -> None:
        """Send an event, and again until it is acknowledged."""
        world = self.world
        if (
            tries == 0
            or (sent and all(key in world.oracle.acknowledged for key in sent))
            or world.t < self.sleeps_until_s
        ):
            return
        asked = self.client.ask()._replace(etag="")
        world.send(Request("POST", path, body=body, bot=self, asked=asked, asked_s=world.t, sent=sent))
        world.at(world.t + world.rng.uniform(3, 8), lambda: self.post(path, body, sent, tries - 1))

    def hear(self, request: Request, status: int, headers: dict[str, str], body: bytes) -> None:
        world = self.world
        if world.t < self.sleeps_until_s:
            world.at(self.sleeps_until_s, lambda: self.hear(request, status, headers, body))
            return
        if not self.patient and world.t - request.asked_s > 1.0:
            return
        world.note(f"{self} hears {status}, asked {world.t - request.asked_s:.2f} s ago")
        world.oracle.hears(self, request.asked_s, status, body, self.key)
        self.client.answered(request.asked, status, headers, body)
        world.temptations(self, request.asked_s)

    def tempt(self) -> None:
        """Look whether it may enter, and do."""
        world = self.world
        if world.t < self.sleeps_until_s:
            return
        for side in SIDES:
            state = self.client.state(side)
            world.oracle.looks(world.t, self, side, state)
            world.counts["looks"] += 1
            if state == "ACTIVE":
                world.counts["entries"] += 1
                world.oracle.enters(world.t, self, self.key, side, posts=self.posts)
            else:
                world.refused(self, side)


class World:
    """One schedule."""

    def __init__(self, house: House, seed: int, control: str = "", trace: bool = False) -> None:
        self.house, self.seed, self.control = house, seed, control
        self.rng = random.Random(seed)
        self.trace: list[str] | None = [] if trace else None
        self.t = BEGIN_S
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.n = 0
        self.counts: Counter[str] = Counter()
        self.oracle = Oracle()
        self.alive = False
        self.sleeps_until_s, self.asleep_s = -1.0, 0.0
        self.wakes_s = -1.0
        """When the last sleeper wakes: a schedule goes on a while after that."""
        self.hangs_until_s = -1.0
        self.wall_s = 0.0
        self.behind = False
        """Its clock is known to be wrong: nobody is answered."""
        self.life = 0
        self.parked: list[Request] = []
        self.inflight: list[tuple[Request, Answer, Any]] = []
        self.turn_due = False
        self.tick_at_s = float("inf")
        self.slow_until_s = self.lossy_until_s = -1.0
        self.keys = KEYS[: self.rng.choice((1, 1, 2))]
        self.feeding = dict.fromkeys(self.keys, 0.0)
        """Until when a stream's data stop."""
        self.trades = 0
        self.overrides: list[str] = []
        self.medium = Medium(new_ulid(int(BEGIN_S * 1000), self.rng.randbytes(10)))
        self.medium.strike = self.strike
        self.planned = ""
        self.backup: Content | None = None
        kind = BROKEN.get(control, Client)
        count = self.rng.choice((1, 2, 3)) if len(self.keys) == 1 else self.rng.choice((2, 3))
        self.bots = [Bot(self, i, self.keys[i % len(self.keys)], kind) for i in range(count)]

    # --- time ---

    def at(self, t: float, act: Callable[[], None]) -> None:
        self.n += 1
        heapq.heappush(self.heap, (t, self.n, act))

    def note(self, words: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.t - BEGIN_S:9.3f}  {words}")

    def monotonic(self) -> float:
        """The clock of the service's machine that nobody sets; it goes on in sleep (the control's does not)."""
        return self.t - (self.asleep_s if self.control == "service-stands-still" else 0.0)

    def wall(self) -> float:
        return self.t + self.wall_s

    # --- the service's life ---

    def start(self) -> None:
        if self.alive:
            return
        self.life += 1
        self.house.guarded = GuardedClock(self.wall, self.monotonic)
        self.oracle.started(max(0.0, -self.wall_s))
        try:
            self.house.start(self)
        except Crash:
            self.note("the service dies while it starts")
            self.at(self.t + self.rng.uniform(1, 10), self.start)
            return
        self.alive = True
        self.hangs_until_s, self.tick_at_s = -1.0, math.inf
        self.note(f"the service starts, epoch {self.medium.epoch[:14]}, {len(self.medium.content.events)} events")
        self.observe(by_time=False)
        if self.house.service._runner is None:
            self.at(self.t + self.rng.uniform(5, 30), self.restart)

    def die(self, words: str) -> None:
        if not self.alive:
            return
        self.alive = False
        self.note(words)
        for _, _, coroutine in self.inflight:
            coroutine.close()
        self.inflight.clear()
        self.parked.clear()
        self.turn_due = False
        self.oracle.committed(self.t, self.medium.content.events)
        self.tempted(self.oracle.stands(self.t, {}))

    def restart(self) -> None:
        self.die("the service is killed")
        self.at(self.t + self.rng.choice((0.5, 3.0, 20.0, 80.0)), self.start)

    def stop(self) -> None:
        if self.alive and not self.asleep and self.house.service._runner is not None:
            self.turn()
        if self.alive:
            self.house.service.stop()
            self.restart()

    def strike(self, moment: str) -> None:
        """What the disk does at a commit."""
        if self.planned.endswith(moment):
            kind, self.planned = self.planned.split()[0], ""
            self.note(f"{kind} {moment} a commit")
            if kind == "crash":
                raise Crash
            raise StoreFailed("the disk reports an error")

    @property
    def asleep(self) -> bool:
        return self.t < self.sleeps_until_s

    def sleep(self, seconds: float) -> None:
        if self.alive and not self.asleep:
            self.note(f"the service's machine sleeps for {seconds:.0f} s")
            self.sleeps_until_s = self.wakes_s = self.t + seconds
            self.tempted(self.oracle.stands(self.t, {}))
            self.at(self.sleeps_until_s, lambda: self.wake(seconds))

    def wake(self, seconds: float) -> None:
        self.asleep_s += seconds
        self.oracle.disturbed_s = self.t
        self.note("the service's machine wakes")
        if not self.alive:
            return
        # Questions that waited are answered before or after the writer has looked at the clock.
        self.at(self.t + self.rng.uniform(0, LOOK_S * 0.8), self.turn)
        parked, self.parked = self.parked, []
        for request in parked:
            self.at(self.t + self.rng.uniform(0, 0.2), functools.partial(self.arrive, request))
        self.tempted(self.oracle.stands(self.t, self.house.service.board.now.decisions))

    def jump(self, seconds: float) -> None:
        self.note(f"the service's wall clock jumps by {seconds:.0f} s")
        self.wall_s = max(-3600.0, min(3600.0, self.wall_s + seconds))
        self.oracle.lag_s = min(self.oracle.lag_s, max(0.0, -self.wall_s))
        self.oracle.disturbed_s = self.t
        if self.alive and not self.asleep:
            self.at(self.t + self.rng.uniform(0, LOOK_S * 0.8), self.turn)

    def hang(self, seconds: float) -> None:
        if self.alive:
            self.note(f"the disk hangs for {seconds:.0f} s")
            self.hangs_until_s = self.t + seconds
            self.oracle.disturbed_s = self.hangs_until_s
            runner = self.house.service._runner
            if runner is not None:  # it may not have started on a store that it cannot write
                runner._doing, runner._group_since_s = (embedded._STORE, self.monotonic()), self.monotonic()
            self.at(self.hangs_until_s, self.turn)

    def restore(self, content: Content | None) -> None:
        """The store is replaced, by a back-up or by an empty one."""
        self.die(
            "the service is stopped, its store replaced by " + ("an empty one" if content is None else "a back-up")
        )
        # A back-up that is opened, or an empty store that is made, gets its epoch from the wall clock of that moment.
        epoch = epoch_after(self.medium.epoch, int(self.t * 1000))
        if self.control == "same-epoch":
            epoch = self.medium.epoch
        self.medium = Medium(epoch, content)
        self.medium.strike = self.strike
        self.oracle.restored(self.t, self.medium.content.events)
        self.at(self.t + self.rng.uniform(0.5, 20), self.start)

    # --- its writer ---

    def turn(self) -> None:
        """The writer comes round."""
        self.turn_due = False
        if not self.alive or self.asleep or self.house.service._runner is None:
            return
        if self.t < self.hangs_until_s:
            return
        runner = self.house.service._runner
        assert isinstance(runner, HandDriven)
        runner._doing = None  # a hang that is over
        before = len(self.medium.content.events)
        waiting = runner.queue_depth
        try:
            runner.turn()
        except Crash:
            self.die("the service dies")
            self.at(self.t + self.rng.choice((0.5, 3.0, 20.0, 80.0)), self.start)
            return
        self.oracle.committed(self.t, self.medium.content.events)
        self.observe(by_time=waiting == 0)
        if self.trace is not None and len(self.medium.content.events) > before:
            told = {
                (key.symbol[:3], side, (d := decision.sides.of(side)).state.value, *(r.code for r in d.reasons))
                for key, decision in self.house.service.board.now.decisions.items() for side in SIDES
            }  # fmt: skip
            self.note(f"{len(self.medium.content.events) - before} events committed: {sorted(told)}")
        inflight, self.inflight = self.inflight, []
        for request, answer, coroutine in inflight:
            self.step(request, answer, coroutine)
        if runner.failed is not None and self.alive:
            self.at(self.t + 2.0, self.restart)

    def observe(self, *, by_time: bool) -> None:
        service = self.house.service
        ready = service.health().ready
        self.tempted(self.oracle.stands(self.t, service.board.now.decisions if ready else {}, by_time=by_time))
        self.behind = self.house.behind() is not None
        if self.behind:
            self.come_round_at(self.t + 1.0)
        elif ready and service.config.clock == "wall":
            self.arm()

    def arm(self) -> None:
        """See that the writer comes round when the clock makes something due."""
        runner, now_ms = self.house.service.runner, self.house.guarded.now_ms()
        due = [engine.next_change_ms() for engine in map(runner.fleet.engine, runner.fleet)]
        next_ms = min((ms for ms in due if ms is not None), default=None)
        if next_ms is not None:
            self.come_round_at(self.t + max(0.0, (next_ms - now_ms) / 1000) + self.rng.uniform(0.001, LOOK_S * 0.8))

    def come_round_at(self, at_s: float) -> None:
        if not self.t < self.tick_at_s <= at_s:
            self.tick_at_s = at_s
            life = self.life
            self.at(at_s, lambda: self.turn() if self.life == life else None)

    # --- the network ---

    def send(self, request: Request) -> None:
        rng, bot = self.rng, request.bot
        if bot is not None and self.t < bot.cut_until_s:
            return
        for _ in range(2 if rng.random() < 0.03 else 1):
            if rng.random() >= self.loss():
                self.at(self.t + self.delay(), lambda: self.arrive(request))

    def loss(self) -> float:
        return 0.3 if self.t < self.lossy_until_s else 0.01

    def delay(self) -> float:
        rng = self.rng
        if rng.random() < (0.3 if self.t < self.slow_until_s else 0.02):
            return rng.choice((rng.uniform(0.2, 2), rng.uniform(1, 90)))
        return rng.expovariate(50)

    def arrive(self, request: Request) -> None:
        if not self.alive:
            return
        if self.asleep:
            self.parked.append(request)
            return
        if self.behind:
            self.observe(by_time=True)  # it looks with every question
        answer = Answer(request.body)
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method,
            "path": request.path, "raw_path": request.path.encode(), "query_string": request.query, "root_path": "",
            "scheme": "http", "headers": request.headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        self.step(request, answer, self.house.app(scope, answer.receive, answer.send))

    def step(self, request: Request, answer: Answer, coroutine: Any) -> None:
        """Let the application go on with a request as far as it comes without the writer."""
        try:
            coroutine.send(None)
        except StopIteration:
            self.reply(request, answer)
            # An early answer leaves its event in the queue.
            pending = self.house.service._runner is not None and self.house.service._runner.queue_depth > 0
        else:
            self.inflight.append((request, answer, coroutine))
            pending = True
        if pending and not self.turn_due:
            self.turn_due = True
            self.at(self.t + self.rng.uniform(0.001, 0.02), self.turn)

    def reply(self, request: Request, answer: Answer) -> None:
        rng, bot, body = self.rng, request.bot, answer.body
        self.counts["answers"] += 1
        self.counts[f"answers {answer.status}"] += 1
        if self.control == "renews-stale":
            body = body.replace(b'"valid_for_ms":0,', b'"valid_for_ms":60000,')
            answer.headers = {**answer.headers, "regime-valid-for-ms": "60000"}
        self.oracle.answered(self.t, answer.status, body, request.sent)
        if bot is None:
            return
        if answer.status == 200 and rng.random() < 0.01:
            body = rng.choice((b"<html>proxy</html>", body[: len(body) // 2], body.replace(b"ACTIVE", b"PAUSED_V2")))
        for _ in range(2 if rng.random() < 0.03 else 1):
            if rng.random() >= self.loss():
                self.at(
                    self.t + self.delay(),
                    lambda: (
                        None if self.t < bot.cut_until_s else bot.hear(request, answer.status, answer.headers, body)
                    ),
                )

    # --- the bots' temptations ---

    def tempted(self, ended: Sequence[Any]) -> None:
        """An ACTIVE has ended: have the bots try at once, and again where the last lease on it is over."""
        if ended:
            for bot in self.bots:
                bound_s = POSTED_S if bot.posts else POLLED_S
                for later_s in (LOOK_S + 0.1, bound_s / 2, bound_s + SLACK_S + 0.05, bound_s + 1.0):
                    self.at(self.t + later_s, bot.tempt)

    def temptations(self, bot: Bot, asked_s: float) -> None:
        """An answer was heard: have the bot try where its lease is over."""
        after_s = asked_s + (POSTED_S if bot.posts else POLLED_S) + SLACK_S + 0.05
        if after_s > self.t:
            self.at(after_s, bot.tempt)

    def refused(self, bot: Bot, side: str) -> None:
        """Count what a bot leaves out although the service stands by an ACTIVE, and whether it had reason to."""
        force = self.oracle.force[bot.key, side]
        if force.now and self.alive and not self.asleep:
            self.counts["refused while ACTIVE"] += 1
            asked_ago_s = self.t - self.oracle.heard_s[bot]
            if self.t - force.since_s > 2 * bot.poll_s and asked_ago_s < bot.poll_s:
                self.counts["refused without cause"] += 1

    def try_often(self, bot: Bot) -> None:
        bot.tempt()
        self.at(self.t + self.rng.uniform(3, 12), lambda: self.try_often(bot))

    # --- what happens ---

    def feed(self, key: StreamKey, poster: Bot, candle: int) -> None:
        """A candle has closed: its observation is sent, perhaps a trade with it."""
        rng = self.rng
        self.at(BEGIN_S + (candle + 2) * TF_S + rng.uniform(0.1, 3), lambda: self.feed(key, poster, candle + 1))
        if self.t < self.feeding[key]:
            return
        ts_ms = int((BEGIN_S + candle * TF_S) * 1000)
        features: dict[str, Any] = {"a": float(candle % 7), "b": float(candle % 5)}
        if candle > 0 and (chance := rng.random()) < 0.04:
            features = (
                {"a": 1.0, "b": None} if chance < 0.02 else {"a": 1.0} if chance < 0.03 else {**features, "c": 1.0}
            )
        if rng.random() < 0.02:
            ts_ms -= int(3 * TF_S * 1000)  # a late one, or another content for what is known
        body = {"model": "m", "symbol": key.symbol, "timeframe": "1m", "ts_ms": ts_ms, "features": features}
        if rng.random() < 0.02:
            poster.post("/v1/observations", json.dumps({**body, "features": {"a": math.nan}}).encode(), {}, tries=1)
        self.post(poster, "/v1/observations", body, "observation")
        if rng.random() < 0.25:
            self.trade(key, poster, rng.choices((0.01, -0.01, -0.5), (0.6, 0.38, 0.02))[0])

    def trade(self, key: StreamKey, poster: Bot, profit_ratio: float) -> None:
        self.trades += 1
        at_ms = int(self.t * 1000)
        body = {
            "model": "m", "symbol": key.symbol, "timeframe": "1m", "trade_id": str(self.trades),
            "side": self.rng.choice(SIDES), "opened_ms": at_ms - 60_000, "closed_ms": at_ms, "entry_price": 1.0,
            "exit_price": 1.0, "profit_ratio": profit_ratio,
        }  # fmt: skip
        self.post(poster, "/v1/trades", body, "trade")

    def post(self, poster: Bot, path: str, body: dict[str, Any], tag: str) -> None:
        event = parsed(body, tag)
        poster.post(path, json.dumps(body).encode(), {source_key(event): codec.encode(event)})

    def override(self) -> None:
        rng = self.rng
        state = rng.choice(("HALTED", "REDUCING", "ACTIVE", "ACTIVE"))
        name = f"o{self.n}"
        body: dict[str, Any] = {"id": name, "model": "m", "state": state, "actor": "ana", "reason": "an exercise"}
        if rng.random() < 0.5:
            body["side"] = rng.choice(SIDES)
        if rng.random() < 0.6:
            body["until_ms"] = int((self.wall() + rng.choice((5, 30, 90, 200))) * 1000)
        self.note(f"the operator says {state}, until {body.get('until_ms')}")
        self.arrive(Request("POST", "/v1/overrides", body=json.dumps(body).encode()))
        if rng.random() < 0.2:
            self.at(self.t + rng.uniform(20, 60), lambda: rng.choice(self.bots).cut_off(150.0))
        if rng.random() < 0.7:
            self.at(self.t + rng.uniform(5, 240), lambda: self.arrive(Request("DELETE", f"/v1/overrides/{name}")))

    def mend(self) -> None:
        """The operator looks after dead letters."""
        if self.alive and not self.asleep and self.house.service._runner is not None:
            for letter in self.house.service.dead_letters():
                self.note(f"the operator drops dead letter {letter.id}")
                command = parsed(
                    {
                        "id": f"d{self.n}", "action": "drop", "ts_ms": int(self.wall() * 1000), "actor": "ana",
                        "letter": letter.id, **letter.key._asdict(),
                    },
                    "command",
                )  # fmt: skip
                with contextlib.suppress(Exception):
                    self.house.service.runner.submit([command]).add_done_callback(lambda done: done.exception())
            self.turn()
        self.at(self.t + self.rng.uniform(60, 180), self.mend)

    def trouble(self) -> None:
        """One thing goes wrong."""
        rng, bot = self.rng, self.rng.choice(self.bots)
        match rng.randrange(17):
            case 0:
                self.restart()
            case 1:
                self.planned = rng.choice(("crash before", "crash after"))
            case 2:
                self.planned = rng.choice(("fail before", "fail after"))
            case 3:
                self.stop()
            case 4:
                self.restore(self.backup or self.medium.content)
            case 5:
                self.restore(None)
            case 6:
                self.jump(rng.choice((3600.0, -3600.0, rng.uniform(-300, 300))))
            case 7:
                seconds = rng.choice((5.0, 60.0, 200.0, 600.0))
                self.sleep(seconds)
                for bot in self.bots if rng.random() < 0.5 else ():
                    bot.sleep(seconds)  # on the same machine
                if rng.random() < 0.3:
                    self.at(self.wakes_s, lambda: self.jump(-3600.0))
            case 8:
                self.hang(rng.choice((2.0, 8.0, 30.0)))
            case 9:
                bot.cut_off(rng.choice((20.0, 70.0, 150.0)))
            case 10:
                self.slow_until_s = self.t + 120
                self.note("the network is slow")
            case 11:
                self.lossy_until_s = self.t + 120
                self.note("the network loses a third")
            case 12 | 13:
                key = rng.choice(self.keys)
                self.feeding[key] = self.t + TF_S * rng.choice((1, 4, 6))
                self.note(f"data of {key.symbol} stop for {self.feeding[key] - self.t:.0f} s")
            case 14:
                bot.sleep(rng.choice((10.0, 90.0, 600.0)))
            case 15:
                bot.wall_s += rng.choice((3600.0, -3600.0, -90.0))
                self.note(f"{bot}'s wall clock stands {bot.wall_s:.0f} s off")
                if rng.random() < 0.5:
                    bot.cut_off(150.0)
            case _:
                # A machine that comes back with a clock that stands in the past.
                self.restart()
                self.wall_s = -3600.0
                self.oracle.disturbed_s = self.t
                self.note("the machine's clock comes back an hour late")
                if rng.random() < 0.5:
                    self.at(self.t + rng.uniform(1, 200), lambda: self.jump(-self.wall_s))

    def run(self, seconds: float = 480.0) -> None:
        """Play the schedule and judge it."""
        rng = self.rng
        self.at(self.t, self.start)
        for key, poster in zip(self.keys, self.bots, strict=False):
            self.at(BEGIN_S + TF_S + rng.uniform(0.1, 3), functools.partial(self.feed, key, poster, 0))
        for bot in self.bots:
            if bot.polls:
                self.at(self.t + TF_S + rng.uniform(3, 20), bot.poll)
            self.at(self.t + TF_S + rng.uniform(3, 20), functools.partial(self.try_often, bot))
        for _ in range(rng.choice((0, 1, 2, 2, 3))):
            self.at(self.t + rng.uniform(90, seconds - 150), self.trouble)
        for _ in range(rng.choice((0, 0, 1, 2))):
            self.at(self.t + rng.uniform(70, seconds - 150), self.override)
        self.at(self.t + rng.uniform(60, 300), self.keep_backup)
        self.at(self.t + rng.uniform(60, 240), self.mend)
        until = self.t + seconds
        while self.heap and self.heap[0][0] < max(until, self.wakes_s + 150):
            t, _, act = heapq.heappop(self.heap)
            self.t = max(self.t, t)
            act()
        self.finish()

    def keep_backup(self) -> None:
        self.backup = self.medium.content

    def finish(self) -> None:
        self.die("the schedule ends")
        content = self.medium.content
        self.counts["events"] += len(content.events)
        self.oracle.finish(content.events)
        fleet = Fleet(self.house.service.config, {}.__getitem__)
        decided: dict[StreamKey, list[tuple[int, bytes]]] = {}
        for _, raw in content.events.values():
            for key, step in fleet.step(codec.decode(raw)):
                if step.changed:
                    decided.setdefault(key, []).append((step.decision.version, decision_bytes(step.decision)))
        for key, kept in content.decisions.items():
            if list(kept) != decided.get(key):
                self.oracle.wrong.append(f"a replay of the log decides otherwise for {key.symbol}")


def parsed(body: dict[str, Any], tag: str) -> Any:
    """Return the event that a body means."""
    return codec.decode(json.dumps({"kind": tag, **body}).encode())


class Found(NamedTuple):
    """What schedules came to. `wrong` names the seed of each and what happened first."""

    schedules: int
    counts: Counter[str]
    with_entries: int
    wrong: tuple[tuple[int, str], ...]
    seconds: float


_house: House | None = None


def play(seed: int, control: str = "", *, trace: bool = False) -> World:
    """Play one schedule; the same seed is the same schedule."""
    global _house  # noqa: PLW0603 - one service a process: its routes take longer to make than ten schedules
    _house = _house or House()
    with _house.patched(control):
        world = World(_house, seed, control, trace)
        _house.world = world
        world.run()
    return world


def schedules(seeds: Sequence[int], control: str = "") -> Found:
    """Play all of them, one after the other."""
    began_s, counts, with_entries = time.process_time(), Counter[str](), 0
    wrong: list[tuple[int, str]] = []
    for seed in seeds:
        world = play(seed, control)
        counts += world.counts
        with_entries += world.counts["entries"] > 0
        if world.oracle.wrong:
            wrong.append((seed, world.oracle.wrong[0]))
    return Found(len(seeds), counts, with_entries, tuple(wrong), time.process_time() - began_s)


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated schedules of service, network, clocks and bots.")
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no more schedules after so long")
    parser.add_argument("--seed", type=int, help="play this one only, and print what happens")
    parser.add_argument("--control", choices=CONTROLS, default="", help="something unsafe that must be found out")
    parser.add_argument("--list-controls", action="store_true", help="print the names of the controls")
    arguments = parser.parse_args()
    if arguments.list_controls:
        print("\n".join(CONTROLS))
        return 0
    if arguments.seed is not None:
        world = play(arguments.seed, arguments.control, trace=True)
        print("\n".join(world.trace or ()))
        print("\n".join(f"UNSAFE {words}" for words in world.oracle.wrong) or "nothing unsafe")
        return int(bool(world.oracle.wrong) == (not arguments.control))
    seeds = range(arguments.first, arguments.first + arguments.schedules)
    parts = [seeds[at : at + 100] for at in range(0, len(seeds), 100)]
    began_s, found = time.monotonic(), Found(0, Counter(), 0, (), 0.0)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for part in pool.imap_unordered(functools.partial(schedules, control=arguments.control), parts):
            found = Found(
                found.schedules + part.schedules, found.counts + part.counts, found.with_entries + part.with_entries,
                (*found.wrong, *part.wrong), found.seconds + part.seconds,
            )  # fmt: skip
            if len(found.wrong) >= WRONG_MAX and not arguments.control:
                break
            if time.monotonic() - began_s > arguments.minutes * 60:
                break
            if sys.stderr.isatty():
                print(f"\r{found.schedules} schedules, {len(found.wrong)} unsafe", end="", file=sys.stderr)
    n = found.counts
    looks, each = max(1, n["looks"]), max(1, found.schedules)
    print(
        f"{arguments.control or 'as shipped'}: {found.schedules} schedules from seed {arguments.first}, "
        f"{len(found.wrong)} unsafe; {n['answers']} answers, {n['events']} events in the logs, {n['looks']} looks, "
        f"{n['entries']} entries in {found.with_entries} schedules; refused while the service stood by ACTIVE: "
        f"{n['refused while ACTIVE'] / looks:.2%} of looks, {n['refused without cause'] / looks:.2%} without cause; "
        f"{found.seconds / each * 1000:.1f} ms CPU each ({time.monotonic() - began_s:.0f} s)"
    )
    for seed, words in sorted(found.wrong)[:10]:
        print(f"  SEED={seed}: {words}")
    return int(bool(found.wrong) == (not arguments.control))


if __name__ == "__main__":
    sys.exit(main())
