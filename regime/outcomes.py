"""What the bot's trades came to: win rate, payoff, break-even, ML-exit rate, drawdown. All net of fees.

Functions take a sequence of `Outcome`, oldest first. Where a number is undefined they return NaN and say when.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.events import Equity, Trade


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a closed trade left behind. `profit_ratio` is net of fees and unleveraged; `shadow` marks a paper trade."""

    closed_ms: int
    profit_ratio: float
    exit_kind: str
    shadow: bool
    entry_probability: float | None = None
    opened_ms: int | None = None


class Outcomes(tuple[Outcome, ...]):
    """Outcomes, oldest first, and the columns of them that are judged with every candle: each made once, as an array,
    when it is first asked for."""

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Outcomes:
        """Return the same outcomes with their columns."""
        return outcomes if isinstance(outcomes, Outcomes) else cls(outcomes)

    @cached_property
    def closed_ms(self) -> NDArray[np.int64]:
        """`int64[outcomes]`: when each closed."""
        return np.array([outcome.closed_ms for outcome in self], dtype=np.int64)

    @cached_property
    def won(self) -> NDArray[np.bool_]:
        """`bool[outcomes]`: which made money after fees."""
        return np.array([outcome.profit_ratio > 0 for outcome in self], dtype=np.bool_)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """`float64[outcomes]`: P(win) claimed at entry; NaN where none was."""
        return np.array([outcome.entry_probability for outcome in self], dtype=np.float64)

    def where(self, kept: NDArray[np.bool_]) -> Outcomes:
        """Return those that are marked in `kept`, `bool[outcomes]`."""
        return self if kept.all() else Outcomes(self[i] for i in np.flatnonzero(kept))


def wins(outcomes: Sequence[Outcome]) -> int:
    """Count trades that made money after fees; a trade that came out at exactly zero did not."""
    return sum(outcome.profit_ratio > 0 for outcome in outcomes)


def win_rate(outcomes: Sequence[Outcome]) -> float:
    """Return the share of winning trades after fees. NaN without trades."""
    return wins(outcomes) / len(outcomes) if outcomes else math.nan


def ml_exit_rate(outcomes: Sequence[Outcome]) -> float:
    """Return the share of trades that the model itself closed. NaN without trades."""
    return sum(outcome.exit_kind == "ml_exit" for outcome in outcomes) / len(outcomes) if outcomes else math.nan


def payoff_ratio(outcomes: Sequence[Outcome]) -> float:
    """Return mean win / mean loss (both positive numbers). NaN unless there is at least one of each."""
    gains = [o.profit_ratio for o in outcomes if o.profit_ratio > 0]
    losses = [-o.profit_ratio for o in outcomes if o.profit_ratio < 0]
    if not gains or not losses:
        return math.nan
    return _mean(gains) / _mean(losses)


def _mean(values: Sequence[float]) -> float:
    # Scaled: the sum of absurd figures (1e308 is a number, too) must not overflow.
    scale = max(values)
    return scale * (math.fsum(value / scale for value in values) / len(values))


def break_even_win_rate(payoff: float) -> float:
    """Return the win rate at which a bot with this payoff ratio neither makes nor loses money. NaN for NaN.

    >>> break_even_win_rate(1.0)
    0.5
    """
    return 1.0 / (1.0 + payoff)


def wilson_interval(won: int, count: int, z: float) -> tuple[float, float]:
    """Return the Wilson (1927) score interval of a win rate; `z` is the normal quantile (1.645: 90 % two-sided).

    It misleads where trades depend on each other: overlapping trades carry less evidence than their number says.
    (nan, nan) without trades.
    """
    if count == 0:
        return math.nan, math.nan
    rate = won / count
    scale = 1.0 + z * z / count
    middle = (rate + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    # Rounding may leave the interval a hair outside 0..1 where the rate is exactly 0 or 1.
    return max(0.0, middle - half), min(1.0, middle + half)


class Drawdown(msgspec.Struct, kw_only=True):
    """Loss from the highest point of the account, on an index that starts at 1.

    Fed by the equity feed (what was paid in or out is taken out by `net_flow`) or, until there is one, by closed real
    trades compounded with leverage and size (1 each when not given). `source` says which. Shadow trades never count.
    The peak is part of the engine's state: a restart does not forget it. An operator may reset it, and a pause that
    ended on evidence measures its side from a peak of its own (`rebase`): the loss stays lost, and must not stop the
    side for ever. Without an equity feed open positions do not count, so the figure comes late.

    One bad tick of the feed (a jump of more than a quarter from one figure to the next) waits for the next figure: if
    that one agrees it counts, else it is dropped and counted in `dropped`.
    """

    index: float = 1.0
    peak: float = 1.0
    last_equity: float | None = None
    last_ms: int | None = None
    source: str = "none"
    rebased: dict[str, float] = {}
    """Side -> its own peak since a pause for drawdown ended on evidence."""
    doubted: tuple[float, float] | None = None
    """A figure that waits for confirmation, and what was paid in with it."""
    dropped: int = 0

    @property
    def ratio(self) -> float:
        """Return the loss from the peak (0.1 is 10 %)."""
        return 1.0 - self.index / self.peak

    def of_side(self, side: str) -> float:
        """Return the loss from the peak that counts for this side."""
        return 1.0 - self.index / self.rebased.get(side, self.peak)

    def rebase(self, side: str) -> None:
        """Measure this side from here on."""
        self.rebased = {**self.rebased, side: self.index}

    def reset_peak(self) -> None:
        """Measure everything from here on."""
        self.peak, self.rebased = self.index, {}

    def on_trade(self, trade: Trade) -> None:
        if trade.shadow or self.source == "equity":
            return
        leverage = 1.0 if trade.leverage is None else trade.leverage
        size = 1.0 if trade.size_ratio is None else trade.size_ratio
        self._grow(1.0 + trade.profit_ratio * leverage * size, "trades")

    def on_equity(self, equity: Equity) -> None:
        if self.source != "equity":  # The account's own figures replace what was pieced together from trades.
            self.index, self.peak, self.source, self.rebased = 1.0, 1.0, "equity", {}
        if self.last_ms is not None and equity.ts_ms < self.last_ms:
            return  # What came late is between two figures that were compared already.
        self.last_ms = equity.ts_ms
        before, flow = self.last_equity, equity.net_flow or 0.0
        if self.doubted is not None and before is not None:
            figure, flowed = self.doubted
            self.doubted = None
            if _near(equity.equity - flow, figure):
                self._grow((figure - flowed) / before, "equity")
                before = figure
            else:
                self.dropped += 1
                flow += flowed
        # An account that stood at or below zero has no rate of return; the index waits for the next pair.
        if before is not None and before > 0:
            if not _near(equity.equity - flow, before):
                self.doubted, self.last_equity = (equity.equity, flow), before
                return
            self._grow((equity.equity - flow) / before, "equity")
        self.last_equity = equity.equity

    def _grow(self, factor: float, source: str) -> None:
        # A floor keeps a total loss a total loss (100 %) without dividing by zero later; a ceiling, for absurd figures,
        # keeps the ratio a number.
        self.index = min(max(self.index * factor, 1e-12), 1e300) if math.isfinite(factor) else self.index
        self.peak = max(self.peak, self.index)
        if self.rebased:
            self.rebased = {side: max(peak, self.index) for side, peak in self.rebased.items()}
        self.source = source


def _near(figure: float, other: float) -> bool:
    """Whether two figures of an account, one after the other, are believable without asking again."""
    return abs(figure - other) <= _JUMP * abs(other)


_JUMP = 0.25
