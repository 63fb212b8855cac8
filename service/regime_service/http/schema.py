"""What the answers look like, and how OpenAPI says so.

The structs of events (`regime.events`) and of decisions (`regime.decision`) are the schema; here stand the few that
only HTTP has, query parameters (said once: read and documented from the same lines), and the making of the document.
A test asks the running service every documented question and holds the answers against this document.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, UnsetType

from regime.codec import FEATURES_MAX
from regime.decision import RegimeLabel, Sides
from regime.errors import CallerError, FieldError
from regime.events import (
    LABEL_LENGTH_MAX,
    TS_MS_MAX,
    Candle,
    Equity,
    Event,
    Label,
    Millis,
    Observation,
    OperatorState,
    Side,
    Trade,
)  # fmt: skip
from regime_service.http import problems
from regime_service.keys import AccessScope

JSON = "application/json"
NDJSON = "application/x-ndjson"
REF = "#/components/schemas/"

# --- bodies and answers that only HTTP has --------------------------------------------------------------------------


class Override(Event, tag="override", frozen=True):
    """An operator's word. A `symbol`, `timeframe` or `side` that is not given means all of them, also those to come.

    `HALTED`: the bot places no order of its own. `REDUCING`: no new entries. `ACTIVE`: trade, whatever the rules say;
    a fault of data or store still pauses. Without `until_ms` it stands until it is deleted. `id` makes sending it again
    harmless; without one the service makes one.
    """

    model: Label
    state: OperatorState
    actor: Label
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]
    symbol: Label | None = None
    timeframe: str | None = None
    side: Side | None = None
    until_ms: Millis | None = None
    id: str | None = None


class PeakReset(Event, tag="peak-reset", frozen=True):
    """An operator's word: measure the drawdown of the model from here on. Recorded like every other command."""

    model: Label
    actor: Label
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]


class StreamThresholds(msgspec.Struct, kw_only=True):
    """The answer for one stream; under REDUCING and HALTED no new entries, exits are free.

    `version` grows with every change and never falls within an `epoch`. `valid_for_ms` is a lease in milliseconds,
    counted on the client's own monotonic clock from the start of its request. `as_of_ms`: when it was judged;
    `data_until_ms`: close of the newest candle in it. `computed`, in shadow mode only, is what would have been said.
    """

    model: str
    symbol: str
    timeframe: str
    mode: str
    version: int
    epoch: str
    as_of_ms: int
    data_until_ms: int | None
    valid_for_ms: int
    regime: RegimeLabel | None
    sides: Sides
    reference_id: str | None
    policy_id: str
    computed: Sides | UnsetType = UNSET


class ThresholdsAnswer(msgspec.Struct, kw_only=True):
    """Streams in the order asked for; `unknown` names the symbols of a list that are no stream."""

    server_time_ms: int
    thresholds: list[StreamThresholds]
    unknown: list[str]


class PushedThresholds(StreamThresholds, kw_only=True):
    """An answer as an event `thresholds` carries it; it replaces any other of its stream.

    `elapsed_ms` is how long after the beginning of the event stream it was said: the lease runs from the start of the
    request plus that, on the client's own monotonic clock.
    """

    elapsed_ms: int


class Lease(msgspec.Struct, kw_only=True):
    """Every answer that came over this event stream still stands, and is good for another `valid_for_ms` from
    `elapsed_ms` after the start of the request. `streams` counts those that the filter matches."""

    server_time_ms: int
    elapsed_ms: int
    epoch: str
    valid_for_ms: int
    streams: int


class Closing(msgspec.Struct, kw_only=True):
    """Why the service ends the event stream, and the status that a request would get now. Nothing is renewed by it."""

    status: int
    reason: str


class IngestAnswer(msgspec.Struct, kw_only=True):
    """Given after the events are on disk and judged.

    `accepted` are new, `late` those of them that were stored but not judged (older than the stream's newest),
    `duplicates` were known with the same content, `conflicts` (with `on_conflict=keep` only) with other content, and
    what was stored first stays. `thresholds`: every stream touched.
    """

    accepted: int
    duplicates: int
    late: int
    thresholds: list[StreamThresholds]
    conflicts: int | UnsetType = UNSET


class ReferenceAnswer(msgspec.Struct, kw_only=True):
    """The reference is in force for the streams in `thresholds`. `duplicate`: it was already."""

    reference_id: str
    version: str
    rows: int
    features: int
    trained_until_ms: int | None
    duplicate: bool
    thresholds: list[StreamThresholds]


class DecisionsAnswer(msgspec.Struct, kw_only=True):
    """The audit trail, ascending by version. Ask again with `next_since_version`; an empty page is its end for now.

    Entries have the fields of an answer; their `valid_for_ms` is 0, for they are history.
    """

    epoch: str
    decisions: list[StreamThresholds]
    next_since_version: int


