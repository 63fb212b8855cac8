"""A service without a store: the real app, the real Fleet in memory, and a clock that is wound by hand.

Every answer is held against /openapi.json as it comes in: an answer that the document does not describe fails the test
that asked for it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import httpx
import msgspec
import pytest

from regime import codec
from regime.config import EngineConfig
from regime.decision import Decision
from regime.errors import CallerError, FieldError, Unavailable
from regime.events import AnyEvent, Command, Recalibrated, StreamKey, available_ms, concerns, source_key
from regime.fleet import Fleet
from regime.reference import Reference
from regime_service.board import Board
from regime_service.http.api import Application, create_app
from regime_service.logs import reference_from_bytes
from regime_service.ports import Health, Ports, Receipt

NOW_MS = 1_762_146_310_000
EPOCH = "01K94RZZZZZZZZZZZZZZZZZZZZ"


class SchemaChecker:
    """Holds a value against the part of JSON Schema that our document uses; a keyword it does not know is an error."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def faults(self, value: Any, schema: dict[str, Any], path: str = "$") -> Iterator[str]:
        for keyword, rule in schema.items():
            check = getattr(self, "_" + keyword.lstrip("$"), None)
            assert check is not None or keyword in {"title", "description", "default", "format", "required"}, keyword
            if check is not None:
                yield from check(value, rule, path, schema)

    def _ref(self, value: Any, rule: str, path: str, _: Any) -> Iterator[str]:
        node: Any = self._document
        for part in rule.removeprefix("#/").split("/"):
            node = node[part]
        yield from self.faults(value, node, path)

    def _type(self, value: Any, rule: str, path: str, _: Any) -> Iterator[str]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
            "boolean": isinstance(value, bool), "null": value is None, "number": number,
            "integer": number and isinstance(value, int),
        }[rule]  # fmt: skip
        if not fits:
            yield f"{path} is no {rule}: {value!r}"

    def _properties(self, value: Any, rule: dict[str, Any], path: str, schema: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, below in rule.items():
                if name in value:
                    yield from self.faults(value[name], below, f"{path}.{name}")
                elif name in schema.get("required", ()):
                    yield f"{path}.{name} is missing"
            yield from (f"{path}.{name} is not documented" for name in value if name not in rule)

    def _additionalProperties(self, value: Any, rule: Any, path: str, schema: Any) -> Iterator[str]:
        if isinstance(rule, dict) and "properties" not in schema and isinstance(value, dict):
            for name, item in value.items():
                yield from self.faults(item, rule, f"{path}.{name}")

    def _propertyNames(self, value: Any, rule: dict[str, Any], path: str, _: Any) -> Iterator[str]:
        for name in value if isinstance(value, dict) else ():
            yield from self.faults(name, rule, f"{path}.{name}")

    def _maxProperties(self, value: Any, rule: int, path: str, _: Any) -> Iterator[str]:
        if isinstance(value, dict) and len(value) > rule:
            yield f"{path} has too many names"

    def _items(self, value: Any, rule: dict[str, Any], path: str, _: Any) -> Iterator[str]:
        for i, item in enumerate(value if isinstance(value, list) else ()):
            yield from self.faults(item, rule, f"{path}[{i}]")

    def _anyOf(self, value: Any, rule: list[Any], path: str, _: Any) -> Iterator[str]:
        if all(list(self.faults(value, choice, path)) for choice in rule):
            yield f"{path} is none of the choices: {value!r}"

    def _oneOf(self, value: Any, rule: list[Any], path: str, _: Any) -> Iterator[str]:
        if sum(not list(self.faults(value, choice, path)) for choice in rule) != 1:
            yield f"{path} is not exactly one of the choices"

    def _enum(self, value: Any, rule: list[Any], path: str, _: Any) -> Iterator[str]:
        if value not in rule:
            yield f"{path} is none of {rule}: {value!r}"

    def _pattern(self, value: Any, rule: str, path: str, _: Any) -> Iterator[str]:
        # A schema's $ is the very end; Python's would let a line feed pass before it.
        if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", rule), value):
            yield f"{path} does not match {rule}: {value!r}"

    def _bound(self, value: Any, path: str, wrong: Callable[[Any], bool]) -> Iterator[str]:
        if isinstance(value, int | float) and not isinstance(value, bool) and wrong(value):
            yield f"{path} is out of bounds: {value!r}"

    def _minimum(self, value: Any, rule: float, path: str, _: Any) -> Iterator[str]:
        yield from self._bound(value, path, lambda v: v < rule)

    def _maximum(self, value: Any, rule: float, path: str, _: Any) -> Iterator[str]:
        yield from self._bound(value, path, lambda v: v > rule)

    def _exclusiveMinimum(self, value: Any, rule: float, path: str, _: Any) -> Iterator[str]:
        yield from self._bound(value, path, lambda v: v <= rule)

    def _minLength(self, value: Any, rule: int, path: str, _: Any) -> Iterator[str]:
        if isinstance(value, str) and len(value) < rule:
            yield f"{path} is too short"

    def _maxLength(self, value: Any, rule: int, path: str, _: Any) -> Iterator[str]:
        if isinstance(value, str) and len(value) > rule:
            yield f"{path} is too long"


class FakeService:
    """The app over a Fleet in memory. `now_ms`, `health`, `full` and `ports` may be changed by a test."""

    def __init__(self, config: EngineConfig, **changes: Any) -> None:
        decode = changes.pop("decode_reference", lambda file, media: reference_from_bytes(file.read(), media)[0])
        self.config = config
        self.now_ms = NOW_MS
        self.epoch = EPOCH
        self.health = Health(ready=True, reason="", queue_depth=0, queue_max=1000)
        self.full = False
        self.board = Board()
        self.references: dict[str, Reference] = {}
        self.log: dict[str, AnyEvent] = {}
        self.trail: dict[StreamKey, list[Decision]] = {}
        self.fleet = Fleet(config, lambda reference_id: self.references[reference_id])
        ports: dict[str, Any] = {
            "config": config, "board": self.board, "ingest": self.ingest, "epoch": lambda: self.epoch,
            "decisions": self.decisions, "explain": self.explain, "outcomes": lambda key: {},
            "has_model": lambda name: name in self.fleet.models,
            "overrides": self.overrides, "now_ms": lambda: self.now_ms, "event_now_ms": self.event_now_ms,
            "health": lambda: self.health, "fault": lambda: None if self.health.ready else self.health.reason,
            "metrics": lambda accept: (b"regime_ready 1.0\n", "text/plain; version=0.0.4; charset=utf-8"),
            "hosts": frozenset({"localhost", "127.0.0.1", "::1"}),
        }  # fmt: skip
        self.ports = Ports(**{**ports, **changes})
        self.app: Application = create_app(self.ports, decode)
        self.document: dict[str, Any] = self.app.openapi()
        self.checker = SchemaChecker(self.document)
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()

    # --- the ports ---

    async def ingest(
        self,
        events: Sequence[AnyEvent],
        *,
        on_conflict: Literal["refuse", "keep"] = "refuse",
        references: dict[str, bytes] | None = None,
    ) -> Receipt:
        if self.full:
            raise Unavailable("The queue is full. Nothing was stored.", retry_after_s=2)
        new: dict[str, AnyEvent] = {}
        duplicates, conflicts, errors = 0, 0, []
        for i, event in enumerate(events):
            known = new.get(source_key(event)) or self.log.get(source_key(event))
            if known is None:
                key = None if not hasattr(event, "symbol") else getattr(event, "model", None)
                if (
                    key is not None
                    and not self.config.auto_register
                    and not any(concerns(event, k) for k in self.fleet)
                ):
                    raise CallerError("No such stream.", status=404, errors=[FieldError(f"[{i}]", "no such stream")])
                new[source_key(event)] = event
            elif self._same(known, event):
                duplicates += 1
            else:
                conflicts += 1
                errors.append(FieldError(f"[{i}]", "is stored with other content"))
        if errors and on_conflict == "refuse":
            raise CallerError("Stored already with other content. Nothing was changed.", status=409, errors=errors)
        for reference_id, raw in (references or {}).items():
            self.references[reference_id] = Reference.from_bytes(raw)
        self.log |= new
        late = sum(self._step(event) for event in new.values())
        touched = tuple(dict.fromkeys(key for event in events for key in self.fleet if concerns(event, key)))
        decisions = []
        for key in touched:
            decision = self.fleet.engine(key).decision
            assert decision is not None
            decisions.append(decision)
        self.board.post(decisions)
        return Receipt(len(new), duplicates, conflicts, late, touched, tuple(decisions))

    def _same(self, known: AnyEvent, event: AnyEvent) -> bool:
        if isinstance(known, Recalibrated) and isinstance(event, Recalibrated):
            return msgspec.structs.replace(known, ts_ms=event.ts_ms) == event
        return codec.encode(known) == codec.encode(event)

    def _step(self, event: AnyEvent) -> bool:
        while (tick := self.fleet.tick_before(event)) is not None:
            self._keep(tick)
        if self.config.clock == "wall" and available_ms(event) is not None:
            while (tick := self.fleet.next_tick(self.now_ms)) is not None:
                self._keep(tick)
        return self._keep(event)

    def _keep(self, event: AnyEvent) -> bool:
        steps = self.fleet.step(event)
        for key, step in steps:
            if step.changed:
                self.trail.setdefault(key, []).append(step.decision)
        return any(step.late for _, step in steps)

    def tick(self) -> None:
        """Let time pass up to `now_ms`, as the runner does without being asked."""
        while (tick := self.fleet.next_tick(self.now_ms)) is not None:
            self._keep(tick)
        self.board.post(d for key in self.fleet if (d := self.fleet.engine(key).decision) is not None)

    def decisions(self, key: StreamKey, since_version: int, limit: int) -> list[Decision]:
        return [d for d in self.trail.get(key, []) if d.version > since_version][:limit]

    def explain(self, key: StreamKey) -> dict[str, Any]:
        engine = self.fleet.engine(key)
        return {"model": key.model, "observations": engine.state.observations, "statistic": float("nan")}

    def overrides(self) -> dict[str, Command]:
        return {o.id: o for key in self.fleet for o in self.fleet.engine(key).state.overrides}

    def event_now_ms(self, model: str) -> int:
        return max((self.fleet.engine(key).state.clock_ms for key in self.fleet if key.model == model), default=0)

    # --- asking ---

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Ask the app and hold the answer against the document."""
        response = self._runner.run(self._ask(method, path, **kwargs))
        self._check_documented(response)
        return response

    async def _ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
            return await client.request(method, path, **kwargs)

    def raw(self, scope: dict[str, Any], messages: Sequence[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        """Call the app with an ASGI scope as it is: for what no client would send."""

        async def call() -> list[dict[str, Any]]:
            waiting, sent = list(messages), []

            async def receive() -> dict[str, Any]:
                return waiting.pop(0) if waiting else {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            await self.app(scope, receive, send)
            return sent

        sent = self._runner.run(call())
        start = next((m for m in sent if m["type"] == "http.response.start"), {"status": 0, "headers": []})
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
        return start["status"], headers, b"".join(m.get("body", b"") for m in sent)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **kwargs)

    def thresholds(self, symbol: str = "BTC/USDT:USDT", **kwargs: Any) -> httpx.Response:
        return self.get("/v1/thresholds", params={"model": "m", "symbol": symbol, "timeframe": "5m"}, **kwargs)

    def warm(self, count: int = 3, symbol: str = "BTC/USDT:USDT") -> httpx.Response:
        """Post `count` observations, the newest of which closed 10 s ago."""
        return self.post("/v1/observations", [self.observation(i - count + 1, symbol=symbol) for i in range(count)])

    def observation(self, candle: int = 0, /, **changes: Any) -> dict[str, Any]:
        """An observation; candle 0 is the newest that is closed, -1 the one before."""
        ts_ms = (NOW_MS // 300_000 - 1 + candle) * 300_000
        return {
            "model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m", "ts_ms": ts_ms,
            "features": {"f1": 1.0, "f2": 2.5, "f3": None}, **changes,
        }  # fmt: skip

    def trade(self, trade_id: str = "t1", /, **changes: Any) -> dict[str, Any]:
        return {
            "model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m", "trade_id": trade_id, "side": "long",
            "opened_ms": NOW_MS - 900_000, "closed_ms": NOW_MS - 60_000, "entry_price": 100.0, "exit_price": 101.0,
            "profit_ratio": 0.009, **changes,
        }  # fmt: skip

    def _check_documented(self, response: httpx.Response) -> None:
        operation = self._operation(response.request)
        if operation is None:
            return
        status = str(response.status_code)
        assert status in operation["responses"], f"{response.request.url}: {status} is not documented: {response.text}"
        content = operation["responses"][status].get("content", {})
        media = response.headers.get("content-type", "").partition(";")[0]
        if not content:
            assert not response.content
            return
        assert media in content, f"{media} is not documented"
        if media.endswith("json"):
            faults = list(self.checker.faults(json.loads(response.content), content[media]["schema"]))
            assert not faults, faults

    def _operation(self, request: httpx.Request) -> dict[str, Any] | None:
        for path, operations in self.document["paths"].items():
            pattern = re.sub(r"\\\{(\w+)\\\}", r"[^/]+", re.escape(path))
            if re.fullmatch(pattern, request.url.path) and request.method.lower() in operations:
                found: dict[str, Any] = operations[request.method.lower()]
                return found
        return None


def plain_config(**changes: Any) -> EngineConfig:
    return EngineConfig(**{"detectors": [], "warmup_observations": 2, **changes})


@pytest.fixture
def make_service() -> Iterator[Callable[..., FakeService]]:
    """`make_service(config changes as keywords, ports={...})`."""
    made: list[FakeService] = []

    def make(ports: dict[str, Any] | None = None, **changes: Any) -> FakeService:
        made.append(FakeService(plain_config(**changes), **(ports or {})))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def service(make_service: Callable[..., FakeService]) -> FakeService:
    return make_service()
