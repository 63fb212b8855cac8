"""How long an answer is good for.

Rules
-----
1. An answer that was polled or pushed is good for 60 s.
2. The reply to a POST is good until the next observation is due and 60 s more, so that one round trip per candle is
   enough; never longer than one candle and 60 s, never shorter than a polled answer.
3. An ACTIVE that stands on an operator's override is never leased beyond the override's end: a bot that hears nothing
   more must not trade on a word that no longer counts. Nought is a lease, too: "do not act on this".
4. A pause may be leased beyond its end. That costs a trade, never money.
5. An ACTIVE whose data are old by now is leased for nought: the writer has not looked at the clock yet (the machine was
   asleep, the disk hangs) and the pause is on its way. It may be asked for just then, by a bot on the same machine.

On `clock = "event"` nobody knows when the next candle comes in wall time: there the reply is good for one candle and
60 s, and an override's end is measured from the stream's own clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from regime.decision import Decision, TradingState
from regime.events import SIDES, Command, Side, concerns
from regime.timeframe import timeframe_ms

POLLED_MS = 60_000
"""Lease of an answer that was asked for; also what is added to the due time of the next observation."""


def lease_ms(
    decision: Decision,
    *,
    overrides: Iterable[Command],
    clock: Literal["wall", "event"],
    now_ms: int,
    replied: bool,
    stale_after: int | None = None,
) -> int:
    """Return `valid_for_ms` of an answer given at `now_ms` (wall clock).

    `overrides` are those in force, of any stream; `replied` says that the answer is the reply to a POST. `stale_after`
    is the configuration's, in candles; None where nothing goes stale.

    >>> from regime.decision import SideDecision, Sides
    >>> side = SideDecision(state=TradingState.ACTIVE, entry=0.8, exit=0.75, size_factor=1.0, reasons=[])
    >>> told = Decision(model="m", symbol="s", timeframe="5m", mode="enforce", version=1, as_of_ms=0, data_until_ms=0,
    ...                 regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p")
    >>> lease_ms(told, overrides=[], clock="wall", now_ms=2_000, replied=True)
    358000
    """
    lease = POLLED_MS
    length_ms = timeframe_ms(decision.timeframe)
    old_at_ms = old_ms(decision, stale_after) if clock == "wall" else None
    if old_at_ms is not None and now_ms >= old_at_ms:
        return 0
    if replied:
        if clock == "event":
            lease = length_ms + POLLED_MS
        elif decision.data_until_ms is not None:
            due_ms = decision.data_until_ms + length_ms
            lease = min(max(POLLED_MS, due_ms + POLLED_MS - now_ms), length_ms + POLLED_MS)
    at_ms = decision.as_of_ms if clock == "event" else now_ms
    end_ms = override_end_ms(decision, overrides)
    return lease if end_ms is None else max(0, min(lease, end_ms - at_ms))


def old_ms(decision: Decision, stale_after: int | None) -> int | None:
    """Return from which time on (wall clock) the data of an ACTIVE are old; None where no side is ACTIVE, or nothing
    goes stale."""
    if stale_after is None or decision.data_until_ms is None:
        return None
    if all(decision.sides.of(side).state is not TradingState.ACTIVE for side in SIDES):
        return None
    return decision.data_until_ms + stale_after * timeframe_ms(decision.timeframe)


def override_end_ms(decision: Decision, overrides: Iterable[Command]) -> int | None:
    """Return when the first side that an operator's word made ACTIVE loses it; None if there is none, or it stands.

    A side may have several such words: it is ACTIVE until the last of them ends. Where the decision names an operator
    and no word of his is in force, it has ended this moment and the next decision is on its way: then 0.
    """
    standing = [o for o in overrides if o.action == "set" and o.state == "ACTIVE" and concerns(o, decision.key)]
    ends: list[int] = []
    for side in forced_sides(decision):
        untils = [o.until_ms for o in standing if o.side in (None, side)]
        known = [until for until in untils if until is not None]
        if len(known) == len(untils):
            ends.append(max(known, default=0))
    return min(ends, default=None)


def forced_sides(decision: Decision) -> list[Side]:
    """Return the sides that an operator's word made ACTIVE."""
    # A side is not ACTIVE against an operator's REDUCING or HALTED: where he is named, his word was ACTIVE.
    return [
        side
        for side in SIDES
        if (told := decision.sides.of(side)).state is TradingState.ACTIVE
        and told.reasons
        and any(reason.code == "operator" for reason in told.reasons)
    ]


__all__ = ["POLLED_MS", "forced_sides", "lease_ms", "old_ms", "override_end_ms"]
