"""One request to the page in, one answer out, as plain objects: what the HTTP door looks like does not matter here.

    GET  /                        the board             POST /session                log in: a key for a cookie
    GET  /stream?model=...        one stream            POST /page/logout
    GET  /page/<file>             style, script, icon   POST /page/override/review   what would it do?
                                                        POST /page/override          do it
                                                        POST /page/end/review, /page/end

Rules
-----
1. Where there are keys, nothing about the account is shown without a session, and nothing is changed without one whose
   key has the scope `admin`.
2. Every POST but the login bears the session's token. The login changes nothing for anybody but whoever logs in, and
   the door refuses it from pages of other sites.
3. What changes something is said in words first, on a page of its own; a HALTED must be typed besides. The same form
   sent twice is one override: its id is made with the words.
4. The answer to a POST that did something is a redirect, so that "reload" does nothing again.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from markupsafe import Markup

from regime import codec
from regime.decision import Decision
from regime.errors import CallerError, RegimeError, Unavailable
from regime.events import SIDES, Command, Side, StreamKey, concerns
from regime.outcomes import Outcome
from regime_service.http.limits import Limiter
from regime_service.http.schema import OVERRIDE_ID
from regime_service.page import views
from regime_service.page.history import SPANS, Histories
from regime_service.page.sessions import Session, Sessions, cookie
from regime_service.page.words import override_sentences
from regime_service.ports import Ports
from regime_service.stores.rows import new_ulid

if TYPE_CHECKING:
    from jinja2 import Environment

_Results = Mapping[Side, Sequence[Outcome]]
_HTML_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    # With the `no-referrer` of the door a browser sends `Origin: null` with a form, and is taken for a stranger.
    ("Referrer-Policy", "same-origin"),
)
FORM = "application/x-www-form-urlencoded"
_CSS, _SCRIPT, _PLAIN = "text/css; charset=utf-8", "text/javascript; charset=utf-8", "text/plain; charset=utf-8"
LOOK = "look.css"
ASSETS = {
    LOOK: _CSS, "page.css": _CSS, "uPlot.min.css": _CSS, "page.js": _SCRIPT, "uPlot.iife.min.js": _SCRIPT,
    "icon.svg": "image/svg+xml", "uPlot.LICENSE.txt": _PLAIN,
}  # fmt: skip
FORM_BYTES_MAX = 16 * 1024
OVERRIDES_MAX = 1_000
"""Overrides in force at once, as for POST /v1/overrides: each is looked at with every event of its model."""
PAGES_PER_S, PAGES_BURST = 10.0, 100
"""Pages that one key may ask for: each costs far more than an answer to a bot."""
PACKED_FROM_BYTES = 1024
TRAIL_ROWS = 25
EXPLAINED_S = 2.0
"""How long the evidence of a stream serves: asking for it takes the writer's turn."""
EXPLAINED_MAX = 64
_OVERRIDE_ID = re.compile(OVERRIDE_ID)
_HOURS = ("1", "4", "12", "24", "")
_HOUR_MS = 3_600_000
HALT_WORD = "HALT"
_ASK = {"REDUCING": "Pause?", "HALTED": "Halt?", "ACTIVE": "Trade against the rules?"}
_DO = {"REDUCING": "Yes, pause", "HALTED": "Yes, halt", "ACTIVE": "Yes, let it trade"}


