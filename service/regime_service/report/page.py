"""The page: what `report.json` holds, for a person. One file that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regime_service.logs.findings import count, utc
from regime_service.report.words import percent, signed

ROWS_MAX = 250
"""Rows of a table at the most; `report.json` has them all, and the page says how many it left to it."""


def render(report: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """Return the page. `images` are data URIs by the name of their picture."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("regime_service.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        utc=lambda ms: "-" if ms is None else utc(ms), percent=percent, signed=signed, number=number, count=count,
        span=span,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        r=report, images=images, rows_max=ROWS_MAX, firings=joined_sides(report["rules"]), input_names=INPUT_NAMES
    )


INPUT_NAMES = {
    "reference": "Reference (training period)", "features": "Observations (feature log)", "trades": "Trades",
    "candles": "Candles",
}  # fmt: skip


def joined_sides(firings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join a firing of both sides at once into one row with side `both`."""
    found: list[dict[str, Any]] = []
    index: dict[tuple[Any, ...], dict[str, Any]] = {}
    for firing in firings:
        same = tuple(firing[name] for name in ("code", "since_ms", "until_ms", "value", "limit", "text"))
        if same in index and index[same]["side"] != firing["side"]:
            index[same]["side"] = "both"
        else:
            index[same] = dict(firing)
            found.append(index[same])
    return found


def number(value: float | None) -> str:
    """Write a measured value with three significant digits, whole numbers as they are; `-` where there is none.

    >>> number(0.28571), number(14.0), number(None)
    ('0.286', '14', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def span(ms: int) -> str:
    """Write a length of time in the two units that matter.

    >>> span(43_500_000), span(300_000), span(190_800_000)
    ('12 h 5 min', '5 min', '2 d 5 h')
    """
    minutes = round(ms / 60_000)
    days, rest = divmod(minutes, 1440)
    hours, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {left} min" if left else f"{hours} h"
    return f"{left} min"
