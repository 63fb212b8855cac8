"""The service beside a simple model of its contract, in any order of calls that hypothesis can think of.

    machines(runs, seed) -> Played

A run is one service with a store of its own and up to `STEPS` calls: candles, repetitions, conflicts, late and
refused ones, trades, equity, overrides made and ended, time that passes, restarts. After every call each stream is
asked for, and must be told what the model says: which state, never an older version, always the same epoch. At the
end of a run the store is verified and its log replayed: the same digest, the same decisions.

The model knows nothing of detectors or rules (there are too few outcomes here for any of them to speak): faults of the
data, operators, time, and who comes before whom.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock
from urllib.parse import quote

import hypothesis.strategies as st
import uvloop
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from target import CANDLE_MS, HOST, START_MS, Answer, Asked, Target, post

from regime.decision import decision_bytes
from regime.events import SIDES
from regime_service.runners import embedded

STEPS = 25
WARMUP = 3
STALE_CANDLES = 3
SYMBOLS = ("A/USDT", "B/USDT:USDT")
TOLD_WITHIN_S = 10.0
"""How long silence may take to be judged; the writer looks at the clock all the time, but machines are busy."""
SHAPES = ("good", "good", "good", "missing", "extra", "null")


class Stream:
    """What the model knows of one stream."""

    def __init__(self) -> None:
        self.newest_ms: int | None = None
        self.count = 0
        self.clock_ms = 0
        self.joining = False
        self.known: frozenset[str] = frozenset()
        self.nullable: set[str] = set()
        self.wrong = False
        self.halted = dict.fromkeys(SIDES, False)
        self.awaiting = dict.fromkeys(SIDES, False)
        self.version = 0

    def observed(self, ts_ms: int, features: dict[str, float | None]) -> None:
        self.newest_ms, self.count = ts_ms, self.count + 1
        self.known = self.known or frozenset(features)
        absent = {name for name in self.known if name in features and features[name] is None}
        if self.count <= WARMUP:
            self.nullable |= absent
        self.wrong = frozenset(features) != self.known or bool(absent - self.nullable)

    def faulty(self, now_ms: int) -> bool:
        if self.newest_ms is None or self.count < WARMUP:
            return True
        return self.wrong or now_ms - (self.newest_ms + CANDLE_MS) >= STALE_CANDLES * CANDLE_MS


class Machine(RuleBasedStateMachine):
    """One run."""

    counts: ClassVar[Counter[str]] = Counter()
    loop: ClassVar[asyncio.Runner]
    base: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="regime-stateful-", dir=self.base))
        self.target: Target | None = None

    @initialize(clock=st.sampled_from(["wall", "event"]))
    def begin(self, clock: str) -> None:
        self.wall = clock == "wall"
        self.target = Target(
            self.folder, {"clock": clock, "warmup_observations": WARMUP, "store": {"snapshot_every": 5}}
        )
        self.streams: dict[str, Stream] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.overrides: dict[str, dict[str, Any]] = {}
        self.accepted = 0
        self.made = 0
        self.equity_ms = START_MS
        self.epoch = ""
        self.posted: dict[str, dict[str, Any]] = {}
        self.counts["runs"] += 1

    # --- calls ---

    def call(self, asked: Asked) -> Answer:
        assert self.target is not None
        self.counts["calls"] += 1
        answer: Answer = self.loop.run(self.target.ask(asked))
        assert answer.status < 500, answer
        return answer

    def post(self, path: str, body: Any, query: bytes = b"") -> Answer:
        answer = self.call(post(path, body, query=query))
        if answer.status == 200 and "thresholds" in answer.json():
            for told in answer.json()["thresholds"]:
                self.posted[told["symbol"]] = told
        return answer

    def expect(self, answer: Answer, **counts: int) -> None:
        told = answer.json()
        assert answer.status == 200, told
        wanted = {"accepted": 0, "duplicates": 0, "late": 0, **counts}
        assert {name: told.get(name) for name in wanted} == wanted, (told, wanted)
        self.accepted += counts.get("accepted", 0)

    def now_ms(self, stream: Stream) -> int:
        assert self.target is not None
        return self.target.clock.ms if self.wall and not stream.joining else stream.clock_ms

    def candle_body(self, symbol: str, ts_ms: int, shape: str) -> dict[str, Any]:
        features: dict[str, float | None] = {"a": self.made % 5, "b": 0.5}
        match shape:
            case "missing":
                del features["b"]
            case "extra":
                features["c"] = 1
            case "null":
                features["b"] = None
        return {
            "model": "m", "symbol": symbol, "timeframe": "5m", "ts_ms": ts_ms, "features": features,
            "probabilities": {"long": 0.87, "short": 0.3},
        }  # fmt: skip

    def pass_until(self, ms: int) -> None:
        """The wall clock comes to `ms`, and streams are judged by it."""
        assert self.target is not None
        self.target.clock.ms = max(self.target.clock.ms, ms)
        if self.wall:
            for stream in self.streams.values():
                self.judged(stream)

    def happens(self, symbol: str, available_ms: int) -> Stream:
        """Something with a time reaches a stream: what was due before comes first."""
        stream = self.streams.setdefault(symbol, Stream())
        if stream.joining and self.wall:  # nobody could look at a clock for it before it was there
            stream.clock_ms = max(stream.clock_ms, available_ms)
            return stream
        self.judged(stream, symbol)
        if available_ms > stream.clock_ms:
            stream.clock_ms = available_ms
            self.judged(stream, symbol)
        return stream

    def judged(self, stream: Stream, symbol: str | None = None, *, observed: bool = False) -> None:
        symbol = symbol or next(name for name, one in self.streams.items() if one is stream)
        for side in SIDES:
            halts = any(o["state"] == "HALTED" for o in self.standing(stream, symbol, side))
            if observed or halts:
                stream.awaiting[side] = False
            if stream.halted[side] and not halts:
                stream.awaiting[side] = True
            stream.halted[side] = halts

    def standing(self, stream: Stream, symbol: str, side: str) -> list[dict[str, Any]]:
        now_ms = self.now_ms(stream)
        return [
            o
            for o in self.overrides.values()
            if o.get("symbol") in (None, symbol)
            and o.get("side") in (None, side)
            and (o.get("until_ms") is None or o["until_ms"] > now_ms)
        ]

    def right(self, symbol: str, side: str) -> str:
        """What a side must be told: the order of precedence of the contract."""
        stream = self.streams[symbol]
        words = {o["state"] for o in self.standing(stream, symbol, side)}
        if "HALTED" in words:
            return "HALTED"
        if stream.faulty(self.now_ms(stream)) or "REDUCING" in words or stream.awaiting[side]:
            return "REDUCING"
        return "ACTIVE"

    # --- what happens ---

    def take(self, body: dict[str, Any]) -> None:
        """Book an observation that is new and not late."""
        available_ms = body["ts_ms"] + CANDLE_MS
        stream = self.happens(body["symbol"], available_ms)
        stream.observed(body["ts_ms"], body["features"])
        self.judged(stream, body["symbol"], observed=True)
        self.sent.append(("/v1/observations", body))

    def next_ms(self, symbol: str) -> int:
        stream = self.streams.get(symbol)
        newest_ms = None if stream is None else stream.newest_ms
        return START_MS if newest_ms is None else newest_ms + CANDLE_MS

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        count=st.integers(1, 4),
        gap=st.sampled_from([0, 0, 0, 1, 4]),
        shape=st.sampled_from(SHAPES),
    )
    def candles(self, symbol: str, count: int, gap: int, shape: str) -> None:
        """One candle, or a few in one batch."""
        first_ms = self.next_ms(symbol) + gap * CANDLE_MS
        self.made += 1
        batch = [
            self.candle_body(symbol, first_ms + i * CANDLE_MS, shape if i == count - 1 else "good")
            for i in range(count)
        ]
        self.pass_until(batch[-1]["ts_ms"] + CANDLE_MS)
        answer = self.post("/v1/observations", batch[0] if count == 1 else batch)
        # A stream that begins with a backlog lives through it by the times of its candles: an operator's word that
        # ended among them is heard, and its end as well. Others were judged by the clock before the batch was.
        joins = symbol not in self.streams
        stream = self.streams.setdefault(symbol, Stream())
        stream.joining = joins
        for body in batch:
            self.take(body)
        stream.joining = False
        self.judged(stream, symbol)
        self.expect(answer, accepted=count)
        self.check(posted=symbol)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), how=st.sampled_from(["duplicate", "conflict", "keep", "in a batch"]))
    def again(self, data: st.DataObject, how: str) -> None:
        """What was sent before, once more, with the same content or another."""
        path, body = data.draw(st.sampled_from(self.sent))
        other = {
            **body,
            **(
                {"features": {"a": 99}}
                if "features" in body
                else {"profit_ratio": 0.5}
                if "trade_id" in body
                else {"equity": 7}
            ),
        }
        match how:
            case "duplicate":
                self.expect(self.post(path, body), duplicates=1)
            case "conflict":
                answer = self.post(path, other)
                assert answer.status == 409, answer
                assert answer.json()["errors"]
            case "keep":
                answer = self.post(path, [other, body], b"on_conflict=keep")
                self.expect(answer, duplicates=1)
                assert answer.json()["conflicts"] == 1
            case _:
                # All or nothing: the new one before it is not stored either (and so is new the next time).
                new = {**body, "ts_ms": START_MS - 777_000} if "ts_ms" in body else {**body, "trade_id": "never"}
                answer = self.post(path, [new, other])
                assert answer.status == 409, answer
                assert [error["path"] for error in answer.json()["errors"]] == ["[1]"]
        self.check()

    @precondition(lambda self: any(s.newest_ms is not None for s in self.streams.values()))
    @rule(data=st.data(), back=st.integers(1, 900))
    def late(self, data: st.DataObject, back: int) -> None:
        """An observation older than the newest: stored, counted, not judged."""
        symbol = data.draw(st.sampled_from([n for n, s in self.streams.items() if s.newest_ms is not None]))
        newest_ms = self.streams[symbol].newest_ms
        assert newest_ms is not None
        body = self.candle_body(symbol, newest_ms - back * 1000 - 1, "extra")
        if any(body["ts_ms"] == one.get("ts_ms") and one.get("symbol") == symbol for _, one in self.sent):
            return
        if not self.wall:
            self.judged(self.streams[symbol])
        self.expect(self.post("/v1/observations", body), accepted=1, late=1)
        self.sent.append(("/v1/observations", body))
        self.check()

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        side=st.sampled_from(SIDES),
        profit=st.sampled_from([0.001, -0.001]),
        shadow=st.booleans(),
    )
    def trade(self, symbol: str, side: str, profit: float, shadow: bool) -> None:
        """A closed trade; it may come before any observation."""
        assert self.target is not None
        self.made += 1
        closed_ms = max(self.next_ms(symbol), START_MS)
        self.pass_until(closed_ms)
        body = {
            "model": "m", "symbol": symbol, "timeframe": "5m", "trade_id": f"t{self.made}", "side": side,
            "opened_ms": closed_ms - 60_000, "closed_ms": closed_ms, "entry_price": 10.0, "exit_price": 10.1,
            "profit_ratio": profit, "shadow": shadow,
        }  # fmt: skip
        answer = self.post("/v1/trades", body)
        self.judged(self.happens(symbol, closed_ms), symbol)
        self.sent.append(("/v1/trades", body))
        self.expect(answer, accepted=1)
        self.check(posted=symbol)

    @rule()
    def equity(self) -> None:
        """The account; it reaches every stream of the model, and is taken before there is any."""
        assert self.target is not None
        self.made += 1
        self.equity_ms = ts_ms = max([self.equity_ms, *(s.clock_ms for s in self.streams.values())]) + 1000
        self.pass_until(ts_ms)
        body = {"model": "m", "ts_ms": ts_ms, "equity": 1000.0 + self.made % 3}
        answer = self.post("/v1/equity", body)
        for symbol in self.streams:
            self.judged(self.happens(symbol, ts_ms), symbol)
        self.sent.append(("/v1/equity", body))
        self.expect(answer, accepted=1)
        self.check()

    @precondition(lambda self: self.streams)
    @rule(
        state=st.sampled_from(["ACTIVE", "REDUCING", "HALTED"]), symbol=st.sampled_from([None, *SYMBOLS]),
        side=st.sampled_from([None, *SIDES]), candles=st.sampled_from([None, None, 1, 5]),
    )  # fmt: skip
    def override(self, state: str, symbol: str | None, side: str | None, candles: int | None) -> None:
        """An operator's word, and the same word once more."""
        assert self.target is not None
        self.made += 1
        at_ms = self.target.clock.ms if self.wall else max(s.clock_ms for s in self.streams.values())
        body: dict[str, Any] = {"model": "m", "state": state, "actor": "ana", "reason": "why", "id": f"o{self.made}"}
        # One millisecond off: what ends at the very moment of a candle is another question, which replay settles.
        until_ms = None if candles is None else at_ms + candles * CANDLE_MS + 1
        body |= {k: v for k, v in {"symbol": symbol, "side": side, "until_ms": until_ms}.items() if v is not None}
        for _ in range(2):
            answer = self.post("/v1/overrides", body)
            assert (answer.status, answer.json()) == (200, {"id": body["id"]})
        self.overrides[body["id"]] = body
        for name, stream in self.streams.items():
            self.judged(stream, name)
        self.check()

    @precondition(lambda self: self.overrides)
    @rule(data=st.data())
    def end_override(self, data: st.DataObject) -> None:
        """The operator takes a word back; once it has ended, there is none of that id."""
        known = data.draw(st.sampled_from(sorted(self.overrides)))
        until_ms = self.overrides[known].get("until_ms")
        newest_ms = max((self.now_ms(stream) for stream in self.streams.values()), default=0)
        answer = self.call(Asked("DELETE", f"/v1/overrides/{known}", b"", (HOST,)))
        if until_ms is None or until_ms > newest_ms:
            assert answer.status == 200, answer
            del self.overrides[known]
            for name, stream in self.streams.items():
                self.judged(stream, name)
            answer = self.call(Asked("DELETE", f"/v1/overrides/{known}", b"", (HOST,)))
            assert answer.status == 404, answer
        elif answer.status == 200:  # Over for the newest stream and not for another: either is right.
            del self.overrides[known]
            for name, stream in self.streams.items():
                self.judged(stream, name)
        self.check()

    @rule(candles=st.integers(1, 6))
    def time_passes(self, candles: int) -> None:
        """Nothing comes; without any request what is old is stale, and what ends has ended."""
        assert self.target is not None
        self.pass_until(self.target.clock.ms + candles * CANDLE_MS)
        self.settle()
        self.check()

    @rule()
    def restart(self) -> None:
        """The process ends and starts again on the same store; time may have passed."""
        assert self.target is not None
        digest = self.target.service.digest()
        self.target.restart()
        if not self.wall:
            assert self.target.service.digest() == digest
        self.counts["restarts"] += 1
        self.check()

    @rule(body=st.sampled_from([b"{", b"[]x", b'{"model":"m"}', b"[1]", b'{"features":{"a":NaN}}', b"\xff"]))
    def refused(self, body: bytes) -> None:
        """Nonsense changes nothing."""
        assert self.target is not None
        before = self.target.log.last_seq()
        answer = self.call(
            Asked("POST", "/v1/observations", b"", (HOST, (b"content-type", b"application/json")), (body,))
        )
        assert answer.status in (400, 422), answer
        assert not self.target.since(before)
        self.check()

    # --- what must hold ---

    def settle(self) -> None:
        """Wait, without asking anything, until the writer has judged what time alone has changed."""
        assert self.target is not None
        runner, until_s = self.target.service.runner, time.monotonic() + TOLD_WITHIN_S
        while self.wall:
            with runner.lock:
                if runner.fleet.next_tick(self.target.clock.ms) is None:
                    return
            assert time.monotonic() < until_s, "time has passed, and nobody judged it"
            time.sleep(0.001)

    def check(self, *, posted: str | None = None) -> None:
        """Every stream is told what is right, in the reply to a POST and when it is asked for."""
        for symbol, stream in self.streams.items():
            right = {side: self.right(symbol, side) for side in SIDES}
            if posted == symbol:
                reply = self.posted[symbol]
                assert {side: reply["sides"][side]["state"] for side in SIDES} == right, (reply, right)
            query = f"model=m&symbol={quote(symbol, safe='')}&timeframe=5m".encode()
            answer = self.call(Asked("GET", "/v1/thresholds", query, (HOST,)))
            assert answer.status == 200, answer
            told = answer.json()["thresholds"][0]
            assert told["version"] >= stream.version, "a version fell"
            if (reply := self.posted.get(symbol)) is not None:
                assert told["version"] >= reply["version"], "a GET is older than the reply to a POST"
                if told["version"] == reply["version"]:
                    assert told["sides"] == reply["sides"]
            stream.version = told["version"]
            self.epoch = self.epoch or told["epoch"]
            assert told["epoch"] == self.epoch
            states = {side: told["sides"][side]["state"] for side in SIDES}
            assert states == right, (symbol, states, right, told)
            for side in told["sides"].values():
                assert (side["size_factor"] > 0) == (side["state"] == "ACTIVE")
            etag = answer.headers[b"etag"]
            again = self.call(Asked("GET", "/v1/thresholds", query, (HOST, (b"if-none-match", etag))))
            assert again.status == 304, again
        self.counts["answers compared"] += len(self.streams)

    def teardown(self) -> None:
        target = self.target
        try:
            # What went wrong before is what is to be told. (hypothesis ends runs by exceptions of its own, too.)
            if target is not None and not isinstance(sys.exc_info()[1], Exception):
                self._end(target)
        finally:
            if target is not None:
                target.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, target: Target) -> None:
        events = [event for event in target.since(0) if type(event).__name__ in ("Observation", "Trade", "Equity")]
        assert len(events) == self.accepted, "not what was acknowledged is in the log"
        assert target.verify() == target.last_seq()
        decided: dict[Any, list[bytes]] = {}
        fleet = target.fleet()
        for event in target.all_since(0):
            for key, step in fleet.step(event):
                if step.changed:
                    decided.setdefault(key, []).append(decision_bytes(step.decision))
        assert fleet.digest() == target.service.digest()
        for key, made in decided.items():
            assert [decision_bytes(one) for one in target.log.decisions(key, 0, 100_000)] == made
        self.counts["logs replayed to the same decisions"] += 1


def machines(runs: int, number: int, *, ram: bool = False, shrink: bool = True, steps: int = STEPS) -> Counter[str]:
    """Play so many runs of at most so many calls; return what was done.

    What must not be is raised, with the shortest way to it unless `shrink` is off.
    """
    Machine.counts = Counter()
    Machine.base = "/dev/shm" if ram and Path("/dev/shm").is_dir() else None
    chosen = settings(
        max_examples=runs, stateful_step_count=steps, deadline=None, database=None, derandomize=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        print_blob=False,
    )  # fmt: skip
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop, mock.patch.object(embedded, "TICK_EVERY_S", 0.005):
        Machine.loop = loop
        run_state_machine_as_test(seed(number)(Machine), settings=chosen)
    return Machine.counts


__all__ = ["Machine", "machines"]
