"""Fault `warm-up`: too few observations to judge anything."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote


class WarmUp:
    """REDUCING until the stream has seen `warmup_observations` (rows of a reference count)."""

    code = "warm-up"

    def judge(self, view: View) -> Vote | None:
        data = view.data
        if not data.require_observations:
            return None
        seen = data.observations + data.reference_rows
        # A reference speeds the warm-up up, but it is no sign of life: at least one observation must have come.
        if seen >= data.warmup_observations and data.observations > 0:
            return None
        if data.observations == 0:
            text = "no observation has arrived yet"
            lift = "the first observation arrives"
        else:
            text = f"{seen} of {data.warmup_observations} observations seen; too few to judge the market"
            lift = f"{data.warmup_observations - seen} more observations arrive, or a reference is registered"
        return Vote(
            code=self.code, text=text, value=float(seen), limit=float(data.warmup_observations),
            state=TradingState.REDUCING, lift=(lift,), fault=True,
        )  # fmt: skip


__plugin__ = WarmUp
