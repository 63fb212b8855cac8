"""The gate of a side: what its outcomes say against "it still earns its fees", as the rules see them.

Only outcomes that the entry threshold in force would have let through count: where the score ranks, what lies under
the threshold was refused already, and must not pause what is above it. Outcomes from before the last pause was lifted
have had their say. An outcome without a score always counts.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.e_detector import PauseEvidence, pause_evidence, resume_evidence
from regime.outcomes import Outcomes
from regime.votes import View

Bools = NDArray[np.bool_]

CODE = "break-even"
"""The rule whose pauses are the gate's."""
ALLOWANCE = 1.5
"""The evidence is asked for this many times the trades of a false pause that are allowed: a threshold that moves looks
at the same outcomes in more than one way, and `edge` pauses on less than full evidence. What comes of both together is
in docs/measurements/outcomes.md."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the evidence is, for people. `share` is that of its limit (0..1) on the logarithmic scale it grows on."""

    paused: bool
    """Whether a pause of the gate stands: then the evidence is that for its end."""
    trades: int
    """Outcomes that count."""
    share: float
    sentence: str


def passes(view: View, outcomes: Outcomes) -> Bools:
    """Return `bool[outcomes]`: those that the entry threshold in force lets through."""
    return np.isnan(outcomes.scores) | (outcomes.scores >= view.entry_in_force)


def counts(view: View) -> Bools:
    """Return `bool[outcomes]`: those of the view's outcomes that count for the gate now."""
    outcomes, lifted_ms = Outcomes.of(view.outcomes), view.lifts.get(CODE)
    passing = passes(view, outcomes)
    return passing if lifted_ms is None else passing & (outcomes.closed_ms > lifted_ms)


def judged(view: View) -> Outcomes:
    """Return the outcomes that count for the gate now, oldest first."""
    return Outcomes.of(view.outcomes).where(counts(view))


def gate(view: View, *, false_pause_trades: float) -> PauseEvidence:
    """Return the evidence against the side; `start` counts in `judged(view)`."""
    won = Outcomes.of(view.outcomes).won[counts(view)]
    return pause_evidence(won, view.break_even, false_pause_trades=ALLOWANCE * false_pause_trades)


def progress(view: View, *, paused_ms: int | None, false_pause_trades: float) -> Progress:
    """Return how far the evidence is: against the side, or for the end of a pause that stands since `paused_ms`."""
    if paused_ms is None:
        against = gate(view, false_pause_trades=false_pause_trades)
        counted, share = int(counts(view).sum()), _share(against.log_e, against.limit)
        what = "the evidence for a pause"
    else:
        outcomes = Outcomes.of(view.outcomes)
        since = outcomes.won[passes(view, outcomes) & (outcomes.closed_ms > paused_ms)]
        found = resume_evidence(since, view.break_even)
        counted, share, what = len(since), _share(found.log_e, found.limit), "the evidence that ends the pause"
    trades = f"{counted} trade" + ("" if counted == 1 else "s")
    since_when = "" if paused_ms is None else " since it began"
    return Progress(
        paused=paused_ms is not None, trades=counted, share=share,
        sentence=f"{what} stands at {share:.0%} of its limit, from {trades}{since_when}",
    )  # fmt: skip


def _share(log_e: float, limit: float) -> float:
    share = log_e / limit
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
