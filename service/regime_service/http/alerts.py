"""What waits to be told to operators, and what could not be: `GET /v1/alerts`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from regime_service.http import schema
from regime_service.http.api import Application
from regime_service.http.auth import needed
from regime_service.http.exchange import Request, Response
from regime_service.http.schema import JSON

Listed = Callable[[], dict[str, Any]]
"""-> channels, waiting and dead alerts, JSON-able; may block shortly: call it in a thread."""

_PATH = "/v1/alerts"
_ITEMS = {"type": "array", "items": {"type": "object", "additionalProperties": True}}
_ANSWER = {JSON: {"schema": {
    "type": "object", "required": ["channels", "waiting", "dead"],
    "properties": {"channels": _ITEMS, "waiting": _ITEMS, "dead": _ITEMS},
}}}  # fmt: skip


def install(app: Application, listed: Listed) -> None:
    """Add the route."""

    async def get_alerts(request: Request) -> Response:
        schema.Query(request.query, (), strict=True)
        found = msgspec.json.encode(await asyncio.to_thread(listed))
        return Response(found, headers=((b"content-type", JSON.encode()),))

    operation = schema.operation(_ANSWER, about="Oldest first.", errors=(422, 503))
    schema.locked(operation, needed("GET", _PATH))
    app.routes.add(
        "GET", _PATH, get_alerts, tag="operator", summary="Alerts that were not delivered",
        about="What waits, why it failed so far, and what was given up. Empty where no channel is configured.",
        operation=operation,
    )  # fmt: skip


__all__ = ["Listed", "install"]
