"""What the pictures show, as plain values: whoever reads a store or a file puts it into these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from regime.decision import Decision, SideDecision, TradingState
from regime.events import SIDES, Side

ROWS_MAX = 504
"""Candles in a picture of a month, or less, at the most; of a longer time every 18th is shown, as of a month."""
_MONTH = 8640


class Span(NamedTuple):
    """One side was told the same from `since_ms` to `until_ms`."""

    since_ms: int
    until_ms: int
    state: str
    """`ACTIVE`, `probation` (ACTIVE at less than full size), `REDUCING`, `HALTED`."""
    entry: float
    exit: float


class Drift(NamedTuple):
    """Distance of each feature over time, in units of what is rare in the training period; NaN is not known."""

    names: tuple[str, ...]
    """Those shown: the furthest of the newest columns first."""
    edges_ms: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    """By feature, then by column; one column fewer than edges."""
    features: int
    """How many there are in all."""


class History(NamedTuple):
    """What the pictures of one stream show over time."""

    start_ms: int
    end_ms: int
    times_ms: list[int]
    """Close times of the candles read, rising."""
    closes: list[float | None]
    """None where there is no candle."""
    spans: Mapping[Side, list[Span]]
    drift: Drift | None
    why_no_drift: str


class Blamed(NamedTuple):
    """What the detectors that are not calm say changed."""

    starts: Mapping[str, int]
    """Feature -> estimated start of its change."""
    change_ms: tuple[int, int, int] | None
    """Estimated start of the change, and the interval it lies in."""


class Worth(NamedTuple):
    """What all signals came to, and those that the guard let through, after each of them; 0.1 is 10 %."""

    start_ms: int
    times_ms: Sequence[int]
    always: Sequence[float]
    guarded: Sequence[float]
    refused_ms: Sequence[int]
    """When a signal was refused."""
    compounded: bool
    """True for an account that grows by its profits, False for the plain sum of profits at full size."""


def label(told: SideDecision) -> str:
    """Return the state in one word of the style sheet; ACTIVE at less than full size is `probation`."""
    return "probation" if told.state is TradingState.ACTIVE and told.size_factor < 1.0 else str(told.state)


def sampled(end_ms: int, candles: int, step_ms: int) -> tuple[int, list[int]]:
    """Return every how many candles one is shown, and when those opened; the newest closed at `end_ms`.

    >>> sampled(4 * 300_000, 3, 300_000)
    (1, [300000, 600000, 900000])
    """
    every = -(-min(candles, _MONTH) // ROWS_MAX)
    return every, [end_ms - step_ms * (1 + every * i) for i in range(-(-candles // every))][::-1]


def spans(trail: Sequence[Decision], start_ms: int, end_ms: int) -> dict[Side, list[Span]]:
    """Return what each side was told between two moments; in shadow mode what it would have been told.

    `trail` holds the decisions that changed something, oldest first. Neighbours that look the same are joined.
    """
    found: dict[Side, list[Span]] = {side: [] for side in SIDES}
    for i, decision in enumerate(trail):
        since_ms = max(decision.as_of_ms, start_ms)
        until_ms = min(trail[i + 1].as_of_ms, end_ms) if i + 1 < len(trail) else end_ms
        # What was said this moment has no length yet, and is what somebody looks for.
        if until_ms < since_ms or (until_ms == since_ms and i + 1 < len(trail)):
            continue
        for side in SIDES:
            told, its = (decision.computed or decision.sides).of(side), found[side]
            span = Span(since_ms, until_ms, label(told), told.entry, told.exit)
            if its and its[-1][2:] == span[2:] and its[-1].until_ms == since_ms:
                its[-1] = its[-1]._replace(until_ms=until_ms)
            else:
                its.append(span)
    return found


def blamed(detectors: Iterable[tuple[str, Mapping[str, Any] | None]]) -> Blamed:
    """Return the features that detectors blame, and the start of the first change there is.

    `detectors` are their names, each with what it says changed (`regime.watch.Change` as a mapping), None while calm.
    """
    starts: dict[str, int] = {}
    first = None
    for name, change in detectors:
        # What the model's own probabilities did is no feature of the market.
        if change is None or name.startswith("scores."):
            continue
        for feature in change["features"]:
            for one in (feature["name"], *feature.get("like", ())):
                starts.setdefault(one, change["start_ms"])
        first = first or (change["start_ms"], change["start_low_ms"], change["start_high_ms"])
    return Blamed(starts, first)


__all__ = ["ROWS_MAX", "Blamed", "Drift", "History", "Span", "Worth", "blamed", "label", "sampled", "spans"]
