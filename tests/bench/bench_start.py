"""From SIGKILL to an answer: how long a service that was killed takes to say something safe, and to say what is right.

    python tests/bench/bench_start.py [--features 200] [--rows 3000] [--streams 4] [--rounds 5]

A service judges `rows` observations of each stream against a reference, with the detectors of the shipped
configuration, and is killed with SIGKILL while more come in. Then it is started again, from nothing but its store:

* `first word`: the first HTTP answer of any kind. Until the state is there it is a 503 with the reason, and a bot goes
  on with what it holds until its lease is over, then pauses;
* `warm`: the first 200, which must be the answer of before the kill or a later one.

Seconds on the wall, from the start of the process (importing everything is part of it). Then the same with the newest
snapshots gone, so that the whole log is judged anew: what a new version or another configuration costs once.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

CANDLE_MS = 300_000
CONFIG = 'clock = "event"\n'


class Start(NamedTuple):
    """Seconds until the first word and the first right answer; the reasons that were given in between."""

    word_s: float
    warm_s: float
    status: int


class Killed:
    """A service on a port of its own, killed and started again."""

    def __init__(self, folder: Path, streams: int) -> None:
        self.store = folder / "store.db"
        self._config = folder / "config.toml"
        self._config.write_text(CONFIG, "utf-8")
        with contextlib.closing(socket.socket()) as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = sock.getsockname()[1]
        self.symbols = [f"S{i}" for i in range(streams)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Start:
        began_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "regime_service.cli", "serve", "--config", str(self._config), "--store",
             str(self.store), "--port", str(self._port)], stdout=subprocess.DEVNULL,
        )  # fmt: skip
        word_s, first = 0.0, 0
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, _ = self.get(self.symbols[-1])
                if not first:
                    word_s, first = time.monotonic() - began_s, status
                if status in (200, 404):  # 404: a store without the stream, at the very first
                    return Start(word_s, time.monotonic() - began_s, first)
            if self._process.poll() is not None:
                raise RuntimeError(f"it ended with {self._process.returncode}")
            time.sleep(0.002)

    def get(self, symbol: str) -> tuple[int, Any]:
        return self.request("GET", f"/v1/thresholds?model=m&symbol={symbol}&timeframe=5m")

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def versions(self) -> dict[str, int]:
        return {symbol: self.get(symbol)[1]["thresholds"][0]["version"] for symbol in self.symbols}

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def bodies(symbols: list[str], features: int, first: int, rows: int) -> Iterator[bytes]:
    rng = random.Random(first)
    for at in range(first, first + rows, 50):
        yield json.dumps(
            [
                {"model": "m", "symbol": symbol, "timeframe": "5m", "ts_ms": i * CANDLE_MS,
                 "features": {f"f{j}": rng.gauss(0, 1) for j in range(features)}}
                for i in range(at, min(at + 50, first + rows)) for symbol in symbols
            ]
        ).encode()  # fmt: skip


def send(service: Killed, features: int, first: int, rows: int) -> None:
    for body in bodies(service.symbols, features, first, rows):
        status, said = service.request("POST", "/v1/observations", body, "application/json")
        if status != 200:
            raise RuntimeError(f"{status}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Killed(Path(folder), options.streams)
        try:
            empty = service.start()
            rng = random.Random(7)
            names = ",".join(f"f{j}" for j in range(options.features))
            sample = "\n".join(",".join(f"{rng.gauss(0, 1):.6f}" for _ in range(options.features)) for _ in range(2000))
            for symbol in service.symbols:
                status, said = service.request(
                    "PUT", f"/v1/models/m/references/v1?symbol={symbol}&timeframe=5m", f"{names}\n{sample}".encode(),
                    "text/csv",
                )  # fmt: skip
                if status != 200:
                    raise RuntimeError(f"{status}: {said}")
            began_s = time.monotonic()
            send(service, options.features, 0, options.rows)
            judged_s = time.monotonic() - began_s
            print(
                f"{options.streams} streams, {options.features} features, {options.rows} observations each, stored and "
                f"judged in {judged_s:.1f} s"
            )
            print(f"{'':>28} {'first word':>10} {'warm':>7}  (seconds; median, and the slowest)")
            print(f"{'an empty store':>28} {empty.word_s:>10.2f} {empty.warm_s:>7.2f}")
            at = options.rows
            for name, forget in (("killed, with snapshots", False), ("killed, without snapshots", True)):
                starts = []
                for _ in range(options.rounds if not forget else 1):
                    send(service, options.features, at, 50)
                    at += 50
                    before = service.versions()
                    service.kill()
                    if forget:
                        connection = apsw.Connection(str(service.store))
                        connection.execute("DELETE FROM snapshots")
                        connection.close()
                    starts.append(service.start())
                    if any(after < before[symbol] for symbol, after in service.versions().items()):
                        raise RuntimeError("a version fell")
                words, warm = [s.word_s for s in starts], [s.warm_s for s in starts]
                print(
                    f"{name:>28} {statistics.median(words):>10.2f} {statistics.median(warm):>7.2f}"
                    f"  (at most {max(words):.2f} and {max(warm):.2f}; the first word was "
                    f"{', '.join(sorted({str(s.status) for s in starts}))})",
                    flush=True,
                )
        finally:
            service.kill()


if __name__ == "__main__":
    main()
