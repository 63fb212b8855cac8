"""Pictures over time: price and states, thresholds, drift by feature, a detector against its limit.

Colours come from `look.css`, by class, so that they follow light and dark; states differ by pattern as well as by
colour, sides by the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from regime.events import SIDES
from regime_service.drawing.shown import Blamed, Drift, History, Span
from regime_service.drawing.svg import (
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    moment,
    seen,
    short,
    svg,
    time_axis,
    value_axis,
    value_ticks,
)

LEVELS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Where the heat map's shades begin; from 1 on a feature is further away than the training period hardly ever was."""
_STEPS_MAX = 400
"""Places at which a line of many values is drawn; what stood out most between two of them is what is drawn."""


def price(history: History, *, source: str) -> Markup | None:
    """Price as a line, shaded where a side was paused; None where no candle is known."""
    known = [(at, close) for at, close in zip(history.times_ms, history.closes, strict=True) if close is not None]
    if len(known) < 2:
        return None
    top, bottom = 8.0, 230.0
    low, high = min(close for _, close in known), max(close for _, close in known)
    margin = (high - low) * 0.06 or abs(high) * 0.01
    x = Axis(history.start_ms, history.end_ms, LEFT, WIDTH - RIGHT)
    y = Axis(low - margin, high + margin, bottom, top)
    parts = []
    for side in SIDES:
        for span in history.spans[side]:
            if span.state in ("REDUCING", "HALTED"):
                at, to = x(span.since_ms), x(span.until_ms)
                wide, at = seen(at, to)
                parts.append(
                    f'<rect class="veil {span.state}" x="{at}" y="{top:g}" width="{wide:g}" height="{bottom - top:g}"/>'
                )
    parts += time_axis(x, history.start_ms, history.end_ms, top, bottom)
    parts += value_axis(y, value_ticks(low, high))
    line, pen = [], "M"
    for at_ms, close in zip(history.times_ms, history.closes, strict=True):
        if close is None:
            pen = "M"
            continue
        line.append(f"{pen}{x(at_ms)} {y(close)}")
        pen = "L"
    parts.append(f'<path class="line" d="{"".join(line)}"/>')
    return svg(bottom + 24, f"Price ({source}), shaded where a side was paused", parts)


def states(history: History) -> Markup:
    """A band for each side: what it was told over time."""
    x = Axis(history.start_ms, history.end_ms, LEFT, WIDTH - RIGHT)
    parts, words = [_PATTERNS], []
    for row, side in enumerate(SIDES):
        top = 4 + row * 30
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{top + 17}" text-anchor="end">{side}</text>')
        paused_ms = 0
        for span in history.spans[side]:
            at, to = x(span.since_ms), x(span.until_ms)
            wide, at = seen(at, to)
            parts.append(
                f'<rect class="band {span.state}" x="{at}" y="{top}" width="{wide:g}" height="24">'
                f"<title>{side}: {_told(span)}</title></rect>"
            )
            paused_ms += (span.until_ms - span.since_ms) * (span.state in ("REDUCING", "HALTED"))
        whole = max(history.end_ms - history.start_ms, 1)
        words.append(f"{side} paused {paused_ms / whole:.0%} of the time".replace("%", " %"))
    parts += time_axis(x, history.start_ms, history.end_ms, 4, 60)
    return svg(84, "States: " + ", ".join(words), parts)


_PATTERNS = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="back" width="7" height="7"/><path class="stroke" d="M0 0V7"/></pattern>'
    '<pattern id="cross" width="8" height="8" patternUnits="userSpaceOnUse"><rect class="back" width="8" height="8"/>'
    '<path class="stroke" d="M0 0L8 8M8 0L0 8"/></pattern>'
    '<pattern id="dots" width="6" height="6" patternUnits="userSpaceOnUse"><rect class="back" width="6" height="6"/>'
    '<circle class="dot" cx="3" cy="3" r="1.2"/></pattern></defs>'
)


def _told(span: Span) -> str:
    what = {"probation": "ACTIVE, smaller", "REDUCING": "paused"}.get(span.state, span.state)
    return f"{what}, {moment(span.since_ms)} to {moment(span.until_ms)}, entry {span.entry:.2f}, exit {span.exit:.2f}"


def thresholds(history: History) -> Markup | None:
    """Entry and exit threshold of both sides as steps; None where none ever moved."""
    spans = [span for side in SIDES for span in history.spans[side]]
    if len({(span.entry, span.exit) for span in spans}) < 2:
        return None
    top, bottom = 8.0, 150.0
    every = [value for span in spans for value in (span.entry, span.exit)]
    margin = max((max(every) - min(every)) * 0.12, 0.01)
    x = Axis(history.start_ms, history.end_ms, LEFT, WIDTH - RIGHT)
    y = Axis(max(min(every) - margin, 0.0), min(max(every) + margin, 1.0), bottom, top)
    parts = time_axis(x, history.start_ms, history.end_ms, top, bottom)
    parts += value_axis(y, value_ticks(y.low, y.high), "{:.2f}".format)
    for what in ("entry", "exit"):
        for side in SIDES:
            parts.append(f'<path class="step {what} {side}" d="{_steps(history.spans[side], what, x, y)}"/>')
    return svg(bottom + 24, "Entry and exit thresholds over time", parts)


def _steps(spans: Sequence[Span], what: str, x: Axis, y: Axis) -> str:
    found, until_ms = "", None
    for span in spans:
        at, level = x(span.since_ms), y(getattr(span, what))
        found += f"M{at} {level}" if until_ms != span.since_ms else f"H{at}V{level}"
        found += f"H{x(span.until_ms)}"
        until_ms = span.until_ms
    return found


