"""The shipped example of a reverse proxy, run: a real Caddy with TLS in front of a real service with keys."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from regime_service.keys import create
from regime_service.testing import Served

CADDYFILE = Path(__file__).parents[2] / "deploy" / "Caddyfile"
NAME = "regime.example.com"
MINUTE_MS = 60_000
CANDLE_MS = 5 * MINUTE_MS
FIRST_MS = 1_760_000_100_000


class Proxied(NamedTuple):
    """What a bot on the internet sees: the proxy under its name. `served` is what stands behind it."""

    client: httpx.Client
    token: str
    served: Served

    def ask(self, method: str, path: str, *, key: bool = True, **options: object) -> httpx.Response:
        headers = {"Host": NAME, **({"Authorization": f"Bearer {self.token}"} if key else {})}
        headers |= options.pop("headers", {})  # type: ignore[arg-type]
        return self.client.request(
            method, path, headers=headers, extensions={"sni_hostname": NAME}, **options,  # type: ignore[arg-type]
        )  # fmt: skip


def candle(number: int) -> dict[str, object]:
    return {
        "model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m", "ts_ms": FIRST_MS + number * CANDLE_MS,
        "features": {"rsi": 50.0 + number % 7},
    }  # fmt: skip


@pytest.fixture
def proxied(tmp_path: Path, serve: Callable[..., Served], need: Callable[[object, str], None]) -> Iterator[Proxied]:
    program = shutil.which("caddy")
    need(program, "Caddy is missing: apt-get install caddy")
    _, token = create(tmp_path / "store.keys.json", name="bot", scopes=["admin"])
    served = serve(f'clock = "event"\nwarmup_observations = 3\n[server]\nhosts = ["{NAME}"]\n')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = CADDYFILE.read_text("utf-8")
    for shipped, here in (
        # What a machine without a name on the internet is told to write, and ports that nobody else has.
        (f"\n{NAME} {{\n", f"\nhttps://{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls internal\n"),
        ("reverse_proxy 127.0.0.1:8080", f"reverse_proxy {served.address}"),
        ("{\n\tservers {", "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tservers {"),
    ):
        assert text.count(shipped) == 1
        text = text.replace(shipped, here)
    (tmp_path / "Caddyfile").write_text(text, "utf-8")
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with (tmp_path / "caddy.log").open("wb") as log:
        process = subprocess.Popen(
            [program or "", "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    try:
        root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        until_s = time.monotonic() + 60
        while not root.exists():
            _still(process, until_s, tmp_path / "caddy.log")
        trust = ssl.create_default_context(cafile=root)
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=30) as client:
            found = Proxied(client, token, served)
            while True:
                with contextlib.suppress(httpx.TransportError):
                    found.ask("GET", "/healthz")
                    break
                _still(process, until_s, tmp_path / "caddy.log")
            yield found
    finally:
        process.terminate()
        process.wait(20)


def _still(process: subprocess.Popen[bytes], until_s: float, log: Path) -> None:
    assert process.poll() is None and time.monotonic() < until_s, log.read_text()
    time.sleep(0.05)


def test_a_bot_works_through_the_proxy_and_hears_of_a_pause_at_once(proxied: Proxied) -> None:
    assert proxied.ask("GET", "/readyz", key=False).status_code == 401
    ready = proxied.ask("GET", "/readyz")
    assert ready.status_code == 200
    assert ready.headers["strict-transport-security"] == "max-age=31536000"
    assert "content-security-policy" in proxied.ask("GET", "/").headers

    sent = proxied.ask("POST", "/v1/observations", json=[candle(i) for i in range(5)])
    assert sent.status_code == 200, sent.text
    assert sent.json()["accepted"] == 5
    query = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
    told = proxied.ask("GET", "/v1/thresholds", params=query)
    assert told.json()["thresholds"][0]["sides"]["long"]["state"] == "ACTIVE"
    again = proxied.ask("GET", "/v1/thresholds", params=query, headers={"If-None-Match": told.headers["etag"]})
    assert again.status_code == 304, "ETag and lease pass both ways"
    assert int(again.headers["regime-valid-for-ms"]) > 0

    # Pushed answers must not wait in the proxy until there are more of them.
    headers = {"Host": NAME, "Authorization": f"Bearer {proxied.token}", "Accept": "text/event-stream"}
    with proxied.client.stream(
        "GET", "/v1/stream", params={"model": "m"}, headers=headers, extensions={"sni_hostname": NAME}
    ) as stream:
        told_of = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {"))
        states = (each["sides"]["long"]["state"] for each in told_of if "sides" in each)
        assert next(states) == "ACTIVE"
        word = {"model": "m", "state": "HALTED", "actor": "ana", "reason": "exchange is down"}
        assert proxied.ask("POST", "/v1/overrides", json=word).status_code == 200
        assert next(states) == "HALTED"


def test_the_service_knows_that_there_is_tls_and_which_name_it_goes_by(proxied: Proxied) -> None:
    answer = proxied.ask(
        "POST", "/session", key=False, data={"key": proxied.token, "next": "/"}, headers={"Origin": f"https://{NAME}"}
    )
    assert answer.status_code == 303, answer.text
    assert answer.headers["set-cookie"].startswith("__Host-")
    assert "; Secure" in answer.headers["set-cookie"]
    foreign = proxied.ask("GET", "/v1/models", headers={"Origin": "https://elsewhere.example"})
    assert foreign.status_code == 403

    # Whoever goes round the proxy under its name, or comes through it under another one, gets nothing.
    around = proxied.served.get("/v1/thresholds", {"Host": "elsewhere.example"})
    assert around.status == 403 and "elsewhere.example" in around.json()["detail"]
    other = proxied.client.get("/healthz", headers={"Host": "elsewhere.example"})
    assert other.content == b"", "Caddy knows no such site, and passes nothing on"

    large = proxied.ask("POST", "/v1/observations", content=b"[" + b" " * (9 * 1024**2) + b"]")
    # The service refuses by the length alone and closes; a proxy that is still sending may never read why.
    assert large.status_code in (413, 502)
    assert proxied.ask("GET", "/readyz").status_code == 200
