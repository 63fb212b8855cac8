"""What only the SQLite store can show: damage to the file, the lock, write errors, and death by SIGKILL."""

from __future__ import annotations

import errno
import gzip
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from regime.codec import encode
from regime.decision import Decision, SideDecision, Sides, TradingState
from regime.errors import CorruptionError, OperatorError, RegimeError
from regime.events import StreamKey, Tick, source_key
from regime_service.stores import Checked, StoreFailed, group, offer, sqlite
from regime_service.stores.rows import epoch_after, masked, new_ulid
from regime_service.stores.sqlite import APPLICATION_ID, SCHEMA_VERSION, SqliteStore, check_sqlite

KEY = StreamKey("m", "s", "5m")


def tick(ts_ms: int) -> Tick:
    return Tick(model="m", symbol="s", timeframe="5m", ts_ms=ts_ms)


def decision(version: int) -> Decision:
    side = SideDecision(state=TradingState.ACTIVE, entry=0.8, exit=0.75, size_factor=1.0, reasons=[])
    return Decision(
        model="m", symbol="s", timeframe="5m", mode="enforce", version=version, as_of_ms=1, data_until_ms=None,
        regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p",
    )  # fmt: skip


def put(store: SqliteStore, *numbers: int) -> None:
    with group(store):
        for number in numbers:
            offer(store, tick(number), encode(tick(number)), 7)
    store.tidy()


def seqs(store: SqliteStore) -> list[int]:
    return [seq for seq, _ in store.events()]


def fill(path: Path) -> None:
    """A closed store with something in every table."""
    store = SqliteStore(path)
    put(store, *range(40))
    with group(store):
        store.put_decision(1, decision(1))
        store.put_decision(2, decision(2))
        store.put_reference("r1", b"sample " * 50)
        store.open_letter(7, KEY, "ValueError: x", 7)
        store.put_message(7, "alert-7", b"message")
        for seq in (10, 20, 30):
            store.put_snapshot(seq, "f", b"state %d " % seq * 50)
    store.close()


def edit(path: Path, sql: str, values: tuple[Any, ...] = ()) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(sql, values)
    connection.close()


def verify(path: Path) -> list[Checked]:
    store = SqliteStore(path, read_only=True)
    try:
        return list(store.verify())
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


# --- damage ---


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE events SET body = CAST(replace(body, '5m', '6m') AS BLOB) WHERE seq = 9", "event 9 "),
        ("UPDATE events SET body = CAST(body || ' ' AS BLOB) WHERE seq = 9", "event 9 "),
        ("UPDATE events SET recorded_ms = 8 WHERE seq = 9", "event 9 "),
        ("UPDATE events SET kind = 'trade' WHERE seq = 9", "event 9 "),
        ("UPDATE events SET source_key = x'00' WHERE seq = 9", "event 9 "),
        ("UPDATE events SET sha = x'00' WHERE seq = 9", "event 9 "),
        (
            "CREATE TABLE lax AS SELECT * FROM events; DROP TABLE events; ALTER TABLE lax RENAME TO events;"
            "UPDATE events SET body = NULL WHERE seq = 9",
            "event 9 ",
        ),
        ("UPDATE events SET seq = 41 WHERE seq = 9", "event 9 is missing"),
        ("UPDATE events SET seq = 41 WHERE seq = 40", "event 40 is missing"),
        ("DELETE FROM events WHERE seq = 1", "event 1 is missing"),
        ("DELETE FROM events WHERE seq BETWEEN 9 AND 12", "event 9 is missing .the next one is 13"),
    ],
)
def test_a_row_of_the_log_that_was_changed_is_named_and_those_before_it_are_read(
    path: Path, sql: str, message: str
) -> None:
    fill(path)
    edit(path, sql)
    store, seen = SqliteStore(path), []
    with pytest.raises(CorruptionError, match=message):
        for seq, _ in store.events():
            seen.append(seq)
    bad = int(message.split()[1])
    assert seen == list(range(1, bad))
    assert [seq for seq, _ in store.events(0, bad - 1)] == seen
    store.close()
    with pytest.raises(CorruptionError, match=message):
        verify(path)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "UPDATE decisions SET body = CAST(body || ' ' AS BLOB) WHERE version = 2",
            "version 2 of event 2 does not match",
        ),
        ("UPDATE decisions SET version = 3 WHERE version = 2", "version 3 of event 2 does not match"),
        ("UPDATE reference_samples SET body = x'00'", "reference r1 cannot be unpacked"),
        ("UPDATE reference_samples SET sha = x'00'", "reference r1 does not match"),
        ("UPDATE snapshots SET body = x'00' WHERE seq = 20", "snapshot after event 20"),
        ("DELETE FROM events WHERE seq > 1", "a decision is of event 2"),
        ("UPDATE dead_letter SET error = 'ValueError: y'", "dead letter 1 does not match"),
        ("UPDATE dead_letter SET closed_seq = 9, how = 'drop'", "dead letter 1 does not match"),
        ("UPDATE outbox SET body = x'00'", "message 1 of the outbox does not match"),
    ],
)
def test_verify_names_bad_rows_beside_the_log(path: Path, sql: str, message: str) -> None:
    fill(path)
    edit(path, sql)
    with pytest.raises(CorruptionError, match=message):
        verify(path)


