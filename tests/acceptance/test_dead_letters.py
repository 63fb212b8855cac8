"""A poison event, as an operator meets it: one stream paused, a metric, and `regime dead-letter`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regime.codec import decode
from regime.events import Command
from regime_service.stores.sqlite import SqliteStore
from regime_service.testing import Served

STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
CONFIG = """
clock = "event"
warmup_observations = 5
rules = []
[[detectors]]
kind = "brittle.Brittle"
"""
BRITTLE = """
import numpy as np

class Brittle:
    def reset(self, reference): self.rows = np.zeros(1)
    def update(self, x):
        if x.max() > 100: raise ArithmeticError("over 100")
        self.rows += 1
    warm = drift_detected = property(lambda self: False)
    statistic = threshold = property(lambda self: 0.0)
    feature_statistics = property(lambda self: np.zeros(1))
    def state(self): return {"rows": self.rows}
    def load_state(self, state): self.rows = state["rows"]
    def fingerprint(self): return self.rows.tobytes()
    @staticmethod
    def examples(): return []
"""
Serve = Callable[..., Served]


def send(served: Served, i: int, value: float, **changes: Any) -> None:
    sent = served.post("/v1/observations", {**STREAM, "ts_ms": i * 300_000, "features": {"a": value}, **changes})
    assert sent.status == 200, sent.body


def state(served: Served, **changes: str) -> tuple[str, list[str]]:
    told = served.get("/v1/thresholds", **{**STREAM, **changes}).json()["thresholds"][0]["sides"]["long"]
    return told["state"], [reason["code"] for reason in told["reasons"]]


def dead_letter(folder: Path, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return regime(folder, "dead-letter", *arguments, "--config", "config.toml", key=key)


def regime(folder: Path, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regime_service.cli", *arguments], env={**os.environ, "REGIME_KEY": key},
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def poisoned(serve: Serve, tmp_path: Path) -> Served:
    (tmp_path / "brittle.py").write_text(BRITTLE, "utf-8")
    served = serve(CONFIG)
    sample = "a\n" + "".join(f"{i % 7}\n" for i in range(200))
    assert served.put("/v1/models/m/references/v1", sample.encode(), "text/csv").status == 200
    for i in range(6):
        send(served, i, float(i))
        send(served, i, float(i), symbol="ETH/USDT")
    send(served, 6, 1000.0)
    return served


def test_a_poison_event_is_listed_counted_retried_and_dropped(poisoned: Served, tmp_path: Path) -> None:
    here = ("--store", "store.db", "--port", poisoned.address.rpartition(":")[2])
    assert state(poisoned) == ("REDUCING", ["engine-error"])
    assert state(poisoned, symbol="ETH/USDT") == ("ACTIVE", [])
    assert b"\nregime_dead_letters 1.0\n" in poisoned.get("/metrics").body
    listed = dead_letter(tmp_path, "list", "--store", "store.db")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "BTC/USDT:USDT" in listed.stdout and "over 100" in listed.stdout
    (letter,) = json.loads(dead_letter(tmp_path, "list", "--store", "store.db", "--json").stdout)
    assert (letter["kind"], letter["attempts"], letter["open"]) == ("observation", 1, True)
    assert poisoned.get("/v1/dead-letters").json() == {"dead_letters": [letter]}

    again = dead_letter(tmp_path, "retry", str(letter["id"]), *here)
    assert (again.returncode, "failed again" in again.stdout) == (1, True), again
    assert state(poisoned) == ("REDUCING", ["engine-error"])
    dropped = dead_letter(
        tmp_path, "drop", str(letter["id"]), *here, "--actor", "ana", "--reason", "a typo of the feed"
    )
    assert (dropped.returncode, "is closed" in dropped.stdout) == (0, True), dropped
    assert state(poisoned) == ("ACTIVE", [])
    assert b"\nregime_dead_letters 0.0\n" in poisoned.get("/metrics").body
    once_more = dead_letter(tmp_path, "drop", str(letter["id"]), *here)
    assert (once_more.returncode, "no dead letter 1 is open" in once_more.stderr) == (2, True)
    send(poisoned, 7, 3.0)
    explained = poisoned.get("/v1/explain", **STREAM).json()
    assert explained["data"]["observations"] == 8
    poisoned.stop()
    everything = dead_letter(tmp_path, "list", "--store", "store.db", "--all")
    assert "closed by drop" in everything.stdout and "failed 2 times" in everything.stdout


def test_a_locked_service_takes_the_word_of_an_admin_only(poisoned: Served, tmp_path: Path) -> None:
    here = ("--store", "store.db", "--port", poisoned.address.rpartition(":")[2])
    keys = [
        regime(tmp_path, "keys", "create", "--scope", scope, "--store", "store.db").stdout.strip()
        for scope in ("admin", "ingest")
    ]
    bearer = {"Authorization": f"Bearer {keys[0]}"}
    end_s = time.monotonic() + 10
    while poisoned.get("/v1/explain", **STREAM).status != 401:  # The service looks once a second.
        assert time.monotonic() < end_s
    for key in ("", keys[1]):
        refused = dead_letter(tmp_path, "drop", "1", *here, key=key)
        assert (refused.returncode, "REGIME_KEY" in refused.stderr) == (2, True), refused
        assert key == "" or key not in refused.stderr
    assert poisoned.get("/v1/dead-letters", bearer).json()["dead_letters"][0]["open"]
    dropped = dead_letter(tmp_path, "drop", "1", *here, key=keys[0])
    assert (dropped.returncode, dropped.stderr) == (0, "")
    assert poisoned.get("/v1/dead-letters", bearer).json() == {"dead_letters": []}
    poisoned.stop()
    store = SqliteStore(str(tmp_path / "store.db"), read_only=True)
    said = [event for _, raw in store.events() if isinstance(event := decode(raw), Command)]
    store.close()
    assert [(c.action, c.key_id) for c in said] == [("drop", keys[0][4:12])]


def test_where_no_service_runs_it_opens_the_store_itself(poisoned: Served, serve: Serve, tmp_path: Path) -> None:
    port = poisoned.address.rpartition(":")[2]
    poisoned.kill()
    dropped = dead_letter(tmp_path, "drop", "1", "--store", "store.db", "--port", port)
    assert (dropped.returncode, dropped.stderr) == (0, "")
    served = serve(CONFIG)
    assert state(served) == ("ACTIVE", [])
    assert served.get("/v1/dead-letters").json() == {"dead_letters": []}


def test_a_service_that_holds_another_store_is_not_told(poisoned: Served, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Served(tmp_path / "other")
    try:
        refused = dead_letter(tmp_path, "drop", "1", "--store", "store.db", "--port", other.address.rpartition(":")[2])
        assert (refused.returncode, "another store" in refused.stderr) == (2, True), refused
    finally:
        other.kill()
    assert state(poisoned)[0] == "REDUCING"


def test_the_routes_refuse_what_they_cannot_read(poisoned: Served) -> None:
    path = "/v1/dead-letters/1/drop"
    for status, body in (
        (400, b"{"),
        (422, {"actor": "ana"}),
        (422, {"actor": "ana", "reason": "x", "letter": 2}),
        (422, [1]),
    ):
        assert poisoned.post(path, body).status == status, body
    assert poisoned.post(path, b"{}", "text/plain").status == 415
    for number in ("2", "x", "1" * 40, "%00"):
        assert poisoned.post(f"/v1/dead-letters/{number}/drop", {"actor": "a", "reason": "b"}).status == 404
    assert poisoned.get("/v1/dead-letters", closed="maybe").status == 422
    assert {"/v1/dead-letters", path.replace("1", "{id}", 2).replace("v{id}", "v1")} <= set(
        poisoned.get("/openapi.json").json()["paths"]
    )
    assert state(poisoned)[0] == "REDUCING", "nothing was changed"
