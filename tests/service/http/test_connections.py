"""Slow, silent and greedy connections against a real server, over raw sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from regime_service.http.connections import HEADER_BYTES_MAX, PIPELINE_MAX, Patience, PatientServer, protocol

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = Patience(header_s=0.5, body_s=0.5, answer_s=0.5, connections_max=4)
SLOWEST_S = 4.0
"""The patience, up to two looks of a second, and a machine that is busy."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and says how long it was; /slow takes its time, /large answers with 32 MiB."""
    length = 0
    while scope["path"] != "/refused":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        if not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(2.0)
    body = bytes(32 * 1024 * 1024) if scope["path"] == "/large" else str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Running:
    def __init__(self, patience: Patience = PATIENCE, keep_alive_s: int = 60, graceful_s: int = 1) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = self._sock.getsockname()
        config = uvicorn.Config(
            app, http=protocol(patience), ws="none", log_config=None, lifespan="off",
            timeout_keep_alive=keep_alive_s, timeout_graceful_shutdown=graceful_s,
        )  # fmt: skip
        self.server = PatientServer(config)
        self._thread = threading.Thread(target=lambda: self.server.run(sockets=[self._sock]))
        self._thread.start()
        self._open: list[socket.socket] = []
        while not self.server.started:
            time.sleep(0.01)

    def connect(self, *, receive_bytes: int | None = None) -> socket.socket:
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(SLOWEST_S)
        sock.connect(self.address)
        self._open.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        self.server.should_exit = True
        self._thread.join(20)
        self._sock.close()


