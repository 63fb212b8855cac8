"""Pictures of what came of it: claims, win rate against break-even, what the guard is worth. All net of fees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from regime.edge import ReliabilityBin, Z
from regime.events import SIDES, Side
from regime.outcomes import Outcome, break_even_win_rate, wilson_interval
from regime_service.drawing.shown import Worth
from regime_service.drawing.svg import LEFT, RIGHT, WIDTH, Axis, short, svg, time_axis, value_axis, value_ticks

Floats = NDArray[np.float64]

FEW, MANY = 10, 50
"""Trades behind the thin and the thick line of the win rate; with fewer than `FEW` of a side there is no picture."""
_POINTS_MAX = 300
"""Trades at which a line has a point at the most: more could not be told apart."""


def reliability(
    bins: Mapping[Side, Sequence[ReliabilityBin]], break_even: Mapping[Side, float | None]
) -> Markup | None:
    """What the model claimed against what was won, by groups of equally many trades; None without any group."""
    if not any(bins.values()):
        return None
    width, top, bottom, left, right = 420, 10.0, 330.0, 50.0, 398.0
    x, y = Axis(0, 1, left, right), Axis(0, 1, bottom, top)
    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="grid" d="M{left} {y(value)}H{right}M{x(value)} {top}V{bottom}"/>')
        at, words = float(y(value)) + 4, f"{value:.0%}"
        parts.append(f'<text class="tick" x="{left - 6}" y="{at:g}" text-anchor="end">{words}</text>')
        parts.append(f'<text class="tick" x="{x(value)}" y="{bottom + 15}" text-anchor="middle">{words}</text>')
    parts.append(f'<path class="ideal" d="M{left} {bottom}L{right} {top}"/>')
    for side in SIDES:
        needed = break_even.get(side)
        if bins.get(side) and needed is not None:
            parts.append(f'<path class="needed {side}" d="M{left} {y(needed)}H{right}"/>')
        for found in bins.get(side, ()):
            cx, cy, size = x(found.claimed), y(found.realised), 3 + min(math.sqrt(found.count), 9)
            title = f"<title>{side}: claimed {found.claimed:.0%}, won {found.realised:.0%} of {found.count}</title>"
            if side == "long":
                parts.append(f'<circle class="mark long" cx="{cx}" cy="{cy}" r="{size:.1f}">{title}</circle>')
            else:
                half = f"{size:.1f}"
                parts.append(
                    f'<path class="mark short" d="M{cx} {cy}m-{half} 0l{half} -{half}l{half} {half}l-{half} {half}z">'
                    f"{title}</path>"
                )
    parts.append(f'<text class="tick" x="{(left + right) / 2:g}" y="{bottom + 32}" text-anchor="middle">claimed</text>')
    parts.append(f'<text class="tick" x="{left + 6:g}" y="{top + 12:g}">won after fees</text>')
    return svg(bottom + 38, "Claimed against realised win probability", parts, width=width)


class Closed(Protocol):
    """A trade that is over: a `Trade` of a list, or an `Outcome` that the engine remembers."""

    @property
    def closed_ms(self) -> int: ...
    @property
    def profit_ratio(self) -> float: ...


def win_rate(trades: Mapping[Side, Sequence[Closed]], payoff: float | None = None) -> Markup | None:
    """Share of winners among the last trades of each side, with its 90 % Wilson interval, against break-even.

    Parameters
    ----------
    trades
        In any order; a side with fewer than `FEW` is left out, and without any there is no picture.
    payoff
        Mean win / mean loss where it is known; else it is estimated from the trades up to each moment.
    """
    shown = {
        side: sorted(trades[side], key=lambda trade: trade.closed_ms)
        for side in SIDES if len(trades.get(side, ())) >= FEW
    }  # fmt: skip
    if not shown:
        return None
    start_ms = min(its[0].closed_ms for its in shown.values())
    end_ms = max(its[-1].closed_ms for its in shown.values())
    x = Axis(start_ms, end_ms, LEFT, WIDTH - RIGHT)
    parts: list[str] = []
    words, top, bottom = [], 20.0, 0.0
    for side, its in shown.items():
        bottom = top + 150.0
        y = Axis(0, 1, bottom, top)
        parts += time_axis(x, start_ms, end_ms, top, bottom)
        parts += value_axis(y, (0.0, 0.25, 0.5, 0.75, 1.0), "{:.0%}".format)
        made = np.array([trade.profit_ratio for trade in its], dtype=np.float64)
        won = (made > 0).astype(np.float64)
        times = [trade.closed_ms for trade in its]
        parts += _win_rate(x, y, times, won, break_even_so_far(made) if payoff is None else _constant(payoff, len(its)))
        said = f"{side}: {len(its):,} trades, {won.mean():.0%} won"
        parts.append(f'<text class="tick blamed" x="{LEFT}" y="{top - 7:g}">{said}</text>')
        words.append(said)
        top = bottom + 46
    return svg(bottom + 24, "Win rate against break-even; " + "; ".join(words), parts)


def _win_rate(x: Axis, y: Axis, times_ms: Sequence[int], won: Floats, needed: Floats) -> list[str]:
    few, many = (_rolling(won, window) for window in (FEW, MANY))
    parts = []
    if len(many):
        since = times_ms[MANY - 1 :]
        edges = [wilson_interval(round(rate * MANY), MANY, Z) for rate in many]
        upper = _stairs(x, y, since, [high for _, high in edges])
        lower = _stairs(x, y, since[::-1], [low for low, _ in edges][::-1], back=True)
        parts.append(f'<path class="band90" d="{upper}L{lower[1:]}Z"/>')
    parts.append(f'<path class="few" d="{_stairs(x, y, times_ms[FEW - 1 :], few)}"/>')
    if len(many):
        parts.append(f'<path class="many" d="{_stairs(x, y, times_ms[MANY - 1 :], many)}"/>')
    known = np.flatnonzero(~np.isnan(needed))
    if len(known):
        parts.append(
            f'<path class="break-even" d="{_stairs(x, y, [times_ms[i] for i in known.tolist()], needed[known])}"/>'
        )
    return parts


def _stairs(x: Axis, y: Axis, times_ms: Sequence[int], values: Sequence[float] | Floats, *, back: bool = False) -> str:
    """A line that keeps each value until the next one; `back` draws it from the right to the left."""
    every = max(-(-len(times_ms) // _POINTS_MAX), 1)
    newest = 0 if back else (len(times_ms) - 1) % every
    chosen = sorted({0, *range(newest, len(times_ms), every), len(times_ms) - 1})
    points = [(x(times_ms[i]), y(float(values[i]))) for i in chosen]
    found = "M{} {}".format(*points[0])
    for to, level in points[1:]:
        found += f"V{level}H{to}" if back else f"H{to}V{level}"
    return found


def _rolling(values: Floats, window: int) -> Floats:
    if len(values) < window:
        return np.empty(0)
    total = np.concatenate(([0.0], np.cumsum(values)))
    means: Floats = (total[window:] - total[:-window]) / window
    return means


def _constant(payoff: float, count: int) -> Floats:
    return np.full(count, break_even_win_rate(payoff))


def break_even_so_far(made: Floats) -> Floats:
    """Return after each trade the break-even win rate of the trades up to it: mean loss / (mean win + mean loss).

    NaN until there is at least one trade of each kind.

    >>> break_even_so_far(np.array([0.01, -0.03, 0.02])).round(3).tolist()
    [nan, 0.75, 0.667]
    """
    gain, loss = np.maximum(made, 0.0), np.maximum(-made, 0.0)
    gains, losses = np.cumsum(made > 0), np.cumsum(made < 0)
    known = (gains > 0) & (losses > 0)
    mean_gain = np.cumsum(gain) / np.maximum(gains, 1)
    mean_loss = np.cumsum(loss) / np.maximum(losses, 1)
    needed: Floats = np.where(known, mean_loss / np.where(known, mean_gain + mean_loss, 1.0), np.nan)
    return needed


def live_worth(trades: Mapping[Side, Sequence[Outcome]]) -> Worth:
    """Return what all signals of both sides made so far, and what those made that were not refused: sums, at full size,
    of the outcomes that are remembered. A refused signal counts when its paper trade has come to its end."""
    every = sorted((outcome for its in trades.values() for outcome in its), key=lambda outcome: outcome.closed_ms)
    made = np.array([outcome.profit_ratio for outcome in every], dtype=np.float64)
    taken = np.array([not outcome.shadow for outcome in every], dtype=np.float64)
    opened = [o.closed_ms if o.opened_ms is None else o.opened_ms for o in every]
    return Worth(
        start_ms=min(opened, default=0), times_ms=[outcome.closed_ms for outcome in every],
        always=np.cumsum(made).tolist(), guarded=np.cumsum(made * taken).tolist(),
        refused_ms=[at for at, outcome in zip(opened, every, strict=True) if outcome.shadow], compounded=False,
    )  # fmt: skip


def worth(shown: Worth) -> Markup | None:
    """What all signals came to, what those came to that the guard let through, and when it refused one; None before
    two signals have come to their end.

    An account that grew or shrank more than tenfold is drawn by its logarithm.
    """
    if len(shown.times_ms) < 2:
        return None
    top, bottom = 8.0, 190.0
    every = (0.0, *shown.always, *shown.guarded)
    low, high = min(every), max(every)
    bent = shown.compounded and (1 + high) > 10 * max(1 + low, 1e-9)
    x = Axis(shown.start_ms, shown.times_ms[-1], LEFT, WIDTH - RIGHT)

    def scaled(value: float) -> float:
        return math.log10(max(1 + value, 1e-9)) if bent else value

    margin = (scaled(high) - scaled(low)) * 0.08 or 0.01
    # Room for the marks of what was refused, under the lines.
    y = Axis(scaled(low) - 2 * margin, scaled(high) + margin, bottom, top)
    parts = time_axis(x, shown.start_ms, shown.times_ms[-1], top, bottom)
    if bent:
        parts += value_axis(y, range(math.ceil(y.low), math.floor(y.high) + 1), lambda power: f"×{10**power:g}")
    else:
        ticks = value_ticks(low, high)
        words = dict(zip(ticks, _percents(ticks), strict=True))
        parts += value_axis(y, ticks, words.__getitem__)
    times = [shown.start_ms, *shown.times_ms]
    for what, values in (("always", shown.always), ("guarded", shown.guarded)):
        parts.append(f'<path class="{what}" d="{_stairs(x, y, times, [scaled(v) for v in (0.0, *values)])}"/>')
    for place in sorted({x(at_ms) for at_ms in shown.refused_ms}, key=float):
        parts.append(f'<path class="refused" d="M{place} {bottom - 8:g}V{bottom:g}"/>')
    said = f"all signals {shown.always[-1]:+.1%}, with the guard {shown.guarded[-1]:+.1%}"
    return svg(bottom + 24, f"What the guard is worth: {said}", parts)


class Gain(NamedTuple):
    """What one configuration gained a trade, with its 90 % interval; 0.01 is 1 % of the account, NaN is not known."""

    name: str
    gain: float
    low: float
    high: float


def gains(rows: Sequence[Gain]) -> Markup:
    """What each configuration gained a trade, in the order given, beside trading them all."""
    left, right, height, top = 400, WIDTH - RIGHT, 22, 8
    bottom = top + height * len(rows)
    finite = [v for row in rows for v in row[1:] if math.isfinite(v)]
    low, high = min(0.0, *finite), max(0.0, *finite)
    x = Axis(low, high if high > low else low + 0.01, left, right)
    parts = []
    ticks = value_ticks(x.low, x.high)
    for value, words in zip(ticks, _percents(ticks), strict=True):
        parts.append(f'<path class="grid" d="M{x(value)} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(value)}" y="{bottom + 17}" text-anchor="middle">{words}</text>')
    parts.append(f'<path class="ideal" d="M{x(0)} {top}V{bottom}"/>')
    for i, row in enumerate(rows):
        y = top + height * i + height // 2
        parts.append(
            f'<text class="tick" x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(short(row.name, 52))}'
            f"<title>{escape(row.name)}</title></text>"
        )
        if math.isfinite(row.low):
            parts.append(f'<path class="measured" d="M{x(row.low)} {y}H{x(row.high)}"/>')
        if math.isfinite(row.gain):
            parts.append(f'<circle class="mark long" cx="{x(row.gain)}" cy="{y}" r="5"/>')
    best = f"; best: {rows[0].name}" if rows else ""
    return svg(bottom + 24, f"Gain a trade of each configuration with its 90 % interval{best}", parts)


def _percents(ticks: Sequence[float]) -> list[str]:
    """Ticks as signed percentages, with as many digits as tell them apart."""
    digits = 2 if len(ticks) < 2 else min(max(-math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9) - 2, 0), 4)
    return [f"{value:+.{digits}%}" if value else "0%" for value in ticks]


__all__ = [
    "FEW", "MANY", "Closed", "Gain", "break_even_so_far", "gains", "live_worth", "reliability", "win_rate", "worth",
]  # fmt: skip