def test_rows_with_a_right_checksum_and_senseless_content_are_found(path: Path, store: SqliteStore) -> None:
    put(store, 1)
    with group(store):
        store.append(tick(2), b"{}", 7)
    with pytest.raises(CorruptionError, match=r"event 2: .*cannot be read"):
        list(store.verify())
    store.close()
    path.unlink()
    store = SqliteStore(path)
    with group(store):
        store.append(tick(1), encode(tick(2)), 7)
    with pytest.raises(CorruptionError, match="event 1 stands under the key of another one"):
        list(store.verify())
    store.close()


def test_a_decision_that_this_version_cannot_read_is_reported(store: SqliteStore, monkeypatch: Any) -> None:
    put(store, 1)
    monkeypatch.setattr("regime_service.stores.grouped.decision_bytes", lambda _: b"{}")
    with group(store):
        store.put_decision(1, decision(1))
    with pytest.raises(CorruptionError, match="version 1 of event 1 cannot be read"):
        store.decisions(KEY)


def test_bytes_flipped_anywhere_in_the_file_are_never_believed(path: Path) -> None:
    """Either the flip is found, in words, or all that was written can be read as it was."""
    fill(path)
    good, rng, found = path.read_bytes(), random.Random(5), 0
    store = SqliteStore(path, read_only=True)
    events, decisions = list(store.events()), store.decisions(KEY)
    store.close()
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            verify(path)
            store = SqliteStore(path, read_only=True)
            assert list(store.events()) == events and store.decisions(KEY) == decisions
            assert store.reference("r1") == b"sample " * 50
            store.close()
        except RegimeError:
            found += 1
    assert found > 20  # most of a small file is free space


def test_a_page_of_the_log_that_is_gone_is_named_by_the_first_event_in_it(path: Path) -> None:
    store = SqliteStore(path)
    put(store, *range(2000))
    store.close()
    raw = bytearray(path.read_bytes())
    spot = raw.index(encode(tick(1500))) // 8192 * 8192
    raw[spot : spot + 8192] = bytes(8192)
    path.write_bytes(raw)
    store, seen = SqliteStore(path, read_only=True), []
    with pytest.raises(CorruptionError) as caught:
        for seq, _ in store.events():
            seen.append(seq)
    store.close()
    assert f"event {len(seen) + 1}" in str(caught.value) and 1400 < len(seen) <= 1500
    assert seen == list(range(1, len(seen) + 1))


def test_looking_up_a_damaged_event_stops_the_store_instead_of_calling_it_a_conflict(path: Path) -> None:
    fill(path)
    edit(path, "UPDATE events SET body = CAST(body || ' ' AS BLOB) WHERE seq = 9")
    store = SqliteStore(path)
    with pytest.raises(CorruptionError, match="event 9"), group(store):
        store.look_up(tick(8), encode(tick(8)))
    assert store.failed is not None
    with pytest.raises(StoreFailed, match="event 9"):
        store.begin()
    store.close()


