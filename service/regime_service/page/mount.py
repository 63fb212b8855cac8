"""The page behind the HTTP door: requests and answers of the door, as those of `routes`."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from regime_service.page.routes import Asked, Page


def install(app: FastAPI, page: Page) -> None:
    """Add the page's routes. The door has looked at `Host`, `Origin` and size by the time they are asked."""

    async def answer(request: Request) -> Response:
        # The gate bounds what comes; a form is held to much less in `routes`.
        body = await request.body() if request.method == "POST" else b""
        headers = {name: value for name, value in request.headers.items()}
        reply = await page.answer(
            Asked(
                request.method, request.scope["path"], request.scope["query_string"].decode("latin-1"), headers, body,
                request.client.host if request.client else "", request.scope["scheme"] == "https",
            )
        )  # fmt: skip
        return Response(reply.body, reply.status, dict(reply.headers))

    for path in ("/", "/stream", "/session", "/page/{rest:path}"):
        app.add_api_route(path, answer, methods=["GET", "POST"], include_in_schema=False, response_class=Response)
        # Ahead of what the door itself says at `/`.
        app.router.routes.insert(0, app.router.routes.pop())


__all__ = ["install"]
