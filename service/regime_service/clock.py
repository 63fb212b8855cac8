"""The wall clock with a monotonic guard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


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
