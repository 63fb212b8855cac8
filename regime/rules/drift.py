"""Rule `drift`: the features have left the distribution the model was trained on."""

from __future__ import annotations

import math

from regime.decision import TradingState
from regime.rules import Evidence, View, Vote, flag, ratio


class Drift:
    """Raise the entry threshold while a detector's family statistic is over its limit.

    Drift alone says that the market is another one, not that the bot loses in it: features cannot foresee a loss of
    edge. So the default makes the bot choosier; `pause` stops it. It rings as often as the detectors it listens to;
    their docstrings say how often that was (`calibrated`: 0.8 - 1.2 times the run length asked, on average).

    Parameters
    ----------
    detectors
        Kinds that count, separated by commas.
    entry_step
        What is added to the model's base entry threshold.
    entry_max
        The entry threshold is never raised above this.
    release
        The vote ends when the statistic is under `release` times the limit (hysteresis). A detector with levels of its
        own (`calibrated`) has its own recovery limit instead, and a warning level: a reason without consequence.
    pause
        Whether to pause as well.
    """

    code = "drift"

    def __init__(
        self,
        *,
        detectors: str = "calibrated,ks",
        entry_step: float = 0.05,
        entry_max: float = 0.95,
        release: float = 0.8,
        pause: bool = False,
    ) -> None:
        if not isinstance(detectors, str) or not detectors.strip():
            raise ValueError(f"detectors must be kinds separated by commas, got {detectors!r}")
        self._kinds = {kind.strip() for kind in detectors.split(",")}
        ratio("entry_step", entry_step)
        ratio("entry_max", entry_max)
        ratio("release", release)
        flag("pause", pause)
        self._entry_step, self._entry_max, self._release, self._pause = entry_step, entry_max, release, pause

    def judge(self, view: View) -> Vote | None:
        heard = [e for e in view.evidence if e.channel == "features" and e.kind in self._kinds and e.warm]
        rung = [e for e in heard if e.drift]
        if view.standing is not None:
            # The sentence stays as it was when the drift was found; the current figures are in the explanation.
            warned = view.standing.entry is None
            if not (warned and rung):
                return view.standing if any(self._stands(e, warned=warned) for e in heard) else None
        if not rung:
            return self._warning(heard)
        worst = max(rung, key=lambda e: e.statistic / e.limit if e.limit > 0 else math.inf)
        where = worst.note or "most of all " + (", ".join(name for name, _ in worst.top[:3]) or "no single one")
        entry = max(view.model.entry, min(view.model.entry + self._entry_step, self._entry_max))
        return Vote(
            code=self.code,
            text=f"features left the training distribution ({worst.kind} {worst.statistic:.2f} over its limit "
            f"{worst.limit:.2f}): {where}",
            value=worst.statistic, limit=worst.limit, entry=round(entry, 10),
            state=TradingState.REDUCING if self._pause else None,
            lift=(f"the {worst.kind} statistic falls back to what is usual",),
        )  # fmt: skip

    def _stands(self, evidence: Evidence, *, warned: bool) -> bool:
        if evidence.level:  # A detector with levels of its own says when it is over.
            return evidence.level == "alarm" or (warned and evidence.level == "warning")
        return not warned and evidence.statistic > evidence.limit * self._release

    def _warning(self, heard: list[Evidence]) -> Vote | None:
        """A reason and nothing else: the statistic is high, but not rare enough to act on."""
        warned = [e for e in heard if e.level == "warning"]
        if not warned:
            return None
        return Vote(
            code=self.code,
            text=f"features begin to leave the training distribution ({warned[0].kind} {warned[0].statistic:.2f}; "
            f"it acts at {warned[0].limit:.2f})",
            value=warned[0].statistic, limit=warned[0].limit,
            lift=(f"the {warned[0].kind} statistic falls back to what is usual",),
        )  # fmt: skip


__plugin__ = Drift
