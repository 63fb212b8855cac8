"""A complete answer onto the wire, in one piece where the server is ours.

ASGI takes an answer in two messages, and uvicorn holds each of its headers against two regular expressions before it
writes the parts: a third of what a small answer costs. Where `send` belongs to uvicorn's own cycle and nothing is in
the way (no backlog, no HEAD, no header that steers the connection), the same bytes are written at once. Anything else,
another server included, gets the two messages. A test holds the bytes of both ways against each other.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from regime_service.http.exchange import Header, Receive, Response, Scope, Send


async def reply(send: Send, answer: Response, headers: tuple[Header, ...]) -> None:
    """Send `answer` with `headers` beside its own. Header values are ours: nothing from outside may stand in one."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is RequestResponseCycle and write(cycle, answer, headers):
        return
    own = [*answer.headers, *headers]
    if answer.status != 304:
        own.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": own})
    await send({"type": "http.response.body", "body": answer.body})


class Told:
    """An application that gives one answer which is known already."""

    def __init__(self, answer: Response, headers: tuple[Header, ...]) -> None:
        self._answer, self._headers = answer, headers

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await reply(send, self._answer, self._headers)


def write(cycle: RequestResponseCycle, answer: Response, headers: tuple[Header, ...]) -> bool:
    """Write the answer as `cycle` would; False, and nothing written, where it has to do that itself."""
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    parts = [STATUS_LINE[answer.status]]
    for name, value in (*cycle.default_headers, *answer.headers, *headers):
        if name == b"connection":
            return False
        parts += (name, b": ", value, b"\r\n")
    if answer.status == 304:
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    elif cycle.keep_alive:
        parts.append(b"content-length: %d\r\n\r\n" % len(answer.body))
    else:
        parts.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(answer.body))
    parts.append(answer.body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


__all__ = ["Told", "reply", "write"]
