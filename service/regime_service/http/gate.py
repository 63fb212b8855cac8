"""Who may knock: the first thing a request meets, before a byte of its body is read.

In this order:

1. Its `Host` is one of ours. A page of another site that has its own name resolve to this machine (DNS rebinding) is
   told from a bot by nothing else.
2. Its `Origin`, where there is one, is the site it knocks at; `Sec-Fetch-Site: cross-site` is refused too. A person who
   follows a link to a page (top-level navigation, GET, not below /v1) may come from anywhere: the other site learns
   nothing of it.
3. Where there are keys it bears one, and that may ask this: 401, 403 (`auth`).
4. Under /v1 the service must be able to answer and store; else 503 with the reason. A GET as well: an answer that
   cannot be kept up is none.
5. Its body is not over the limit: 413 at once by `Content-Length`, or as soon as the bytes that came say so. Large
   bodies share a memory that is bounded: one more gets 503, and a body of a candle always passes.

Every answer says on its way out that its type is not to be guessed at and that it is not to be kept. A page may run
what comes from here and nothing else, not even what stands in itself; it may not be framed, and tells nobody where its
reader came from.

What still goes wrong further inside is caught here: 503, and a line in the log that holds no word of what was sent.
"""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regime.errors import CallerError, RegimeError, Unavailable
from regime_service.http.auth import KEY_ID, Door
from regime_service.http.problems import of_error, problem
from regime_service.keys import redact
from regime_service.ports import Health

_LOG = logging.getLogger("regime_service.http")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"(https?)://(.+)")
_DEFAULT_PORT = {"http": "80", "https": "443"}
_CLOSE = {"Connection": "close"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of HTML that does not bring one of its own."""
_NO_POLICY = "default-src 'none'; frame-ancestors 'none'"
_ANSWER_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_PAGE_HEADERS = [
    *_ANSWER_HEADERS, (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin"),
]  # fmt: skip
BODIES_BYTES_MAX = 48 * 1024 * 1024
"""Bodies held at once, references apart (those go to disk): six of the largest, or a candle of each of thousands."""
SMALL_BYTES = 64 * 1024
"""A body of at most so many bytes passes even then."""


class Site(NamedTuple):
    """A host name (lower case) and its port as written; empty where none is."""

    name: str
    port: str


def read_host(value: str) -> Site | None:
    """Return what a `Host` header says; None where it says nothing a browser or bot would send.

    >>> read_host("[::1]:8080"), read_host("a b")
    (Site(name='[::1]', port='8080'), None)
    """
    found = _HOST.fullmatch(value.strip().lower())
    return None if found is None else Site(found[1], found[2] or "")


def same_site(origin: str, host: Site) -> bool:
    """Whether a page of `origin` belongs to the site it knocks at.

    >>> same_site("http://localhost:8080", Site("localhost", "8080")), same_site("null", Site("localhost", "8080"))
    (True, False)
    """
    found = _ORIGIN.fullmatch(origin.strip().lower())
    site = None if found is None else read_host(found[2])
    if found is None or site is None:
        return False
    default = _DEFAULT_PORT[found[1]]
    return (site.name, site.port or default) == (host.name, host.port or default)


class Gate:
    """ASGI middleware.

    Parameters
    ----------
    app
        What is behind it.
    hosts
        Names without port, lower case, that this service answers to (`::1` with or without brackets); `*` is any.
    health
        Whether the service can answer and store.
    body_bytes_max, reference_bytes_max
        Limits of a body; the second is for `PUT /v1/models/...`.
    door
        Asks for a key where there are keys; without one nobody is asked.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        health: Callable[[], Health],
        body_bytes_max: int,
        reference_bytes_max: int,
        door: Door | None = None,
    ) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts} | {f"[{host.lower()}]" for host in hosts if ":" in host}
        self._health = health
        self._body_bytes_max = body_bytes_max
        self._reference_bytes_max = reference_bytes_max
        self._door = door or Door(None)
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        held = _Held()
        guarded = _is_api(scope["path"])

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = message.get("headers", ())
                # Under /v1 there is JSON only, and each header costs as much as a lookup.
                message = {**message, "headers": [*own, *_ANSWER_HEADERS] if guarded else _page_headers(own)}
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, self._counted(scope, receive, held), send_guarded)
            else:
                await refusal(scope, receive, send_guarded)
        except ClientDisconnect:
            return  # Nobody is there to be answered.
        except Exception as error:
            if started:
                raise
            await _last_resort(scope, error)(scope, receive, send_guarded)
        finally:
            self._held_bytes -= held.bytes

    def _refusal(self, scope: Scope) -> Response | None:
        headers = _Headers(scope)
        return (
            self._check_host(headers)
            or self._check_origin(scope, headers)
            or self._check_key(scope, headers)
            or self._check_ready(scope)
            or self._check_length(scope, headers)
        )

    def _check_host(self, headers: _Headers) -> Response | None:
        values = headers.all(b"host")
        host = read_host(values[0]) if len(values) == 1 else None
        if host is None:
            return problem(403, "The request bears no readable Host header, so it is not for us.", headers=_CLOSE)
        if "*" in self._hosts or host.name in self._hosts:
            return None
        return problem(
            403,
            f"This service does not answer to the name {host.name!r}. If that is its name, add it to `hosts` in the "
            "configuration and start it again.",
            headers=_CLOSE,
        )

    def _check_origin(self, scope: Scope, headers: _Headers) -> Response | None:
        origins = headers.all(b"origin")
        host = read_host(headers.all(b"host")[0])
        foreign = host is None or not all(same_site(origin, host) for origin in origins)
        if not foreign and "cross-site" in headers.all(b"sec-fetch-site"):
            foreign = not (
                scope["method"] == "GET"
                and not _is_api(scope["path"])
                and headers.all(b"sec-fetch-mode") == ["navigate"]
                and headers.all(b"sec-fetch-dest") == ["document"]
            )
        if not foreign:
            return None
        return problem(
            403,
            "A page of another site asked, through a browser. Pages of other sites may neither read nor write here; "
            "a bot sends no Origin header.",
            headers=_CLOSE,
        )

    def _check_key(self, scope: Scope, headers: _Headers) -> Response | None:
        key, refusal = self._door.check(scope, headers.all(b"authorization"))
        if key is not None:
            scope[KEY_ID] = key.id
        return refusal

    def _check_ready(self, scope: Scope) -> Response | None:
        if not _is_api(scope["path"]):
            return None
        health = self._health()
        if health.ready:
            return None
        return problem(
            503,
            f"{health.reason or 'The service is not ready'}. No answer can be given now; a bot keeps the one it holds "
            "until its lease is over and then pauses. Ask again.",
        )

    def _check_length(self, scope: Scope, headers: _Headers) -> Response | None:
        values = headers.all(b"content-length")
        if not values:
            return None
        if len(set(values)) > 1 or not (values[0].isascii() and values[0].isdigit()):
            return problem(400, "The Content-Length header is not a number of bytes.", headers=_CLOSE)
        limit = self._limit(scope)
        # A number of 20 digits is over any limit, and int() would refuse a very long one.
        if len(values[0]) > 19 or int(values[0]) > limit:
            return of_error(_too_large(limit))
        return None

    def _limit(self, scope: Scope) -> int:
        return self._reference_bytes_max if _is_reference(scope) else self._body_bytes_max

    def _counted(self, scope: Scope, receive: Receive, held: _Held) -> Receive:
        limit, to_disk = self._limit(scope), _is_reference(scope)

        async def receive_counted() -> Message:
            message = await receive()
            if message["type"] == "http.request" and (size := len(message.get("body", b""))):
                held.received += size
                if held.received > limit:
                    raise _too_large(limit)
                if not to_disk:
                    held.bytes += size
                    self._held_bytes += size
                    if self._held_bytes > BODIES_BYTES_MAX and held.bytes > SMALL_BYTES:
                        raise Unavailable(
                            "Too many large bodies are on their way at once. Nothing of this one was stored. Send it "
                            "again, or in smaller batches."
                        )
            return message

        return receive_counted


