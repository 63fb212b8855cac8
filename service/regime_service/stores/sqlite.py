"""The log in one SQLite file: WAL, `synchronous=FULL`, one writing connection, one for everybody who reads.

Measured (2 cores): 0 of 57,935 acknowledged rows lost in simulated power cuts; with `synchronous=NORMAL` 247 of 400
cuts lost some. Three things SQLite would do by itself are taken from it, because of `fsync`: after a failed one the
kernel may forget the data and let the next one succeed.

* It checkpoints after a commit and says nothing when that fails. Here `tidy` does it, when those who waited for the
  commit have been answered, and a failure ends the store.
* It checkpoints once more when a connection is closed. A failed store is closed without.
* It goes on writing behind what it finds in the WAL. Here opening first moves all of that into the database, so that
  frames which a failed `fsync` left in memory only are written again, and nothing is built upon them.

Beside the file stand `<file>-wal` and `<file>-shm` (SQLite's own, part of the store while the service runs: copy a
running store by `VACUUM INTO` or the backup API only) and `<file>.lock`, which is never deleted: a lock on a file that
somebody else unlinks and makes anew would be held twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from regime.errors import CorruptionError, OperatorError
from regime_service.stores import DeadLetter, Message, StoreFailed
from regime_service.stores.grouped import EVENT_ROW, GroupedStore, Row
from regime_service.stores.rows import epoch_after, new_ulid

APPLICATION_ID = 0x52474D45
"""`RGME`, in the file's header: this SQLite file is ours."""
SCHEMA_VERSION = 2
_FIRST_GOOD_SQLITE = (3, 51, 3)
_CHECKPOINT_PAGES = 1000
_PAGE_BYTES = 8192
"""An observation of 200 features has 6 kB. Pages of 4096: 18,900 of them a second, 8192: 28,500, 16384: 30,400."""
_BUSY_MS = 2000
_ROWS_A_STATEMENT = (64, 8, 1)
_KEYS_AT_ONCE = 128
_PLACES = {
    (columns, rows): ", ".join(["(" + ", ".join("?" * columns) + ")"] * rows)
    for columns in (5, 6)
    for rows in _ROWS_A_STATEMENT
}
_EVENTS = "INSERT INTO events (seq, kind, source_key, recorded_ms, sha, body) VALUES "
_DECISIONS = "INSERT INTO decisions (stream, version, seq, sha, body) VALUES "

# Steps from one version to the next, by the version they start from; a new file takes them all. Never change one.
# Keys are blobs, not text: source keys hold NUL, at which SQLite's own text functions stop.
_STEPS = {
    0: """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    source_key BLOB NOT NULL UNIQUE,
    recorded_ms INTEGER NOT NULL,
    sha BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    symbol TEXT NOT NULL,
    timeframe TEXT NOT NULL,
    UNIQUE (model, symbol, timeframe)
) STRICT;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    version INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    sha BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (stream, version)
) STRICT;
CREATE TABLE reference_samples (reference_id TEXT PRIMARY KEY, sha BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    sha BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
""",
    1: """
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    error TEXT NOT NULL,
    opened_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    closed_seq INTEGER,
    how TEXT NOT NULL,
    sha BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX open_letter ON dead_letter (stream) WHERE closed_seq IS NULL;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    message_key TEXT NOT NULL UNIQUE,
    sent_ms INTEGER,
    sha BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX unsent ON outbox (id) WHERE sent_ms IS NULL;
""",
}


