"""Rule `drawdown`: the account has lost too much from its peak."""

from __future__ import annotations

import msgspec

from regime.decision import TradingState
from regime.exploration import Exploration, earns_again, since_pause, still_paused
from regime.rules import View, Vote, count, ratio


class DrawdownRule:
    """Pause both sides when the account is more than `limit` under its peak.

    The peak survives restarts. A pause ends when the account is back at `release` of drawdown, when an operator resets
    the peak or sets ACTIVE, or, because a paused bot that holds no position cannot earn its way back, on evidence: the
    side's outcomes since the pause began (refused signals followed on paper, or a few small trades) show that it earns
    its fees. Then the side's drawdown is measured from there: the same loss does not stop it twice.

    A figure of the equity feed that jumps by more than a quarter waits for the next one (`regime.outcomes.Drawdown`).

    How often it pauses a bot that earns depends on its size and leverage. Measured on simulated healthy bots (win rate
    0.64, half the account at leverage 2, 40 bots over ten days): drawdowns of 3 % on average and 6 % at most, so never
    at 10 %; a thinner edge or larger positions get there. See the table in `regime.simulate`.

    Parameters
    ----------
    limit
        Drawdown (0.1 is 10 %) at which the pause begins.
    release
        Drawdown under which it ends (hysteresis); must not be above `limit`.
    explore_after_candles, explore_trades, explore_size
        Where refused signals leave no outcome: see `regime.exploration`.
    """

    code = "drawdown"

    def __init__(
        self,
        *,
        limit: float = 0.1,
        release: float = 0.08,
        explore_after_candles: int = 576,
        explore_trades: int = 5,
        explore_size: float = 0.25,
    ) -> None:
        ratio("limit", limit)
        ratio("release", release)
        count("explore_after_candles", explore_after_candles)
        count("explore_trades", explore_trades)
        ratio("explore_size", explore_size)
        if release > limit:
            raise ValueError(f"release ({release}) must not be above limit ({limit})")
        self._limit, self._release = limit, release
        self._explore = Exploration(wait_candles=explore_after_candles, quota=explore_trades, size=explore_size)

    def judge(self, view: View) -> Vote | None:
        lost, needed = view.drawdown_ratio, view.break_even
        if view.standing is not None:
            if lost <= self._release:
                return None
            # Money is gone already, so more evidence is asked for than after a mere suspicion.
            if earns_again(since_pause(view).won, needed, false_resume_share=0.05):
                return msgspec.structs.replace(view.standing, rebase=True)
            return still_paused(view, self._vote(view, lost, view.standing), needed, self._explore)
        if view.drawdown_source == "none" or lost <= self._limit:
            return None
        return self._vote(view, lost, None)

    def _vote(self, view: View, lost: float, standing: Vote | None) -> Vote:
        source = "from the equity feed" if view.drawdown_source == "equity" else "from closed trades"
        vote = Vote(
            code=self.code,
            text=f"the account is {lost:.1%} under its peak ({source}); {self._limit:.0%} was the limit",
            value=lost, limit=self._limit, state=TradingState.REDUCING,
            lift=(
                f"the drawdown falls under {self._release:.0%}",
                "refused signals followed on paper show that this side earns its fees" if view.followed else
                f"no outcome arrives for {self._explore.wait_candles} candles: then it tries {self._explore.quota} "
                f"trades at {self._explore.size:.0%} of the size, and goes on if they earn their fees",
                "an operator resets the peak or sets ACTIVE",
            ),
        )  # fmt: skip
        if standing is None or standing.exploring_ms is None:
            return vote
        return msgspec.structs.replace(
            vote, state=None, size_factor=standing.size_factor, exploring_ms=standing.exploring_ms
        )


__plugin__ = DrawdownRule