class OverrideAnswer(msgspec.Struct, kw_only=True):
    """The override is recorded and in force (or, after a DELETE, is so no longer)."""

    id: str


class Alive(msgspec.Struct, kw_only=True):
    status: str


class Ready(msgspec.Struct, kw_only=True):
    """The service can answer and store."""

    ready: bool
    queue_depth: int
    queue_max: int


# --- query parameters -----------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"[0-9]{1,16}")
_FIELDS_MAX = 64


class Param(NamedTuple):
    """One query parameter. `whole` makes it a whole number in that range, `choices` one of these words."""

    name: str
    about: str
    required: bool = False
    whole: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()
    default: str | None = None
    length_max: int | None = None

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI parameter object."""
        schema: dict[str, Any] = {"type": "string", "minLength": 1}
        if self.length_max is not None:
            schema["maxLength"] = self.length_max
        if self.choices:
            schema = {"type": "string", "enum": list(self.choices)}
        if self.whole is not None:
            schema = {"type": "integer", "minimum": self.whole[0], "maximum": self.whole[1]}
        if self.default is not None:
            schema["default"] = self.default if self.whole is None else int(self.default)
        return {"name": self.name, "in": "query", "required": self.required, "description": self.about,
                "schema": schema}  # fmt: skip

    def fault(self, value: str | None) -> str | None:
        """Say what is wrong with a value; None if nothing is."""
        if value is None:
            return f"is missing: add ?{self.name}=... ({self.about})" if self.required else None
        if not value:
            return (
                f"is empty; {'give it a value' if self.required else 'leave it out or give it a value'} ({self.about})"
            )
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)} (got {value[:40]!r})"
        if self.whole is not None:
            low, high = self.whole
            if not _DIGITS.fullmatch(value) or not low <= int(value) <= high:
                return f"must be a whole number from {low} to {high} (got {value[:40]!r})"
        if self.length_max is not None and len(value) > self.length_max:
            return f"has {len(value)} characters; at most {self.length_max} are taken"
        return None


class Query:
    """The query of a request, read by its parameters. Raises `CallerError`: 400 unreadable, 422 a wrong value.

    `strict` refuses a parameter that nobody knows, with the nearest name: on requests that change something, a typing
    error in `timeframe=` must not widen what is changed. Other requests ignore it. An empty value is refused for the
    same reason: a variable of a shell script that was not set would mean "all streams".
    """

    def __init__(self, raw: bytes, params: Sequence[Param], *, strict: bool) -> None:
        try:
            pairs = parse_qsl(
                raw.decode("utf-8"), keep_blank_values=True, encoding="utf-8", errors="strict",
                max_num_fields=_FIELDS_MAX,
            ) if raw else []  # fmt: skip
        except ValueError:  # UnicodeDecodeError is one too.
            raise CallerError(
                f"The query of the address cannot be read: it is not percent-encoded UTF-8, or has more than "
                f"{_FIELDS_MAX} parts.",
                status=400,
            ) from None
        known = {param.name: param for param in params}
        found: dict[str, str] = {}
        errors: list[FieldError] = []
        for name, value in pairs:
            if name not in known:
                if strict:
                    errors.append(FieldError(name, f"is not known here{_nearest(name, known)}"))
            elif name in found:
                errors.append(FieldError(name, "stands twice in the query"))
            else:
                found[name] = value
        errors += [FieldError(p.name, fault) for p in params if (fault := p.fault(found.get(p.name))) is not None]
        if errors:
            text = "; ".join(f"`{e.path}` {e.message}" for e in errors[:3])
            raise CallerError(f"The query of the address is not right: {text}.", errors=errors[:20])
        self._found = {p.name: found.get(p.name, p.default) for p in params}

    def maybe(self, name: str) -> str | None:
        """Return the text of a parameter, its default, or None."""
        return self._found[name]

    def text(self, name: str) -> str:
        """Return the text of a parameter that is required or has a default."""
        value = self._found[name]
        assert value is not None
        return value

    def whole(self, name: str) -> int | None:
        """Return the number of a parameter, or None."""
        value = self._found[name]
        return None if value is None else int(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


# --- the document ---------------------------------------------------------------------------------------------------

EVENTS: tuple[type[Event], ...] = (Observation, Trade, Equity, Candle, Override, PeakReset)
ANSWERS: tuple[type[msgspec.Struct], ...] = (
    ThresholdsAnswer, IngestAnswer, ReferenceAnswer, DecisionsAnswer, OverrideAnswer, Alive, Ready, problems.Problem,
    PushedThresholds, Lease, Closing,
)  # fmt: skip

_NO_CONTROL = "^[^\\x00-\\x1f\\x7f]*$"
_TIMEFRAME = "^[1-9][0-9]{0,3}[smhdwM]$"
OVERRIDE_ID = "^[A-Za-z0-9._:~-]{1,128}$"


def components() -> dict[str, Any]:
    """Return `components.schemas`: what msgspec derives from the structs, and what only the codec knows."""
    _, found = msgspec.json.schema_components([*EVENTS, *ANSWERS], ref_template=REF + "{name}")
    for schema in found.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    for event in EVENTS:
        schema = found[event.__name__]
        fields = schema["properties"]
        # The kind is said by the address. It may stand in the body, as it does in the log.
        schema["required"] = [name for name in schema["required"] if name != "kind"]
        fields["kind"]["description"] = "May be left out."
        for name in ("model", "symbol", "trade_id"):
            if name in fields:
                _text(fields[name])["pattern"] = _NO_CONTROL
        if "timeframe" in fields:
            _text(fields["timeframe"])["pattern"] = _TIMEFRAME
    found["Observation"]["properties"]["features"] |= {
        "maxProperties": FEATURES_MAX,
        "propertyNames": {"minLength": 1, "maxLength": LABEL_LENGTH_MAX, "pattern": _NO_CONTROL},
    }
    _text(found["Override"]["properties"]["id"])["pattern"] = OVERRIDE_ID
    return found


def _text(field: dict[str, Any]) -> dict[str, Any]:
    """The string among the choices of a field's schema."""
    return next((choice for choice in field.get("anyOf", ()) if choice.get("type") == "string"), field)


