"""The routes of the contract: what a bot, an operator and a probe may ask.

    create_app(ports, decode_reference) -> Application

Bodies are read by `regime.codec`, queries by `schema.Query`; `routes` finds the handler, and makes /docs and
/openapi.json from what stands beside each route. Nothing here decides: a POST hands its events in and answers with what
came back, a GET reads the board. A handler that waits for nothing is a plain function.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET

from regime import codec
from regime.decision import Decision
from regime.errors import CallerError, FieldError, Unavailable
from regime.events import AnyEvent, Candle, Command, Equity, Event, Observation, Recalibrated, StreamKey, Trade
from regime.reference import Reference
from regime_service.clock import AHEAD_MS
from regime_service.http import docs, problems, schema
from regime_service.http.answers import JSON_TYPE, Answers, etag, to_thresholds
from regime_service.http.auth import Door, needed
from regime_service.http.exchange import Header, Receive, Request, Response, Scope, Send
from regime_service.http.gate import Gate
from regime_service.http.limits import Caps, Limiter
from regime_service.http.routes import Answer, Handler, Routes
from regime_service.http.schema import (
    JSON,
    MILLIS,
    NDJSON,
    DecisionsAnswer,
    IngestAnswer,
    Override,
    Param,
    PeakReset,
    Query,
    ReferenceAnswer,
)
from regime_service.http.stream import Push, Wanted
from regime_service.ports import Ports, Receipt
from regime_service.stores.rows import new_ulid

DecodeReference = Callable[[IO[bytes], str], Reference]
"""(file with the body, media type) -> the sample. Called in a worker thread, one at a time. Raises `CallerError`, or
`ValueError` in words, where the bytes are no reference."""

E = TypeVar("E", bound=Event)

VERSION = importlib.metadata.version("regimegate")
REFERENCE_TYPES = ("application/vnd.apache.parquet", "text/csv", NDJSON)
REFERENCE_SYNONYMS = {"application/x-parquet": REFERENCE_TYPES[0], "application/csv": REFERENCE_TYPES[1]}
SYMBOLS_MAX = 1_000
OFF_LOOP_BYTES = 512 * 1024
"""A body larger than this is decoded in a worker thread: reading 8 MiB would keep everybody else waiting."""
SPOOL_BYTES = 4 * 1024 * 1024
"""What of a reference is held in memory while it comes in; the rest goes to a temporary file."""
DECISIONS_MAX = 1_000
OVERRIDES_MAX = 1_000
"""Overrides in force at once: each is looked at with every event of its model."""
QUERIES_KEPT = 4096
QUERY_BYTES_KEPT = 512
"""Queries of polls that are remembered once read, and how long one of them may be."""
UPLOADS_MAX = 4
"""References that may come in at once: each may fill half a gigabyte of the temporary folder."""

_ARRAY = re.compile(rb"\s*\[")
_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_OVERRIDE_ID = re.compile(schema.OVERRIDE_ID)

_MODEL = Param("model", "the model's name", required=True)
_SYMBOL = Param("symbol", "the symbol as ccxt writes it, e.g. BTC/USDT:USDT", required=True)
_SYMBOLS = Param("symbol", "the symbol as ccxt writes it, e.g. BTC/USDT:USDT; several with commas", required=True)
_TIMEFRAME = Param("timeframe", "the timeframe, e.g. 5m", required=True)
_STREAM = (_MODEL, _SYMBOL, _TIMEFRAME)
_ON_CONFLICT = Param(
    "on_conflict",
    "what to do with an event whose key is stored with other content: refuse the whole batch, or keep what is stored",
    choices=("refuse", "keep"),
    default="refuse",
)
_FILTERS = (
    Param("model", "only streams of this model; left out: of all"),
    Param("symbol", "only these symbols, several with commas; left out: all"),
    Param("timeframe", "only this timeframe; left out: all"),
)
_SCOPE = (
    Param("symbol", "only streams of this symbol; left out: all of the model", length_max=128),
    Param("timeframe", "only streams of this timeframe; left out: all of the model", length_max=8),
    Param("trained_until_ms", "end of the training data, UTC milliseconds", whole=MILLIS),
)
_PAGE = (
    Param("since_version", "only decisions with a higher version", whole=schema.VERSION, default="0"),
    Param("limit", "decisions in one answer", whole=(1, DECISIONS_MAX), default="100"),
)


class Application:
    """The ASGI application of the contract, and its document."""

    def __init__(self, ports: Ports, decode_reference: DecodeReference) -> None:
        self.routes = Routes(
            title="regimegate", version=VERSION,
            summary="Tells trading bots which market regime they are in, and whether to trade in it.",
        )  # fmt: skip
        door = Door(
            ports.keys,
            metrics_open=ports.metrics_open,
            requests=Limiter(per_s=ports.requests_per_s, burst=ports.requests_burst),
            session=ports.session,
        )
        answers = Answers(ports)
        self._push = Push(ports, answers, shut_to=door.shut_to)
        self._document: dict[str, Any] | None = None
        _route(self.routes, _Api(ports, decode_reference, answers, self._push))
        self.routes.add("GET", "/openapi.json", self._get_openapi)
        self.routes.add("GET", "/docs", self._get_docs)
        self._gate = Gate(
            self.routes,
            hosts=ports.hosts,
            fault=ports.fault,
            body_bytes_max=ports.body_bytes_max,
            reference_bytes_max=ports.reference_bytes_max,
            door=door,
            traffic=ports.traffic,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._gate(scope, receive, send)

    def at_once(self, scope: Scope) -> tuple[Response, tuple[Header, ...]] | None:
        """Answer a request that waits for nothing; see `Gate.at_once`."""
        return self._gate.at_once(scope)

    def openapi(self) -> dict[str, Any]:
        """Return the document of all routes that were added."""
        return self.routes.document({"schemas": schema.components(), "securitySchemes": schema.SECURITY})

    def leave(self) -> None:
        """End all event streams, so that the server can stop."""
        self._push.close("the service is stopping")

    def _get_openapi(self, _request: Request) -> Response:
        return _json(self._documented())

    def _get_docs(self, _request: Request) -> Response:
        page = docs.page(self._documented()).encode()
        headers = ((b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", docs.POLICY.encode()))
        return Response(page, headers=headers)

    def _documented(self) -> dict[str, Any]:
        # Made when it is first asked for: by then every route has been added.
        if self._document is None:
            self._document = self.openapi()
        return self._document


def create_app(ports: Ports, decode_reference: DecodeReference) -> Application:
    """Return the ASGI application of the contract, wired to `ports`."""
    return Application(ports, decode_reference)


SECONDS_MAX = 978_307_200_000
"""2001-01-01 in milliseconds. On a wall clock an earlier time is one in seconds (those stay below it for ages)."""


class _Api:
    """The endpoints. Each reads its request, asks one port and answers."""

    def __init__(self, ports: Ports, decode_reference: DecodeReference, answers: Answers, push: Push) -> None:
        self._ports = ports
        self._decode_reference = decode_reference
        self._answers = answers
        self._push = push
        self._asked: dict[bytes, _Asked] = {}
        self._decoding = asyncio.Lock()
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")
        self._uploads = 0
        self._caps = Caps(
            lambda: ports.board.now.decisions, streams_max=ports.streams_max, key_streams_max=ports.key_streams_max,
            features_max=ports.features_max,
        )  # fmt: skip

    # --- events in ---

    async def post_observations(self, request: Request) -> Response:
        return await self._take(request, Observation, ndjson=True)

    async def post_trades(self, request: Request) -> Response:
        return await self._take(request, Trade, ndjson=True)

    async def post_equity(self, request: Request) -> Response:
        return await self._take(request, Equity)

    async def post_candles(self, request: Request) -> Response:
        return await self._take(request, Candle)

    async def _take(
        self, request: Request, kind: type[Observation | Trade | Equity | Candle], *, ndjson: bool = False
    ) -> Response:
        media = _media_type(request, (JSON, NDJSON) if ndjson else (JSON,))
        keep = bool(request.query) and Query(request.query, [_ON_CONFLICT], strict=True).text("on_conflict") == "keep"
        events, single = await self._parsed(request, kind, ndjson=media == NDJSON)
        self._refuse_future(events, single=single)
        receipt = Receipt(0, 0, 0, 0, (), ())
        if events:
            receipt = await self._ingest(request, cast(Sequence[AnyEvent], events), single=single, keep=keep)
        return _json(
            IngestAnswer(
                accepted=receipt.accepted, duplicates=receipt.duplicates, late=receipt.late,
                thresholds=self._answers.replied(receipt.decisions), conflicts=receipt.conflicts if keep else UNSET,
            )
        )  # fmt: skip

    async def _parsed(self, request: Request, kind: type[E], *, ndjson: bool = False) -> tuple[list[E], bool]:
        chunks = await request.pieces()
        if sum(map(len, chunks)) <= OFF_LOOP_BYTES:
            return _parsed(chunks, kind, ndjson)
        # One at a time, and in one thread: decoded, and above all explained where it is wrong, a body is many times its
        # size, and the allocator keeps room for each thread that ever needed so much.
        return await asyncio.get_running_loop().run_in_executor(self._large, _parsed, chunks, kind, ndjson)

    async def _ingest(
        self,
        request: Request,
        events: Sequence[AnyEvent],
        *,
        single: bool,
        keep: bool = False,
        references: dict[str, bytes] | None = None,
    ) -> Receipt:
        on_conflict: Literal["refuse", "keep"] = "keep" if keep else "refuse"
        done = None
        try:
            done = self._caps.admit(events, request.key_id)
            receipt = await self._ports.ingest(events, on_conflict=on_conflict, references=references)
            request.decision = receipt.decisions[0] if receipt.decisions else None
            done(True)
            done = None
            return receipt
        except CallerError as error:
            if not single:
                raise
            # Paths name the item of a batch; who sent one object did not send a batch.
            errors = [FieldError(e.path.removeprefix("[0]").removeprefix("."), e.message) for e in error.errors]
            raise CallerError(error.detail, status=error.status_hint, errors=errors) from None
        finally:
            if done is not None:
                done(False)

    def _refuse_future(self, events: Iterable[Event], *, single: bool) -> None:
        if self._ports.config.clock == "event":
            return
        now_ms = self._ports.now_ms()
        errors: list[FieldError] = []
        for i, event in enumerate(events):
            name = "closed_ms" if isinstance(event, Trade) else "ts_ms"
            time_ms: int = getattr(event, name)
            if SECONDS_MAX <= time_ms <= now_ms + AHEAD_MS:
                continue
            said = "lies before 2001: that looks like seconds, and milliseconds are wanted"
            if time_ms > now_ms + AHEAD_MS:
                said = f"is {(time_ms - now_ms) / 1000:,.0f} s in the future"
            errors.append(FieldError(name if single else f"[{i}].{name}", said))
        if errors:
            first = errors[0]
            raise CallerError(
                f"{first.path} {first.message} ({len(errors)} such in the body). Nothing was stored. Compare the bot's "
                "clock with ours (`server_time_ms`) and see that times are milliseconds since 1970 in UTC; to replay "
                'old or invented data, run the service with clock = "event".',
                errors=errors[: codec.ERRORS_MAX],
            )

    # --- references ---

    async def put_reference(self, request: Request) -> Response:
        media = _media_type(request, REFERENCE_TYPES, REFERENCE_SYNONYMS)
        query = Query(request.query, _SCOPE, strict=True)
        event_clock = self._ports.config.clock == "event"
        now_ms = self._ports.now_ms()
        trained_until_ms = query.whole("trained_until_ms")
        if not event_clock and trained_until_ms is not None and trained_until_ms > now_ms + AHEAD_MS:
            raise CallerError(
                "trained_until_ms lies in the future: a model cannot have been trained on what has not happened yet. "
                "Give the end of the training data in milliseconds since 1970, UTC.",
                errors=[FieldError("trained_until_ms", "is in the future")],
            )
        # Made before the body is read: a wrong name is not worth an upload.
        event = _checked(
            Recalibrated,
            model=request.path_params["model"], version=request.path_params["version"], reference_id="",
            symbol=query.maybe("symbol"), timeframe=query.maybe("timeframe"),
            ts_ms=None if event_clock else now_ms,
        )  # fmt: skip
        if self._uploads >= UPLOADS_MAX:
            raise Unavailable(
                f"{UPLOADS_MAX} references are coming in already. Nothing was stored. Send it again in a while.",
                retry_after_s=10,
            )
        self._uploads += 1
        try:
            with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
                async for chunk in request.chunks():
                    await asyncio.to_thread(_spooled, spool, chunk)
                # One at a time: a reference unpacked is many times its size on the wire.
                async with self._decoding:
                    reference, reference_id, raw = await asyncio.to_thread(self._decoded, spool, media)
        finally:
            self._uploads -= 1
        if trained_until_ms is None:
            trained_until_ms = reference.trained_until_ms
        event = msgspec.structs.replace(event, reference_id=reference_id, trained_until_ms=trained_until_ms)
        receipt = await self._ingest(request, [event], single=True, references={reference_id: raw})
        return _json(
            ReferenceAnswer(
                reference_id=reference_id, version=event.version, rows=reference.rows, features=len(reference.names),
                trained_until_ms=trained_until_ms, duplicate=receipt.duplicates > 0,
                thresholds=self._answers.replied(receipt.decisions),
            )
        )  # fmt: skip

    def _decoded(self, spool: IO[bytes], media: str) -> tuple[Reference, str, bytes]:
        if not spool.seek(0, os.SEEK_END):
            raise CallerError("The body is empty: send the training-period sample, one row a candle.", status=400)
        spool.seek(0)
        try:
            reference = self._decode_reference(spool, media)
        except ValueError as error:
            raise CallerError(
                f"The body could not be read as a reference ({media}): {error}. Nothing was stored.", status=422
            ) from None
        return reference, reference.reference_id, reference.to_bytes()

    # --- decisions out ---

    def get_thresholds(self, request: Request) -> Response:
        asked = self._asked.get(request.query) or self._read_asked(request.query)
        board, answers = self._ports.board.now.decisions, self._answers
        unknown = b"[]"
        if (alone := asked.alone) is not None:
            one = answers.spelled(alone, board.get(alone) or self._known(board, alone))
            found, headers, tag = [one], one.headers, one.etag
            told = answers.polled(one)
        else:
            found = [answers.spelled(key, board[key]) for key in asked.keys if key in board]
            missing = [key.symbol for key in asked.keys if key not in board]
            tag = etag(self._ports.epoch(), [one.token for one in found], missing)
            headers = (JSON_TYPE, (b"etag", tag))
            told, unknown = b",".join([answers.polled(one) for one in found]), msgspec.json.encode(missing)
        if request.has(b"if-none-match") and _matches(request, tag):
            # One header renews all of them, so it says the shortest.
            valid_for_ms = answers.shortest_lease(found)
            return Response(b"", 304, ((b"etag", tag), (b"regime-valid-for-ms", b"%d" % valid_for_ms)))
        now_ms = self._ports.now_ms()
        return Response(b'{"server_time_ms":%d,"thresholds":[%b],"unknown":%b}' % (now_ms, told, unknown), 200, headers)

    def _read_asked(self, raw: bytes) -> _Asked:
        """Read the query of a poll, and remember it: a bot asks the same again and again."""
        query = Query(raw, (_MODEL, _SYMBOLS, _TIMEFRAME), strict=False)
        text = query.text("symbol")
        keys = [StreamKey(query.text("model"), symbol, query.text("timeframe")) for symbol in _symbols(text)]
        asked = _Asked(keys[0] if "," not in text else None, keys)
        if len(raw) <= QUERY_BYTES_KEPT:
            if len(self._asked) >= QUERIES_KEPT:
                self._asked.clear()
            self._asked[raw] = asked
        return asked

    async def get_stream(self, request: Request) -> Answer:
        query = Query(request.query, _FILTERS, strict=False)
        symbols = query.maybe("symbol")
        wanted = Wanted(
            query.maybe("model"), None if symbols is None else frozenset(_symbols(symbols)), query.maybe("timeframe")
        )
        return self._push.open(request, wanted)

    async def get_decisions(self, request: Request) -> Response:
        query = Query(request.query, (*_STREAM, *_PAGE), strict=False)
        key = _key(query)
        self._known(self._ports.board.now.decisions, key)
        since_version, limit = query.whole("since_version"), query.whole("limit")
        assert since_version is not None and limit is not None  # They have defaults.
        epoch = self._ports.epoch()
        decisions = await asyncio.to_thread(self._ports.decisions, key, since_version, limit)
        return _json(
            DecisionsAnswer(
                epoch=epoch,
                decisions=[to_thresholds(decision, epoch, 0) for decision in decisions],
                next_since_version=decisions[-1].version if decisions else since_version,
            )
        )

    async def get_explain(self, request: Request) -> Response:
        key = _key(Query(request.query, _STREAM, strict=False))
        try:
            return _json(await asyncio.to_thread(self._ports.explain, key))
        except KeyError:
            raise _unknown(key) from None

    def _known(self, board: Mapping[StreamKey, Decision], key: StreamKey) -> Decision:
        decision = board.get(key)
        if decision is None:
            raise _unknown(key)
        return decision

    # --- the operator's word ---

    async def post_override(self, request: Request) -> Response:
        _media_type(request, (JSON,))
        Query(request.query, (), strict=True)
        asked, single = await self._parsed(request, Override)
        if not single:
            raise CallerError("An override is one object, not a list: send them one by one.")
        override = asked[0]
        self._require_model(override.model)
        at_ms = self._operator_ms(override.model)
        if override.until_ms is not None and override.until_ms <= at_ms:
            raise CallerError(
                f"until_ms is in the past ({override.until_ms} is not after {at_ms}), so the override would end before "
                "it begins. Nothing was changed. Give a later time in milliseconds since 1970, UTC, or leave it out.",
                errors=[FieldError("until_ms", f"must be after {at_ms}")],
            )
        if override.id is not None and not _OVERRIDE_ID.fullmatch(override.id):
            message = "must be 1 to 128 letters, digits or any of . _ : ~ - (it becomes part of an address)"
            raise CallerError(f"id {message}.", errors=[FieldError("id", message)])
        standing = self._ports.overrides()
        if override.id not in standing and len(standing) >= OVERRIDES_MAX:
            raise CallerError(
                f"{OVERRIDES_MAX} overrides are in force already. Nothing was changed. Delete those that are over "
                "(`/v1/explain` lists them); one without symbol and timeframe stands for all streams of a model."
            )
        command = Command(
            id=override.id or new_ulid(self._ports.now_ms(), secrets.token_bytes(10)), action="set", ts_ms=at_ms,
            model=override.model, symbol=override.symbol, timeframe=override.timeframe, side=override.side,
            state=override.state, until_ms=override.until_ms, actor=override.actor, reason=override.reason,
            key_id=request.key_id,
        )  # fmt: skip
        same = standing.get(command.id)
        if same is not None and _unsigned(same, at_ms) == _unsigned(command, at_ms):
            # The same word again, with the same id. It was spoken when it was spoken, by whoever spoke it first.
            command = same
        receipt = await self._ingest(request, [command], single=True)
        if receipt.duplicates and command.id not in self._ports.overrides():
            # The log holds this very word, but for its time: it was spoken before, and taken back or its time is up.
            raise CallerError(
                f"The override {command.id!r} was set before and has ended. Nothing was changed, and it is NOT in "
                "force. Set it under another id, or leave the id out.",
                status=409,
                errors=[FieldError("id", "was used before")],
            )
        return _json({"id": command.id})

    async def post_peak_reset(self, request: Request) -> Response:
        _media_type(request, (JSON,))
        Query(request.query, (), strict=True)
        asked, single = await self._parsed(request, PeakReset)
        if not single:
            raise CallerError("A reset is one object, not a list: send them one by one.")
        self._require_model(asked[0].model)
        command = Command(
            id=new_ulid(self._ports.now_ms(), secrets.token_bytes(10)), action="reset-peak",
            ts_ms=self._operator_ms(asked[0].model), model=asked[0].model, actor=asked[0].actor,
            reason=asked[0].reason, key_id=request.key_id,
        )  # fmt: skip
        await self._ingest(request, [command], single=True)
        return _json({"id": command.id})

    async def delete_override(self, request: Request) -> Response:
        Query(request.query, (), strict=True)
        override_id = request.path_params["id"]
        standing = self._ports.overrides().get(override_id)
        if standing is None:
            raise CallerError(
                f"No override with the id {override_id[:128]!r} is in force: it has ended, was deleted, or never was. "
                "Nothing was changed.",
                status=404,
            )
        command = Command(
            id=standing.id, action="clear", ts_ms=self._operator_ms(standing.model), model=standing.model,
            symbol=standing.symbol, timeframe=standing.timeframe, side=standing.side,
            key_id=request.key_id,
        )  # fmt: skip
        await self._ingest(request, [command], single=True)
        return _json({"id": command.id})

    def _operator_ms(self, model: str) -> int:
        clock = self._ports.config.clock
        return self._ports.event_now_ms(model) if clock == "event" else self._ports.now_ms()

    def _require_model(self, model: str) -> None:
        if not self._ports.has_model(model):
            raise CallerError(
                f"No model is called {model!r} here. Nothing was changed. Names are case-sensitive; a model is known "
                "once it stands in the configuration or has sent something.",
                status=404,
                errors=[FieldError("model", "is not known")],
            )

    # --- the service itself ---

    def get_root(self, _request: Request) -> Response:
        said = f"regimegate {VERSION}: the API is described at /docs\n"
        return Response(said.encode(), headers=((b"content-type", b"text/plain; charset=utf-8"),))

    def get_healthz(self, _request: Request) -> Response:
        return _json({"status": "alive"})

    def get_readyz(self, _request: Request) -> Response:
        health = self._ports.health()
        if not health.ready:
            return problems.problem(503, f"{health.reason or 'The service is not ready'}.", kind="not-ready")
        return _json({"ready": True, "queue_depth": health.queue_depth, "queue_max": health.queue_max})

    async def get_metrics(self, request: Request) -> Response:
        text, media = await asyncio.to_thread(self._ports.metrics, ",".join(request.values(b"accept")))
        return Response(text, headers=((b"content-type", media.encode()),))


# --- reading requests -----------------------------------------------------------------------------------------------


def _media_type(request: Request, taken: Sequence[str], synonyms: Mapping[str, str] | None = None) -> str:
    """Return the media type of the body. Raises 415 for one that is not taken, for none, and for a compressed body."""
    if request.only(b"content-type") == JSON_TYPE[1] and JSON in taken and not request.has(b"content-encoding"):
        return JSON
    values = request.values(b"content-type")
    media, _, parameters = (values[0] if len(values) == 1 else "").partition(";")
    media = media.strip().lower()
    media = (synonyms or {}).get(media, media)
    if media not in taken:
        got = f"is {media!r}" if media else "is missing" if not values else "cannot be read"
        raise CallerError(
            f"The Content-Type of the body {got}; taken here: {', '.join(taken)}. Nothing was stored.", status=415
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise CallerError(f"The body must be UTF-8, not {charset!r}. Nothing was stored.", status=415)
    codings = [c for c in request.values(b"content-encoding") if c.strip().lower() not in ("", "identity")]
    if codings:
        raise CallerError(
            f"Compressed bodies (Content-Encoding: {codings[0]!r}) are not taken; send it plain. Nothing was stored.",
            status=415,
        )
    return media


def _spooled(spool: IO[bytes], chunk: bytes) -> None:
    try:
        spool.write(chunk)
    except OSError as error:
        raise Unavailable(
            f"The upload found no room in the service's temporary folder ({error.strerror}). Nothing was stored. Make "
            "room there, then send it again.",
            retry_after_s=60,
        ) from None


def _parsed(chunks: list[bytes], kind: type[E], ndjson: bool) -> tuple[list[E], bool]:
    """Return the events of a body that came in pieces, and whether it is one object by itself. Empties the list."""
    raw = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    chunks.clear()
    return codec.parse(raw, kind, ndjson=ndjson), not ndjson and _ARRAY.match(raw) is None


def _unsigned(command: Command, ts_ms: int) -> Command:
    return msgspec.structs.replace(command, ts_ms=ts_ms, key_id=None)


def _checked(kind: type[E], **fields: Any) -> E:
    """Build an event from parts of the address, held to the same constraints as one from a body."""
    try:
        event = msgspec.convert({name: value for name, value in fields.items() if value is not None}, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        path = place.rstrip("`")
        raise CallerError(f"`{path}` of the address: {message}.", errors=[FieldError(path, message)]) from None
    errors = codec.check(event)
    if errors:
        raise CallerError(f"`{errors[0].path}` of the address: {errors[0].message}.", errors=errors)
    return event


def _key(query: Query) -> StreamKey:
    return StreamKey(query.text("model"), query.text("symbol"), query.text("timeframe"))


def _symbols(text: str) -> list[str]:
    symbols = list(dict.fromkeys(part.strip() for part in text.split(",")))
    symbols = [symbol for symbol in symbols if symbol]
    if not symbols:
        raise CallerError("`symbol` names no symbol.", errors=[FieldError("symbol", "names no symbol")])
    if len(symbols) > SYMBOLS_MAX:
        message = f"names {len(symbols)} symbols; at most {SYMBOLS_MAX} are answered at once"
        raise CallerError(f"`symbol` {message}.", errors=[FieldError("symbol", message)])
    return symbols


def _unknown(key: StreamKey) -> CallerError:
    return CallerError(
        f"No stream has model {key.model[:128]!r}, symbol {key.symbol[:128]!r} and timeframe {key.timeframe[:16]!r}. "
        "Names are case-sensitive and symbols are ccxt's (BTC/USDT:USDT is not BTC/USDT). A stream comes into being "
        "with its first observation, trade or reference.",
        status=404,
    )


# --- writing answers ------------------------------------------------------------------------------------------------


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), headers=(JSON_TYPE,))


def _matches(request: Request, tag: bytes) -> bool:
    """Weak comparison (RFC 9110, 13.1.2): `*`, or any of a list, whatever is marked weak."""
    if request.only(b"if-none-match") == tag:
        return True
    text = ",".join(request.values(b"if-none-match"))
    if text.strip() == "*":
        return True
    return tag.decode().removeprefix("W/") in (found.removeprefix("W/") for found in _ETAG.findall(text))


class _Asked(NamedTuple):
    """What a poll asks for. `alone`: one symbol, not a list of one, so that an unknown one is a 404."""

    alone: StreamKey | None
    keys: list[StreamKey]


# --- routes and their documentation ---------------------------------------------------------------------------------

_WRITE = (400, 404, 409, 413, 415, 422, 503)
_READ = (400, 404, 422, 503)
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_METRICS = {**_TEXT, "application/openmetrics-text": {"schema": {"type": "string"}}}


_STREAM_TEXT = (
    "Have the answers pushed as they change (server-sent events)\n`thresholds`: one stream's answer, the newest; first "
    "those that stand, then each that changes, by the same measure as the ETag. Versions that were overtaken before "
    "they could be sent are left out: /v1/decisions has them all. `lease` (every 15 s): every answer that came over "
    "this stream still stands and is good for another `valid_for_ms`; nothing else renews. `closing`: why the service "
    "ends the stream. A line beginning with a colon says that the line is alive. Count a lease on your own monotonic "
    "clock from the start of the request plus `elapsed_ms` of the event, so that an event which waited in a buffer is "
    "not taken for a fresh one. Each event has an `id`: who comes back with the last one as `Last-Event-ID` gets what "
    "changed meanwhile; an id that is not known any more (another filter, a service that was restarted, anything else) "
    "brings all that stands. A reader that does not read is cut off. Streams that come into being later are sent too, "
    "and a filter that matches none is no error: `lease` says how many there are. Polling stays the contract; this is "
    "faster."
)


def _route(routes: Routes, api: _Api) -> None:
    def add(method: str, path: str, handler: Handler, tag: str, extra: dict[str, Any]) -> None:
        summary, _, about = extra.pop("x-text").partition("\n")
        schema.locked(extra, needed(method, path))
        routes.add(method, path, handler, tag=tag, summary=summary, about=about.strip(), operation=extra)

    for kind, endpoint, ndjson, text in (
        ("Observation", api.post_observations, True,
         "Send what the model saw and said on closed candles\nIdempotent on stream + `ts_ms`. Answered after the "
         "events are on disk and judged, with the thresholds of every stream touched."),
        ("Trade", api.post_trades, True,
         "Send closed trades\nIdempotent on model + `trade_id`. Never late: an outcome counts when it arrives."),
        ("Equity", api.post_equity, False,
         "Send the account's equity, open positions marked to market\nIdempotent on model + `ts_ms`. Reaches every "
         "stream of the model."),
        ("Candle", api.post_candles, False,
         "Send closed candles of a market\nIdempotent on symbol + timeframe + `ts_ms`. Reaches every stream of that "
         "symbol and timeframe."),
    ):  # fmt: skip
        path = {"Observation": "observations", "Trade": "trades", "Equity": "equity", "Candle": "candles"}[kind]
        extra = schema.operation(
            schema.json_of("IngestAnswer"), about="Stored and judged.", errors=_WRITE, params=[_ON_CONFLICT],
            body=schema.one_or_many(kind, ndjson=ndjson),
        )  # fmt: skip
        add("POST", f"/v1/{path}", endpoint, "bot", {"x-text": text, **extra})

    extra = schema.operation(
        schema.json_of("ReferenceAnswer"), about="In force.", errors=_WRITE, params=_SCOPE, path=("model", "version"),
        body={
            "required": True,
            "content": {
                REFERENCE_TYPES[0]: {"schema": {"type": "string", "format": "binary", "minLength": 1}},
                REFERENCE_TYPES[1]: {"schema": {"type": "string", "minLength": 1}},
                REFERENCE_TYPES[2]: {"schema": {"type": "string", "minLength": 1}},
            },
        },
    )  # fmt: skip
    text = (
        "Put a training-period sample in force\nOne row a candle, one column a feature; optional columns `ts_ms` (or "
        "`time`, `timestamp`), `probability_long`, `probability_short`. The same version with the same content again "
        "changes nothing; with other content it is refused (409): give it another version."
    )
    path = "/v1/models/{model:path}/references/{version}"
    add("PUT", path, api.put_reference, "operator", {"x-text": text, **extra})

    etag = {"schema": {"type": "string"}, "description": "Weak, over all streams listed."}
    if_none_match = {
        "name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"},
        "description": "ETags of answers held, or *.",
    }  # fmt: skip
    unchanged = {
        "description": "Nothing changed: the answer held is good for another `Regime-Valid-For-Ms`.",
        "headers": {"ETag": etag, "Regime-Valid-For-Ms": {"schema": {"type": "integer", "minimum": 0}}},
    }
    extra = schema.operation(
        schema.json_of("ThresholdsAnswer"), about="The answer of each stream, in the order asked for.", errors=_READ,
        params=(_MODEL, _SYMBOLS, _TIMEFRAME), headers=[if_none_match], others={"304": unchanged},
    )  # fmt: skip
    extra["responses"]["200"]["headers"] = {"ETag": etag}
    text = (
        "May the bot trade, and at which thresholds?\nPoll this, or take the reply to a POST. Decide from memory, time "
        "out in 1 s; an answer is good for `valid_for_ms` from the start of the request; after that assume REDUCING."
    )
    add("GET", "/v1/thresholds", api.get_thresholds, "bot", {"x-text": text, **extra})

    last_event_id = {
        "name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"},
        "description": "The `id` of the last event that came before the line broke.",
    }  # fmt: skip
    extra = schema.operation(
        schema.EVENT_STREAM, about="Events, until one side ends it.", errors=(400, 422, 429, 503), params=_FILTERS,
        headers=[last_event_id],
    )  # fmt: skip
    add("GET", "/v1/stream", api.get_stream, "bot", {"x-text": _STREAM_TEXT, **extra})

    extra = schema.operation(
        schema.json_of("DecisionsAnswer"), about="A page of the trail.", errors=_READ, params=(*_STREAM, *_PAGE)
    )
    text = "The audit trail: every decision that changed something\nAscending by version."
    add("GET", "/v1/decisions", api.get_decisions, "operator", {"x-text": text, **extra})

    extra = schema.operation(
        {JSON: {"schema": {"type": "object"}}}, about="The evidence.", errors=_READ, params=_STREAM
    )
    text = (
        "The evidence behind the current answer\nTop features, statistics against their limits, votes, estimated start "
        "of the change. Each feature of a change has its `psi` (population stability index against the reference's "
        "deciles) and its `wasserstein` (distance of the two distributions, in standard deviations of the reference): "
        "sizes to report, over the rows since that start, 288 at most, null while there are fewer than 30. No answer "
        "depends on them."
    )
    add("GET", "/v1/explain", api.get_explain, "operator", {"x-text": text, **extra})

    extra = schema.operation(
        schema.json_of("OverrideAnswer"), about="Recorded, and in force.", errors=_WRITE,
        body={"required": True, "content": schema.json_of("Override")},
    )  # fmt: skip
    text = "Overrule the rules\nIdempotent on `id`; the service makes one where none is given."
    add("POST", "/v1/overrides", api.post_override, "operator", {"x-text": text, **extra})

    extra = schema.operation(
        schema.json_of("OverrideAnswer"), about="Recorded; the peak is where the account stands now.", errors=_WRITE,
        body={"required": True, "content": schema.json_of("PeakReset")},
    )  # fmt: skip
    text = (
        "Measure the drawdown from here on\nAfter a loss that was looked into: the account's peak, and each side's, "
        "become what they are now. The loss stays in the log."
    )
    add("POST", "/v1/peak-resets", api.post_peak_reset, "operator", {"x-text": text, **extra})

    extra = schema.operation(
        schema.json_of("OverrideAnswer"), about="Recorded; the rules' word counts again.",
        errors=(400, 404, 422, 503), path=("id",),
    )  # fmt: skip
    text = "End an override\nAfter HALTED the stream is REDUCING until the next observation has been judged."
    add("DELETE", "/v1/overrides/{id}", api.delete_override, "operator", {"x-text": text, **extra})

    for path, probe, content, text, errors in (
        ("/", api.get_root, _TEXT, "What this is", ()),
        ("/healthz", api.get_healthz, schema.json_of("Alive"), "Is the process alive?", ()),
        ("/readyz", api.get_readyz, schema.json_of("Ready"),
         "Can the service answer and store?\nWhatever the streams' states.", (503,)),
        ("/metrics", api.get_metrics, _METRICS, "Metrics for Prometheus\nOpenMetrics if asked, else 0.0.4.", (503,)),
    ):  # fmt: skip
        extra = schema.operation(content, about=text.partition("\n")[0], errors=errors)
        add("GET", path, probe, "service", {"x-text": text, **extra})


__all__ = ["REFERENCE_TYPES", "VERSION", "DecodeReference", "create_app"]