class Asked(NamedTuple):
    """A request. Header names are lower case; one that came twice is the last of them."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    address: str
    """Of whoever asks, as far as the connection tells."""
    tls: bool
    """Whether the connection itself is encrypted; a proxy says so in a header."""


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]


class Refused(Exception):
    """The page answers with a sentence: status, title, text, where to go back to."""

    def __init__(self, status: int, title: str, text: str, back: str = "/", back_words: str = "Back") -> None:
        super().__init__(text)
        self.status, self.title, self.text, self.back, self.back_words = status, title, text, back, back_words


class Page:
    """All of the page.

    Parameters
    ----------
    ports
        The service, as the HTTP door sees it.
    histories
        What the pictures show.
    sessions
        Who is logged in.
    push
        Whether the service pushes changes at /v1/stream; without it the page asks every few seconds.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, ports: Ports, histories: Histories, sessions: Sessions, *, push: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._ports = ports
        self._histories = histories
        self._sessions = sessions
        self._push = push
        self._clock = clock
        self._requests = Limiter(per_s=PAGES_PER_S, burst=PAGES_BURST, clock=clock)
        self._event_time = ports.config.clock == "event"
        self._explained: dict[StreamKey, tuple[float, dict[str, Any], _Results]] = {}
        self._posts = {
            "/session": self._log_in, "/page/logout": self._log_out, "/page/override/review": self._review,
            "/page/override": self._override, "/page/end/review": self._review_end, "/page/end": self._end,
        }  # fmt: skip

    async def answer(self, asked: Asked) -> Reply:
        """Answer a request, packed where whoever asks can unpack it. Raises nothing that is somebody else's doing."""
        reply = await self._answer(asked)
        return _packed(reply) if "gzip" in asked.headers.get("accept-encoding", "") else reply

    async def _answer(self, asked: Asked) -> Reply:
        try:
            if asked.method == "POST" and asked.path in self._posts:
                return await self._post(asked)
            if asked.method in ("GET", "HEAD"):
                if asked.path.startswith("/page/") and asked.path[6:] in ASSETS:
                    return _asset(asked.path[6:])
                if asked.path in ("/", "/stream"):
                    return await self._get(asked)
            if asked.path in self._posts or asked.path in ("/", "/stream"):
                raise Refused(405, "That is no way in", f"{asked.path} does not take {asked.method}.")
            raise Refused(404, "Nothing here", "There is no such page.", back_words="To the board")
        except Refused as refused:
            return self._message(refused)
        except CallerError as error:
            return self._message(Refused(error.status_hint, "That cannot be done", error.detail))
        except Unavailable as error:
            return self._message(Refused(503, "Not now", f"{error.detail}."))
        except RegimeError as error:
            return self._message(Refused(503, "The service has a problem", f"{error}."))

    # --- who asks ---

    def _session(self, asked: Asked) -> Session | None:
        """The session of a request; None where nobody has to log in. Raises `_LogIn`, `Refused`."""
        if not self._sessions.locked:
            return None
        if self._sessions.fault is not None:
            raise Refused(503, "Nobody can be let in", f"{self._sessions.fault}. Its operator must mend that.")
        session = self._sessions.of(asked.headers.get("cookie", ""))
        if session is None:
            raise _LogIn
        if wait_s := self._requests.wait_s(session.key.id):
            text = f"The key {session.key.id} asks for too many pages. Ask again in {math.ceil(wait_s)} s."
            raise Refused(429, "Too many requests", text)
        return session

    def _commander(self, asked: Asked, form: Mapping[str, str]) -> Session | None:
        """The session of a form that changes something. Raises `Refused` where it may not."""
        session = self._session(asked)
        self._check_token(session, form)
        if session is not None and not session.key.allows("admin"):
            raise Refused(
                403, "This key may not command",
                f"The key {session.key.id} has the scope {', '.join(session.key.scopes)}; an override needs admin. "
                "Nothing was changed.",
            )  # fmt: skip
        return session

    def _check_token(self, session: Session | None, form: Mapping[str, str]) -> None:
        if not self._sessions.bears(session, form.get("csrf", "")):
            raise Refused(
                403, "This form is too old",
                "It does not bear the token of your session: the service was started again, or you logged in anew, "
                "since the form was opened. Nothing was changed. Open the page again and repeat it.",
            )  # fmt: skip

    # --- looking ---

    async def _get(self, asked: Asked) -> Reply:
        try:
            session = self._session(asked)
        except _LogIn:
            if asked.headers.get("sec-fetch-site") == "cross-site":
                # Somebody followed a link: his browser keeps the cookie back (SameSite=Strict) until our own page asks.
                html = '<!doctype html><meta http-equiv="refresh" content="0"><title>regimegate</title><p>One moment.'
                return Reply(200, html.encode(), _HTML_HEADERS)
            query = f"?{asked.query}" if asked.query else ""
            return self._login_page(asked.path + query, status=200 if asked.path == "/" else 401)
        wanted = _fields(asked.query)
        # In a thread: bots are answered meanwhile.
        shown = await asyncio.to_thread(self._board if asked.path == "/" else self._stream, wanted, session)
        etag = f'W/"{hashlib.sha256(shown.encode()).hexdigest()[:32]}"'
        if asked.headers.get("if-none-match") == etag:
            return Reply(304, b"", (("ETag", etag),))
        return Reply(200, shown.encode(), (*_HTML_HEADERS, ("ETag", etag)))

    def _board(self, query: Mapping[str, str], session: Session | None) -> str:
        decisions = self._ports.board.now.decisions
        now_ms = max((d.as_of_ms for d in decisions.values()), default=0) if self._event_time else self._minute_ms()
        shown = views.board(
            decisions, None if self._event_time else now_ms, page=_whole(query.get("page", "1")),
            wanted=query.get("name", "")[:128],
        )  # fmt: skip
        shadow = any(decision.mode == "shadow" for decision in decisions.values())
        return self._render("board", session, b=shown, shadow=shadow, now_ms=now_ms, live="/v1/stream")

    def _stream(self, query: Mapping[str, str], session: Session | None) -> str:
        key = StreamKey(query.get("model", ""), query.get("symbol", ""), query.get("timeframe", ""))
        decision = self._known(key)
        candles = _whole(query.get("candles", ""), SPANS[1])
        if candles not in SPANS:
            candles = SPANS[1]
        explained, results = self._explain(key)
        history = self._histories.of(decision, candles)
        below = min(_whole(query.get("before", ""), decision.version + 1), decision.version + 1)
        trail = self._ports.decisions(key, max(below - TRAIL_ROWS - 2, 0), TRAIL_ROWS + 1)
        trail = [d for d in trail if d.version < below]
        before = trail.pop(0) if len(trail) > TRAIL_ROWS else None
        newer = views.stream_href(key, before=below + TRAIL_ROWS) if below <= decision.version else None
        now_ms = decision.as_of_ms if self._event_time else self._minute_ms()
        shown = views.stream(
            decision, explained, history, results, None if self._event_time else now_ms, candles,
            payoff=self._ports.config.model(key.model).payoff_ratio,
        )  # fmt: skip
        overrides = self._ports.overrides().values()
        return self._render(
            "stream", session, s=shown, now_ms=now_ms, live="/v1/stream?" + urlencode(key._asdict()),
            trail=views.trail(trail, before), newer=newer,
            older=views.stream_href(key, before=trail[0].version) if before is not None else None,
            overrides=[o for o in overrides if concerns(o, key)], locked=session is not None,
            may_command=session is None or session.key.allows("admin"), done=_DONE.get(query.get("done", "")),
            asked=_EMPTY_FORM, model=key.model, errors=(),
        )  # fmt: skip

    def _explain(self, key: StreamKey) -> tuple[dict[str, Any], _Results]:
        known, now_s = self._explained.get(key), self._clock()
        if known is not None and now_s - known[0] < EXPLAINED_S:
            return known[1:]
        try:
            found = self._ports.explain(key), self._ports.outcomes(key)
        except KeyError:
            raise Refused(404, "No such stream", "It is not judged here any more.", back_words="To the board") from None
        if len(self._explained) >= EXPLAINED_MAX:
            self._explained.clear()
        self._explained[key] = (now_s, *found)
        return found

    def _known(self, key: StreamKey) -> Decision:
        decision = self._ports.board.now.decisions.get(key)
        if decision is None:
            text = "Nothing is known by that name: names are case-sensitive."
            raise Refused(404, "No such stream", text, back_words="To the board")
        return decision

    def _minute_ms(self) -> int:
        """The wall clock, cut to half a minute: what did not change looks the same, and is not sent again."""
        return self._ports.now_ms() // 30_000 * 30_000

    # --- logging in and out ---

    async def _post(self, asked: Asked) -> Reply:
        if asked.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise Refused(415, "That is no form", f"Forms are sent as {FORM}. Nothing was changed.")
        if len(asked.body) > FORM_BYTES_MAX:
            text = f"A form has {FORM_BYTES_MAX} bytes at the most. Nothing was changed."
            raise Refused(413, "That is too much", text)
        try:
            form = _fields(asked.body.decode("utf-8"))
        except UnicodeDecodeError:
            raise Refused(400, "The form cannot be read", "It is not UTF-8. Nothing was changed.") from None
        try:
            return await self._posts[asked.path](asked, form)
        except _LogIn:
            return self._login_page("/", status=401, wrong="You are logged out. Nothing was changed.")

    async def _log_in(self, asked: Asked, form: Mapping[str, str]) -> Reply:
        to = _local(form.get("next", "/"))
        if not self._sessions.locked:
            return _redirect(to)
        if self._sessions.fault is not None:
            raise Refused(503, "Nobody can be let in", f"{self._sessions.fault}. Its operator must mend that.")
        made = self._sessions.log_in(form.get("key", ""), asked.address)
        if isinstance(made, float | int):
            if made:
                wait_s = int(made) + 1
                return self._login_page(
                    to, status=429, retry_s=wait_s,
                    wrong=f"Too many wrong keys came from your address. The next one is looked at in {wait_s} s.",
                )  # fmt: skip
            return self._login_page(
                to, status=401,
                wrong="This is no key of this service, or it was revoked. `regime keys list` on its machine shows "
                "which there are.",
            )  # fmt: skip
        self._sessions.log_out(asked.headers.get("cookie", ""))
        return _redirect(to, cookie(made, secure=_secure(asked)))

    async def _log_out(self, asked: Asked, form: Mapping[str, str]) -> Reply:
        self._check_token(self._session(asked), form)
        self._sessions.log_out(asked.headers.get("cookie", ""))
        return _redirect("/", cookie("", secure=_secure(asked)))

    def _login_page(self, to: str, *, status: int, wrong: str = "", retry_s: int | None = None) -> Reply:
        headers = () if retry_s is None else (("Retry-After", str(retry_s)),)
        html = self._render("login", None, next=_local(to), wrong=wrong, now_ms=0)
        return Reply(status, html.encode(), (*_HTML_HEADERS, *headers))

    # --- the operator's word ---

    async def _review(self, asked: Asked, form: Mapping[str, str]) -> Reply:
        session = self._commander(asked, form)
        word, errors = self._word(form, session, new_ulid(self._ports.now_ms(), secrets.token_bytes(10)))
        if word is None:
            return self._edit(form, session, errors)
        return self._confirm(form, word, session)

    async def _override(self, asked: Asked, form: Mapping[str, str]) -> Reply:
        session = self._commander(asked, form)
        word, errors = self._word(form, session, form.get("id", ""))
        if not _OVERRIDE_ID.fullmatch(form.get("id", "")):
            errors.append("The form has lost its number; fill it in again.")
            word = None
        if word is None:
            return self._edit(form, session, errors)
        if word.state == "HALTED" and form.get("word", "").strip().upper() != HALT_WORD:
            return self._confirm(form, word, session, f"To halt, type {HALT_WORD} into the field below.")
        standing = await asyncio.to_thread(self._ports.overrides)
        if word.id not in standing:
            if len(standing) >= OVERRIDES_MAX:
                raise CallerError(f"{OVERRIDES_MAX} overrides are in force. Nothing was changed. End some of them.")
            if not (await self._ports.ingest([word])).accepted:
                raise Refused(
                    409, "It was given already", "This form was sent before, and the override it made is over. "
                    "Nothing was changed. Fill in a new one.", views.stream_href(_key(form)),
                )  # fmt: skip
        self._explained.clear()
        return _redirect(views.stream_href(_key(form), done="set") + "#override")

    async def _review_end(self, asked: Asked, form: Mapping[str, str]) -> Reply:
        session = self._commander(asked, form)
        standing = await self._standing(form)
        whom = "its streams" if standing.symbol is None else f"{standing.symbol} {standing.timeframe or ''}".strip()
        after = (
            "After a HALTED the stream is paused until the next candle has been judged; then the rules' word counts."
            if standing.state == "HALTED"
            else "The rules' word counts again at once: they may pause it, or let it trade."
        )
        html = self._render(
            "confirm", session, title="End an override?", now_ms=0, action="/page/end", yes="Yes, end it",
            sentences=[
                f"This ends the {standing.state} that {standing.actor} gave for {standing.side or 'both sides'} of "
                f"{standing.model}, {whom} (“{standing.reason}”).",
                after, "It is recorded in the audit trail.",
            ],
            asked=_EMPTY_FORM, errors=(), type_word="", back=_local(form.get("back", "/")),
            hidden={"id": standing.id, "back": _local(form.get("back", "/"))},
        )  # fmt: skip
        return Reply(200, html.encode(), _HTML_HEADERS)

    async def _end(self, asked: Asked, form: Mapping[str, str]) -> Reply:
        session = self._commander(asked, form)
        standing = await self._standing(form)
        word = Command(
            id=standing.id, action="clear", ts_ms=self._operator_ms(standing.model), model=standing.model,
            symbol=standing.symbol, timeframe=standing.timeframe, side=standing.side,
            key_id=None if session is None else session.key.id,
        )  # fmt: skip
        await self._ports.ingest([word])
        self._explained.clear()
        back = _local(form.get("back", "/"))
        return _redirect(f"{back}&done=ended#override" if "?" in back else back)

    async def _standing(self, form: Mapping[str, str]) -> Command:
        standing: Command | None = (await asyncio.to_thread(self._ports.overrides)).get(form.get("id", ""))
        if standing is None:
            raise Refused(
                404, "It is over already", "No such override is in force: it has ended, or somebody ended it. "
                "Nothing was changed.", _local(form.get("back", "/")),
            )  # fmt: skip
        return standing

    def _word(self, form: Mapping[str, str], session: Session | None, word_id: str) -> tuple[Command | None, list[str]]:
        """The override a form asks for, or what is wrong with it."""
        key, errors = _key(form), []
        self._known(key)
        state, side, hours = form.get("state", ""), form.get("side", ""), form.get("hours", "")
        actor, reason = form.get("actor", "").strip(), form.get("reason", "").strip()
        if state not in _DO:
            errors.append("Choose what the bot should do.")
        if side not in ("", *SIDES) or hours not in _HOURS or form.get("scope", "stream") not in ("stream", "model"):
            errors.append("Choose side, streams and time from what is offered.")
        if state == "ACTIVE" and hours == "":
            errors.append(
                "Say how long it may trade against the rules: such an override must have an end. The API takes one "
                "without, for whoever means it."
            )
        if not actor:
            errors.append("Give your name.")
        if not reason:
            errors.append("Give a reason: somebody will ask, and the audit trail answers.")
        if errors:
            return None, errors
        now_ms = self._operator_ms(key.model)
        until = form.get("until", "")
        until_ms: int | None = None
        if hours:
            # The moment that was shown is the moment that is kept, however long somebody read.
            until_ms = _whole(until, now_ms + int(hours) * _HOUR_MS)
        one = form.get("scope", "stream") == "stream"
        try:
            word = msgspec.convert(
                {
                    "id": word_id, "action": "set", "ts_ms": now_ms, "model": key.model,
                    "symbol": key.symbol if one else None, "timeframe": key.timeframe if one else None,
                    "side": side or None, "state": state, "until_ms": until_ms, "actor": actor, "reason": reason,
                    "key_id": None if session is None else session.key.id,
                },
                Command,
            )  # fmt: skip
        except msgspec.ValidationError as error:
            return None, [f"{error}."]
        errors = [f"{e.path}: {e.message}." for e in codec.check(word)]
        if until_ms is not None and until_ms <= now_ms:
            errors.append("The time for which it was asked is over already; ask again.")
        return (None, errors) if errors else (word, [])

    def _confirm(self, form: Mapping[str, str], word: Command, session: Session | None, error: str = "") -> Reply:
        decisions = self._ports.board.now.decisions
        reached = [key for key in decisions if concerns(word, key)]
        standing = [
            reason.code for key in reached for side in SIDES if word.side in (None, side)
            for told in (decisions[key].sides.of(side),) if told.state != "ACTIVE" for reason in told.reasons
        ]  # fmt: skip
        assert word.state is not None
        sentences = override_sentences(
            state=word.state, side=word.side, until_ms=word.until_ms, now_ms=word.ts_ms, standing=standing,
            streams=[f"{key.symbol} {key.timeframe} ({key.model})" for key in reached],
            all_of_model=word.model if word.symbol is None else None,
        )  # fmt: skip
        hidden = {
            **_key(form)._asdict(), "id": word.id, "state": word.state, "side": word.side or "",
            "scope": form.get("scope", "stream"), "hours": form.get("hours", ""), "until": str(word.until_ms or ""),
            "actor": word.actor, "reason": word.reason,
        }  # fmt: skip
        html = self._render(
            "confirm", session, title=_ASK[word.state], now_ms=0, action="/page/override", yes=_DO[word.state],
            sentences=sentences, asked=form, hidden=hidden,
            errors=[error] if error else (), type_word=HALT_WORD if word.state == "HALTED" else "",
            back=views.stream_href(_key(form)) + "#override",
        )  # fmt: skip
        return Reply(422 if error else 200, html.encode(), _HTML_HEADERS)

    def _edit(self, form: Mapping[str, str], session: Session | None, errors: list[str]) -> Reply:
        asked = {**_EMPTY_FORM, **form}
        back = views.stream_href(_key(form)) + "#override"
        html = self._render("edit", session, asked=asked, model=asked["model"], errors=errors, back=back, now_ms=0)
        return Reply(422, html.encode(), _HTML_HEADERS)

    def _operator_ms(self, model: str) -> int:
        return self._ports.event_now_ms(model) if self._event_time else self._ports.now_ms()

    # --- writing ---

    def _render(self, name: str, session: Session | None, *, live: str = "", **values: Any) -> str:
        health = self._ports.health()
        return _templates().get_template(f"{name}.html.j2").render(
            session=session, csrf=self._sessions.token(session), fault=None if health.ready else health.reason,
            event_time=self._event_time, live=live and (live if self._push else "poll"), built=_built(),
            version=version("regimegate"), **values,
        )  # fmt: skip

    def _message(self, refused: Refused) -> Reply:
        html = self._render(
            "message", None, title=refused.title, text=refused.text, back=refused.back, back_words=refused.back_words,
            now_ms=0,
        )  # fmt: skip
        return Reply(refused.status, html.encode(), _HTML_HEADERS)


