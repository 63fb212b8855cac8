"""Event <-> canonical JSON bytes: the one spelling for HTTP, log, replay and tests.

Canonical means: one byte string per content. Fields in declared order, defaults left out, features sorted by name,
floats in their shortest exact form. Two events are the same content if and only if their bytes are the same.

Bytes from outside come in by `parse`, which either returns events that satisfy every constraint, or raises a
`CallerError` that names each value at fault by its path (`[30].features.rsi`). The fast path is msgspec; only a body
that it refuses is looked at again, slowly, to say exactly what is wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from regime.errors import CallerError, CorruptionError, FieldError
from regime.events import LABEL_LENGTH_MAX, TS_MS_MAX, AnyEvent, Candle, Command, Event, Observation, Ohlcv, Trade
from regime.timeframe import timeframe_ms

FEATURES_MAX = 4096
"""Features of one observation; a bot has hundreds."""
ERRORS_MAX = 20
"""Errors named in one answer; the rest is counted."""

FINE_NAMES_MAX = 16_384
"""Names of features remembered as fine: a bot sends the same ones with every candle. Of streams, likewise."""
PROFIT_RATIO_MAX = 1e6
"""Larger figures are no ratio of anything, and a sum of them overflows."""

E = TypeVar("E", bound=Event)

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_FINE_NAMES: set[str] = set()
_FINE_STREAMS: dict[tuple[str, str, str], int] = {}
"""Length of their candles in milliseconds, by model, symbol and timeframe."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def encode(event: AnyEvent) -> bytes:
    """Return the canonical bytes of `event`.

    >>> from regime.events import Tick
    >>> encode(Tick(model="m", symbol="s", timeframe="5m", ts_ms=1))
    b'{"kind":"tick","model":"m","symbol":"s","timeframe":"5m","ts_ms":1}'
    """
    return _ENCODER.encode(event)


