"""What every picture is made of: axes, round values, names that fit. All text is escaped here or by who calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from markupsafe import Markup, escape

WIDTH = 900
LEFT, RIGHT = 84, 22
"""Margins of a picture over time; `page.js` keeps the same ones, so that charts and bands stand under each other."""
_HOUR_MS = 3_600_000
_STEPS_MS = [_HOUR_MS * h for h in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 720, 2160, 4320, 8760)]


class Axis:
    """Maps times to x, or values to y; what lies outside is put on the edge."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self._start, self._scale = start, (end - start) / (self.high - self.low)

    def __call__(self, value: float) -> str:
        place = self._start + (min(max(value, self.low), self.high) - self.low) * self._scale
        return f"{place:.1f}".removesuffix(".0")


def svg(height: float, label: str, parts: Sequence[str], *, width: int = WIDTH) -> Markup:
    """Return a picture; `label` is what it says to who cannot see it."""
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
    years = datetime.fromtimestamp(start_ms / 1000, UTC).year != datetime.fromtimestamp(end_ms / 1000, UTC).year
    day = "%Y-%m-%d" if years and step_ms >= 336 * _HOUR_MS else "%m-%d"
    found = []
    for at_ms in range(-(-start_ms // step_ms) * step_ms, end_ms + 1, step_ms):
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        found.append((at_ms, at.strftime(day if at.hour == at.minute == 0 else "%H:%M")))
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


def time_axis(x: Axis, start_ms: int, end_ms: int, top: float, bottom: float) -> list[str]:
    """Return grid lines from `top` to `bottom`, and the times under them."""
    parts = []
    for at_ms, words in time_ticks(start_ms, end_ms):
        place = x(at_ms)
        parts.append(f'<path class="grid" d="M{place} {top:g}V{bottom:g}"/>')
        anchor = "end" if float(place) > WIDTH - 24 else "middle"
        parts.append(f'<text class="tick" x="{place}" y="{bottom + 17:g}" text-anchor="{anchor}">{words}</text>')
    return parts


def value_axis(y: Axis, ticks: Sequence[float], write: Callable[[float], str] = "{:,.10g}".format) -> list[str]:
    """Return grid lines and the values beside them."""
    parts = []
    for value in ticks:
        place, words = y(value), write(value)
        parts.append(f'<path class="grid" d="M{LEFT} {place}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{float(place) + 4:g}" text-anchor="end">{words}</text>')
    return parts


def seen(at: str, to: str) -> tuple[float, str]:
    """Return width and beginning of a rectangle that can be seen, however short its time was."""
    wide = float(to) - float(at)
    return (wide, at) if wide >= 3 else (3.0, f"{min(float(at), WIDTH - RIGHT - 3):g}")


def short(name: str, most: int = 26) -> str:
    """Return a name that fits beside a picture; what cannot be printed becomes `?`.

    >>> short("a" * 40)
    'aaaaaaaaaaaaaaaaaaaaaaaaa…'
    """
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def moment(ms: int) -> str:
    """Return a time of the year, UTC, to the minute.

    >>> moment(0)
    '01-01 00:00'
    """
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%m-%d %H:%M")


__all__ = [
    "LEFT", "RIGHT", "WIDTH", "Axis", "moment", "seen", "short", "svg", "time_axis", "time_ticks", "value_axis",
    "value_ticks",
]  # fmt: skip
