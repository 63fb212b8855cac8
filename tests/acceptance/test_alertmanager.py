"""The second path to an operator, with the real programs: demo bot, service, Prometheus, rule, Alertmanager, webhook.

It does not depend on the service being able to send: a service that is gone is noticed here and nowhere else. The
rules are those of `grafana/rules`, with their waiting times cut to a second; without that folder, a rule of this file.
The same pause goes by the service's own webhook as well: both must say the same of the same stream.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alert_receivers import HttpReceiver

from regime.events import Observation, StreamKey
from regime.simulate import Scenario, simulate
from regime_service.demo.bot import Bot
from regime_service.demo.service import HttpLine, config_toml, parquet
from regime_service.testing import Served

RULES = """groups:
  - name: regimegate
    rules:
      - alert: RegimePaused
        expr: max by (model, symbol, timeframe, side) (regime_state{state="REDUCING"}) == 1
        for: 5m
        labels: { severity: ticket }
        annotations: { summary: "{{ $labels.model }} {{ $labels.symbol }}: the {{ $labels.side }} side is paused" }
      - alert: RegimeServiceAbsent
        expr: absent(up{job="regimegate"} == 1)
        for: 1m
        labels: { severity: page }
        annotations: { summary: "the service does not answer" }
"""
ALERTS = """
[[detectors]]
kind = "adwin"
[alerts]
on_event_clock = true
[[alerts.channels]]
name = "hook"
kind = "webhook"
format = "alertmanager"
url = "http://127.0.0.1:{port}/"
secret_env = "HOOK_SECRET"
"""
HEALTHY = 80
"""Candles of a healthy market before the bot's feed breaks: more than the warm-up."""


