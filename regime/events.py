"""What can happen. Every event is immutable; the log of events is the truth, all else is computed from it.

Times are integer milliseconds UTC and end in `_ms`; ratios end in `_ratio` (0.01 is 1 %); probabilities are 0..1.
A candle or an observation bears the **open** time of its candle and is *available* at `ts_ms` + timeframe: that is the
moment at which a bot could first have known it, and the order in which events of different kinds are merged.

Field constraints stand here, beside the field; `codec` enforces them when bytes come in. Nobody validates again later.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from regime.timeframe import timeframe_ms

Side = Literal["long", "short"]
SIDES: tuple[Side, Side] = ("long", "short")

LABEL_LENGTH_MAX = 128
TS_MS_MAX = 4_102_444_800_000
"""2100-01-01: later times are a unit mistake (microseconds, nanoseconds), not a candle."""

Label = Annotated[str, Meta(min_length=1, max_length=LABEL_LENGTH_MAX)]
Millis = Annotated[int, Meta(ge=0, le=TS_MS_MAX)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Price = Annotated[float, Meta(gt=0.0)]


class StreamKey(NamedTuple):
    """The key of all state: one model on one symbol and timeframe."""

    model: str
    symbol: str
    timeframe: str

    def __str__(self) -> str:
        return f"{self.model} {self.symbol} {self.timeframe}"


class Event(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", omit_defaults=True
):
    """Base of all events."""


class Probabilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The model's own claims for one candle; an absent one was not computed."""

    long: Probability | None = None
    short: Probability | None = None
    exit_long: Probability | None = None
    exit_short: Probability | None = None


class Taken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether the bot acted on its signal of this candle."""

    long: bool | None = None
    short: bool | None = None


class Ohlcv(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices and volume of one closed candle."""

    open: Price
    high: Price
    low: Price
    close: Price
    volume: Annotated[float, Meta(ge=0.0)]


class Observation(Event, frozen=True, kw_only=True, tag="observation"):
    """What the model saw on one closed candle, and what it said.

    `features` maps names to values; `None` is a missing value (never NaN). Idempotent on stream + `ts_ms`.
    """

    model: Label
    symbol: Label
    timeframe: str
    ts_ms: Millis
    features: dict[str, float | None]
    probabilities: Probabilities | None = None
    taken: Taken | None = None
    candle: Ohlcv | None = None


class Candle(Event, frozen=True, kw_only=True, tag="candle"):
    """One closed candle of a market; it reaches every stream of that symbol and timeframe."""

    symbol: Label
    timeframe: str
    ts_ms: Millis
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Annotated[float, Meta(ge=0.0)]

    def ohlcv(self) -> Ohlcv:
        return Ohlcv(open=self.open, high=self.high, low=self.low, close=self.close, volume=self.volume)


class Trade(Event, frozen=True, kw_only=True, tag="trade"):
    """One closed trade. `profit_ratio` is net of fees and unleveraged; `shadow` marks a paper outcome."""

    model: Label
    symbol: Label
    timeframe: str
    trade_id: Label
    side: Side
    opened_ms: Millis
    closed_ms: Millis
    entry_price: Price
    exit_price: Price
    profit_ratio: float
    entry_probability: Probability | None = None
    exit_reason: Annotated[str, Meta(max_length=LABEL_LENGTH_MAX)] | None = None
    leverage: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    size_ratio: Annotated[float, Meta(ge=0.0)] | None = None
    signal_ts_ms: Millis | None = None
    shadow: bool = False


class Equity(Event, frozen=True, kw_only=True, tag="equity"):
    """The account, open positions marked to market; `net_flow` is money paid in (+) or out (-) since the last one."""

    model: Label
    ts_ms: Millis
    equity: float
    net_flow: float | None = None


class Tick(Event, frozen=True, kw_only=True, tag="tick"):
    """Time passed for one stream and something changed by that alone: it went stale, an override ended."""

    model: Label
    symbol: Label
    timeframe: str
    ts_ms: Millis


OperatorState = Literal["ACTIVE", "REDUCING", "HALTED"]


class Command(Event, frozen=True, kw_only=True, tag="command"):
    """An operator's word. `action="set"` puts an override in force, `action="clear"` ends the one of that `id`, and
    `action="reset-peak"` measures the model's drawdown from here on.

    `action="retry"` and `action="drop"` end the pause of one stream that an event made fail (reason `engine-error`):
    its detectors start anew from the reference in force. `retry` then measures that event once more, `drop` leaves it
    out. What the event had changed before it failed, its being counted for one, stands either way. `letter` is the
    number of its dead letter; it is for the record, the engine knows the event itself.

    A `symbol`, `timeframe` or `side` that is not given means all of them, streams that come later included.
    """

    id: Label
    action: Literal["set", "clear", "reset-peak", "retry", "drop"]
    ts_ms: Millis
    model: Label
    symbol: Label | None = None
    timeframe: str | None = None
    side: Side | None = None
    state: OperatorState | None = None
    until_ms: Millis | None = None
    actor: Annotated[str, Meta(max_length=LABEL_LENGTH_MAX)] = ""
    reason: Annotated[str, Meta(max_length=1000)] = ""
    key_id: str | None = None
    letter: Annotated[int, Meta(ge=1)] | None = None


