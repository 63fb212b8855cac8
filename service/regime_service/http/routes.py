"""The table of routes, and the OpenAPI document that is made of it: what is not documented is not answered.

A path holds its parameters in braces: `{id}` is one segment, `{model:path}` any number of them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from regime.errors import CallerError
from regime_service.http.exchange import Request, Response, Streaming

Answer = Response | Streaming
Handler = Callable[[Request], Response | Awaitable[Answer]]
"""A coroutine, or a plain function where nothing is waited for."""

_BRACES = re.compile(r"\{(\w+)(:path)?\}")


class NotAllowed(CallerError):
    """The address is known, and does not take that method; `allowed` are those it takes."""

    def __init__(self, method: str, path: str, allowed: list[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"{path} does not take {method}; it takes {self.allowed}.", status=405)


class Route(NamedTuple):
    """One call."""

    handler: Handler
    path: str
    """As the document names it; a label, too: there are only so many."""


class Found(NamedTuple):
    route: Route
    params: Mapping[str, str]


_NO_PARAMS: Mapping[str, str] = {}


class Routes:
    """All calls of the service."""

    def __init__(self, *, title: str, version: str, summary: str) -> None:
        self._info = {"title": title, "summary": summary, "version": version}
        self.immediate: dict[str, Route] = {}
        """What answers a GET without waiting for anything, by address."""
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        self._documents: dict[str, dict[str, dict[str, Any]]] = {}

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        tag: str = "",
        summary: str = "",
        about: str = "",
        operation: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a call. Without an `operation` (an OpenAPI operation object) it stands in no document."""
        shown = _BRACES.sub(r"{\1}", path)
        route = Route(handler, shown)
        if "{" not in path:
            self._exact.setdefault(path, {})[method] = route
            if method == "GET" and not inspect.iscoroutinefunction(handler):
                self.immediate[path] = route
            elif method == "GET":
                # Added anew, an address is what it was last made.
                self.immediate.pop(path, None)
        else:
            pattern = re.compile(_pattern(path))
            known = next((methods for known, methods in self._patterns if known == pattern), None)
            if known is None:
                self._patterns.append((pattern, {method: route}))
            else:
                known[method] = route
        if operation is not None:
            document = {"tags": [tag], "summary": summary, "description": about,
                        "operationId": getattr(handler, "__name__", shown), **operation}  # fmt: skip
            self._documents.setdefault(shown, {})[method.lower()] = {k: v for k, v in document.items() if v != ""}

    def find(self, method: str, path: str) -> Found:
        """Return the route of a request. Raises `CallerError`: 404 nothing there, 405 (`NotAllowed`) not that method.

        >>> routes = Routes(title="", version="", summary="")
        >>> routes.add("GET", "/a/{name:path}/b/{id}", print)
        >>> routes.find("GET", "/a/x/y/b/7").params
        {'name': 'x/y', 'id': '7'}
        """
        methods, params = self._exact.get(path), _NO_PARAMS
        if methods is None:
            for pattern, known in self._patterns:
                if (found := pattern.fullmatch(path)) is not None:
                    methods, params = known, found.groupdict()
                    break
            else:
                raise CallerError(
                    f"There is nothing at {path!r}. What there is stands at /docs and in /openapi.json.", status=404
                )
        route = methods.get(method)
        if route is None:
            raise NotAllowed(method, path, list(methods))
        return Found(route, params)

    def document(self, components: Mapping[str, Any]) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return {"openapi": "3.1.0", "info": self._info, "paths": self._documents, "components": components}


def _pattern(path: str) -> str:
    pattern, end = "", 0
    for found in _BRACES.finditer(path):
        pattern += re.escape(path[end : found.start()]) + f"(?P<{found[1]}>{'.*' if found[2] else '[^/]+'})"
        end = found.end()
    return pattern + re.escape(path[end:])


__all__ = ["Answer", "Found", "Handler", "NotAllowed", "Route", "Routes"]