def test_a_damaged_snapshot_is_passed_over(path: Path) -> None:
    fill(path)
    edit(path, "UPDATE snapshots SET body = x'00' WHERE seq = 30")
    edit(path, "UPDATE snapshots SET fingerprint = 'f' || fingerprint WHERE seq = 10")
    store = SqliteStore(path)
    assert store.newest_snapshot("f") == (20, b"state 20 " * 50)
    assert store.newest_snapshot("ff") is None
    store.close()


def test_a_snapshot_on_a_damaged_page_is_passed_over(path: Path, monkeypatch: Any) -> None:
    fill(path)
    store = SqliteStore(path)
    read = store._read

    def read_all_but_the_newest(sql: str, *values: Any, where: str = "") -> list[Any]:
        if "WHERE id = ?" in sql and values == (3,):
            raise CorruptionError("page")
        return read(sql, *values, where=where)

    monkeypatch.setattr(store, "_read", read_all_but_the_newest)
    assert store.newest_snapshot("f") == (20, b"state 20 " * 50)
    store.close()


def test_a_file_without_an_epoch_is_refused(path: Path) -> None:
    fill(path)
    edit(path, "DELETE FROM meta WHERE name = 'epoch'")
    with pytest.raises(CorruptionError, match="no epoch"):
        SqliteStore(path)


def test_a_broken_index_is_found_by_verify(path: Path) -> None:
    fill(path)
    raw = bytearray(path.read_bytes())
    key = source_key(tick(17)).encode()
    fine, found = bytes(raw), 0
    for spot in [i for i in range(len(fine)) if fine.startswith(key, i)]:
        path.write_bytes(fine[: spot + 2] + b"z" + fine[spot + 3 :])
        try:
            verify(path)
        except CorruptionError:
            found += 1
    assert found == 2  # in the row and in the index; what stands in free space does not matter


def test_damage_while_opening_is_told(path: Path) -> None:
    fill(path)
    raw = bytearray(path.read_bytes())
    raw[100:8192] = bytes(8092)  # the schema
    path.write_bytes(raw)
    with pytest.raises(CorruptionError, match="damaged"):
        SqliteStore(path)


# --- whose file it is ---


def test_a_newer_format_is_refused_with_what_to_do(path: Path) -> None:
    fill(path)
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(OperatorError, match=r"newer regimegate .format 3.*install that version"):
            SqliteStore(path, read_only=read_only)
    assert path.read_bytes() == before


def version_1(path: Path) -> None:
    """A file that version 1 of this store made (`fill`, before there were dead letters and an outbox)."""
    path.write_bytes(gzip.decompress((Path(__file__).parent / "data" / "version-1.db.gz").read_bytes()))


def test_a_file_of_version_1_is_brought_up_to_date_and_loses_nothing(path: Path) -> None:
    version_1(path)
    old = SqliteStore(path, read_only=True)
    epoch, events, decisions = old.epoch, list(old.events()), old.decisions(KEY)
    assert (old.dead_letters(), old.messages(), len(events), len(decisions)) == ([], [], 40, 2)
    assert [c.table for c in old.verify()][-1] == "snapshots"
    old.close()
    assert apsw.Connection(str(path)).pragma("user_version") == 1, "reading changes nothing"
    store = SqliteStore(path)
    assert (store.epoch, list(store.events()), store.decisions(KEY)) == (epoch, events, decisions)
    assert store.newest_snapshot("f") == (30, b"state 30 " * 50)
    with group(store):
        store.open_letter(7, KEY, "ValueError: x", 7)
        store.put_message(7, "alert-7", b"message")
    list(store.verify())
    store.close()
    assert apsw.Connection(str(path)).pragma("user_version") == SCHEMA_VERSION
    tables = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    fill(new := path.with_name("new.db"))
    assert list(apsw.Connection(str(path)).execute(tables)) == list(apsw.Connection(str(new)).execute(tables))


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(path: Path, monkeypatch: Any) -> None:
    version_1(path)
    monkeypatch.setitem(sqlite._STEPS, 1, sqlite._STEPS[1] + "; CREATE TABLE events (a)")
    with pytest.raises(StoreFailed):
        SqliteStore(path)
    monkeypatch.undo()
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == 1
    assert not list(connection.execute("SELECT 1 FROM sqlite_schema WHERE name IN ('outbox', 'dead_letter')"))
    connection.close()
    store = SqliteStore(path)
    assert len(seqs(store)) == 40 and list(store.verify())
    store.close()


