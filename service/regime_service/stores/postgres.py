"""The log in a PostgreSQL database: one writing session that holds a lock, one more for everybody who reads.

For whoever has a PostgreSQL that is looked after (replicas, back-ups, alarms) and wants the log there; alone on a
machine, one SQLite file is faster and has fewer parts. The tables stand in a schema of their own, `regimegate`.

Rules
-----
1. *A group travels at its end.* What is written is kept here until `commit`, which sends BEGIN, rows and COMMIT in one
   go: a group costs two round trips, one for all keys it has to look up (`expect`) and one for its rows. The server's
   answer to COMMIT is the acknowledgement, so `synchronous_commit` is `on` in that session, whatever the server's
   default is, and a server with `fsync = off` is refused.
2. *The writing session holds the lock.* An advisory lock ends with its session, and a session that has ended cannot
   commit: the next service cannot begin while this one may still write. Where something between us and the server (a
   pool that lends sessions by transaction) breaks that, the numbers of the events are the fence: they have no gaps and
   are unique, so of two writers one fails with its next event, and stops for good.
3. *No session is ever opened again.* Whether a group was committed when the connection was lost is unknown here; a new
   service asks the log instead of guessing.
4. *A copy begins a new epoch.* A back-up (`pg_dump`) that is restored has a past that others know more of. `meta`
   holds where the store lived: cluster, timeline, database, table. Who opens it elsewhere gives it a new epoch. What is
   copied below PostgreSQL (a disk snapshot) looks like the original: after restoring that, delete the row `home` of
   `meta`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import threading
import time
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8

from regime.errors import CorruptionError, OperatorError
from regime_service.stores import StoreFailed, StoreUnreachable
from regime_service.stores.grouped import EVENT_ROW, GroupedStore, Row
from regime_service.stores.rows import epoch_after, masked, new_ulid

SCHEMA = "regimegate"
SCHEMA_VERSION = 1
LOCK = (0x52474D45, 0)
"""`RGME`: the advisory lock of the one writer of a database."""

_FIRST_SERVER = 130000
_LOCK_WAIT_S = 5.0
"""A server needs a moment to see that a client was killed; a supervisor is faster than that."""

# What the URL does not say itself. Without these a cable that is pulled shows after two hours.
_CONNECT = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 15_000, "client_encoding": "UTF8",
}  # fmt: skip
# A server may have been told to end sessions that wait: ours waits for events, and may wait long.
_NO_LIMITS = (
    "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout",
    "transaction_timeout",
)  # fmt: skip
# The other way round: the server must see that our machine is gone, or the lock is held by nobody for two hours.
_KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Steps from one version to the next, by the version they start from; a new store takes them all. Never change one.
# Keys are bytea or of collation "C": an index must not depend on the sorting rules of the system, which change.
# toast_tuple_target: an observation of 200 features (6 kB) stays in its row, in one piece and not compressed.
_STEPS = {
    0: """
CREATE TABLE events (
    seq bigint PRIMARY KEY,
    kind text NOT NULL,
    source_key bytea NOT NULL UNIQUE,
    recorded_ms bigint NOT NULL,
    sha bytea NOT NULL,
    body bytea NOT NULL
) WITH (toast_tuple_target = 8160);
CREATE TABLE streams (
    id bigint PRIMARY KEY,
    model text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timeframe text COLLATE "C" NOT NULL,
    UNIQUE (model, symbol, timeframe)
);
CREATE TABLE decisions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream bigint NOT NULL,
    version bigint NOT NULL,
    seq bigint NOT NULL,
    sha bytea NOT NULL,
    body bytea NOT NULL,
    UNIQUE (stream, version)
);
CREATE TABLE reference_samples (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reference_id text COLLATE "C" NOT NULL UNIQUE,
    sha bytea NOT NULL,
    body bytea NOT NULL
);
ALTER TABLE reference_samples ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE snapshots (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq bigint NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    sha bytea NOT NULL,
    body bytea NOT NULL
);
ALTER TABLE snapshots ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE dead_letter (
    id bigint PRIMARY KEY,
    stream bigint NOT NULL,
    seq bigint NOT NULL,
    error text NOT NULL,
    opened_ms bigint NOT NULL,
    attempts bigint NOT NULL,
    closed_seq bigint,
    how text NOT NULL,
    sha bytea NOT NULL
);
CREATE UNIQUE INDEX open_letter ON dead_letter (stream) WHERE closed_seq IS NULL;
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq bigint NOT NULL,
    message_key bytea NOT NULL UNIQUE,
    sent_ms bigint,
    sha bytea NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX unsent ON outbox (id) WHERE sent_ms IS NULL;
