"""Every panel shows something: a real Prometheus scrapes the service while the demo's bot goes through its break.

Meanwhile somebody reads the event stream, others are refused, and of three alert channels one takes what it is sent,
one refuses it and one does not answer. Each query of each dashboard must return a finite sample in that time, and ask
for nothing that is not exported.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alert_receivers import HttpReceiver
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
FALLBACK = " or vector(0)"
NOT_IN_THE_PLAY = {
    "Trading smaller", "Would be paused", "Without fresh data", "Stopped by an error", "Alerts that fire",
    "Series of a scrape",
}  # fmt: skip
"""Panels of what does not happen, or for too short a time to be seen: they show the 0 that stands for nothing."""
CHANNELS = {"takes": "ok", "refuses": "refuse", "silent": "broken"}
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
    receivers = {name: HttpReceiver() for name in CHANNELS}
    for name, mood in CHANNELS.items():
        receivers[name].mood = mood
    (folder / "secret").write_text("sixteen or more bytes of it", "utf-8")
    told = "[alerts]\non_event_clock = true\n" + "".join(
        f'[[alerts.channels]]\nname = "{name}"\nkind = "webhook"\nurl = "http://127.0.0.1:{receiver.port}/"\n'
        f'secret_file = "{folder}/secret"\n'
        for name, receiver in receivers.items()
    )
    config = config_toml(SCENARIO) + told
    with contextlib.ExitStack() as closing:
        for receiver in receivers.values():
            closing.callback(receiver.close)
        service = closing.enter_context(Service(folder=folder, config=config, store=folder / "store.db", port=0))
        address = service.await_answer()
        line = HttpLine(address, StreamKey(SCENARIO.model, SCENARIO.symbol, SCENARIO.timeframe))
        line.reference(parquet(simulation.reference), "v1", trained_until_ms=SCENARIO.start_ms)
        target = address.removeprefix("http://")
        with PrometheusServer(folder / "prometheus", [target], rules=[RULES]) as prometheus:
            prometheus.await_scrape()
            start_s = time.time()
            closing.enter_context(listening(target))
            for moment in Bot(simulation, line).play():
                if moment.row % 50 == 0:
                    be_refused(target)
                due_s = start_s + PLAY_S * moment.row / SCENARIO.candles
                time.sleep(max(0.0, due_s - time.time()))
            time.sleep(2.5)  # Two scrapes more: what came last is seen.
            line.close()
            names = frozenset(prometheus.ask("label/__name__/values"))
            yield Seen(prometheus, start_s, time.time(), names)


@contextlib.contextmanager
def listening(target: str) -> Iterator[None]:
    """A bot that is told rather than asks."""
    connection = http.client.HTTPConnection(target, timeout=30)
    connection.request("GET", "/v1/stream")
    response = connection.getresponse()
    assert response.status == 200

    def read() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while response.readline():
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        # Cut rather than closed: a reader that waits in another thread holds the connection.
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        reader.join(10)
        connection.close()


def be_refused(target: str) -> None:
    """Ask what is refused, in three ways."""
    for method, path, headers, status in (
        ("GET", "/v1/thresholds", {"Host": "elsewhere.example.org"}, 403),
        ("GET", "/v1/thresholds?model=nobody&symbol=S&timeframe=5m", {}, 404),
        ("POST", "/v1/observations", {"Content-Type": "application/json"}, 400),
    ):
        connection = http.client.HTTPConnection(target, timeout=30)
        connection.request(method, path, b"{" if method == "POST" else None, headers)
        assert connection.getresponse().status == status
        connection.close()


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
    # Whatever stands in for nothing says nothing of the query itself.
    itself = asked if panel in NOT_IN_THE_PLAY else asked.replace(FALLBACK, "")
    assert seen.finite(itself) > 0, f"nothing to see: {itself}"


def test_only_panels_that_show_0_for_nothing_are_excepted() -> None:
    assert {panel for _, panel, expr in QUERIES if FALLBACK in expr} >= NOT_IN_THE_PLAY


def test_what_is_clicked_at_bears_the_labels_that_its_link_is_made_of(seen: Seen) -> None:
    panels = [panel for file in FOLDER.glob("*.json") for panel in json.loads(file.read_text("utf-8"))["panels"]]
    linked = [panel for panel in panels if panel.get("fieldConfig", {}).get("defaults", {}).get("links")]
    stream = {name: CHOICES[name] for name in ("model", "symbol", "timeframe")}
    assert len(linked) >= 5
    for panel in linked:
        asked = filled_in(panel["targets"][0]["expr"], CHOICES)
        for series in seen.prometheus.over(asked, seen.start_s, seen.end_s):
            assert series["metric"].items() >= stream.items(), panel["title"]


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


def test_what_went_wrong_beside_the_story_can_be_seen_too(seen: Seen) -> None:
    """Refusals, a reader, and what became of the alerts: figures that say what was done to the service, not only 0."""

    def largest(panel: str, where: str) -> float:
        (expr,) = [
            expr for dashboard, title, expr in QUERIES if (dashboard, title) == ("service", panel) and where in expr
        ]
        found = seen.prometheus.over(filled_in(expr, CHOICES), seen.start_s, seen.end_s)
        return max(float(value) for series in found for _, value in series["values"])

    by_kind = seen.prometheus.over("max by (kind) (regime_http_refusals_total)", seen.start_s, seen.end_s)
    refused = {series["metric"]["kind"]: float(series["values"][-1][1]) for series in by_kind}
    assert refused == {kind: SCENARIO.candles / 50 for kind in ("host", "unknown", "malformed")}
    assert largest("Refused, by why", "kind") > 0
    assert largest("Event streams open", "regime_push_streams") == 1
    assert largest("Answers pushed a second", "pushed") > 0
    assert largest("Alerts given up", "dead") >= 1
    assert largest("Oldest alert waiting", "oldest") >= 1
    became = seen.prometheus.over("sum by (channel, result) (regime_alert_deliveries_total)", seen.start_s, seen.end_s)
    done = {(s["metric"]["channel"], s["metric"]["result"]) for s in became if float(s["values"][-1][1]) > 0}
    assert done >= {("takes", "delivered"), ("refuses", "dead"), ("silent", "failed")}
    assert not done & {("takes", "dead"), ("refuses", "delivered"), ("silent", "delivered"), ("silent", "dead")}


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
