"""The wall clock with a monotonic guard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class GuardedClock:
    """Milliseconds UTC that never go back and never stand still.

    A wall clock that is set back must not make old data fresh again: from then on time goes on by the monotonic clock.
    One that is set forward is believed; if that was wrong, streams are stale (paused) until real time has caught up.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._seen_s, self._seen_at_s = wall(), monotonic()

    def now_ms(self) -> int:
        """Return the time in milliseconds."""
        with self._lock:
            at_s = self._monotonic()
            self._seen_s = max(self._wall(), self._seen_s + (at_s - self._seen_at_s))
            self._seen_at_s = at_s
            return int(self._seen_s * 1000)
