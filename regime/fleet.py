"""All streams of an installation: which engine an event reaches, and which Ticks are due.

The service, a replay and a test all feed this one class. An event about a whole model (equity, an operator's word, a
reference for all its streams) reaches the streams that exist and those that come later.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from regime.calibration import Calibration
from regime.config import EngineConfig, config_digest
from regime.engine import Engine, Step
from regime.errors import CorruptionError, RegimeError
from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Recalibrated,
    Reconfigured,
    StreamKey,
    Tick,
    Trade,
    available_ms,
    concerns,
)  # fmt: skip
from regime.outcomes import Drawdown
from regime.reference import Reference


class ModelState(msgspec.Struct, kw_only=True):
    """What a stream that joins its model later must know."""

    commands: list[Command] = []
    recalibrated: list[Recalibrated] = []
    """One for each scope (a symbol, a timeframe or the whole model), oldest first."""
    promoted: ModelPromoted | None = None
    drawdown: Drawdown = msgspec.field(default_factory=Drawdown)


class StreamStep(NamedTuple):
    """What one event did to one stream."""

    key: StreamKey
    step: Step


class Fleet:
    """The engines of all streams.

    Parameters
    ----------
    config
        One configuration for all streams.
    references
        Returns the sample of a `reference_id`.
    calibrations
        Returns the limits that a `Recalibrated` event names; see `Engine`.
    """

    def __init__(
        self,
        config: EngineConfig,
        references: Callable[[str], Reference],
        calibrations: Callable[[str], Calibration] | None = None,
    ) -> None:
        self._config = config
        self._references = references
        self._calibrations = calibrations
        self._engines: dict[StreamKey, Engine] = {}
        self._models: dict[str, ModelState] = {}
        # When each stream is due, and the same as a heap. What no longer stands is left in the heap until it comes up.
        self._due: dict[StreamKey, int | None] = {}
        self._heap: list[tuple[int, StreamKey]] = []

    def __iter__(self) -> Iterator[StreamKey]:
        return iter(self._engines)

    def __contains__(self, key: object) -> bool:
        return key in self._engines

    def __len__(self) -> int:
        return len(self._engines)

    def engine(self, key: StreamKey) -> Engine:
        """Return the engine of `key`; `KeyError` if there is no such stream."""
        return self._engines[key]

    @property
    def models(self) -> set[str]:
        """Names of the models that have been heard of."""
        return set(self._models) | set(self._config.models)

    def overrides(self) -> dict[str, Command]:
        """Return the overrides that are set and whose time is not over, by id."""
        now = {name: self._clock_ms(name) for name in self._models}
        return {
            command.id: command
            for name, model in self._models.items()
            for command in model.commands
            if command.until_ms is None or command.until_ms > now[name]
        }

    def _clock_ms(self, model: str) -> int:
        return max((engine.state.clock_ms for key, engine in self._engines.items() if key.model == model), default=0)

    def accepts(self, key: StreamKey) -> bool:
        """Whether an event for `key` may be taken: the stream exists or may come into being by itself."""
        return key in self._engines or self._config.auto_register

    def step(self, event: AnyEvent) -> list[StreamStep]:
        """Feed `event` to every stream it reaches, in a fixed order, and return what it did to each."""
        key = self._own_key(event)
        if key is not None and key not in self._engines and not isinstance(event, Tick):
            # A reference for one stream makes the stream; the event itself then reaches it below.
            self._join(key, event)
        self._remember(event)
        steps = []
        for reached in self.reached(event):
            steps.append(StreamStep(reached, self._engines[reached].step(event)))
            self._schedule(reached)
        return steps

    def reached(self, event: AnyEvent) -> list[StreamKey]:
        """Return the streams that exist and that `event` reaches."""
        if isinstance(event, Observation | Trade | Tick | Reconfigured):
            key = StreamKey(event.model, event.symbol, event.timeframe)
            return [key] if key in self._engines else []
        return [key for key in self._engines if concerns(event, key)]

    def next_tick(self, until_ms: int, keys: Iterable[StreamKey] | None = None) -> Tick | None:
        """Return the earliest Tick due before or at `until_ms`, or None. Step it, then ask again."""
        if keys is None:
            due = self._first_due()
        else:
            known = ((self._due.get(key), key) for key in keys)
            due = min(((at_ms, key) for at_ms, key in known if at_ms is not None), default=None)
        if due is None or due[0] > until_ms:
            return None
        at_ms, key = due
        return Tick(model=key.model, symbol=key.symbol, timeframe=key.timeframe, ts_ms=at_ms)

    def _first_due(self) -> tuple[int, StreamKey] | None:
        while self._heap:
            at_ms, key = self._heap[0]
            if self._due[key] == at_ms:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    def _schedule(self, key: StreamKey) -> None:
        at_ms = self._engines[key].next_change_ms()
        if at_ms == self._due.get(key):
            return
        self._due[key] = at_ms
        if len(self._heap) > 64 + 4 * len(self._due):  # on event time nobody asks what is due first
            self._heap = [(due_ms, known) for known, due_ms in self._due.items() if due_ms is not None]
            heapq.heapify(self._heap)
        elif at_ms is not None:
            heapq.heappush(self._heap, (at_ms, key))

    def tick_before(self, event: AnyEvent) -> Tick | None:
        """Return the next Tick that is due on event time before `event` happens, or None. Step it, then ask again.

        A stream's time is what its own events say: another stream's later data does not make it stale.
        """
        at_ms = available_ms(event)
        if self._config.clock != "event" or at_ms is None or isinstance(event, Command | Tick):
            return None
        return self.next_tick(at_ms - 1, self.reached(event))

    def digest(self) -> str:
        """Return the SHA-256 (hex) over all streams, whatever the order they came in."""
        digest = hashlib.sha256()
        for key in sorted(self._engines):
            digest.update("\0".join(key).encode() + b"\0" + self._engines[key].digest().encode())
        return digest.hexdigest()

    def snapshot(self) -> bytes | None:
        """Return everything needed to continue, or None if one stream's detectors cannot be taken out."""
        engines = []
        for engine in self._engines.values():
            raw = engine.snapshot()
            if raw is None:
                return None
            engines.append([list(engine.key), raw])
        models = {name: msgspec.to_builtins(model) for name, model in self._models.items()}
        return msgspec.msgpack.encode({"config": config_digest(self._config), "models": models, "engines": engines})

    def restore(self, raw: bytes) -> None:
        """Continue from what `snapshot` returned. Raises `CorruptionError` for anything else."""
        try:
            body = msgspec.msgpack.decode(raw)
            if body["config"] != config_digest(self._config):
                raise CorruptionError("the snapshot was made under another configuration")
            models = {name: msgspec.convert(model, ModelState) for name, model in body["models"].items()}
            engines: dict[StreamKey, Engine] = {}
            for parts, state in body["engines"]:
                engine = Engine(StreamKey(*parts), self._config, self._references, self._calibrations)
                engine.restore(state)
                engines[engine.key] = engine
        except RegimeError:
            raise
        except Exception as error:  # Whatever the bytes are: the answer is to replay the log.
            raise CorruptionError(f"a snapshot cannot be read: {error}") from error
        self._models, self._engines = models, engines
        self._due, self._heap = {}, []
        for key in engines:
            self._schedule(key)

    def _own_key(self, event: AnyEvent) -> StreamKey | None:
        """The one stream an event is about, if it names one."""
        match event:
            case Observation() | Trade() | Tick():
                return StreamKey(event.model, event.symbol, event.timeframe)
            case Recalibrated() if event.symbol is not None and event.timeframe is not None:
                return StreamKey(event.model, event.symbol, event.timeframe)
            case _:
                return None

    def _join(self, key: StreamKey, joining: AnyEvent) -> None:
        engine = Engine(key, self._config, self._references, self._calibrations)
        self._engines[key] = engine
        model = self._models.setdefault(key.model, ModelState())
        if model.drawdown.source == "equity":
            engine.inherit(msgspec.convert(msgspec.to_builtins(model.drawdown), Drawdown))
        standing: list[AnyEvent] = []
        standing += [recalibrated for recalibrated in model.recalibrated if concerns(recalibrated, key)][-1:]
        if model.promoted is not None:
            standing.append(model.promoted)
        now_ms = available_ms(joining) or 0
        for command in model.commands:
            # One whose time was over before the stream began has nothing to say to it.
            if concerns(command, key) and (command.until_ms is None or command.until_ms > now_ms):
                standing.append(command)
        for event in standing:
            engine.step(event)

    def _remember(self, event: AnyEvent) -> None:
        if isinstance(event, Candle | Tick | Reconfigured):
            return
        model = self._models.setdefault(event.model, ModelState())
        match event:
            case Equity():
                model.drawdown.on_equity(event)
            case Command(action="reset-peak"):
                model.drawdown.reset_peak()
            case Command(action="retry" | "drop"):
                pass  # It is about what one stream has been through; nothing for those that come later.
            case Command():
                rest = [command for command in model.commands if command.id != event.id]
                if self._config.clock == "wall":
                    # On event time what is over for one stream may not be for another that joins at an earlier time.
                    now_ms = self._clock_ms(event.model)
                    rest = [command for command in rest if command.until_ms is None or command.until_ms > now_ms]
                model.commands = [*rest, event] if event.action == "set" else rest
            case Recalibrated() if event.symbol is None or event.timeframe is None:
                scope = (event.symbol, event.timeframe)
                # One for the whole model replaces all; another one only its like.
                others = [] if scope == (None, None) else [
                    r for r in model.recalibrated if (r.symbol, r.timeframe) != scope
                ]  # fmt: skip
                model.recalibrated = [*others, event]
            case ModelPromoted():
                model.promoted = event
