"""A million requests that are almost right, and what must hold whatever they are.

    campaign(seed, requests) -> Tally

Held against every request:

1. No 5xx. A 503 of a full queue is made on purpose, and only there may one be; a 503 "nobody foresaw" is a failure.
2. A refusal is problem+json with words in it, and holds no piece of a key, nor does a line of the log.
3. A refused request stores nothing; an accepted one stores exactly what it sent (read back from the file).
4. No answer holds a threshold out of 0..1, a size without ACTIVE, or a version that fell.

And every thousand requests a candle closes: a healthy stream that nobody hurt is told what engines of our own tell
for the same events, bit for bit; no stream is ACTIVE that must not be; and a burst fills the queue. A few ten
thousand requests share one store; at its end it is verified, replayed and started again, and the digests must be
those of the live service.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec
from mutator import Mutator
from target import CANDLE_MS, CSV, HOST, JSON, NDJSON, START_MS, Answer, Asked, Target, feed, post, run

from regime.decision import TradingState, to_answer
from regime.events import SIDES, AnyEvent, StreamKey, concerns
from regime_service.http.problems import MEDIA_TYPE
from regime_service.keys import RedactingFormatter

ROUND = 1_000
"""Requests between two looks at everything."""
CORPUS = 50
"""Requests that are mutations of the same ones."""
GENERATION = 20_000
"""Requests that share one store: what they bring into being slows all that come after."""
FOUND_MAX = 20
STATUSES = frozenset({200, 202, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431})
QUEUE = 8
HEALTHY = StreamKey("healthy", "CTL/USDT:USDT", "5m")
SYMBOL = "BTC/USDT:USDT"
EVENTS_AT = {"/v1/observations": "observation", "/v1/trades": "trade", "/v1/equity": "equity", "/v1/candles": "candle"}
_EXITS = {"m": {"exits": {"take_profit_ratio": 0.02, "stop_loss_ratio": 0.01, "max_hold_candles": 6}}}
VARIANTS: tuple[dict[str, Any], ...] = (
    {"clock": "wall", "models": _EXITS}, {"clock": "event", "locked": True},
    {"clock": "wall", "preset": "seed-rules", "locked": True},
    {"clock": "event", "preset": "conservative", "mode": "shadow", "models": _EXITS},
)  # fmt: skip
REFERENCE = "f1,f2\n" + "".join(f"{i % 7},{(i * i) % 11}\n" for i in range(120))


class Finding(NamedTuple):
    """Something that must not be. `where` makes it again: seed, store and number of the request."""

    what: str
    where: str
    asked: Asked | None
    answer: Answer | None

    def __str__(self) -> str:
        told = "" if self.answer is None else f"\n    answer {self.answer.status} {self.answer.body[:600]!r}"
        asked = "" if self.asked is None else f"\n    {str(self.asked)[:1500]}"
        return f"{self.what} ({self.where}){asked}{told}"


class Tally:
    """What was asked, what came back, what was found."""

    def __init__(self, enough: int = FOUND_MAX) -> None:
        self.enough = enough
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.found: list[Finding] = []

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.statuses += other.statuses
        self.found += other.found


class _Listener(logging.Handler):
    """Keeps what the service logs, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(RedactingFormatter("%(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Generation:
    """One store, and the requests that share it."""

    def __init__(self, folder: Path, seed: str, variant: dict[str, Any], tally: Tally) -> None:
        settings = {key: value for key, value in variant.items() if key != "locked"}
        settings |= {
            "warmup_observations": 20,
            "server": {
                "queue_max": QUEUE, "streams_max": 16, "key_streams_max": 16,
                "requests_per_s": 1e6, "requests_burst": 10**6,
            },
            "store": {"snapshot_every": 2000},
        }  # fmt: skip
        self.target = Target(folder, settings, locked=variant.get("locked", False))
        self.tally, self.seed = tally, seed
        self.token = self.target.token.encode() or b"rgk_abcdefgh_" + b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
        # Eight signs of the secret in a row are no accident.
        secret = self.token[13:]
        self.pieces = tuple(secret[i : i + 8] for i in range(0, len(secret) - 8, 8))
        self.mutator = Mutator(number_of(seed), secrets=(self.token,))
        self.random = self.mutator.random
        self.versions: dict[tuple[str, ...], int] = {}
        self.number = 0
        self.made = self.series = 0
        self.seq = 0
        self.listener = _Listener()
        self.healthy = self.target.fleet()
        self.fed = 0
        self.wrap: Callable[[Target], None] = lambda target: None

    # --- what is asked ---

    @property
    def now_ms(self) -> int:
        return self.target.clock.ms

    def corpus(self) -> list[Asked]:
        """Return requests that are right as they are, of this candle; the more often, the likelier."""
        key = self.target.key_header
        self.series += 1
        # Never the same second twice: what is the same is a duplicate, and says little.
        at = self.now_ms - CANDLE_MS - self.series % 240 * 1000
        stream = {"model": "m", "symbol": SYMBOL, "timeframe": "5m"}
        f1, f2 = self.made % 7, self.made * self.made % 11
        observation = {**stream, "ts_ms": at, "features": {"f1": f1, "f2": f2}}
        rich = {
            **observation, "symbol": "ETH/USDT:USDT", "features": {"f1": 0.25, "f2": None, "f\u00e9": -1e-3},
            "probabilities": {"long": 0.87, "short": 0.1, "exit_long": 0.2, "exit_short": 0.3}, "taken": {"long": True},
            "candle": {"open": 100.5, "high": 101.0, "low": 99.75, "close": 100.0, "volume": 12.5},
        }  # fmt: skip
        trade = {
            **stream, "trade_id": f"t{self.series}", "side": "long", "opened_ms": at - CANDLE_MS, "closed_ms": at,
            "entry_price": 100.0, "exit_price": 101.5, "profit_ratio": 0.013, "entry_probability": 0.9,
            "exit_reason": "ml_exit", "leverage": 3.0, "size_ratio": 0.1, "signal_ts_ms": at - CANDLE_MS,
        }  # fmt: skip
        candle = {
            "symbol": SYMBOL,
            "timeframe": "5m",
            "ts_ms": at,
            "open": 1,
            "high": 2,
            "low": 0.5,
            "close": 1.5,
            "volume": 0,
        }
        until = self.now_ms + 2 * CANDLE_MS
        override = {
            **stream, "side": "long", "state": "REDUCING", "until_ms": until, "actor": "ana", "reason": "test",
            "id": f"o{self.series}",
        }  # fmt: skip
        halted = {"model": "m", "state": "HALTED", "actor": "a", "reason": "r", "id": f"h{self.series}"}
        shadow = {**trade, "trade_id": f"u{self.series}", "shadow": True, "side": "short"}
        lines = b"\n".join(json.dumps(one).encode() for one in (observation, {**rich, "model": "n"}))
        trades = b"\n".join(json.dumps({**trade, "trade_id": f"n{self.series}-{i}"}).encode() for i in range(2)) + b"\n"
        query = b"model=m&symbol=BTC/USDT:USDT&timeframe=5m"

        def get(path: str, query: bytes = b"", *headers: tuple[bytes, bytes]) -> Asked:
            return Asked("GET", path, query, (HOST, *headers, *key))

        def send(method: str, path: str, media: bytes, body: bytes, query: bytes = b"") -> Asked:
            return Asked(method, path, query, (HOST, (b"content-type", media), *key), (body,))

        often = [
            post("/v1/observations", observation, *key), post("/v1/observations", rich, *key),
            post("/v1/observations", [observation, rich, {**observation, "symbol": "SOL/USDT"}], *key),
            post("/v1/observations", [observation, rich], *key, query=b"on_conflict=keep"),
            send("POST", "/v1/observations", NDJSON, lines), post("/v1/trades", trade, *key),
            post("/v1/trades", [trade, shadow], *key), send("POST", "/v1/trades", NDJSON, trades),
            post("/v1/equity", {"model": "m", "ts_ms": at, "equity": 1000.0}, *key),
            post("/v1/equity", [{"model": "n", "ts_ms": at, "equity": 900.5, "net_flow": -20}], *key),
            post("/v1/candles", [candle, {**candle, "timeframe": "1h"}], *key), post("/v1/candles", candle, *key),
            get("/v1/thresholds", query),
            get("/v1/thresholds", b"model=m&symbol=BTC/USDT:USDT,ETH/USDT:USDT,none&timeframe=5m"),
            get("/v1/thresholds", query, (b"if-none-match", b'W/"x"')),
            get("/v1/decisions", query + b"&since_version=1&limit=5"),
        ]  # fmt: skip
        seldom = [
            get("/v1/explain", query), get("/metrics"), get("/v1/dead-letters", b"closed=true"), get("/readyz"),
            get("/v1/alerts"), post("/v1/alerts/retry", {"ids": [1], "actor": "ana", "reason": "mended"}, *key),
            post("/v1/alerts/drop", {"ids": [2, 3], "actor": "ana", "reason": "old"}, *key),
            get("/healthz"), get("/"), get("/v1/stream", query), post("/v1/overrides", override, *key),
            post("/v1/overrides", {**override, "state": "ACTIVE", "id": None, "side": None}, *key),
            post("/v1/overrides", halted, *key),
            post("/v1/peak-resets", {"model": "m", "actor": "ana", "reason": "looked into"}, *key),
            post("/v1/dead-letters/1/retry", {"actor": "ana", "reason": "mended"}, *key),
            post("/v1/dead-letters/1/drop", {"actor": "ana", "reason": "mended"}, *key),
            Asked("DELETE", f"/v1/overrides/o{self.series}", b"", (HOST, *key)),
        ]  # fmt: skip
        rows = "".join(f'{{"f1":{i % 7},"f2":{i % 5},"ts_ms":{at + i * CANDLE_MS}}}\n' for i in range(12)).encode()
        path = f"/v1/models/r{self.series % 5}/references/v{self.series}"
        heavy = [
            get("/openapi.json"), get("/docs"),
            send("PUT", path, CSV, REFERENCE[:300].rpartition("\n")[0].encode(), b"symbol=A&timeframe=5m"),
            send("PUT", path, NDJSON, rows, b"symbol=A&timeframe=5m&trained_until_ms=1700000000000"),
        ]  # fmt: skip
        return often * 6 + seldom + (heavy if self.series % 20 == 0 else [])

    # --- what must hold ---

    def find(self, what: str, asked: Asked | None = None, answer: Answer | None = None) -> None:
        self.tally.found.append(Finding(what, f"seed {self.seed}, request {self.number}", asked, answer))

    async def prepare(self) -> None:
        """Bring a healthy stream and one that is to be hurt to ACTIVE."""
        for model in ("healthy", "m"):
            headers = (HOST, (b"content-type", CSV), *self.target.key_header)
            put = Asked("PUT", f"/v1/models/{model}/references/v1", b"", headers, (REFERENCE.encode(),))
            answer = await self.target.ask(put)
            assert answer.status == 200, answer
        for _ in range(3):
            await self.candle()
        said = await self.look()
        assert said == ["ACTIVE", "ACTIVE"], said
        self.seq = self.target.last_seq()

    async def candle(self) -> None:
        """A candle closes; the healthy stream is told of it, and so are engines of our own."""
        self.target.clock.ms += CANDLE_MS
        self.made += 1
        at = self.now_ms - CANDLE_MS
        features = {"f1": self.made % 7, "f2": self.made * self.made % 11}
        claims = {"long": 0.5 + self.made % 5 / 10, "short": 0.2}
        body = {**HEALTHY._asdict(), "ts_ms": at, "features": features, "probabilities": claims}
        trade = {
            **HEALTHY._asdict(), "trade_id": f"c{self.made}", "side": "long", "opened_ms": at - CANDLE_MS,
            "closed_ms": at, "entry_price": 100, "exit_price": 101, "profit_ratio": 0.01 if self.made % 3 else -0.008,
        }  # fmt: skip
        hurt = {"model": "m", "symbol": SYMBOL, "timeframe": "5m", "ts_ms": at, "features": features}
        for path, one in (("/v1/trades", trade), ("/v1/observations", body), ("/v1/observations", hurt)):
            if self.made > 3 and one is hurt:
                continue  # From here on the corpus says it, or a mutation of it.
            answer = await self.target.post(path, one)
            if answer.status != 200 or answer.json()["accepted"] != 1:
                self.find(f"a healthy {path} was not taken", None, answer)
        for event in self.target.all_since(self.fed):
            self.fed += 1
            if getattr(event, "model", None) == HEALTHY.model and type(event).__name__ != "Tick":
                feed(self.healthy, event, now_ms=self.now_ms)

    async def look(self) -> list[str]:
        """Hold the answers for the healthy stream against those of our own engines, and return the states."""
        query = b"model=healthy&symbol=CTL%2FUSDT%3AUSDT&timeframe=5m"
        told = await self.target.get("/v1/thresholds", query)
        explained = await self.target.get("/v1/explain", query)
        engine = self.healthy.engine(HEALTHY)
        assert engine.decision is not None
        if told.status != 200 or explained.status != 200:
            self.find("no answer for the healthy stream", None, told)
            return []
        answer = told.json()["thresholds"][0]
        right = to_answer(engine.decision, epoch=answer["epoch"], valid_for_ms=answer["valid_for_ms"])
        if answer != right:
            self.find(f"the healthy stream was told {answer}; right is {right}")
        if explained.json()["digest"] != engine.digest():
            self.find("the state of the healthy stream is another one than after the same events alone")
        self.tally.counts["healthy answers compared"] += 1
        return [side["state"] for side in answer["sides"].values()]

    def look_at_all(self) -> None:
        """No stream is ACTIVE that must not be."""
        runner = self.target.service.runner
        with runner.lock:
            for key in runner.fleet:
                engine = runner.fleet.engine(key)
                if engine.decision is not None:
                    now_ms = self.now_ms if self.target.settings.engine.clock == "wall" else engine.state.clock_ms
                    for what in unsafe(engine, now_ms, self.target.settings.engine):
                        self.find(f"{key}: {what}")
                    self.tally.counts["streams looked at"] += 1
        for letter in self.target.service.dead_letters():
            self.find(f"an accepted event made judging fail: {letter}")

    def check(self, asked: Asked, answer: Answer, *, full: bool = False) -> int:
        """Hold one answer against the rules; return the events it says it stored."""
        self.tally.statuses[answer.status] += 1
        if answer.status == 0:
            if not asked.hangs_up:
                self.find("no answer", asked, answer)
            return 0
        if answer.status >= 400:
            self._check_refusal(asked, answer, full=full)
            return 0
        if answer.status not in STATUSES:
            self.find(f"status {answer.status} is not documented", asked, answer)
        if asked.method != "HEAD" and answer.headers.get(b"content-type", b"").startswith(JSON):
            try:
                told = msgspec.json.decode(answer.body)
            except msgspec.DecodeError:
                self.find("the answer is no JSON", asked, answer)
                return 0
            self._check_answer(asked, answer, told)
            if "accepted" in told:
                return int(told["accepted"])
        return 0

    def _check_refusal(self, asked: Asked, answer: Answer, *, full: bool) -> None:
        if (
            answer.status == 503
            and full
            and b"queue" in answer.body
            and answer.headers.get(b"retry-after", b"").isdigit()
        ):
            self.tally.counts["503 of a full queue, made on purpose"] += 1
        elif answer.status not in STATUSES:
            self.find(f"status {answer.status}", asked, answer)
        if any(piece in answer.body for piece in self.pieces) or any(
            piece in value for value in answer.headers.values() for piece in self.pieces
        ):
            self.find("a refusal repeats a key", asked, answer)
        if asked.method == "HEAD":
            return
        if answer.headers.get(b"content-type", b"").startswith(b"text/html"):
            # The page speaks to people; nothing below /v1 does.
            if asked.path.startswith("/v1") or b"<h1" not in answer.body:
                self.find("a refusal in HTML that is no page", asked, answer)
            return
        try:
            told = msgspec.json.decode(answer.body, type=_Problem)
        except msgspec.MsgspecError as error:
            self.find(f"a refusal is no problem: {error}", asked, answer)
            return
        if answer.headers.get(b"content-type", b"").decode() != MEDIA_TYPE or told.status != answer.status:
            self.find("a refusal is not problem+json of its own status", asked, answer)
        if not told.detail.strip() or not told.title:
            self.find("a refusal has no words", asked, answer)

    def _check_answer(self, asked: Asked, answer: Answer, told: Any) -> None:
        for one in told.get("thresholds", ()) if isinstance(told, dict) else ():
            if not isinstance(one, dict) or "sides" not in one:
                continue
            key = (one["epoch"], one["model"], one["symbol"], one["timeframe"])
            if one["version"] < self.versions.get(key, 0):
                self.find("a version fell", asked, answer)
            self.versions[key] = one["version"]
            for side in one["sides"].values():
                if not (
                    0.0 <= side["entry"] <= 1.0 and 0.0 <= side["exit"] <= 1.0 and 0.0 <= side["size_factor"] <= 1.0
                ):
                    self.find("a threshold out of 0..1", asked, answer)
                if (side["state"] == "ACTIVE") != (side["size_factor"] > 0.0) and side["entry"] < 1.0:
                    self.find("a size that does not fit the state", asked, answer)

    def check_stored(self, asked: Asked, answer: Answer, accepted: int) -> None:
        """Hold what is in the file against what was sent and what was said of it."""
        last = self.target.last_seq()
        if last == self.seq:
            if accepted:
                self.find(f"{accepted} acknowledged, nothing stored", asked, answer)
            return
        stored = self.target.since(self.seq)
        self.seq = last
        self.tally.counts["events stored"] += len(stored)
        if not stored:
            if accepted:
                self.find(f"{accepted} acknowledged, nothing but time stored", asked, answer)
        elif answer.status >= 400 or (answer.status == 0 and not asked.hangs_up):
            self.find(f"a refused request stored {stored}", asked, answer)
        elif asked.method == "GET" or asked.method not in ("POST", "PUT", "DELETE"):
            self.find(f"looking stored {stored}", asked, answer)
        elif unquote(asked.path) in EVENTS_AT:
            if len(stored) != accepted:
                self.find(f"{accepted} acknowledged, {len(stored)} stored", asked, answer)
            try:
                sent_all = _sent(asked)
            except ValueError as error:
                self.find(f"stored from a body that the standard library cannot read: {error}", asked, answer)
                return
            for event in stored:
                if not any(same(event, sent) for sent in sent_all):
                    self.find(f"stored what was not sent: {event}", asked, answer)
        elif len(stored) != 1 or type(stored[0]).__name__ not in ("Command", "Recalibrated"):
            self.find(f"one word stored {stored}", asked, answer)

    # --- what is done ---

    async def burst(self) -> None:
        """Fill the queue: while the writer is held, three times as many events come as may wait."""
        good = [asked for asked in self.corpus() if asked.path in ("/v1/observations", "/v1/trades", "/v1/equity")]
        asked = [
            self.mutator.mutated(self.random.choice(good)) if i % 2 else self.random.choice(good)
            for i in range(3 * QUEUE)
        ]
        asked = [one for one in asked if one.path in EVENTS_AT and one.method == "POST"]
        self.target.service.runner.lock.acquire()
        try:
            tasks = [asyncio.create_task(self.target.ask(one)) for one in asked]
            for _ in range(20):
                await asyncio.sleep(0)
        finally:
            self.target.service.runner.lock.release()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        self.tally.counts["requests in bursts"] += len(asked)
        for one, raised in zip(asked, answers, strict=True):
            if isinstance(raised, BaseException):
                self.find(f"the application let out in a burst: {raised!r}", one)
                return
        accepted = sum(self.check(one, answer, full=True) for one, answer in zip(asked, answers, strict=True))
        stored = self.target.since(self.seq)
        self.seq = self.target.last_seq()
        # Who hung up may have been stored: nobody was left to be told.
        silent = any(answer.status == 0 for answer in answers)
        if len(stored) < accepted or (len(stored) > accepted and not silent):
            self.find(f"a burst: {accepted} acknowledged, {len(stored)} stored")

    async def tidy(self) -> None:
        """End overrides that pile up: each is looked at with every event of its model."""
        standing = list(self.target.service.overrides().values())
        for known in standing[:-4]:
            answer = await self.target.ask(
                Asked("DELETE", f"/v1/overrides/{known.id}", b"", (HOST, *self.target.key_header))
            )
            # Words spoken one after the other are moments in which another one's time may come to its end.
            over = known.until_ms is not None and known.until_ms <= self.target.clock.ms
            if answer.status != 200 and not (answer.status == 404 and over):
                self.find(f"the override {known.id!r} cannot be ended", None, answer)

    async def requests(self, count: int) -> None:
        for i in range(count):
            if i % CORPUS == 0:
                corpus = self.corpus()
            asked = self.mutator.mutated(self.random.choice(corpus))
            self.number += 1
            try:
                answer = await self.target.ask(asked)
            except Exception:
                self.find(f"the application let out: {traceback.format_exc()}", asked)
                self.seq = self.target.last_seq()
                continue
            self.check_stored(asked, answer, self.check(asked, answer))
            if len(self.tally.found) >= self.tally.enough:
                return
        self.tally.counts["requests"] += count

    async def live(self, requests: int) -> None:
        """Ask so many requests, and look at everything in between and at the end."""
        loggers = [logging.getLogger(name) for name in ("regimegate", "regime_service.http", "asyncio")]
        before = [(one.propagate, one.level) for one in loggers]
        for one in loggers:
            one.addHandler(self.listener)
            one.propagate = False
        try:
            await self.prepare()
            self.wrap(self.target)
            for begin in range(0, requests, ROUND):
                try:
                    async with asyncio.timeout(300):
                        await self.requests(min(ROUND, requests - begin))
                except TimeoutError:
                    self.find("no answer within 300 s")
                await self.candle()
                await self.look()
                self.look_at_all()
                self.seq = self.target.last_seq()
                await self.burst()
                await self.tidy()
                self.seq = self.target.last_seq()
                self._look_at_log()
                if len(self.tally.found) >= self.tally.enough:
                    break
            self.end()
        finally:
            self.target.stop()
            for one, (propagate, level) in zip(loggers, before, strict=True):
                one.removeHandler(self.listener)
                one.propagate = propagate
                one.setLevel(level)

    def _look_at_log(self) -> None:
        for line in self.listener.lines:
            if any(piece.decode() in line for piece in self.pieces):
                self.find(f"a line of the log holds a key: {line[:300]}")
            if "unexpected" in line or "Traceback" in line or "never retrieved" in line:
                self.find(f"the log tells of something nobody foresaw: {line[-1200:]}")
        self.tally.counts["lines of the log read"] += len(self.listener.lines)
        self.listener.lines.clear()

    def end(self) -> None:
        """The store is whole; its replay, and a restart, come to the same state."""
        target, digest = self.target, self.target.service.digest()
        events = target.verify()
        if events != target.last_seq():
            self.find(f"verify read {events} events of {target.last_seq()}")
        if target.replayed().digest() != digest:
            self.find("the replay of the log comes to another digest than the live service")
        target.restart()
        if target.service.digest() != digest:
            self.find("after a restart the digest is another one")
        self.tally.counts["stores verified, replayed and started again"] += 1
        self.tally.counts["events of the logs"] += events


class _Problem(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]]


def unsafe(engine: Any, now_ms: int, config: Any) -> Iterator[str]:
    """Say where a stream is told to trade although its data or an operator forbid it, from its bare state."""
    state, key = engine.state, engine.key
    seen = state.observations + state.reference_rows
    until_ms = engine.decision.data_until_ms
    length_ms = engine._timeframe_ms
    stale = until_ms is None or now_ms - until_ms >= config.stale_after * length_ms
    faults = [
        name
        for name, is_so in (
            ("warm-up", not state.observations or seen < config.warmup_observations), ("stale", stale),
            ("missing features", bool(state.missing)), ("unknown features", bool(state.extra)),
            ("no value", bool(state.non_finite)), ("an engine error", state.error is not None),
        )
        if is_so
    ]  # fmt: skip
    for side in SIDES:
        told = engine.decision.sides.of(side)
        standing = [
            o
            for o in state.overrides
            if concerns(o, key) and o.side in (None, side) and (o.until_ms is None or o.until_ms > state.clock_ms)
        ]
        words = {o.state for o in standing}
        if told.state is TradingState.ACTIVE and (faults or words & {"HALTED", "REDUCING"}):
            yield f"{side} is ACTIVE in spite of {faults} {words}"
        if told.state is TradingState.HALTED and "HALTED" not in words:
            yield f"{side} is HALTED by nobody"
        if told.state is not TradingState.HALTED and "HALTED" in words:
            yield f"{side} is {told.state} in spite of an operator's HALTED"


def same(event: AnyEvent, sent: Any) -> bool:
    """Whether what was stored says what was sent: every value, as numbers are equal; what is not named is null."""
    stored = msgspec.to_builtins(event)
    if not isinstance(sent, dict):
        return False
    names = {*stored, *sent} - {"kind"}
    return all(_equal(stored.get(name), sent.get(name)) for name in names)


def _equal(stored: Any, sent: Any) -> bool:
    if isinstance(stored, dict) and isinstance(sent, dict):
        return all(_equal(stored.get(name), sent.get(name)) for name in {*stored, *sent})
    if isinstance(stored, bool) or isinstance(sent, bool):
        return bool(stored) is bool(sent) and not isinstance(stored, float | str) and not isinstance(sent, float | str)
    if isinstance(stored, int | float) and isinstance(sent, int | float):
        return float(stored) == float(sent)
    return bool(stored == sent)


def _sent(asked: Asked) -> list[Any]:
    """What a body of events holds, read by the standard library."""
    media = dict(asked.headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
    lines = asked.body.split(b"\n") if media == NDJSON else [asked.body]
    found: list[Any] = []
    for line in lines:
        if line.strip():
            one = json.loads(line)
            found += one if isinstance(one, list) else [one]
    return found


def number_of(text: str) -> int:
    """A number of a text that is the same in every process."""
    return int.from_bytes(text.encode(), "big") % 2**61


def campaign(
    seed: int,
    requests: int,
    *,
    ram: bool = False,
    variants: Sequence[dict[str, Any]] = VARIANTS,
    wrap: Callable[[Target], None] = lambda target: None,
    enough: int = FOUND_MAX,
) -> Tally:
    """Ask so many mutated requests, a store for each `GENERATION` of them, with the settings of `variants` by turns.

    `ram` puts the stores on /dev/shm where there is one. `wrap` may change the target once it is healthy: that is how
    the faults are planted that must be found. After `enough` findings it ends.
    """
    tally, done = Tally(enough), 0
    base = "/dev/shm" if ram and Path("/dev/shm").is_dir() else None
    while done < requests and len(tally.found) < enough:
        turn = done // GENERATION
        count = min(GENERATION, requests - done)
        folder = Path(tempfile.mkdtemp(prefix="regime-fuzz-", dir=base))
        try:
            one = Generation(folder, f"{seed}/{turn}", variants[(turn + seed) % len(variants)], tally)
            one.wrap = wrap
            run(one.live(count))
        finally:
            shutil.rmtree(folder)
        done += count
    return tally


__all__ = ["START_MS", "Finding", "Generation", "Tally", "campaign", "unsafe"]