def test_a_file_of_ours_without_a_version_is_damaged(path: Path) -> None:
    fill(path)
    edit(path, "PRAGMA user_version = 0")
    with pytest.raises(CorruptionError, match="version of its tables"):
        SqliteStore(path)


@pytest.mark.parametrize(
    "content", [b"x", b"not a database\n" * 3, b"hello " * 9999, b"SQLite format 3\0" + bytes(5000)]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RegimeError, match=str(path)):
        SqliteStore(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_another_program_is_refused_and_left_alone(path: Path, mode: str) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", mode)
    connection.execute("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(OperatorError, match="another program"):
            SqliteStore(path, read_only=read_only)
    assert path.read_bytes() == before and connection.execute("SELECT a FROM theirs").get == 1
    connection.close()


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with pytest.raises(OperatorError, match="no store was ever made"):
        SqliteStore(path, read_only=True)
    fill(path)
    assert apsw.Connection(str(path)).pragma("application_id") == APPLICATION_ID


def test_folders_are_made_and_odd_names_are_names(tmp_path: Path) -> None:
    for name in ("a b?mode=ro#x%20", "file:x", ":memory:", "Ü"):
        path = tmp_path / "new" / "folders" / name
        fill(path)
        assert path.stat().st_size > 4096 and verify(path)


def test_a_known_bad_sqlite_is_refused(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(OperatorError, match="apsw"):
        SqliteStore(path)
    assert not path.exists()
    for version in ("3.7.0", "3.40.1", "3.51.2"):
        with pytest.raises(OperatorError):
            check_sqlite(version)
    check_sqlite("3.51.3")
    check_sqlite("4.0.0")


def test_the_name_of_a_new_file_is_made_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[os.stat_result] = []
    usual = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle))
        usual(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    SqliteStore(tmp_path / "store.db").close()
    folder = tmp_path.stat()
    assert [os.path.samestat(one, folder) for one in synced] == [True], "else a power cut may leave it without a name"
    SqliteStore(tmp_path / "store.db").close()
    assert len(synced) == 1, "later it stands there"


def test_the_settings_that_durability_rests_on_are_in_force(store: SqliteStore) -> None:
    assert store._writer.pragma("journal_mode") == "wal"
    assert store._writer.pragma("synchronous") == 2
    assert store._writer.pragma("fullfsync") == store._writer.pragma("checkpoint_fullfsync") == 1, "for macOS"
    assert store._writer.pragma("journal_size_limit") == 64 * 2**20, "a WAL that grew once is cut back"
    assert store._reader.readonly("main") and store.path.endswith("store.db")


def test_the_epoch_survives_and_another_file_has_another_one(tmp_path: Path) -> None:
    epochs = []
    for name in ("a", "a", "b"):
        store = SqliteStore(tmp_path / name)
        epochs.append(store.epoch)
        store.close()
    assert epochs[0] == epochs[1] < epochs[2]


def test_a_new_epoch_sorts_after_the_old_one_by_the_millisecond() -> None:
    old = new_ulid(1_800_000_000_000, bytes(10))
    assert epoch_after(old, 0)[:10] == new_ulid(1_800_000_000_001, bytes(10))[:10], "not later than it must be"
    assert epoch_after(old, 1_900_000_000_000)[:10] == new_ulid(1_900_000_000_000, bytes(10))[:10]


def test_a_place_is_named_without_its_secrets() -> None:
    assert masked("postgresql://bot:secret@db/regime") == "postgresql://bot:***@db/regime"
    odd = "regime.db?password=kept&a=://x:y@z"
    assert masked(odd) == odd, "the name of a file is what it is"


def test_ulids_sort_by_time() -> None:
    made = [new_ulid(ms, os.urandom(10)) for ms in (0, 1, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1)]
    assert made == sorted(made) and {len(ulid) for ulid in made} == {26}


# --- places that cannot be written ---


def test_a_path_below_a_file_or_in_proc_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "store.db", Path("/proc/regime/store.db"), tmp_path):
        with pytest.raises(StoreFailed, match="cannot be opened: "):
            SqliteStore(path)


def test_a_store_to_read_must_exist(path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no store"):
        SqliteStore(path, read_only=True)
    assert list(path.parent.iterdir()) == []


HEAD = """
import os, sys, time
from regime.codec import encode
from regime.errors import RegimeError
from regime.events import Tick
from regime_service.stores import group, offer
from regime_service.stores.sqlite import SqliteStore
def tick(n): return Tick(model="m", symbol="s", timeframe="5m", ts_ms=n)
def say(*words): print(*words, flush=True)
path = sys.argv[1]
"""


def child(path: Path, code: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(code), str(path)], stdout=subprocess.PIPE, text=True, **options
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a user without rights can enter; pytest's own folders cannot be entered by anybody else."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(path: Path, read_only: bool) -> str:
    """Open as a user without rights: root may write everywhere. Only the effective user, so that we get back."""
    is_root = os.getuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        store = SqliteStore(path, read_only=read_only)
        found = f"opened {store.last_seq()}"
        store.close()
        return found
    except RegimeError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if is_root:
            os.seteuid(0)


def test_a_read_only_folder_or_file_is_told_and_can_still_be_verified(open_folder: Path) -> None:
    path = open_folder / "store.db"
    fill(path)
    lock = open_folder / "store.db.lock"
    lock.unlink()
    open_folder.chmod(0o555)
    assert "StoreFailed" in (told := as_nobody(path, read_only=False)) and "Permission denied" in told
    assert as_nobody(path, read_only=True) == "opened 40"
    open_folder.chmod(0o777)
    path.chmod(0o444)
    assert "cannot be written by this user" in as_nobody(path, read_only=False)
    # What was left by a process that was killed must be recovered first, and that is writing.
    path.chmod(0o666)
    child(path, "store = SqliteStore(path); os.kill(os.getpid(), 9)").communicate()
    path.with_name("store.db-shm").unlink()
    open_folder.chmod(0o555)
    assert "OperatorError" in (told := as_nobody(path, read_only=True)) and "permissions" in told
    open_folder.chmod(0o777)
    path.chmod(0o000)
    for read_only in (False, True):
        kind = "OperatorError" if read_only else "StoreFailed"
        assert kind in (told := as_nobody(path, read_only)) and "permissions" in told


# --- one service per file ---


def test_a_second_opener_is_refused_by_every_name_of_the_file(path: Path, store: SqliteStore) -> None:
    put(store, 1)
    (link := path.with_name("link.db")).symlink_to(path)
    for name in (path, link):
        with pytest.raises(OperatorError, match=rf"in use by another process \(process {os.getpid()}\)"):
            SqliteStore(name)
    put(store, 2)
    assert seqs(store) == [1, 2]


def test_a_second_process_is_refused_and_served_when_the_first_was_killed(path: Path) -> None:
    holder = child(path, "store = SqliteStore(path); say('open'); time.sleep(60)")
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    with pytest.raises(OperatorError, match=rf"in use .*process {holder.pid}"):
        SqliteStore(path)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    fill(path)
    assert path.with_name("store.db.lock").exists()


def test_the_lock_is_not_handed_on_to_programs_that_are_started(path: Path) -> None:
    store = SqliteStore(path)
    helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    store.close()
    fill(path)
    helper.communicate(b"\n")


def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: Any) -> None:
    def flock(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StoreFailed, match="No locks available"):
        SqliteStore(path)


def test_a_file_system_without_shared_memory_is_told(path: Path, monkeypatch: Any) -> None:
    class Connection(apsw.Connection):
        def pragma(self, name: str, *values: Any, schema: str | None = None) -> Any:
            return "delete" if name == "journal_mode" else super().pragma(name, *values, schema=schema)

    monkeypatch.setattr(apsw, "Connection", Connection)
    with pytest.raises(OperatorError, match="put it on a local disk"):
        SqliteStore(path)


def test_a_tool_may_read_while_the_service_writes(path: Path, store: SqliteStore) -> None:
    put(store, 1, 2)
    tool = SqliteStore(path, read_only=True)
    assert seqs(tool) == [1, 2] and tool.epoch == store.epoch
    put(store, 3)
    assert seqs(tool) == [1, 2, 3] and list(tool.verify()) == [Checked("events", 3)]
    with pytest.raises(StoreFailed, match="for reading only"):
        tool.begin()
    tool.close()
    put(store, 4)


def test_another_program_that_locks_the_file_is_told(path: Path, store: SqliteStore) -> None:
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    store._writer.set_busy_timeout(1)
    with pytest.raises(StoreFailed, match="another program holds it locked"):
        put(store, 1)
    other.close()


# --- write errors ---


class Faults:
    """What goes wrong next: (method, end of the file's name) -> the error to raise."""

    def __init__(self) -> None:
        self.raising: dict[tuple[str, str], type[Exception]] = {}
        self.calls: list[tuple[str, str]] = []

    def happen(self, method: str, name: str) -> None:
        ending = next((e for e in ("-wal", "-shm", "-journal") if name.endswith(e)), "db")
        self.calls.append((method, ending))
        if error := self.raising.get((method, ending)):
            raise error("simulated")


@pytest.fixture
def faults() -> Iterator[Faults]:
    """SQLite on a file system that fails on demand."""
    faults, usual = Faults(), apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def __init__(self, name: Any, flags: list[int]) -> None:
            self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
            super().__init__(usual, name, flags)

        def xSync(self, flags: int) -> None:
            faults.happen("sync", self._name)
            super().xSync(flags)

        def xWrite(self, data: Any, offset: int) -> None:
            faults.happen("write", self._name)
            super().xWrite(data, offset)

    class FileSystem(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("faulty", usual, maxpathname=0)

        def xOpen(self, name: Any, flags: list[int]) -> Any:
            return File(name, flags)

    file_system = FileSystem()
    apsw.set_default_vfs("faulty")
    yield faults
    apsw.set_default_vfs(usual)
    file_system.unregister()


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (("sync", "-wal"), apsw.IOError, "the disk reports an error"),
        (("write", "-wal"), apsw.IOError, "the disk reports an error"),
        (("write", "-wal"), apsw.FullError, "the disk is full"),
        (("write", "-wal"), apsw.ReadOnlyError, "it is read-only"),
        (("sync", "db"), apsw.IOError, "the disk reports an error"),
        (("write", "db"), apsw.FullError, "the disk is full"),
    ],
)
def test_after_a_write_error_nothing_is_written_and_no_fsync_is_tried_again(
    path: Path, faults: Faults, where: tuple[str, str], error: type[Exception], message: str
) -> None:
    store = SqliteStore(path)
    put(store, 1, 2)
    store._checkpoint_at = 0  # so that there is a checkpoint, too
    faults.raising[where] = error
    with pytest.raises(StoreFailed, match=message) as caught:
        put(store, 3)
    assert (str(caught.value), caught.value.status_hint) == (store.failed, 503)
    faults.raising.clear()
    faults.calls.clear()
    for write in (store.begin, store.commit, store.tidy, lambda: put(store, 4), lambda: store.append(tick(4), b"", 7)):
        with pytest.raises(StoreFailed, match=message):
            write()
    assert seqs(store)[:2] == [1, 2]  # reading goes on
    store.rollback()
    store.close()
    assert not {("sync", "-wal"), ("sync", "db"), ("write", "db")} & set(faults.calls)
    # The next process finds all that was acknowledged, and goes on.
    store = SqliteStore(path)
    assert seqs(store) in ([1, 2], [1, 2, 3])
    put(store, 5)
    list(store.verify())
    store.close()


