"""The gate at its very edges: sizes to the byte, what it holds when nobody asks, and what is no request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from regime_service.http.exchange import Request, Response
from regime_service.http.gate import Gate
from regime_service.http.routes import Routes

LIMIT = 1000


class Inner:
    """A call that answers 200 with the size of its body, or fails."""

    def __init__(self, *, fail: bool = False) -> None:
        self.called, self._fail = 0, fail

    async def answer(self, request: Request) -> Response:
        self.called += 1
        if self._fail:
            raise RuntimeError("nobody foresaw this")
        return Response(b"%d" % len(await request.body()))


def gate(inner: Inner) -> Gate:
    routes = Routes(title="", version="", summary="")
    routes.add("POST", "/v1/observations", inner.answer)
    return Gate(
        routes, hosts=frozenset({"localhost"}), fault=lambda: None, body_bytes_max=LIMIT, reference_bytes_max=LIMIT
    )


def ask(door: Gate, body: bytes, **changes: Any) -> list[dict[str, Any]]:
    scope = {
        "type": "http", "method": "POST", "path": "/v1/observations", "headers": [(b"host", b"localhost")],
        "query_string": b"", **changes,
    }  # fmt: skip
    pieces = [{"type": "http.request", "body": body[i : i + 300], "more_body": True} for i in range(0, len(body), 300)]
    pieces.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return pieces.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(door(scope, receive, send))
    return sent


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_a_body_of_just_the_limit_passes_and_one_byte_more_does_not(size: int, status: int) -> None:
    """Without a length that was announced: it is counted as it comes."""
    door = gate(Inner())
    assert door._held_bytes == 0
    assert ask(door, bytes(size))[0]["status"] == status
    assert door._held_bytes == 0, "what was held is given back, whatever came of it"
    announced = [(b"host", b"localhost"), (b"content-length", b"%d" % size)]
    assert ask(door, bytes(size), headers=announced)[0]["status"] == status


def test_what_nobody_foresaw_is_503_and_nothing_else() -> None:
    door = gate(Inner(fail=True))
    sent = ask(door, b"")
    assert sent[0]["status"] == 503 and b"nobody foresaw this" not in sent[1]["body"]
    assert door._held_bytes == 0


def test_a_web_socket_never_reaches_the_application() -> None:
    inner = Inner()
    assert ask(gate(inner), b"", type="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert inner.called == 0


def test_what_is_held_counts_while_it_is_held() -> None:
    seen: list[int] = []

    class Looking(Inner):
        async def answer(self, request: Request) -> Response:
            answer = await super().answer(request)
            seen.append(door._held_bytes)
            return answer

    door = gate(Looking())
    assert ask(door, bytes(500))[0]["status"] == 200
    assert (seen, door._held_bytes) == ([500], 0)