def read(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection; fails where it does not end in time."""
    found = b""
    try:
        while chunk := sock.recv(65536):
            found += chunk
    except ConnectionResetError:
        pass
    return found


def answer(sock: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found or not found.partition(b"\r\n\r\n")[2]:
        chunk = sock.recv(65536)
        if not chunk:
            break
        found += chunk
    return found


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*arguments: Any, **kwargs: Any) -> Running:
        running.append(Running(*arguments, **kwargs))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_half_sent_header_is_cut_with_408_and_a_silent_connection_without_a_word(run: Callable[..., Running]) -> None:
    server = run()
    half, silent = server.connect(), server.connect()
    half.sendall(b"GET / HTTP/1.1\r\nHost: localh")
    said = read(half)
    assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"application/problem+json" in said
    assert b"connection: close" in said.lower()
    assert read(silent) == b""


def test_a_header_that_drips_is_cut_although_bytes_keep_coming(run: Callable[..., Running]) -> None:
    sock = run().connect()
    begun_s = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < begun_s + 2 * SLOWEST_S:
            sock.sendall(b"G" if time.monotonic() == begun_s else b"X")
            time.sleep(0.1)
    assert time.monotonic() - begun_s < SLOWEST_S + 1


def test_the_second_request_of_a_connection_has_a_deadline_too(run: Callable[..., Running]) -> None:
    sock = run().connect()
    sock.sendall(GET)
    assert answer(sock).startswith(b"HTTP/1.1 200")
    sock.sendall(b"GET / HT")
    assert read(sock).startswith(b"HTTP/1.1 408")


def test_a_body_that_stops_coming_is_cut_and_one_that_flows_is_not(run: Callable[..., Running]) -> None:
    server = run()
    stopped = server.connect()
    stopped.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    assert read(stopped).startswith(b"HTTP/1.1 408")
    flowing = server.connect()
    size = 16 * 16 * 1024
    flowing.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(16):  # 64 KiB a second for 4 s: far over the 0.5 s, and each piece buys time.
        flowing.sendall(bytes(size // 16))
        time.sleep(0.25)
    assert answer(flowing).endswith(str(size).encode())


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_body_is_no_header_however_large_its_last_piece(run: Callable[..., Running], pieces: int) -> None:
    sock = run().connect()
    size = 3 * HEADER_BYTES_MAX
    for _ in range(2):
        sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (size * pieces))
        for _ in range(pieces):
            time.sleep(0.05)
            sock.sendall(bytes(size))
        assert answer(sock).endswith(str(size * pieces).encode())


def test_a_body_that_was_refused_is_thrown_away_but_not_for_ever(run: Callable[..., Running]) -> None:
    server = run(PATIENCE._replace(header_s=60))
    small, endless = server.connect(), server.connect()
    for _ in range(2):
        small.sendall(b"POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n")
        assert answer(small).startswith(b"HTTP/1.1 200")
        small.sendall(bytes(300_000))
    endless.sendall(b"POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n")
    assert answer(endless).startswith(b"HTTP/1.1 200")
    with pytest.raises(OSError):
        for _ in range(900):
            endless.sendall(bytes(1_000_000))


def test_work_takes_as_long_as_it_takes(run: Callable[..., Running]) -> None:
    sock = run().connect()
    sock.sendall(GET.replace(b"/ ", b"/slow ", 1))
    assert answer(sock).startswith(b"HTTP/1.1 200")


def test_an_answer_that_nobody_reads_is_not_kept(run: Callable[..., Running]) -> None:
    server = run(PATIENCE._replace(answer_s=-2048 + 0.5))  # 32 MiB buy 2048 s.
    sock = server.connect(receive_bytes=4096)
    sock.sendall(GET.replace(b"/ ", b"/large ", 1))
    end_s = time.monotonic() + 3 * SLOWEST_S
    while server.server.server_state.connections:
        assert time.monotonic() < end_s, "the answer is still kept for a reader that does not read"
        time.sleep(0.05)


def test_a_reader_that_does_not_read_keeps_no_server_from_stopping_and_one_that_reads_is_waited_for(
    run: Callable[..., Running],
) -> None:
    server = run(graceful_s=60)
    stuck, slow = server.connect(receive_bytes=4096), server.connect()
    for sock in (stuck, slow):
        sock.sendall(GET.replace(b"/ ", b"/large ", 1))
    found = slow.recv(65536)
    server.server.should_exit = True
    begun_s = time.monotonic()
    while chunk := slow.recv(1024 * 1024):
        found += chunk
        time.sleep(0.05)
    assert len(found.partition(b"\r\n\r\n")[2]) == 32 * 1024 * 1024
    server._thread.join(10)
    assert not server._thread.is_alive()
    assert time.monotonic() - begun_s < 30


def test_a_large_answer_that_is_read_arrives_whole(run: Callable[..., Running]) -> None:
    sock = run().connect()
    sock.sendall(GET.replace(b"/ ", b"/large ", 1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert len(read(sock).partition(b"\r\n\r\n")[2]) == 32 * 1024 * 1024


def test_an_idle_connection_is_closed_after_the_keep_alive_time(run: Callable[..., Running]) -> None:
    sock = run(keep_alive_s=1).connect()
    sock.sendall(GET)
    begun_s = time.monotonic()
    assert read(sock).startswith(b"HTTP/1.1 200")
    assert 0.9 < time.monotonic() - begun_s < SLOWEST_S


def test_a_header_without_end_is_cut_by_its_size(run: Callable[..., Running]) -> None:
    sock = run(PATIENCE._replace(header_s=60)).connect()
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    said = b""
    try:
        for _ in range(100):
            sock.sendall(b"X-Fill: " + b"x" * 8000 + b"\r\n")
        said = read(sock)
    except OSError:
        pass  # It was cut while we were still sending: just as well.
    assert said == b"" or said.startswith(b"HTTP/1.1 431")
    again = run(PATIENCE._replace(header_s=60)).connect()
    again.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (HEADER_BYTES_MAX // 2) + b"\r\n\r\n")
    assert answer(again).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO there\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http_is_answered_like_every_other_error(run: Callable[..., Running], nonsense: bytes) -> None:
    sock = run().connect()
    sock.sendall(nonsense)
    said = read(sock)
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"application/problem+json" in said


def test_many_requests_on_one_connection_do_not_add_up_to_a_large_header(run: Callable[..., Running]) -> None:
    sock = run().connect()
    long = GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
    for _ in range(20):
        sock.sendall(long)
        assert answer(sock).startswith(b"HTTP/1.1 200")


def test_requests_sent_ahead_are_answered_in_order_but_not_without_bound(run: Callable[..., Running]) -> None:
    server = run()
    few, many = server.connect(), server.connect()
    few.sendall(GET * 3)
    said = b""
    while said.count(b"HTTP/1.1 200") < 3:
        chunk = few.recv(65536)
        assert chunk, said
        said += chunk
    many.sendall(GET.replace(b"/ ", b"/slow ", 1) + GET * (2 * PIPELINE_MAX))
    assert b"HTTP/1.1 200" not in read(many)


def test_the_oldest_half_sent_header_makes_room_for_a_newcomer(run: Callable[..., Running]) -> None:
    server = run(PATIENCE._replace(header_s=60))
    resting = server.connect()
    resting.sendall(GET)
    answer(resting)
    hostile = []
    for _ in range(3):
        hostile.append(server.connect())
        hostile[-1].sendall(b"GET / HT")
        time.sleep(0.05)
    bot = server.connect()
    bot.sendall(GET)
    assert answer(bot).startswith(b"HTTP/1.1 200")
    assert read(hostile[0]) == b""
    resting.sendall(GET)
    assert answer(resting).startswith(b"HTTP/1.1 200"), "one that had been answered went before a half-sent header"


def test_an_idle_connection_makes_room_where_there_is_no_half_sent_header(run: Callable[..., Running]) -> None:
    server = run()
    idle = [server.connect() for _ in range(4)]
    for sock in idle:
        sock.sendall(GET)
        answer(sock)
        time.sleep(0.05)  # The oldest goes, so one must be older than the others.
    bot = server.connect()
    bot.sendall(GET)
    assert answer(bot).startswith(b"HTTP/1.1 200")
    assert read(idle[0]) == b""


def test_when_every_connection_is_at_work_a_newcomer_gets_503(run: Callable[..., Running]) -> None:
    server = run()
    busy = [server.connect() for _ in range(4)]
    for sock in busy:
        sock.sendall(GET.replace(b"/ ", b"/slow ", 1))
    while sum(getattr(c, "at_work", False) for c in list(server.server.server_state.connections)) < 4:
        time.sleep(0.01)
    said = read(server.connect())
    assert said.startswith(b"HTTP/1.1 503")
    assert b"retry-after:" in said.lower()
    assert answer(busy[0]).startswith(b"HTTP/1.1 200")