def test_opening_moves_what_is_in_the_wal_into_the_database_before_it_writes(path: Path, faults: Faults) -> None:
    store = SqliteStore(path)
    put(store, 1, 2)
    store._stop("as after an error: closed without a checkpoint")
    store.close()
    faults.calls.clear()
    store = SqliteStore(path)
    assert faults.calls.index(("sync", "db")) < faults.calls.index(("write", "-wal"))
    assert seqs(store) == [1, 2]
    store.close()


@pytest.mark.parametrize("ending", ["-wal", "db"])
def test_a_disk_that_is_full_at_the_start_is_told_at_the_start(path: Path, faults: Faults, ending: str) -> None:
    if ending == "-wal":
        SqliteStore(path).close()
    faults.raising[("write", ending)] = apsw.FullError
    with pytest.raises(StoreFailed, match="cannot be opened: the disk is full"):
        SqliteStore(path)
    faults.raising.clear()
    fill(path)


def write_event(store: SqliteStore) -> None:
    store.append(tick(2), bytes(10**6), 7)


def write_reference(store: SqliteStore) -> None:
    store.put_reference("r", random.Random(1).randbytes(10**6))


def write_snapshot(store: SqliteStore) -> None:
    store.put_snapshot(1, "f", bytes(10**6))


@pytest.mark.parametrize("write", [write_event, write_reference, write_snapshot])
def test_a_full_disk_is_told_whatever_is_being_written(
    store: SqliteStore, write: Callable[[SqliteStore], None]
) -> None:
    put(store, 1)
    store._writer.pragma("max_page_count", store._writer.pragma("page_count"))
    with pytest.raises(StoreFailed, match="the disk is full"), group(store):
        write(store)
    with pytest.raises(StoreFailed, match="the disk is full"):
        store.begin()
    assert seqs(store) == [1]


