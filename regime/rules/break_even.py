"""Rule `break-even`: the bot no longer earns its fees."""

from __future__ import annotations

import math

import msgspec

from regime.decision import TradingState
from regime.outcomes import Outcome, break_even_win_rate, payoff_ratio, wilson_interval, win_rate, wins
from regime.rules import View, Vote, count, positive


class BreakEven:
    """Pause a side when the win rate of its last trades is credibly under the break-even of its own payoff ratio.

    Credibly: the upper end of the Wilson interval (one-sided, `z`) is under break-even. The payoff ratio is taken from
    all outcomes in memory, net of fees. It misleads where trades overlap (they carry less evidence than their number)
    and right after the payoff itself changed.

    The pause ends on evidence: `resume_trades` outcomes that closed after it began (shadow trades of refused signals,
    or real ones) win at least as often as break-even asks. Where no outcome arrives at all for `explore_after_candles`,
    nothing could ever end it; then the side may trade again, in probation, and is judged on what comes after that.

    Measured: a false pause every 867 trades of a healthy bot with win rate 0.55 and payoff 1, 5,286 at 0.60, about
    1,000,000 at 0.70, 1,798 at win rate 0.45 and payoff 1.6; after a collapse to 0.35 it pauses within 37 to 44 trades
    (median; payoff 1) or 113 (payoff 1.6, where 0.35 is close to break-even); 2,000 simulated bots, seed 7.

    Parameters
    ----------
    window, trades_min
        Trades looked at, and the least number to say anything.
    z
        Normal quantile of the one-sided interval (1.64: 95 %).
    resume_trades, explore_after_candles
        See above.
    """

    code = "break-even"

    def __init__(
        self,
        *,
        window: int = 50,
        trades_min: int = 15,
        z: float = 1.64,
        resume_trades: int = 20,
        explore_after_candles: int = 576,
    ) -> None:
        for name, value in (
            ("window", window), ("trades_min", trades_min), ("resume_trades", resume_trades),
            ("explore_after_candles", explore_after_candles),
        ):  # fmt: skip
            count(name, value)
        positive("z", z)
        if trades_min > window:
            raise ValueError(f"trades_min ({trades_min}) must not be above window ({window})")
        self._window, self._trades_min, self._z = window, trades_min, z
        self._resume_trades, self._explore_after_candles = resume_trades, explore_after_candles

    def judge(self, view: View) -> Vote | None:
        needed = _break_even(view.outcomes)
        if view.standing is not None and view.standing_since_ms is not None:
            return self._paused(view, view.standing, view.standing_since_ms, needed)
        # What was seen before the last pause was lifted has had its say.
        last = [o for o in view.outcomes if view.lifted_ms is None or o.closed_ms > view.lifted_ms][-self._window :]
        if len(last) < self._trades_min or math.isnan(needed):
            return None
        upper = wilson_interval(wins(last), len(last), self._z)[1]
        if upper >= needed:
            return None
        return Vote(
            code=self.code,
            text=f"{wins(last)} wins in the last {len(last)} trades; even {upper:.0%} would not earn the fees "
            f"(break-even {needed:.0%})",
            value=win_rate(last), limit=needed, state=TradingState.REDUCING,
            lift=(
                f"{self._resume_trades} trades (real or shadow) from now on win at least {needed:.0%}",
                f"no outcome arrives for {self._explore_after_candles} candles: then it tries again, smaller",
            ),
            earliest_ms=view.now_ms + self._explore_after_candles * view.timeframe_ms,
        )  # fmt: skip

    def _paused(self, view: View, standing: Vote, since_ms: int, needed: float) -> Vote | None:
        since = [o for o in view.outcomes if o.closed_ms > since_ms][-self._resume_trades :]
        if len(since) == self._resume_trades and win_rate(since) >= needed:
            return None
        newest_ms = since[-1].closed_ms if since else since_ms
        explore_ms = newest_ms + self._explore_after_candles * view.timeframe_ms
        if view.now_ms >= explore_ms:
            return None
        # While outcomes arrive they decide, and no time is promised; should they cease, it is judged again by then.
        return msgspec.structs.replace(standing, earliest_ms=None if since else explore_ms, recheck_ms=explore_ms)


def _break_even(outcomes: tuple[Outcome, ...]) -> float:
    """Break-even win rate of the outcomes' own payoff; NaN without trades, 1 if none ever won, 0 if none lost."""
    if not outcomes:
        return math.nan
    payoff = payoff_ratio(outcomes)
    if math.isnan(payoff):
        return 0.0 if wins(outcomes) else 1.0
    return break_even_win_rate(payoff)


__plugin__ = BreakEven
