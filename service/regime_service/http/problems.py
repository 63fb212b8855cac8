"""Errors as `application/problem+json` (RFC 9457): what happened, what it means, what to do.

    {"type": "urn:regimegate:problem:conflict", "title": ..., "status": 409, "detail": ..., "errors": [{path, message}]}

One function makes every one of them, so that none can hold what JSON cannot: text from outside is cleaned here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from regime.errors import CallerError, FieldError, RegimeError, Unavailable
from regime_service.http.exchange import Response
from regime_service.http.routes import NotAllowed
from regime_service.keys import redact

MEDIA_TYPE = "application/problem+json"
DETAIL_LENGTH_MAX = 2_000
RETRY_AFTER_S = 5
"""Said with a 503 whose cause names no time of its own: by then the service has come back or ended itself."""


class Kind(NamedTuple):
    slug: str
    title: str


KINDS = {
    400: Kind("malformed", "The request cannot be read"),
    401: Kind("key", "A key is needed"),
    403: Kind("refused", "The request is refused"),
    404: Kind("unknown", "Nothing is known by that name"),
    405: Kind("method", "This address does not take that method"),
    408: Kind("timeout", "The request took too long to come"),
    409: Kind("conflict", "Something else is stored under the same key"),
    413: Kind("too-large", "The body is too large"),
    415: Kind("media-type", "The body is of a kind that is not taken here"),
    422: Kind("invalid", "A value makes no sense"),
    429: Kind("rate", "Too many requests"),
    431: Kind("header", "The header of the request is too large"),
    503: Kind("unavailable", "The service cannot take this now"),
}


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One value at fault: where it stands (`[30].features.rsi`, or the name of a query parameter) and what is wrong."""

    path: str
    message: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, what it means, what to do. Nothing of a refused request is stored."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem]


def clean(text: str, length_max: int = DETAIL_LENGTH_MAX) -> str:
    """Return `text` as something any JSON reader and any terminal can take: no lone surrogates, no control characters,
    and no key: an error ends up in the log of whoever asked.

    >>> clean("a\\ud800b\\x1b")
    'a\\\\ud800b\\\\x1b'
    """
    text = redact(text)
    short = text if len(text) <= length_max else text[: length_max - 3] + "..."
    plain = "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in short)
    return plain.encode("utf-8", "backslashreplace").decode("utf-8")


def problem(
    status: int,
    detail: str,
    *,
    errors: Iterable[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    kind: str = "",
) -> Response:
    """Return the answer for one error; a status nobody foresaw becomes 400 or 503, by whose fault it is.

    `kind` is what it is counted under, where the word of its status is not exact enough.
    """
    if status not in KINDS:
        status = 503 if status >= 500 else 400
    known = KINDS[status]
    body = Problem(
        type=f"urn:regimegate:problem:{known.slug}",
        title=known.title,
        status=status,
        detail=clean(detail),
        errors=[FieldProblem(path=clean(e.path, 500), message=clean(e.message, 500)) for e in errors],
    )
    all_headers = dict(headers or {})
    if status == 503:
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    if status == 413:
        # The rest of the body is not worth reading.
        all_headers["Connection"] = "close"
    pairs = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in all_headers.items())
    media = (b"content-type", MEDIA_TYPE.encode())
    return Response(msgspec.json.encode(body), status=status, headers=(media, *pairs), kind=kind or known.slug)


def of_error(error: RegimeError) -> Response:
    """Return the answer for an error of ours; its `status_hint` is the status."""
    match error:
        case NotAllowed():
            return problem(405, error.detail, headers={"Allow": error.allowed})
        case CallerError():
            return problem(error.status_hint, error.detail, errors=error.errors)
        case Unavailable():
            return problem(503, error.detail, headers={"Retry-After": str(max(1, error.retry_after_s))})
        case _:
            # The store or the set-up, never the caller: whatever was asked may be asked again.
            return problem(503, f"{error}. The service cannot go on; its operator must look at it.")


__all__ = ["KINDS", "MEDIA_TYPE", "FieldProblem", "Problem", "clean", "of_error", "problem"]
