"""Fault `engine-error`: judging an event of this stream failed."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote


class EngineError:
    """REDUCING once an event made the engine fail, until somebody looked: its numbers cannot be trusted any more."""

    code = "engine-error"

    def judge(self, view: View) -> Vote | None:
        if view.data.error is None:
            return None
        return Vote(
            code=self.code, text=f"judging an event failed: {view.data.error}", state=TradingState.REDUCING,
            lift=(
                "an operator retries or drops the event (`regime dead-letter list` names it)",
                "a reference is registered again, which starts the detectors anew",
            ),
            fault=True,
        )  # fmt: skip


__plugin__ = EngineError
