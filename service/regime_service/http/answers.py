"""Decisions as answers: the `T` of the contract, its lease and its ETag, spelled once per decision.

A polled or pushed answer of a stream stays the same bytes until its next decision: only an ACTIVE on an operator's word
has a lease that runs down, and only an ACTIVE on data that are old by now has none at all. So the bytes are kept per
stream and thrown away with the decision they spell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from regime.decision import Decision
from regime.events import StreamKey
from regime_service.http.exchange import Header
from regime_service.http.lease import POLLED_MS, forced_sides, lease_ms, old_ms
from regime_service.http.schema import JSON, StreamThresholds
from regime_service.ports import Ports

JSON_TYPE: Header = (b"content-type", JSON.encode())


class Spelled(NamedTuple):
    """A decision in the words of the contract."""

    decision: Decision
    epoch: str
    polled: bytes | None
    """`T` as JSON with the lease of a polled answer; None where that runs down with an operator's word."""
    old_at_ms: int | None
    """Wall time from which on its ACTIVE is leased for nought; None where nothing goes stale, or no side is ACTIVE."""
    token: str
    """Changes with everything a bot acts on."""
    etag: bytes
    """Weak, of this stream alone."""
    headers: tuple[Header, ...]
    """Of an answer that holds this stream alone."""


class Answers:
    """Makes answers of what stands on the board."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._spelled: dict[StreamKey, Spelled] = {}
        config = ports.config
        self._stale_after = config.stale_after if config.require_observations else None

    def spelled(self, key: StreamKey, decision: Decision) -> Spelled:
        """Return the decision of `key` in words; made anew when it, or the store's epoch, is another one."""
        known = self._spelled.get(key)
        epoch = self._ports.epoch()
        if known is not None and known.decision is decision and known.epoch == epoch:
            return known
        runs_down = bool(forced_sides(decision))
        polled = None if runs_down else msgspec.json.encode(to_thresholds(decision, epoch, POLLED_MS))
        token = "\0".join((*key, str(decision.version), decision.mode, decision.reference_id or "", decision.policy_id))
        tag = etag(epoch, [token], ())
        config = self._ports.config
        old_at_ms = old_ms(decision, self._stale_after) if config.clock == "wall" else None
        made = Spelled(decision, epoch, polled, old_at_ms, token, tag, (JSON_TYPE, (b"etag", tag)))
        self._spelled[key] = made
        return made

    def polled(self, spelled: Spelled) -> bytes:
        """Return `T` as JSON, with the lease it has now."""
        if spelled.polled is not None and not self._old(spelled):
            return spelled.polled
        (lease,) = self.leases([spelled.decision], replied=False)
        return msgspec.json.encode(to_thresholds(spelled.decision, spelled.epoch, lease))

    def shortest_lease(self, asked: Iterable[Spelled]) -> int:
        """Return the shortest lease of all: one number that renews every one of them."""
        running = [spelled.decision for spelled in asked if spelled.polled is None or self._old(spelled)]
        return min(self.leases(running, replied=False), default=POLLED_MS) if running else POLLED_MS

    def _old(self, spelled: Spelled) -> bool:
        return spelled.old_at_ms is not None and self._ports.now_ms() >= spelled.old_at_ms

    def replied(self, decisions: Sequence[Decision]) -> list[StreamThresholds]:
        """Return the answers that go with the reply to a POST, leased until the next observation is due."""
        epoch = self._ports.epoch()
        leases = self.leases(decisions, replied=True)
        return [to_thresholds(d, epoch, lease) for d, lease in zip(decisions, leases, strict=True)]

    def leases(self, decisions: Sequence[Decision], *, replied: bool) -> list[int]:
        """Return how long each of them is good for, in milliseconds."""
        now_ms, clock = self._ports.now_ms(), self._ports.config.clock
        # Asked only where it matters: the answer may have to wait for the writer.
        overrides = self._ports.overrides().values() if any(map(forced_sides, decisions)) else ()
        return [
            lease_ms(d, overrides=overrides, clock=clock, now_ms=now_ms, replied=replied, stale_after=self._stale_after)
            for d in decisions
        ]


def to_thresholds(decision: Decision, epoch: str, valid_for_ms: int) -> StreamThresholds:
    """Return `T`: what `regime.decision.to_answer` makes, without taking the decision apart first."""
    return StreamThresholds(
        model=decision.model, symbol=decision.symbol, timeframe=decision.timeframe, mode=decision.mode,
        version=decision.version, epoch=epoch, as_of_ms=decision.as_of_ms, data_until_ms=decision.data_until_ms,
        valid_for_ms=valid_for_ms, regime=decision.regime, sides=decision.sides, reference_id=decision.reference_id,
        policy_id=decision.policy_id, computed=UNSET if decision.computed is None else decision.computed,
    )  # fmt: skip


def etag(epoch: str, tokens: Iterable[str], unknown: Iterable[str]) -> bytes:
    """Return the weak ETag over all streams listed: it changes with everything a bot acts on."""
    text = "\0".join((epoch, *tokens, "unknown", *unknown))
    return b'W/"%b"' % hashlib.sha256(text.encode()).hexdigest()[:32].encode()


__all__ = ["JSON_TYPE", "Answers", "Spelled", "etag", "to_thresholds"]