def heat(drift: Drift, blamed: Blamed) -> Markup:
    """The features over time, the furthest first; those that a detector blames are marked, and so is the estimated
    start of the change with the interval it lies in.

    Names stand beside the newest column: a screen too narrow for all of it shows these two first.
    """
    change_ms = blamed.change_ms
    names = [short(name) for name in drift.names]
    left, right, height, top = 10, WIDTH - 60 - round(7.6 * max(len(name) + 2 for name in names)), 17, 20
    bottom = top + height * len(drift.names)
    x = Axis(drift.edges_ms[0], drift.edges_ms[-1], left, right)
    parts = [f'<text class="tick" x="{right + 36}" y="13" text-anchor="end">now</text>']
    for row, name in enumerate(drift.names):
        y, values = top + row * height, drift.values[row]
        how = ' class="tick blamed"' if name in blamed.starts else ' class="tick"'
        mark = "● " if name in blamed.starts else ""
        parts.append(
            f'<text{how} x="{right + 44}" y="{y + 13}">{mark}{escape(names[row])}<title>{escape(name)}</title></text>'
        )
        begun = 0
        for i in range(1, len(values) + 1):
            # Neighbours of one shade are one rectangle.
            if i < len(values) and _level(values[i]) == _level(values[begun]):
                continue
            at, to = x(drift.edges_ms[begun]), x(drift.edges_ms[i])
            wide = float(to) - float(at)
            parts.append(
                f'<rect class="h{_level(values[begun])}" x="{at}" y="{y}" width="{wide:g}" height="{height - 1}"/>'
            )
            begun = i
        newest = next((v for v in reversed(values) if not math.isnan(v)), None)
        if newest is not None:
            how = "tick blamed" if newest >= 1 else "tick"
            parts.append(f'<text class="{how}" x="{right + 36}" y="{y + 13}" text-anchor="end">{newest:.1f}</text>')
    if change_ms is not None and change_ms[0] > drift.edges_ms[0]:
        low, high, at = x(change_ms[1]), x(change_ms[2]), x(change_ms[0])
        # Above the cells: over them it would be taken for their colour.
        parts.append(f'<path class="start" d="M{low} {top - 3}H{high}"/>'
                     f'<path class="startline" d="M{at} {top - 6}V{bottom}"/>')  # fmt: skip
        anchor = "end" if float(at) > right / 2 else "start"
        parts.append(f'<text class="tick blamed" x="{at}" y="11" text-anchor="{anchor}">change began about here</text>')
    parts += time_axis(x, drift.edges_ms[0], drift.edges_ms[-1], bottom, bottom)
    worst = ", ".join(drift.names[:3])
    return svg(bottom + 24, f"Distance of features from the training period over time; furthest now: {worst}", parts)


def _level(value: float) -> int:
    """The shade: 0 is not known, 1 is near, 7 is far."""
    return 0 if math.isnan(value) else 1 + sum(value >= level for level in LEVELS)


def statistic(
    times_ms: Sequence[int], values: Sequence[float], limits: Sequence[float], period_ms: tuple[int, int]
) -> Markup:
    """What a detector measured over all features together, against its limit; NaN is not known.

    Of many values the one furthest over its limit (without a limit, the largest) is drawn for each stretch, so that no
    alarm is lost.
    """
    top, bottom = 8.0, 130.0
    start_ms, end_ms = period_ms
    per_ms = max(-(-(end_ms - start_ms + 1) // _STEPS_MAX), 1)
    worst: dict[int, tuple[int, float, float]] = {}
    for at_ms, value, limit in zip(times_ms, values, limits, strict=True):
        place = (at_ms - start_ms) // per_ms
        if place not in worst or _over(value, limit) > _over(*worst[place][1:]):
            worst[place] = (at_ms, value, limit)
    places = sorted(worst)
    # A line is not drawn over hours that nobody saw.
    cuts = [i for i in range(1, len(places)) if places[i] - places[i - 1] > 6]
    runs = [
        [worst[place] for place in places[a:b]]
        for a, b in zip([0, *cuts], [*cuts, len(places)], strict=True)
    ]  # fmt: skip
    finite = [v for found in worst.values() for v in found[1:] if math.isfinite(v)]
    low, high = min(0.0, *finite), max(0.0, *finite)
    x, y = Axis(start_ms, end_ms, LEFT, WIDTH - RIGHT), Axis(low, high + 0.1 * (high - low), bottom, top)
    parts = time_axis(x, start_ms, end_ms, top, bottom)
    parts += value_axis(y, value_ticks(y.low, y.high, 4))
    measured, limit_line, shade = "", "", ""
    for run in runs:
        measured += _line([(x(at_ms), y(value)) for at_ms, value, _ in run])
        bound = [(x(at_ms), y(limit)) for at_ms, _, limit in run if math.isfinite(limit)]
        if bound:
            limit_line += _line(bound)
            over = [(x(at_ms), y(max(value, limit))) for at_ms, value, limit in run if math.isfinite(limit)]
            shade += _line([*over, *bound[::-1]]) + "Z"
    if shade:
        parts.append(f'<path class="veil" d="{shade}"/><path class="limit" d="{limit_line}"/>')
    parts.append(f'<path class="measured" d="{measured}"/>')
    ringing = sum(value > limit for _, value, limit in worst.values()) / len(worst)
    words = f"over its limit {ringing:.0%} of the time" if shade else "no limit is known"
    return svg(bottom + 24, f"A detector over all features together: {words}", parts)


def _over(value: float, limit: float) -> float:
    return value if math.isnan(limit) else value - limit


def _line(points: Sequence[tuple[str, str]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


__all__ = ["LEVELS", "heat", "price", "states", "statistic", "thresholds"]
