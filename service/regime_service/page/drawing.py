"""Pictures as SVG, for every browser, with scripts and without. Colours come from the style sheet, by class, so that
they follow light and dark; states differ by pattern as well as by colour.

All text is escaped here, and markupsafe's `Markup` says so to the templates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from markupsafe import Markup, escape

from regime.edge import ReliabilityBin
from regime.events import SIDES, Side
from regime_service.page.history import Drift, History, Span

WIDTH = 900
LEFT, RIGHT = 64, 22
_HOUR_MS = 3_600_000
_STEPS_MS = [_HOUR_MS * h for h in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 720)]
LEVELS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Where the heat map's shades begin; from 1 on a feature is further away than the training period hardly ever was."""
_NAME_LENGTH_MAX = 26


class _Axis:
    """Maps times to x, or values to y."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self._start, self._scale = start, (end - start) / (self.high - self.low)

    def __call__(self, value: float) -> str:
        place = self._start + (min(max(value, self.low), self.high) - self.low) * self._scale
        return f"{place:.1f}".removesuffix(".0")


def _svg(height: float, label: str, parts: Sequence[str], *, width: int = WIDTH) -> Markup:
    inside = "".join(parts)
    return Markup(
        f'<svg class="picture" viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(label)}">{inside}</svg>'
    )


def time_ticks(start_ms: int, end_ms: int, most: int = 8) -> list[tuple[int, str]]:
    """Return round times between two, with what stands at them.

    >>> time_ticks(0, 5 * 3_600_000, most=2)
    [(0, '01-01'), (10800000, '03:00')]
    """
    step_ms = next((step for step in _STEPS_MS if (end_ms - start_ms) / step <= most), _STEPS_MS[-1])
    found = []
    for at_ms in range(-(-start_ms // step_ms) * step_ms, end_ms + 1, step_ms):
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        found.append((at_ms, at.strftime("%m-%d" if at.hour == at.minute == 0 else "%H:%M")))
    return found


def value_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values between two.

    >>> value_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _time_axis(x: _Axis, start_ms: int, end_ms: int, top: float, bottom: float) -> list[str]:
    parts = []
    for at_ms, words in time_ticks(start_ms, end_ms):
        place = x(at_ms)
        parts.append(f'<path class="grid" d="M{place} {top:g}V{bottom:g}"/>')
        anchor = "end" if float(place) > WIDTH - 24 else "middle"
        parts.append(f'<text class="tick" x="{place}" y="{bottom + 15:g}" text-anchor="{anchor}">{words}</text>')
    return parts


def _seen(at: str, to: str) -> tuple[float, str]:
    """Width and beginning of a rectangle that can be seen, however short its time was."""
    wide = float(to) - float(at)
    return (wide, at) if wide >= 3 else (3.0, f"{min(float(at), WIDTH - RIGHT - 3):g}")


def _value_axis(y: _Axis, ticks: Sequence[float], *, digits: str = "{:g}") -> list[str]:
    parts = []
    for value in ticks:
        place, words = y(value), digits.format(value)
        parts.append(f'<path class="grid" d="M{LEFT} {place}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{float(place) + 4:g}" text-anchor="end">{words}</text>')
    return parts


def price(history: History, *, source: str) -> Markup | None:
    """Price as a line, shaded where a side was paused; None where no candle is known."""
    known = [(at, close) for at, close in zip(history.times_ms, history.closes, strict=True) if close is not None]
    if len(known) < 2:
        return None
    top, bottom = 8.0, 230.0
    low, high = min(close for _, close in known), max(close for _, close in known)
    margin = (high - low) * 0.06 or abs(high) * 0.01
    x = _Axis(history.start_ms, history.end_ms, LEFT, WIDTH - RIGHT)
    y = _Axis(low - margin, high + margin, bottom, top)
    parts = []
    for side in SIDES:
        for span in history.spans[side]:
            if span.state in ("REDUCING", "HALTED"):
                at, to = x(span.since_ms), x(span.until_ms)
                wide, at = _seen(at, to)
                parts.append(
                    f'<rect class="veil {span.state}" x="{at}" y="{top:g}" width="{wide:g}" height="{bottom - top:g}"/>'
                )
    parts += _time_axis(x, history.start_ms, history.end_ms, top, bottom)
    parts += _value_axis(y, value_ticks(low, high))
    line, pen = [], "M"
    for at_ms, close in zip(history.times_ms, history.closes, strict=True):
        if close is None:
            pen = "M"
            continue
        line.append(f"{pen}{x(at_ms)} {y(close)}")
        pen = "L"
    parts.append(f'<path class="line" d="{"".join(line)}"/>')
    return _svg(bottom + 22, f"Price ({source}), shaded where a side was paused", parts)


def states(history: History) -> Markup:
    """A band for each side: what it was told over time."""
    x = _Axis(history.start_ms, history.end_ms, LEFT, WIDTH - RIGHT)
    parts, words = [_PATTERNS], []
    for row, side in enumerate(SIDES):
        top = 4 + row * 30
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{top + 17}" text-anchor="end">{side}</text>')
        paused_ms = 0
        for span in history.spans[side]:
            at, to = x(span.since_ms), x(span.until_ms)
            wide, at = _seen(at, to)
            parts.append(
                f'<rect class="band {span.state}" x="{at}" y="{top}" width="{wide:g}" height="24">'
                f"<title>{side}: {_told(span)}</title></rect>"
            )
            paused_ms += (span.until_ms - span.since_ms) * (span.state in ("REDUCING", "HALTED"))
        whole = max(history.end_ms - history.start_ms, 1)
        words.append(f"{side} paused {paused_ms / whole:.0%} of the time".replace("%", " %"))
    parts += _time_axis(x, history.start_ms, history.end_ms, 4, 60)
    return _svg(80, "States: " + ", ".join(words), parts)


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
    return f"{what}, {_utc(span.since_ms)} to {_utc(span.until_ms)}, entry {span.entry:.2f}, exit {span.exit:.2f}"


def thresholds(history: History) -> Markup | None:
    """Entry and exit threshold of both sides as steps; None where none ever moved."""
    spans = [span for side in SIDES for span in history.spans[side]]
    if len({(span.entry, span.exit) for span in spans}) < 2:
        return None
    top, bottom = 8.0, 150.0
    every = [value for span in spans for value in (span.entry, span.exit)]
    margin = max((max(every) - min(every)) * 0.12, 0.01)
    x = _Axis(history.start_ms, history.end_ms, LEFT, WIDTH - RIGHT)
    y = _Axis(max(min(every) - margin, 0.0), min(max(every) + margin, 1.0), bottom, top)
    parts = _time_axis(x, history.start_ms, history.end_ms, top, bottom)
    parts += _value_axis(y, value_ticks(y.low, y.high), digits="{:.2f}")
    for what in ("entry", "exit"):
        for side in SIDES:
            parts.append(f'<path class="step {what} {side}" d="{_steps(history.spans[side], what, x, y)}"/>')
    return _svg(bottom + 22, "Entry and exit thresholds over time", parts)


def _steps(spans: Sequence[Span], what: str, x: _Axis, y: _Axis) -> str:
    found, until_ms = "", None
    for span in spans:
        at, level = x(span.since_ms), y(getattr(span, what))
        found += f"M{at} {level}" if until_ms != span.since_ms else f"H{at}V{level}"
        found += f"H{x(span.until_ms)}"
        until_ms = span.until_ms
    return found


def heat(drift: Drift, starts: Mapping[str, int], change_ms: tuple[int, int, int] | None) -> Markup:
    """The features over time, the furthest first. `starts` names those a detector blames, with the estimated start of
    the change; `change_ms` is that start, and the interval it lies in."""
    left, height, top = 210, 17, 20
    bottom = top + height * len(drift.names)
    x = _Axis(drift.edges_ms[0], drift.edges_ms[-1], left, WIDTH - 54)
    parts = [f'<text class="tick" x="{WIDTH - 4}" y="13" text-anchor="end">now</text>']
    for row, name in enumerate(drift.names):
        y, values = top + row * height, drift.values[row]
        blamed = ' class="tick blamed"' if name in starts else ' class="tick"'
        mark = "● " if name in starts else ""
        parts.append(
            f'<text{blamed} x="{left - 6}" y="{y + 13}" text-anchor="end">{mark}{escape(short(name))}'
            f"<title>{escape(name)}</title></text>"
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
            parts.append(f'<text class="{how}" x="{WIDTH - 4}" y="{y + 13}" text-anchor="end">{newest:.1f}</text>')
    if change_ms is not None and change_ms[0] > drift.edges_ms[0]:
        low, high, at = x(change_ms[1]), x(change_ms[2]), x(change_ms[0])
        # Above the cells: over them it would be taken for their colour.
        parts.append(f'<path class="start" d="M{low} {top - 3}H{high}"/>'
                     f'<path class="startline" d="M{at} {top - 6}V{bottom}"/>')  # fmt: skip
        anchor = "end" if float(at) > WIDTH / 2 else "start"
        parts.append(f'<text class="tick blamed" x="{at}" y="11" text-anchor="{anchor}">change began about here</text>')
    parts += _time_axis(x, drift.edges_ms[0], drift.edges_ms[-1], bottom, bottom)
    worst = ", ".join(drift.names[:3])
    return _svg(bottom + 22, f"Distance of features from the training period over time; furthest now: {worst}", parts)


def _level(value: float) -> int:
    """The shade: 0 is not known, 1 is near, 7 is far."""
    return 0 if math.isnan(value) else 1 + sum(value >= level for level in LEVELS)


def short(name: str) -> str:
    """Return a name that fits beside a picture; what cannot be printed becomes `?`.

    >>> short("a" * 40)
    'aaaaaaaaaaaaaaaaaaaaaaaaa…'
    """
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return plain if len(plain) <= _NAME_LENGTH_MAX else plain[: _NAME_LENGTH_MAX - 1] + "…"


def reliability(
    bins: Mapping[Side, Sequence[ReliabilityBin]], break_even: Mapping[Side, float | None]
) -> Markup | None:
    """What the model claimed against what was won, by groups of equally many trades; None without any group."""
    if not any(bins.values()):
        return None
    width, top, bottom, left, right = 420, 10.0, 330.0, 50.0, 398.0
    x, y = _Axis(0, 1, left, right), _Axis(0, 1, bottom, top)
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
    return _svg(bottom + 38, "Claimed against realised win probability", parts, width=width)


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%m-%d %H:%M")


__all__ = ["LEVELS", "heat", "price", "reliability", "short", "states", "thresholds", "time_ticks", "value_ticks"]
