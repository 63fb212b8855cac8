"""Who is logged in. A key is given once, for a cookie; the cookie is looked up with every request.

Rules
-----
1. The cookie is 256 bits of chance, kept as its SHA-256, new with every login: a cookie that somebody planted before
   (session fixation) is never taken over, and the session it named is ended.
2. A session is worth what its key is worth now: it is dead as soon as the key is revoked, deleted or replaced.
3. It ends after `IDLE_S` without a request, `LIFE_S` after the login at the latest, and with a logout.
4. The cookie opens what may be looked at, and nothing else. Whatever changes something needs the session's token too,
   which stands in our own forms and which no other site can read.
5. Wrong keys are counted by address. A right key is let in all the same: 256 bits are not guessed, and whoever hammers
   at the door, or shares its proxy, must not keep the operator out at night.
6. Sessions live in memory: a restart logs everybody out.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from regime_service.http.limits import Limiter, neighbourhood
from regime_service.keys import Key, KeyRing

COOKIE = "regime_session"
SECURE_COOKIE = "__Host-regime_session"
"""The name behind TLS: a browser takes it from this host alone, over TLS alone."""
IDLE_S = 2 * 3600.0
LIFE_S = 12 * 3600.0
SESSIONS_MAX = 500
"""The one that was used longest ago makes room."""
WRONG_PER_S, WRONG_BURST = 0.2, 10
"""Wrong keys that one address may try."""


class Session(NamedTuple):
    """A login. `key` is as it was then; `token` is what its forms must bear."""

    key: Key
    token: str
    begun_s: float
    used_s: float


class Sessions:
    """All sessions of a running service.

    Parameters
    ----------
    ring
        The keys; None or a ring without keys: nobody has to log in.
    clock
        Monotonic seconds.
    """

    def __init__(self, ring: KeyRing | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring = ring
        self._clock = clock
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._wrong = Limiter(per_s=WRONG_PER_S, burst=WRONG_BURST, clock=clock)
        self._open_token = secrets.token_urlsafe(32)

    @property
    def locked(self) -> bool:
        """Whether somebody has to log in. Looks at the keys file as often as the door does."""
        if self._ring is None:
            return False
        self._ring.look()
        return not self._ring.open

    @property
    def fault(self) -> str | None:
        """Why nobody can be let in; None while all is well."""
        return None if self._ring is None else self._ring.fault

    def log_in(self, token: str, address: str) -> str | float:
        """Return the value of a new cookie; or, for a wrong key, the seconds after which the next may be tried (0.0:
        now)."""
        key = None if self._ring is None else self._ring.find(token.strip())
        if key is None or key.revoked is not None:
            return self._wrong.wait_s(neighbourhood(address))
        value, now_s = secrets.token_urlsafe(32), self._clock()
        self._known[_digest(value)] = Session(key, secrets.token_urlsafe(32), now_s, now_s)
        if len(self._known) > SESSIONS_MAX:
            self._known.popitem(last=False)
        return value

    def log_out(self, cookie_header: str) -> None:
        """End the session that a Cookie header names, if it names one."""
        for value in _values(cookie_header):
            self._known.pop(_digest(value), None)

    def of(self, cookie_header: str) -> Session | None:
        """Return the session that a Cookie header names; None where it names none that is alive."""
        for value in _values(cookie_header):
            name, now_s = _digest(value), self._clock()
            session = self._known.get(name)
            if session is None:
                continue
            if self._alive(session, now_s):
                session = self._known[name] = session._replace(used_s=now_s)
                self._known.move_to_end(name)
                return session
            del self._known[name]
        return None

    def key(self, cookie_header: str) -> Key | None:
        """Return the key behind a Cookie header, for the door: it opens what may be looked at."""
        if not self._known or self._ring is None or self._ring.fault is not None:
            return None
        session = self.of(cookie_header)
        return None if session is None else session.key

    def _alive(self, session: Session, now_s: float) -> bool:
        if now_s - session.used_s > IDLE_S or now_s - session.begun_s > LIFE_S or self._ring is None:
            return False
        key = self._ring.by_id(session.key.id)
        # The same id with another secret is another key.
        return key is not None and key.revoked is None and key.sha256 == session.key.sha256

    def token(self, session: Session | None) -> str:
        """Return the token for forms; where nobody has to log in, one that is the same for everybody: that another
        site cannot read it is what counts."""
        return self._open_token if session is None else session.token

    def bears(self, session: Session | None, token: str) -> bool:
        """Whether a form bears the right token. Constant time."""
        return hmac.compare_digest(self.token(session).encode(), token.encode("utf-8", "replace"))


def cookie(value: str, *, secure: bool) -> str:
    """Return the Set-Cookie header of a session; an empty value takes it away.

    >>> cookie("abc", secure=False)
    'regime_session=abc; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200'
    """
    name, age = (SECURE_COOKIE if secure else COOKIE), (int(LIFE_S) if value else 0)
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{'; Secure' if secure else ''}"


def _values(header: str) -> list[str]:
    found = dict(part.strip().partition("=")[::2] for part in header.split(";"))
    return [found[name] for name in (SECURE_COOKIE, COOKIE) if found.get(name)]


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


__all__ = ["COOKIE", "SECURE_COOKIE", "Session", "Sessions", "cookie"]
