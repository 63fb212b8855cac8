"""Rule `break-even`: the bot no longer earns its fees."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from regime.decision import TradingState
from regime.exploration import Exploration, earns_again, since_pause, still_paused
from regime.gate import CODE, counts, gate, judged, passes
from regime.outcomes import Outcome
from regime.rules import View, Vote, count, positive, ratio


class BreakEven:
    """Pause a side when its outcomes are evidence that it wins less often than its own payoff and fees ask for.

    The evidence is an e-detector (`regime.e_detector`): at most one pause in `false_pause_trades` trades of a side that
    earns its fees, however often one looks. Outcomes are real and shadow trades, net of fees, of signals that the entry
    threshold in force lets through (`regime.gate`); break-even comes from the side's own payoff ratio (or the
    configured one).

    The pause ends on evidence only: the mirrored detector on the outcomes that closed after it began. Where refused
    signals leave no outcome, a few small trades are let through to get some (`regime.exploration`).

    It misleads where trades overlap (they carry less evidence than their number) and right after the payoff itself
    changed.

    Parameters
    ----------
    trades_min
        The least number of trades since the last pause to say anything.
    false_pause_trades
        Instead of the configuration's figure of that name; 0 takes that.
    explore_after_candles, explore_trades, explore_size
        Candles without any outcome before it tries, trades it tries, and their size.
    """

    code = CODE

    def __init__(
        self,
        *,
        trades_min: int = 5,
        false_pause_trades: float = 0.0,
        explore_after_candles: int = 288,
        explore_trades: int = 5,
        explore_size: float = 0.25,
    ) -> None:
        for name, value in (
            ("trades_min", trades_min), ("explore_after_candles", explore_after_candles),
            ("explore_trades", explore_trades),
        ):  # fmt: skip
            count(name, value)
        ratio("explore_size", explore_size)
        if isinstance(false_pause_trades, bool) or false_pause_trades != 0:
            positive("false_pause_trades", false_pause_trades)
        self._trades_min, self._false_pause_trades = trades_min, false_pause_trades
        self._explore = Exploration(wait_candles=explore_after_candles, quota=explore_trades, size=explore_size)

    def judge(self, view: View) -> Vote | None:
        needed = view.break_even
        if view.standing is not None:
            since = since_pause(view)
            if earns_again(since.won[passes(view, since)], needed):
                return None
            return still_paused(view, view.standing, needed, self._explore)
        if counts(view).sum() < self._trades_min:
            return None
        found = gate(view, false_pause_trades=self._false_pause_trades or view.false_pause_trades)
        if not found.pause:
            return None
        last = judged(view)
        began_ms = last[found.start].closed_ms
        sample = view.out_of_sample
        return Vote(
            code=self.code,
            text=f"{found.wins} wins in {found.trades} trades ({_kinds(last[found.start :])}) since about "
            f"{_day(began_ms)}; it takes {needed:.0%} to earn the fees"
            # Where nobody said until when the model was trained, there is nothing to add.
            + (f"; {sample.sentence}" if sample.since_ms is not None else ""),
            value=found.wins / found.trades, limit=needed, state=TradingState.REDUCING,
            lift=(
                f"trades from now on (real, or refused ones followed on paper) win credibly more than {needed:.0%}",
            )
            + (() if view.followed else (
                f"no outcome arrives for {self._explore.wait_candles} candles: then it tries {self._explore.quota} "
                f"trades at {self._explore.size:.0%} of the size",
            )),
        )  # fmt: skip


def _kinds(outcomes: Sequence[Outcome]) -> str:
    shadows = sum(o.shadow for o in outcomes)
    return f"{len(outcomes) - shadows} real, {shadows} on paper" if shadows else "all real"


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


__plugin__ = BreakEven