def json_of(name: str) -> dict[str, Any]:
    """Return the content object of one JSON type."""
    return {JSON: {"schema": {"$ref": REF + name}}}


EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "description": "One event; comments apart, the body is nothing else.",
            "type": "object",
            "required": ["data"],
            "properties": {
                "event": {"enum": ["thresholds", "lease", "closing"]},
                "id": {"type": "string", "description": "an opaque cursor, for `Last-Event-ID`"},
                "retry": {"type": "integer"},
                "data": {
                    "type": "string",
                    "contentMediaType": JSON,
                    "contentSchema": {"oneOf": [{"$ref": REF + n} for n in ("PushedThresholds", "Lease", "Closing")]},
                },
            },
        }
    }
}
"""Content object of the event stream."""


def one_or_many(name: str, *, ndjson: bool) -> dict[str, Any]:
    """Return the request body of events: one object, an array of them, or one a line."""
    one = {"$ref": REF + name}
    content: dict[str, Any] = {JSON: {"schema": {"oneOf": [one, {"type": "array", "items": one}]}}}
    if ndjson:
        about = f"One {name} as JSON on each line."
        content[NDJSON] = {"schema": {"type": "string", "description": about}}
    return {"required": True, "content": content}


_WHEN = {
    400: "The body or the query cannot be read.",
    401: "There are keys, and the request bears none, a wrong one or a revoked one.",
    403: "Refused: the Host is not one of ours, a page of another site asks, or the key has not the scope.",
    404: "No such stream or model.",
    409: "Something else is stored under the same key; nothing was changed.",
    413: "The body is over the limit.",
    415: "The Content-Type is not one that is taken here.",
    422: "A value makes no sense; `errors` names it.",
    429: "This key (or address) asks too often. Ask again after `Retry-After` seconds. Never without keys.",
    503: "The queue is full, or the store has failed. Ask again after `Retry-After` seconds.",
}


def operation(
    ok: dict[str, Any],
    *,
    about: str,
    errors: Sequence[int],
    params: Sequence[Param] = (),
    path: Sequence[str] = (),
    body: dict[str, Any] | None = None,
    headers: Sequence[dict[str, Any]] = (),
    others: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI operation object, but for its names and words.

    `ok` is the content of the 200; `path` names path parameters; `others` are answers beside 200 and the problems.
    """
    responses: dict[str, Any] = {"200": {"description": about, "content": ok}, **(others or {})}
    for status in sorted({*errors, 403}):
        responses[str(status)] = _refusal(status)
    text = {"type": "string", "minLength": 1, "maxLength": LABEL_LENGTH_MAX}
    found: dict[str, Any] = {"responses": responses}
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": text} for name in path),
        *(param.document() for param in params),
        *headers,
    ]
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = body
    return found


def _refusal(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}. {_WHEN[status]}",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}}},
    }
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    return answer


SECURITY: dict[str, Any] = {
    "key": {
        "type": "http", "scheme": "bearer",
        "description": "A key made by `regime keys create`. Only where there are keys: an open loopback asks for none. "
        "The scope `read` looks, `ingest` sends and looks, `admin` does everything.",
    }
}  # fmt: skip


def locked(operation: dict[str, Any], scope: AccessScope | None) -> None:
    """Say in an operation which scope its key needs; None: it needs no key."""
    if scope is not None:
        operation["security"] = [{}, {"key": [scope]}]
        for status in (401, 429, 503):
            operation["responses"][str(status)] = _refusal(status)


MILLIS = (0, TS_MS_MAX)
VERSION = (0, 2**53)
