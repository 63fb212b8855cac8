"""Rule `score-drift`: the model's own probabilities have left the distribution of its training period."""

from __future__ import annotations

import math

from regime.decision import TradingState
from regime.rules import Evidence, View, Vote, flag, ratio


class ScoreDrift:
    """Say so when a detector finds that the probabilities are distributed otherwise than in the reference.

    By itself it changes nothing but the reasons; `pause` stops the stream. Silent where the reference holds no
    probabilities. How often it rings is the detector's budget (a quarter of the stream's) and was not measured on its
    own. It misleads where those are in-sample: a model is surer of what it was trained on.

    Parameters
    ----------
    release
        The vote ends when the statistic is under `release` times the limit (hysteresis).
    pause
        Whether to pause as well.
    """

    code = "score-drift"

    def __init__(self, *, release: float = 0.8, pause: bool = False) -> None:
        ratio("release", release)
        flag("pause", pause)
        self._release, self._pause = release, pause

    def judge(self, view: View) -> Vote | None:
        heard = [e for e in view.evidence if e.channel == "scores" and e.warm]
        if view.standing is not None:
            return view.standing if any(self._stands(e) for e in heard) else None
        rung = [e for e in heard if e.drift]
        if not rung:
            return None
        worst = max(rung, key=lambda e: e.statistic / e.limit if e.limit > 0 else math.inf)
        names = " and ".join(name.replace("_", " ") for name, times in worst.top if times > 1) or "the scores"
        return Vote(
            code=self.code,
            text=f"the model's claims are not what they were in training: {names} ({worst.kind} {worst.statistic:.2f} "
            f"over its limit {worst.limit:.2f})",
            value=worst.statistic, limit=worst.limit, state=TradingState.REDUCING if self._pause else None,
            lift=(f"the {worst.kind} statistic of the scores falls under {worst.limit * self._release:.2f}",),
        )  # fmt: skip

    def _stands(self, evidence: Evidence) -> bool:
        return evidence.level == "alarm" if evidence.level else evidence.statistic > evidence.limit * self._release


__plugin__ = ScoreDrift
