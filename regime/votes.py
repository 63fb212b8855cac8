"""What a rule sees and says: a View of one side at one moment, and a Vote, or None. Rules are in `regime/rules/`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from regime.config import ModelConfig
from regime.decision import TradingState
from regime.edge import Edge, OutOfSample, edge, out_of_sample
from regime.outcomes import Outcome
from regime.signals import SignalView

NO_EDGE = edge(())
"""What is known of a side without a single trade."""


def label(channel: str, kind: str) -> str:
    """Return the name of a detector for metrics and people: `ks`, or `scores.ks`."""
    return kind if channel == "features" else f"{channel}.{kind}"


class Evidence(NamedTuple):
    """What one drift detector says now. `top` are the features that stand out most, as (name, times its limit)."""

    kind: str
    statistic: float
    limit: float
    warm: bool
    drift: bool
    top: tuple[tuple[str, float], ...]
    channel: str = "features"
    """Which columns were watched: the `features`, or the `scores` (the model's own probabilities)."""
    level: str = ""
    """`calm`, `warning` or `alarm` where the detector has levels of its own, with hysteresis; empty elsewhere."""
    note: str = ""
    """What changed, where and since when, in words, where the detector can say."""
    since_ms: int | None = None
    """When the change began, as estimated, where the detector can say."""

    @property
    def name(self) -> str:
        """Name for metrics and people: `ks`, or `scores.ks`."""
        return label(self.channel, self.kind)


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule wants for one side, and why.

    `entry`, `exit` are the least thresholds it wants, `size_factor` the largest size; None is no opinion. `lift` says
    in sentences what would end the vote, `earliest_ms` when at the earliest time alone could end it; `recheck_ms` has
    the vote judged at that moment even if nothing happens, without promising anything.
    `fault` marks a vote about the data itself: it outranks the operator and shows in shadow mode.
    """

    code: str
    text: str
    value: float | None = None
    limit: float | None = None
    state: TradingState | None = None
    entry: float | None = None
    exit: float | None = None
    size_factor: float | None = None
    lift: tuple[str, ...] = ()
    earliest_ms: int | None = None
    recheck_ms: int | None = None
    fault: bool = False
    exploring_ms: int | None = None
    """A pause that lets a few small trades through since then, to find out whether it may end."""
    rebase: bool = False
    """Not a vote but the end of one: the evidence speaks for the side, so its drawdown is measured from here on."""


class DataView(NamedTuple):
    """State of the input."""

    observations: int
    reference_rows: int
    warmup_observations: int
    require_observations: bool
    data_until_ms: int | None
    stale_after: int
    non_finite: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    extra_pauses: bool
    schema_source: str
    error: str | None


def since_training(
    outcomes: Sequence[Outcome], trained_until_ms: int | None, evidence: Sequence[Evidence], now_ms: int
) -> OutOfSample:
    """Return `regime.edge.out_of_sample`, with what the detectors over the features say: whether, and since when."""
    alarms = [e for e in evidence if e.drift and e.channel == "features"]
    change_ms = min((e.since_ms for e in alarms if e.since_ms is not None), default=None)
    return out_of_sample(outcomes, trained_until_ms, change_ms, bool(alarms), now_ms)


class View(NamedTuple):
    """Everything a rule may look at, for one side of one stream, at one moment of event time."""

    now_ms: int
    timeframe_ms: int
    side: str
    model: ModelConfig
    data: DataView
    evidence: tuple[Evidence, ...]
    outcomes: tuple[Outcome, ...]
    drawdown_ratio: float
    drawdown_source: str
    standing: Vote | None
    standing_since_ms: int | None
    lifted_ms: int | None
    """When this rule's last vote ended."""
    lifts: Mapping[str, int] = MappingProxyType({})
    """The same of every rule of this side, by its code."""
    signals: SignalView | None = None
    """How often the model gave a signal lately, once there is a law and enough of it was seen."""
    edge: Edge = NO_EDGE
    """What the outcomes of this side say: does its score rank them, is it right, what is break-even."""
    break_even: float = 0.5
    """The win rate this side is held against: its payoff and fees ask for it (where they are estimated from the same
    trades, a cautious figure, likely not above the true one)."""
    entry_known: bool = False
    """Whether the score ranks outcomes well enough to move the threshold, so that `entry_wanted` means something."""
    entry_wanted: float | None = None
    """The smallest score that earns its fees; None where no score does."""
    win_rate_now: float | None = None
    """P(win) now, averaged over the signals of late at or above the bot's own threshold; None before the first outcome
    with a score."""
    followed: bool = False
    """Whether refused signals leave outcomes: the bot reports them, or candles resolve them."""
    trained_until_ms: int | None = None
    """End of the last candle the model was trained on, where it is known."""
    false_pause_trades: float = 1000.0

    @property
    def out_of_sample(self) -> OutOfSample:
        """Return how the side fares on what its model was not trained on."""
        return since_training(self.outcomes, self.trained_until_ms, self.evidence, self.now_ms)

    @property
    def entry_in_force(self) -> float:
        """Return the score from which on signals count: the one that earns its fees where that is known."""
        wanted = self.entry_wanted if self.entry_known else None
        return self.model.entry if wanted is None else max(wanted, self.model.entry)

    def after_ms(self, candles: int) -> int:
        """Return the moment that many candles after the standing vote was given."""
        since = self.now_ms if self.standing_since_ms is None else self.standing_since_ms
        return since + candles * self.timeframe_ms


@runtime_checkable
class Rule(Protocol):
    """What the policy asks of a rule. The constructor takes options only and raises `ValueError` in words."""

    code: str
    """The reason code it gives; also the name of the rule in logs and metrics."""

    def judge(self, view: View) -> Vote | None:
        """Return the vote for this moment, or None. Must depend on `view` alone."""
        ...


def count(name: str, value: int) -> None:
    """Raise `ValueError` unless `value` is a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")


def positive(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is a finite number above zero."""
    if not _number(value) or not value > 0:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")


def ratio(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is a number in 0..1."""
    if not _number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}")


def flag(name: str, value: bool) -> None:
    """Raise `ValueError` unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
