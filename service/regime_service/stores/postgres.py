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
import os
import select
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8

from regime.codec import decode
from regime.decision import Decision, decision_bytes, decode_decision
from regime.errors import CorruptionError, OperatorError
from regime.events import AnyEvent, StreamKey, source_key
from regime_service.stores import Checked, DeadLetter, Message, Status, StoreFailed, StoreUnreachable
from regime_service.stores.rows import checksum, epoch_after, letter_parts, masked, matches, new_ulid

SCHEMA = "regimegate"
SCHEMA_VERSION = 1
SNAPSHOTS_KEPT = 3
LOCK = (0x52474D45, 0)
"""`RGME`: the advisory lock of the one writer of a database."""

_FIRST_SERVER = 130000
_LOCK_WAIT_S = 5.0
"""A server needs a moment to see that a client was killed; a supervisor is faster than that."""
_ROWS_AT_ONCE = 500
_SEQ_MAX = 2**63 - 1

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

_STORED = "SELECT sha, seq, recorded_ms, kind, source_key, body FROM events"
_EVENT = "INSERT INTO events (seq, kind, source_key, recorded_ms, sha, body) VALUES (%b, %s, %b, %b, %b, %b)"
_DECISION = "INSERT INTO decisions (stream, version, seq, sha, body) VALUES (%b, %b, %b, %b, %b)"
_META = "INSERT INTO meta VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_HOME = (
    "SELECT concat_ws('/', {cluster}, left(pg_walfile_name(pg_current_wal_lsn()), 8),"
    " (SELECT oid FROM pg_database WHERE datname = current_database()), 'events'::regclass::oid)"
)

Row = tuple[Any, ...]
Connection = psycopg.Connection[Row]