def test_many_decisions_on_a_full_disk(store: SqliteStore) -> None:
    store._writer.pragma("max_page_count", store._writer.pragma("page_count") + 2)
    with pytest.raises(StoreFailed, match="the disk is full"), group(store):
        for version in range(1, 1000):
            store.put_decision(0, decision(version))
    assert store.latest() == {}


def test_a_file_that_may_not_grow_is_an_error_of_the_disk(path: Path) -> None:
    """A real error of the operating system: EFBIG from a limit on the size of files."""
    code = """
    import resource, signal
    store = SqliteStore(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    n = 0
    try:
        while True:
            with group(store): offer(store, tick(n), encode(tick(n)), 7)
            n += 1
    except RegimeError as error:
        say(n, type(error).__name__, error)
    store.close()
    """
    count, kind, *words = child(path, code).communicate(timeout=60)[0].split()
    assert kind == "StoreFailed" and "SQLITE_IOERR_WRITE" in " ".join(words)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 300_000
    store = SqliteStore(path)
    assert int(count) <= len(seqs(store)) <= int(count) + 1
    store.close()


def test_an_unknown_error_is_told_by_its_name(store: SqliteStore) -> None:
    store._writer.execute("DROP TABLE events")
    store.begin()
    for act in (lambda: store.append(tick(1), b"x", 7), lambda: store.stored(tick(1))):
        with pytest.raises(StoreFailed, match="SQLError: no such table: events"):
            act()
            store._failed = None
    with pytest.raises(StoreFailed, match="cannot be read: SQLError"):
        store._read("SELECT nothing")


