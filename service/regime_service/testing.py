"""Helpers for tests, ours and yours: a clock wound by hand, a channel that listens, a service in its own process."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from regime_service.alerts import DELIVERED, Alert, Delivery


class HandClock:
    """A clock in milliseconds that is wound by hand."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms

    def now_ms(self) -> int:
        """Return what it is wound to."""
        return self.ms

    def not_before(self, ms: int) -> None:
        """It is what it is."""

    def behind(self) -> str | None:
        """It is never wrong."""
        return None


class CapturingChannel:
    """An alert channel that keeps what it was given, and answers what it is told to: `results`, then "delivered"."""

    def __init__(self, *results: Delivery, batch_max: int = 1) -> None:
        self.batch_max = batch_max
        self.results = list(results)
        self.tried: list[list[Alert]] = []
        self.delivered: list[Alert] = []

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        self.tried.append(list(alerts))
        found = self.results.pop(0) if self.results else DELIVERED
        if found.result == "delivered":
            self.delivered += alerts
        return found


class Answer:
    """One HTTP answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """`regime serve` in a process of its own, on a free port, with its store in `folder`.

    Started again in the same folder it continues from the same store. Whoever starts it ends it: `stop` or `kill`.
    Raises `RuntimeError` with what it printed when it does not start.
    """

    program: tuple[str, ...] = ("-m", "regime_service.cli")
    """What Python is given to run; a subclass may start the command inside a program of its own."""
    patience_s = 30.0
    """How long it may take to end; then `subprocess.TimeoutExpired`."""

    def __init__(self, folder: Path, config: str = 'clock = "event"\n', *arguments: str) -> None:
        (folder / "config.toml").write_text(config, "utf-8")
        self.store = folder / "store.db"
        self.process = subprocess.Popen(
            [
                sys.executable, *self.program, "serve", "--config", str(folder / "config.toml"),
                "--store", str(self.store), "--port", "0", *arguments,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            _, said = self.process.communicate(timeout=20)
            raise RuntimeError(f"the service did not start: {line}{said}")
        self.address = line.split("http://")[1].strip()
        self._connection: http.client.HTTPConnection | None = None

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.address, timeout=60)
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, headers: dict[str, str] | None = None, **query: str) -> Answer:
        return self.request("GET", f"{path}?{urlencode(query)}" if query else path, headers=headers)

    def post(self, path: str, body: Any, content_type: str = "application/json") -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, raw, {"Content-Type": content_type})

    def put(self, path: str, body: bytes, content_type: str) -> Answer:
        return self.request("PUT", path, body, {"Content-Type": content_type})

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up. Harmless when it has ended already."""
        self.process.kill()
        self._leave()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._leave()

    def _leave(self) -> int:
        if self._connection is not None:
            self._connection.close()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate(timeout=self.patience_s)
        return self.process.returncode