class PostgresStore:
    """A `Store` in the database that `url` names (`postgresql://USER@HOST:5432/DATABASE`); its tables are made there.

    Raises `OperatorError` where only a person can help (a wrong URL or password, another service on the same database,
    tables that are newer than this program, a server that is not durable), `StoreUnreachable` where the server does not
    answer, and `StoreFailed` where it cannot be written: opening writes a row, so that a full disk shows at the start.

    `read_only` is for tools: it takes no lock, makes nothing, and may be used while a service runs.

    Trap: a group is kept in memory until `commit`, so an error of the server shows there and not in `append`.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._path = masked(url)
        self._read_only = read_only
        self._failed: str | None = None
        self._closed = False
        self._warning: str | None = None
        self._in_group = False
        # Each connection is used by one thread at a time.
        self._reader_lock = threading.Lock()
        self._writer_lock = self._reader_lock if read_only else threading.Lock()
        self._cleanup = contextlib.ExitStack()
        try:
            self._options = {**_CONNECT, **conninfo_to_dict(url)}
        except psycopg.Error:
            # Not libpq's own words: they repeat the URL, with the password in it.
            raise OperatorError(
                f"the URL of the store, {self._path}, is not understood; write postgresql://USER@HOST:5432/DATABASE, "
                "and signs such as @ : / in a password as %40 %3A %2F"
            ) from None
        try:
            self._writer = self._connect()
            self._reader = self._writer if read_only else self._connect(reading=True)
            if read_only:
                self._identify_or_refuse()
                self._failed = f"the store {self._path} was opened for reading only"
            else:
                self._open()
            self._epoch = self._read_epoch()
            self._last_seq = self.last_seq()
            self._forget()
        except BaseException:
            self._cleanup.close()
            raise

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def path(self) -> str:
        """Return the URL without its secrets."""
        return self._path

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
                    self._stop(f"the store {self._path} cannot be written: {_LOST}")
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
            return OperatorError(f"the store {self._path} cannot be opened: {text}")
        return StoreUnreachable(f"the store {self._path} cannot be reached: {text}")

    def _scrubbed(self, text: str) -> str:
        text = text.strip().splitlines()[0] if text.strip() else "no reason was given"
        for name in ("password", "sslpassword"):
            if secret := self._options.get(name):
                text = text.replace(str(secret), "***")
        return text.replace(self._url, self._path)

    def _open(self) -> None:
        try:
            check_server(self._writer, self._path)
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
            self._writer.add_notice_handler(self._note)
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction) as error:
            raise OperatorError(f"the store {self._path} cannot be opened: {self._sentence(error)}") from None
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
                    f"the store {self._path} is in use by another process{f' ({who})' if who else ''}; stop that one "
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
                f"the store {self._path} was written by a newer regimegate (format {version}, this one reads up to"
                f" {SCHEMA_VERSION}); install that version again, or give another database"
            )
        return version

    def _identify_or_refuse(self) -> None:
        if self._identify() == 0:
            raise OperatorError(f"there is no store in {self._path}: no service was ever started on it")

    def _foreign(self) -> OperatorError:
        return OperatorError(
            f"{self._path} has a schema {SCHEMA} that is not ours; it was left as it is, give another database"
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

    def _read_epoch(self) -> str:
        epoch = self._read_one("SELECT (SELECT value FROM meta WHERE name = 'epoch')")
        if epoch is None:
            raise self._damaged("it has no epoch")
        return str(epoch)

    def _cannot_open(self, error: psycopg.Error) -> StoreFailed | CorruptionError:
        if _is_damage(error):
            return self._damaged(self._scrubbed(str(error)))
        return StoreFailed(f"the store {self._path} cannot be opened: {self._sentence(error)}")

    # --- the writer thread ---

    def begin(self) -> None:
        self._check_writable()
        if self._in_group:
            raise RuntimeError("a group is open already")
        self._in_group = True

    def commit(self) -> None:
        self._check_group()
        work = [(_EVENT, self._events), (_DECISION, self._decisions), *((sql, [row]) for sql, row in self._others)]
        if any(rows for _, rows in work):
            try:
                self._send([(sql, rows) for sql, rows in work if rows])
            except (psycopg.Error, OSError, UnicodeError) as error:
                raise self._fail(error) from error
        self._in_group = False
        self._last_seq = self._next_seq - 1
        self._empty()

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

    def rollback(self) -> None:
        # Nothing was sent. Where `commit` failed half-way, the server rolls back as soon as we are gone.
        self._in_group = False
        self._forget()

    def _forget(self) -> None:
        """Forget what the open group did, and what is remembered of the store: it is asked again when needed."""
        self._next_seq = self._last_seq + 1
        self._streams: dict[StreamKey, tuple[int, int]] | None = None
        self._letters: dict[int, tuple[int, int, str, int, int]] | None = None
        self._empty()

    def _empty(self) -> None:
        self._events: list[Row] = []
        self._decisions: list[Row] = []
        self._others: list[tuple[str, Row]] = []
        self._fresh: set[bytes] = set()
        self._expected: dict[bytes, Row | None] = {}
        self._open_events: dict[bytes, tuple[int, bytes]] = {}
        self._open_decisions: dict[tuple[int, int], bytes] = {}
        self._open_references: dict[str, bytes] = {}

    def expect(self, events: Iterable[AnyEvent]) -> None:
        self._check_group()
        keys = list(dict.fromkeys(source_key(event).encode() for event in events))
        if keys:
            self._expected |= dict.fromkeys(keys)
            self._expected |= {row[4]: row for row in self._ask(f"{_STORED} WHERE source_key = ANY(%b)", keys)}

    def look_up(self, event: AnyEvent, raw: bytes) -> Status:
        self._check_group()
        body = self.stored(event)
        if body is None:
            self._fresh.add(source_key(event).encode())
            return "new"
        return "duplicate" if body == raw else "conflict"

    def stored(self, event: AnyEvent) -> bytes | None:
        key = source_key(event).encode()
        if (in_group := self._open_events.get(key)) is not None:
            return in_group[1]
        if key in self._expected:
            row = self._expected[key]
        else:
            row = next(iter(self._ask(f"{_STORED} WHERE source_key = %b", key)), None)
        if row is None:
            return None
        if not matches(*row):
            # Without this check a flipped bit would turn every repetition into a conflict that nobody can resolve.
            damage = self._damaged(f"event {row[1]} does not match its checksum")
            self._stop(str(damage))
            raise damage
        body: bytes = row[5]
        return body

    def append(self, event: AnyEvent, raw: bytes, recorded_ms: int) -> int:
        self._check_group()
        key = source_key(event).encode()
        if key in self._open_events or (key not in self._fresh and self.stored(event) is not None):
            raise ValueError(f"event {source_key(event)!r} is in the log already; look_up first")
        seq, kind = self._next_seq, str(event.__struct_config__.tag)
        sha = checksum(seq, recorded_ms, kind, key, raw)
        self._events.append((Int8(seq), kind, key, Int8(recorded_ms), sha, raw))
        self._open_events[key] = (seq, raw)
        self._next_seq = seq + 1
        return seq

    def put_decision(self, seq: int, decision: Decision) -> None:
        self._check_group()
        self._check_seq(seq)
        key, version, body = decision.key, decision.version, decision_bytes(decision)
        stream, newest = self._stream(key)
        if version > newest:
            row = (stream, version, seq)
            self._decisions.append((*map(Int8, row), checksum(*row, body), body))
            self._open_decisions[stream, version] = body
            self._known_streams()[key] = (stream, version)
            return
        same = self._open_decisions.get((stream, version))
        if same is None:
            rows = self._ask("SELECT body FROM decisions WHERE stream = %s AND version = %s", stream, version)
            same = rows[0][0] if rows else None
        if same != body:
            raise ValueError(f"{key}: version {version} does not follow version {newest}; versions grow, from 1")

    def _known_streams(self) -> dict[StreamKey, tuple[int, int]]:
        if self._streams is None:
            rows = self._ask(
                "SELECT id, model, symbol, timeframe, (SELECT coalesce(max(version), 0) FROM decisions"
                " WHERE stream = streams.id) FROM streams"
            )
            self._streams = {StreamKey(*key): (number, newest) for number, *key, newest in rows}
        return self._streams

    def _stream(self, key: StreamKey) -> tuple[int, int]:
        known = self._known_streams()
        if key not in known:
            number = max((number for number, _ in known.values()), default=0) + 1
            self._others.append(("INSERT INTO streams VALUES (%s, %s, %s, %s)", (number, *key)))
            known[key] = (number, 0)
        return known[key]

    def put_reference(self, reference_id: str, raw: bytes) -> None:
        self._check_group()
        sha = checksum(reference_id, raw)
        known = self._open_references.get(reference_id)
        if known is None:
            rows = self._ask("SELECT sha FROM reference_samples WHERE reference_id = %s", reference_id)
            known = rows[0][0] if rows else None
        if known is None:
            # Level 1: the writer waits for this, and floating-point numbers hardly shrink further at level 9.
            insert = "INSERT INTO reference_samples (reference_id, sha, body) VALUES (%s, %b, %b)"
            self._others.append((insert, (reference_id, sha, zlib.compress(raw, 1))))
            self._open_references[reference_id] = sha
        elif known != sha:
            raise ValueError(f"reference {reference_id} is known with other content")

    def put_snapshot(self, seq: int, fingerprint: str, raw: bytes) -> None:
        self._check_group()
        self._check_seq(seq)
        insert = "INSERT INTO snapshots (seq, fingerprint, sha, body) VALUES (%s, %s, %b, %b)"
        self._others.append((insert, (seq, fingerprint, checksum(seq, fingerprint, raw), raw)))
        # By id, not by seq: a new fingerprint starts over at the first event, behind the snapshots of the old one.
        delete = "DELETE FROM snapshots WHERE id NOT IN (SELECT id FROM snapshots ORDER BY id DESC LIMIT %s)"
        self._others.append((delete, (SNAPSHOTS_KEPT,)))

    def open_letter(self, seq: int, key: StreamKey, error: str, opened_ms: int) -> int:
        self._check_group()
        self._check_seq(seq)
        stream, _ = self._stream(key)
        known = self._open_letters()
        if any(letter[0] == stream for letter in known.values()):
            raise ValueError(f"{key} has an open dead letter already")
        newest = int(self._ask("SELECT coalesce(max(id), 0) FROM dead_letter")[0][0])
        letter = max(newest, self._newest_letter) + 1
        row = (stream, seq, _text(error), opened_ms, 1, None, "")
        self._others.append(
            (
                "INSERT INTO dead_letter (id, stream, seq, error, opened_ms, attempts, closed_seq, how, sha)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %b)",
                (letter, *row, checksum(*letter_parts(*row))),
            )
        )
        known[letter] = row[:5]
        self._newest_letter = letter
        return letter

    _newest_letter = 0
    """The highest number given out by this process, also to letters that were closed again in the same group."""

    def letter_failed_again(self, letter: int, error: str) -> None:
        stream, seq, _, opened_ms, attempts = self._letter(letter)
        self._change_letter(letter, (stream, seq, _text(error), opened_ms, attempts + 1), None, "")

    def close_letter(self, letter: int, closed_seq: int, how: str) -> None:
        self._check_seq(closed_seq)
        self._change_letter(letter, self._letter(letter), closed_seq, how)
        del self._open_letters()[letter]

    def _open_letters(self) -> dict[int, tuple[int, int, str, int, int]]:
        if self._letters is None:
            rows = self._ask(
                "SELECT id, stream, seq, error, opened_ms, attempts FROM dead_letter WHERE closed_seq IS NULL"
            )
            self._letters = {row[0]: row[1:] for row in rows}
        return self._letters

    def _letter(self, letter: int) -> tuple[int, int, str, int, int]:
        self._check_group()
        found = self._open_letters().get(letter)
        if found is None:
            raise ValueError(f"no dead letter {letter} is open")
        return found

    def _change_letter(
        self, letter: int, row: tuple[int, int, str, int, int], closed_seq: int | None, how: str
    ) -> None:
        self._others.append(
            (
                "UPDATE dead_letter SET error = %s, attempts = %s, closed_seq = %s, how = %s, sha = %b WHERE id = %s",
                (row[2], row[4], closed_seq, how, checksum(*letter_parts(*row, closed_seq, how)), letter),
            )
        )
        self._open_letters()[letter] = row

    def number_of(self, event: AnyEvent) -> int:
        self._check_group()
        key = source_key(event).encode()
        if (in_group := self._open_events.get(key)) is not None:
            return in_group[0]
        rows = self._ask("SELECT seq FROM events WHERE source_key = %b", key)
        return int(rows[0][0]) if rows else 0

    def put_message(self, seq: int, key: str, body: bytes) -> None:
        self._check_group()
        self._check_seq(seq)
        insert = (
            "INSERT INTO outbox (seq, message_key, sha, body) VALUES (%s, %b, %b, %b)"
            " ON CONFLICT (message_key) DO NOTHING"
        )
        self._others.append((insert, (seq, key.encode(), checksum(seq, key, body), body)))

    def message_sent(self, message: int, sent_ms: int) -> None:
        self._check_group()
        self._others.append(("UPDATE outbox SET sent_ms = %s WHERE id = %s AND sent_ms IS NULL", (sent_ms, message)))

    def _check_writable(self) -> None:
        if self._failed is not None:
            raise StoreFailed(self._failed)

    def _check_group(self) -> None:
        self._check_writable()
        if not self._in_group:
            raise RuntimeError("no group is open; begin one first")

    def _check_seq(self, seq: int) -> None:
        if not 0 <= seq < self._next_seq:
            raise ValueError(f"there is no event {seq}; the newest is {self._next_seq - 1}")

    def _ask(self, sql: str, *values: Any) -> list[Row]:
        """Read for the writer; what cannot be read for it ends the store, as a write that fails does."""
        self._check_open()
        try:
            with self._writer_lock:
                return self._writer.execute(sql, values, binary=True).fetchall()
        except (psycopg.Error, OSError, UnicodeError) as error:
            if _is_damage(error):
                damage = self._damaged(self._scrubbed(str(error)))
                self._stop(str(damage))
                raise damage from error
            raise self._fail(error) from error

    def _fail(self, error: Exception) -> StoreFailed:
        self._stop(f"the store {self._path} cannot be written: {self._sentence(error)}")
        return StoreFailed(self._failed)

    def _stop(self, reason: str) -> None:
        if self._failed is None:
            self._failed = reason

    # --- any thread ---

    def events(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, bytes]]:
        for rows in self._event_pages(after_seq, until_seq):
            for row in rows:
                yield row[1], row[5]

    def _event_pages(self, after_seq: int, until_seq: int | None) -> Iterator[list[Row]]:
        select_events = (
            "SELECT sha, seq, recorded_ms, kind, source_key, body FROM events WHERE seq > %s AND seq <= %s"
            " ORDER BY seq LIMIT %s"
        )
        until = _SEQ_MAX if until_seq is None else until_seq
        while True:
            try:
                rows = self._read(select_events, after_seq, until, _ROWS_AT_ONCE)
            except CorruptionError:
                # One by one, so that the good ones come out and the message names the first that is not.
                rows = self._read(select_events, after_seq, until, 1, where=f"event {after_seq + 1}")
            for number, row in enumerate(rows):
                seq = row[1]
                if seq == after_seq + 1 and matches(*row):
                    after_seq = seq
                    continue
                if number:
                    yield rows[:number]
                if seq != after_seq + 1:
                    raise self._damaged(f"event {after_seq + 1} is missing (the next one is {seq})")
                raise self._damaged(f"event {seq} does not match its checksum")
            if not rows:
                return
            yield rows

    def bodies(self, source_keys: Sequence[str]) -> list[bytes]:
        rows = self._read(f"{_STORED} WHERE source_key = ANY(%b)", [key.encode() for key in source_keys])
        for row in rows:
            if not matches(*row):
                raise self._damaged(f"event {row[1]} does not match its checksum")
        return [row[5] for row in rows]

    def last_seq(self) -> int:
        return int(self._read_one("SELECT coalesce(max(seq), 0) FROM events"))

    def decisions(self, key: StreamKey, since_version: int = 0, limit: int = 100) -> list[Decision]:
        rows = self._read(
            "SELECT sha, stream, version, seq, body FROM decisions WHERE stream = ("
            "SELECT id FROM streams WHERE model = %s AND symbol = %s AND timeframe = %s"
            ") AND version > %s ORDER BY version LIMIT %s",
            *(*key, since_version, limit),
        )
        return [self._decision(row) for row in rows]

    def latest(self) -> dict[StreamKey, Decision]:
        rows = self._read(
            "SELECT d.sha, d.stream, d.version, d.seq, d.body FROM streams s JOIN decisions d ON d.stream = s.id"
            " AND d.version = (SELECT max(version) FROM decisions WHERE stream = s.id) ORDER BY s.id"
        )
        return {decision.key: decision for decision in map(self._decision, rows)}

    def _decision(self, row: Row) -> Decision:
        _, _, version, seq, body = row
        if not matches(*row):
            raise self._damaged(f"decision version {version} of event {seq} does not match its checksum")
        try:
            return decode_decision(body)
        except msgspec.MsgspecError as error:
            raise self._damaged(f"decision version {version} of event {seq} cannot be read: {error}") from error

    def dead_letters(self, *, closed: bool = False) -> list[DeadLetter]:
        rows = self._read(
            "SELECT d.sha, d.stream, d.seq, d.error, d.opened_ms, d.attempts, d.closed_seq, d.how, d.id, s.model,"
            " s.symbol, s.timeframe, (SELECT kind FROM events WHERE seq = d.seq) FROM dead_letter d"
            " JOIN streams s ON s.id = d.stream WHERE %s OR d.closed_seq IS NULL ORDER BY d.id",
            closed,
        )
        return [self._dead_letter(row) for row in rows]

    def _dead_letter(self, row: Row) -> DeadLetter:
        sha, stream, seq, error, opened_ms, attempts, closed_seq, how, letter, *key, kind = row
        if not matches(sha, *letter_parts(stream, seq, error, opened_ms, attempts, closed_seq, how)):
            raise self._damaged(f"dead letter {letter} does not match its checksum")
        return DeadLetter(letter, StreamKey(*key), seq, str(kind), error, opened_ms, attempts, closed_seq, how)

    def messages(self, limit: int = 100) -> list[Message]:
        rows = self._read(
            "SELECT id, sha, seq, message_key, body FROM outbox WHERE sent_ms IS NULL ORDER BY id LIMIT %s", limit
        )
        return [self._message(row) for row in rows]

    def _message(self, row: Row) -> Message:
        number, sha, seq, key, body = row
        if not matches(sha, seq, key, body):
            raise self._damaged(f"message {number} of the outbox does not match its checksum")
        return Message(number, key.decode(), body)

    def reference(self, reference_id: str) -> bytes:
        rows = self._read("SELECT reference_id, sha, body FROM reference_samples WHERE reference_id = %s", reference_id)
        if not rows:
            raise KeyError(reference_id)
        return self._reference(rows[0])

    def _reference(self, row: Row) -> bytes:
        reference_id, sha, body = row
        try:
            raw = zlib.decompress(body)
        except (zlib.error, TypeError) as error:
            raise self._damaged(f"reference {reference_id} cannot be unpacked: {error}") from error
        if not matches(sha, reference_id, raw):
            raise self._damaged(f"reference {reference_id} does not match its checksum")
        return raw

    def newest_snapshot(self, fingerprint: str) -> tuple[int, bytes] | None:
        ids = self._read("SELECT id FROM snapshots WHERE fingerprint = %s ORDER BY seq DESC, id DESC", fingerprint)
        for (number,) in ids:
            try:
                rows = self._read("SELECT sha, seq, fingerprint, body FROM snapshots WHERE id = %s", number)
            except CorruptionError:
                continue
            for row in rows:
                if matches(*row) and row[2] == fingerprint:
                    return row[1], row[3]
        return None

    def verify(self) -> Iterator[Checked]:
        count = 0
        for rows in self._event_pages(0, None):
            for _, seq, _, kind, key, body in rows:
                try:
                    event = decode(body)
                except CorruptionError as error:
                    raise self._damaged(f"event {seq}: {error}") from error
                if source_key(event).encode() != key or event.__struct_config__.tag != kind:
                    raise self._damaged(f"event {seq} stands under the key of another one")
            count += len(rows)
            yield Checked("events", count)
        for table, columns in (
            ("decisions", "id, sha, stream, version, seq, body"),
            ("reference_samples", "id, reference_id, sha, body"),
            ("snapshots", "id, sha, seq, fingerprint, body"),
            ("outbox", "id, sha, seq, message_key, body"),
        ):
            for count, row in self._rows(table, columns):
                match table:
                    case "decisions":
                        self._decision(row[1:])
                        if row[4] > self.last_seq():  # asked anew each time: the log may be growing
                            raise self._damaged(f"a decision is of event {row[4]}, but the log ends before it")
                    case "reference_samples":
                        self._reference(row[1:])
                    case "outbox":
                        self._message(row)
                    case _:
                        if not matches(*row[1:]):
                            raise self._damaged(f"the snapshot after event {row[2]} does not match its checksum")
                yield Checked(table, count)
        if letters := self.dead_letters(closed=True):
            yield Checked("dead_letter", len(letters))

    def _rows(self, table: str, columns: str) -> Iterator[tuple[int, Row]]:
        """Number and yield the rows of a table, one at a time: references and snapshots are large."""
        count = after = 0
        select_next = f"SELECT {columns} FROM {table} WHERE id > %s ORDER BY id LIMIT 1"
        while rows := self._read(select_next, after, where=f"{table}, after row {after}"):
            count, after = count + 1, int(rows[0][0])
            yield count, rows[0]

    def oldest_ms(self) -> int | None:
        """Return when the first event of the log was written; None for an empty log."""
        rows = self._read("SELECT recorded_ms FROM events ORDER BY seq LIMIT 1")
        return int(rows[0][0]) if rows else None

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
        self._stop(f"the store {self._path} is closed")
        with self._reader_lock:
            # Nothing of an open group was sent. Last in, first out: the reader, then the writer and with it the lock.
            self._cleanup.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFailed(f"the store {self._path} is closed")

    def _read_one(self, sql: str, *values: Any) -> Any:
        return self._read(sql, *values)[0][0]

    def _read(self, sql: str, *values: Any, where: str = "") -> list[Row]:
        self._check_open()
        try:
            with self._reader_lock:
                return self._reader.execute(sql, values, binary=True).fetchall()
        except (psycopg.Error, OSError, UnicodeError) as error:
            self._check_open()
            if _is_damage(error):
                text = self._scrubbed(str(error))
                raise self._damaged(f"{where}: {text}" if where else text) from error
            if self._reader.closed and not self._read_only:
                raise self._fail(error) from error  # it is never opened again, so nothing can be answered any more
            raise StoreFailed(f"the store {self._path} cannot be read: {self._sentence(error)}") from error

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
            f"the store {self._path} is damaged: {what}. Stop the service, keep the database, restore a back-up."
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


def _text(words: str) -> str:
    """Return words as PostgreSQL can keep them: any Unicode but NUL and lone surrogates."""
    return words.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
