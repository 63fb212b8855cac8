"""The simulated bot: it plays its candles and trades against a service, obeys the answers, and keeps two accounts.

At the close of each candle, in this order, as a real bot would:

1. Trades that closed up to now are reported: those it took as they were (`size_ratio` times the `size_factor` they were
   opened with), those it refused as its own paper outcome (`shadow`). After real ones, the account.
2. For each signal it looks at the newest answer it holds, which is never older than the last candle, and decides.
3. The observation is sent, with what it decided (`taken`). The reply brings the thresholds: one round trip per candle.

The trades are those of a bot without a guard: prices do not depend on who trades, so what a refused one would have made
is known to the cent. Their exits are fixed with them: a raised *exit* threshold is shown, but cannot be played.
Both accounts compound net profit times leverage times size, trade after trade, in the order of closing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from regime.decision import SideDecision, Sides, TradingState
from regime.events import SIDES, Equity, Observation, Side, Taken, Trade, available_ms
from regime.guard_value import account_return
from regime.simulate import Simulation


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the bot reads of an answer `T` of the contract; the rest is passed over."""

    version: int
    as_of_ms: int
    sides: Sides


class Line(Protocol):
    """The bot's line to the service. Each call returns the newest answer; None where the reply held none."""

    def ask(self) -> Answer | None: ...
    def observation(self, event: Observation) -> Answer | None: ...
    def trades(self, events: Sequence[Trade]) -> Answer | None: ...
    def equity(self, event: Equity) -> Answer | None: ...


class Change(NamedTuple):
    """What one reply changed for one side; `at_ms` is event time."""

    at_ms: int
    side: Side
    before: SideDecision
    after: SideDecision


class Closed(NamedTuple):
    """A trade of the unguarded bot, and the share of its size that the guarded one had in it: 0 where refused."""

    trade: Trade
    exposure: float


@dataclass
class Books:
    """Everything that was written down during the play."""

    equity: float
    """Of both accounts at the start."""
    unguarded: float = 0.0
    guarded: float = 0.0
    first: Answer | None = None
    changes: list[Change] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unguarded = self.guarded = self.equity

    def close(self, closed: Closed) -> None:
        """Book a trade that closed: in full on the one account, by its exposure on the other."""
        self.closed.append(closed)
        self.unguarded *= 1.0 + account_return(closed.trade)
        self.guarded *= 1.0 + account_return(closed.trade) * closed.exposure


class Moment(NamedTuple):
    """One candle has been played; `ts_ms` is its close."""

    row: int
    ts_ms: int
    changes: list[Change]


def exposure(told: SideDecision, probability: float | None) -> float:
    """Return the share of its size at which a bot that obeys may enter: 0 where it must not.

    >>> exposure(SideDecision(state=TradingState.ACTIVE, entry=0.85, exit=0.75, size_factor=0.5, reasons=[]), 0.9)
    0.5
    """
    if told.state is not TradingState.ACTIVE or (probability is not None and probability < told.entry):
        return 0.0
    return told.size_factor


def changed(before: Answer, after: Answer) -> list[Change]:
    """Return the sides whose state, threshold or size is another than before; new reasons alone are no change."""
    return [
        Change(after.as_of_ms, side, was, now)
        for side in SIDES
        if _terms(was := before.sides.of(side)) != _terms(now := after.sides.of(side))
    ]


def _terms(told: SideDecision) -> tuple[TradingState, float, float, float]:
    return told.state, told.entry, told.exit, told.size_factor


class Bot:
    """A bot that obeys. `play` is the whole of it; `books` fills up meanwhile."""

    def __init__(self, simulation: Simulation, line: Line) -> None:
        self._simulation = simulation
        self._line = line
        self._held: Answer | None = None
        self._open: dict[tuple[int | None, Side], float] = {}
        """Exposure of each signal acted upon, by the open time of its candle, until the trade has closed."""
        self.books = Books(simulation.scenario.equity)

    def play(self) -> Iterator[Moment]:
        """Play every candle; yields after each."""
        scenario = self._simulation.scenario
        self._hear(self._line.ask())
        self._hear(self._line.equity(Equity(model=scenario.model, ts_ms=scenario.start_ms, equity=scenario.equity)))
        self.books.first = self._held
        waiting = sorted(self._simulation.trades, key=lambda trade: trade.closed_ms)
        for row, observation in enumerate(self._simulation.observations):
            now_ms = available_ms(observation)
            assert now_ms is not None
            changes: list[Change] = []
            due: dict[int, list[Trade]] = defaultdict(list)
            while waiting and waiting[0].closed_ms <= now_ms:
                due[waiting[0].closed_ms].append(waiting.pop(0))
            for closed_ms, trades in due.items():
                changes += self._report(closed_ms, trades)
            changes += self._hear(self._line.observation(self._decide(observation, row)))
            self.books.changes += changes
            yield Moment(row, now_ms, changes)

    def _hear(self, answer: Answer | None) -> list[Change]:
        before = self._held
        if answer is None or (before is not None and answer.version < before.version):
            return []  # Safety rule 3: an older answer is passed over.
        self._held = answer
        return [] if before is None else changed(before, answer)

    def _decide(self, observation: Observation, row: int) -> Observation:
        if observation.taken is None:
            return observation
        claimed = observation.probabilities
        taken: dict[Side, bool | None] = {"long": observation.taken.long, "short": observation.taken.short}
        for side in SIDES:
            if taken[side]:
                share = 0.0
                if row > 0 and self._held is not None:
                    probability = None if claimed is None else claimed.long if side == "long" else claimed.short
                    share = exposure(self._held.sides.of(side), probability)
                    self._open[observation.ts_ms, side] = share
                taken[side] = share > 0.0
        return msgspec.structs.replace(observation, taken=Taken(long=taken["long"], short=taken["short"]))

    def _report(self, closed_ms: int, trades: Sequence[Trade]) -> list[Change]:
        sent, real = [], False
        for trade in trades:
            share = self._open.pop((trade.signal_ts_ms, trade.side), None)
            if share is None:
                continue
            self.books.close(Closed(trade, share))
            real = real or share > 0.0
            sent.append(as_reported(trade, share))
        changes = self._hear(self._line.trades(sent)) if sent else []
        if real:
            account = Equity(
                model=self._simulation.scenario.model, ts_ms=closed_ms, equity=round(self.books.guarded, 4)
            )
            changes += self._hear(self._line.equity(account))
        return changes


def as_reported(trade: Trade, share: float) -> Trade:
    """Return the trade as the guarded bot reports it: a refused one is a paper outcome, a smaller one was smaller."""
    if share == 0.0:
        return msgspec.structs.replace(trade, shadow=True)
    size_ratio = 1.0 if trade.size_ratio is None else trade.size_ratio
    return msgspec.structs.replace(trade, size_ratio=size_ratio * share)


__all__ = ["Answer", "Books", "Bot", "Change", "Closed", "Line", "Moment", "as_reported", "changed", "exposure"]