class SqliteStore(GroupedStore):
    """A `Store` in the file `path`, which is made (with its folders) if it does not exist.

    Raises `OperatorError` where the file is in use, not ours or newer than this program, and `StoreFailed` where it
    cannot be made or written: opening writes a row, so that a full disk shows at the start.

    `read_only` is for tools: it needs no lock, makes nothing, and may be used while a service runs.

    Trap: the lock is on an open file, which a *forked* child shares and keeps after our death. Start helper processes
    by `spawn` or `subprocess` (which closes it), never by bare `fork`.
    """

    _row_id = "rowid"

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        # The real path, so that two names of one file have one lock.
        self._path = Path(os.path.realpath(path))
        super().__init__(str(self._path))
        self._read_only = read_only
        self._wal_pages = 0
        self._checkpoint_at = _CHECKPOINT_PAGES
        self._reader_lock = threading.Lock()
        self._cleanup = contextlib.ExitStack()
        check_sqlite(apsw.sqlite_lib_version())
        try:
            if read_only:
                self._reader = self._writer = self._open_read_only()
                self._failed = f"the store {self._path} was opened for reading only"
            else:
                self._writer = self._open()
                self._reader = self._connect(apsw.SQLITE_OPEN_READONLY)
            self._version = int(self._reader.pragma("user_version"))
            self._begin_at_the_end()
        except BaseException:
            self._cleanup.close()
            raise

    # --- opening ---

    def _open(self) -> apsw.Connection:
        self._lock_file()
        connection = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        try:
            # Until it is known to be ours, closing it must not change it.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if connection.readonly("main"):
                raise StoreFailed(f"the store {self._path} cannot be written by this user; change its permissions")
            found = self._identify(connection)
            connection.pragma("page_size", _PAGE_BYTES)  # of a new file; others keep theirs
            if connection.pragma("journal_mode", "wal") != "wal":
                raise OperatorError(f"the store {self._path} cannot use a WAL there; put it on a local disk")
            connection.pragma("synchronous", "full")
            connection.pragma("fullfsync", True)  # macOS: fsync alone does not reach the platter
            connection.pragma("checkpoint_fullfsync", True)
            connection.pragma("journal_size_limit", 64 * 1024 * 1024)
            connection.wal_autocheckpoint(0)
            connection.set_wal_hook(self._count_wal_pages)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            now_ms = time.time_ns() // 1_000_000
            with connection:
                # All steps or none: a power cut in between leaves the file as it was.
                for version in range(found, SCHEMA_VERSION):
                    connection.execute(_STEPS[version])
                if found == 0:
                    connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (new_ulid(now_ms, os.urandom(10)),))
                    connection.pragma("application_id", APPLICATION_ID)
                elif (mark := self._meta(connection, "backup_ms")) is not None:
                    # Versions after the back-up were given out already and will be given again: a new epoch.
                    old = self._meta(connection, "epoch") or ""
                    connection.execute("INSERT OR REPLACE INTO meta VALUES ('restored_from', ?)", (f"{old} {mark}",))
                    connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch_after(old, now_ms),))
                    connection.execute("DELETE FROM meta WHERE name = 'backup_ms'")
                if found < SCHEMA_VERSION:
                    connection.pragma("user_version", SCHEMA_VERSION)
                self._unfinished_starts = int(self._meta(connection, "unfinished_starts") or 0)
                for name, value in (("opened_ms", now_ms), ("unfinished_starts", self._unfinished_starts + 1)):
                    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, str(value)))
            if found == 0:
                _sync_folder(self._path.parent)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        except apsw.Error as error:
            raise self._cannot_open(error) from error
        return connection

    def _open_read_only(self) -> apsw.Connection:
        if not self._path.exists():
            raise OperatorError(f"there is no store at {self._path}")
        try:
            connection = self._connect(apsw.SQLITE_OPEN_READONLY)
            found = self._identify(connection)
        except OperatorError as error:
            # SQLite makes a -shm file even for a reader. In a folder that cannot be written a store that was closed
            # in good order can be read all the same; without a WAL there is nothing in it that could change.
            wal = Path(f"{self._path}-wal")
            if not isinstance(error.__cause__, (apsw.CantOpenError, apsw.ReadOnlyError)) or wal.exists():
                raise
            connection = self._connect(apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, uri="?immutable=1")
            found = self._identify(connection)
        if found == 0:
            raise OperatorError(f"{self._path} is empty: no store was ever made in it")
        return connection

    def _connect(self, flags: int, uri: str = "") -> apsw.Connection:
        try:
            connection = apsw.Connection(self._path.as_uri() + uri if uri else str(self._path), flags=flags)
        except apsw.Error as error:
            raise self._cannot_open(error) from error
        self._cleanup.callback(connection.close)
        connection.set_busy_timeout(_BUSY_MS)
        return connection

    def _identify(self, connection: apsw.Connection) -> int:
        """Return the version of the file's tables, 0 if it is empty and a store can be made in it; refuse what is not
        ours or newer."""
        try:
            found, version = connection.pragma("application_id"), connection.pragma("user_version")
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]
            if self._path.stat().st_size == 1:
                raise apsw.NotADBError  # SQLite takes a file of one byte for an empty one
        except apsw.NotADBError:
            raise OperatorError(
                f"{self._path} is not a store of ours (not even SQLite); it was left as it is, give another path"
            ) from None
        except apsw.Error as error:
            raise self._cannot_open(error) from error
        if found == 0 and version == 0 and tables == 0:
            return 0
        if found != APPLICATION_ID:
            raise OperatorError(
                f"{self._path} is an SQLite file of another program; it was left as it is, give another path"
            )
        if version > SCHEMA_VERSION:
            raise OperatorError(
                f"the store {self._path} was written by a newer regimegate (format {version}, this one reads up to"
                f" {SCHEMA_VERSION}); install that version again, or give another path"
            )
        if version < 1:
            raise self._damaged("it does not say the version of its tables")
        return int(version)

    def _lock_file(self) -> None:
        lock_path = Path(f"{self._path}.lock")
        try:
            _make_folders(self._path.parent)
            if self._path.is_dir():
                raise IsADirectoryError(21, "it is a folder", str(self._path))
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._cleanup.callback(os.close, lock)
            # Not fcntl.lockf: that lock would be lost as soon as anything in this process closed the file again.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()  # its process id
            raise OperatorError(
                f"the store {self._path} is in use by another process{f' (process {holder})' if holder else ''};"
                " stop that one first, or give this one another path"
            ) from None
        except OSError as error:
            raise StoreFailed(f"the store {self._path} cannot be opened: {error.strerror or error}") from error
        with contextlib.suppress(OSError):  # a courtesy to whoever comes second; a full disk is found out elsewhere
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    def _cannot_open(self, error: apsw.Error) -> OperatorError | StoreFailed | CorruptionError:
        if isinstance(error, apsw.CorruptError):
            return self._damaged(str(error))
        foreign = isinstance(error, apsw.NotADBError) or self._read_only
        found = OperatorError if foreign else StoreFailed
        return found(f"the store {self._path} cannot be opened: {_sentence(error)}")

    def _meta(self, connection: apsw.Connection, name: str) -> str | None:
        rows: list[Any] = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
        return str(rows[0][0]) if rows else None

    # --- the writer thread ---

    def _write_group(self) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            self._insert(_EVENTS, self._events)
            self._insert(_DECISIONS, self._decisions)
            for sql, row in self._others:
                self._writer.execute(sql, row)
            self._writer.execute("COMMIT")
        except apsw.Error as error:
            raise self._fail(error) from error

    def _insert(self, sql: str, rows: list[Row]) -> None:
        """Insert many rows at a time: between two statements the interpreter's lock goes round all threads."""
        at = 0
        for size in _ROWS_A_STATEMENT:
            while len(rows) - at >= size:
                values = itertools.chain.from_iterable(rows[at : at + size])
                self._writer.execute(sql + _PLACES[len(rows[0]), size], tuple(values))
                at += size

    def rollback(self) -> None:
        super().rollback()
        try:
            # SQLite has rolled back by itself after some errors.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except apsw.ConnectionClosedError:
            pass
        except apsw.Error as error:
            self._fail(error)

    def _ask(self, sql: str, *values: Any) -> list[Row]:
        try:
            return list(self._writer.execute(sql, values).fetchall())
        except apsw.Error as error:
            raise self._fail(error) from error

    def _ask_keys(self, keys: list[bytes]) -> Iterator[Row]:
        for at in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[at : at + _KEYS_AT_ONCE]
            # Few sizes, so that few statements are kept; a key that stands there twice is found once.
            size = 1 if len(some) == 1 else 16 if len(some) <= 16 else _KEYS_AT_ONCE
            places = ", ".join("?" * size)
            yield from self._ask(
                f"SELECT {EVENT_ROW} FROM events WHERE source_key IN ({places})", *some, *some[:1] * (size - len(some))
            )

    def tidy(self) -> None:
        """Move what the log of changes (WAL) holds into the file, once it is long enough to be worth it."""
        self._check_writable()
        if self._wal_pages >= self._checkpoint_at:
            try:
                self._checkpoint()
            except apsw.Error as error:
                raise self._fail(error) from error

    def _count_wal_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        try:
            pages, moved = self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            pages, moved = self._wal_pages, 0
        # Where a reader holds it back, not at every commit again.
        self._checkpoint_at = _CHECKPOINT_PAGES + (0 if moved == pages else pages)

    def _fail(self, error: apsw.Error) -> StoreFailed:
        self._stop(f"the store {self._path} cannot be written: {_sentence(error)}")
        return StoreFailed(self._failed)

    def _stop(self, reason: str) -> None:
        if self._failed is None:
            with contextlib.suppress(apsw.Error):
                self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        super()._stop(reason)

    # --- any thread ---

    def _tables(self) -> list[tuple[str, str]]:
        return super()._tables()[: None if self._version >= 2 else -1]

    def dead_letters(self, *, closed: bool = False) -> list[DeadLetter]:
        # A file of an older version, opened for reading only, has none.
        return super().dead_letters(closed=closed) if self._version >= 2 else []

    def messages(self, limit: int = 100) -> list[Message]:
        return super().messages(limit) if self._version >= 2 else []

    def _verify_below(self) -> None:
        for (problem,) in self._read("PRAGMA integrity_check(1)"):
            if problem != "ok":
                raise self._damaged(str(problem))

    def copy_to(self, target: str | os.PathLike[str]) -> None:
        """Copy one moment of the store into the empty file `target`, marked as a back-up and without a WAL.

        In one step of SQLite's backup: done in many, it would begin anew with every group that is written meanwhile.
        Raises `OperatorError` where the target cannot be written, `StoreFailed` where the store cannot be read.
        """
        try:
            connection = apsw.Connection(os.fspath(target), flags=apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error as error:
            raise OperatorError(f"the back-up cannot be written: {_sentence(error)}") from error
        try:
            with self._reader_lock, connection.backup("main", self._reader, "main") as backup:
                while not backup.done:
                    backup.step(-1)
            connection.pragma("synchronous", "full")
            connection.pragma("journal_mode", "delete")
            now_ms = str(time.time_ns() // 1_000_000)
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('backup_ms', ?)", (now_ms,))
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise self._damaged(str(error)) from error
        except apsw.Error as error:
            raise OperatorError(f"the back-up cannot be written: {_sentence(error)}") from error
        finally:
            connection.close()

    def close(self) -> None:
        with self._reader_lock:
            self._in_group = False
            super()._stop(f"the store {self._path} is closed")
            # What is open is rolled back by SQLite. Last in, first out: readers, writer, lock.
            self._cleanup.close()

    def _read(self, sql: str, *values: Any, where: str = "") -> list[Row]:
        try:
            with self._reader_lock:
                return list(self._reader.execute(sql, values).fetchall())
        except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
            raise self._damaged(f"{where}: {error}" if where else str(error)) from error
        except apsw.ConnectionClosedError as error:
            raise StoreFailed(f"the store {self._path} is closed") from error
        except apsw.Error as error:
            raise StoreFailed(f"the store {self._path} cannot be read: {_sentence(error)}") from error

    def _damaged(self, what: str) -> CorruptionError:
        return CorruptionError(
            f"the store {self._path} is damaged: {what}. Stop the service, keep the file, restore a back-up."
        )


def check_sqlite(version: str) -> None:
    """Refuse an SQLite that loses data: 3.7.0 to 3.51.2 can spoil the file when a WAL starts over.

    >>> check_sqlite("3.54.1")
    >>> check_sqlite("3.40.1")
    Traceback (most recent call last):
    ...
    regime.errors.OperatorError: SQLite 3.40.1 can corrupt a WAL; at least 3.51.3 is needed: pip install --upgrade apsw
    """
    if tuple(int(part) for part in version.split(".")[:3]) < _FIRST_GOOD_SQLITE:
        needed = ".".join(map(str, _FIRST_GOOD_SQLITE))
        raise OperatorError(
            f"SQLite {version} can corrupt a WAL; at least {needed} is needed: pip install --upgrade apsw"
        )


def _sentence(error: apsw.Error) -> str:
    match error:
        case apsw.FullError():
            return "the disk is full"
        case apsw.IOError():
            code = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0), "")
            return f"the disk reports an error ({code or error})"
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return "it is read-only"
        case apsw.CantOpenError():
            return "the file or its folder cannot be opened; look at the permissions"
        case apsw.BusyError() | apsw.LockedError():
            return "another program holds it locked"
        case apsw.CorruptError() | apsw.NotADBError():
            return f"the file is damaged ({error})"
        case _:
            return f"{type(error).__name__}: {error}"


def _make_folders(folder: Path) -> None:
    """Make `folder`, durably: after a power cut a file whose folder is gone is gone too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
