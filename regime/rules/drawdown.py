"""Rule `drawdown`: the account has lost too much from its peak."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote, ratio


class DrawdownRule:
    """Pause both sides when the account is more than `limit` under its peak; trade again when it is back at `release`.

    The peak survives restarts. A paused bot that holds no position cannot earn its way back (money paid in is not a
    gain): then only a recovering open position or an operator's ACTIVE ends this pause, and the answer says so.

    How often it pauses a bot that earns depends on its size and leverage. Measured on simulated healthy bots (win rate
    0.64, half the account at leverage 2, 40 bots over ten days): drawdowns of 3 % on average and 6 % at most, so never
    at 10 %; a thinner edge or larger positions get there. See the table in `regime.simulate`.

    Parameters
    ----------
    limit
        Drawdown (0.1 is 10 %) at which the pause begins.
    release
        Drawdown under which it ends (hysteresis); must not be above `limit`.
    """

    code = "drawdown"

    def __init__(self, *, limit: float = 0.1, release: float = 0.08) -> None:
        ratio("limit", limit)
        ratio("release", release)
        if release > limit:
            raise ValueError(f"release ({release}) must not be above limit ({limit})")
        self._limit, self._release = limit, release

    def judge(self, view: View) -> Vote | None:
        lost = view.drawdown_ratio
        if view.drawdown_source == "none" or lost <= (self._limit if view.standing is None else self._release):
            return None
        source = "from the equity feed" if view.drawdown_source == "equity" else "from closed trades"
        return Vote(
            code=self.code,
            text=f"the account is {lost:.1%} under its peak ({source}); {self._limit:.0%} was the limit",
            value=lost, limit=self._limit, state=TradingState.REDUCING,
            lift=(f"the drawdown falls under {self._release:.0%}", "an operator sets ACTIVE"),
        )  # fmt: skip


__plugin__ = DrawdownRule
