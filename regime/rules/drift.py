"""Rule `drift`: the features have left the distribution the model was trained on."""

from __future__ import annotations

import math

from regime.decision import TradingState
from regime.rules import View, Vote, flag, ratio


class Drift:
    """Raise the entry threshold while a detector's family statistic is over its limit.

    Drift alone says that the market is another one, not that the bot loses in it: features cannot foresee a loss of
    edge. So the default makes the bot choosier; `pause` stops it.

    Parameters
    ----------
    detectors
        Kinds that count, separated by commas.
    entry_step
        What is added to the model's base entry threshold.
    entry_max
        The entry threshold is never raised above this.
    release
        The vote ends when the statistic is under `release` times the limit (hysteresis).
    pause
        Whether to pause as well.
    """

    code = "drift"

    def __init__(
        self,
        *,
        detectors: str = "ks",
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
        if view.standing is not None:
            # The sentence stays as it was when the drift was found; the current figures are in the explanation.
            return view.standing if any(e.statistic > e.limit * self._release for e in heard) else None
        rung = [e for e in heard if e.drift]
        if not rung:
            return None
        worst = max(rung, key=lambda e: e.statistic / e.limit if e.limit > 0 else math.inf)
        names = ", ".join(name for name, _ in worst.top[:3]) or "no single one"
        entry = max(view.model.entry, min(view.model.entry + self._entry_step, self._entry_max))
        return Vote(
            code=self.code,
            text=f"features left the training distribution ({worst.kind} {worst.statistic:.2f} over its limit "
            f"{worst.limit:.2f}); most of all {names}",
            value=worst.statistic, limit=worst.limit, entry=round(entry, 10),
            state=TradingState.REDUCING if self._pause else None,
            lift=(f"the {worst.kind} statistic falls under {worst.limit * self._release:.2f}",),
        )  # fmt: skip


__plugin__ = Drift
