"""From votes to an answer: the most cautious vote wins; hysteresis, cool-down and probation in event time.

Order of precedence, strongest first: a fault of data or store; an operator's HALTED or REDUCING; an operator's
ACTIVE; the votes of the rules. Which state may follow which is the table in `decision.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from regime.config import DetectorConfig, EngineConfig, ModelConfig, RuleConfig, nearest
from regime.decision import Cause, Reason, Resume, SideDecision, TradingState, transition
from regime.errors import OperatorError
from regime.events import Command
from regime.plugins import load
from regime.rules import Rule, View, Vote

FAULT_RULES = ("warm_up", "stale", "non_finite", "schema", "engine_error")
"""Rules about the data itself; they are always on."""


class Preset(NamedTuple):
    detectors: tuple[DetectorConfig, ...]
    rules: tuple[RuleConfig, ...]


PRESETS = {
    "default": Preset(
        detectors=(DetectorConfig(kind="calibrated"),),
        rules=(
            RuleConfig(kind="drift"),
            RuleConfig(kind="score_drift"),
            RuleConfig(kind="signal_rate"),
            RuleConfig(kind="edge"),
            RuleConfig(kind="break_even"),
            RuleConfig(kind="drawdown", options={"limit": 0.2, "release": 0.15}),
        ),
    ),
    # The same evidence, believed sooner: for money one would rather not lose than win.
    "conservative": Preset(
        detectors=(DetectorConfig(kind="calibrated"),),
        rules=(
            RuleConfig(kind="drift", options={"pause": True}),
            RuleConfig(kind="score_drift"),
            RuleConfig(kind="signal_rate"),
            RuleConfig(kind="edge"),
            RuleConfig(kind="break_even", options={"false_pause_trades": 300.0}),
            RuleConfig(kind="drawdown", options={"limit": 0.1, "release": 0.08}),
        ),
    ),
    # The plan bot authors start with, in their own words and numbers.
    "seed-rules": Preset(
        detectors=(DetectorConfig(kind="calibrated"),),
        rules=(
            RuleConfig(kind="win_rate", options={"window": 10, "limit": 0.5, "release": 0.5, "entry": 0.85}),
            RuleConfig(kind="drawdown", options={"limit": 0.1, "release": 0.08}),
            RuleConfig(kind="ml_exit", options={"window": 20, "limit": 0.7, "release": 0.7, "exit": 0.8}),
        ),
    ),
}


def build_rules(config: EngineConfig) -> list[Rule]:
    """Return the rules of `config` (its own, or the preset's). Raises `OperatorError` naming a wrong option."""
    chosen = PRESETS[config.preset].rules if config.rules is None else tuple(config.rules)
    return [_build(rule.kind, rule.options) for rule in (*(RuleConfig(kind=kind) for kind in FAULT_RULES), *chosen)]


def _build(kind: str, options: dict[str, bool | int | float | str]) -> Rule:
    made = load("regime.rules", kind)
    known = inspect.signature(made).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
        for option in options:
            if option not in known:
                raise OperatorError(f"rule {kind!r} has no option `{option}`{nearest(option, known)}")
    try:
        rule = made(**options)
    except (TypeError, ValueError) as error:
        raise OperatorError(f"rule {kind!r}: {error}") from None
    if not isinstance(rule, Rule):
        raise OperatorError(f"rule {kind!r}: {made.__name__} has no `code` and `judge`")
    return rule


class Standing(msgspec.Struct, kw_only=True):
    """A rule's vote in force."""

    vote: Vote
    since_ms: int


class SideState(msgspec.Struct, kw_only=True):
    """What the policy remembers of one side."""

    standing: dict[str, Standing] = {}
    lifted_ms: dict[str, int] = {}
    state: TradingState = TradingState.REDUCING
    ruled: TradingState = TradingState.ACTIVE
    """What the rules alone say, without faults and operators."""
    probation_until_ms: int | None = None
    probation_since_ms: int = 0
    halted: bool = False
    rebase: bool = False
    """A pause for drawdown ended on evidence: the engine measures this side from here on, and takes this back."""
    awaiting_observation: bool = False
    """An operator's HALTED ended; REDUCING until the next observation has been judged."""
    released_ms: int = 0


class Ruling(NamedTuple):
    """What one side is told, and (the same without hiding the rules) what shadow mode computed."""

    told: SideDecision
    computed: SideDecision


class Policy:
    """Folds votes, overrides and probation into the decision of a side."""

    def __init__(self, config: EngineConfig, model: ModelConfig) -> None:
        self._rules = build_rules(config)
        self._fault_codes = {rule.code for rule in self._rules[: len(FAULT_RULES)]}
        self._model = model
        self._shadow = config.mode == "shadow"
        self._cooldown_candles = config.cooldown_candles
        self._probation_candles = config.probation_candles
        self._probation_size = config.probation_size

    def decide(self, state: SideState, view: View, overrides: Sequence[Command], *, observed: bool) -> Ruling:
        """Judge one side and update `state`.

        `overrides` are those in force for this side; `observed` says whether the event being judged is one that may
        end the wait after HALTED (an observation, or a trade where no observations are sent).
        """
        votes = self._collect(state, view)
        self._probation(state, view, votes)
        faults = [s for s in votes if s.vote.fault]
        rules = [s for s in votes if not s.vote.fault]

        stops = [o for o in overrides if o.state != "ACTIVE"]
        halts = [o for o in stops if o.state == "HALTED"]
        if observed or halts:
            state.awaiting_observation = False
        if state.halted and not halts:
            state.awaiting_observation, state.released_ms = True, view.now_ms
        state.halted = bool(halts)

        computed = self._answer(state, faults, rules, overrides, probation=state.probation_until_ms is not None)
        told = self._answer(state, faults, [], overrides, probation=False) if self._shadow else computed
        state.state = told.state
        return Ruling(told, computed)

    def next_change_ms(self, state: SideState, now_ms: int, timeframe_ms: int) -> int | None:
        """Return the earliest time after `now_ms` at which this side could change by time alone; None if never."""
        times = [state.probation_until_ms] if state.probation_until_ms is not None else []
        for standing in state.standing.values():
            if not standing.vote.fault:
                times.append(standing.since_ms + self._cooldown_candles * timeframe_ms)
                times += [t for t in (standing.vote.earliest_ms, standing.vote.recheck_ms) if t is not None]
        return min((t for t in times if t > now_ms), default=None)

    def _collect(self, state: SideState, view: View) -> list[Standing]:
        view = view._replace(standing=None, standing_since_ms=None, lifted_ms=None, lifts=state.lifted_ms)
        for rule in self._rules:
            if view.data.error is not None and rule.code not in self._fault_codes:
                continue  # What it would look at cannot be trusted, or it is the rule that failed: its vote stands.
            before, lifted_ms = state.standing.get(rule.code), state.lifted_ms.get(rule.code)
            seen = view if before is None else view._replace(standing=before.vote, standing_since_ms=before.since_ms)
            vote = rule.judge(seen if lifted_ms is None else seen._replace(lifted_ms=lifted_ms))
            if isinstance(vote, Vote) and vote.rebase:
                state.standing.pop(rule.code, None)
                state.lifted_ms[rule.code] = view.now_ms
                state.rebase = True
            elif vote is not None:
                vote = before.vote if before is not None and vote == before.vote else _checked(rule, vote)
                # Zero is the time before anything with a time has come (a reference alone): it is no moment to name.
                # A rule that says something else (`edge`, then `no-edge`) has said that since now only.
                same = before is not None and before.vote.code == vote.code
                since_ms = before.since_ms if before and same and before.since_ms else view.now_ms
                state.standing[rule.code] = Standing(vote=vote, since_ms=since_ms)
            elif before is not None:
                cooled_ms = before.since_ms + self._cooldown_candles * view.timeframe_ms
                if before.vote.fault or view.now_ms >= cooled_ms:
                    del state.standing[rule.code]
                    state.lifted_ms[rule.code] = view.now_ms
        return [state.standing[rule.code] for rule in self._rules if rule.code in state.standing]

    def _probation(self, state: SideState, view: View, votes: Sequence[Standing]) -> None:
        # A pause that tries a few trades is still a pause: probation begins when it ends.
        paused = any(
            s.vote.state is TradingState.REDUCING or s.vote.exploring_ms is not None for s in votes if not s.vote.fault
        )
        if paused:
            state.ruled, state.probation_until_ms = TradingState.REDUCING, None
            return
        if state.ruled is TradingState.REDUCING:
            state.ruled = TradingState.ACTIVE
            if self._probation_candles:
                state.probation_since_ms = view.now_ms
                state.probation_until_ms = view.now_ms + self._probation_candles * view.timeframe_ms
        if state.probation_until_ms is not None and view.now_ms >= state.probation_until_ms:
            state.probation_until_ms = None

    def _answer(
        self,
        state: SideState,
        faults: Sequence[Standing],
        rules: Sequence[Standing],
        overrides: Sequence[Command],
        *,
        probation: bool,
    ) -> SideDecision:
        reasons = [_reason(s) for s in faults]
        wanted, cause = TradingState.ACTIVE, Cause.RULES
        lift: list[str] = []
        earliest: list[int] = []

        stops = sorted((o for o in overrides if o.state != "ACTIVE"), key=lambda o: o.state != "HALTED")
        actives = [o for o in overrides if o.state == "ACTIVE"]
        reasons += [_operator_reason(o) for o in (*stops, *actives)]
        reasons += [_reason(s) for s in rules]
        ruled = [s for s in rules if s.vote.state is TradingState.REDUCING]
        if state.awaiting_observation:
            reasons.append(
                Reason(code="halt-ended", since_ms=state.released_ms,
                       text="an operator's HALTED ended; waiting for the next observation to be judged")
            )  # fmt: skip

        # The strongest voice decides the state; every voice that asks for a pause says what would lift it.
        if any(o.state == "HALTED" for o in stops):
            wanted, cause = TradingState.HALTED, Cause.OPERATOR
        elif faults:
            wanted, cause = TradingState.REDUCING, Cause.FAULT
        elif stops:
            wanted, cause = TradingState.REDUCING, Cause.OPERATOR
        elif state.awaiting_observation:
            # Before the operator's ACTIVE: one that stood all along must not wake a halted bot unseen.
            wanted, cause = TradingState.REDUCING, Cause.RELEASE
        elif actives:
            wanted, cause = TradingState.ACTIVE, Cause.OPERATOR
        elif ruled:
            wanted, cause = TradingState.REDUCING, Cause.RULES
        smaller = [s for s in rules if s.vote.state is None and s.vote.size_factor is not None]
        for standing in (*faults, *ruled, *smaller):
            lift += standing.vote.lift
            if standing.vote.earliest_ms is not None:
                earliest.append(standing.vote.earliest_ms)
        for override in stops:
            timed = "" if override.until_ms is None else ", or its time is up"
            lift.append(f"an operator ends override {override.id}{timed}")
            if override.until_ms is not None:
                earliest.append(override.until_ms)
        if state.awaiting_observation:
            lift.append("the next observation arrives")

        # A halted bot stays halted by the operator's word; a fault on top of it changes only the reasons.
        if state.state is TradingState.HALTED and cause in (Cause.RULES, Cause.FAULT):
            wanted, cause = TradingState.REDUCING, Cause.RELEASE
        new = transition(state.state, wanted, cause)

        entry = max([self._model.entry, *(s.vote.entry for s in rules if s.vote.entry is not None)])
        exit_ = max([self._model.exit, *(s.vote.exit for s in rules if s.vote.exit is not None)])
        size = min([1.0, *(s.vote.size_factor for s in rules if s.vote.size_factor is not None)])
        if probation and new is TradingState.ACTIVE and cause is Cause.RULES and state.probation_until_ms is not None:
            size = min(size, self._probation_size)
            reasons.append(
                Reason(code="probation", since_ms=state.probation_since_ms, value=size, limit=1.0,
                       text=f"back after a pause, at {size:.0%} of the size until the probation ends")
            )  # fmt: skip
            earliest.append(state.probation_until_ms)
            lift.append("the probation ends without a new pause")
        if cause is Cause.OPERATOR and new is TradingState.ACTIVE:
            # The operator's ACTIVE means: trade, with the model's own thresholds; the rules stay visible as reasons.
            entry, exit_, size = self._model.entry, self._model.exit, 1.0
        if new is not TradingState.ACTIVE:
            size = 0.0
        resume = None
        if new is not TradingState.ACTIVE or size < 1.0:
            resume = Resume(conditions=list(dict.fromkeys(lift)), earliest_ms=max(earliest, default=None))
        return SideDecision(state=new, entry=entry, exit=exit_, size_factor=size, reasons=reasons, resume=resume)


def _checked(rule: Rule, vote: Vote) -> Vote:
    """Return a rule's vote in plain types, or raise: what is wrong with it must not reach a bot or break a snapshot."""
    if not isinstance(vote, Vote):
        raise TypeError(f"rule {rule.code!r} returned {type(vote).__name__} where a Vote was expected")
    plain = msgspec.convert(msgspec.to_builtins(vote, enc_hook=_python_number), Vote)
    for name in ("entry", "exit", "size_factor"):
        value = getattr(plain, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"rule {rule.code!r} asked for {name} {value}, which is not in 0..1")
    if plain.state is TradingState.HALTED:
        raise ValueError(f"rule {rule.code!r} asked for HALTED, which only an operator sets")
    return msgspec.structs.replace(plain, value=_finite(plain.value), limit=_finite(plain.limit))


def _python_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a vote")


def _finite(value: float | None) -> float | None:
    # JSON has no NaN, and a NaN would differ from itself: the version would grow with every event.
    return value if value is not None and math.isfinite(value) else None


def _reason(standing: Standing) -> Reason:
    vote = standing.vote
    return Reason(code=vote.code, text=vote.text, value=vote.value, limit=vote.limit, since_ms=standing.since_ms)


def _operator_reason(override: Command) -> Reason:
    words = f": {override.reason}" if override.reason else ""
    until = "" if override.until_ms is None else " for a set time"
    return Reason(
        code="operator", since_ms=override.ts_ms,
        text=f"{override.actor or 'an operator'} set {override.state}{until}{words}",
    )  # fmt: skip