def test_a_rollback_that_fails_is_remembered(store: SqliteStore) -> None:
    class Connection:
        in_transaction = True

        def execute(self, sql: str) -> None:
            raise apsw.IOError(sql)

        def config(self, *_: int) -> None:
            raise apsw.MisuseError

    usual, store._writer = store._writer, Connection()  # type: ignore[assignment]
    store.rollback()
    assert store.failed is not None and "the disk reports an error (ROLLBACK)" in store.failed
    store._writer = usual


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (apsw.CantOpenError(), "permissions"),
        (apsw.CorruptError("page 5"), "the file is damaged .page 5"),
        (apsw.PermissionsError(), "read-only"),
    ],
)
def test_errors_of_sqlite_become_sentences(store: SqliteStore, error: apsw.Error, message: str) -> None:
    with pytest.raises(StoreFailed, match=message):
        raise store._fail(error)


# --- the WAL does not grow ---


def test_the_wal_is_emptied_again_and_again(path: Path, store: SqliteStore) -> None:
    for n in range(30):
        with group(store):
            for i in range(100):
                store.append(tick(n * 100 + i), bytes(3000), 7)
        store.tidy()
    assert path.with_name("store.db-wal").stat().st_size < 1500 * 8216
    store.close()
    assert not path.with_name("store.db-wal").exists()


