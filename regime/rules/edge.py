"""Rule `edge`: which scores still earn their fees, where the score ranks outcomes at all."""

from __future__ import annotations

from regime.decision import TradingState
from regime.exploration import Exploration, still_paused
from regime.rules import View, Vote, count, ratio


class EdgeRule:
    """Raise the entry threshold to the smallest score that earns its fees; pause where no score does (`no-edge`).

    It speaks only where the score is known to rank outcomes (the interval of the AUC lies above one half, see
    `regime.edge`). Elsewhere a higher threshold has no lever, the base threshold stands, and `break-even` judges the
    side as a whole. P(win | score, now) comes from `regime.win_probability`; the threshold moves by 0.02 at the least.

    Parameters
    ----------
    entry_max
        A threshold above this is a pause: too few signals would be left to tell.
    explore_after_candles, explore_trades, explore_size
        Where refused signals leave no outcome: see `regime.exploration`.
    """

    code = "edge"

    def __init__(
        self,
        *,
        entry_max: float = 0.97,
        explore_after_candles: int = 288,
        explore_trades: int = 5,
        explore_size: float = 0.25,
    ) -> None:
        ratio("entry_max", entry_max)
        count("explore_after_candles", explore_after_candles)
        count("explore_trades", explore_trades)
        ratio("explore_size", explore_size)
        self._entry_max = entry_max
        self._explore = Exploration(wait_candles=explore_after_candles, quota=explore_trades, size=explore_size)

    def judge(self, view: View) -> Vote | None:
        known = view.edge
        if not view.entry_known or known.break_even is None or known.win_rate is None:
            return None
        wanted = view.entry_wanted
        if wanted is None or wanted > max(self._entry_max, view.model.entry):
            if view.standing is not None and view.standing.code == "no-edge":
                return still_paused(view, view.standing, view.break_even, self._explore)
            return Vote(
                code="no-edge",
                text=f"no score of this model earns its fees now (break-even {known.break_even:.0%} of trades won, "
                f"last {known.trades} trades {known.win_rate:.0%})",
                value=known.win_rate, limit=known.break_even, state=TradingState.REDUCING,
                lift=("outcomes of refused signals show a score that earns its fees",),
            )  # fmt: skip
        if wanted <= view.model.entry:
            return None
        return Vote(
            code=self.code,
            text=f"a score under {wanted:.2f} does not earn its fees now (break-even {known.break_even:.0%} of trades "
            "won)",
            value=wanted, limit=view.model.entry, entry=wanted,
            lift=("lower scores win often enough again",),
        )  # fmt: skip


__plugin__ = EdgeRule
