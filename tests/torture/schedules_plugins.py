"""A cheap rule for simulated schedules: it pauses often, and fails at times. Settings name it by its dotted path."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote

POISON = -0.4


class Moody:
    """Pause a side after a lost trade, until one is won; fail while the last one lost half."""

    code = "moody"

    def judge(self, view: View) -> Vote | None:
        last = view.outcomes[-1] if view.outcomes else None
        if last is None or last.profit_ratio > 0:
            return None
        if last.profit_ratio < POISON:
            raise RuntimeError("a trade that nobody expected")
        return Vote(code=self.code, text="the last trade lost", state=TradingState.REDUCING, lift=("one is won",))
