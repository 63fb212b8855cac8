"""Which key a request bears, and whether that key may ask this.

`Authorization: Bearer <key>` and nothing else: an address ends up in logs, in histories and in proxies, so a key in it
is refused and said to be leaked. What needs which scope is one small table; what is not in it needs `admin` where it
could change something, and `read` elsewhere, so that a route nobody thought of is not an open one.

A key that asks too often is told to wait (429); so is an address that keeps knocking without a right key. Neither can
use up what another key has. Where there are no keys nobody is told to wait.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from regime_service.http.exchange import Request, Response
from regime_service.http.limits import WRONG_BURST, WRONG_PER_S, Limiter, neighbourhood
from regime_service.http.problems import problem
from regime_service.keys import KEYS_MAX, PREFIX, AccessScope, Key, KeyRing, holds_key

PUBLIC = frozenset({"/", "/healthz", "/docs", "/openapi.json"})
"""Need no key: nothing they show is about the account, or they ask who it is by themselves (the page)."""
PAGE = frozenset({"/stream", "/session"})
"""The rest of the page, beside what lies below /page/: it asks for a session by itself, and forms bear a token."""
INGEST = frozenset({"/v1/observations", "/v1/trades", "/v1/equity", "/v1/candles"})

_MARK = PREFIX.encode()
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="regimegate"'}
_HOW = (
    "Send `Authorization: Bearer <key>` as a header, never in the address. `regime keys create --scope ingest` on the "
    "service's machine makes a key"
)


def needed(method: str, path: str) -> AccessScope | None:
    """Return the scope a request needs; None for what is open to all.

    >>> needed("GET", "/v1/thresholds"), needed("POST", "/v1/trades"), needed("POST", "/v1/overrides")
    ('read', 'ingest', 'admin')
    """
    if path in PAGE or path.startswith("/page/"):
        return None
    reading = method in ("GET", "HEAD", "OPTIONS")
    if reading:
        return None if path in PUBLIC else "read"
    return "ingest" if method == "POST" and path in INGEST else "admin"


class Door:
    """Asks for a key where there are keys.

    Parameters
    ----------
    keys
        The keys; None is the same as none.
    metrics_open
        Whether /metrics needs no key.
    requests
        Counts the requests of each key; None: nobody is told to wait.
    session
        The key behind a Cookie header. It opens what may be looked at, and nothing else: a browser sends a cookie
        whoever made it ask.
    """

    def __init__(
        self,
        keys: KeyRing | None,
        *,
        metrics_open: bool = False,
        requests: Limiter | None = None,
        session: Callable[[str], Key | None] | None = None,
    ) -> None:
        self._keys = keys
        self._session = session
        self._metrics_open = metrics_open
        self._requests = requests
        self._let_in: dict[bytes, Key] = {}
        self._let_in_at = -1
        """Keys that were let in, by the SHA-256 of the header that bore them, and at which revision of the ring."""
        self._wrong = Limiter(per_s=WRONG_PER_S, burst=WRONG_BURST)

    def check(self, request: Request) -> Response | None:
        """Return the answer that refuses a request; None where it may pass, and then its `key_id` is set."""
        ring = self._keys
        if ring is None:
            return None
        ring.look()
        if ring.open:
            return None
        wanted = needed(request.method, request.path)
        if wanted is None or (self._metrics_open and request.path == "/metrics"):
            return None
        if ring.fault is not None:
            return problem(
                503,
                f"{ring.fault}. Until its operator has mended that, nobody is let in; a bot keeps the answer it holds "
                "until its lease is over and then pauses.",
                kind="keys",
            )
        key, refusal = self._of(ring, request)
        if key is None:
            client = (request.scope.get("client") or ("",))[0]
            wait_s = self._wrong.wait_s(neighbourhood(client))
            return _too_often("address", wait_s, " without a right key") if wait_s else refusal
        if self._requests is not None and (wait_s := self._requests.wait_s(key.id)):
            return _too_often(f"key {key.id}", wait_s)
        if not key.allows(wanted):
            has = ", ".join(key.scopes)
            return problem(
                403,
                f"{request.method} {request.path} needs the scope {wanted!r}, and the key {key.id} has {has}. "
                f"Nothing was changed. `regime keys create --scope {wanted}` makes one that may.",
                kind="scope",
            )
        request.key_id = key.id
        return None

    def shut_to(self, key_id: str | None) -> str | None:
        """Say why somebody who was let in to look would not be let in any more; None where nothing has changed.

        `key_id` is the key he came with, None where he came without.
        """
        ring = self._keys
        if ring is None:
            return None
        ring.look()
        if ring.open:
            return None
        if ring.fault is not None:
            return ring.fault
        if key_id is None:
            return "the service has keys now, and this stream was opened without one"
        key = ring.by_id(key_id)
        if key is None or key.revoked is not None or not key.allows("read"):
            return f"the key {key_id} was revoked"
        return None

    def _of(self, ring: KeyRing, request: Request) -> tuple[Key | None, Response | None]:
        """The key a request bears, or why it bears none."""
        query = request.query
        if _MARK in query and holds_key(query.decode("latin-1")):
            return None, _no_key(
                "A key stands in the address of the request. Addresses are written into logs, so count that key as "
                f"leaked: `regime keys revoke` it and make another. {_HOW}."
            )
        if self._session is not None and request.method in ("GET", "HEAD") and not request.has(b"authorization"):
            found = self._session("; ".join(request.values(b"cookie"))) if request.has(b"cookie") else None
            if found is not None:
                return found, None
        value = request.only(b"authorization") or b""
        digest = hashlib.sha256(value).digest()
        if ring.revision == self._let_in_at and (known := self._let_in.get(digest)) is not None:
            return known, None
        token = _bearer(value)
        if token is None:
            told = request.has(b"authorization")
            said = "bears an Authorization header that is no Bearer key" if told else "bears no key"
            return None, _no_key(f"This service is locked, and the request {said}. {_HOW}.")
        key = ring.find(token)
        if key is None:
            return None, _no_key(
                f"The key is none of this service: it was cut short, belongs to another one, or was deleted. {_HOW}.",
                wrong=True,
            )
        if key.revoked is not None:
            return None, _no_key(f"The key {key.id} was revoked at {key.revoked}. {_HOW}.", wrong=True)
        if ring.revision != self._let_in_at or len(self._let_in) >= KEYS_MAX:
            self._let_in, self._let_in_at = {}, ring.revision
        self._let_in[digest] = key
        return key, None


def _too_often(called: str, wait_s: float, how: str = "") -> Response:
    return problem(
        429,
        f"This {called} asks too often{how}. Nothing was stored; the answer that is held stays good until its lease is "
        "over. Ask again after Retry-After seconds, for many symbols at once (symbol=A,B,C), and send candles in "
        "batches. The limit of a key is `requests_per_s` in the configuration.",
        headers={"Retry-After": str(math.ceil(wait_s))},
    )


def _bearer(value: bytes) -> str | None:
    scheme, _, token = value.decode("latin-1").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _no_key(detail: str, *, wrong: bool = False) -> Response:
    challenge = _CHALLENGE["WWW-Authenticate"] + (', error="invalid_token"' if wrong else "")
    return problem(401, detail, headers={"WWW-Authenticate": challenge})


__all__ = ["PUBLIC", "Door", "needed"]
