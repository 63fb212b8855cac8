"""Alerts as an operator meets them: `regime alerts test`, `regime alerts list`, with a service and without one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alert_receivers import HttpReceiver

from regime_service.testing import Answer, Served

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


def wait_for(found: Callable[[], object]) -> None:
    until_s = time.monotonic() + 20
    while not found():
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.mark.acceptance
def test_what_was_given_up_is_sent_again_or_dropped_by_the_service_and_without_one(
    receiver: HttpReceiver, serve: Callable[..., Served], tmp_path: Path
) -> None:
    receiver.mood = "refuse"
    served = serve(CONFIG)
    host, port = served.address.split(":")

    def alerts(*arguments: str) -> tuple[int, str, str]:
        done = regime(
            tmp_path, "alerts", *arguments, "--config", "config.toml", "--store", "store.db", "--host", host,
            "--port", port,
        )  # fmt: skip
        assert SECRET not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    def dead(served: Served) -> list[int]:
        return [one["id"] for one in served.get("/v1/alerts").json()["dead"]]

    assert alerts("retry", "--all") == (0, "no alert was given up\n", "")
    pause(served)
    wait_for(lambda: dead(served))
    (first,) = dead(served)
    assert f"         {first}: 127.0.0.1" in alerts("list")[1]

    # Through the service: it is refused once more, under another number; then it arrives.
    assert alerts("retry", str(first), "--actor", "ana") == (
        0, "1 alert is sent again; regime alerts list shows what came of it\n", "",
    )  # fmt: skip
    wait_for(lambda: dead(served) not in ([], [first]))
    code, _, said = alerts("retry", str(first))
    assert (code, "was given up, or it was sent again or dropped already. Nothing was changed." in said) == (2, True)
    receiver.mood, refused = "ok", len(receiver.requests)
    assert alerts("retry", "--all")[0] == 0
    wait_for(lambda: served.get("/v1/alerts").json()["channels"][0]["delivered"] == 1)
    assert (dead(served), len(receiver.requests)) == ([], refused + 1)
    assert b'regime_alerts_dead{channel="team"} 0.0' in served.get("/metrics").body

    # And where none runs, for the next one.
    receiver.mood = "refuse"
    for i in (4, 5, 6):  # Trades again, and is paused twice more; the last two are about the same stream.
        body = {**STREAM, "ts_ms": i * 300_000, "features": {"a": 1.0 if i == 4 else None}}
        assert served.post("/v1/observations", body).status == 200
    wait_for(lambda: len(dead(served)) == 2)
    over, _ = dead(served)
    served.kill()
    assert alerts("drop", str(over)) == (0, "1 alert is forgotten\n", "")
    assert alerts("drop", str(over))[0] == 2
    assert alerts("retry", "--all") == (
        0, "1 alert is sent again as soon as the service is started; none runs here\n", "",
    )  # fmt: skip
    assert "waiting" in alerts("list")[1] and "dead" not in alerts("list")[1]
    receiver.mood, before = "ok", len(receiver.requests)
    served = serve(CONFIG)
    wait_for(lambda: served.get("/v1/alerts").json()["channels"][0]["delivered"] == 1)
    time.sleep(0.5)
    (told,) = receiver.requests[before:]
    assert "PAUSED: m BTC/USDT:USDT 5m" in told.json()["text"]
    assert dead(served) == []


@pytest.mark.acceptance
def test_a_locked_service_takes_the_word_of_an_admin_only_and_keeps_whose_it_was(
    receiver: HttpReceiver, serve: Callable[..., Served], tmp_path: Path
) -> None:
    receiver.mood = "refuse"
    keys = {
        scope: regime(tmp_path, "keys", "create", "--scope", scope, "--store", "store.db").stdout.strip()
        for scope in ("read", "ingest", "admin")
    }
    served = serve(CONFIG)
    host, port = served.address.split(":")

    def ask(method: str, path: str, key: str, body: object = None) -> Answer:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        return served.request(method, path, None if body is None else json.dumps(body).encode(), headers)

    for i, value in enumerate((1.0, 2.0, 1.0, None)):
        sent = {**STREAM, "ts_ms": i * 300_000, "features": {"a": value}}
        assert ask("POST", "/v1/observations", keys["ingest"], sent).status == 200
    wait_for(lambda: ask("GET", "/v1/alerts", keys["read"]).json()["dead"])
    (dead,) = ask("GET", "/v1/alerts", keys["read"]).json()["dead"]
    word = {"ids": [dead["id"]], "actor": "ana", "reason": "mended"}
    for action in ("retry", "drop"):
        for scope, status in (("read", 403), ("ingest", 403)):
            assert ask("POST", f"/v1/alerts/{action}", keys[scope], word).status == status
        assert served.request("POST", f"/v1/alerts/{action}").status == 401
    here = ("alerts", "drop", "--all", "--config", "config.toml", "--host", host, "--port", port)
    for key in ("", keys["read"]):
        refused = regime(tmp_path, *here, key=key)
        assert (refused.returncode, "REGIME_KEY" in refused.stderr) == (2, True), refused
    assert [one["id"] for one in ask("GET", "/v1/alerts", keys["read"]).json()["dead"]] == [dead["id"]]

    # What cannot be read changes nothing.
    for status, body in (
        (422, {"actor": "ana", "reason": "x"}), (422, {**word, "ids": []}), (422, {**word, "ids": [0]}),
        (422, {**word, "ids": ["1"]}), (422, {**word, "all": True}), (422, [1]), (404, {**word, "ids": [2**62]}),
        (404, {**word, "ids": [dead["id"], 4711]}), (422, {**word, "actor": ""}),
    ):  # fmt: skip
        refused = ask("POST", "/v1/alerts/drop", keys["admin"], body)
        assert refused.status == status, (body, refused.body)
    assert ask("POST", "/v1/alerts/retry?all=1", keys["admin"], word).status == 422
    assert [one["id"] for one in ask("GET", "/v1/alerts", keys["read"]).json()["dead"]] == [dead["id"]]

    done = ask("POST", "/v1/alerts/drop", keys["admin"], word)
    assert (done.status, done.json()) == (200, {"ids": [dead["id"]]})
    assert ask("POST", "/v1/alerts/drop", keys["admin"], word).status == 404
    assert ask("GET", "/v1/alerts", keys["read"]).json()["dead"] == []
    paths = served.request("GET", "/openapi.json").json()["paths"]
    assert {"/v1/alerts/retry", "/v1/alerts/drop"} <= paths.keys()
    served.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as store:
        (kept,) = store.execute("SELECT body FROM outbox WHERE message_key = ?", (f"dropped {dead['id']}",)).fetchone()
    said = json.loads(kept)["word"]
    assert (said["action"], said["actor"], said["reason"]) == ("drop", "ana", "mended")
    assert said["key_id"] == keys["admin"][4:12]


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
