"""The page: what `report.json` holds, for a person. One file that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from regime.edge import ReliabilityBin
from regime.events import Side
from regime_service.drawing.shown import Drift
from regime_service.logs.findings import count, utc
from regime_service.report.words import percent, signed

ROWS_MAX = 250
"""Rows of a table at the most; `report.json` has them all, and the page says how many it left to it."""


def render(
    report: Mapping[str, Any], drawn: Mapping[str, Markup | None], *, drift: Drift | None,
    bins: Mapping[Side, Sequence[ReliabilityBin]],
) -> str:  # fmt: skip
    """Return the page: `drawn` are the pictures by name, `drift` and `bins` the figures behind two of them."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("regime_service.report", "."),
                             PackageLoader("regime_service.drawing", ".")]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        utc=lambda ms: "-" if ms is None else utc(ms), percent=percent, signed=signed, number=number, count=count,
        span=span,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        r=report,
        drawn=drawn,
        drift=drift,
        bins=bins,
        told={picture["name"]: picture for picture in report["pictures"]},
        rows_max=ROWS_MAX,
        firings=joined_sides(report["rules"], ("code", "since_ms", "until_ms", "value", "limit", "text")),
        changes=joined_sides(report["timeline"], ("version", "from", "to", "reasons", "resume")),
        input_names=INPUT_NAMES,
        look=Markup((files("regime_service.drawing") / "look.css").read_text("utf-8")),
    )


INPUT_NAMES = {
    "reference": "Reference (training period)", "features": "Observations (feature log)", "trades": "Trades",
    "candles": "Candles",
}  # fmt: skip


def joined_sides(rows: list[dict[str, Any]], same: tuple[str, ...]) -> list[dict[str, Any]]:
    """Join rows of the two sides that agree in the fields `same` into one of side `both`."""
    found: list[dict[str, Any]] = []
    index: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = repr([row[name] for name in same])
        if key in index and index[key]["side"] != row["side"]:
            index[key]["side"] = "both"
        else:
            index[key] = dict(row)
            found.append(index[key])
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
