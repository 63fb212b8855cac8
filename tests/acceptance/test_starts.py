"""Starts, as a supervisor and a bot see them: something is said from the first moment on, no loop is without end."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from regime_service.testing import Served

STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
CONFIG = """
clock = "event"
warmup_observations = 5
detectors = []
[[rules]]
kind = "moody.Moody"
"""
MOODY = """
import os, signal, time

class Moody:
    code = "moody"
    def judge(self, view):
        if view.data.observations == 7 and "DEADLY" in os.environ:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(float(os.environ.get("SLOW_S", "0")))
"""
Serve = Callable[..., Served]

pytestmark = pytest.mark.acceptance


def fill(serve: Serve, folder: Path) -> None:
    """A store with ten events and no snapshot."""
    (folder / "moody.py").write_text(MOODY, "utf-8")
    served = serve(CONFIG)
    rows = [{**STREAM, "ts_ms": i * 300_000, "features": {"a": i % 3}} for i in range(10)]
    assert served.post("/v1/observations", rows).json()["accepted"] == 10
    served.stop()
    connection = apsw.Connection(str(folder / "store.db"))
    connection.execute("DELETE FROM snapshots")
    connection.close()


def test_a_start_that_dies_again_and_again_ends_in_a_503_that_names_the_event(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(serve, tmp_path)
    monkeypatch.setenv("DEADLY", "1")
    died, served = 0, None
    while served is None and died < 6:
        try:
            served = serve(CONFIG)
        except RuntimeError:
            died += 1
    assert served is not None and died == 2, "the third start is rehearsed"
    told = served.get("/v1/thresholds", **STREAM)
    assert (told.status, served.get("/readyz").status, served.get("/healthz").status) == (503, 503, 200)
    assert "judging event 7 of the log ends this program (signal 11" in told.json()["detail"]
    assert served.post("/v1/observations", {**STREAM, "ts_ms": 9_000_000, "features": {"a": 1}}).status == 503
    assert served.stop() == 0
    # A program that can judge it: nothing is lost, and nothing has to be reset by hand.
    monkeypatch.delenv("DEADLY")
    mended = serve(CONFIG)
    assert mended.get("/v1/explain", **STREAM).json()["data"]["observations"] == 10


@pytest.mark.parametrize("end", ["when it is ready", "while it starts"])
def test_while_a_long_log_is_judged_anew_it_says_so_and_how_far_it_is(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    fill(serve, tmp_path)
    monkeypatch.setenv("SLOW_S", "0.1")  # for each side of each event: two seconds
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "regime_service.cli", "serve", "--config", "config.toml", "--store", "store.db",
         "--port", str(port)], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()))  # type: ignore[union-attr]
    reader.start()

    def ask(path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    said, until_s = [], time.monotonic() + 60
    try:
        while time.monotonic() < until_s:
            try:
                status, body = ask("/v1/thresholds?model=m&symbol=BTC/USDT:USDT&timeframe=5m")
            except OSError:
                assert not said
                continue
            if status == 200:
                break
            assert (status, ask("/healthz")[0]) == (503, 200)
            assert lines == [], "it is announced when it can answer"
            said.append(body["detail"])
            if end == "while it starts" and "event" in body["detail"]:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                break
            time.sleep(0.05)
        assert any("it judges its log anew, event" in words and "of 10" in words for words in said)
        if end == "when it is ready":
            reader.join(20)
            assert f"http://127.0.0.1:{port}" in lines[0]
    finally:
        process.kill()
        process.wait()
        reader.join(20)
        process.stdout.close()
