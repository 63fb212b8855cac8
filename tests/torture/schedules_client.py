"""A client that follows the six safety rules of the contract to the letter and does nothing else, and some that do not.

It is a model, written against the words of the contract and not against the service: no line of the service is used.
It sends nothing: whoever drives it carries its questions away and brings the answers, late, twice, never, or garbled.

One word on rule 2, "the client's own monotonic clock": it must go on while the machine sleeps (CLOCK_BOOTTIME on
Linux). One that stands still then (`time.monotonic()` there) wakes up with a lease that is long over and does not
know; `StandsStill` shows what comes of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

KNOWN = ("ACTIVE", "REDUCING", "HALTED")
SIDES = ("long", "short")


class Asked(NamedTuple):
    """A request on its way: when it began by the client's clock, and the ETag it bore."""

    start_s: float
    etag: str


class Held(NamedTuple):
    """The answer a client holds."""

    epoch: str
    version: int
    states: dict[str, str]


class Client:
    """Follows the rules for one stream.

    Parameters
    ----------
    stream
        model, symbol, timeframe.
    clock
        Its monotonic clock, in seconds.
    """

    def __init__(self, stream: tuple[str, str, str], clock: Callable[[], float]) -> None:
        self.stream = stream
        self.clock = clock
        self.held: Held | None = None
        self.etag = ""
        self.good_until_s = -math.inf

    def ask(self) -> Asked:
        """Begin a request. The lease of whatever it brings counts from now (rule 2)."""
        return Asked(self.clock(), self.etag)

    def answered(self, asked: Asked, status: int, headers: dict[str, str], body: bytes) -> None:
        """Take an answer, whatever it is; raises nothing (rule 1)."""
        try:
            if status == 304:
                if self.held is not None and asked.etag and asked.etag == self.etag:
                    self._renew(asked, float(headers["regime-valid-for-ms"]))
                return
            if status != 200:
                return  # rule 3: ignored; the held answer lives out its lease
            told = next(t for t in json.loads(body)["thresholds"] if self._mine(t))
            held = Held(str(told["epoch"]), int(told["version"]), {s: told["sides"][s]["state"] for s in SIDES})
            lease_ms = float(told["valid_for_ms"])
        except (ValueError, KeyError, TypeError, StopIteration):
            return  # unparsable
        if not math.isfinite(lease_ms) or any(state not in KNOWN for state in held.states.values()):
            return
        if self.held is not None and not self._newer(held, self.held):
            return
        same = self.held is not None and (held.epoch, held.version) == (self.held.epoch, self.held.version)
        self.held = held
        self.etag = headers.get("etag", self.etag if same else "")
        if same:
            self._renew(asked, lease_ms)
        else:
            self.good_until_s = self._start_s(asked) + lease_ms / 1000

    def state(self, side: str) -> str:
        """What the bot may do now."""
        if self.held is None:
            return "REDUCING"
        state = self.held.states[side]
        if state == "HALTED":
            return state  # sticky: silence does not soften it
        return state if self.clock() < self.good_until_s else "REDUCING"

    def _mine(self, told: dict[str, Any]) -> bool:
        return (told["model"], told["symbol"], told["timeframe"]) == self.stream

    def _renew(self, asked: Asked, lease_ms: float) -> None:
        self.good_until_s = max(self.good_until_s, self._start_s(asked) + lease_ms / 1000)

    def _start_s(self, asked: Asked) -> float:
        return asked.start_s

    def _newer(self, told: Held, held: Held) -> bool:
        """Whether an answer may take the held one's place: a newer epoch, or no lower version of the same."""
        return told.epoch > held.epoch or (told.epoch == held.epoch and told.version >= held.version)


class FromArrival(Client):
    """Counts the lease from the arrival of the answer."""

    def _start_s(self, asked: Asked) -> float:
        return self.clock()


class AnyVersion(Client):
    """Takes whatever comes last, of any version and epoch."""

    def _newer(self, told: Held, held: Held) -> bool:
        return True


class NoLease(Client):
    """Takes silence for consent."""

    def state(self, side: str) -> str:
        return "REDUCING" if self.held is None else self.held.states[side]


class SoftHalt(Client):
    """Forgets an operator's HALTED when the lease is over."""

    def state(self, side: str) -> str:
        return super().state(side) if self.clock() < self.good_until_s else "REDUCING"


class WallClock(Client):
    """Counts leases on the wall clock."""


class StandsStill(Client):
    """Counts leases on a clock that stands still while its machine sleeps."""


BROKEN: dict[str, type[Client]] = {
    "from-arrival": FromArrival, "any-version": AnyVersion, "no-lease": NoLease, "soft-halt": SoftHalt,
    "wall-clock": WallClock, "stands-still": StandsStill,
}  # fmt: skip