class _LogIn(Exception):
    """Nobody is logged in, and somebody must be."""


_DONE = {
    "set": "The override is in force, and in the audit trail below.",
    "ended": "The override is over; the rules' word counts again.",
}


_EMPTY_FORM = {
    "state": "", "side": "", "scope": "stream", "hours": "4", "actor": "", "reason": "", "model": "", "symbol": "",
    "timeframe": "",
}  # fmt: skip


def _fields(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=40))
    except ValueError:
        text = "It is not percent-encoded UTF-8, or has too many parts."
        raise Refused(400, "The request cannot be read", text) from None


def _key(form: Mapping[str, str]) -> StreamKey:
    return StreamKey(form.get("model", ""), form.get("symbol", ""), form.get("timeframe", ""))


def _whole(text: str, default: int = 1) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else default


def _local(address: str) -> str:
    """Return an address on this site; `/` for any other, so that nobody is sent away from here.

    >>> [_local(a) for a in ("/stream?model=m", "//evil.example", "https://evil.example/", "/\\\\evil.example")]
    ['/stream?model=m', '/', '/', '/']
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    plain = address.isascii() and address.isprintable() and "\\" not in address and " " not in address
    return address if plain and not parts.netloc and not parts.scheme and parts.path in ("/", "/stream") else "/"


def _secure(asked: Asked) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us. Whoever lies about it harms himself alone."""
    forwarded = asked.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return asked.tls or forwarded == "https" or asked.headers.get("origin", "").startswith("https://")


