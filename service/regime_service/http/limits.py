"""How often one may ask: a token bucket for each key, and one for each address that comes without a right key.

A bucket is one number, the time at which it is full again (the "generic cell rate algorithm"): a request moves it
`1 / per_s` seconds ahead, and is refused when it would lie more than `burst` requests ahead of now. What is refused
costs nothing, so that who waits as long as `Retry-After` says is let in.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

WRONG_PER_S, WRONG_BURST = 5.0, 60
"""For requests without a right key, by address. A bot with a wrong key once a second still reads why."""
KNOWN_MAX = 1000
"""Buckets held; the one that was used longest ago makes room. 0.2 MB."""


class Limiter:
    """Buckets by name.

    Parameters
    ----------
    per_s
        Requests a second in the long run.
    burst
        Requests at once after a silence.
    known_max
        Buckets held.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, *, per_s: float, burst: int, known_max: int = KNOWN_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._step_s = 1.0 / per_s
        # The request itself is one step ahead; a sum of steps must not be refused for its last bit.
        self._ahead_s = (burst + 1e-6) / per_s
        self._known_max = known_max
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, who: str) -> float:
        """Take one request of `who`; return 0 if it may pass, else the seconds after which the next one may."""
        now_s = self._clock()
        known = self._full_at_s
        full_at_s = max(known.get(who, now_s), now_s) + self._step_s
        if full_at_s - now_s > self._ahead_s:
            known.move_to_end(who)
            return full_at_s - now_s - self._ahead_s
        known[who] = full_at_s
        known.move_to_end(who)
        if len(known) > self._known_max:
            known.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._full_at_s)


def neighbourhood(address: str) -> str:
    """Return what one machine can be told by: its IPv4 address, or the /64 in which it chooses IPv6 ones at will.

    >>> neighbourhood("10.0.0.1"), neighbourhood("2001:db8::1"), neighbourhood("")
    ('10.0.0.1', '2001:db8::/64', '')
    """
    if ":" not in address:
        return address[:64]
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address[:64]


__all__ = ["KNOWN_MAX", "WRONG_BURST", "WRONG_PER_S", "Limiter", "neighbourhood"]
