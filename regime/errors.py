"""Errors, named by whose fault they are and what to do about them.

Each carries `status_hint`, the HTTP status an edge should answer with, so that no edge needs a mapping table
(the idea is h11's `error_status_hint`).
"""

from __future__ import annotations

from typing import NamedTuple


class FieldError(NamedTuple):
    """One thing wrong with one value: where it stands, and what is wrong, in words."""

    path: str
    """Where the value stands, e.g. `[30].features.rsi`; empty when the whole body is meant."""
    message: str


class RegimeError(Exception):
    """Base of all errors this project raises on purpose."""

    status_hint = 500


class CallerError(RegimeError):
    """What was sent cannot be accepted; nothing of it was stored. The caller corrects it and sends it again.

    `errors` names each value that is at fault; `status_hint` is 400 (malformed), 404 (unknown), 409 (conflict),
    413 (too large), 415 (wrong content type) or 422 (a value that makes no sense).
    """

    def __init__(self, detail: str, *, status: int = 422, errors: list[FieldError] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status_hint = status
        self.errors = errors or []


class OperatorError(RegimeError):
    """The set-up is wrong (configuration, file, option). The operator corrects it; the message says where and how."""

    status_hint = 503


class CorruptionError(RegimeError):
    """Something that was written cannot be read back as it was. Stop, keep the file, restore from a back-up."""

    status_hint = 503


class Unavailable(RegimeError):
    """The service cannot take this now: its queue is full or its store has failed. Nothing of it was stored, or
    whether it was is unknown; sending it again is harmless."""

    status_hint = 503

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
