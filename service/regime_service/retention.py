"""What is kept, and for how long: everything, as long as there is no archive that a replay could read instead.

The log is the truth, so nothing of it is ever deleted by this program. Instead it says in time that the disk will not
do, and that the log has grown old or large. What there is to do stands in each warning.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple, Protocol

GIB = 1024**3
DAY_MS = 86_400_000
FREE_BYTES_MIN = GIB
"""Less room than this is short on any disk: a WAL alone may take 64 MiB, a snapshot some more."""
DAYS_LEFT_MIN = 30
"""Days the disk should last at the pace of the log so far."""
LOG_BYTES_MAX = 20 * GIB
LOG_DAYS_MAX = 730
"""Beyond these a replay from the start, which a change of the configuration needs, takes its time."""
LOOK_EVERY_S = 6 * 3600
"""How often a warning is repeated; a multiple of the next one."""
MEASURE_EVERY_S = 15
"""How often the store is measured for metrics."""


class StoreSize(NamedTuple):
    """Bytes of the store with its WAL, bytes free beside it (None: on another machine, whose disk we do not see), and
    when its first event was written (None: empty)."""

    store_bytes: int
    free_bytes: int | None
    oldest_ms: int | None


class Measured(Protocol):
    """What is asked of a store: where it is, and when its first event was written."""

    @property
    def path(self) -> str: ...

    def oldest_ms(self) -> int | None: ...


def measure(store: Measured) -> StoreSize:
    """Return the figures of a store. Raises `OSError` where its file is gone, and what the store raises."""
    size_bytes = getattr(store, "size_bytes", None)
    if size_bytes is not None:  # a server's
        return StoreSize(size_bytes(), None, store.oldest_ms())
    file, wal = Path(store.path), Path(f"{store.path}-wal")
    size = file.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
    return StoreSize(size, shutil.disk_usage(file.parent).free, store.oldest_ms())


def warnings(found: StoreSize, now_ms: int) -> list[str]:
    """Return what an operator should know about the store's size, as sentences; nothing while all is well."""
    said = []
    age_days = 0.0 if found.oldest_ms is None else max(0.0, (now_ms - found.oldest_ms) / DAY_MS)
    if found.free_bytes is None:
        pass  # Who looks after the server looks after its disk.
    elif found.free_bytes < FREE_BYTES_MIN:
        said.append(
            f"the disk is short: {_size(found.free_bytes)} are free beside a store of {_size(found.store_bytes)}. When "
            "it is full the service stops and every bot pauses. Make room, or move the store to a larger disk"
        )
    elif age_days >= 1 and (days := found.free_bytes / (found.store_bytes / age_days)) < DAYS_LEFT_MIN:
        said.append(
            f"the disk lasts for about {days:.0f} days more: the store grew to {_size(found.store_bytes)} in "
            f"{age_days:.0f} days and {_size(found.free_bytes)} are free. Make room, or move it to a larger disk"
        )
    if found.store_bytes > LOG_BYTES_MAX:
        said.append(
            f"the log is large ({_size(found.store_bytes)}): a replay from its start takes long. Nothing is deleted, "
            "because a replay needs it. Back it up (`regime backup FILE`), and begin a new store when that suits you"
        )
    if age_days > LOG_DAYS_MAX:
        said.append(
            f"the log is old ({age_days:.0f} days): a replay from its start takes long. Nothing is deleted, because a "
            "replay needs it. Back it up (`regime backup FILE`), and begin a new store when that suits you"
        )
    return said


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 1024**2:.0f} MiB"
