"""Counts every answer of the door, and how long it took. ASGI, outermost: what is refused is counted, too."""

from __future__ import annotations

import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regime.decision import Decision

DECISION = "regime.decision"
"""Where in its scope a request says which decision its answer holds."""
_OTHER = "other"


class Counts(Protocol):
    """Where it is counted; `metrics.Traffic` is one."""

    def answered(self, route: str, status: int, seconds: float, decision: Decision | None = None) -> None: ...


class Counted:
    """ASGI middleware. Routes are counted by their template, so that there are only so many of them; what has none (not
    found, refused at the gate) is `other`."""

    def __init__(self, app: ASGIApp, *, traffic: Counts) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            if status:  # Else nobody was there to be answered.
                route = getattr(scope.get("route"), "path", _OTHER)
                self._traffic.answered(route, status, time.monotonic() - began_s, scope.get(DECISION))


__all__ = ["DECISION", "Counted"]
