"""Fault `non-finite`: a feature that never was missing is missing now."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote


class NonFinite:
    """REDUCING while the newest observation misses a value the reference (or the warm-up) always had.

    A feature that is missing now and then in the reference may be missing live, too.
    """

    code = "non-finite"

    def judge(self, view: View) -> Vote | None:
        names = view.data.non_finite
        if not names:
            return None
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return Vote(
            code=self.code,
            text=f"no value for {', '.join(names[:3])}{more}, which the model always had",
            value=float(len(names)), limit=0.0, state=TradingState.REDUCING,
            lift=("an observation arrives with all its values",), fault=True,
        )  # fmt: skip


__plugin__ = NonFinite
