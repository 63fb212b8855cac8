"""The service on a PostgreSQL store: what is acknowledged stays, whoever of the two is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_server import QUOTED, PostgresServer

from regime_service.cli import main
from regime_service.testing import Served

STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
Serve = Callable[..., Served]
EVENT_CLOCK = 'clock = "event"\n'

pytestmark = pytest.mark.acceptance


def rows(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {**STREAM, "ts_ms": i * 300_000, "features": {"a": float(i % 7), "b": float(i % 5)}}
        for i in range(start, start + count)
    ]


def test_killed_at_once_after_an_answer_the_next_service_knows_all_of_it_and_answers_the_same(
    serve: Serve, postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(EVENT_CLOCK, "--store", postgres.url)
    assert served.post("/v1/observations", rows(0, 60)).json()["accepted"] == 60
    before = served.get("/v1/thresholds", **STREAM).json()["thresholds"]
    assert before[0]["sides"]["long"]["state"] == "ACTIVE"
    with pytest.raises(RuntimeError, match="in use by another process"):
        serve(EVENT_CLOCK, "--store", postgres.url)
    served.kill()
    again = serve(EVENT_CLOCK, "--store", postgres.url)
    assert again.get("/v1/thresholds", **STREAM).json()["thresholds"] == before
    assert again.post("/v1/observations", rows(0, 60)).json()["duplicates"] == 60
    metrics = again.get("/metrics").body.decode()
    assert "regime_store_bytes" in metrics and "regime_store_free_bytes" not in metrics
    assert again.stop() == 0
    assert main(["verify-log", postgres.url]) == 0
    assert "60 events" in capsys.readouterr().out
    assert not (tmp_path / "store.db").exists()


def test_when_the_server_dies_it_says_503_ends_with_1_and_nothing_acknowledged_is_lost(
    serve: Serve, postgres: PostgresServer
) -> None:
    served = serve(EVENT_CLOCK, "--store", postgres.url)
    assert served.post("/v1/observations", rows(0, 60)).json()["accepted"] == 60
    before = served.get("/v1/thresholds", **STREAM).json()["thresholds"]
    postgres.stop("immediate")
    stopped_s = time.monotonic()
    # Nobody writes anything: it notices by itself.
    while (told := served.get("/v1/thresholds", **STREAM)).status == 200 and time.monotonic() < stopped_s + 5:
        time.sleep(0.02)
    assert (told.status, served.get("/readyz").status) == (503, 503)
    assert "the connection to the server is lost" in told.json()["detail"]
    assert served.post("/v1/observations", rows(60, 1)).status == 503
    assert QUOTED not in told.body.decode()
    assert served.process.wait(20) == 1
    postgres.start()
    again = serve(EVENT_CLOCK, "--store", postgres.url)
    assert again.get("/v1/thresholds", **STREAM).json()["thresholds"] == before
    assert again.post("/v1/observations", rows(0, 60)).json()["duplicates"] == 60
    assert again.post("/v1/observations", rows(60, 1)).json()["accepted"] == 1


def test_started_without_its_server_it_says_503_and_lets_the_supervisor_try_again(
    serve: Serve, postgres: PostgresServer
) -> None:
    postgres.stop()
    served = serve(EVENT_CLOCK, "--store", postgres.url)
    told = served.get("/v1/thresholds", **STREAM)
    assert (told.status, "cannot be reached" in told.json()["detail"]) == (503, True)
    assert served.process.wait(40) == 1
