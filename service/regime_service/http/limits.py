"""How often one may ask, and how much one may make: requests, streams, models, features.

Requests: a token bucket for each key, and one for each address that comes without a right key.

A bucket is one number, the time at which it is full again (the "generic cell rate algorithm"): a request moves it
`1 / per_s` seconds ahead, and is refused when it would lie more than `burst` requests ahead of now. What is refused
costs nothing, so that who waits as long as `Retry-After` says is let in.

Streams: each is state in memory for good, so a loop that invents symbols must end somewhere. What is over a cap is
refused (422) before anything is stored, and named; streams that exist go on, whatever the caps say later.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence, Sized
from typing import Protocol

from regime.codec import ERRORS_MAX
from regime.errors import CallerError, FieldError
from regime.events import AnyEvent, Equity, Observation, Recalibrated, StreamKey, Trade

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


_OF_A_STREAM = (Observation, Trade)


class Known(Container[StreamKey], Sized, Protocol):
    """Streams that exist; the board's decisions are that."""


class Caps:
    """Caps on what events may bring into being.

    Parameters
    ----------
    known
        Returns the streams that exist.
    streams_max
        Streams of the installation; also the names of models that equity and references may bring.
    key_streams_max
        Different streams that one key may send to, counted since the service started.
    features_max
        Features of one observation.
    """

    def __init__(
        self, known: Callable[[], Known], *, streams_max: int, key_streams_max: int, features_max: int
    ) -> None:
        self._known = known
        self._streams_max = streams_max
        self._key_streams_max = key_streams_max
        self._features_max = features_max
        self._coming: set[StreamKey] = set()
        self._models: set[str] = set()
        self._of_key: dict[str, set[StreamKey]] = {}

    def admit(self, events: Sequence[AnyEvent], key_id: str | None) -> Callable[[bool], None]:
        """Let events pass, or raise `CallerError` (422) naming each that is over a cap.

        Returns what is to be called when they have been stored (True) or refused after all (False).
        """
        known = self._known()
        sent_to = set() if key_id is None else self._of_key.setdefault(key_id, set())
        new: set[StreamKey] = set()
        first_sent: set[StreamKey] = set()
        models: set[str] = set()
        errors: list[FieldError] = []
        for i, event in enumerate(events):
            key = _stream(event)
            if key is not None:
                if key not in known and key not in self._coming and key not in new:
                    new.add(StreamKey(*key))
                    if len(known) + len(self._coming) + len(new) > self._streams_max:
                        errors.append(FieldError(f"[{i}]", f"would be stream number {self._streams_max + 1}"))
                if key_id is not None and key not in sent_to and key not in first_sent:
                    first_sent.add(StreamKey(*key))
                    if len(sent_to) + len(first_sent) > self._key_streams_max:
                        errors.append(FieldError(f"[{i}]", f"is one stream too many for the key {key_id}"))
            elif isinstance(event, Equity | Recalibrated) and event.model not in self._models:
                models.add(event.model)
                if len(self._models) + len(models) > self._streams_max:
                    errors.append(FieldError(f"[{i}].model", "is one model too many"))
            if isinstance(event, Observation) and len(event.features) > self._features_max:
                errors.append(FieldError(f"[{i}].features", f"{len(event.features)} features are too many"))
        if errors:
            raise CallerError(
                f"{errors[0].message} ({len(errors)} such). Nothing was stored. At most {self._streams_max} streams "
                f"are watched here, {self._key_streams_max} of one key, {self._features_max} features each: look for "
                "names that change from call to call, or raise `streams_max`, `key_streams_max`, `features_max` in "
                "the configuration.",
                errors=errors[:ERRORS_MAX],
            )
        self._coming |= new
        sent_to |= first_sent

        def done(stored: bool) -> None:
            self._coming.difference_update(new)
            if stored:
                self._models |= models
            else:
                sent_to.difference_update(first_sent)

        return done


def _stream(event: AnyEvent) -> tuple[str, str, str] | None:
    """The stream that an event makes where it does not exist; equal to its `StreamKey`, which takes longer to make."""
    if isinstance(event, _OF_A_STREAM):
        return event.model, event.symbol, event.timeframe
    if isinstance(event, Recalibrated) and event.symbol is not None and event.timeframe is not None:
        return event.model, event.symbol, event.timeframe
    return None


__all__ = ["KNOWN_MAX", "WRONG_BURST", "WRONG_PER_S", "Caps", "Limiter", "neighbourhood"]
