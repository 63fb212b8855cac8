"""A scrape of a whole service: what its parts count is what came in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from regime.engine import Engine
from regime_service import app
from regime_service.app import Service
from regime_service.settings import from_toml

FIVE_MINUTES = 300_000
STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


class Scraped:
    """One scrape, as OpenMetrics."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._values = {(s.name, frozenset(s.labels.items())): s.value for f in self.families for s in f.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._values.get((name, frozenset(labels.items())))

    def decisions(self, name: str) -> set[str]:
        """What the exemplars of a histogram name."""
        found = next(family for family in self.families if family.name == name)
        return {sample.exemplar.labels["decision"] for sample in found.samples if sample.exemplar}


class Running:
    def __init__(self, folder: Path, instead_of: Running | None = None) -> None:
        if instead_of is not None:
            instead_of.service.stop()
        settings = {"clock": "event", "store": {"file": str(folder / "s.db")}}
        self.service = Service(from_toml(settings, source="test"))
        self.service.start()
        self._transport = httpx.ASGITransport(self.service.http())

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())

    def post(self, path: str, body: Any, status: int = 200) -> None:
        answer = self.ask("POST", f"/v1/{path}", json=body)
        assert answer.status_code == status, answer.text

    def observe(self, first: int, count: int, **changes: Any) -> None:
        self.post("observations", [
            {**STREAM, "ts_ms": i * FIVE_MINUTES, "features": {"a": float(i % 7), "b": float(i % 5)}, **changes}
            for i in range(first, first + count)
        ])  # fmt: skip

    def scrape(self) -> Scraped:
        answer = self.ask("GET", "/metrics", headers=OPENMETRICS)
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return Scraped(answer.text)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.service.stop()


def test_events_transitions_and_pauses_are_counted_once(running: Running) -> None:
    running.observe(0, 60)
    running.observe(59, 1)
    running.post("overrides", {"model": "m", "state": "HALTED", "actor": "ana", "reason": "exchange is down"})
    found = running.scrape()
    assert found("regime_events_total", kind="observation", result="accepted") == 60
    assert found("regime_events_total", kind="observation", result="duplicate") == 1
    assert found("regime_transitions_total", **STREAM, side="long", state="ACTIVE") == 1
    assert found("regime_transitions_total", **STREAM, side="long", state="HALTED") == 1
    assert found("regime_pauses_total", **STREAM, side="short", reason="operator") == 1
    assert found("regime_state", **STREAM, side="long", state="HALTED") == 1
    assert found("regime_reason", **STREAM, side="long", reason="operator") == 1


def test_counts_of_a_stream_begin_at_zero_so_that_the_first_one_can_be_seen_to_grow(
    running: Running, tmp_path: Path
) -> None:
    running.observe(0, 1)
    for found in (running.scrape(), Running(tmp_path, running).scrape()):
        assert found("regime_transitions_total", **STREAM, side="long", state="HALTED") == 0
        assert found("regime_non_finite_values_total", **STREAM) == 0
        assert found("regime_schema_mismatches_total", **STREAM) == 0


def test_values_that_are_missing_and_columns_that_changed_are_counted(running: Running) -> None:
    running.observe(0, 60)
    running.observe(60, 2, features={"a": None, "b": 1.0})
    running.observe(62, 3, features={"a": 1.0, "c": 1.0})
    found = running.scrape()
    assert found("regime_schema_mismatches_total", **STREAM) == 3
    assert found("regime_non_finite_values_total", **STREAM) == 2


def test_every_event_request_and_commit_is_timed_and_its_exemplar_names_the_decision(running: Running) -> None:
    running.observe(0, 60)
    running.post("trades", {"model": "m"}, status=422)
    found = running.scrape()
    assert found("regime_decision_duration_seconds_count") == 60
    assert found("regime_acknowledgement_duration_seconds_count") == 1
    commits = found("regime_commit_duration_seconds_count")
    assert commits is not None and commits >= 1
    assert found("regime_http_request_duration_seconds_count", route="/v1/observations") == 1
    assert found("regime_http_requests_total", route="/v1/observations", status="200") == 1
    assert found("regime_http_requests_total", route="/v1/trades", status="422") == 1
    version = found("regime_decision_version", **STREAM)
    for name in ("decision", "acknowledgement", "commit", "http_request"):
        newest = f"m BTC/USDT:USDT 5m #{version:.0f}"
        assert newest in found.decisions(f"regime_{name}_duration_seconds")


