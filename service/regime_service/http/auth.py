"""Which key a request bears, and whether that key may ask this.

`Authorization: Bearer <key>` and nothing else: an address ends up in logs, in histories and in proxies, so a key in it
is refused and said to be leaked. What needs which scope is one small table; what is not in it needs `admin` where it
could change something, and `read` elsewhere, so that a route nobody thought of is not an open one.

A key that asks too often is told to wait (429); so is an address that keeps knocking without a right key. Neither can
use up what another key has. Where there are no keys nobody is told to wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fastapi import Response
from starlette.types import Scope

from regime_service.http.limits import WRONG_BURST, WRONG_PER_S, Limiter, neighbourhood
from regime_service.http.problems import problem
from regime_service.keys import PREFIX, AccessScope, Key, KeyRing, holds_key

PUBLIC = frozenset({"/", "/healthz", "/docs", "/openapi.json"})
"""Need no key: nothing they show is about the account, or they ask who it is by themselves (the page)."""
PAGE = frozenset({"/stream", "/session"})
"""The rest of the page, beside what lies below /page/: it asks for a session by itself, and forms bear a token."""
INGEST = frozenset({"/v1/observations", "/v1/trades", "/v1/equity", "/v1/candles"})
KEY_ID = "regime.key_id"
"""Where the id of the key stands in the ASGI scope, for what is put on record; absent without keys."""

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
        self._wrong = Limiter(per_s=WRONG_PER_S, burst=WRONG_BURST)

    def check(self, scope: Scope, authorizations: Sequence[str]) -> tuple[Key | None, Response | None]:
        """Return the key of a request, or the answer that refuses it; neither where no key is needed.

        `authorizations` are its Authorization headers.
        """
        ring = self._keys
        if ring is None:
            return None, None
        ring.look()
        if ring.open:
            return None, None
        wanted = needed(scope["method"], scope["path"])
        if wanted is None or (self._metrics_open and scope["path"] == "/metrics"):
            return None, None
        if ring.fault is not None:
            return None, problem(
                503,
                f"{ring.fault}. Until its operator has mended that, nobody is let in; a bot keeps the answer it holds "
                "until its lease is over and then pauses.",
            )
        key, refusal = self._of(scope, authorizations)
        if key is None:
            return None, self._wait(self._wrong, neighbourhood((scope.get("client") or ("",))[0]), "address") or refusal
        if self._requests is not None and (wait := self._wait(self._requests, key.id, f"key {key.id}")) is not None:
            return key, wait
        if not key.allows(wanted):
            has = ", ".join(key.scopes)
            return key, problem(
                403,
                f"{scope['method']} {scope['path']} needs the scope {wanted!r}, and the key {key.id} has {has}. "
                f"Nothing was changed. `regime keys create --scope {wanted}` makes one that may.",
            )
        return key, None

    def _of(self, scope: Scope, authorizations: Sequence[str]) -> tuple[Key | None, Response | None]:
        """The key a request bears, or why it bears none."""
        assert self._keys is not None
        query: bytes = scope["query_string"]
        if _MARK in query and holds_key(query.decode("latin-1")):
            return None, _no_key(
                "A key stands in the address of the request. Addresses are written into logs, so count that key as "
                f"leaked: `regime keys revoke` it and make another. {_HOW}."
            )
        if not authorizations and self._session is not None and scope["method"] in ("GET", "HEAD"):
            cookies = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"cookie"]
            if cookies and (found := self._session("; ".join(cookies))) is not None:
                return found, None
        token = _bearer(authorizations)
        if token is None:
            said = "bears no key" if not authorizations else "bears an Authorization header that is no Bearer key"
            return None, _no_key(f"This service is locked, and the request {said}. {_HOW}.")
        key = self._keys.find(token)
        if key is None:
            return None, _no_key(
                f"The key is none of this service: it was cut short, belongs to another one, or was deleted. {_HOW}.",
                wrong=True,
            )
        if key.revoked is not None:
            return None, _no_key(f"The key {key.id} was revoked at {key.revoked}. {_HOW}.", wrong=True)
        return key, None

    def _wait(self, limiter: Limiter, who: str, called: str) -> Response | None:
        wait_s = limiter.wait_s(who)
        if not wait_s:
            return None
        return problem(
            429,
            f"This {called} asks too often{' without a right key' if limiter is self._wrong else ''}. Nothing was "
            "stored; the answer that is held stays good until its lease is over. Ask again after Retry-After seconds, "
            "for many symbols at once (symbol=A,B,C), and send candles in batches. The limit of a key is "
            "`requests_per_s` in the configuration.",
            headers={"Retry-After": str(math.ceil(wait_s))},
        )


def _bearer(authorizations: Sequence[str]) -> str | None:
    if len(authorizations) != 1:
        return None
    scheme, _, token = authorizations[0].partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _no_key(detail: str, *, wrong: bool = False) -> Response:
    challenge = _CHALLENGE["WWW-Authenticate"] + (', error="invalid_token"' if wrong else "")
    return problem(401, detail, headers={"WWW-Authenticate": challenge})


__all__ = ["KEY_ID", "PUBLIC", "Door", "needed"]
