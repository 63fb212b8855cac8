"""A real Prometheus of a test's own: on a free port of loopback, its data in the test's folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MISSING = "Prometheus is missing: apt-get install prometheus"
JOB = "regimegate"
START_S = 30.0


def program() -> str | None:
    """Where it is; None where it is not installed."""
    return shutil.which("prometheus")


class PrometheusServer:
    """A context manager. `targets` (host:port) are scraped every `every_s` seconds, `rules` are rule files."""

    def __init__(self, folder: Path, targets: Sequence[str], *, rules: Sequence[Path] = (), every_s: int = 1) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        config = {
            "global": {"scrape_interval": f"{every_s}s", "scrape_timeout": f"{every_s}s", "evaluation_interval": "1s"},
            "rule_files": [str(file) for file in rules],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")  # JSON is YAML.
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrometheusServer:
        found = program()
        assert found is not None, MISSING
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [found, f"--config.file={self._folder}/prometheus.yml", f"--storage.tsdb.path={self._folder}/data",
                 f"--web.listen-address={self.address}", "--log.level=warn", "--enable-feature=exemplar-storage"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until_s = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=2):
                    return self
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > until_s:
                    self.__exit__()
                    raise RuntimeError(
                        f"Prometheus did not start: {(self._folder / 'prometheus.log').read_text('utf-8', 'replace')}"
                    ) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def ask(self, path: str, **query: str | float) -> Any:
        """Return `data` of an answer of its API; what it refused is a `ValueError` in its own words."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode("utf-8", "replace")) from None

    def await_scrape(self) -> None:
        """Wait until its targets have answered once: it finds them some seconds after it has started."""
        until_s = time.monotonic() + START_S
        while [found["value"][1] for found in self.ask("query", query="up")["result"]] != ["1"]:
            if time.monotonic() > until_s:
                raise RuntimeError(f"nothing was scraped: {self.ask('targets')['activeTargets']}")
            time.sleep(0.1)

    def over(self, expr: str, start_s: float, end_s: float, step_s: float = 1.0) -> list[dict[str, Any]]:
        """Return the series of an expression between two moments."""
        found: list[dict[str, Any]] = self.ask("query_range", query=expr, start=start_s, end=end_s, step=step_s)[
            "result"
        ]
        return found
