"""Every panel shows something: a real Prometheus scrapes the service while the demo's bot goes through its break.

Each query of each dashboard must return a finite sample in that time, and ask for nothing that is not exported.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_server import JOB, MISSING, PrometheusServer, program

from regime.events import StreamKey
from regime.simulate import Scenario, simulate
from regime_service.demo.bot import Bot
from regime_service.demo.service import HttpLine, Service, config_toml, parquet

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

REPO = Path(__file__).parents[2]
FOLDER = REPO / "grafana" / "dashboards"
RULES = REPO / "grafana" / "rules" / "regimegate.rules.yml"
SCENARIO = Scenario(seed=13, reference_candles=4_032, candles=1_000, break_at=300)
"""Short, and long enough: drift is seen, win rates are known, a side is paused."""
SHADOW_ONLY = {"regime_computed_state"}
"""Not exported while the service is listened to, as the demo's is."""
PLAY_S = 12.0
"""The play takes at least so long, so that Prometheus sees it go by."""


class Seen(NamedTuple):
    prometheus: PrometheusServer
    start_s: float
    end_s: float
    names: frozenset[str]

    def finite(self, expr: str) -> int:
        """Return how many finite samples an expression has; `ValueError` where Prometheus does not understand it."""
        series = self.prometheus.over(expr, self.start_s, self.end_s)
        return sum(math.isfinite(float(value)) for found in series for _, value in found["values"])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]) -> Iterator[Seen]:
    need(program(), MISSING)
    folder = tmp_path_factory.mktemp("seen")
    simulation = simulate(SCENARIO)
    with Service(folder=folder, config=config_toml(SCENARIO), store=folder / "store.db", port=0) as service:
        address = service.await_answer()
        line = HttpLine(address, StreamKey(SCENARIO.model, SCENARIO.symbol, SCENARIO.timeframe))
        line.reference(parquet(simulation.reference), "v1", trained_until_ms=SCENARIO.start_ms)
        target = address.removeprefix("http://")
        with PrometheusServer(folder / "prometheus", [target], rules=[RULES]) as prometheus:
            prometheus.await_scrape()
            start_s = time.time()
            for moment in Bot(simulation, line).play():
                due_s = start_s + PLAY_S * moment.row / SCENARIO.candles
                time.sleep(max(0.0, due_s - time.time()))
            time.sleep(2.5)  # Two scrapes more: what came last is seen.
            line.close()
            names = frozenset(prometheus.ask("label/__name__/values"))
            yield Seen(prometheus, start_s, time.time(), names)


CHOICES = {"model": SCENARIO.model, "symbol": SCENARIO.symbol, "timeframe": SCENARIO.timeframe, "job": JOB}
BUILT_IN = {"__rate_interval": "10s", "__interval": "1s", "__range": "5m"}


def filled_in(expr: str, choices: Mapping[str, str]) -> str:
    """Return an expression with the variables of a dashboard replaced; an unknown one is a `KeyError`."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: {**BUILT_IN, **choices}[found[1]], expr)


def queries(file: Path) -> list[tuple[str, str]]:
    """(panel, expression)"""
    dashboard = json.loads(file.read_text("utf-8"))
    return [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        if panel["type"] != "row"
        for target in panel["targets"]
    ]


QUERIES = [(file.stem, *query) for file in sorted(FOLDER.glob("*.json")) for query in queries(file)]


@pytest.mark.parametrize(("dashboard", "panel", "expr"), QUERIES, ids=[f"{d}:{p}" for d, p, _ in QUERIES])
def test_every_query_of_every_panel_returns_something(seen: Seen, dashboard: str, panel: str, expr: str) -> None:
    asked = filled_in(expr, CHOICES)
    for name in re.findall(r"\b((?:regime|process|scrape)_[a-z_]+)\b", asked):
        assert name in seen.names | SHADOW_ONLY, f"{name} is not exported"
    assert seen.finite(asked) > 0, f"nothing to see: {asked}"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_every_variable_offers_what_there_is(seen: Seen, file: Path) -> None:
    for variable in json.loads(file.read_text("utf-8"))["templating"]["list"]:
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked is not None
        found = seen.prometheus.ask(f"label/{asked[2]}/values", **{"match[]": filled_in(asked[1], CHOICES)})
        assert CHOICES[variable["name"]] in found


def test_a_panel_that_asks_for_another_stream_or_name_shows_nothing(seen: Seen) -> None:
    """The control: the check above can fail."""
    expr = next(expr for _, panel, expr in QUERIES if panel == "Thresholds")
    assert seen.finite(filled_in(expr, CHOICES)) > 0
    assert seen.finite(filled_in(expr, {**CHOICES, "model": "nobody"})) == 0
    assert seen.finite(filled_in(expr.replace("regime_threshold", "regime_treshold"), CHOICES)) == 0
    with pytest.raises(ValueError, match="parse error"):
        seen.finite("max(")


def test_the_story_can_be_seen(seen: Seen) -> None:
    """What a trader would look for: calm at first, then drift; a raised threshold or a pause; the price all along."""
    share = seen.prometheus.over("max(regime_drift_statistic / regime_drift_limit)", seen.start_s, seen.end_s)[0][
        "values"
    ]
    assert float(share[0][1]) < 0.7 and max(float(value) for _, value in share) >= 1
    [close] = seen.prometheus.over("regime_close_price", seen.start_s, seen.end_s)
    assert len({value for _, value in close["values"]}) >= 5
    assert seen.finite('regime_reason{reason="drift"} == 1') > 0
    assert seen.finite("regime:drift:share >= 1") > 0, "and so do the recording rules"


def test_every_rule_is_evaluated_without_an_error(seen: Seen) -> None:
    rules = [rule for group in seen.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 15
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
    assert {rule["health"] for rule in rules} == {"ok"}


def test_prometheus_asks_for_openmetrics_and_keeps_the_exemplars(seen: Seen) -> None:
    metric = "regime_acknowledgement_duration_seconds_bucket"
    found: list[dict[str, Any]] = seen.prometheus.ask(
        "query_exemplars", query=metric, start=seen.start_s, end=seen.end_s
    )
    named = {exemplar["labels"]["decision"] for series in found for exemplar in series["exemplars"]}
    stream = f"{SCENARIO.model} {SCENARIO.symbol} {SCENARIO.timeframe} #"
    assert named and all(name.startswith(stream) for name in named)
