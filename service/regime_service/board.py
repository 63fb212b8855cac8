"""The board: what is known now, for whoever looks. The writer posts, HTTP, metrics and page read.

A reader takes one `Posted` and works with that: it never changes, so no lock is held while a page or a scrape is made,
and nobody sees half of a group. Posting copies the mapping of streams (20 us at 2,000 of them), so post once a group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from regime.decision import Decision
from regime.engine import AlarmRate
from regime.events import StreamKey
from regime.outcomes import Outcome
from regime.rules import Evidence


class StreamView(NamedTuple):
    """What the engine shows of a stream beside its decision, for metrics and page."""

    evidence: tuple[Evidence, ...]
    alarm_rates: Mapping[str, AlarmRate]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    """By side, the last 50, oldest first."""
    drawdown_ratio: float
    drawdown_source: str
    observations: int
    late: int
    holes: int


class Posted(NamedTuple):
    """What stood on the board at one moment."""

    revision: int
    """Grows with every post: equal revisions are equal boards."""
    decisions: Mapping[StreamKey, Decision]
    views: Mapping[StreamKey, StreamView]


class Board:
    """The newest decision of every stream, and counters. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The plain dictionaries behind `_now`, never changed either: a MappingProxyType is copied ten times slower.
        self._decisions: dict[StreamKey, Decision] = {}
        self._views: dict[StreamKey, StreamView] = {}
        self._now = self._posted(0)
        self._counters: dict[tuple[str, ...], int] = {}
        self._listeners: tuple[Callable[[list[StreamKey]], None], ...] = ()

    @property
    def now(self) -> Posted:
        """What stands on the board. Take it once per request: a second look may show the next group."""
        return self._now

    def post(self, decisions: Iterable[Decision], views: Mapping[StreamKey, StreamView] | None = None) -> None:
        """Put up decisions that are durable, and views of streams; what is not named stays.

        A version lower than the one that stands is passed over and counted as `("version_fell",)`: an answer once
        given is not taken back, whatever the order in which a cluster delivers.
        """
        posted: list[StreamKey] = []
        with self._lock:
            merged = self._decisions.copy()
            for decision in decisions:
                key = decision.key
                standing = merged.get(key)
                if standing is not None and decision.version < standing.version:
                    self._add(("version_fell",), 1)
                else:
                    merged[key] = decision
                    posted.append(key)
            self._decisions = merged
            self._views = {**self._views, **views} if views else self._views
            self._now = self._posted(self._now.revision + 1)
        for listener in self._listeners:
            listener(posted)

    def listen(self, listener: Callable[[list[StreamKey]], None]) -> None:
        """Have `listener` called after every post, in the thread that posts, with the streams it put up.

        It is called before `post` returns, and so before anybody is answered with what was posted. It must be quick
        and must not raise: the writer waits for it.
        """
        self._listeners = (*self._listeners, listener)

    def _posted(self, revision: int) -> Posted:
        return Posted(revision, MappingProxyType(self._decisions), MappingProxyType(self._views))

    def count(self, *name: str, by: int = 1) -> None:
        """Add to the counter of that name: a noun, then the values of its labels."""
        with self._lock:
            self._add(name, by)

    def counters(self) -> dict[tuple[str, ...], int]:
        """Return a copy of all counters."""
        with self._lock:
            return dict(self._counters)

    def _add(self, name: tuple[str, ...], by: int) -> None:
        self._counters[name] = self._counters.get(name, 0) + by


__all__ = ["Board", "Posted", "StreamView"]
