"""What waits to be told to operators, what could not be, and what to do about that: `/v1/alerts`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

from msgspec import Meta

from regime_service.http import schema
from regime_service.http.api import Application
from regime_service.http.auth import needed
from regime_service.http.exchange import Request, Response
from regime_service.http.operations import Word, answer, read, word_body
from regime_service.http.schema import JSON

IDS_MAX = 1000

Listed = Callable[[], dict[str, Any]]
"""-> channels, waiting and dead alerts, JSON-able; may block shortly: call it in a thread."""
Action = Literal["retry", "drop"]
Settle = Callable[[Action, list[int], str, str, str | None], None]
"""(what to do, with which dead alerts, who says so, why, by which key); returns when it is on disk. Blocks: thread.

Raises `CallerError` (404) where one of them is not dead, with nothing changed, and `Unavailable`."""

_PATH = "/v1/alerts"
_ITEMS = {"type": "array", "items": {"type": "object", "additionalProperties": True}}
_IDS = {"type": "array", "minItems": 1, "maxItems": IDS_MAX, "items": {"type": "integer", "minimum": 1}}
_ANSWER = {JSON: {"schema": {
    "type": "object", "required": ["channels", "waiting", "dead"],
    "properties": {"channels": _ITEMS, "waiting": _ITEMS, "dead": _ITEMS},
}}}  # fmt: skip
_SETTLED = {JSON: {"schema": {"type": "object", "required": ["ids"], "properties": {"ids": _IDS}}}}


class _Asked(Word, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of the dead alerts; who says so, and why."""

    ids: Annotated[list[Annotated[int, Meta(ge=1, le=2**63 - 1)]], Meta(min_length=1, max_length=IDS_MAX)]


def install(app: Application, listed: Listed, settle: Settle) -> None:
    """Add the routes."""

    async def get_alerts(request: Request) -> Response:
        schema.Query(request.query, (), strict=True)
        return answer(await asyncio.to_thread(listed))

    async def retry_alerts(request: Request) -> Response:
        return await act(request, "retry")

    async def drop_alerts(request: Request) -> Response:
        return await act(request, "drop")

    async def act(request: Request, action: Action) -> Response:
        asked = await read(request, _Asked)
        await asyncio.to_thread(settle, action, asked.ids, asked.actor, asked.reason, request.key_id)
        return answer({"ids": asked.ids})

    body = word_body(ids=_IDS)
    for method, path, handler, summary, about, operation in (
        ("GET", _PATH, get_alerts, "Alerts that were not delivered",
         "What waits, why it failed so far, and what was given up. Empty where no channel is configured.",
         schema.operation(_ANSWER, about="Oldest first.", errors=(422, 503))),
        ("POST", f"{_PATH}/retry", retry_alerts, "Send alerts again that were given up",
         "They wait once more, under the keys they had: a receiver that took one already knows it again. All of `ids`, "
         "or none.",
         schema.operation(_SETTLED, about="Recorded.", errors=(400, 404, 413, 415, 422, 503), body=body)),
        ("POST", f"{_PATH}/drop", drop_alerts, "Forget alerts that were given up",
         "They are listed no longer, and never sent. All of `ids`, or none.",
         schema.operation(_SETTLED, about="Recorded.", errors=(400, 404, 413, 415, 422, 503), body=body)),
    ):  # fmt: skip
        schema.locked(operation, needed(method, path))
        app.routes.add(method, path, handler, tag="operator", summary=summary, about=about, operation=operation)


__all__ = ["Action", "Listed", "Settle", "install"]