def test_what_nobody_asked_for_is_one_route(running: Running) -> None:
    for path in ("/nothing", "/v1/else", "/nothing/more"):
        assert running.ask("GET", path).status_code == 404
    assert running.scrape()("regime_http_requests_total", route="none", status="404") == 3


def test_price_trades_and_drawdown_are_those_that_were_sent(running: Running) -> None:
    candle = {"open": 99.0, "high": 101.0, "low": 98.0, "close": 100.5, "volume": 1.0}
    running.observe(0, 60, candle=candle)
    trades = [
        {**STREAM, "trade_id": str(i), "side": "long", "opened_ms": i * FIVE_MINUTES, "entry_price": 100.0,
         "closed_ms": (i + 1) * FIVE_MINUTES, "exit_price": 100.0, "profit_ratio": profit, "shadow": i == 3}
        for i, profit in enumerate((0.01, -0.02, 0.01, -0.03))
    ]  # fmt: skip
    running.post("trades", trades)
    found = running.scrape()
    assert found("regime_close_price", **STREAM) == 100.5
    assert found("regime_win_ratio", **STREAM, side="long") == 0.5
    assert found("regime_win_ratio_trades", **STREAM, side="long") == 4
    assert found("regime_guard_value_ratio", **STREAM, side="long") == pytest.approx(0.03)
    drawdown = found("regime_drawdown_ratio", **STREAM, side="long")
    assert drawdown == pytest.approx(1 - 0.98 * 1.01)
    assert found("regime_win_ratio", **STREAM, side="short") is None


def test_on_event_time_old_data_are_no_older_than_their_stream(running: Running) -> None:
    running.observe(0, 60)
    found = running.scrape()
    assert found("regime_data_until_timestamp_seconds", **STREAM) == 60 * 300
    assert found("regime_input_age_seconds", **STREAM) == 0
    assert found("regime_input_age_limit_seconds", **STREAM) == 900
    assert found("regime_lease_expiry_timestamp_seconds", **STREAM) == 60 * 300 + 360


def test_a_writer_that_hangs_does_not_keep_a_scrape(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.observe(0, 60)
    monkeypatch.setattr(app, "GLANCE_S", 0.01)
    with running.service.runner.lock:
        assert running.scrape()("regime_ready") == 1


def test_the_features_that_stand_out_are_those_of_the_engine_and_one_that_raises_spoils_no_scrape(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{a:.6f},{b:.6f}" for a, b in rng.standard_normal((1_000, 2)))
    query = "symbol=BTC/USDT:USDT&timeframe=5m"
    answer = running.ask(
        "PUT", f"/v1/models/m/references/v1?{query}", content=f"a,b\n{rows}", headers={"Content-Type": "text/csv"}
    )
    assert answer.status_code == 200, answer.text
    features = [{"a": float(a) + 5.0, "b": float(b)} for a, b in rng.standard_normal((300, 2))]
    running.post("observations", [
        {**STREAM, "ts_ms": i * FIVE_MINUTES, "features": row} for i, row in enumerate(features)
    ])  # fmt: skip
    found = running.scrape()
    moved = found("regime_feature_drift_ratio", **STREAM, feature="a")
    other = found("regime_feature_drift_ratio", **STREAM, feature="b")
    assert moved is not None and other is not None and moved > 1 > other

    def broken(engine: Engine) -> None:
        raise RuntimeError("a detector of one's own")

    monkeypatch.setattr(Engine, "top_features", broken)
    found = running.scrape()
    assert found("regime_ready") == 1
    assert found("regime_feature_drift_ratio", **STREAM, feature="a") is None


def test_the_store_and_its_disk_are_measured_at_the_next_look(running: Running) -> None:
    running.observe(0, 1)
    assert running.service.measure_store()
    found = running.scrape()
    assert found("regime_outbox_unsent") == 0
    size, free = found("regime_store_bytes"), found("regime_store_free_bytes")
    assert size is not None and size > 0 and free is not None and free > 0
