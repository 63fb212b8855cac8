"""The gate of a side: what its outcomes say against "it still earns its fees", as the rules see them.

Only outcomes that the entry threshold in force would have let through count: where the score ranks, what lies under
the threshold was refused already, and must not pause what is above it. Outcomes from before the last pause was lifted
have had their say. An outcome without a score always counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from regime.e_detector import PauseEvidence, pause_evidence
from regime.outcomes import Outcome
from regime.votes import View

CODE = "break-even"
"""The rule whose pauses are the gate's."""
ALLOWANCE = 1.5
"""The evidence is asked for this many times the trades of a false pause that are allowed: a threshold that moves looks
at the same outcomes in more than one way, and `edge` pauses on less than full evidence. What comes of both together is
in docs/measurements/outcomes.md."""


def passing(view: View, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return those that the entry threshold in force lets through."""
    entry = view.entry_in_force
    return [o for o in outcomes if o.entry_probability is None or o.entry_probability >= entry]


def judged(view: View) -> list[Outcome]:
    """Return the outcomes that count for the gate now, oldest first."""
    lifted_ms = view.lifts.get(CODE)
    return passing(view, (o for o in view.outcomes if lifted_ms is None or o.closed_ms > lifted_ms))


def gate(view: View, *, false_pause_trades: float) -> PauseEvidence:
    """Return the evidence against the side; `start` counts in `judged(view)`."""
    won = np.array([o.profit_ratio > 0 for o in judged(view)], dtype=np.bool_)
    return pause_evidence(won, view.break_even, false_pause_trades=ALLOWANCE * false_pause_trades)
