"""What an operator asks about the store while the service runs: dead letters, and what to do about them.

    install(app, ports, letters) adds the routes to the application; the wiring calls it.

Both POSTs are words of an operator: recorded in the log as `Command`, and so the same in every replay.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from regime.errors import CallerError, FieldError
from regime.events import Command, Label
from regime_service.http import schema
from regime_service.http.answers import to_thresholds
from regime_service.http.api import Application
from regime_service.http.auth import needed
from regime_service.http.exchange import Request, Response
from regime_service.http.schema import JSON
from regime_service.ports import Ports
from regime_service.stores import DeadLetter
from regime_service.stores.rows import new_ulid

Letters = Callable[[bool], list[DeadLetter]]
"""(with the closed ones) -> dead letters, oldest first; may block shortly: call it in a thread."""


class Word(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who says it and why; kept with what it did."""

    actor: Label
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]


WordT = TypeVar("WordT", bound=Word)


async def read(request: Request, kind: type[WordT]) -> WordT:
    """Return what an operator sent, and nothing else with it; `CallerError` says that nothing was changed."""
    schema.Query(request.query, (), strict=True)
    media = (request.only(b"content-type") or b"").decode("latin-1")
    if media.partition(";")[0].strip().lower() != JSON:
        raise CallerError(f"Say who asks and why, as {JSON}. Nothing was changed.", status=415)
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CallerError(f"{error}. Nothing was changed.", errors=[FieldError("", str(error))]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise CallerError(f"The body cannot be read: {error}. Nothing was changed.", status=400) from None


def word_body(**more: Any) -> dict[str, Any]:
    """Return what OpenAPI says of the body that `read` takes; `more` are properties beside the word's own."""
    text = {"type": "string", "minLength": 1}
    properties = {"actor": text, "reason": text, **more}
    return {
        "required": True,
        "content": {JSON: {"schema": {
            "type": "object", "required": [*properties], "additionalProperties": False, "properties": properties,
        }}},
    }  # fmt: skip


def answer(body: Any) -> Response:
    """Return 200 with this as JSON."""
    return Response(msgspec.json.encode(body), headers=((b"content-type", JSON.encode()),))


def as_plain(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as a JSON object: what failed, for which stream, how often, and what ended it."""
    return {
        "id": letter.id, **letter.key._asdict(), "event": letter.seq, "kind": letter.kind, "error": letter.error,
        "opened_ms": letter.opened_ms, "attempts": letter.attempts, "open": letter.closed_seq is None,
        "closed_by_event": letter.closed_seq, "how": letter.how or None,
    }  # fmt: skip


def install(app: Application, ports: Ports, letters: Letters) -> None:
    """Add the routes."""

    async def get_dead_letters(request: Request) -> Response:
        query = schema.Query(request.query, (_CLOSED,), strict=True)
        found = await asyncio.to_thread(letters, query.text("closed") == "true")
        return answer({"dead_letters": [as_plain(one) for one in found]})

    async def retry_dead_letter(request: Request) -> Response:
        return await act(request, "retry")

    async def drop_dead_letter(request: Request) -> Response:
        return await act(request, "drop")

    async def act(request: Request, action: Any) -> Response:
        word = await read(request, Word)
        text = request.path_params["id"]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
        found = {one.id: one for one in await asyncio.to_thread(letters, False)}.get(number)
        if found is None:
            raise CallerError(
                f"No dead letter {text[:40]!r} is open. Nothing was changed. GET /v1/dead-letters shows what is open.",
                status=404,
            )
        event_clock = ports.config.clock == "event"
        now_ms = ports.event_now_ms(found.key.model) if event_clock else ports.now_ms()
        command = Command(
            id=new_ulid(ports.now_ms(), secrets.token_bytes(10)), action=action, ts_ms=now_ms, **found.key._asdict(),
            actor=word.actor, reason=word.reason, letter=found.id, key_id=request.key_id,
        )  # fmt: skip
        receipt = await ports.ingest([command])
        still = any(one.id == found.id for one in await asyncio.to_thread(letters, False))
        answers = [to_thresholds(decision, ports.epoch(), 0) for decision in receipt.decisions]
        return answer({"id": found.id, "open": still, "thresholds": answers})

    letter = {"type": "object", "additionalProperties": True}
    body = word_body()
    for method, path, handler, summary, about, extra in (
        ("GET", "/v1/dead-letters", get_dead_letters, "Events that made judging fail",
         "Each pauses its stream (`engine-error`) until it is retried or dropped, or a new reference is registered.",
         schema.operation(
             {JSON: {"schema": {"type": "object", "required": ["dead_letters"], "properties": {
                 "dead_letters": {"type": "array", "items": letter}}}}},
             about="Oldest first.", errors=(422, 503), params=(_CLOSED,))),
        ("POST", "/v1/dead-letters/{id}/retry", retry_dead_letter, "Measure the event once more",
         "The stream's detectors start anew from its reference. If the event fails again, the letter stays open.",
         schema.operation(_ACTED, about="Recorded.", errors=(400, 404, 413, 415, 422, 503), path=("id",), body=body)),
        ("POST", "/v1/dead-letters/{id}/drop", drop_dead_letter, "Go on without the event",
         "The stream's detectors start anew from its reference. The event stays in the log; it is not measured.",
         schema.operation(_ACTED, about="Recorded.", errors=(400, 404, 413, 415, 422, 503), path=("id",), body=body)),
    ):  # fmt: skip
        schema.locked(extra, needed(method, path))
        app.routes.add(method, path, handler, tag="operator", summary=summary, about=about, operation=extra)


_CLOSED = schema.Param("closed", "true: those that are closed as well", choices=("true", "false"), default="false")
_ACTED = {JSON: {"schema": {"type": "object", "required": ["id", "open", "thresholds"], "properties": {
    "id": {"type": "integer"}, "open": {"type": "boolean"}, "thresholds": {"type": "array"},
}}}}  # fmt: skip

__all__ = ["Letters", "Word", "answer", "as_plain", "install", "read", "word_body"]
