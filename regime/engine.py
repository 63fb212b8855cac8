"""The engine of one stream: events in, decisions out. Pure, deterministic, event time only.

    engine.step(event) -> Step      the only way anything changes
    engine.snapshot() -> bytes      everything step ever changed, as plain numbers and arrays; None if it cannot be had
    engine.restore(bytes)           continue from there, bit for bit
    engine.digest() -> str          equal digests: equal history, equal future

Same events in the same order, same configuration: same decisions, whatever batches they came in. Time is what events
say; a `Tick` says that time passed and nothing else happened. `next_change_ms` tells whoever feeds the engine when
the next Tick is due.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.calibration import Calibration
from regime.codec import decode, encode
from regime.columns import Columns
from regime.config import EngineConfig, config_digest, exit_kind, ignored
from regime.decision import Decision, Sides, TradingState, decision_bytes
from regime.detectors import Detector
from regime.e_detector import cautious_break_even
from regime.edge import RANK_OFF, RANK_ON, Edge, OutOfSample, edge
from regime.errors import CorruptionError, RegimeError
from regime.events import (
    SIDES,
    AnyEvent,
    Candle,
    Command,
    Equity,
    ModelPromoted,
    Observation,
    Ohlcv,
    Probabilities,
    Recalibrated,
    Reconfigured,
    Side,
    StreamKey,
    Tick,
    Trade,
    available_ms,
)  # fmt: skip
from regime.gate import CODE, Progress, progress
from regime.guard_value import LiveValue, live_value
from regime.outcomes import Drawdown, Outcome, Outcomes, break_even_win_rate
from regime.policy import Policy, Ruling, SideState
from regime.reference import Reference
from regime.rules import DataView, Evidence, View, label
from regime.shadow import Book, Signal, can_follow
from regime.signals import SignalLaw, SignalView, remember, signal_law
from regime.timeframe import timeframe_ms
from regime.votes import since_training
from regime.watch import DAY_MS, Watch, calibrate_all, top_features
from regime.win_probability import WinProbability

Floats = NDArray[np.float64]

OUTCOMES_MAX = 500
"""Outcomes remembered per side; the rules look at far fewer."""
CANDLES_MAX = 64
"""Candles remembered to compare two sources of the same candle."""
SELF_REFERENCE_ROWS = 2016
"""Rows (7 days of 5-minute candles) after which a stream without a reference is compared with its own beginning."""
CANDLES_LATE = 12
"""Without candles for so long nothing is taken to resolve shadows any more."""
ENTRY_HYSTERESIS = 0.01
"""How far P(win) must be off break-even at the entry threshold in force before that moves."""
FEATURE_SHARE, SCORE_SHARE, SIGNAL_SHARE = 0.5, 0.25, 0.25
"""Parts of a stream's false-alarm budget: features, distribution of the scores, rate of signals."""
SNAPSHOT_VERSION = 4


class Step(NamedTuple):
    """What one event did: the answer after it, whether the answer changed, and whether the event came too late."""

    decision: Decision
    changed: bool
    late: bool
    before: Decision | None
    """The answer before it; None for the first event of a stream."""


class AlarmRate(NamedTuple):
    """Alarms a day of one detector: asked for, and measured over so many candles."""

    asked: float | None
    measured: float | None
    candles: int


class StreamState(msgspec.Struct, kw_only=True):
    """Everything of a stream but its detectors: plain numbers, so that a snapshot is a plain encoding of it."""

    clock_ms: int = 0
    version: int = 0
    observations: int = 0
    late: int = 0
    holes: int = 0
    candles: int = 0
    candle_differences: int = 0
    last_ts_ms: int | None = None
    features: tuple[str, ...] = ()
    schema_source: str = ""
    nullable: set[str] = set()
    non_finite: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    error: str | None = None
    poison: bytes = b""
    """The event (canonical bytes) that made the engine fail, while `error` stands; the first one, if there are more."""
    reference_id: str | None = None
    reference_version: str | None = None
    reference_rows: int = 0
    calibrations: dict[str, str] = {}
    revision: int = 0
    trained_until_ms: int | None = None
    self_reference: bool = False
    model_version: str | None = None
    watched: dict[str, int] = {}
    alarms: dict[str, int] = {}
    last_alarm_ms: dict[str, int] = {}
    """By detector, since the reference came into force: candles judged, alarms (less than a day apart is one), and the
    last candle over the limit. The measured rate, to be held against the one that was asked."""
    signals: dict[str, int] = {}
    signal_laws: dict[str, SignalLaw] = {}
    signals_seen: dict[str, bytes] = {}
    outcomes: dict[str, list[Outcome]] = {}
    books: dict[str, Book] = msgspec.field(default_factory=lambda: {side: Book() for side in SIDES})
    """By side: signals, and the refused ones that are followed on paper."""
    own_candles: bool = False
    """Observations bring their candle: shadows wait for it, because it wins over a posted one."""
    win_probabilities: dict[str, WinProbability] = {}
    entries: dict[str, float | None] = {}
    """By side, once its score is known to rank outcomes: the smallest one that earns its fees (None: no score does)."""
    drawdown: Drawdown = msgspec.field(default_factory=Drawdown)
    overrides: list[Command] = []
    recent_candles: list[tuple[int, Ohlcv]] = []
    sides: dict[str, SideState] = msgspec.field(default_factory=lambda: {side: SideState() for side in SIDES})
    told: Sides | None = None
    computed: Sides | None = None
    chain: str = ""
    """Running SHA-256 over every decision that changed something: the history, not only the present."""


