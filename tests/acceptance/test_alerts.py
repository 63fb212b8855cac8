"""Alerts as an operator meets them: `regime alerts test`, `regime alerts list`, with a service and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alert_receivers import HttpReceiver

from regime_service.testing import Served

STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
CONFIG = """
clock = "event"
warmup_observations = 2
rules = []
[[detectors]]
kind = "adwin"
[alerts]
on_event_clock = true
[[alerts.channels]]
name = "team"
kind = "slack"
url_env = "SLACK_WEBHOOK"
timeout_s = 3.0
"""
SECRET = "very-secret-path"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    server = HttpReceiver()
    monkeypatch.setenv("SLACK_WEBHOOK", f"http://127.0.0.1:{server.port}/services/{SECRET}")
    yield server
    server.close()


def regime(folder: Path, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regime_service.cli", *arguments], cwd=folder, capture_output=True, text=True,
        check=False, timeout=60, env=os.environ | ({"REGIME_KEY": key} if key else {}),
    )  # fmt: skip


def pause(served: Served) -> None:
    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        sent = served.post("/v1/observations", {**STREAM, "ts_ms": i * 300_000, "features": {"a": value}})
        assert sent.status == 200, sent.body


@pytest.mark.acceptance
def test_a_test_says_plainly_what_became_of_it(receiver: HttpReceiver, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")

    def test(name: str = "team") -> subprocess.CompletedProcess[str]:
        return regime(tmp_path, "alerts", "test", name, "--config", "config.toml")

    done = test()
    assert (done.returncode, done.stderr) == (0, "")
    assert "team (slack): delivered in " in done.stdout
    assert receiver.requests[0].json()["text"].startswith("TEST from regimegate on ")
    receiver.mood, receiver.echo = "refuse", True
    refused = test()
    assert (refused.returncode, refused.stderr) == (1, "")
    assert "refused after" in refused.stdout and "answered 400: no such thing" in refused.stdout
    assert "mend the channel" in refused.stdout
    receiver.mood = "broken"
    failed = test()
    assert (failed.returncode, failed.stderr) == (1, "")
    assert "not delivered after" in failed.stdout and "An alert would be tried again." in failed.stdout
    unknown = test("phone")
    assert unknown.returncode == 2
    assert unknown.stderr == (
        "regime alerts: there is no alert channel 'phone'; the configuration has team\n"
    )  # fmt: skip
    for each in (done, refused, failed, unknown):
        assert SECRET not in each.stdout + each.stderr


@pytest.mark.acceptance
def test_what_was_not_delivered_is_listed_by_the_service_and_without_one(
    receiver: HttpReceiver, serve: Callable[..., Served], tmp_path: Path
) -> None:
    receiver.mood = "refuse"
    served = serve(CONFIG)
    host, port = served.address.split(":")

    def listed(*more: str) -> str:
        done = regime(
            tmp_path, "alerts", "list", "--config", "config.toml", "--store", "store.db", "--host", host,
            "--port", port, *more,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert SECRET not in done.stdout
        return done.stdout

    assert "every alert was delivered" in listed()
    pause(served)
    until_s = time.monotonic() + 20
    while not served.get("/v1/alerts").json()["dead"]:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    shown = listed()
    assert "channel team (slack): 0 waiting, 1 dead, 0 delivered since the start; the last failure: 127.0.0.1" in shown
    assert "dead     " in shown and "PAUSED: m BTC/USDT:USDT 5m, long and short (non-finite)" in shown
    (dead,) = json.loads(listed("--json"))["dead"]
    assert (dead["channel"], dead["kind"]) == ("team", "paused")
    metrics = served.get("/metrics").body.decode()
    assert 'regime_alert_deliveries_total{channel="team",result="dead"} 1.0' in metrics
    served.stop()
    assert "PAUSED: m BTC/USDT:USDT 5m" in listed()


@pytest.mark.acceptance
def test_a_locked_service_shows_its_alerts_to_a_key_that_may_look(
    receiver: HttpReceiver, serve: Callable[..., Served], tmp_path: Path
) -> None:
    made = regime(tmp_path, "keys", "create", "--scope", "read", "--store", "store.db")
    served = serve(CONFIG)
    host, port = served.address.split(":")
    arguments = ("alerts", "list", "--config", "config.toml", "--host", host, "--port", port)
    assert regime(tmp_path, *arguments).returncode == 2
    with_key = regime(tmp_path, *arguments, key=made.stdout.strip())
    assert (with_key.returncode, "every alert was delivered" in with_key.stdout) == (0, True)


@pytest.mark.acceptance
def test_a_replay_tells_nobody(receiver: HttpReceiver, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    rows = "\n".join(f"{1762145100000 + i * 300_000},{'' if i % 7 == 0 else i % 3}" for i in range(1, 40))
    (tmp_path / "features.csv").write_text(f"ts_ms,a\n{rows}\n", "utf-8")
    done = regime(tmp_path, "replay", "--features", "features.csv", "--config", "config.toml", "--out", "report")
    assert done.returncode == 0, done.stderr
    decisions = (tmp_path / "report" / "decisions.jsonl").read_text("utf-8")
    assert "REDUCING" in decisions
    assert receiver.requests == []
