"""The routes of the contract: what a bot, an operator and a probe may ask.

    create_app(ports, decode_reference) -> FastAPI

Bodies are read by `regime.codec`, queries by `schema.Query`; FastAPI routes, and writes /docs and /openapi.json from
what stands beside each route. Nothing here decides: a POST hands its events in and answers with what came back, a GET
reads the board.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal, TypeVar, cast

import anyio.to_thread
import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from regime import codec
from regime.decision import Decision, to_answer
from regime.errors import CallerError, FieldError, Unavailable
from regime.events import AnyEvent, Candle, Command, Equity, Event, Observation, Recalibrated, StreamKey, Trade
from regime.reference import Reference
from regime_service.http import docs, problems, schema
from regime_service.http.auth import KEY_ID, Door, needed
from regime_service.http.gate import Gate
from regime_service.http.lease import POLLED_MS, forced_sides, lease_ms
from regime_service.http.limits import Caps, Limiter
from regime_service.http.schema import JSON, MILLIS, NDJSON, Override, Param, PeakReset, Query
from regime_service.ports import Ports, Receipt
from regime_service.stores.rows import new_ulid

DecodeReference = Callable[[IO[bytes], str], Reference]
"""(file with the body, media type) -> the sample. Called in a worker thread, one at a time. Raises `CallerError`, or
`ValueError` in words, where the bytes are no reference."""

E = TypeVar("E", bound=Event)

VERSION = importlib.metadata.version("regimegate")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REFERENCE_TYPES = ("application/vnd.apache.parquet", "text/csv", NDJSON)
REFERENCE_SYNONYMS = {"application/x-parquet": REFERENCE_TYPES[0], "application/csv": REFERENCE_TYPES[1]}
FUTURE_MS = 60_000
"""How far ahead of ours a bot's clock may be."""
SYMBOLS_MAX = 1_000
OFF_LOOP_BYTES = 256 * 1024
"""A body larger than this is decoded in a worker thread: reading 8 MiB would keep everybody else waiting."""
SPOOL_BYTES = 4 * 1024 * 1024
"""What of a reference is held in memory while it comes in; the rest goes to a temporary file."""
DECISIONS_MAX = 1_000
OVERRIDES_MAX = 1_000
"""Overrides in force at once: each is looked at with every event of its model."""
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
_SCOPE = (
    Param("symbol", "only streams of this symbol; left out: all of the model", length_max=128),
    Param("timeframe", "only streams of this timeframe; left out: all of the model", length_max=8),
    Param("trained_until_ms", "end of the training data, UTC milliseconds", whole=MILLIS),
)
_PAGE = (
    Param("since_version", "only decisions with a higher version", whole=schema.VERSION, default="0"),
    Param("limit", "decisions in one answer", whole=(1, DECISIONS_MAX), default="100"),
)