class Feed(HttpLine):
    """The bot's line, in which a feature can lose its value."""

    broken = False

    def observation(self, event: Observation) -> Any:
        if self.broken:
            name = next(iter(event.features))
            event = msgspec.structs.replace(event, features={**event.features, name: None})
        return super().observation(event)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, program: str, *arguments: str, ready: str) -> Iterator[None]:
    """A program, from when it says that it is ready until it is ended by its own process id."""
    output = folder / f"{Path(program).name}.log"
    with output.open("wb") as out:
        process = subprocess.Popen([program, *arguments], cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(ready, timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                said = output.read_text("utf-8", "replace")[-2000:]
                assert process.poll() is None and time.monotonic() < until_s, f"{program} did not start: {said}"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def hurried(rules: str) -> str:
    """The same rules, with a second for every time that must pass before they fire."""
    return re.sub(r"(?m)^(\s+for:) \w+", r"\1 1s", rules)


def notices(receiver: HttpReceiver, alertname: str, **labels: str) -> list[str]:
    """`firing`, `resolved` ... of the alerts with these labels, in order of arrival, repetitions left out."""
    found: list[str] = []
    for request in receiver.requests:
        for one in request.json()["alerts"]:
            if {"alertname": alertname, **labels}.items() <= one["labels"].items() and found[-1:] != [one["status"]]:
                found.append(one["status"])
    return found


@pytest.mark.slow
@pytest.mark.acceptance
def test_a_pause_and_its_end_reach_a_webhook_through_prometheus_and_alertmanager(
    serve: Callable[..., Served], need: Callable[[object, str], None], repo: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    programs = {name: shutil.which(name) for name in ("prometheus", "prometheus-alertmanager", "promtool")}
    for name, found in programs.items():
        need(found, f"{name} is not installed (Debian, Ubuntu: apt install prometheus prometheus-alertmanager)")
    monkeypatch.setenv("HOOK_SECRET", "sixteen or more bytes of it")
    own, theirs = HttpReceiver(), HttpReceiver()
    scenario = Scenario(seed=5, candles=HEALTHY + 60)
    key = StreamKey(scenario.model, scenario.symbol, scenario.timeframe)
    served = serve(config_toml(scenario) + ALERTS.format(port=own.port))
    alertmanager_port, prometheus_port = free_port(), free_port()
    files = sorted((repo / "grafana" / "rules").glob("*.rules.yml"))
    texts = {file.name: hurried(file.read_text("utf-8")) for file in files} or {"own.rules.yml": hurried(RULES)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")
        checked = subprocess.run(
            [str(programs["promtool"]), "check", "rules", name], cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(  # JSON is YAML.
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": list(texts),
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]},
                "scrape_configs": [{"job_name": "regimegate", "static_configs": [{"targets": [served.address]}]}],
            }
        ),
        "utf-8",
    )
    (tmp_path / "alertmanager.yml").write_text(
        json.dumps(
            {
                "route": {
                    "receiver": "hook", "group_by": ["alertname", "model"], "group_wait": "1s",
                    "group_interval": "1s", "repeat_interval": "1h",
                },
                "receivers": [
                    {
                        "name": "hook",
                        "webhook_configs": [{"url": f"http://127.0.0.1:{theirs.port}/", "send_resolved": True}],
                    }
                ],
            }
        ),
        "utf-8",
    )  # fmt: skip
    line = Feed(f"http://{served.address}", key)

    def until(found: Callable[[], object], what: str) -> None:
        until_s = time.monotonic() + 90
        while not found():
            assert time.monotonic() < until_s, f"{what}; arrived: {[r.json() for r in theirs.requests]}"
            time.sleep(0.05)

    with (
        running(
            tmp_path, str(programs["prometheus-alertmanager"]), "--config.file=alertmanager.yml",
            "--storage.path=alertmanager", f"--web.listen-address=127.0.0.1:{alertmanager_port}",
            "--cluster.listen-address=", ready=f"http://127.0.0.1:{alertmanager_port}/-/ready",
        ),
        running(
            tmp_path, str(programs["prometheus"]), "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus",
            f"--web.listen-address=127.0.0.1:{prometheus_port}", ready=f"http://127.0.0.1:{prometheus_port}/-/ready",
        ),
    ):  # fmt: skip
        simulation = simulate(scenario)
        line.reference(parquet(simulation.reference), "v1", trained_until_ms=scenario.start_ms)
        play = Bot(simulation, line).play()
        for _ in range(HEALTHY):
            next(play)
        told = line.ask()
        assert told is not None and told.sides.long.state == "ACTIVE"
        line.broken = True
        next(play)
        until(lambda: notices(theirs, "RegimePaused", side="long", model=key.model) == ["firing"], "no pause arrived")
        until(lambda: notices(own, "RegimePaused", side="long", model=key.model) == ["firing"], "ours did not")
        linked = [one for request in theirs.requests for one in request.json()["alerts"] if "model" in one["labels"]]
        for one in linked:
            # The page of the stream, and not the board, which has no form for an override.
            page = served.get(one["annotations"]["page_url"].removeprefix("http://localhost:8080"))
            assert (page.status, key.symbol in page.body.decode()) == (200, True), one
            assert b'action="/page/override/review"' in page.body
        assert linked
        line.broken = False
        next(play)
        until(lambda: notices(theirs, "RegimePaused", side="long")[-1:] == ["resolved"], "the end did not arrive")
        until(lambda: notices(own, "RegimePaused", side="long") == ["firing", "resolved"], "the end of ours did not")
        # What it cannot say of itself: the service is gone.
        served.kill()
        until(lambda: "firing" in notices(theirs, "RegimeServiceAbsent"), "nobody noticed that the service is gone")
    line.close()
    # What ours looks like is what theirs looks like: whatever a receiver of Alertmanager's reads is in it.
    arrived, one = theirs.requests[0].json(), own.requests[0].json()
    assert arrived.keys() <= one.keys()
    assert arrived["alerts"][0].keys() <= one["alerts"][0].keys()
    for receiver in (own, theirs):
        receiver.close()
