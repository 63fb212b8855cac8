"""Back-ups of a store, and stores from back-ups.

A back-up is a store like any other, in one file without a WAL, read and checked before it gets its name, with a mark
that says what it is. Who serves from it has a past that others know more of: versions after the back-up were given out
already and will be given again. So the first service that opens a marked file gives it a new epoch (`api`: a lower
version counts where the epoch is newer), whether the file came there by `regime restore` or by `cp`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from regime.errors import CorruptionError, OperatorError
from regime_service.stores.rows import is_url, masked
from regime_service.stores.sqlite import SqliteStore


class Copied(NamedTuple):
    """A copy that was read back: its events, and its size in bytes."""

    events: int
    size: int


def copy_store(source: str, target: str) -> Copied:
    """Copy the store in file `source`, which may be in use by a service, to `target`, which must not exist.

    The copy is one moment of the store: everything acknowledged before the call is in it. It gets its name after every
    row of it was read and checked, so what stands at `target` is whole. Takes about as long as reading the store
    twice; the service goes on meanwhile, its WAL grows by what it writes.

    Raises `OperatorError` where a file cannot be read or made, `CorruptionError` where the source is damaged: then
    nothing stands at `target`.
    """
    for place in (source, target):
        if is_url(place):
            raise OperatorError(
                f"{masked(place)} is a PostgreSQL database: it is backed up by `pg_dump` and restored by `pg_restore` "
                "(or by your hoster), as your others are. The next service on a restored one begins a new epoch by "
                "itself; `regime verify-log URL` reads every row of it"
            )
    wanted = Path(target)
    if wanted.exists() or wanted.is_symlink():
        raise OperatorError(f"{target} exists already, and nothing is ever overwritten; give another name")
    part = wanted.with_name(f".{wanted.name}.{os.getpid()}.part")
    try:
        _touch(part)
        store = SqliteStore(source, read_only=True)
        try:
            store.copy_to(part)
        finally:
            store.close()
        events = _verified(part, source)
        size = part.stat().st_size
        try:
            os.link(part, wanted)  # not a rename: that would overwrite what came there meanwhile
        except FileExistsError:
            raise OperatorError(f"{target} exists by now, and nothing is ever overwritten; give another name") from None
        part.unlink()
        _sync(wanted.parent)
    except OSError as error:
        raise OperatorError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                Path(f"{part}{ending}").unlink()
    return Copied(events, size)


def _touch(path: Path) -> None:
    # Not for others to read: a store holds what a bot sees and does.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _verified(copy: Path, source: str) -> int:
    store = SqliteStore(copy, read_only=True)
    try:
        for _ in store.verify():
            pass
        return store.last_seq()
    except CorruptionError as error:
        raise CorruptionError(f"the copy of {source} is not sound, so it was not kept: {error}") from error
    finally:
        store.close()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
