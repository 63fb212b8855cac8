"""What came of it, in numbers: when the guard noticed, what it saved, and what it cost while nothing was wrong.

What was known up to the moment of the break is *healthy*, what came to be known later is *after the break*; the same
moment divides trades by when they closed. A healthy disturbance is an episode: from the first side that is told
anything but "trade, at your own thresholds and full size" until both sides are free again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from regime.decision import SideDecision, TradingState
from regime.events import SIDES, Side
from regime.guard_value import account_return
from regime_service.demo.bot import Books, Change, Closed


class Period(NamedTuple):
    """Trades that closed in a period, and what they did to the account (0.1 is +10 % of what it began with)."""

    trades: int
    refused: int
    refused_winners: int
    smaller: int
    """Taken, at less than full size."""
    unguarded_ratio: float
    guarded_ratio: float


class Summary(NamedTuple):
    """All of it. What is None never came."""

    break_ms: int
    warning: Change | None
    """First change after the break to something stricter."""
    pauses: dict[Side, Change]
    """First pause of each side after the break."""
    trades_to_warning: int
    """Trades that closed between the break and the first warning (or the end)."""
    trades_to_pause: int
    standing: tuple[str, ...]
    """Reasons in force already at the moment of the break: false alarms that came in time by luck."""
    paused_at_break: tuple[Side, ...]
    """Sides that were paused already, by the same luck."""
    disturbances: tuple[tuple[Change, ...], ...]
    """Changes of each healthy disturbance, from its beginning to its end."""
    healthy: Period
    after: Period

    @property
    def warning_ms(self) -> int | None:
        """Delay of the first warning, in event time."""
        return None if self.warning is None else self.warning.at_ms - self.break_ms

    @property
    def pause_ms(self) -> int | None:
        """Delay of the first pause, whichever side it was."""
        return min((change.at_ms - self.break_ms for change in self.pauses.values()), default=None)

    @property
    def healthy_pauses(self) -> int:
        """How many of the disturbances held a pause."""
        return sum(any(is_pause(change) for change in episode) for episode in self.disturbances)

    @property
    def avoided_ratio(self) -> float:
        """What the unguarded account lost after the break minus what the guarded one lost, each as a share of itself
        at the break. Negative: the guard did harm."""
        return self.after.guarded_ratio - self.after.unguarded_ratio

    @property
    def missed_ratio(self) -> float:
        """Healthy profit of the unguarded account minus that of the guarded one. Negative: the guard was lucky."""
        return self.healthy.unguarded_ratio - self.healthy.guarded_ratio


def summarize(books: Books, *, break_ms: int, entry: float, exit: float) -> Summary:
    """Return the summary of a play; `entry` and `exit` are the bot's own thresholds."""
    healthy = [change for change in books.changes if change.at_ms <= break_ms]
    later = [change for change in books.changes if change.at_ms > break_ms]
    pauses: dict[Side, Change] = {}
    for change in later:
        if is_pause(change):
            pauses.setdefault(change.side, change)
    warning = next((change for change in later if is_stricter(change)), None)
    first_pause_ms = min((change.at_ms for change in pauses.values()), default=None)
    told = _told(books, healthy)
    closed_later = [c for c in books.closed if c.trade.closed_ms > break_ms]
    return Summary(
        break_ms=break_ms,
        warning=warning,
        pauses=pauses,
        trades_to_warning=_until(closed_later, None if warning is None else warning.at_ms),
        trades_to_pause=_until(closed_later, first_pause_ms),
        standing=tuple(dict.fromkeys(r.code for t in told.values() if not is_free(t, entry, exit) for r in t.reasons)),
        paused_at_break=tuple(side for side, t in told.items() if t.state is not TradingState.ACTIVE),
        disturbances=_episodes(books, healthy, entry, exit),
        healthy=period([c for c in books.closed if c.trade.closed_ms <= break_ms]),
        after=period(closed_later),
    )


def period(closed: Iterable[Closed]) -> Period:
    """Return what trades did to an account without and with the guard, compounded in the order given."""
    trades = refused = winners = smaller = 0
    unguarded = guarded = 1.0
    for trade, share in closed:
        trades += 1
        refused += share == 0.0
        winners += share == 0.0 and trade.profit_ratio > 0.0
        smaller += 0.0 < share < 1.0
        unguarded *= 1.0 + account_return(trade)
        guarded *= 1.0 + account_return(trade) * share
    return Period(trades, refused, winners, smaller, unguarded - 1.0, guarded - 1.0)


def is_free(told: SideDecision, entry: float, exit: float) -> bool:
    """Whether a side may do what the bot would do without a guard."""
    return (told.state, told.entry, told.exit, told.size_factor) == (TradingState.ACTIVE, entry, exit, 1.0)


def is_pause(change: Change) -> bool:
    """Whether a side that was trading may not enter any more."""
    return change.before.state is TradingState.ACTIVE and change.after.state is not TradingState.ACTIVE


def is_stricter(change: Change) -> bool:
    """Whether a side was told to be more careful than before, in one way at least and less careful in none."""
    old, new = change.before, change.after
    if old.state is not new.state:
        return new.state.caution > old.state.caution
    steps = (new.entry - old.entry, new.exit - old.exit, old.size_factor - new.size_factor)
    return any(step > 0.0 for step in steps) and not any(step < 0.0 for step in steps)


def _told(books: Books, changes: Iterable[Change]) -> dict[Side, SideDecision]:
    told = {} if books.first is None else {side: books.first.sides.of(side) for side in SIDES}
    return told | {change.side: change.after for change in changes}


def _episodes(books: Books, changes: Iterable[Change], entry: float, exit: float) -> tuple[tuple[Change, ...], ...]:
    """Cut changes into disturbances. What stood before the first answer (warm-up) is not one."""
    told = _told(books, ())
    episodes: list[list[Change]] = []
    current: list[Change] | None = None
    for change in changes:
        was_free = all(is_free(t, entry, exit) for t in told.values())
        told[change.side] = change.after
        if current is None and was_free:
            current = []
            episodes.append(current)
        if current is not None:
            current.append(change)
            if all(is_free(t, entry, exit) for t in told.values()):
                current = None
    return tuple(tuple(episode) for episode in episodes)


def _until(closed: Sequence[Closed], at_ms: int | None) -> int:
    return sum(at_ms is None or c.trade.closed_ms <= at_ms for c in closed)