def _packed(reply: Reply) -> Reply:
    """Return the same answer in a third of the bytes.

    That a page holds a secret (the token of its forms) and words of whoever asked is no harm here: another site cannot
    have a browser ask again and again and count the bytes, for our cookie does not go along with what it asks.
    """
    if len(reply.body) < PACKED_FROM_BYTES:
        return reply
    return reply._replace(
        body=_zipped(reply.body), headers=(*reply.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    )


@lru_cache(maxsize=16)
def _zipped(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


def _redirect(to: str, set_cookie: str | None = None) -> Reply:
    headers = (("Location", to), *(() if set_cookie is None else (("Set-Cookie", set_cookie),)))
    return Reply(303, b"", headers)


@cache
def _asset(name: str) -> Reply:
    # The look is that of the pictures, which the report of a replay shows as well.
    room = files("regime_service.drawing") if name == LOOK else files("regime_service.page") / "assets"
    body = (room / name).read_bytes()
    # The address changes with the content (`_built`), so a browser may keep it.
    return Reply(200, body, (("Content-Type", ASSETS[name]), ("Cache-Control", "public, max-age=31536000, immutable")))


@cache
def _built() -> str:
    """Eight letters that change with the assets."""
    return hashlib.sha256(b"".join(_asset(name).body for name in ASSETS)).hexdigest()[:8]


@cache
def _templates() -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=ChoiceLoader([PackageLoader("regime_service.page", "templates"),
                             PackageLoader("regime_service.drawing", ".")]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(views.FILTERS, json=_json, iso=_iso)
    return made


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> Markup:
    """JSON that may stand inside a script element: nothing in it ends the element."""
    text = msgspec.json.encode(value).decode()
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


__all__ = ["ASSETS", "FORM", "HALT_WORD", "Asked", "Page", "Refused", "Reply"]
