"""The service the demo plays against: a real `regime serve` in a process of its own, and a real HTTP connection to it.

The process is ended by its own id, whatever way the demo ends. It is in a process group of its own, so that a Ctrl-C
in the terminal reaches the demo alone, which then ends it in order.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from regime.events import Equity, Event, Observation, StreamKey, Trade
from regime.reference import Reference
from regime.simulate import Scenario
from regime_service.demo.bot import Answer

HOST = "127.0.0.1"
START_S = 60.0
"""How long the service may take to answer at first: on a cold disk its libraries alone take many seconds to load."""
STOP_S = 15.0
REQUEST_S = 120.0
_ANNOUNCED = "answers at "
_LOG_LINES = 12


class DemoFailed(Exception):
    """The service did not start, did not answer, or answered with an error; the message says which."""


def config_toml(scenario: Scenario) -> str:
    """Return the configuration of the demo's service: event time, and the rules of its bot; else the defaults."""
    return "\n".join(
        [
            'clock = "event"',
            "",
            f"[models.{scenario.model}]",
            f"entry = {scenario.entry_threshold}",
            f"exit = {scenario.exit_threshold}",
            f"fee_ratio = {scenario.fee_ratio}",
            "",
            f"[models.{scenario.model}.exits]",
            f"take_profit_ratio = {scenario.take_profit_ratio}",
            f"stop_loss_ratio = {scenario.stop_loss_ratio}",
            f"max_hold_candles = {scenario.hold_max}",
            f"exit_probability = {scenario.exit_threshold}",
            "",
        ]
    )


def port_or_any(wanted: int) -> int:
    """Return `wanted` if nobody listens there, else 0: the service then takes a free one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            return 0
    return wanted


class Service:
    """A running `regime serve`; a context manager that ends it.

    Parameters
    ----------
    folder
        Where its configuration and log are kept.
    config
        The configuration, as TOML.
    store
        Its store.
    port
        Where it should listen; 0 takes a free port.
    """

    def __init__(self, *, folder: Path, config: str, store: Path, port: int) -> None:
        self._folder, self._config, self._store, self._port = folder, config, store, port
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def __enter__(self) -> Service:
        config = self._folder / "demo.toml"
        config.write_text(self._config, "utf-8")
        command = [
            sys.executable, "-P", "-m", "regime_service.cli", "serve", "--config", str(config),
            "--host", HOST, "--port", str(self._port), "--store", str(self._store), "--clock", "event",
            "--mode", "enforce",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # It hangs, or somebody is in a hurry. Its store survives that: it is written for it.
            process.kill()
            process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    @property
    def _log(self) -> Path:
        return self._folder / "service.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def await_answer(self) -> str:
        """Wait until it says where it answers, and return that address. Raises `DemoFailed` with its own words."""
        assert self._process is not None and self._process.stdout is not None
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stdout = self._process.stdout
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_S)
        except queue.Empty:
            raise DemoFailed(f"the service did not answer within {START_S:.0f} s") from None
        if _ANNOUNCED not in line:
            raise DemoFailed("the service ended before it answered")
        self.address = line.rpartition(_ANNOUNCED)[2].strip()
        return self.address

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def last_words(self) -> str:
        """Return the end of its log, to be put after a sentence; empty where it said nothing."""
        lines = self._log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:] if self._log.exists() else []
        return "; its last words were:\n  " + "\n  ".join(lines) if lines else ""


class _Reply(msgspec.Struct):
    thresholds: list[Answer]


class HttpLine:
    """The bot's line: one connection that is kept open. Raises `DemoFailed` where the service refuses or is gone."""

    def __init__(self, address: str, key: StreamKey) -> None:
        self._http = http.client.HTTPConnection(urlsplit(address).netloc, timeout=REQUEST_S)
        self._key = key
        self.requests = 0

    def close(self) -> None:
        self._http.close()

    def ask(self) -> Answer | None:
        return self._call("GET", thresholds_path(self._key))

    def observation(self, event: Observation) -> Answer | None:
        return self._post("observations", [event])

    def trades(self, events: Sequence[Trade]) -> Answer | None:
        return self._post("trades", events)

    def equity(self, event: Equity) -> Answer | None:
        return self._post("equity", [event])

    def reference(self, body: bytes, version: str, *, trained_until_ms: int) -> None:
        """Register the training period, a Parquet file; returns when it is in force."""
        query = {
            "symbol": self._key.symbol, "timeframe": self._key.timeframe, "trained_until_ms": str(trained_until_ms),
        }  # fmt: skip
        path = f"/v1/models/{quote(self._key.model, safe='')}/references/{quote(version, safe='')}?{urlencode(query)}"
        status, location, _ = self._send("PUT", path, body, "application/vnd.apache.parquet")
        until_s = time.monotonic() + REQUEST_S
        while status == http.client.ACCEPTED:  # It still calibrates, and says where to ask.
            if not location or time.monotonic() > until_s:
                raise DemoFailed(f"the reference was not in force within {REQUEST_S:.0f} s")
            time.sleep(0.1)
            status, location, _ = self._send("GET", location)

    def _post(self, what: str, events: Sequence[Event]) -> Answer | None:
        body = b"[" + b",".join(_plain(event) for event in events) + b"]"
        return self._call("POST", f"/v1/{what}", body)

    def _call(self, method: str, path: str, body: bytes | None = None) -> Answer | None:
        _, _, raw = self._send(method, path, body)
        try:
            answers = msgspec.json.decode(raw, type=_Reply).thresholds
        except msgspec.MsgspecError as error:
            raise DemoFailed(f"{method} {path}: the answer is none the contract knows: {error}") from None
        return answers[0] if answers else None

    def _send(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, str, bytes]:
        headers: Mapping[str, str] = {} if body is None else {"Content-Type": content_type}
        self.requests += 1
        try:
            self._http.request(method, path, body, headers)
            response = self._http.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(f"{method} {path}: the service did not answer ({error})") from None
        if response.status >= http.client.MULTIPLE_CHOICES:
            raise DemoFailed(f"{method} {path}: {response.status} {raw[:500].decode('utf-8', 'replace')}")
        return response.status, response.headers.get("Location", ""), raw


def _plain(event: Event) -> bytes:
    """Return the event as a client writes it: without the `kind`, which the address says already."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def thresholds_path(key: StreamKey) -> str:
    """Return the path that answers with the thresholds of one stream.

    >>> thresholds_path(StreamKey("m", "BTC/USDT:USDT", "5m"))
    '/v1/thresholds?model=m&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m'
    """
    return "/v1/thresholds?" + urlencode(key._asdict())


def parquet(sample: Reference) -> bytes:
    """Return a reference as the body of a PUT: one row a candle, one column a feature. Parquet is the fastest read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: sample.values[:, i] for i, name in enumerate(sample.names)}
    extras = {
        "ts_ms": sample.ts_ms, "probability_long": sample.probability_long,
        "probability_short": sample.probability_short,
    }  # fmt: skip
    table = pa.table({**columns, **{name: values for name, values in extras.items() if values is not None}})
    out = io.BytesIO()
    pq.write_table(table, out, compression="none")
    return out.getvalue()
