"""The wall clock with a monotonic guard, and what is done where it proves to be wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

AHEAD_MS = 60_000
"""A bot's clock may run ahead of ours by so much: its candles are taken, later ones are refused."""


class Clock(Protocol):
    """Whose time a service goes by."""

    def now_ms(self) -> int:
        """Return the time in milliseconds UTC; it never goes back."""
        ...

    def not_before(self, ms: int) -> None:
        """Hear that so much time has passed in any case."""
        ...

    def behind(self) -> str | None:
        """Return why this clock cannot be right, as a sentence without its full stop; None while it may be."""
        ...


def since_boot_s() -> float:
    """Return seconds that nobody sets and that go on while the machine sleeps, where the system has such a clock.

    `time.monotonic` stands still in sleep on Linux: what went stale meanwhile would look fresh on a clock set back.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class GuardedClock:
    """Milliseconds UTC that never go back and never stand still.

    A wall clock that is set back must not make old data fresh again: from then on time goes on by the monotonic clock.
    One that is set forward is believed; if that was wrong, streams are stale (paused) until real time has caught up.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = since_boot_s) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._seen_s, self._seen_at_s = wall(), monotonic()
        self._floor_s = 0.0

    def now_ms(self) -> int:
        """Return the time in milliseconds."""
        with self._lock:
            at_s = self._monotonic()
            self._seen_s = max(self._wall(), self._seen_s + (at_s - self._seen_at_s))
            self._seen_at_s = at_s
            return int(self._seen_s * 1000)

    def not_before(self, ms: int) -> None:
        """Take `ms` for the time if it is later than ours: so much is known to have passed, whatever the clock says.

        A machine that comes back with a clock in the past would otherwise hold the data of its log for fresh until the
        clock has caught up.
        """
        with self._lock:
            self._seen_s = max(self._seen_s, ms / 1000)
            self._floor_s = ms / 1000

    def behind(self) -> str | None:
        """Return why the wall clock cannot be right: it still stands before what `not_before` told.

        Guarded time is no help then. It began where the log ends, and how long nobody ran is not known: data may be as
        much older than they look. Nobody may enter on them.
        """
        floor_s = self._floor_s
        if not floor_s:
            return None
        wall_s = self._wall()
        if wall_s * 1000 >= floor_s * 1000 - AHEAD_MS:
            self._floor_s = 0.0
            return None
        return (
            f"this machine's clock shows {_utc(wall_s)}, but the log reaches to {_utc(floor_s)}, so the clock is wrong "
            "and nobody knows how old the data are. Set the clock right and it goes on by itself; if it is right now, "
            "it was ahead when those events were written, and time has to catch up with them"
        )


def _utc(s: float) -> str:
    return f"{datetime.fromtimestamp(s, UTC):%Y-%m-%d %H:%M:%S} UTC"
