"""Fault `stale`: nothing new for too long."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote


class Stale:
    """REDUCING when the newest observation's candle closed `stale_after` candles ago or earlier."""

    code = "stale"

    def judge(self, view: View) -> Vote | None:
        data = view.data
        if not data.require_observations or data.data_until_ms is None:
            return None
        age_ms = view.now_ms - data.data_until_ms
        limit_ms = data.stale_after * view.timeframe_ms
        if age_ms < limit_ms:
            return None
        return Vote(
            code=self.code,
            text=f"no new observation for {data.stale_after} candles; the market may have moved without us",
            value=float(data.stale_after), limit=float(data.stale_after),
            state=TradingState.REDUCING, lift=("the next observation arrives",), fault=True,
        )  # fmt: skip


__plugin__ = Stale