""",
}

_EVENT = "INSERT INTO events (seq, kind, source_key, recorded_ms, sha, body) VALUES (%b, %s, %b, %b, %b, %b)"
_DECISION = "INSERT INTO decisions (stream, version, seq, sha, body) VALUES (%b, %b, %b, %b, %b)"
_META = "INSERT INTO meta VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_HOME = (
    "SELECT concat_ws('/', {cluster}, left(pg_walfile_name(pg_current_wal_lsn()), 8),"
    " (SELECT oid FROM pg_database WHERE datname = current_database()), 'events'::regclass::oid)"
)

Connection = psycopg.Connection[Row]


class PostgresStore(GroupedStore):
    """A `Store` in the database that `url` names (`postgresql://USER@HOST:5432/DATABASE`); its tables are made there.

    Raises `OperatorError` where only a person can help (a wrong URL or password, another service on the same database,
    tables that are newer than this program, a server that is not durable), `StoreUnreachable` where the server does not
    answer, and `StoreFailed` where it cannot be written: opening writes a row, so that a full disk shows at the start.

    `read_only` is for tools: it takes no lock, makes nothing, and may be used while a service runs.

    Trap: a group is kept in memory until `commit`, so an error of the server shows there and not in `append`.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        super().__init__(masked(url))
        self._url = url
        self._read_only = read_only
        self._closed = False
        self._warning: str | None = None
        # Each connection is used by one thread at a time.
        self._reader_lock = threading.Lock()
        self._writer_lock = self._reader_lock if read_only else threading.Lock()
        self._cleanup = contextlib.ExitStack()
        try:
            self._options = {**_CONNECT, **conninfo_to_dict(url)}
        except psycopg.Error:
            # Not libpq's own words: they repeat the URL, with the password in it.
            raise OperatorError(
                f"the URL of the store, {self._name}, is not understood; write postgresql://USER@HOST:5432/DATABASE, "
                "and signs such as @ : / in a password as %40 %3A %2F"
            ) from None
        try:
            self._writer = self._connect()
            self._reader = self._writer if read_only else self._connect(reading=True)
            if read_only:
                self._identify_or_refuse()
                self._failed = f"the store {self._name} was opened for reading only"
            else:
                self._open()
            self._begin_at_the_end()
        except BaseException:
            self._cleanup.close()
            raise

    @property
    def failed(self) -> str | None:
        """See `Store.failed`. Asking costs no round trip, and finds out that the server is gone before a write does."""
        if self._failed is None:
            self._listen(self._writer, self._writer_lock)
            self._listen(self._reader, self._reader_lock)
        return self._failed

    def _listen(self, connection: Connection, lock: threading.Lock) -> None:
        if not lock.acquire(blocking=False):
            return  # Whoever uses it finds out.
        try:
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(0):
                connection.pgconn.consume_input()
                lost = connection.pgconn.status == psycopg.pq.ConnStatus.BAD
                if lost:
                    self._stop(f"the store {self._name} cannot be written: {_LOST}")
        except (psycopg.Error, OSError) as error:
            self._fail(error)
        finally:
            lock.release()

    # --- opening ---

    def _connect(self, *, reading: bool = False) -> Connection:
        options = {**self._options, "application_name": f"regimegate {socket.gethostname()[:40]} {os.getpid()}"}
        try:
            connection: Connection = psycopg.connect(**options, autocommit=True, prepare_threshold=0)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise self._cannot_connect(error) from None
        self._cleanup.callback(connection.close)
        try:
            settings = {"search_path": SCHEMA, **dict.fromkeys(_NO_LIMITS, "0"), **_KEEPALIVES}
            if reading or self._read_only:
                settings["default_transaction_read_only"] = "on"
            elif (found := _show(connection, "synchronous_commit")) != "remote_apply":  # which promises more than `on`
                settings["synchronous_commit"] = "on" if found != "on" else found
            connection.execute(
                "SELECT set_config(s.name, w.value, false) FROM pg_settings s"
                " JOIN unnest(%s::text[], %s::text[]) AS w (name, value) USING (name)",
                (list(settings), list(settings.values())),
            )
        except psycopg.Error as error:
            raise self._cannot_open(error) from None
        return connection

    def _cannot_connect(self, error: psycopg.Error) -> OperatorError | StoreUnreachable:
        text = self._scrubbed(str(error))
        # libpq gives no codes here. A server that answered with a refusal says FATAL; these pass by themselves.
        passing = ("starting up", "shutting down", "recovery", "too many", "connection slots")
        if "FATAL" in text and not any(words in text for words in passing):
            return OperatorError(f"the store {self._name} cannot be opened: {text}")
        return StoreUnreachable(f"the store {self._name} cannot be reached: {text}")

    def _scrubbed(self, text: str) -> str:
        text = text.strip().splitlines()[0] if text.strip() else "no reason was given"
        for name in ("password", "sslpassword"):
            if secret := self._options.get(name):
                text = text.replace(str(secret), "***")
        return text.replace(self._url, self._name)

    def _open(self) -> None:
        try:
            check_server(self._writer, self._name)
            self._lock()
            found = self._identify()
            now_ms = time.time_ns() // 1_000_000
            with self._writer.transaction():
                # All steps or none.
                if found == 0:
                    if _one(self._writer, "SELECT to_regnamespace(%s) IS NULL", SCHEMA):
                        self._writer.execute(f"CREATE SCHEMA {SCHEMA}")
                    self._writer.execute("CREATE TABLE meta (name text PRIMARY KEY, value text NOT NULL)")
                for version in range(found, SCHEMA_VERSION):
                    self._writer.execute(_STEPS[version], prepare=False)
                home, known = self._home(), self._meta("home")
                if found == 0:
                    self._set_meta("epoch", new_ulid(now_ms, os.urandom(10)))
                elif home != known:
                    # Versions after the back-up were given out already and will be given again: a new epoch.
                    old = self._meta("epoch") or ""
                    self._set_meta("restored_from", f"{old} {known}")
                    self._set_meta("epoch", epoch_after(old, now_ms))
                self._set_meta("home", home)
                self._set_meta("version", str(SCHEMA_VERSION))
                self._set_meta("opened_ms", str(now_ms))
                self._unfinished_starts = int(self._meta("unfinished_starts") or 0)
                self._set_meta("unfinished_starts", str(self._unfinished_starts + 1))
            self._writer.add_notice_handler(self._note)
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as error:
            raise OperatorError(f"the store {self._name} cannot be opened: {self._sentence(error)}") from None
        except psycopg.Error as error:
            raise self._cannot_open(error) from None

    def _lock(self) -> None:
        until_s = time.monotonic() + _LOCK_WAIT_S
        while not _one(self._writer, "SELECT pg_try_advisory_lock(%s, %s)", *LOCK):
            if time.monotonic() > until_s:
                holder = self._writer.execute(
                    "SELECT a.application_name, a.client_addr FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                    " WHERE l.locktype = 'advisory' AND l.classid = %s AND l.objid = %s AND l.granted"
                    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                    LOCK,
                ).fetchone()
                who = " at ".join(str(part) for part in holder or () if part)
                raise OperatorError(
                    f"the store {self._name} is in use by another process{f' ({who})' if who else ''}; stop that one "
                    "first, or give this one another database"
                )
            time.sleep(0.05)

    def _identify(self) -> int:
        """Return the version of the tables, 0 if a store can be made here; refuse what is not ours or newer."""
        if self._read_one("SELECT to_regclass(%s)", f"{SCHEMA}.meta") is None:
            others = self._read_one("SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(%s)", SCHEMA)
            if others:
                raise self._foreign()
            return 0
        try:
            rows = self._reader.execute("SELECT value FROM meta WHERE name = 'version'").fetchall()
        except (errors.UndefinedColumn, errors.UndefinedTable):
            raise self._foreign() from None
        if not rows or not str(rows[0][0]).isdigit() or int(rows[0][0]) < 1:
            raise self._damaged("it does not say the version of its tables")
        version = int(rows[0][0])
        if version > SCHEMA_VERSION:
            raise OperatorError(
                f"the store {self._name} was written by a newer regimegate (format {version}, this one reads up to"
                f" {SCHEMA_VERSION}); install that version again, or give another database"
            )
        return version

    def _identify_or_refuse(self) -> None:
        if self._identify() == 0:
            raise OperatorError(f"there is no store in {self._name}: no service was ever started on it")

    def _foreign(self) -> OperatorError:
        return OperatorError(
            f"{self._name} has a schema {SCHEMA} that is not ours; it was left as it is, give another database"
        )

    def _home(self) -> str:
        """Return what names this very copy of the store, and no copy of it."""
        try:
            with self._writer.transaction():
                return str(_one(self._writer, _HOME.format(cluster="(pg_control_system()).system_identifier")))
        except errors.InsufficientPrivilege:  # some hosters keep that to themselves; the rest will do
            return str(_one(self._writer, _HOME.format(cluster="''")))

    def _meta(self, name: str) -> str | None:
        found = _one(self._writer, "SELECT (SELECT value FROM meta WHERE name = %s)", name)
        return None if found is None else str(found)

    def _set_meta(self, name: str, value: str) -> None:
        self._writer.execute(_META, (name, value))

    def _cannot_open(self, error: psycopg.Error) -> StoreFailed | CorruptionError:
        if _is_damage(error):
            return self._damaged(self._scrubbed(str(error)))
        return StoreFailed(f"the store {self._name} cannot be opened: {self._sentence(error)}")

    # --- the writer thread ---

    def _write_group(self) -> None:
        events = [(Int8(seq), kind, key, Int8(ms), sha, raw) for seq, kind, key, ms, sha, raw in self._events]
        decisions = [(*map(Int8, row[:3]), *row[3:]) for row in self._decisions]
        work = [(_EVENT, events), (_DECISION, decisions), *((_ours(sql), [row]) for sql, row in self._others)]
        try:
            self._send([(sql, rows) for sql, rows in work if rows])
        except (psycopg.Error, OSError, UnicodeError) as error:
            raise self._fail(error) from error

    def _send(self, work: list[tuple[str, list[Row]]]) -> None:
        self._warning = None
        with self._writer_lock:
            with self._writer.pipeline():
                self._writer.execute("BEGIN")
                for sql, rows in work:
                    self._writer.cursor().executemany(sql, rows)
                done = self._writer.execute("COMMIT")
            # A COMMIT that had to roll back is no error to the server; a wait for a replica that was given up, neither.
            if done.statusmessage != "COMMIT" or self._warning is not None:
                raise psycopg.OperationalError(self._warning or f"COMMIT was answered with {done.statusmessage}")

    def _note(self, notice: errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warning = notice.message_primary

    def _ask(self, sql: str, *values: Any) -> list[Row]:
        """Read for the writer; what cannot be read for it ends the store, as a write that fails does."""
        self._check_open()
        try:
            with self._writer_lock:
                return self._writer.execute(_ours(sql), values, binary=True).fetchall()
        except (psycopg.Error, OSError, UnicodeError) as error:
            if _is_damage(error):
                damage = self._damaged(self._scrubbed(str(error)))
                self._stop(str(damage))
                raise damage from error
            raise self._fail(error) from error

    def _ask_keys(self, keys: list[bytes]) -> list[Row]:
        return self._ask(f"SELECT {EVENT_ROW} FROM events WHERE source_key = ANY(?)", keys)

    def _message_key(self, key: str) -> bytes:
        return key.encode()

    def _fail(self, error: Exception) -> StoreFailed:
        self._stop(f"the store {self._name} cannot be written: {self._sentence(error)}")
        return StoreFailed(self._failed)

    def tidy(self) -> None:
        """Do nothing: a server moves its own log along."""

    # --- any thread ---

    def _verify_below(self) -> None:
        """Do nothing: a server that is told to check its pages does so with each that it reads."""

    def size_bytes(self) -> int:
        """Return what the tables take on the server's disk, with their indexes."""
        return int(
            self._read_one(
                "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
                " WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'",
                SCHEMA,
            )
        )

    def close(self) -> None:
        self._in_group = False
        self._closed = True
        self._stop(f"the store {self._name} is closed")
        with self._reader_lock:
            # Nothing of an open group was sent. Last in, first out: the reader, then the writer and with it the lock.
            self._cleanup.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFailed(f"the store {self._name} is closed")

    def _read_one(self, sql: str, *values: Any) -> Any:
        return self._read(sql, *values)[0][0]

    def _read(self, sql: str, *values: Any, where: str = "") -> list[Row]:
        self._check_open()
        try:
            with self._reader_lock:
                return self._reader.execute(_ours(sql), values, binary=True).fetchall()
        except (psycopg.Error, OSError, UnicodeError) as error:
            self._check_open()
            if _is_damage(error):
                text = self._scrubbed(str(error))
                raise self._damaged(f"{where}: {text}" if where else text) from error
            if self._reader.closed and not self._read_only:
                raise self._fail(error) from error  # it is never opened again, so nothing can be answered any more
            raise StoreFailed(f"the store {self._name} cannot be read: {self._sentence(error)}") from error

    def _sentence(self, error: Exception) -> str:
        match error:
            case errors.DiskFull():
                return "the server's disk is full"
            case errors.IoError():
                return f"the server's disk reports an error ({self._scrubbed(str(error))})"
            case errors.ReadOnlySqlTransaction():
                return "the server only reads (a replica?); name the one that writes"
            case errors.InsufficientPrivilege():
                return f"the role may not do that ({self._scrubbed(str(error))}); make it the owner of the database"
            case errors.UniqueViolation():
                return "another program has written into it meanwhile"
            case errors.AdminShutdown() | errors.CrashShutdown() | errors.CannotConnectNow():
                return "the server was stopped"
            case psycopg.OperationalError() if error.sqlstate is None:
                return f"{_LOST} ({self._scrubbed(str(error))})"
            case _:
                return f"{type(error).__name__}: {self._scrubbed(str(error))}"

    def _damaged(self, what: str) -> CorruptionError:
        return CorruptionError(
            f"the store {self._name} is damaged: {what}. Stop the service, keep the database, restore a back-up."
        )


_LOST = "the connection to the server is lost"


def check_server(connection: Connection, path: str) -> None:
    """Refuse a server that would lose what it acknowledged, or that cannot keep what we write.

    Raises `OperatorError` with what to change.
    """
    version = connection.info.server_version
    if version < _FIRST_SERVER:
        raise OperatorError(f"the store {path} is on PostgreSQL {version // 10000}; at least 13 is needed")
    if _show(connection, "fsync") != "on":
        raise OperatorError(
            f"the server of the store {path} runs with fsync = off: a power cut loses what was acknowledged, and may "
            "ruin the database. Set fsync = on in its configuration"
        )
    if (found := _show(connection, "synchronous_commit")) not in ("on", "remote_apply"):
        raise OperatorError(
            f"the store {path} is written with synchronous_commit = {found}: a power cut loses what was acknowledged. "
            "Something between this program and the server changes its settings; connect to the server itself"
        )
    if (found := _show(connection, "server_encoding")) != "UTF8":
        raise OperatorError(f"the store {path} has the encoding {found}; make the database with ENCODING 'UTF8'")
    if _one(connection, "SELECT pg_is_in_recovery()"):
        raise OperatorError(f"the store {path} is on a server that only reads (a replica); name the one that writes")


def _show(connection: Connection, name: str) -> str:
    return str(_one(connection, "SELECT current_setting(%s)", name))


def _one(connection: Connection, sql: str, *values: Any) -> Any:
    row = connection.execute(sql, values).fetchone()
    assert row is not None
    return row[0]


def _is_damage(error: Exception) -> bool:
    # XX001 data_corrupted, XX002 index_corrupted, XX000 what the server cannot explain itself (a broken TOAST chain).
    return isinstance(error, UnicodeError) or (getattr(error, "sqlstate", None) or "").startswith("XX")


@functools.cache
def _ours(sql: str) -> str:
    """Return SQL with the signs of this driver."""
    return sql.replace("?", "%s")