class Engine:
    """The engine of one stream.

    Parameters
    ----------
    key
        The stream.
    config
        What the user may turn; frozen.
    references
        Returns the sample of a `reference_id`; asked when a `Recalibrated` event comes in or a snapshot is restored.
    calibrations
        The same for the limits that such an event names. Without them limits are found when the event is stepped,
        which takes seconds.
    """

    def __init__(
        self,
        key: StreamKey,
        config: EngineConfig,
        references: Callable[[str], Reference],
        calibrations: Callable[[str], Calibration] | None = None,
    ) -> None:
        self.key = key
        self._config = config
        self._model = config.model(key.model)
        self._references = references
        self._calibrations = calibrations
        self._timeframe_ms = timeframe_ms(key.timeframe)
        self._policy = Policy(config, self._model)
        self._policy_id = config_digest(config)[:16]
        self._features, self._scores = watches(config, self._timeframe_ms)
        self._rows: list[Floats] = []
        self._own: Reference | None = None
        # Found once, and again when what they follow from has changed.
        self._columns: Columns | None = None
        self._evidence: tuple[Evidence, ...] | None = None
        self._outcomes: dict[str, Outcomes] = {}
        self._edges: dict[str, tuple[Edge, float]] = {}
        self._win_rates: dict[str, float | None] = {}
        self._state = StreamState()
        self._decision: Decision | None = None

    # -- the one way in ----------------------------------------------------------------------------------------------

    def step(self, event: AnyEvent) -> Step:
        """Take one event and return the answer after it.

        An observation older than the newest one is late: counted, not judged. An exception out of a detector or rule
        ends in REDUCING with reason `engine-error`, the same in every replay of the same log.
        """
        state = self._state
        if isinstance(event, Observation) and state.last_ts_ms is not None and event.ts_ms <= state.last_ts_ms:
            state.late += 1
            assert self._decision is not None  # There was an observation before this one.
            return Step(self._decision, changed=False, late=True, before=self._decision)
        before = self._decision
        # A new reference is a new beginning: if that fails, it is the one to look at.
        held = b"" if isinstance(event, Recalibrated) else state.poison
        self._advance(event)
        try:
            self._apply(event)
        except RegimeError:
            raise  # The log or the set-up is at fault, not this event.
        except Exception as error:
            state.error = _in_words(error)
        changed = self._judge(event)
        state.poison = b"" if state.error is None else held or encode(event)
        assert self._decision is not None
        if isinstance(event, Observation):
            self._remember_signals(event)
        return Step(self._decision, changed, late=False, before=before)

    def next_change_ms(self) -> int | None:
        """Return the earliest time at which the answer could change by time alone; None if never.

        Always after the stream's own clock. Whoever feeds the engine sends a `Tick` for that moment.
        """
        state, times = self._state, []
        if self._config.require_observations and self._data_until_ms() is not None:
            until_ms = self._data_until_ms()
            assert until_ms is not None
            times.append(until_ms + self._config.stale_after * self._timeframe_ms)
        times += [o.until_ms for o in state.overrides if o.until_ms is not None]
        for side in state.sides.values():
            due_ms = self._policy.next_change_ms(side, state.clock_ms, self._timeframe_ms)
            if due_ms is not None:
                times.append(due_ms)
        return min((t for t in times if t > state.clock_ms), default=None)

    # -- what an event does ------------------------------------------------------------------------------------------

    def _advance(self, event: AnyEvent) -> None:
        # On event time an operator's word is timeless: it must not age a stream whose data is older than the wall.
        if isinstance(event, Command) and self._config.clock == "event":
            return
        at_ms = available_ms(event)
        if at_ms is not None:
            self._state.clock_ms = max(self._state.clock_ms, at_ms)

    def _apply(self, event: AnyEvent) -> None:
        if isinstance(event, Observation | Recalibrated | Command):
            self._evidence = None  # Nothing else touches a detector.
        match event:
            case Observation():
                self._observe(event)
            case Candle():
                self._candle(event.ts_ms, event.ohlcv(), own=False)
            case Trade():
                self._trade(event)
            case Equity():
                self._state.drawdown.on_equity(event)
            case Command():
                self._command(event)
            case Recalibrated():
                self._recalibrate(event)
            case ModelPromoted():
                self._state.model_version = event.model_version
                if event.trained_until_ms is not None:
                    self._state.trained_until_ms = event.trained_until_ms
            case Reconfigured():
                self._state.version = max(self._state.version, event.served_version + 1)
            case Tick():
                pass

    def _observe(self, event: Observation) -> None:
        state = self._state
        if state.last_ts_ms is not None:
            state.holes += max(0, (event.ts_ms - state.last_ts_ms) // self._timeframe_ms - 1)
        state.last_ts_ms = event.ts_ms
        state.observations += 1
        state.own_candles = event.candle is not None
        if event.candle is not None:
            self._candle(event.ts_ms, event.candle, own=True)
        self._count_signals(event)
        if (claims := event.probabilities) is not None:
            for side, leave in (("long", claims.exit_long), ("short", claims.exit_short)):
                state.books[side].on_exit_probability(event.ts_ms, leave, self._model.exits)

        columns = self._columns_of(event)
        row = columns.row(event.features.values())
        if not state.features and columns.known:
            state.features, state.schema_source = columns.known, "first observation"
        state.missing, state.extra, absent = columns.missing, columns.extra, columns.absent(row)
        alone = state.reference_id is None and not state.self_reference
        if alone and state.observations <= max(1, self._config.warmup_observations):
            state.nullable.update(absent)
        state.non_finite = tuple(name for name in absent if name not in state.nullable)
        if state.error is None:  # Else nothing is measured: a new reference starts the detectors anew.
            self._measure(row, event.probabilities, event.ts_ms)

    def _columns_of(self, event: Observation) -> Columns:
        sent, columns = tuple(event.features), self._columns
        if columns is None or columns.known != self._state.features or columns.sent != sent:
            columns = self._columns = Columns(sent, self._state.features, self._model.ignore_features)
        return columns

    def _measure(self, row: Floats, claims: Probabilities | None, ts_ms: int) -> None:
        state = self._state
        if self._features.comparing:
            self._features.update(row, ts_ms)
            claimed = claims or Probabilities()
            said = {"probability_long": claimed.long, "probability_short": claimed.short}
            self._scores.update(_row(said[name] for name in self._scores.columns), ts_ms)
        elif row.size:
            self._rows.append(row)
            if len(self._rows) >= SELF_REFERENCE_ROWS:
                # Nobody gave a reference: the stream's own beginning has to do, and the answer says so.
                state.self_reference = True
                own, self._rows = Reference(state.features, np.array(self._rows)), []
                # Later digests must tell apart streams that began differently.
                state.chain = hashlib.sha256(state.chain.encode() + own.to_bytes()).hexdigest()
                self._compare_with_own(own)

    def _count_signals(self, event: Observation) -> None:
        state, claims = self._state, event.probabilities
        if claims is None:
            return
        for side, probability in (("long", claims.long), ("short", claims.short)):
            if probability is not None:
                signal = probability >= self._model.entry
                state.signals[side] = state.signals.get(side, 0) + signal
                if (law := state.signal_laws.get(side)) is not None:
                    state.signals_seen[side] = remember(state.signals_seen.get(side, b""), signal, law.horizon)

    def _candle(self, ts_ms: int, candle: Ohlcv, *, own: bool) -> None:
        """Remember a candle; the observation's own one wins over a posted one, and a difference is counted."""
        recent = self._state.recent_candles
        at = next((i for i in reversed(range(len(recent))) if recent[i][0] == ts_ms), None)
        if at is None:
            self._state.candles += 1
        elif recent[at][1] != candle:
            self._state.candle_differences += 1
        if at is None or own:
            if at is not None:
                del recent[at]
            recent.append((ts_ms, candle))
            del recent[:-CANDLES_MAX]
        if own or not self._state.own_candles:
            self._follow(ts_ms, candle)

    def _follow(self, ts_ms: int, candle: Ohlcv) -> None:
        """Let the shadows of refused signals live through a candle; what ends is an outcome like any other."""
        for side, book in self._state.books.items():
            for closed in book.on_candle(ts_ms, candle, side, self._model, self._timeframe_ms):
                self._outcome(
                    side,
                    Outcome(
                        closed_ms=closed.closed_ms, profit_ratio=closed.profit_ratio, exit_kind=closed.kind,
                        shadow=True, entry_probability=closed.shadow.probability, opened_ms=closed.shadow.entry_ms,
                    ),
                )  # fmt: skip

    def _remember_signals(self, event: Observation) -> None:
        """Remember the signals of a candle that was judged: whether the bot acted on them, and what we said."""
        claims, taken = event.probabilities, event.taken
        if claims is None or self._state.told is None:
            return
        for side, claimed, acted in (
            ("long", claims.long, None if taken is None else taken.long),
            ("short", claims.short, None if taken is None else taken.short),
        ):
            if claimed is None or claimed < self._model.entry:
                continue
            told = self._state.told.of(side)
            refused = told.state is not TradingState.ACTIVE or claimed < told.entry
            signal = Signal(ts_ms=event.ts_ms, probability=claimed, taken=acted, refused=refused)
            self._state.books[side].on_signal(signal, self._model, self._timeframe_ms)

    def _trade(self, event: Trade) -> None:
        book = self._state.books[event.side]
        if event.shadow:
            book.on_bot_shadow()
        else:
            book.on_real_trade()
        self._outcome(
            event.side,
            Outcome(
                closed_ms=event.closed_ms, profit_ratio=event.profit_ratio,
                exit_kind=exit_kind(event.exit_reason, self._model.exit_reasons), shadow=event.shadow,
                entry_probability=event.entry_probability, opened_ms=event.opened_ms,
            ),
        )  # fmt: skip
        self._state.drawdown.on_trade(event)

    def _outcome(self, side: str, outcome: Outcome) -> None:
        state = self._state
        remembered = state.outcomes.setdefault(side, [])
        remembered.append(outcome)
        del remembered[:-OUTCOMES_MAX]
        self._outcomes.pop(side, None)
        self._edges.pop(side, None)
        self._win_rates.pop(side, None)
        if outcome.entry_probability is None:
            return
        law = state.win_probabilities.setdefault(side, WinProbability())
        law.update(outcome.entry_probability, outcome.profit_ratio > 0)
        known = self._edge(side)[0]
        ranks = known.rank_z is not None and known.rank_z > (RANK_OFF if side in state.entries else RANK_ON)
        if ranks and known.break_even is not None:
            state.entries[side] = law.threshold(
                known.break_even, base=self._model.entry,
                current=state.entries.get(side, self._model.entry), hysteresis=ENTRY_HYSTERESIS,
            )  # fmt: skip
        else:
            state.entries.pop(side, None)

    def _outcomes_of(self, side: str) -> Outcomes:
        if side not in self._outcomes:
            self._outcomes[side] = Outcomes(self._state.outcomes.get(side, ()))
        return self._outcomes[side]

    def _edge(self, side: str) -> tuple[Edge, float]:
        """Return what the outcomes of a side say, and the break-even it is held against (cautious: likely not above
        the true one); found again only when an outcome came in."""
        if side not in self._edges:
            outcomes, payoff = self._state.outcomes.get(side, ()), self._model.payoff_ratio
            needed = (
                cautious_break_even(np.array([o.profit_ratio for o in outcomes], dtype=np.float64))
                if payoff is None
                else break_even_win_rate(payoff)
            )
            self._edges[side] = edge(outcomes, payoff=payoff), needed
        return self._edges[side]

    def _win_rate_now(self, side: str) -> float | None:
        """Return P(win) over the signals of late; found again only when an outcome came in."""
        if side not in self._win_rates:
            law = self._state.win_probabilities.get(side)
            found = math.nan if law is None else law.mean(self._model.entry)
            self._win_rates[side] = None if math.isnan(found) else found
        return self._win_rates[side]

    def _command(self, event: Command) -> None:
        if event.action == "reset-peak":
            self._state.drawdown.reset_peak()
            return
        if event.action in ("retry", "drop"):
            self._go_on(measure_again=event.action == "retry")
            return
        others = [override for override in self._state.overrides if override.id != event.id]
        self._state.overrides = [*others, event] if event.action == "set" else others

    def _go_on(self, *, measure_again: bool) -> None:
        """Start the detectors anew after an error; whatever raises here is the next error, of the same event."""
        state = self._state
        if state.error is None:
            return
        state.error = None
        if self._own is not None:
            self._compare_with_own(self._own)
        elif state.reference_id is not None:
            self._compare_with(self._references(state.reference_id))
        else:
            state.self_reference, self._rows = False, []
        match decode(state.poison) if measure_again else None:
            case Observation() as event:
                # No more than this: its being counted, its candle and its signals stand, and must not be done twice.
                row = self._columns_of(event).row(event.features.values())
                self._measure(row, event.probabilities, event.ts_ms)
            case Recalibrated() as event:
                self._recalibrate(event)

    def _recalibrate(self, event: Recalibrated) -> None:
        state = self._state
        reference = self._references(event.reference_id)
        kept = [name for name in reference.names if not ignored(name, self._model.ignore_features)]
        state.reference_id, state.reference_version = event.reference_id, event.version
        state.reference_rows = reference.rows
        until_ms = event.trained_until_ms
        state.trained_until_ms = reference.trained_until_ms if until_ms is None else until_ms
        state.self_reference, state.error = False, None
        live = (set(state.features) - set(state.missing)) | set(state.extra)
        state.features, state.schema_source = tuple(kept), "reference"
        share = dict(zip(reference.names, reference.missing_share(), strict=True))
        state.nullable = {name for name in kept if share[name] > 0}
        if state.observations:
            # The newest observation is held against the new schema: no pause ends by changing what is asked for.
            state.missing = tuple(name for name in kept if name not in live)
            state.extra = tuple(sorted(live - set(kept)))
            state.non_finite = tuple(name for name in state.non_finite if name in live and name not in state.nullable)
        self._rows, self._own = [], None
        state.calibrations, state.revision = event.calibrations, event.revision
        state.watched, state.alarms, state.last_alarm_ms = {}, {}, {}
        self._compare_with(reference)
        state.signals_seen, state.signal_laws = {}, self._signal_laws(reference)

    def _compare_with(self, reference: Reference) -> None:
        compared = (reference.select(self._state.features), scores(reference))
        for watch, sample in zip(self.watches, compared, strict=True):
            watch.compare_with(sample, self._limits(watch))

    def _compare_with_own(self, own: Reference) -> None:
        self._own = own
        self._features.compare_with(own)

    def _limits(self, watch: Watch) -> dict[str, Calibration]:
        """Return the limits of a watch that the reference in force came with, by kind."""
        if self._calibrations is None:
            return {}
        return {
            name.removeprefix(f"{watch.name}."): self._calibrations(known)
            for name, known in self._state.calibrations.items()
            if name.startswith(f"{watch.name}.")
        }

    def outdated_limits(self) -> Recalibrated | None:
        """Return the event that would find the limits anew for the budget of today; None if they were found for it."""
        state = self._state
        if state.reference_id is None or state.error is not None or all(w.within_budget() for w in self.watches):
            return None
        return Recalibrated(
            model=self.key.model, symbol=self.key.symbol, timeframe=self.key.timeframe,
            version=state.reference_version or "", reference_id=state.reference_id,
            trained_until_ms=state.trained_until_ms, revision=state.revision + 1,
        )  # fmt: skip

    def _signal_laws(self, reference: Reference) -> dict[str, SignalLaw]:
        each = self._config.rows_per_false_alarm(self._timeframe_ms, SIGNAL_SHARE / 2)
        found = {}
        for side, claims in (("long", reference.probability_long), ("short", reference.probability_short)):
            if claims is not None:
                law = signal_law(
                    claims, self._model.entry, rows_per_day=DAY_MS / self._timeframe_ms, rows_per_false_alarm=each
                )
                if law is not None:
                    found[side] = law
        return found

    def _signal_view(self, side: Side) -> SignalView | None:
        law, seen = self._state.signal_laws.get(side), self._state.signals_seen.get(side, b"")
        return None if law is None or len(seen) < law.horizon else SignalView(count=sum(seen), law=law)

    # -- the answer --------------------------------------------------------------------------------------------------

    def _judge(self, event: AnyEvent) -> bool:
        state = self._state
        state.overrides = [o for o in state.overrides if o.until_ms is None or o.until_ms > state.clock_ms]
        try:
            rulings = self._rule_sides(event)
        except Exception as error:
            if state.error is not None:
                raise  # Not even the fault could be voted: nothing safe can be said, and nothing is.
            state.error = _in_words(error)
            rulings = self._rule_sides(event)
        told = Sides(long=rulings["long"].told, short=rulings["short"].told)
        computed = Sides(long=rulings["long"].computed, short=rulings["short"].computed)
        changed = told != state.told or (self._config.mode == "shadow" and computed != state.computed)
        if changed:
            state.version += 1
        changed = changed or isinstance(event, Reconfigured)  # It has made its new version already.
        state.told, state.computed = told, computed
        self._decision = self._make_decision()
        if changed:
            state.chain = hashlib.sha256(state.chain.encode() + decision_bytes(self._decision)).hexdigest()
        return changed

    def _make_decision(self) -> Decision:
        state = self._state
        assert state.told is not None
        return Decision(
            model=self.key.model, symbol=self.key.symbol, timeframe=self.key.timeframe, mode=self._config.mode,
            version=state.version, as_of_ms=state.clock_ms, data_until_ms=self._data_until_ms(), regime=None,
            sides=state.told, reference_id=state.reference_id, policy_id=self._policy_id,
            computed=state.computed if self._config.mode == "shadow" else None,
        )  # fmt: skip

    def _rule_sides(self, event: AnyEvent) -> dict[str, Ruling]:
        evidence = self._all_evidence()
        if isinstance(event, Observation):
            self._count_alarms(evidence, event.ts_ms)
        observed = isinstance(event, Observation if self._config.require_observations else Observation | Trade)
        return {side: self._rule(side, evidence, observed=observed) for side in SIDES}

    def _count_alarms(self, evidence: Iterable[Evidence], ts_ms: int) -> None:
        state = self._state
        for found in evidence:
            if not found.warm:
                continue
            state.watched[found.name] = state.watched.get(found.name, 0) + 1
            if found.drift:
                last_ms = state.last_alarm_ms.get(found.name)
                if last_ms is None or ts_ms - last_ms > DAY_MS:
                    state.alarms[found.name] = state.alarms.get(found.name, 0) + 1
                state.last_alarm_ms[found.name] = ts_ms

    def _rule(self, side: Side, evidence: tuple[Evidence, ...], *, observed: bool) -> Ruling:
        state = self._state
        view = self._view(side, evidence)
        overrides = [o for o in state.overrides if o.side in (None, side)]
        ruling = self._policy.decide(state.sides[side], view, overrides, observed=observed)
        if state.sides[side].rebase:
            state.sides[side].rebase = False
            state.drawdown.rebase(side)
        return ruling

    def _view(self, side: Side, evidence: tuple[Evidence, ...]) -> View:
        state = self._state
        known, needed = self._edge(side)
        followed = self._followed(side)
        # A pause that must try a few trades to find out tries those of the bot's own threshold: above a raised one
        # hardly any would come, and it would last for weeks.
        blind = not followed and CODE in state.sides[side].standing
        return View(
            now_ms=state.clock_ms, timeframe_ms=self._timeframe_ms, side=side, model=self._model, data=self._data(),
            evidence=evidence, outcomes=self._outcomes_of(side),
            drawdown_ratio=state.drawdown.of_side(side), drawdown_source=state.drawdown.source, standing=None,
            standing_since_ms=None, lifted_ms=None, signals=self._signal_view(side), edge=known, break_even=needed,
            entry_known=side in state.entries and not blind, entry_wanted=state.entries.get(side),
            win_rate_now=self._win_rate_now(side), followed=followed,
            trained_until_ms=self._trained_until_ms(), false_pause_trades=self._config.false_pause_trades,
        )  # fmt: skip

    def _followed(self, side: Side) -> bool:
        """Whether a refused signal of this side leaves an outcome: the bot reports it, or candles resolve it."""
        book = self._state.books[side]
        if book.bot_reports:
            return True
        late_ms = self._state.clock_ms - (book.candle_ms + self._timeframe_ms)
        return can_follow(self._model.exits) and book.candle_ms > 0 and late_ms <= CANDLES_LATE * self._timeframe_ms

    def _data(self) -> DataView:
        state, config = self._state, self._config
        return DataView(
            observations=state.observations, reference_rows=state.reference_rows,
            warmup_observations=config.warmup_observations, require_observations=config.require_observations,
            data_until_ms=self._data_until_ms(), stale_after=config.stale_after, non_finite=state.non_finite,
            missing=state.missing, extra=state.extra, extra_pauses=config.extra_features == "pause",
            schema_source=state.schema_source, error=state.error,
        )  # fmt: skip

    def _trained_until_ms(self) -> int | None:
        """End of the training data: said with the reference or the promotion, else by the configuration's date."""
        if self._state.trained_until_ms is not None or self._model.trained_until is None:
            return self._state.trained_until_ms
        last_day = datetime.strptime(self._model.trained_until, "%Y-%m-%d").replace(tzinfo=UTC)
        return int(last_day.timestamp() * 1000) + DAY_MS

    def _data_until_ms(self) -> int | None:
        return None if self._state.last_ts_ms is None else self._state.last_ts_ms + self._timeframe_ms

    # -- what others may look at -------------------------------------------------------------------------------------

    @property
    def decision(self) -> Decision | None:
        """The newest answer; None before the first event."""
        return self._decision

    @property
    def state(self) -> StreamState:
        """The stream's numbers, to read. Changing them breaks replay."""
        return self._state

    @property
    def watches(self) -> tuple[Watch, Watch]:
        """The detectors over the features and those over the model's probabilities, to read."""
        return self._features, self._scores

    @property
    def detectors(self) -> dict[str, Detector]:
        """Detectors over the features, by kind, to read."""
        return self._features.detectors

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the features that detectors compare, in the order of `Detector.feature_statistics`."""
        return self._features.columns

    def evidence(self) -> list[Evidence]:
        """Return what each detector says now; nothing after an engine error, when none of it can be trusted."""
        return list(self._all_evidence())

    def _all_evidence(self) -> tuple[Evidence, ...]:
        if self._state.error is not None:
            return ()
        if self._evidence is None:
            scored = self._scores.evidence() if self._scores.comparing else ()
            self._evidence = (*self._features.evidence(), *scored)
        return self._evidence

    def alarm_rates(self) -> dict[str, AlarmRate]:
        """Return, by detector, alarms a day: asked for (None where no rate is promised) and measured so far.

        True alarms count as well: nobody told us which were false.
        """
        rates, per_day = {}, DAY_MS / self._timeframe_ms
        for watch in self.watches:
            limits = watch.calibrations()
            for kind in watch.detectors if watch.comparing else ():
                name, kept = label(watch.name, kind), limits.get(kind)
                candles = self._state.watched.get(name, 0)
                rates[name] = AlarmRate(
                    asked=None if kept is None or self._state.self_reference else per_day / kept.rows_per_false_alarm,
                    measured=self._state.alarms.get(name, 0) / candles * per_day if candles else None,
                    candles=candles,
                )
        return rates

    def edge(self, side: Side) -> Edge:
        """Return what the outcomes of a side say about its score and its fees."""
        return self._edge(side)[0]

    def break_even(self, side: Side) -> float:
        """Return the win rate a side is held against."""
        return self._edge(side)[1]

    def outcomes(self, side: Side) -> Outcomes:
        """Return the outcomes of a side that are remembered, oldest first; they never change."""
        return self._outcomes_of(side)

    def win_rate_now(self, side: Side) -> float | None:
        """Return P(win), calibrated, averaged over the scores of late that reach the bot's own threshold; None before
        the first outcome with a score."""
        return self._win_rate_now(side)

    def top_features(self) -> tuple[tuple[str, float], ...]:
        """Return the features that stand out most, largest first, as (name, times its own limit), as the first detector
        that is warm sees them; nothing where none is, or after an engine error."""
        warm = [d for d in self.detectors.values() if d.warm] if self._state.error is None else []
        return top_features(self.watched, warm[0].feature_statistics) if warm and self._features.comparing else ()

    def live_value(self, side: Side) -> LiveValue:
        """Return what refusing was worth on this side so far."""
        marked = self._state.books[side].marked(side, self._model)
        return live_value(self._state.outcomes.get(side, ()), marked)

    def out_of_sample(self, side: Side) -> OutOfSample:
        """Return how a side fares on what its model was not trained on."""
        state = self._state
        outcomes = state.outcomes.get(side, ())
        return since_training(outcomes, self._trained_until_ms(), self.evidence(), state.clock_ms)

    def gate(self, side: Side) -> Progress:
        """Return how far the evidence is that would pause a side, or end the pause by `break-even` that stands."""
        memory = self._state.sides[side]
        view = self._view(side, ())._replace(lifts=memory.lifted_ms)
        standing = memory.standing.get(CODE)
        return progress(
            view, paused_ms=None if standing is None else standing.since_ms,
            false_pause_trades=self._config.false_pause_trades,
        )  # fmt: skip

    def followed(self, side: Side) -> bool:
        """Whether refused signals of this side leave outcomes."""
        return self._followed(side)

    def inherit(self, drawdown: Drawdown) -> None:
        """Take over the account's history of a model this stream joins later."""
        self._state.drawdown = drawdown

    # -- snapshot ----------------------------------------------------------------------------------------------------

    def digest(self) -> str:
        """Return the SHA-256 (hex) over the state, the history of decisions and each detector's fingerprint."""
        # Where limits were kept does not matter, only what they are: they show in what the detectors hold.
        plain = msgspec.structs.replace(self._state, calibrations={})
        digest = hashlib.sha256(msgspec.msgpack.encode(plain, order="deterministic"))
        for row in self._rows:
            digest.update(row.astype("<f8").tobytes())
        if self._state.error is None:
            # A detector that failed may not even be able to say what it holds, and is not used again.
            for watch in self.watches:
                digest.update(watch.fingerprint())
        return digest.hexdigest()

    def snapshot(self) -> bytes | None:
        """Return everything needed to continue, or None where a detector's state cannot be taken out without pickle
        (river's own objects): such a stream restarts by replaying its log."""
        watches = {}
        # A detector that failed may not even be able to say what it holds, and is not used again.
        for watch in self.watches if self._state.error is None else ():
            states = watch.state()
            if states is None:
                return None
            # Limits that the log names are kept beside it; all others would have to be found again, in seconds.
            named = self._limits(watch)
            watches[watch.name] = {
                "columns": list(watch.columns),
                "limits": {k: found.to_json() for k, found in watch.calibrations().items() if k not in named},
                "states": {k: {name: _pack(array) for name, array in arrays.items()} for k, arrays in states.items()},
            }
        body = {
            "version": SNAPSHOT_VERSION,
            "config": config_digest(self._config),
            "key": list(self.key),
            "state": msgspec.to_builtins(self._state, builtin_types=(bytes,), order="deterministic"),
            "rows": None if not self._rows else _pack(np.array(self._rows)),
            "self_reference": None if self._own is None else self._own.to_bytes(),
            "watches": watches,
        }
        return msgspec.msgpack.encode(body, order="deterministic")

    def restore(self, raw: bytes) -> None:
        """Continue from what `snapshot` returned, for the same stream under the same configuration.

        Raises `CorruptionError` for anything else: another configuration restarts from the log instead. The engine
        must not be used after that. The reference is asked for only where a detector cannot do without.
        """
        try:
            body = msgspec.msgpack.decode(raw)
            if (body["version"], tuple(body["key"]), body["config"]) != (
                SNAPSHOT_VERSION, tuple(self.key), config_digest(self._config),
            ):  # fmt: skip
                raise CorruptionError(f"a snapshot of {self.key} was made under another configuration or version")
            state = msgspec.convert(body["state"], StreamState, strict=False)
            rows = [] if body["rows"] is None else [np.array(row, dtype=np.float64) for row in _unpack(body["rows"])]
            if set(state.sides) != set(SIDES) or any(row.shape != (len(state.features),) for row in rows):
                raise ValueError("its parts do not fit together")
            self._state, self._rows = state, rows
            self._columns, self._evidence, self._outcomes, self._edges, self._win_rates = None, None, {}, {}, {}
            own = body["self_reference"]
            self._own = None if own is None else Reference.from_bytes(own)
            for watch in self.watches if state.error is None else ():
                self._resume(watch, body["watches"][watch.name])
            self._decision = None if state.told is None else self._make_decision()
        except RegimeError:
            raise
        except Exception as error:  # Whatever the bytes are: the answer is to replay the log.
            raise CorruptionError(f"a snapshot of {self.key} cannot be read: {error}") from error

    def _resume(self, watch: Watch, kept: Mapping[str, Any]) -> None:
        if not kept["columns"]:
            return

        def reference() -> Reference:
            if self._own is not None:
                return self._own
            sample = self._references(self._state.reference_id or "").select(self._state.features)
            found = sample if watch is self._features else scores(sample)
            assert found is not None  # The watch has columns, so there were scores.
            return found

        limits = {kind: Calibration.from_json(text) for kind, text in kept["limits"].items()} | self._limits(watch)
        states = {kind: {name: _unpack(a) for name, a in arrays.items()} for kind, arrays in kept["states"].items()}
        watch.resume(kept["columns"], states, limits, reference)


def _in_words(error: Exception) -> str:
    # Without addresses: a replay must find the same words.
    return re.sub(r"\b0x[0-9a-fA-F]+", "0x", f"{type(error).__name__}: {error}")[:200]


def watches(config: EngineConfig, timeframe_ms: int) -> tuple[Watch, Watch]:
    """Return what watches a stream: its features, and its model's probabilities."""
    return Watch("features", config, timeframe_ms, FEATURE_SHARE), Watch("scores", config, timeframe_ms, SCORE_SHARE)


def find_limits(
    event: Recalibrated,
    reference: Reference,
    config: EngineConfig,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Calibration]:
    """Find, ahead of the event, the limits it would find when it is stepped (`Recalibrated.calibrations`).

    Takes seconds; empty where the event does not name one timeframe, because a budget in days is candles only then.
    """
    if event.timeframe is None:
        return {}
    kept = [name for name in reference.names if not ignored(name, config.model(event.model).ignore_features)]
    found = zip(
        watches(config, timeframe_ms(event.timeframe)), (reference.select(kept), scores(reference)), strict=True
    )
    return calibrate_all({watch: sample for watch, sample in found if sample is not None}, progress)


def scores(reference: Reference) -> Reference | None:
    """Return the model's probabilities of the training period as a reference of their own; None if it has none."""
    kept = {
        name: column
        for name, column in (
            ("probability_long", reference.probability_long),
            ("probability_short", reference.probability_short),
        )
        if column is not None and np.isfinite(column).any()
    }
    return Reference(list(kept), np.column_stack(list(kept.values())), ts_ms=reference.ts_ms) if kept else None


def _row(values: Iterable[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _pack(array: NDArray[Any]) -> dict[str, Any]:
    plain = np.ascontiguousarray(array)
    return {"dtype": plain.dtype.str, "shape": list(plain.shape), "data": plain.tobytes()}


def _unpack(packed: dict[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(packed["dtype"])
    if dtype.hasobject:
        raise ValueError("an array of objects has no place in a snapshot")
    return np.frombuffer(packed["data"], dtype).reshape(packed["shape"]).copy()
