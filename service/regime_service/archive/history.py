"""One stream of an archive as a history that can be played under any configuration: `regime sweep --archive`.

Data come in the order in which they could be known (`regime.replay.merged`), as out of files; references, promotions
and operators' words have their place in the log, because the time they bear is that of the machine. The Ticks of the
day belong to the configuration of the day and are made anew on event time, and limits that were found for another
budget are found anew. All else goes through the engine as it does for `regime replay --archive`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec

from regime.calibration import Calibration
from regime.config import EngineConfig
from regime.decision import Decision, TradingState, decode_decision
from regime.errors import OperatorError
from regime.events import (
    SIDES,
    AnyEvent,
    Candle,
    Equity,
    Observation,
    Reconfigured,
    StreamKey,
    Tick,
    Trade,
    available_ms,
    merge_order,
)
from regime.fleet import Fleet
from regime.guard_value import Verdict, verdicts
from regime.reference import Reference
from regime.what_if import Refused, what_if
from regime_service.archive.folder import Archive

AFTER_DATA = 8
"""Place among events of one instant: after everything in `regime.events.merge_order`."""
STREAMS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """Which history to play: an archive, and as much of the stream's name as tells it from the others."""

    folder: str
    model: str | None
    symbol: str | None
    timeframe: str | None
    config: EngineConfig
    out: Path
    what_if: Refused


class ArchivedHistory:
    """What an archive holds of one stream, read once, to be played under many configurations.

    Raises `OperatorError` where there is no archive or the stream is not told, `CorruptionError` where a part of the
    archive is missing or damaged.
    """

    def __init__(self, options: ArchiveOptions) -> None:
        self._options = options
        self._archive = opened(options.folder)
        self._key = stream_of(self._archive, options)
        self._events = _in_time(self._archive.of_stream(self._key))
        self._observed = any(isinstance(event, Observation) for event in self._events)
        self._reference = cache(lambda known: Reference.from_bytes(self._archive.kept(known)))
        self._calibration = cache(lambda known: Calibration.from_json(self._archive.kept(known).decode()))

    @property
    def trades(self) -> list[Trade]:
        return [event for event in self._events if isinstance(event, Trade)]

    @property
    def notes(self) -> list[str]:
        """What a reader of any table made of this history has to know."""
        held = _held_back([decode_decision(raw) for raw in self._archive.served(self._key)], self.trades)
        if not any(held.values()):
            return []
        shares = " and ".join(f"{side} for {share:.1%}" for side, share in held.items() if share)
        return [
            f"The guard was in force when this was recorded, and paused {shares} of the time (or asked for a higher "
            "probability). What it refused was not traded, so it counts for no configuration here; a service with "
            'mode = "shadow" records everything.'
        ]

    def verdicts(self, config: EngineConfig) -> list[Verdict]:
        """Return what the guard would have said to each real trade under `config`, in the order of opening."""
        # Without observations there is no warm-up and no staleness.
        config = msgspec.structs.replace(
            config, clock="event", require_observations=config.require_observations and self._observed
        )
        fleet, decisions = Fleet(config, self._reference, self._calibration), list[Decision]()
        base_entry = config.model(self._key.model).entry
        for played in what_if(self._fed(fleet), fleet, self._options.what_if, base_entry=base_entry):
            decisions += [step.decision for key, step in played.steps if key == self._key and step.changed]
        return verdicts(self.trades, {self._key: decisions}, base_entry=base_entry)

    def _fed(self, fleet: Fleet) -> Iterator[AnyEvent]:
        """Yield the events, each after the one before was stepped; limits of another budget are found anew, as a
        service does that is started with one."""
        in_force: tuple[str | None, int] = None, 0
        for event in self._events:
            yield event
            if self._key not in fleet:
                continue
            engine = fleet.engine(self._key)
            if (now := (engine.state.reference_id, engine.state.revision)) != in_force:
                in_force = now
                if (again := engine.outdated_limits()) is not None:
                    yield again


def opened(folder: str) -> Archive:
    """Return the archive in `folder`; `OperatorError` where there is none."""
    archive = Archive(folder)
    if not archive.state.last_seq:
        raise OperatorError(f"{folder} is no archive, or an empty one; `regime log archive` makes it from a store")
    return archive


def stream_of(archive: Archive, options: ArchiveOptions) -> StreamKey:
    """Return the one stream with real trades that `options` names; `OperatorError` where it is none, or several."""
    traded = archive.traded()
    wanted = (options.model, options.symbol, options.timeframe)
    found = [key for key in traded if all(mine in (None, its) for mine, its in zip(wanted, key, strict=True))]
    if len(found) == 1:
        return found[0]
    shown = "; ".join(f"{key} ({count:,})" for key, count in [*traded.items()][:STREAMS_SHOWN])
    more = f" and {len(traded) - STREAMS_SHOWN} more" if len(traded) > STREAMS_SHOWN else ""
    if not traded:
        raise OperatorError(f"there is no real trade in the archive {options.folder}, so there is nothing to judge by")
    if not found:
        raise OperatorError(
            f"the archive has no real trade of {_named(wanted)}; it has some of {shown}{more}. "
            "Mind --model, --symbol and --timeframe"
        )
    raise OperatorError(
        f"the archive has real trades of {len(found)} streams: {shown}{more}. "
        "Say which one: --model NAME --symbol SYMBOL --timeframe TF"
    )


def with_stream(options: ArchiveOptions) -> ArchiveOptions:
    """Return `options` with the stream's whole name, without reading more than trades. Raises as `stream_of`."""
    key = stream_of(opened(options.folder), options)
    return replace(options, model=key.model, symbol=key.symbol, timeframe=key.timeframe)


def _named(wanted: Sequence[str | None]) -> str:
    return " ".join(part for part in wanted if part is not None)


def _in_time(events: Iterator[AnyEvent]) -> list[AnyEvent]:
    """Put data in the order in which they could be known, whenever they were posted; the rest after what it followed
    in the log."""
    placed: list[tuple[tuple[int, int], AnyEvent]] = []
    newest_ms = -1
    for event in events:
        if isinstance(event, Tick | Reconfigured):
            continue
        if isinstance(event, Observation | Candle | Trade | Equity):
            placed.append((merge_order(event), event))
            newest_ms = max(newest_ms, available_ms(event) or 0)
        else:
            placed.append(((newest_ms, AFTER_DATA), event))
    placed.sort(key=lambda place: place[0])
    return [event for _, event in placed]


def _held_back(served: Sequence[Decision], trades: Sequence[Trade]) -> dict[str, float]:
    """Share of the time between the first trade and the last in which a side was paused or asked for more than usual,
    and was listened to."""
    begin_ms, end_ms = min(t.opened_ms for t in trades), max(t.closed_ms for t in trades)
    found: dict[str, float] = {}
    for side in SIDES:
        told = [(decision, decision.sides.of(side)) for decision in served]
        usual = min((each.entry for _, each in told), default=0.0)
        ends = [*(decision.as_of_ms for decision in served[1:]), end_ms]
        found[side] = sum(
            max(min(until_ms, end_ms) - max(decision.as_of_ms, begin_ms), 0)
            for (decision, each), until_ms in zip(told, ends[: len(told)], strict=True)
            if decision.mode == "enforce" and (each.state is not TradingState.ACTIVE or each.entry > usual)
        ) / max(end_ms - begin_ms, 1)  # fmt: skip
    return found


__all__ = ["ArchiveOptions", "ArchivedHistory", "opened", "stream_of", "with_stream"]
