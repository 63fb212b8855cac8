"""Shadow trades: what a refused signal would have made, by the bot's own exit rules, on the candles that followed.

A pause that is never tested is never lifted: a bot that refuses its signals leaves no outcomes, and a rate that fell
stays where it fell. So every signal that *we* refused is followed on paper:

- It enters at the **open of the next candle**: the bot hears of a candle when it has closed. Where the next candle is
  more than `_LATE_CANDLES` late, the signal is given up as unresolved.
- Inside a candle the stop comes before the target, because nobody knows which came first; a candle that opens beyond
  either fills at its open. An exit probability at or above the bot's threshold leaves at the open of the next candle.
  After `max_hold_candles` (2,016 where none is declared: a week of five-minute candles) it leaves at the close. A wick
  to less than half or more than twice of the candle's body is taken for a bad tick.
- The fee is paid twice. Slippage and funding are not in it, so a shadow is a little kinder than the market.
- A bot holds `max_open` positions of a side at once. A signal that came while the bot (by its `taken`) or the shadows
  held that many would not have been a trade, and is not one here.

Shadows are marked as such in every record, never touch the drawdown, and end for good when the bot sends paper trades
of its own (`shadow: true` at `POST /v1/trades`): it knows better what it would have done.

**When it misleads.** Candles say nothing about the order of prices within them, a paused bot does not move the market,
and exits that are not declared (trailing stops, position scaling) are not followed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from regime.config import ExitRules, ModelConfig
from regime.events import Ohlcv

SIGNALS_MAX = 100
"""Signals remembered per side, for people to read."""
OPEN_MAX = 50
"""Shadows followed at once per side, whatever `max_open` says."""
_LATE_CANDLES = 3
_HOLD_MAX = 2016

Fate = Literal["", "taken", "passed", "overlapping", "open", "won", "lost", "unresolved"]


class Signal(msgspec.Struct, kw_only=True):
    """One signal at or above the bot's base threshold.

    `taken` is what the bot said of it (None: nothing). `refused` says that our answer stood against it. `fate`:
    `taken`, `passed` (the bot let it go by itself, or said nothing), `overlapping` (refused, but a position of the side
    was open), `open` (a shadow follows it), `won`, `lost`, `unresolved` (candles are missing). `profit_ratio` is the
    shadow's, net of fees.
    """

    ts_ms: int
    probability: float
    taken: bool | None = None
    refused: bool = False
    fate: Fate = ""
    profit_ratio: float | None = None


class Shadow(msgspec.Struct, kw_only=True):
    """A paper position. `entry_price` is None until the candle after the signal has come."""

    signal_ms: int
    probability: float
    entry_ms: int = 0
    entry_price: float | None = None
    leave_after_ms: int | None = None
    """The exit probability of this candle reached its threshold: out at the open of the next one."""


class Closed(NamedTuple):
    """A shadow that ended. `profit_ratio` is net of fees and unleveraged; `kind` as in `config.EXIT_KINDS`."""

    shadow: Shadow
    closed_ms: int
    profit_ratio: float
    kind: str


class Book(msgspec.Struct, kw_only=True):
    """Signals, shadows and what is known of real positions, of one side."""

    signals: list[Signal] = []
    shadows: list[Shadow] = []
    candle_ms: int = 0
    """Open time of the newest candle that the shadows have seen."""
    close: float | None = None
    """Its close: what open shadows are marked at."""
    real_until_ms: int | None = None
    """A real position was taken and has not been reported closed; forgotten at this time."""
    refused: int = 0
    resolved: int = 0
    unresolved: int = 0
    overlapping: int = 0
    bot_reports: bool = False
    """The bot sends paper trades of its own; ours ended when the first came."""

    def on_signal(self, signal: Signal, model: ModelConfig, timeframe_ms: int) -> None:
        """Remember `signal`, and follow it if it was refused and would have been a trade."""
        if signal.taken:
            signal.fate = "taken"
            hold = model.exits.max_hold_candles or _HOLD_MAX
            self.real_until_ms = signal.ts_ms + (hold + _LATE_CANDLES) * timeframe_ms
        elif not signal.refused:
            signal.fate = "passed"
        else:
            self.refused += 1
            held = len(self.shadows) + (self.real_until_ms is not None and signal.ts_ms < self.real_until_ms)
            if not can_follow(model.exits) or self.bot_reports:
                signal.fate = "unresolved" if not self.bot_reports else ""
                self.unresolved += not self.bot_reports
            elif held >= min(model.exits.max_open, OPEN_MAX):
                signal.fate = "overlapping"
                self.overlapping += 1
            else:
                signal.fate = "open"
                self.shadows.append(Shadow(signal_ms=signal.ts_ms, probability=signal.probability))
        self.signals = [*self.signals, signal][-SIGNALS_MAX:]

    def on_real_trade(self) -> None:
        """A real position of this side was reported closed."""
        self.real_until_ms = None

    def on_bot_shadow(self) -> None:
        """The bot reports paper trades of its own: ours are dropped, so that no outcome is counted twice."""
        self.bot_reports = True
        for shadow in self.shadows:
            self._settle(shadow, "", None)
        self.shadows = []

    def on_exit_probability(self, ts_ms: int, probability: float | None, exits: ExitRules) -> None:
        """Hear the exit probability of the candle that opened at `ts_ms`."""
        if probability is not None and exits.exit_probability is not None and probability >= exits.exit_probability:
            for shadow in self.shadows:
                if shadow.entry_price is not None and shadow.leave_after_ms is None:
                    shadow.leave_after_ms = ts_ms

    def marked(self, side: str, model: ModelConfig) -> list[float]:
        """Return what the open shadows would make if they were closed at the newest close, net of fees."""
        if self.close is None:
            return []
        close, sign = self.close, 1.0 if side == "long" else -1.0
        entered = [s.entry_price for s in self.shadows if s.entry_price is not None]
        return [sign * (close / price - 1.0) - 2.0 * model.fee_ratio for price in entered]

    def on_candle(self, ts_ms: int, candle: Ohlcv, side: str, model: ModelConfig, timeframe_ms: int) -> list[Closed]:
        """Take the next candle and return the shadows that ended in it. One that is not newer is ignored."""
        if ts_ms <= self.candle_ms:
            return []
        self.candle_ms, self.close = ts_ms, candle.close
        candle = _believable(candle)
        closed, still = [], []
        for shadow in self.shadows:
            if shadow.entry_price is None:
                if ts_ms <= shadow.signal_ms:
                    still.append(shadow)
                    continue
                if ts_ms > shadow.signal_ms + (1 + _LATE_CANDLES) * timeframe_ms:
                    self.unresolved += 1
                    self._settle(shadow, "unresolved", None)
                    continue
                shadow.entry_ms, shadow.entry_price = ts_ms, candle.open
            ended = _ended(shadow, ts_ms, candle, side, model.exits, timeframe_ms)
            if ended is None:
                still.append(shadow)
                continue
            price, kind = ended
            sign = 1.0 if side == "long" else -1.0
            profit = sign * (price / shadow.entry_price - 1.0) - 2.0 * model.fee_ratio
            self.resolved += 1
            self._settle(shadow, "won" if profit > 0 else "lost", profit)
            closed.append(Closed(shadow, ts_ms + timeframe_ms, profit, kind))
        self.shadows = still
        return closed

    def _settle(self, shadow: Shadow, fate: Fate, profit: float | None) -> None:
        for signal in reversed(self.signals):
            if signal.ts_ms == shadow.signal_ms:
                signal.fate, signal.profit_ratio = fate, profit
                return


def can_follow(exits: ExitRules) -> bool:
    """Whether the bot declared any exit of its own: without one nobody knows when a refused trade would have ended."""
    return any(
        rule is not None
        for rule in (exits.take_profit_ratio, exits.stop_loss_ratio, exits.max_hold_candles, exits.exit_probability)
    )


def _believable(candle: Ohlcv) -> Ohlcv:
    """Take back a wick to less than half or more than twice of where the candle opened and closed: one bad tick of a
    feed must not stop out a shadow."""
    low, high = min(candle.open, candle.close), max(candle.open, candle.close)
    if candle.low >= 0.5 * low and candle.high <= 2.0 * high:
        return candle
    return msgspec.structs.replace(
        candle, low=candle.low if candle.low >= 0.5 * low else low,
        high=candle.high if candle.high <= 2.0 * high else high,
    )  # fmt: skip


def _ended(
    shadow: Shadow, ts_ms: int, candle: Ohlcv, side: str, exits: ExitRules, timeframe_ms: int
) -> tuple[float, str] | None:
    """Return price and kind of the exit in this candle, or None."""
    entry = shadow.entry_price
    assert entry is not None
    if shadow.leave_after_ms is not None and ts_ms > shadow.leave_after_ms:
        return candle.open, "ml_exit"
    up = side == "long"
    if exits.stop_loss_ratio is not None:
        stop = entry * (1.0 - exits.stop_loss_ratio if up else 1.0 + exits.stop_loss_ratio)
        if (candle.low <= stop) if up else (candle.high >= stop):
            return (min(candle.open, stop) if up else max(candle.open, stop)), "stop_loss"
    if exits.take_profit_ratio is not None:
        target = entry * (1.0 + exits.take_profit_ratio if up else 1.0 - exits.take_profit_ratio)
        if (candle.high >= target) if up else (candle.low <= target):
            return (max(candle.open, target) if up else min(candle.open, target)), "take_profit"
    if ts_ms + timeframe_ms - shadow.entry_ms >= (exits.max_hold_candles or _HOLD_MAX) * timeframe_ms:
        return candle.close, "max_hold"
    return None