def create_app(ports: Ports, decode_reference: DecodeReference) -> FastAPI:
    """Return the ASGI application of the contract, wired to `ports`."""
    app = FastAPI(
        title="regimegate",
        version=VERSION,
        summary="Tells trading bots which market regime they are in, and whether to trade in it.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _route(app, _Api(ports, decode_reference))
    problems.install(app)
    app.add_middleware(
        Gate,
        hosts=ports.hosts,
        health=ports.health,
        body_bytes_max=ports.body_bytes_max,
        reference_bytes_max=ports.reference_bytes_max,
        door=Door(
            ports.keys,
            metrics_open=ports.metrics_open,
            requests=Limiter(per_s=ports.requests_per_s, burst=ports.requests_burst),
            session=ports.session,
        ),
    )

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            document["components"] = {"schemas": schema.components(), "securitySchemes": schema.SECURITY}
            app.openapi_schema = document
        return app.openapi_schema

    async def get_docs(_request: Request) -> Response:
        return Response(
            docs.page(app.openapi()), media_type="text/html", headers={"Content-Security-Policy": docs.POLICY}
        )

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_api_route("/docs", get_docs, include_in_schema=False, response_class=Response)
    return app


SECONDS_MAX = 978_307_200_000
"""2001-01-01 in milliseconds. On a wall clock an earlier time is one in seconds (those stay below it for ages)."""


class _Api:
    """The endpoints. Each reads its request, asks one port and answers."""

    def __init__(self, ports: Ports, decode_reference: DecodeReference) -> None:
        self._ports = ports
        self._decode_reference = decode_reference
        self._decoding = asyncio.Lock()
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
        query = Query(request.scope["query_string"], [_ON_CONFLICT], strict=True)
        keep = query.text("on_conflict") == "keep"
        raw = await request.body()
        events = await _parsed(raw, kind, ndjson=media == NDJSON)
        single = media == JSON and not _is_array(raw)
        self._refuse_future(events, single=single)
        receipt = Receipt(0, 0, 0, 0, (), ())
        if events:
            receipt = await self._ingest(request, cast(Sequence[AnyEvent], events), single=single, keep=keep)
        answer: dict[str, Any] = {
            "accepted": receipt.accepted,
            "duplicates": receipt.duplicates,
            "late": receipt.late,
            "thresholds": self._answers(receipt.decisions, replied=True),
        }
        if keep:
            answer["conflicts"] = receipt.conflicts
        return _json(answer)

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
            done = self._caps.admit(events, request.scope.get(KEY_ID))
            receipt = await self._ports.ingest(events, on_conflict=on_conflict, references=references)
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
            ahead_ms = getattr(event, name) - now_ms
            if getattr(event, name) < SECONDS_MAX:
                path = name if single else f"[{i}].{name}"
                errors.append(
                    FieldError(path, "lies before 2001: that looks like seconds, and milliseconds are wanted")
                )
            if ahead_ms > FUTURE_MS:
                path = name if single else f"[{i}].{name}"
                errors.append(FieldError(path, f"is {ahead_ms / 1000:,.0f} s in the future"))
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
        query = Query(request.scope["query_string"], _SCOPE, strict=True)
        event_clock = self._ports.config.clock == "event"
        now_ms = self._ports.now_ms()
        trained_until_ms = query.whole("trained_until_ms")
        if not event_clock and trained_until_ms is not None and trained_until_ms > now_ms + FUTURE_MS:
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
                async for chunk in request.stream():
                    if chunk:
                        await anyio.to_thread.run_sync(_spooled, spool, chunk)
                # One at a time: a reference unpacked is many times its size on the wire.
                async with self._decoding:
                    reference, reference_id, raw = await anyio.to_thread.run_sync(self._decoded, spool, media)
        finally:
            self._uploads -= 1
        if trained_until_ms is None:
            trained_until_ms = reference.trained_until_ms
        event = msgspec.structs.replace(event, reference_id=reference_id, trained_until_ms=trained_until_ms)
        receipt = await self._ingest(request, [event], single=True, references={reference_id: raw})
        return _json(
            {
                "reference_id": reference_id, "version": event.version, "rows": reference.rows,
                "features": len(reference.names), "trained_until_ms": trained_until_ms,
                "duplicate": receipt.duplicates > 0, "thresholds": self._answers(receipt.decisions, replied=True),
            }
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

    async def get_thresholds(self, request: Request) -> Response:
        query = Query(request.scope["query_string"], (_MODEL, _SYMBOLS, _TIMEFRAME), strict=False)
        model, timeframe = query.text("model"), query.text("timeframe")
        symbols = _symbols(query.text("symbol"))
        board = self._ports.board.now.decisions
        if len(symbols) == 1 and "," not in query.text("symbol"):
            found = [self._known(board, StreamKey(model, symbols[0], timeframe))]
            unknown: list[str] = []
        else:
            asked = {symbol: board.get(StreamKey(model, symbol, timeframe)) for symbol in symbols}
            found = [decision for decision in asked.values() if decision is not None]
            unknown = [symbol for symbol, decision in asked.items() if decision is None]
        etag = _etag(self._ports.epoch(), found, unknown)
        if _matches(request.headers.getlist("if-none-match"), etag):
            # One header renews all of them, so it says the shortest.
            valid_for_ms = min(self._leases(found, replied=False), default=POLLED_MS)
            return Response(None, 304, {"ETag": etag, "Regime-Valid-For-Ms": str(valid_for_ms)})
        answers = self._answers(found, replied=False)
        body = {"server_time_ms": self._ports.now_ms(), "thresholds": answers, "unknown": unknown}
        return _json(body, {"ETag": etag})

    async def get_decisions(self, request: Request) -> Response:
        query = Query(request.scope["query_string"], (*_STREAM, *_PAGE), strict=False)
        key = _key(query)
        self._known(self._ports.board.now.decisions, key)
        since_version, limit = query.whole("since_version"), query.whole("limit")
        assert since_version is not None and limit is not None  # They have defaults.
        epoch = self._ports.epoch()
        decisions = await anyio.to_thread.run_sync(self._ports.decisions, key, since_version, limit)
        return _json(
            {
                "epoch": epoch,
                "decisions": [to_answer(decision, epoch=epoch, valid_for_ms=0) for decision in decisions],
                "next_since_version": decisions[-1].version if decisions else since_version,
            }
        )

    async def get_explain(self, request: Request) -> Response:
        key = _key(Query(request.scope["query_string"], _STREAM, strict=False))
        try:
            return _json(await anyio.to_thread.run_sync(self._ports.explain, key))
        except KeyError:
            raise _unknown(key) from None

    def _known(self, board: Mapping[StreamKey, Decision], key: StreamKey) -> Decision:
        decision = board.get(key)
        if decision is None:
            raise _unknown(key)
        return decision

    def _answers(self, decisions: Sequence[Decision], *, replied: bool) -> list[dict[str, Any]]:
        epoch = self._ports.epoch()
        leases = self._leases(decisions, replied=replied)
        return [to_answer(d, epoch=epoch, valid_for_ms=lease) for d, lease in zip(decisions, leases, strict=True)]

    def _leases(self, decisions: Sequence[Decision], *, replied: bool) -> list[int]:
        now_ms, clock = self._ports.now_ms(), self._ports.config.clock
        # Asked only where it matters: the answer may have to wait for the writer.
        overrides = self._ports.overrides().values() if any(map(forced_sides, decisions)) else ()
        return [lease_ms(d, overrides=overrides, clock=clock, now_ms=now_ms, replied=replied) for d in decisions]

    # --- the operator's word ---

    async def post_override(self, request: Request) -> Response:
        _media_type(request, (JSON,))
        Query(request.scope["query_string"], (), strict=True)
        raw = await request.body()
        asked = await _parsed(raw, Override)
        if len(asked) != 1 or _is_array(raw):
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
            key_id=request.scope.get(KEY_ID),
        )  # fmt: skip
        same = standing.get(command.id)
        if same is not None and _unsigned(same, at_ms) == _unsigned(command, at_ms):
            # The same word again, with the same id. It was spoken when it was spoken, by whoever spoke it first.
            command = same
        await self._ingest(request, [command], single=True)
        return _json({"id": command.id})

    async def post_peak_reset(self, request: Request) -> Response:
        _media_type(request, (JSON,))
        Query(request.scope["query_string"], (), strict=True)
        raw = await request.body()
        asked = await _parsed(raw, PeakReset)
        if len(asked) != 1 or _is_array(raw):
            raise CallerError("A reset is one object, not a list: send them one by one.")
        self._require_model(asked[0].model)
        command = Command(
            id=new_ulid(self._ports.now_ms(), secrets.token_bytes(10)), action="reset-peak",
            ts_ms=self._operator_ms(asked[0].model), model=asked[0].model, actor=asked[0].actor,
            reason=asked[0].reason, key_id=request.scope.get(KEY_ID),
        )  # fmt: skip
        await self._ingest(request, [command], single=True)
        return _json({"id": command.id})

    async def delete_override(self, request: Request) -> Response:
        Query(request.scope["query_string"], (), strict=True)
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
            key_id=request.scope.get(KEY_ID),
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

    async def get_root(self, _request: Request) -> Response:
        return Response(f"regimegate {VERSION}: the API is described at /docs\n", media_type="text/plain")

    async def get_healthz(self, _request: Request) -> Response:
        return _json({"status": "alive"})

    async def get_readyz(self, _request: Request) -> Response:
        health = self._ports.health()
        if not health.ready:
            return problems.problem(503, f"{health.reason or 'The service is not ready'}.")
        return _json({"ready": True, "queue_depth": health.queue_depth, "queue_max": health.queue_max})

    async def get_metrics(self, _request: Request) -> Response:
        text = await anyio.to_thread.run_sync(self._ports.metrics)
        return Response(text, headers={"Content-Type": METRICS_TYPE})


# --- reading requests -----------------------------------------------------------------------------------------------


def _media_type(request: Request, taken: Sequence[str], synonyms: Mapping[str, str] | None = None) -> str:
    """Return the media type of the body. Raises 415 for one that is not taken, for none, and for a compressed body."""
    values = request.headers.getlist("content-type")
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
    codings = [c for c in request.headers.getlist("content-encoding") if c.strip().lower() not in ("", "identity")]
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


async def _parsed(raw: bytes, kind: type[E], *, ndjson: bool = False) -> list[E]:
    if len(raw) <= OFF_LOOP_BYTES:
        return codec.parse(raw, kind, ndjson=ndjson)
    return await anyio.to_thread.run_sync(lambda: codec.parse(raw, kind, ndjson=ndjson))


def _unsigned(command: Command, ts_ms: int) -> Command:
    return msgspec.structs.replace(command, ts_ms=ts_ms, key_id=None)


def _is_array(raw: bytes) -> bool:
    return _ARRAY.match(raw) is not None


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


def _json(body: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), headers=headers, media_type=JSON)