class Recalibrated(Event, frozen=True, kw_only=True, tag="recalibrated"):
    """A reference came into force for the streams it names (all of the model where symbol or timeframe is not given).

    The sample itself is kept beside the log under `reference_id`, the SHA-256 of its content.
    """

    model: Label
    version: Label
    reference_id: str
    symbol: Label | None = None
    timeframe: str | None = None
    trained_until_ms: Millis | None = None
    ts_ms: Millis | None = None
    """When it came into force on a wall clock; absent on event time, where a reference is timeless."""
    calibrations: dict[str, str] = {}
    """By detector (`features.calibrated`), the id of the limits found for this reference and budget; kept beside the
    log as they are. A detector without one finds its limits when the event is stepped."""
    revision: Annotated[int, Meta(ge=0)] = 0
    """Grows when the limits are found anew for the same reference: another budget, other options."""


class ModelPromoted(Event, frozen=True, kw_only=True, tag="model_promoted"):
    """Another version of the model went live; its training data ends at `trained_until_ms`."""

    model: Label
    model_version: Label
    ts_ms: Millis
    trained_until_ms: Millis | None = None


class Reconfigured(Event, frozen=True, kw_only=True, tag="reconfigured"):
    """From here on another configuration (or another version of this program) judges the stream.

    `served_version` is the newest version that was served before; the next one is higher, whatever the new judgement
    of the old log comes to. Without this event a restart after a change could take versions back.
    """

    model: Label
    symbol: Label
    timeframe: str
    policy_id: str
    served_version: Annotated[int, Meta(ge=0)]


AnyEvent = Observation | Candle | Trade | Equity | Tick | Command | Recalibrated | ModelPromoted | Reconfigured


def available_ms(event: AnyEvent) -> int | None:
    """Return the moment at which a bot could first have known of `event`; None where the event has no time."""
    match event:
        case Reconfigured():
            return None
        case Observation() | Candle():
            return event.ts_ms + timeframe_ms(event.timeframe)
        case Trade():
            return event.closed_ms
        case _:
            return event.ts_ms


_RANK = {
    Reconfigured: 0,
    Recalibrated: 0,
    ModelPromoted: 1,
    Candle: 2,
    Trade: 3,
    Equity: 4,
    Observation: 5,
    Command: 6,
    Tick: 7,
}


def merge_order(event: AnyEvent) -> tuple[int, int]:
    """Sort key that merges events of files: by availability; at the same instant candle, trade, equity, observation,
    command. Sorting must be stable, so that events of one kind and instant keep the order of their file."""
    at_ms = available_ms(event)
    return (-1 if at_ms is None else at_ms, _RANK[type(event)])


def source_key(event: AnyEvent) -> str:
    """Return what the event is idempotent on: the same key with the same content is a duplicate, with other content
    a conflict. Parts are joined by NUL, which no label may contain."""
    parts: tuple[str, ...]
    match event:
        case Observation():
            parts = ("o", event.model, event.symbol, event.timeframe, str(event.ts_ms))
        case Candle():
            parts = ("c", event.symbol, event.timeframe, str(event.ts_ms))
        case Trade():
            parts = ("t", event.model, event.trade_id)
        case Equity():
            parts = ("e", event.model, str(event.ts_ms))
        case Tick():
            parts = ("k", event.model, event.symbol, event.timeframe, str(event.ts_ms))
        case Command():
            parts = ("x", event.id, event.action)
        case Recalibrated():
            parts = ("r", event.model, event.symbol or "", event.timeframe or "", event.version)
            if event.revision:
                parts = (*parts, str(event.revision))
        case Reconfigured():
            parts = ("f", event.model, event.symbol, event.timeframe, str(event.served_version))
        case ModelPromoted():
            parts = ("m", event.model, event.model_version)
    return "\0".join(parts)


def concerns(event: AnyEvent, key: StreamKey) -> bool:
    """Whether `event` reaches the stream `key`."""
    match event:
        case Candle():
            return (event.symbol, event.timeframe) == (key.symbol, key.timeframe)
        case Equity() | ModelPromoted():
            return event.model == key.model
        case Command(action="clear"):
            return event.model == key.model  # It ends an override wherever that is in force.
        case Command() | Recalibrated():
            return (
                event.model == key.model
                and event.symbol in (None, key.symbol)
                and event.timeframe in (None, key.timeframe)
            )
        case _:
            return (event.model, event.symbol, event.timeframe) == key


__all__ = [
    "SIDES", "AnyEvent", "Candle", "Command", "Equity", "Event", "Label", "Millis", "ModelPromoted",
    "Observation", "Ohlcv", "OperatorState", "Price", "Probabilities", "Probability", "Recalibrated", "Reconfigured",
    "Side", "StreamKey", "Taken", "Tick", "Trade", "available_ms", "concerns", "merge_order", "source_key",
]  # fmt: skip
