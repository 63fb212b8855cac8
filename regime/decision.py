"""What we answer: the trading state of each side, its thresholds, why, and what would lift a pause.

Theory of operation
-------------------
Rule 1: which state may follow which is said here, in `TRANSITIONS`, and nowhere else.

    ACTIVE    trade. A `size_factor` below 1 is probation: the same, smaller.
    REDUCING  "paused": no new entries, no adds, resting entry orders are cancelled, exits are free.
              Everything automatic that stops a bot is this.
    HALTED    an operator took over. Only an operator sets it, and it never jumps to ACTIVE by itself: when it ends,
              the side is REDUCING until the next observation has been judged.

A state changes for one of four causes, from strongest to weakest:

    FAULT     store or data cannot be trusted -> REDUCING
    OPERATOR  an override in force
    RULES     votes of the policy's rules
    RELEASE   an operator's HALTED ended; the rules' word counts again from the next observation
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from regime.events import StreamKey


class TradingState(enum.StrEnum):
    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"

    @property
    def caution(self) -> int:
        """0 for ACTIVE, 1 for REDUCING, 2 for HALTED: the larger, the more careful."""
        return _CAUTION[self]


_CAUTION = {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}


class Cause(enum.StrEnum):
    FAULT = "fault"
    OPERATOR = "operator"
    RULES = "rules"
    RELEASE = "release"


_A, _R, _H = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED

TRANSITIONS: dict[TradingState, dict[Cause, frozenset[TradingState]]] = {
    _A: {
        Cause.FAULT: frozenset({_A, _R}),
        Cause.OPERATOR: frozenset({_A, _R, _H}),
        Cause.RULES: frozenset({_A, _R}),
        Cause.RELEASE: frozenset({_R}),
    },
    _R: {
        Cause.FAULT: frozenset({_R}),
        Cause.OPERATOR: frozenset({_A, _R, _H}),
        Cause.RULES: frozenset({_A, _R}),
        Cause.RELEASE: frozenset({_R}),
    },
    _H: {
        Cause.FAULT: frozenset({_H}),
        Cause.OPERATOR: frozenset({_R, _H}),
        Cause.RULES: frozenset(),
        Cause.RELEASE: frozenset({_R}),
    },
}
"""From state, by cause, to the states allowed. A fault does not soften HALTED: the bot stays out either way."""


def transition(current: TradingState, wanted: TradingState, cause: Cause) -> TradingState:
    """Return the state that follows, or raise `ValueError` for a move that `TRANSITIONS` does not allow.

    >>> transition(TradingState.HALTED, TradingState.ACTIVE, Cause.RULES)
    Traceback (most recent call last):
    ...
    ValueError: HALTED cannot become ACTIVE by rules
    """
    if wanted in TRANSITIONS[current][cause]:
        return wanted
    raise ValueError(f"{current} cannot become {wanted} by {cause}")


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence an operator can act on, with the number behind it.

    `value` is what was measured and `limit` what it was held against; both None where there is no number.
    """

    code: str
    text: str
    since_ms: int
    value: float | None = None
    limit: float | None = None


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """What would lift a pause. `earliest_ms` is None where no time is set; conditions are sentences."""

    conditions: list[str]
    earliest_ms: int | None = None


class SideDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one side. `entry` and `exit` are finite numbers in 0..1, also while paused."""

    state: TradingState
    entry: float
    exit: float
    size_factor: float
    reasons: list[Reason]
    resume: Resume | None = None


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    long: SideDecision
    short: SideDecision

    def of(self, side: str) -> SideDecision:
        return self.long if side == "long" else self.short


class RegimeLabel(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    probability: float
    since_ms: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one stream.

    `version` grows by one with every change of state, threshold, size or reason and never falls. `as_of_ms` is the
    event time at which it was judged, `data_until_ms` the close time of the newest candle in it (None before the
    first). `computed` is set in shadow mode only: what would have been said.
    """

    model: str
    symbol: str
    timeframe: str
    mode: str
    version: int
    as_of_ms: int
    data_until_ms: int | None
    regime: RegimeLabel | None
    sides: Sides
    reference_id: str | None
    policy_id: str
    computed: Sides | None = None

    @property
    def key(self) -> StreamKey:
        return StreamKey(self.model, self.symbol, self.timeframe)


_ENCODER = msgspec.json.Encoder(order="deterministic")


def decision_bytes(decision: Decision) -> bytes:
    """Return the canonical JSON of a decision: what digests are made of and what the audit trail stores."""
    return _ENCODER.encode(decision)


def decode_decision(raw: bytes) -> Decision:
    """Inverse of `decision_bytes`."""
    return msgspec.json.decode(raw, type=Decision)


def to_answer(decision: Decision, *, epoch: str, valid_for_ms: int) -> dict[str, Any]:
    """Return the answer `T` of the contract: the decision, the epoch of its store and the lease in milliseconds.

    `computed` appears only in shadow mode.
    """
    answer: dict[str, Any] = msgspec.to_builtins(decision)
    if answer["computed"] is None:
        del answer["computed"]
    head = {name: answer.pop(name) for name in ("model", "symbol", "timeframe", "mode", "version")}
    return {**head, "epoch": epoch, "as_of_ms": answer.pop("as_of_ms"), "data_until_ms": answer.pop("data_until_ms"),
            "valid_for_ms": valid_for_ms, **answer}  # fmt: skip