def decode(raw: bytes) -> AnyEvent:
    """Inverse of `encode`, for bytes this project wrote itself. Raises `CorruptionError` for anything else."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"an event of the log cannot be read: {error}") from error


def parse(raw: bytes, kind: type[E], *, ndjson: bool = False) -> list[E]:
    """Return the events of a body: one JSON object, an array of them, or (`ndjson`) one object a line.

    Raises `CallerError`: 400 where the bytes are no JSON, 422 where a value makes no sense. All or nothing.
    """
    events = _parse_lines(raw, kind) if ndjson else _parse_json(raw, kind)
    single = not ndjson and raw.lstrip()[:1] != b"["
    errors: list[FieldError] = []
    for i, event in enumerate(events):
        if _as_before(event):
            continue
        found = check(event)
        errors += [FieldError(e.path if single else _join(f"[{i}]", e.path), e.message) for e in found]
        if not found and isinstance(event, Observation):
            if len(_FINE_STREAMS) >= FINE_NAMES_MAX:
                _FINE_STREAMS.clear()
            _FINE_STREAMS[event.model, event.symbol, event.timeframe] = timeframe_ms(event.timeframe)
    if errors:
        raise _refusal(errors)
    return events


def _parse_json(raw: bytes, kind: type[E]) -> list[E]:
    try:
        found: E | list[E] = _decoder(kind).decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(raw, error, prefix="") from None
    return found if isinstance(found, list) else [found]


def _parse_lines(raw: bytes, kind: type[E]) -> list[E]:
    events: list[E] = []
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(filter(None, map(bytes.strip, raw.split(b"\n")))):
        try:
            events.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _explain(line, error, prefix=f"[{number}]") from None
    return events


_DECODERS: dict[type[Event], Any] = {}


def _decoder(kind: type[E]) -> msgspec.json.Decoder[E | list[E]]:
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.json.Decoder(kind | list[kind])  # type: ignore[valid-type]
    found: msgspec.json.Decoder[E | list[E]] = _DECODERS[kind]
    return found


def check(event: Event) -> list[FieldError]:
    """Return what the types cannot say: known timeframe, sane labels, prices in order, times in order."""
    return list(_check(event))


def _as_before(event: Event) -> bool:
    """Whether this is an observation of a stream and of features that were checked before: nearly all are."""
    if type(event) is not Observation:
        return False
    length_ms = _FINE_STREAMS.get((event.model, event.symbol, event.timeframe))
    return (
        length_ms is not None
        and event.ts_ms + length_ms <= TS_MS_MAX
        and len(event.features) <= FEATURES_MAX
        and _FINE_NAMES.issuperset(event.features)
        and (event.candle is None or _in_order(event.candle))
    )


def _check(event: Event) -> Iterator[FieldError]:
    for name in ("model", "symbol", "trade_id", "id", "version", "model_version"):
        label = getattr(event, name, None)
        if isinstance(label, str) and _CONTROL.search(label):
            yield FieldError(name, "must not contain control characters")
    timeframe = getattr(event, "timeframe", None)
    if timeframe is not None:
        try:
            length_ms = timeframe_ms(timeframe)
        except ValueError as error:
            yield FieldError("timeframe", str(error))
        else:
            # Its close becomes the stream's time, and that the time of Ticks and commands: the log must hold it.
            if isinstance(event, Observation | Candle) and event.ts_ms + length_ms > TS_MS_MAX:
                yield FieldError("timeframe", f"a candle of {timeframe} that opens at {event.ts_ms} closes after 2099")
    match event:
        case Observation():
            yield from _check_features(event.features)
            if event.candle is not None:
                yield from _check_prices(event.candle, "candle.")
        case Candle():
            yield from _check_prices(event.ohlcv(), "")
        case Trade():
            if event.opened_ms > event.closed_ms:
                yield FieldError("opened_ms", f"is after closed_ms ({event.opened_ms} > {event.closed_ms})")
            if abs(event.profit_ratio) > PROFIT_RATIO_MAX:
                yield FieldError("profit_ratio", f"is no ratio: {event.profit_ratio:g} (0.01 is a profit of 1 %)")
        case Command():
            if event.action == "set" and event.state is None:
                yield FieldError("state", "is missing: ACTIVE, REDUCING or HALTED")


def _check_features(features: dict[str, float | None]) -> Iterator[FieldError]:
    if len(features) > FEATURES_MAX:
        yield FieldError("features", f"{len(features)} features; at most {FEATURES_MAX} are accepted")
        return
    if features.keys() <= _FINE_NAMES:
        return
    faulty = False
    for name in features:
        if not 0 < len(name) <= LABEL_LENGTH_MAX or _CONTROL.search(name):
            faulty = True
            yield FieldError(
                f"features.{name[:40]!r}", f"a feature name has 1 to {LABEL_LENGTH_MAX} characters, none of control"
            )

    if not faulty:
        if len(_FINE_NAMES) + len(features) > FINE_NAMES_MAX:
            _FINE_NAMES.clear()
        _FINE_NAMES.update(features)


def _check_prices(candle: Ohlcv, prefix: str) -> Iterator[FieldError]:
    if not _in_order(candle):
        yield FieldError(
            f"{prefix}high" if candle.high < max(candle.open, candle.close) else f"{prefix}low",
            f"open {candle.open} and close {candle.close} must lie between low {candle.low} and high {candle.high}",
        )


def _in_order(candle: Ohlcv) -> bool:
    return candle.low <= min(candle.open, candle.close) and candle.high >= max(candle.open, candle.close)


def _refusal(errors: list[FieldError], status: int = 422) -> CallerError:
    shown = errors[:ERRORS_MAX]
    more = f" (and {len(errors) - len(shown)} more)" if len(errors) > len(shown) else ""
    first = shown[0]
    where = f"{first.path}: " if first.path else ""
    return CallerError(f"{where}{first.message}{more}. Nothing was stored.", status=status, errors=shown)


_LINE = re.compile(r" - at `(key in )?\$([^`]*)`$")


def _explain(raw: bytes, error: Exception, *, prefix: str) -> CallerError:
    """Say precisely what is wrong with a body that msgspec refused."""
    try:
        # The standard library also reads NaN, Infinity and 1e999, which is what we want to find and name.
        body = json.loads(raw, parse_int=_parse_int)
    except ValueError:
        message = str(error) if isinstance(error, msgspec.MsgspecError) else "the body is not valid UTF-8 JSON"
        return _refusal([FieldError(prefix, message)], status=400)
    except RecursionError:
        body = None  # Nested too deep to look at; what msgspec said has to do.
    errors = [FieldError(_join(prefix, e.path), e.message) for e in _bad_numbers(body)]
    if not errors and isinstance(error, msgspec.ValidationError):
        message = str(error)
        path = ""
        if (found := _LINE.search(message)) is not None:
            message, path = message[: found.start()], found[2].lstrip(".")
        if "[...]" in path:
            errors = [FieldError(_join(prefix, e.path), e.message) for e in _bad_features(body)]
        errors = errors or [FieldError(_join(prefix, path), _printable(message))]
    # No value is at fault: bytes that only the standard library reads (UTF-16, a lone surrogate), or nested too deep.
    return _refusal(errors or [FieldError(prefix, _printable(str(error)))], status=422 if errors else 400)


def _parse_int(digits: str) -> int | float:
    """Python refuses to read integers of thousands of digits; no number that we could take is that long."""
    return int(digits) if len(digits) < 300 else float(digits)


def _join(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix and path and not path.startswith("[") else prefix + path


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:300]


def _bad_numbers(body: Any) -> Iterator[FieldError]:
    """NaN and infinities (integers too large for a float are read as such). Iterative: bodies may be deep."""
    stack: list[tuple[str, Any]] = [("", body)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            stack.extend((_join(path, _printable(k)) if path else _printable(k), v) for k, v in reversed(node.items()))
        elif isinstance(node, list):
            stack.extend((f"{path}[{i}]", v) for i, v in reversed(list(enumerate(node))))
        elif isinstance(node, float) and not math.isfinite(node):
            yield FieldError(path, f"must be a finite number (got {node}); send null where a value is missing")


def _bad_features(body: Any) -> Iterator[FieldError]:
    """Features that are neither a number nor null; msgspec does not name the key of a mapping."""
    single = not isinstance(body, list)
    for i, item in enumerate([body] if single else body):
        features = item.get("features") if isinstance(item, dict) else None
        if isinstance(features, dict):
            for name, value in features.items():
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    path = f"features.{_printable(name)}"
                    yield FieldError(
                        path if single else f"[{i}].{path}",
                        f"must be a number or null, got {type(value).__name__}",
                    )
