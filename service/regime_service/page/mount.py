"""The page behind the HTTP door: requests and answers of the door, as those of `routes`."""

from __future__ import annotations

from regime_service.http import schema
from regime_service.http.api import Application
from regime_service.http.exchange import Request, Response
from regime_service.page.routes import Asked, Page


def install(app: Application, page: Page) -> None:
    """Add the page's routes. The door has looked at `Host`, `Origin` and size by the time they are asked."""

    async def get_page(request: Request) -> Response:
        # The gate bounds what comes; a form is held to much less in `routes`.
        body = await request.body() if request.method == "POST" else b""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
        client = request.scope.get("client")
        reply = await page.answer(
            Asked(
                request.method, request.path, request.query.decode("latin-1"), headers, body,
                client[0] if client else "", request.scope["scheme"] == "https",
            )
        )  # fmt: skip
        own = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers)
        return Response(reply.body, status=reply.status, headers=own)

    html = {"text/html": {"schema": {"type": "string"}}}
    operation = schema.operation(html, about="The board, or a form to log in with a key.", errors=(503,))
    # In the place of what the door itself says there.
    app.routes.add(
        "GET", "/", get_page, tag="service", summary="The page: what every stream says now", operation=operation
    )
    app.routes.add("GET", "/stream", get_page)
    for path in ("/session", "/page/{rest:path}"):
        for method in ("GET", "POST"):
            app.routes.add(method, path, get_page)


__all__ = ["install"]
