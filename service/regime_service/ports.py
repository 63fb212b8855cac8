"""What the HTTP door needs from the rest of the house; `app` hands it in. Door and runner never meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from regime.config import EngineConfig
from regime.decision import Decision
from regime.events import AnyEvent, Side, StreamKey
from regime.outcomes import Outcome
from regime_service.board import Board
from regime_service.keys import Key, KeyRing


class Receipt(NamedTuple):
    """What became of the events of one request; it is given after they are on disk and judged.

    `accepted` counts new events (late ones included), `duplicates` those known with the same content, `conflicts`
    those known with other content and left as they were (`on_conflict="keep"` only), `late` the accepted ones that
    were stored but not judged. `touched` are the streams they reached, in order of first touch; `decisions` the
    answer of each of them after the whole request.
    """

    accepted: int
    duplicates: int
    conflicts: int
    late: int
    touched: tuple[StreamKey, ...]
    decisions: tuple[Decision, ...]


class Counts(Protocol):
    """Where the runner counts; `metrics.Counters` is one."""

    def event(self, kind: str, result: str, n: int = 1) -> None: ...
    def pause(self, key: StreamKey, side: str, reason: str) -> None: ...
    def stream(self, key: StreamKey) -> None: ...
    def transition(self, key: StreamKey, side: str, state: str) -> None: ...
    def non_finite(self, key: StreamKey, n: int) -> None: ...
    def schema_mismatch(self, key: StreamKey) -> None: ...
    def judged(self, seconds: float, decision: Decision) -> None: ...
    def acknowledged(self, seconds: float, decision: Decision | None) -> None: ...
    def committed(self, seconds: float, decision: Decision | None) -> None: ...


class Traffic(Protocol):
    """Where the door counts; `metrics.Traffic` is one. Called from the event loop's thread only, and cheap."""

    def answered(self, route: str, status: int, seconds: float, decision: Decision | None = None) -> None:
        """A request was answered. `route` is one of a bounded number of labels, `seconds` how long it took, `decision`
        one that the answer holds."""

    def refused(self, kind: str) -> None:
        """A request (or a connection) was refused; `kind` is one of a bounded number of words."""

    def streaming(self, open_now: int) -> None:
        """So many event streams are open now."""

    def pushed(self, sent: int, superseded: int) -> None:
        """So many answers were pushed, and so many were overtaken by a newer one before a slow reader took them."""


class Uncounted:
    """Counts nothing, where nobody looks."""

    def answered(self, route: str, status: int, seconds: float, decision: Decision | None = None) -> None: ...
    def refused(self, kind: str) -> None: ...
    def streaming(self, open_now: int) -> None: ...
    def pushed(self, sent: int, superseded: int) -> None: ...


class Alerts(Protocol):
    """Who is told, in the writer's groups, what changed; `alerts.outbox.Outbox` is one. All by the writer thread.

    `note` and `write` are called within a group and put their rows into it; `committed` after it, when it is durable.
    """

    def note(self, seq: int, before: Decision | None, after: Decision) -> None: ...
    def due(self) -> bool: ...
    def write(self, seq: int) -> None: ...
    def committed(self) -> None: ...


class NoAlerts:
    """Tells nobody."""

    def note(self, seq: int, before: Decision | None, after: Decision) -> None:
        """See `Alerts`."""

    def due(self) -> bool:
        """See `Alerts`."""
        return False

    def write(self, seq: int) -> None:
        """See `Alerts`."""

    def committed(self) -> None:
        """See `Alerts`."""


class Ingest(Protocol):
    """Take events; return when they are on disk and judged.

    All or nothing. Raises `CallerError` (404 unknown stream or model, 409 conflict with `errors` naming each item by
    its index as `[i]`) with nothing stored, `Unavailable` (503) where the queue is full or the store has failed.
    `references` are bytes of references (by id) that `Recalibrated` events among `events` name.
    """

    async def __call__(
        self,
        events: Sequence[AnyEvent],
        *,
        on_conflict: Literal["refuse", "keep"] = "refuse",
        references: dict[str, bytes] | None = None,
    ) -> Receipt: ...


class Health(NamedTuple):
    """Whether the service can answer and store. `reason` says why not, in a sentence."""

    ready: bool
    reason: str
    queue_depth: int
    queue_max: int


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything the routes are wired to."""

    config: EngineConfig
    board: Board
    ingest: Ingest
    epoch: Callable[[], str]
    """Epoch of the store; raises nothing (empty while there is no store)."""
    decisions: Callable[[StreamKey, int, int], list[Decision]]
    """(key, since_version, limit) -> the audit trail; may block shortly: call it in a thread."""
    explain: Callable[[StreamKey], dict[str, Any]]
    """The evidence behind the current answer, JSON-able; `KeyError` if there is no such stream. May block: thread."""
    outcomes: Callable[[StreamKey], Mapping[Side, Sequence[Outcome]]]
    """What came of the signals of each side, oldest first, as many as are remembered; `KeyError` if there is no such
    stream. May block: thread."""
    has_model: Callable[[str], bool]
    overrides: Callable[[], dict[str, Any]]
    """Overrides in force by id (values: `regime.events.Command`)."""
    now_ms: Callable[[], int]
    """Wall clock with a monotonic guard: it never goes back."""
    event_now_ms: Callable[[str], int]
    """For clock = "event": newest event time of a model's streams, 0 if none. An operator's word is stamped with it."""
    health: Callable[[], Health]
    fault: Callable[[], str | None]
    """Why no answer can be given and nothing stored now, as a sentence; None while all is well. `health` without the
    figures: it is asked with every request."""
    metrics: Callable[[str], tuple[bytes, str]]
    """(the request's Accept header) -> the metrics as text, and its Content-Type. Slow: call it in a thread."""
    hosts: frozenset[str]
    """Host names (without port, lower case) this service answers to; `*` answers to any."""
    body_bytes_max: int = 8 * 1024 * 1024
    reference_bytes_max: int = 512 * 1024 * 1024
    keys: KeyRing | None = None
    """Keys that open the service; None, or a ring without keys, and everybody is let in."""
    session: Callable[[str], Key | None] | None = None
    """(Cookie header) -> the key of somebody who is logged in at the page; it opens what may be looked at."""
    metrics_open: bool = False
    """Whether /metrics needs no key although there are keys."""
    requests_per_s: float = 100.0
    requests_burst: int = 2000
    """What one key may ask: in the long run, and at once after a silence. Without keys nobody is told to wait."""
    push_max: int = 256
    push_key_max: int = 64
    """Event streams open at once, in all and of one key."""
    traffic: Traffic = field(default_factory=Uncounted)
    streams_max: int = 2000
    key_streams_max: int = 1000
    features_max: int = 4096
    """What events may bring into being; see `regime_service.http.limits.Caps`."""