def _etag(epoch: str, decisions: Iterable[Decision], unknown: Iterable[str]) -> str:
    """Return the weak ETag over all streams listed: it changes with everything a bot acts on."""
    parts = [epoch]
    for d in decisions:
        parts += (*d.key, str(d.version), d.mode, d.reference_id or "", d.policy_id)
    parts += ("unknown", *unknown)
    return f'W/"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"'


def _matches(values: Sequence[str], etag: str) -> bool:
    """Weak comparison (RFC 9110, 13.1.2): `*`, or any of a list, whatever is marked weak."""
    text = ",".join(values)
    if text.strip() == "*":
        return True
    return etag.removeprefix("W/") in (found.removeprefix("W/") for found in _ETAG.findall(text))


# --- routes and their documentation ---------------------------------------------------------------------------------

_WRITE = (400, 404, 409, 413, 415, 422, 503)
_READ = (400, 404, 422, 503)
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def _route(app: FastAPI, api: _Api) -> None:
    def add(method: str, path: str, endpoint: Callable[..., Any], tag: str, extra: dict[str, Any]) -> None:
        summary, _, description = extra.pop("x-text").partition("\n")
        schema.locked(extra, needed(method, path))
        app.add_api_route(
            path, endpoint, methods=[method], response_class=Response, response_model=None, tags=[tag],
            operation_id=endpoint.__name__, summary=summary, description=description.strip(), openapi_extra=extra,
        )  # fmt: skip

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
                REFERENCE_TYPES[0]: {"schema": {"type": "string", "format": "binary"}},
                REFERENCE_TYPES[1]: {"schema": {"type": "string"}},
                REFERENCE_TYPES[2]: {"schema": {"type": "string"}},
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
        ("/metrics", api.get_metrics, _TEXT, "Metrics for Prometheus\nText exposition format 0.0.4.", (503,)),
    ):  # fmt: skip
        extra = schema.operation(content, about=text.partition("\n")[0], errors=errors)
        add("GET", path, probe, "service", {"x-text": text, **extra})


__all__ = ["METRICS_TYPE", "REFERENCE_TYPES", "VERSION", "DecodeReference", "create_app"]
