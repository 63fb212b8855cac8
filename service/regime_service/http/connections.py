"""Connections that hold something and send nothing: how long they are borne with, and how many there may be.

uvicorn by itself waits for ever for the rest of a header, for the rest of a body and for a reader that does not read,
and keeps any number of header lines. Here each connection is in one of these phases, looked at once a second:

| phase | begins | is given |
| --- | --- | --- |
| header | connected, or the first byte after an answer | `header_s` in all, and 64 KiB |
| body | the header is complete | `body_s`, and a second more for each 16 KiB that came |
| work | the body is complete | as long as it takes |
| answer | the answer lies here unread | `answer_s`, and a second more for each 16 KiB of it |
| rest | answered, and nothing of another request has come | uvicorn's keep-alive time |

A slow line passes, a dripping one does not: bytes buy time, and time alone does not renew itself. When all places are
taken a newcomer gets that of the oldest connection which is in `header`, else in `rest`; if every one is at work, 503.

A request that waits for nothing (`at_once`: a poll of thresholds, above all) is answered here as soon as its header is
complete, without a task; every other one goes uvicorn's way. An open event stream is in `work`, and in `answer` while
its reader does not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from regime_service.http.exchange import Header, Response, Scope
from regime_service.http.problems import KINDS, problem
from regime_service.http.reply import Told, write

HEADER_BYTES_MAX = 64 * 1024
REFUSED_BYTES_MAX = 8 * 1024 * 1024
"""What is still taken, and thrown away, of a body that was refused."""
PIPELINE_MAX = 32
"""Requests that one connection may send ahead of their answers."""
RATE_BYTES_MIN = 16 * 1024
"""A second buys so many bytes of a body or an answer."""
FAREWELL_S = 1.0
"""How long a reader may read nothing of what is left for it when the server stops."""
SWEEP_TICKS = 10
"""uvicorn's ticks (0.1 s) between two looks at all connections."""


class Patience(NamedTuple):
    """How long connections are borne with (seconds), and how many there may be."""

    header_s: float = 10.0
    body_s: float = 20.0
    answer_s: float = 30.0
    connections_max: int = 512


