"""How a pause by a rule ends: on outcomes that came after it began, and where none can come, by trying a little.

A refused signal leaves an outcome when candles resolve it on paper (`regime.shadow`) or the bot reports it itself; then
the mirrored e-detector (`regime.e_detector.resume_evidence`) decides, and nothing else does. Where neither is to be
had, a pause would last for ever. So after `wait_candles` without any outcome the side may try `quota` trades at
`size` of its size. While these do not speak against it, it goes on trying until the evidence is there; when they do,
it is paused again and waits twice as long as before, four times at the most. Time alone ends nothing: it only buys a
small, bounded experiment.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.decision import TradingState
from regime.e_detector import resume_evidence
from regime.outcomes import Outcomes
from regime.votes import View, Vote

Bools = NDArray[np.bool_]

_DOUBLINGS_MAX = 2


class Exploration(msgspec.Struct, frozen=True, kw_only=True):
    """When to try, how often, how much: see the module."""

    wait_candles: int
    quota: int
    size: float


def since_pause(view: View) -> Outcomes:
    """Return the outcomes that closed after the standing vote was given, oldest first."""
    since_ms = view.now_ms if view.standing_since_ms is None else view.standing_since_ms
    outcomes = Outcomes.of(view.outcomes)
    return outcomes.where(outcomes.closed_ms > since_ms)


def earns_again(won: Bools, break_even: float, *, false_resume_share: float = 0.1) -> bool:
    """Whether the outcomes since the pause began (`bool[outcomes]`, those that made money) are evidence that the side
    earns its fees.

    `false_resume_share` is the share of pauses that may end so though the side does not earn, averaged over bad win
    rates; the closer to break-even, the more (`resume_evidence`).
    """
    return bool(won.size) and resume_evidence(won, break_even, false_resume_share=false_resume_share).resume


def still_paused(view: View, standing: Vote, break_even: float, how: Exploration) -> Vote:
    """Return the vote of a pause that has not ended: as it stood, or trying (`Vote.exploring_ms`) where it must."""
    since_ms = view.now_ms if view.standing_since_ms is None else view.standing_since_ms
    since = since_pause(view)
    if view.followed:
        # Outcomes come whether it trades or not: it waits for them. (A try that is under way ends with it.)
        return _paused(standing, None)
    if standing.exploring_ms is not None:
        tried = since.won[since.closed_ms > standing.exploring_ms]
        if len(tried) < how.quota or not _against(tried, break_even):
            return standing
    newest_ms = since[-1].closed_ms if since else since_ms
    doublings = min(len(since) // how.quota, _DOUBLINGS_MAX)
    explore_ms = max(newest_ms, since_ms) + how.wait_candles * 2**doublings * view.timeframe_ms
    if view.now_ms < explore_ms:
        return _paused(standing, explore_ms)
    return msgspec.structs.replace(
        standing, state=None, size_factor=how.size, exploring_ms=view.now_ms, earliest_ms=None, recheck_ms=None
    )


def _paused(standing: Vote, recheck_ms: int | None) -> Vote:
    return msgspec.structs.replace(
        standing, state=TradingState.REDUCING, size_factor=None, exploring_ms=None, earliest_ms=None,
        recheck_ms=recheck_ms,
    )  # fmt: skip


def _against(won: Bools, break_even: float) -> bool:
    """Whether the posterior mean (Jeffreys) of the win rate is under break-even."""
    return (int(won.sum()) + 0.5) / (len(won) + 1.0) < break_even