class _Held:
    """What came of one body, and what of it counts as held in memory."""

    __slots__ = ("bytes", "received")

    def __init__(self) -> None:
        self.bytes = self.received = 0


class _Headers:
    """Headers of a request as ASGI gives them: lower-case names, any number of each."""

    def __init__(self, scope: Scope) -> None:
        self._found: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            self._found.setdefault(name.lower(), []).append(value.decode("latin-1").strip())

    def all(self, name: bytes) -> list[str]:
        return self._found.get(name, [])


def _page_headers(own: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that a browser may show: its own count before ours."""
    named = {name.lower(): value for name, value in own}
    html = named.get(b"content-type", b"").startswith(b"text/html")
    policy = (b"content-security-policy", (PAGE_POLICY if html else _NO_POLICY).encode())
    return [*own, *(header for header in (*_PAGE_HEADERS, policy) if header[0] not in named)]


def _is_api(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def _is_reference(scope: Scope) -> bool:
    return bool(scope["method"] == "PUT" and scope["path"].startswith("/v1/models/"))


def _too_large(limit: int) -> CallerError:
    return CallerError(
        f"The body is over the limit of {limit:,} bytes. Nothing was stored. Send it in smaller batches.", status=413
    )


def _last_resort(scope: Scope, error: Exception) -> Response:
    if isinstance(error, RegimeError):
        return of_error(error)
    incident = secrets.token_hex(4)
    # Where and of what kind, never its text: that may repeat what was sent, or a key.
    where = "".join(traceback.format_tb(error.__traceback__))
    kind, method, path = type(error).__name__, scope["method"], redact(scope["path"])
    _LOG.error("unexpected %s (incident %s) at %s %.200r\n%s", kind, incident, method, path, where)
    return problem(
        503,
        f"Something went wrong in the service that nobody foresaw (incident {incident}, in its log). Whether what was "
        "sent has been stored is unknown; sending the same again is harmless.",
    )


__all__ = ["PAGE_POLICY", "Gate", "Site", "read_host", "same_site"]
