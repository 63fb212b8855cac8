"""What comes in and what goes out: one request, one answer, as plain objects over ASGI.

A handler takes a `Request` and returns a `Response`; the gate sends it. Headers are lower-case bytes, as ASGI has them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

Header = tuple[bytes, bytes]
Scope = dict[str, Any]
Message = dict[str, Any]


class Receive(Protocol):
    """ASGI's way of getting the next message of a request."""

    async def __call__(self) -> Message: ...


class Send(Protocol):
    """ASGI's way of sending the next message of an answer."""

    async def __call__(self, message: Message, /) -> None: ...


_NOTHING: Mapping[Any, Any] = {}


class ClientGone(Exception):
    """Whoever asked hung up before the request was complete: there is nobody to answer."""


class Request:
    """One request.

    `plain` are its headers where none stands twice, else nothing. `path_params` are the parts of the path that a route
    names, `route` is that route (a label), `key_id` the key it bore.
    """

    __slots__ = ("_receive", "count", "key_id", "method", "path", "path_params", "plain", "query", "route", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.path_params: Mapping[str, str] = _NOTHING
        self.key_id: str | None = None
        self.count: Callable[[int], None] = _uncounted
        """Told how many bytes of the body came, before they are kept; raises where they are too many."""
        self.route = "none"
        self._receive = receive
        headers: list[Header] = scope["headers"]
        plain = dict(headers)
        self.plain: Mapping[bytes, bytes] = plain if len(plain) == len(headers) else _NOTHING

    def has(self, name: bytes) -> bool:
        """Whether there is such a header."""
        return name in self.plain or (not self.plain and bool(self.values(name)))

    def only(self, name: bytes) -> bytes | None:
        """Return the header as it came; None where there is none, or more than one."""
        if self.plain:
            return self.plain.get(name)
        values = [value for found, value in self.scope["headers"] if found == name]
        return values[0] if len(values) == 1 else None

    def values(self, name: bytes) -> list[str]:
        """Return all headers of that name, without the blanks around them."""
        return [value.decode("latin-1").strip() for found, value in self.scope["headers"] if found == name]

    async def body(self) -> bytes:
        """Return the whole body. Raises `ClientGone`, and what `count` raises."""
        return b"".join(await self.pieces())

    async def pieces(self) -> list[bytes]:
        """Return the whole body in the pieces in which it came, at least one."""
        chunk, more = await self._chunk()
        chunks = [chunk]
        while more:
            chunk, more = await self._chunk()
            chunks.append(chunk)
        return chunks

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, no piece of it empty."""
        more = True
        while more:
            chunk, more = await self._chunk()
            if chunk:
                yield chunk

    async def _chunk(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether there is more of it."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        if chunk:
            self.count(len(chunk))
        return chunk, message.get("more_body", False)

    async def gone(self) -> None:
        """Return when whoever asked has hung up, or the answer is complete."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _uncounted(_size: int) -> None:
    return


class Response:
    """One answer, complete. `kind` is what a refusal is counted under."""

    __slots__ = ("body", "headers", "kind", "status")

    def __init__(
        self, body: bytes = b"", status: int = 200, headers: tuple[Header, ...] = (), *, kind: str = ""
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers
        self.kind = kind

    def header(self, name: str) -> str | None:
        """Return a header by its name, whatever its case; None where there is none."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for found, value in self.headers if found.lower() == wanted), None)


class Streaming(Protocol):
    """An answer that goes on: sent by itself, with the headers the gate adds, until it or its reader ends."""

    async def run(self, send: Send, headers: tuple[Header, ...]) -> None: ...


__all__ = ["ClientGone", "Header", "Message", "Receive", "Request", "Response", "Scope", "Send", "Streaming"]
