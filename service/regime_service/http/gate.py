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
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import NamedTuple

from regime.errors import CallerError, RegimeError, Unavailable
from regime_service.http.auth import Door
from regime_service.http.exchange import ClientGone, Header, Message, Receive, Request, Response, Scope, Send
from regime_service.http.problems import of_error, problem
from regime_service.http.reply import reply
from regime_service.http.routes import Answer, Route, Routes
from regime_service.keys import redact
from regime_service.ports import Traffic, Uncounted

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
_ANSWER_HEADERS: tuple[Header, ...] = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_PAGE_HEADERS: tuple[Header, ...] = (
    *_ANSWER_HEADERS, (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip
_BODILESS = frozenset({"GET", "HEAD"})
_TO_BE_CHECKED = frozenset({b"origin", b"sec-fetch-site", b"content-length"})
_NOT_AT_ONCE = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding"})
_HOSTS_KNOWN_MAX = 64
"""Host headers remembered as ours, so that they need not be read again."""
BODIES_BYTES_MAX = 12 * 1024 * 1024
"""Bodies held at once, references apart (those go to disk): the largest and half of another, or a candle of each of
thousands. What is made of them comes on top of it: `make bench-http` measures both under 200 hostile clients."""
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
    """The ASGI application: it looks at a request, has it answered, counts and sends the answer.

    Parameters
    ----------
    routes
        What is behind it.
    hosts
        Names without port, lower case, that this service answers to (`::1` with or without brackets); `*` is any.
    fault
        Why nothing can be answered and stored now, as a sentence; None while all is well.
    body_bytes_max, reference_bytes_max
        Limits of a body; the second is for `PUT /v1/models/...`.
    door
        Asks for a key where there are keys; without one nobody is asked.
    traffic
        Where answers and refusals are counted.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        hosts: frozenset[str],
        fault: Callable[[], str | None],
        body_bytes_max: int,
        reference_bytes_max: int,
        door: Door | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._routes = routes
        self._hosts = {host.lower() for host in hosts} | {f"[{host.lower()}]" for host in hosts if ":" in host}
        self._fault = fault
        self._body_bytes_max = body_bytes_max
        self._reference_bytes_max = reference_bytes_max
        self._door = door or Door(None)
        self._traffic = traffic or Uncounted()
        self._held_bytes = 0
        self._known_hosts: set[bytes | None] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        request = Request(scope, receive)
        begun_s = perf_counter()
        begun = self._begin(request)
        answer: Answer
        if isinstance(begun, Response):
            answer = begun
        else:
            held = _Held()
            if request.method not in _BODILESS:
                request.count = self._counter(request, held)
            try:
                answer = await begun
            except ClientGone:
                return  # Nobody is there to be answered.
            except Exception as error:
                answer = _of_exception(request, error)
            finally:
                self._held_bytes -= held.bytes
        headers = self._counted(request, answer, perf_counter() - begun_s)
        if isinstance(answer, Response):
            await reply(send, answer, headers)
        else:
            await answer.run(send, headers)

    def at_once(self, scope: Scope) -> tuple[Response, tuple[Header, ...]] | None:
        """Answer a request that waits for nothing, with the headers that go with the answer; None for any other.

        The same as a call, without a task, for a server that can write an answer by itself. Left to the call is what
        has a body, and what came through a proxy: there the server must find out first who asks.
        """
        route = self._routes.immediate.get(scope["path"])
        if route is None or scope["method"] != "GET":
            return None
        request = Request(scope, _no_body)
        if not request.plain or not _NOT_AT_ONCE.isdisjoint(request.plain):
            return None
        begun_s = perf_counter()
        answer = self._begin(request, route)
        if not isinstance(answer, Response):
            raise TypeError(f"{request.path} waits")
        return answer, self._counted(request, answer, perf_counter() - begun_s)

    def _begin(self, request: Request, route: Route | None = None) -> Response | Awaitable[Answer]:
        """Return the answer, or what is to be waited for; `route` is the request's if it is known. Raises nothing."""
        try:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            if route is None:
                route, request.path_params = self._routes.find(request.method, request.path)
            request.route = route.path
            return route.handler(request)
        except Exception as error:
            return _of_exception(request, error)

    def _counted(self, request: Request, answer: Answer, seconds: float) -> tuple[Header, ...]:
        """Count an answer, and return the headers that it is given here."""
        if not isinstance(answer, Response):
            self._traffic.answered(request.route, 200, seconds)
            return _ANSWER_HEADERS
        self._traffic.answered(request.route, answer.status, seconds)
        if answer.kind:
            self._traffic.refused(answer.kind)
        return _ANSWER_HEADERS if _is_api(request.path) else _page_headers(answer)

    def _refusal(self, request: Request) -> Response | None:
        plain = request.plain
        if plain and plain.get(b"host") in self._known_hosts and _TO_BE_CHECKED.isdisjoint(plain):
            # Nearly every request: a host that was looked at before, no browser, no body.
            return self._door.check(request) or self._check_ready(request)
        return (
            self._check_host(request)
            or self._check_origin(request)
            or self._door.check(request)
            or self._check_ready(request)
            or self._check_length(request)
        )

    def _check_host(self, request: Request) -> Response | None:
        raw = request.only(b"host")
        if raw in self._known_hosts:
            return None
        host = None if raw is None else read_host(raw.decode("latin-1"))
        if host is None:
            return problem(
                403, "The request bears no readable Host header, so it is not for us.", headers=_CLOSE, kind="host"
            )
        if "*" in self._hosts or host.name in self._hosts:
            # Any port and any case: anybody can write many of them.
            if len(self._known_hosts) < _HOSTS_KNOWN_MAX:
                self._known_hosts.add(raw)
            return None
        return problem(
            403,
            f"This service does not answer to the name {host.name!r}. If that is its name, add it to `hosts` in the "
            "configuration and start it again.",
            headers=_CLOSE,
            kind="host",
        )

    def _check_origin(self, request: Request) -> Response | None:
        if not request.has(b"origin") and not request.has(b"sec-fetch-site"):
            return None
        raw = request.only(b"host")
        host = None if raw is None else read_host(raw.decode("latin-1"))
        foreign = host is None or not all(same_site(origin, host) for origin in request.values(b"origin"))
        if not foreign and "cross-site" in request.values(b"sec-fetch-site"):
            foreign = not (
                request.method == "GET"
                and not _is_api(request.path)
                and request.values(b"sec-fetch-mode") == ["navigate"]
                and request.values(b"sec-fetch-dest") == ["document"]
            )
        if not foreign:
            return None
        return problem(
            403,
            "A page of another site asked, through a browser. Pages of other sites may neither read nor write here; "
            "a bot sends no Origin header.",
            headers=_CLOSE,
            kind="origin",
        )

    def _check_ready(self, request: Request) -> Response | None:
        if not _is_api(request.path):
            return None
        fault = self._fault()
        if fault is None:
            return None
        return problem(
            503,
            f"{fault or 'The service is not ready'}. No answer can be given now; a bot keeps the one it holds until "
            "its lease is over and then pauses. Ask again.",
            kind="not-ready",
        )

    def _check_length(self, request: Request) -> Response | None:
        if not request.has(b"content-length"):
            return None
        values = request.values(b"content-length")
        if len(set(values)) > 1 or not (values[0].isascii() and values[0].isdigit()):
            return problem(400, "The Content-Length header is not a number of bytes.", headers=_CLOSE)
        limit = self._limit(request)
        # A number of 20 digits is over any limit, and int() would refuse a very long one.
        if len(values[0]) > 19 or int(values[0]) > limit:
            return of_error(_too_large(limit))
        return None

    def _limit(self, request: Request) -> int:
        return self._reference_bytes_max if _is_reference(request) else self._body_bytes_max

    def _counter(self, request: Request, held: _Held) -> Callable[[int], None]:
        limit, to_disk = self._limit(request), _is_reference(request)

        def count(size: int) -> None:
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

        return count


class _Held:
    """What came of one body, and what of it counts as held in memory."""

    __slots__ = ("bytes", "received")

    def __init__(self) -> None:
        self.bytes = self.received = 0


async def _no_body() -> Message:
    raise ClientGone


async def _lifespan(receive: Receive, send: Send) -> None:
    """A server that announces its start and stop is told that both are well."""
    while (kind := (await receive())["type"]).startswith("lifespan."):
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _page_headers(answer: Response) -> tuple[Header, ...]:
    """The headers of an answer that a browser may show, but for those that it brings itself."""
    own = dict(answer.headers)
    html = own.get(b"content-type", b"").startswith(b"text/html")
    policy = (b"content-security-policy", (PAGE_POLICY if html else _NO_POLICY).encode())
    return tuple(header for header in (*_PAGE_HEADERS, policy) if header[0] not in own)


def _is_api(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def _is_reference(request: Request) -> bool:
    return request.method == "PUT" and request.path.startswith("/v1/models/")


def _too_large(limit: int) -> CallerError:
    return CallerError(
        f"The body is over the limit of {limit:,} bytes. Nothing was stored. Send it in smaller batches.", status=413
    )


def _of_exception(request: Request, error: Exception) -> Response:
    if isinstance(error, RegimeError):
        return of_error(error)
    incident = secrets.token_hex(4)
    # Where and of what kind, never its text: that may repeat what was sent, or a key.
    where = "".join(traceback.format_tb(error.__traceback__))
    kind, method, path = type(error).__name__, request.method, redact(request.path)
    _LOG.error("unexpected %s (incident %s) at %s %.200r\n%s", kind, incident, method, path, where)
    return problem(
        503,
        f"Something went wrong in the service that nobody foresaw (incident {incident}, in its log). Whether what was "
        "sent has been stored is unknown; sending the same again is harmless.",
        kind="unforeseen",
    )


__all__ = ["PAGE_POLICY", "Gate", "Site", "read_host", "same_site"]
