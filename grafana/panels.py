"""Parts of a dashboard, typed, and their classic JSON (`schemaVersion` 41, which Grafana 10 and later read).

Panels flow from left to right in a grid of 24 columns; a heading begins a new line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

SCHEMA_VERSION = 41
COLUMNS = 24

Json = dict[str, Any]
Colour = Literal["green", "orange", "red", "blue", "text", "transparent", "purple", "yellow"]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


class Step(NamedTuple):
    """From this value on, this colour."""

    value: float | None
    colour: Colour


class Query(NamedTuple):
    """One PromQL expression. `legend` names its series (`{{label}}`); `table` asks for the newest value of each."""

    expr: str
    legend: str = ""
    table: bool = False
    exemplar: bool = False


class Link(NamedTuple):
    """Where a click at a value leads."""

    title: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Override:
    """How the series of one name are drawn otherwise: `custom` are drawing options, `field` all others."""

    name: str
    custom: Json = field(default_factory=dict)
    field: Json = field(default_factory=dict)
    regex: bool = False

    def json(self) -> Json:
        properties = [{"id": f"custom.{name}", "value": value} for name, value in self.custom.items()]
        properties += [{"id": name, "value": value} for name, value in self.field.items()]
        return {
            "matcher": {"id": "byRegexp" if self.regex else "byName", "options": self.name},
            "properties": properties,
        }


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. `about` is what a trader reads when he wonders what it means."""

    title: str
    about: str
    kind: Literal["stat", "timeseries", "table", "state-timeline", "status-history", "bargauge"]
    queries: Sequence[Query]
    width: int
    height: int = 8
    unit: str = "none"
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    steps: Sequence[Step] = (Step(None, "text"),)
    names: dict[str, tuple[str, Colour]] = field(default_factory=dict)
    """Values that are shown as a word, in a colour."""
    nothing: str | None = None
    """What is shown where there is no value."""
    custom: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    overrides: Sequence[Override] = ()
    transformations: Sequence[Json] = ()
    colour: str = "thresholds"
    links: Sequence[Link] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        defaults: Json = {
            "unit": self.unit,
            "color": {"mode": self.colour},
            "thresholds": {
                "mode": "absolute", "steps": [{"value": step.value, "color": step.colour} for step in self.steps],
            },
            "custom": self.custom,
            "mappings": [
                {"type": "value", "options": {value: {"text": text, "color": colour, "index": index}}}
                for index, (value, (text, colour)) in enumerate(self.names.items())
            ],
        }  # fmt: skip
        for name, value in (
            ("decimals", self.decimals), ("min", self.low), ("max", self.high), ("noValue", self.nothing),
        ):  # fmt: skip
            if value is not None:
                defaults[name] = value
        if self.links:
            defaults["links"] = [link._asdict() for link in self.links]
        return {
            "id": number, "type": self.kind, "title": self.title, "description": self.about,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "datasource": DATASOURCE,
            "targets": [_target(query, chr(ord("A") + i)) for i, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": defaults, "overrides": [override.json() for override in self.overrides]},
            "options": {**_OPTIONS[self.kind], **self.options},
            "transformations": list(self.transformations),
        }  # fmt: skip


class Row(NamedTuple):
    """A heading."""

    title: str


class Variable(NamedTuple):
    """A choice at the top of a dashboard: the values of a label of `metric`."""

    name: str
    label: str
    metric: str
    every: bool = False
    """Whether several can be chosen, and all of them at first."""

    def json(self) -> Json:
        query = f"label_values({self.metric}, {self.name})"
        found: Json = {
            "type": "query", "name": self.name, "label": self.label, "datasource": DATASOURCE,
            "query": {"query": query, "refId": "StandardVariableQuery"}, "refresh": 2, "sort": 1, "multi": self.every,
            "includeAll": self.every,
        }  # fmt: skip
        return found | ({"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if self.every else {})


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One dashboard; `name` is its file."""

    name: str
    uid: str
    title: str
    about: str
    variables: Sequence[Variable]
    parts: Sequence[Panel | Row]
    since: str = "now-24h"

    def json(self) -> Json:
        source = {
            "type": "datasource",
            "name": "datasource",
            "label": "Prometheus",
            "query": "prometheus",
            "refresh": 1,
        }
        return {
            "uid": self.uid, "title": self.title, "description": self.about, "tags": ["regimegate"],
            "schemaVersion": SCHEMA_VERSION, "version": 1, "editable": True, "graphTooltip": 1,
            "time": {"from": self.since, "to": "now"}, "timezone": "utc", "refresh": "30s",
            "templating": {"list": [source, *(variable.json() for variable in self.variables)]},
            "annotations": {"list": []},
            "links": [{
                "type": "dashboards", "title": "regimegate", "tags": ["regimegate"], "asDropdown": True,
                "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "",
                "url": "",
            }],
            "panels": list(_laid_out(self.parts)),
        }  # fmt: skip


def _laid_out(parts: Iterable[Panel | Row]) -> Iterable[Json]:
    x = y = height = 0
    for number, part in enumerate(parts, start=1):
        if isinstance(part, Row) or x + part.width > COLUMNS:
            x, y, height = 0, y + height, 0
        if isinstance(part, Row):
            yield {"id": number, "type": "row", "title": part.title, "collapsed": False, "panels": [],
                   "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}  # fmt: skip
            y += 1
            continue
        yield part.json(number, x, y)
        x, height = x + part.width, max(height, part.height)


def _target(query: Query, ref: str) -> Json:
    return {
        "refId": ref, "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend or "__auto",
        "instant": query.table, "range": not query.table, "format": "table" if query.table else "time_series",
        "exemplar": query.exemplar,
    }  # fmt: skip


_LEGEND: Json = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
_TOOLTIP: Json = {"mode": "multi", "sort": "desc"}
_LAST: Json = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
_OPTIONS: dict[str, Json] = {
    "stat": {"reduceOptions": _LAST, "colorMode": "background", "graphMode": "none", "textMode": "auto",
             "justifyMode": "center", "orientation": "auto"},
    "timeseries": {"legend": _LEGEND, "tooltip": _TOOLTIP},
    "table": {"showHeader": True, "cellHeight": "sm"},
    "state-timeline": {"legend": {**_LEGEND, "showLegend": False}, "tooltip": _TOOLTIP, "mergeValues": True,
                       "showValue": "auto", "rowHeight": 0.9, "alignValue": "left"},
    "status-history": {"legend": {**_LEGEND, "showLegend": False}, "tooltip": _TOOLTIP, "showValue": "never",
                       "rowHeight": 0.95, "colWidth": 1},
    "bargauge": {"reduceOptions": _LAST, "orientation": "horizontal", "displayMode": "lcd", "showUnfilled": True,
                 "valueMode": "color", "minVizWidth": 0, "minVizHeight": 10},
}  # fmt: skip