AtOnce = Callable[[Scope], tuple[Response, tuple[Header, ...]] | None]


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end to its patience. Make one by `protocol`."""

    patience: ClassVar[Patience] = Patience()
    rests: bool
    """Whether the last request was answered and nothing of another has come."""

    @staticmethod
    def at_once(_scope: Scope) -> tuple[Response, tuple[Header, ...]] | None:
        """Answer what waits for nothing; None for the rest, which gets a task."""
        return None

    @staticmethod
    def refused(_kind: str) -> None:
        """Told the kind of each refusal."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.active_s = self.loop.time()
        self.rests = False
        self._bytes_in = self._header_bytes = self._answered_at_once = 0
        self._phase: tuple[str, object] = ("", None)
        self._phase_s, self._phase_bytes = self.active_s, 0
        if len(self.connections) > self.patience.connections_max and not self._made_room():
            self._refuse(
                503, f"All {self.patience.connections_max} connections are at work. Nothing was read. Ask again."
            )

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # Answered, and the rest is of no interest.
        before = self.cycle
        # Asked before the parser sees the data: its last piece completes the body.
        body_to_come = before is not None and before.more_body
        self.active_s = self.loop.time()
        self._bytes_in += len(data)
        self._answered_at_once = 0
        self.rests = False
        super().data_received(data)
        if self.cycle is not before:
            self._header_bytes = 0
        elif not body_to_come:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES_MAX:
                self._refuse(431, f"The header of the request is over the limit of {HEADER_BYTES_MAX:,} bytes.")
        elif before is not None and before.response_complete:
            # A body that was refused before it came; it is thrown away, but not for ever.
            self._header_bytes += len(data)
            if self._header_bytes > REFUSED_BYTES_MAX:
                self.transport.close()
        if len(self.pipeline) > PIPELINE_MAX:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._answered_at_once < PIPELINE_MAX and app is self.app:
            scope: Any = cycle.scope
            told = self.at_once(scope)
            if told is not None:
                self._answered_at_once += 1
                if write(cycle, *told):
                    return
                app = Told(*told)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """What uvicorn does, but for a timer of its own for each rest: `look` ends those."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.rests = True

    def look(self, now_s: float) -> None:
        """End the connection if it has been in its phase for longer than that is given."""
        phase, size, given_s = self._now()
        if phase != self._phase:
            self._phase, self._phase_s, self._phase_bytes = phase, now_s, size
        name, spent_s = phase[0], now_s - self._phase_s
        match name:
            case "header" if spent_s > given_s:
                if self._header_bytes:
                    self._refuse(408, f"The header of the request was not complete within {given_s:g} s.")
                else:
                    self.transport.close()
            case "body" if spent_s > given_s + (size - self._phase_bytes) / RATE_BYTES_MIN:
                self._refuse(
                    408,
                    "The body of the request came too slowly, or stopped coming. Nothing was stored. Send it again.",
                )
            case "rest" if spent_s > given_s:
                self.transport.close()
            case "answer" if spent_s > given_s + self._phase_bytes / RATE_BYTES_MIN:
                # close() would wait for the very bytes that nobody reads.
                self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as every other error is answered; `msg` is uvicorn's."""
        self._refuse(400, f"{msg.rstrip('.')}: what came is no HTTP/1.1. Nothing was read of it.")

    @property
    def at_work(self) -> bool:
        """Whether a request has come, or is coming, that was not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _now(self) -> tuple[tuple[str, object], int, float]:
        """The phase, the bytes that count in it, and the seconds it is given. Two requests are two phases."""
        cycle = self.cycle
        if unread := self.transport.get_write_buffer_size():
            return ("answer", None), unread, self.patience.answer_s
        if self.transport.is_closing() or self.rests:
            return ("rest", cycle), 0, self.timeout_keep_alive
        if not self.at_work:
            return ("header", cycle), 0, self.patience.header_s
        if cycle.more_body and not self.flow.read_paused:
            return ("body", cycle), self._bytes_in, self.patience.body_s
        return ("work", cycle), 0, 0.0

    def _made_room(self) -> bool:
        others = [c for c in self.connections if isinstance(c, PatientProtocol) and c is not self and not c.at_work]
        others = [c for c in others if not c.transport.is_closing()]
        if not others:
            return False
        min(others, key=lambda c: (c.rests, c.active_s)).transport.abort()
        return True

    def _refuse(self, status: int, detail: str) -> None:
        self.refused(f"connection-{KINDS[status].slug}")
        self.transport.write(_answer(status, detail))
        self.transport.close()


def protocol(
    patience: Patience,
    *,
    at_once: AtOnce = PatientProtocol.at_once,
    refused: Callable[[str], None] = PatientProtocol.refused,
) -> type[PatientProtocol]:
    """Return the protocol class with that patience, for `uvicorn.Config(http=...)`.

    `at_once` is the application's way to answer what waits for nothing, `refused` is told the kind of each refusal.
    """
    members = {"patience": patience, "at_once": staticmethod(at_once), "refused": staticmethod(refused)}
    return type("PatientProtocol", (PatientProtocol,), members)


class PatientServer(uvicorn.Server):
    """uvicorn, looking at its connections once a second."""

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_TICKS == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, PatientProtocol):
                    connection.look(now_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, but nobody waits for a reader who has stopped reading."""
        cutting = asyncio.create_task(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def _cut_off(self) -> None:
        """End connections whose unread answer has not become shorter for a while."""
        before: dict[object, int] = {}
        while True:
            await asyncio.sleep(FAREWELL_S)
            unread: dict[object, int] = {
                connection: connection.transport.get_write_buffer_size()
                for connection in list(self.server_state.connections)
            }
            for connection in list(self.server_state.connections):
                if 0 < before.get(connection, 0) <= unread.get(connection, 0):
                    connection.transport.abort()
            before = unread


def _answer(status: int, detail: str) -> bytes:
    response = problem(status, detail, headers={"Connection": "close"})
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}".encode()]
    lines += [name + b": " + value for name, value in response.headers]
    lines.append(b"content-length: %d" % len(response.body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + response.body


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

__all__ = ["HEADER_BYTES_MAX", "Patience", "PatientProtocol", "PatientServer", "protocol"]
