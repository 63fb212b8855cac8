"""The pictures of a replay: those of the page at `/`, drawn by the same functions from what was read and played.

What the page reads from a store is taken from the files here. One picture is the report's own: what each detector
measured over time, against its limit. The page shows that of this moment, in words; a report is read for *when*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from regime.edge import Edge
from regime.events import SIDES, Candle, Observation, Side, Trade
from regime.guard_value import Curves, Verdict
from regime.reference import Reference
from regime.timeframe import timeframe_ms
from regime_service.drawing import market, trades
from regime_service.drawing.distance import COLUMN_ROWS, drift, law_of, longest_every
from regime_service.drawing.shown import Blamed, Drift, History, Worth, sampled, spans
from regime_service.logs.findings import count, utc
from regime_service.report.story import DriftTrack, Story
from regime_service.report.words import signed

COLUMNS_MAX = 160
"""Columns of the heat map at the most: more could not be told apart."""
POINTS_MAX = 2000
"""Prices of trades in the picture of the price, at the most."""


class Picture(NamedTuple):
    """A picture and the sentence that says what it shows in this replay; or, without `svg`, why there is none."""

    name: str
    title: str
    sentence: str
    svg: Markup | None


# --- what was read and played, as the pictures want it --------------------------------------------------------------


def history(
    story: Story,
    observations: Sequence[Observation],
    candles: Sequence[Candle],
    listed: Sequence[Trade],
    reference: Reference | None,
) -> tuple[History, str]:
    """Return what the pictures show over time, as the page would read it from a store that holds the same events, and
    what the prices are."""
    step_ms = timeframe_ms(story.key.timeframe)
    seen = {o.ts_ms: o for o in observations}
    closes = {c.ts_ms: c.close for c in candles if story.start_ms <= c.ts_ms + step_ms <= story.end_ms}
    closes |= {at: o.candle.close for at, o in seen.items() if o.candle is not None}
    opened = [*seen, *closes]
    first_ms, last_ms = min(opened, default=story.end_ms), max(opened, default=story.end_ms)
    every, grid = sampled(last_ms + step_ms, (last_ms - first_ms) // step_ms + 1, step_ms)
    # A trade that was open before the first candle is in the picture as well.
    start_ms = min([grid[0], *(trade.opened_ms for trade in listed if trade.opened_ms < first_ms)])
    until_ms = max(last_ms + step_ms, story.end_ms) if opened else story.end_ms
    drifted, why = _drift(reference, seen, step_ms, every)
    times_ms, prices = [at + step_ms for at in grid], [closes.get(at) for at in grid]
    source = f"close of {story.key.symbol}"
    if not closes:
        (times_ms, prices), source = _prices_of(listed), "entries and exits of trades"
    told = spans(story.decisions, start_ms, until_ms)
    return History(start_ms, until_ms, times_ms, prices, told, drifted, why), source


def _prices_of(listed: Sequence[Trade]) -> tuple[list[int], list[float | None]]:
    """Entries and exits: without any candle they are all that is known of the price."""
    known = sorted(
        [(t.opened_ms, t.entry_price) for t in listed] + [(t.closed_ms, t.exit_price) for t in listed]
    )  # fmt: skip
    shown = known[:: -(-len(known) // POINTS_MAX) or 1]
    return [at for at, _ in shown], [price for _, price in shown]


def _drift(
    reference: Reference | None, seen: Mapping[int, Observation], step_ms: int, every: int
) -> tuple[Drift | None, str]:
    if not seen:
        return None, "no observations were given"
    if reference is None:
        return None, "no reference was given (--reference)"
    first_ms, last_ms = min(seen), max(seen)
    wanted = max(every, -(-((last_ms - first_ms) // step_ms + 1) // (COLUMN_ROWS * COLUMNS_MAX)))
    # A reference that is too short for windows as long as the page would take gets shorter ones, and more of them.
    bears = longest_every(reference.rows, wanted)
    opened = range(last_ms, first_ms - 1, -step_ms * (bears or wanted))[::-1]
    if len(opened) < COLUMN_ROWS:
        return None, f"{count(len(seen), 'observation')} are too few"
    if bears is None or len(opened) >= COLUMN_ROWS * (COLUMNS_MAX + 1) or (law := law_of(reference, bears)) is None:
        return None, f"a reference of {reference.rows:,} rows is too short for a picture of so long a time"
    return drift(law, opened, {at: o.features for at, o in seen.items()}, step_ms * bears), ""


def _worth(curve: Curves, judged: Sequence[Verdict]) -> Worth:
    return Worth(
        start_ms=min((v.trade.opened_ms for v in judged), default=0), times_ms=curve.closed_ms,
        always=[value - 1 for value in curve.without], guarded=[value - 1 for value in curve.guarded],
        refused_ms=[v.trade.opened_ms for v in judged if v.refused], compounded=True,
    )  # fmt: skip


# --- the pictures, in the order of the page -------------------------------------------------------------------------


def of_market(shown: History, source: str) -> list[Picture]:
    """Return price, states and thresholds."""
    drawn = market.price(shown, source=source)
    stood = {(span.entry, span.exit) for side in SIDES for span in shown.spans[side]}
    steps = market.thresholds(shown)
    at_base = "".join(f": {entry:.2f} to enter, {leave:.2f} to leave" for entry, leave in sorted(stood)[:1])
    return [
        Picture(
            "price", "Price",
            "No price: fewer than two candles are known. Give --candles, or a log that holds them." if drawn is None
            else f"{source[0].upper() + source[1:]}; shaded where a side was paused.",
            drawn,
        ),
        Picture("states", "States", "What each side was told.", market.states(shown)),
        Picture(
            "thresholds", "Thresholds",
            f"The thresholds did not move{at_base}." if steps is None
            else "A higher threshold asks for a stronger signal.",
            steps,
        ),
    ]  # fmt: skip


def of_detector(kind: str, track: DriftTrack | None, *, why_not: str, period_ms: tuple[int, int]) -> Picture:
    """Return what one detector measured over time."""
    name, title = f"detector-{kind}", f"All features together ({kind})"
    if track is None:
        return Picture(name, title, f"No picture of {kind}: {why_not}.", None)
    drawn = market.statistic(track.ts_ms, track.statistic, track.limit, period_ms)
    if not np.isfinite(track.limit).any():
        sentence = f"{kind} cannot judge: the reference is too short to justify a limit."
    elif track.first_over_ms is None:
        sentence = f"{kind} never rang, in {len(track.ts_ms):,} observations that could be judged."
    else:
        sentence = (
            f"{kind} rang first at {utc(track.first_over_ms)} UTC, and at {track.over:,} of {len(track.ts_ms):,} "
            "observations that could be judged: the features as a whole had left the training distribution."
        )
        if (change := track.change) is not None:
            sentence += (
                f" The last change it saw began about {utc(change.start_ms)} UTC (between {utc(change.start_low_ms)} "
                f"and {utc(change.start_high_ms)})."
            )
    return Picture(name, title, sentence, drawn)


def of_features(shown: History, changes: Blamed) -> Picture:
    """Return the heat map."""
    name, title = "drift", "Drift by feature"
    found = shown.drift
    if found is None or not found.names:
        why = shown.why_no_drift or "no feature has enough values"
        return Picture(name, title, f"No picture of drift by feature: {why}.", None)
    return Picture(name, title, f"“Now” is the end of the log, {utc(shown.end_ms)} UTC.", market.heat(found, changes))


def of_claims(edges: Mapping[Side, Edge]) -> Picture:
    """Return claimed against realised win probability."""
    name, title = "claims", "Claimed and realised win probability"
    drawn = trades.reliability({s: e.bins for s, e in edges.items()}, {s: e.break_even for s, e in edges.items()})
    if drawn is None:
        least = max(e.trades_min for e in edges.values())
        why = f"it needs {least} trades of a side with the probability at which they were entered"
        return Picture(name, title, f"No picture of the claims: {why}.", None)
    return Picture(
        name, title, "Of the newest trades that say at which probability they were entered, at most 500 a side.", drawn
    )


def of_results(listed: Sequence[Trade], payoff: float | None) -> Picture:
    """Return the win rate against break-even."""
    name, title = "win-rate", "Win rate against break-even"
    sides = {side: [trade for trade in listed if trade.side == side] for side in SIDES}
    drawn = trades.win_rate(sides, payoff)
    have = " and ".join(f"{len(its):,} {side}" for side, its in sides.items())
    if drawn is None:
        why = f"it needs {trades.FEW} closed trades of a side ({have})"
        return Picture(name, title, f"No picture of the win rate: {why}.", None)
    return Picture(name, title, f"All trades of the list: {have}.", drawn)


def of_guard(curve: Curves, judged: Sequence[Verdict]) -> Picture:
    """Return the account with and without the guard."""
    name, title = "guard-value", "What the guard was worth"
    drawn = trades.worth(_worth(curve, judged))
    if drawn is None:
        why = "it needs at least two closed trades"
        return Picture(name, title, f"No picture of what the guard was worth: {why}.", None)
    return Picture(
        name, title,
        f"Every trade taken ends at {signed(curve.without[-1] - 1)}, with the guard at "
        f"{signed(curve.guarded[-1] - 1)}, profits compounded; refused trades were followed on "
        "paper, as if the bot had shadowed them.",
        drawn,
    )  # fmt: skip


__all__ = [
    "Picture", "history", "of_claims", "of_detector", "of_features", "of_guard", "of_market", "of_results",
]  # fmt: skip
