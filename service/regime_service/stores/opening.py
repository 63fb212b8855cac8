"""Which store is meant: a file, or the URL of a PostgreSQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regime.errors import OperatorError
from regime_service.stores.rows import is_url, masked
from regime_service.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from regime_service.stores.postgres import PostgresStore


def open_store(where: str, *, read_only: bool = False) -> SqliteStore | PostgresStore:
    """Open the store at `where`, a file or `postgresql://...`; what it raises stands with each of the two.

    psycopg is loaded for a URL only; `OperatorError` says how to install it where it is missing.
    """
    if not is_url(where):
        return SqliteStore(where, read_only=read_only)
    try:
        from regime_service.stores.postgres import PostgresStore
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("psycopg", "psycopg_binary", ""):
            raise
        raise OperatorError(
            f"the store {masked(where)} is a PostgreSQL database, which needs psycopg: "
            "pip install 'regimegate[postgres]'"
        ) from None
    return PostgresStore(where, read_only=read_only)
