"""An answer is the same bytes on the wire whichever way it takes: at once, in a task, or message by message."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings

from regime_service.http import auth
from regime_service.http.connections import PIPELINE_MAX, Patience, PatientServer, protocol
from regime_service.keys import KeyRing, create, revoke

QUERY = b"model=m&symbol=BTC/USDT:USDT&timeframe=5m"


class Wire:
    """The app of a service behind a real server; `ask` sends bytes and returns what comes until the line closes."""

    def __init__(self, app: Any, way: str) -> None:
        async def by_messages(scope: Any, receive: Any, send: Any) -> None:
            # uvicorn's own `send` is hidden, so that no shortcut can be taken.
            async def hidden(message: Any) -> None:
                await send(message)

            await app(scope, receive, hidden)

        at_once = app.at_once if way == "at once" else lambda _scope: None
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = self._sock.getsockname()
        self.server = PatientServer(
            uvicorn.Config(
                by_messages if way == "messages" else app, http=protocol(Patience(), at_once=at_once), ws="none",
                log_config=None, lifespan="off", date_header=False, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=lambda: self.server.run(sockets=[self._sock]))
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def ask(self, raw: bytes) -> bytes:
        with socket.create_connection(self.address, timeout=20) as sock:
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            found = b""
            while chunk := sock.recv(65536):
                found += chunk
        return found

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        self._sock.close()


@pytest.fixture
def ways(
    make_service: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[str, Wire], list[bytes]]]:
    """The same service in three servers, and keys: a good one, one that may too little, and a revoked one."""
    monkeypatch.setattr(auth, "WRONG_BURST", 10**6)  # Else the ways would take each other's tries.
    path = tmp_path / "s.keys.json"
    made = [create(path, name=str(i), scopes=["ingest"]) for i in range(3)]
    revoke(path, made[2][0].id)
    service = make_service(ports={"keys": KeyRing(path), "requests_per_s": 1e6, "requests_burst": 10**6})
    rows = [service.observation(i - 2) for i in range(3)]
    service.request("POST", "/v1/observations", json=rows, headers={"Authorization": f"Bearer {made[0][1]}"})
    wires = {way: Wire(service.app, way) for way in ("at once", "task", "messages")}
    yield wires, [token.encode() for _, token in made]
    for wire in wires.values():
        wire.close()


paths = st.sampled_from(
    [b"/", b"/healthz", b"/readyz", b"/docs", b"/openapi.json", b"/v1/nothing", b"/v1/overrides/x", b"/v1/explain"]
)
targets = st.sampled_from([b"/v1/thresholds?" + QUERY] * 3 + [b"/v1/thresholds", b"/v1/thresholds?model=%ff"]) | paths


def test_three_ways_give_the_same_bytes(ways: tuple[dict[str, Wire], list[bytes]]) -> None:
    wires, tokens = ways
    etag = re.search(rb"(?i)etag: (.*)\r", wires["task"].ask(
        b"GET /v1/thresholds?%b HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n" % (QUERY, tokens[0])
    ))  # fmt: skip
    assert etag is not None
    right = [b"Bearer " + tokens[0]] * 5
    bearers = st.sampled_from([*right, b"Bearer " + tokens[2], b"Bearer x", b"", b"bearer  " + tokens[1]])
    headers = st.fixed_dictionaries(
        {b"Host": st.sampled_from([b"localhost"] * 6 + [b"evil.example", b"localhost:1"]), b"Authorization": bearers},
        optional={
            b"If-None-Match": st.sampled_from([etag[1], b'W/"x"', b"*", etag[1][2:]]),
            b"Connection": st.sampled_from([b"close", b"keep-alive"]),
            b"Sec-Fetch-Site": st.sampled_from([b"none", b"cross-site"]),
            b"Content-Length": st.sampled_from([b"0", b"99999999999"]),
            b"X-Forwarded-For": st.just(b"10.1.2.3"),
            b"X-More": st.just(b"x"),
        },
    )
    methods = st.sampled_from([b"GET"] * 6 + [b"HEAD", b"POST", b"OPTIONS"])
    versions = st.sampled_from([b"HTTP/1.1"] * 3 + [b"HTTP/1.0"])
    seen: set[bytes] = set()

    @settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(
        method=methods, target=targets, version=versions, fields=headers, twice=st.integers(0, 9).map(lambda n: n == 0)
    )
    def same(method: bytes, target: bytes, version: bytes, fields: dict[bytes, bytes], twice: bool) -> None:
        lines = [b"%b: %b" % field for field in fields.items()]
        lines += [b"Host: localhost"] if twice else []
        raw = b"\r\n".join([b"%b %b %b" % (method, target, version), *lines, b"", b""])
        found = {way: sorted_headers(wire.ask(raw)) for way, wire in wires.items()}
        assert found["at once"] == found["task"] == found["messages"]
        seen.add(found["task"].split(b" ")[1])

    same()
    assert {b"200", b"304", b"401", b"403", b"404", b"405", b"422"} <= seen, "too little was asked to prove anything"


def sorted_headers(answer: bytes) -> bytes:
    """The answer with its headers in one order and without what changes with the time."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    body = re.sub(rb"incident [0-9a-f]+", b"", re.sub(rb'"(server_time_ms|valid_for_ms)":\d+', b"", body))
    return b"\r\n".join([status, *sorted(lines), b"", body])


def test_a_harness_that_compares_nothing_would_not_see_a_lost_header() -> None:
    assert sorted_headers(b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\n\r\nx") == sorted_headers(
        b"HTTP/1.1 200 OK\r\nb: 2\r\na: 1\r\n\r\nx"
    )
    assert sorted_headers(b"HTTP/1.1 200 OK\r\na: 1\r\n\r\nx") != sorted_headers(b"HTTP/1.1 200 OK\r\n\r\nx")


def test_requests_sent_ahead_are_all_answered_and_in_order(ways: tuple[dict[str, Wire], list[bytes]]) -> None:
    wires, tokens = ways
    head = b"Host: localhost\r\nAuthorization: Bearer %b\r\n\r\n" % tokens[0]
    asked = [b"/healthz", b"/v1/thresholds?" + QUERY, b"/v1/nothing", b"/", b"/metrics"] * 5
    raw = b"".join(b"GET %b HTTP/1.1\r\n%b" % (target, head) for target in asked)
    for wire in wires.values():
        with socket.create_connection(wire.address, timeout=20) as sock:
            sock.sendall(raw)
            found = b""
            while found.count(b"HTTP/1.1 ") < len(asked):
                chunk = sock.recv(65536)
                assert chunk, found
                found += chunk
        statuses = re.findall(rb"HTTP/1.1 (\d+)", found)
        assert statuses == [b"200", b"200", b"404", b"200", b"200"] * 5


def test_more_requests_sent_ahead_than_are_borne_end_the_connection(
    ways: tuple[dict[str, Wire], list[bytes]],
) -> None:
    """One read may hold thousands of requests: they are not all answered while everybody else waits."""
    wires, _ = ways
    for wire in wires.values():
        with socket.create_connection(wire.address, timeout=20) as sock:
            try:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * (8 * PIPELINE_MAX))
                found = b""
                while chunk := sock.recv(65536):
                    found += chunk
            except ConnectionError:
                pass
            assert found.count(b"HTTP/1.1 200") <= 2 * PIPELINE_MAX