def test_a_reader_that_holds_the_wal_back_does_not_make_every_commit_try_again(path: Path, store: SqliteStore) -> None:
    put(store, 0)
    reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    reader.execute("BEGIN; SELECT count(*) FROM events").fetchall()
    store._checkpoint_at = 1
    put(store, 1)
    assert store._checkpoint_at > 1000
    reader.close()
    store._checkpoint_at = 1
    put(store, 2)
    assert store._checkpoint_at == 1000


def test_a_checkpoint_of_somebody_else_is_waited_out(store: SqliteStore) -> None:
    class Connection:
        def wal_checkpoint(self, mode: int) -> None:
            raise apsw.BusyError

    usual, store._writer = store._writer, Connection()  # type: ignore[assignment]
    store._wal_pages = 1234
    store._checkpoint()
    assert (store._checkpoint_at, store.failed) == (2234, None)
    store._writer = usual


# --- death ---


def test_what_was_committed_survives_sigkill_and_an_open_group_vanishes(path: Path) -> None:
    code = """
    store = SqliteStore(path)
    with group(store):
        for n in range(5): offer(store, tick(n), encode(tick(n)), 7)
    store.begin()
    for n in range(5, 3000): store.append(tick(n), bytes(3000), 7)   # more than the cache holds: some is in the WAL
    say("appended")
    time.sleep(60)
    """
    process = child(path, code)
    assert process.stdout is not None and process.stdout.readline() == "appended\n"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    store = SqliteStore(path)
    assert list(store.events()) == [(n + 1, encode(tick(n))) for n in range(5)]
    put(store, 5)
    assert store.last_seq() == 6 and list(store.verify())
    store.close()


def test_killed_at_random_moments_no_acknowledged_event_is_lost_and_no_group_is_torn(path: Path) -> None:
    code = """
    store = SqliteStore(path)
    store._checkpoint_at = 20   # so that some are killed in a checkpoint
    n = store.last_seq()
    while True:
        with group(store):
            for i in range(4): offer(store, tick(n + i), encode(tick(n + i)), 7)
        n += 4
        say(n)
        store.tidy()
    """
    rng, epochs, acknowledged = random.Random(1), set(), 0
    for _ in range(12):
        process = child(path, code)
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            process.stdout.readline()
        process.kill()
        said = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        acknowledged = max([acknowledged, *map(int, said)])
        store = SqliteStore(path)
        assert store.last_seq() >= acknowledged and store.last_seq() % 4 == 0
        assert seqs(store) == list(range(1, store.last_seq() + 1)) and list(store.verify())
        epochs.add(store.epoch)
        acknowledged = store.last_seq()
        store.close()
    assert len(epochs) == 1


def test_a_copy_that_cannot_be_made_is_told(tmp_path: Path, path: Path, store: SqliteStore) -> None:
    with pytest.raises(OperatorError, match="the back-up cannot be written"):
        store.copy_to(tmp_path / "no folder" / "copy.db")
    put(store, 1)
    store.close()
    raw = bytearray(path.read_bytes())
    raw[:16] = b"not SQLite at al"
    path.with_name("broken.db").write_bytes(raw)
    sound = SqliteStore(path, read_only=True)
    (tmp_path / "copy.db").touch()
    sound._reader = apsw.Connection(str(path.with_name("broken.db")), flags=apsw.SQLITE_OPEN_READONLY)
    with pytest.raises(CorruptionError, match="is damaged"):
        sound.copy_to(tmp_path / "copy.db")
    sound._reader.close()
    sound.close()
