"""Rule `edge`: which scores still earn their fees, and how much to put on a side that is in doubt."""

from __future__ import annotations

from regime.decision import TradingState
from regime.exploration import Exploration, still_paused
from regime.gate import gate
from regime.rules import View, Vote, count, ratio

NEAR = 1.5
"""How far (natural logarithm of the evidence) the gate may be from its limit for `no-edge` to pause."""


class EdgeRule:
    """Raise the entry threshold to the smallest score that earns its fees; trade smaller, or pause, where none does.

    P(win | score, now) comes from `regime.win_probability`, and is held against break-even.

    - The score ranks outcomes (from `regime.edge.RANK_ON` standard errors on): the threshold moves to the smallest
      score that earns, by 0.02 at the least. A raised threshold needs no pause.
    - It ranks, but no score earns: `size` of the size; `no-edge` pauses when the gate (`regime.gate`) comes close to
      its limit, and until a score earns again.
    - It does not rank: a higher threshold has no lever, and the base threshold stands. Where P(win) of the side as a
      whole is under break-even, it trades `size` of its size while the gate (rule `break-even`) gathers evidence.

    Measured with the preset `default` (`tests/bench/bench_outcomes.py --seed 693000 --bots 6 --policies shipped`): bots
    that earn with a score that says nothing are paused 0.56 times in 1,000 trades by this rule and `break-even`
    together, trade smaller for 15.7 % of their signals, and have 1.5 % refused for their score.

    Nothing is said before 50 outcomes with a score. It misleads where outcomes overlap (they carry less evidence than
    their number), and blind: what lies under a raised threshold leaves no outcome, so the threshold comes down late.

    Parameters
    ----------
    entry_max
        A threshold above this counts as no threshold: too few signals would be left to tell.
    size
        Share of the size for a side in doubt; 1 leaves it alone.
    explore_after_candles, explore_trades, explore_size
        Where refused signals leave no outcome: see `regime.exploration`.
    """

    code = "edge"

    def __init__(
        self,
        *,
        entry_max: float = 0.97,
        size: float = 0.25,
        explore_after_candles: int = 288,
        explore_trades: int = 5,
        explore_size: float = 0.25,
    ) -> None:
        ratio("entry_max", entry_max)
        ratio("size", size)
        count("explore_after_candles", explore_after_candles)
        count("explore_trades", explore_trades)
        ratio("explore_size", explore_size)
        self._entry_max, self._size = entry_max, size
        self._explore = Exploration(wait_candles=explore_after_candles, quota=explore_trades, size=explore_size)

    def judge(self, view: View) -> Vote | None:
        known, wanted = view.edge, view.entry_wanted
        if known.break_even is None or known.win_rate is None or known.trades < known.trades_min:
            return None
        if not view.entry_known:
            if view.win_rate_now is None or view.win_rate_now >= view.break_even:
                return None
            return self._doubt(
                f"signals like the last ones win {view.win_rate_now:.0%} of the time, it takes {view.break_even:.0%} "
                "to earn the fees",
                view.win_rate_now, view.break_even,
            )  # fmt: skip
        if wanted is not None and wanted <= max(self._entry_max, view.model.entry):
            if wanted <= view.model.entry:
                return None
            return Vote(
                code=self.code,
                text=f"a score under {wanted:.2f} does not earn its fees now (break-even {known.break_even:.0%} of "
                "trades won)",
                value=wanted, limit=view.model.entry, entry=wanted,
                lift=("lower scores win often enough again",),
            )  # fmt: skip
        if view.standing is not None and view.standing.code == "no-edge":
            return still_paused(view, view.standing, view.break_even, self._explore)
        # No threshold: all that the bot itself would take is judged.
        found = gate(view._replace(entry_wanted=None), false_pause_trades=view.false_pause_trades)
        figures = f"break-even {known.break_even:.0%} of trades won, last {known.trades} trades {known.win_rate:.0%}"
        if found.log_e < found.limit - NEAR:
            return self._doubt(f"no score of this model earns its fees now ({figures})", known.win_rate,
                               known.break_even)  # fmt: skip
        return Vote(
            code="no-edge",
            text=f"no score of this model earns its fees now ({figures}), and the outcomes bear it out",
            value=known.win_rate, limit=known.break_even, state=TradingState.REDUCING,
            lift=("outcomes of refused signals show a score that earns its fees",),
        )  # fmt: skip

    def _doubt(self, why: str, value: float, limit: float) -> Vote | None:
        if self._size >= 1.0:
            return None
        return Vote(
            code=self.code,
            text=f"{why}; that is a doubt, not yet evidence for a pause: {self._size:.0%} of the size meanwhile",
            value=value, limit=limit, size_factor=self._size,
            lift=("the next outcomes take the doubt away (or make it a pause)",),
        )  # fmt: skip


__plugin__ = EdgeRule
