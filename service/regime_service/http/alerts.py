"""What waits to be told to operators, and what could not be: `GET /v1/alerts`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread
import msgspec
from fastapi import FastAPI, Request, Response

from regime_service.http import schema
from regime_service.http.schema import JSON

Listed = Callable[[], dict[str, Any]]
"""-> channels, waiting and dead alerts, JSON-able; may block shortly: call it in a thread."""

_ITEMS = {"type": "array", "items": {"type": "object", "additionalProperties": True}}
_ANSWER = {JSON: {"schema": {
    "type": "object", "required": ["channels", "waiting", "dead"],
    "properties": {"channels": _ITEMS, "waiting": _ITEMS, "dead": _ITEMS},
}}}  # fmt: skip


def install(app: FastAPI, listed: Listed) -> None:
    """Add the route."""

    async def get_alerts(request: Request) -> Response:
        schema.Query(request.scope["query_string"], (), strict=True)
        return Response(msgspec.json.encode(await anyio.to_thread.run_sync(listed)), media_type=JSON)

    app.add_api_route(
        "/v1/alerts", get_alerts, methods=["GET"], response_class=Response, response_model=None, tags=["operator"],
        operation_id="get_alerts", summary="Alerts that were not delivered",
        description="What waits, why it failed so far, and what was given up. Empty where no channel is configured.",
        openapi_extra=schema.operation(_ANSWER, about="Oldest first.", errors=(422, 503)),
    )  # fmt: skip


__all__ = ["Listed", "install"]
