"""What only the PostgreSQL store can show: durability of the server, the lock, lost connections, secrets, copies."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from postgres_server import PASSWORD, QUOTED, PostgresServer

from regime.codec import encode
from regime.decision import Decision, SideDecision, Sides, TradingState
from regime.errors import CorruptionError, OperatorError
from regime.events import StreamKey, Tick
from regime_service.backup import copy_store
from regime_service.cli import main
from regime_service.settings import Settings, StoreSection, from_toml, load
from regime_service.stores import StoreFailed, StoreUnreachable, group, offer
from regime_service.stores.opening import open_store
from regime_service.stores.rows import masked

KEY = StreamKey("m", "s", "5m")


def tick(ts_ms: int) -> Tick:
    return Tick(model="m", symbol="s", timeframe="5m", ts_ms=ts_ms)


def decision(version: int) -> Decision:
    side = SideDecision(state=TradingState.ACTIVE, entry=0.8, exit=0.75, size_factor=1.0, reasons=[])
    return Decision(
        model="m", symbol="s", timeframe="5m", mode="enforce", version=version, as_of_ms=1, data_until_ms=None,
        regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p",
    )  # fmt: skip


def put(store: Any, *numbers: int) -> None:
    with group(store):
        for number in numbers:
            offer(store, tick(number), encode(tick(number)), 7)


def fill(url: str) -> str:
    """Put something into every table, and return the epoch."""
    store = open_store(url)
    put(store, *range(40))
    with group(store):
        store.put_decision(1, decision(1))
        store.put_reference("r1", b"sample " * 50)
        store.open_letter(7, KEY, "ValueError: \0 \ud800", 7)
        store.put_message(7, "alert\0007", b"message")
        store.put_snapshot(30, "f", b"state")
    store.close()
    return store.epoch


# --- durability ---


def test_the_writing_session_waits_for_the_disk_whatever_the_server_says(postgres: PostgresServer) -> None:
    postgres.psql("ALTER ROLE bot SET synchronous_commit = off")
    postgres.psql("ALTER ROLE bot SET statement_timeout = 5000")
    try:
        store: Any = open_store(postgres.url)
        shown = [
            store._writer.execute(f"SHOW {name}").fetchone()[0]
            for name in ("synchronous_commit", "fsync", "statement_timeout", "idle_session_timeout")
        ]
        assert shown == ["on", "on", "0", "0"]
        store.close()
    finally:
        postgres.psql("ALTER ROLE bot RESET ALL")


def test_a_session_that_would_not_wait_is_refused(postgres: PostgresServer, monkeypatch: Any) -> None:
    weak(monkeypatch)
    with pytest.raises(OperatorError, match="synchronous_commit = off: a power cut loses"):
        open_store(postgres.url)


def weak(monkeypatch: Any) -> None:
    """Let the store write as it must not: acknowledged before it is on disk."""
    from regime_service.stores.postgres import PostgresStore

    usual = PostgresStore._connect

    def connect(self: Any, **options: Any) -> Any:
        connection = usual(self, **options)
        connection.execute("SET synchronous_commit = off")
        return connection

    monkeypatch.setattr(PostgresStore, "_connect", connect)


@pytest.mark.parametrize("control", [False, True], ids=["store", "negative control"])
def test_what_was_acknowledged_survives_the_death_of_the_server(
    postgres: PostgresServer, monkeypatch: Any, control: bool
) -> None:
    with monkeypatch.context() as patch:
        if control:
            weak(patch)
            patch.setattr("regime_service.stores.postgres.check_server", lambda *_: None)
        store = open_store(postgres.url)
        for number in range(50):
            put(store, number)
        assert store.failed is None
        postgres.stop("immediate")
        deadline_s = time.monotonic() + 10
        while store.failed is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert "the connection to the server is lost" in str(store.failed), "found out without writing anything"
        for act in (store.begin, store.last_seq):
            with pytest.raises(StoreFailed, match="connection"):
                act()
        store.rollback()
        store.close()
    postgres.start()
    kept = open_store(postgres.url)
    numbers = [seq for seq, _ in kept.events()]
    kept.close()
    assert (numbers != list(range(1, 51))) is control, "the control must lose, the store must not"


def test_a_server_without_fsync_is_refused(postgres: PostgresServer) -> None:
    postgres.stop()
    postgres.start("-F")
    try:
        with pytest.raises(OperatorError, match="fsync = off: a power cut loses what was acknowledged"):
            open_store(postgres.url)
    finally:
        postgres.stop()
        postgres.start()


def test_a_commit_that_fails_ends_the_store_and_nothing_of_the_group_is_kept(postgres: PostgresServer) -> None:
    store = open_store(postgres.url)
    put(store, 1)
    store.begin()
    offer(store, tick(2), encode(tick(2)), 7)
    # Another program writes the same number: the fence where the lock is of no use.
    postgres.psql("INSERT INTO regimegate.events VALUES (2, 'tick', 'x', 1, 'x', 'x')")
    with pytest.raises(StoreFailed, match="another program has written into it"):
        store.commit()
    store.rollback()
    with pytest.raises(StoreFailed, match="another program"):
        store.begin()
    store.close()
    assert postgres.psql("SELECT count(*) FROM regimegate.events") == [(2,)]


def test_a_warning_of_the_server_at_commit_is_not_an_acknowledgement(postgres: PostgresServer) -> None:
    store: Any = open_store(postgres.url)
    store.begin()
    offer(store, tick(1), encode(tick(1)), 7)
    store._others.append(("DO $$ BEGIN RAISE WARNING 'canceling wait for synchronous replication'; END $$", ()))
    with pytest.raises(StoreFailed, match="canceling wait"):
        store.commit()
    store.close()


# --- one writer ---


def test_a_second_writer_is_refused_with_the_name_of_the_first_and_a_tool_is_not(
    postgres: PostgresServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr("regime_service.stores.postgres._LOCK_WAIT_S", 0.2)
    first = open_store(postgres.url)
    put(first, 1)
    with pytest.raises(
        OperatorError, match=rf"in use by another process \(regimegate .* {os.getpid()}\); stop that one"
    ):
        open_store(postgres.url)
    tool = open_store(postgres.url, read_only=True)
    assert tool.last_seq() == 1 and "reading only" in str(tool.failed)
    with pytest.raises(StoreFailed, match="reading only"):
        tool.begin()
    tool.close()
    first.close()
    open_store(postgres.url).close()


def test_after_sigkill_the_next_one_is_served_and_finds_what_was_acknowledged(postgres: PostgresServer) -> None:
    code = """
        import sys
        from regime.codec import encode
        from regime.events import Tick
        from regime_service.stores import group, offer
        from regime_service.stores.opening import open_store
        store = open_store(sys.argv[1])
        for n in range(10**6):
            with group(store):
                for i in (0, 1, 2):
                    event = Tick(model="m", symbol="s", timeframe="5m", ts_ms=n * 3 + i)
                    offer(store, event, encode(event), 7)
            print(store.last_seq(), flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), postgres.url], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged >= 30:
            break
    child.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in child.stdout.read().splitlines() if line)])
    child.wait()
    child.stdout.close()
    store = open_store(postgres.url)
    numbers = [seq for seq, _ in store.events()]
    assert numbers == list(range(1, len(numbers) + 1)), "nothing is missing"
    assert len(numbers) >= acknowledged and len(numbers) % 3 == 0, "no group is torn"
    store.close()


def test_a_session_that_is_ended_by_an_administrator_fails_the_store(postgres: PostgresServer) -> None:
    store = open_store(postgres.url)
    put(store, 1)
    store.begin()
    offer(store, tick(2), encode(tick(2)), 7)
    postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'")
    with pytest.raises(StoreFailed, match=r"server was stopped|connection to the server is lost"):
        store.commit()
    store.rollback()
    store.close()
    assert postgres.psql("SELECT count(*) FROM regimegate.events") == [(1,)]


# --- damage, versions, copies ---


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE events SET body = body || ' '::bytea WHERE seq = 9", "event 9 does not match its checksum"),
        ("DELETE FROM events WHERE seq = 9", "event 9 is missing .the next one is 10"),
        ("UPDATE decisions SET seq = 2", "decision version 1 of event 2 does not match"),
        ("UPDATE reference_samples SET body = 'x'", "reference r1 cannot be unpacked"),
        ("UPDATE snapshots SET body = 'x'", "the snapshot after event 30 does not match"),
        ("UPDATE outbox SET body = 'x'", "message 1 of the outbox does not match"),
        ("UPDATE dead_letter SET error = 'x'", "dead letter 1 does not match"),
    ],
)
def test_a_row_that_was_changed_is_named(postgres: PostgresServer, sql: str, message: str) -> None:
    fill(postgres.url)
    postgres.psql(f"SET search_path = regimegate; {sql}")
    store = open_store(postgres.url, read_only=True)
    with pytest.raises(CorruptionError, match=message):
        list(store.verify())
    store.close()


def test_looking_up_a_damaged_event_stops_the_store(postgres: PostgresServer) -> None:
    fill(postgres.url)
    postgres.psql("UPDATE regimegate.events SET body = 'x' WHERE seq = 9")
    store = open_store(postgres.url)
    with pytest.raises(CorruptionError, match="event 9"), group(store):
        store.look_up(tick(8), encode(tick(8)))
    assert "event 9" in str(store.failed)
    store.close()


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        (
            "UPDATE regimegate.meta SET value = '99' WHERE name = 'version'",
            OperatorError,
            "newer regimegate .format 99",
        ),
        ("DELETE FROM regimegate.meta WHERE name = 'version'", CorruptionError, "does not say the version"),
        ("DROP TABLE regimegate.meta", OperatorError, "a schema regimegate that is not ours"),
        ("ALTER TABLE regimegate.meta RENAME value TO other", OperatorError, "a schema regimegate that is not ours"),
        ("DELETE FROM regimegate.meta WHERE name = 'epoch'", CorruptionError, "no epoch"),
    ],
)
def test_what_is_newer_or_not_ours_is_refused(
    postgres: PostgresServer, sql: str, error: type[Exception], message: str
) -> None:
    fill(postgres.url)
    postgres.psql(sql)
    with pytest.raises(error, match=message):
        open_store(postgres.url)


def test_a_tool_makes_no_store(postgres: PostgresServer) -> None:
    with pytest.raises(OperatorError, match="no service was ever started on it"):
        open_store(postgres.url, read_only=True)


def test_a_role_that_may_not_make_tables_is_told(postgres: PostgresServer) -> None:
    postgres.psql("ALTER DATABASE regime OWNER TO boss")
    try:
        with pytest.raises(OperatorError, match="make it the owner of the database"):
            open_store(postgres.url)
    finally:
        postgres.psql("ALTER DATABASE regime OWNER TO bot")


def test_a_restored_dump_is_the_same_store_under_a_new_epoch(postgres: PostgresServer) -> None:
    old = fill(postgres.url)
    same = open_store(postgres.url)
    assert same.epoch == old, "the same store keeps its epoch"
    same.close()
    dump = postgres.dump()
    postgres.empty()
    postgres.load(dump)
    store = open_store(postgres.url)
    assert store.epoch > old
    assert store.last_seq() == 40 and store.reference("r1") == b"sample " * 50
    assert [(one.key, one.error) for one in store.dead_letters()] == [(KEY, "ValueError: \\x00 \\ud800")]
    assert [one.key for one in store.messages()] == ["alert\0007"]
    assert store.latest() == {KEY: decision(1)} and store.newest_snapshot("f") == (30, b"state")
    list(store.verify())
    put(store, 100)
    with group(store):
        store.put_decision(41, decision(2))
        assert store.open_letter(41, StreamKey("m", "other", "5m"), "e", 8) == 2
    newest = store.epoch
    store.close()
    again = open_store(postgres.url)
    assert again.epoch == newest
    again.close()


# --- the URL ---


def test_no_secret_is_ever_shown(postgres: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = postgres.url.replace(QUOTED, "t0psecret")
    with pytest.raises(OperatorError, match="password authentication failed") as refused:
        open_store(wrong)
    with pytest.raises(OperatorError, match="is not understood") as not_understood:
        open_store(f"postgresql://bot:{PASSWORD}@[/regime?nonsense=1")
    store = open_store(postgres.url)
    settings = Settings(store=StoreSection(url=postgres.url))
    with pytest.raises(OperatorError, match="pg_dump") as backup:
        copy_store(postgres.url, "x")
    assert main(["verify-log", wrong]) == 2
    assert main(["dead-letter", "list", "--store", wrong]) == 2
    said = [refused.value, not_understood.value, store.path, repr(settings), backup.value, *capsys.readouterr()]
    store.close()
    for text in map(str, said):
        assert not any(secret in text for secret in (PASSWORD, QUOTED, "t0psecret", "p@ss")), text
    assert "bot:***@" in store.path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgres://u:p@q/r:s@h:5432/d", "postgres://u:***@h:5432/d"),
        ("postgresql://u@h/d?password=p%40&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("postgresql://u:p\nq@h/d", "postgresql://u:***@h/d"),
        ("postgresql:///d", "postgresql:///d"),
    ],
)
def test_masking(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_the_name_of_a_file_hides_nothing() -> None:
    assert masked("regimegate.db") == "regimegate.db"


def test_a_server_that_is_not_there_may_be_there_soon(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="cannot be reached"):
        open_store(f"postgresql://bot:secret@/regime?host={tmp_path}")


def test_one_url_chooses_the_store() -> None:
    url = "postgresql://u@h/d"
    assert load(None, flags={"store": url}, environ={}).store.where == url
    assert load(None, environ={"REGIME_STORE": url}).store.where == url
    assert from_toml({"store": {"url": url}}, source="t").store.where == url
    assert Settings().store.where == "regimegate.db"
    for wrong in ({"url": url, "file": "x"}, {"file": url}, {"url": "regimegate.db"}):
        with pytest.raises(OperatorError, match="store"):
            from_toml({"store": wrong}, source="t")


def test_a_flag_is_stronger_than_the_other_key_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[store]\nurl = "postgresql://u@h/d"\n')
    assert load(str(config), flags={"store": "x.db"}, environ={}).store.where == "x.db"


def test_without_psycopg_it_is_said_how_to_get_it(monkeypatch: Any) -> None:
    usual = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "regime_service.stores.postgres":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OperatorError, match=r"pip install 'regimegate\[postgres\]'"):
        open_store("postgresql://u:p@h/d")


def test_another_package_that_is_missing_is_no_question_of_psycopg(monkeypatch: Any) -> None:
    usual = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "regime_service.stores.postgres":
            raise ModuleNotFoundError("No module named 'msgspec'", name="msgspec")
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match="msgspec"):
        open_store("postgresql://u:p@h/d")


# --- opening, on servers that are set up in other ways ---


def test_a_server_that_promises_more_is_not_told_to_promise_less(postgres: PostgresServer) -> None:
    postgres.psql("ALTER ROLE bot SET synchronous_commit = remote_apply")
    try:
        store = open_store(postgres.url)
        assert store._ask("SELECT current_setting('synchronous_commit')") == [("remote_apply",)]
        put(store, 1)
        store.close()
    finally:
        postgres.psql("ALTER ROLE bot RESET synchronous_commit")


def test_a_schema_that_somebody_made_for_us_is_used(postgres: PostgresServer) -> None:
    postgres.psql("CREATE SCHEMA regimegate AUTHORIZATION bot")
    store = open_store(postgres.url)
    put(store, 1)
    assert store.last_seq() == 1 and store.size_bytes() > 0
    store.close()


def test_a_server_that_keeps_its_name_to_itself_will_do(postgres: PostgresServer) -> None:
    postgres.psql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    try:
        first = open_store(postgres.url)
        first.close()
        again = open_store(postgres.url)
        assert again.epoch == first.epoch
        again.close()
    finally:
        postgres.psql("GRANT EXECUTE ON FUNCTION pg_control_system() TO public")


@pytest.mark.parametrize("where", ["_show", "_STEPS"])
@pytest.mark.parametrize(
    ("error", "kind"), [("DataCorrupted", CorruptionError), ("OutOfMemory", StoreFailed)], ids=["damage", "memory"]
)
def test_what_the_server_says_while_it_is_opened_is_told(
    postgres: PostgresServer, monkeypatch: Any, where: str, error: str, kind: type[Exception]
) -> None:
    code = {"DataCorrupted": "XX001", "OutOfMemory": "53200"}[error]
    if where == "_STEPS":  # while the tables are made
        refusal = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"
        monkeypatch.setattr("regime_service.stores.postgres._STEPS", {0: refusal})
    else:  # while the session is set up

        def refuse(*_: Any) -> str:
            raise getattr(psycopg.errors, error)("no")

        monkeypatch.setattr("regime_service.stores.postgres._show", refuse)
    with pytest.raises(kind, match="is damaged: no" if kind is CorruptionError else "cannot be opened"):
        open_store(postgres.url)


# --- losing it ---


def test_a_session_in_use_is_left_to_who_uses_it(postgres: PostgresServer) -> None:
    store = open_store(postgres.url)
    postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'")
    with store._writer_lock, store._reader_lock:
        time.sleep(0.05)
        assert store.failed is None
    until_s = time.monotonic() + 10
    while store.failed is None and time.monotonic() < until_s:
        time.sleep(0.01)
    assert "the connection to the server is lost" in str(store.failed)
    store.close()


def test_what_cannot_be_read_is_told_and_the_store_goes_on(postgres: PostgresServer) -> None:
    store = open_store(postgres.url)
    with pytest.raises(StoreFailed, match="cannot be read: UndefinedColumn"):
        store._read("SELECT nothing")
    put(store, 1)
    assert (store.failed, store.last_seq()) == (None, 1)
    store.close()


def test_a_session_that_libpq_gave_up_without_a_word_ends_the_store(postgres: PostgresServer) -> None:
    store = open_store(postgres.url)
    here, there = os.pipe()
    os.write(there, b"x")
    lost = SimpleNamespace(consume_input=lambda: None, status=psycopg.pq.ConnStatus.BAD)
    store._listen(SimpleNamespace(fileno=lambda: here, pgconn=lost), store._writer_lock)
    assert "the connection to the server is lost" in str(store.failed)
    store.close()
    os.close(here)
    os.close(there)


def test_a_reader_that_is_closed_ends_the_store_for_it_is_never_opened_again(postgres: PostgresServer) -> None:
    store = open_store(postgres.url)
    store._reader.close()
    with pytest.raises(StoreFailed):
        store.last_seq()
    assert store._failed is not None
    store.close()


# --- words, and what a test cannot bring a real server to do ---


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("DiskFull", "the server's disk is full"),
        ("IoError", "the server's disk reports an error"),
        ("ReadOnlySqlTransaction", "the server only reads"),
        ("AdminShutdown", "the server was stopped"),
        ("OperationalError", "the connection to the server is lost"),
        ("SyntaxError", "SyntaxError: because"),
    ],
)
def test_errors_become_sentences_and_the_first_one_ends_the_store(
    postgres: PostgresServer, error: str, words: str
) -> None:
    from psycopg import errors

    store: Any = open_store(postgres.url)
    usual = store._writer

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(usual, name)

        def execute(self, *_: Any, **__: Any) -> Any:
            raise getattr(errors, error)("because")

    store._writer = Broken()
    for _ in range(2):
        with pytest.raises(StoreFailed, match=words), group(store):
            store.look_up(tick(1), encode(tick(1)))
        store._writer = usual
    assert words in store.failed
    store.close()


def test_what_the_server_calls_damaged_is_damage(postgres: PostgresServer) -> None:
    from psycopg import errors

    fill(postgres.url)
    store: Any = open_store(postgres.url)
    usual_reader, usual_writer = store._reader, store._writer

    class Damaged:
        def __getattr__(self, name: str) -> Any:
            return getattr(usual_reader, name)

        def execute(self, *_: Any, **__: Any) -> Any:
            raise errors.DataCorrupted("invalid page in block 3")

    store._reader = Damaged()
    with pytest.raises(CorruptionError, match="event 1: invalid page in block 3"):
        list(store.events())
    store._reader = usual_reader
    assert store.failed is None, "others may still be written and read"
    store._writer = Damaged()
    with pytest.raises(CorruptionError, match="invalid page"), group(store):
        store.look_up(tick(1), encode(tick(1)))
    store._writer = usual_writer
    assert "invalid page" in store.failed, "what the writer cannot read it cannot judge"
    store.close()


def test_a_damaged_snapshot_is_passed_over(postgres: PostgresServer) -> None:
    fill(postgres.url)
    store = open_store(postgres.url)
    with group(store):
        store.put_snapshot(35, "f", b"newer")
    assert store.newest_snapshot("f") == (35, b"newer")
    postgres.psql("UPDATE regimegate.snapshots SET body = 'x' WHERE seq = 35")
    assert store.newest_snapshot("f") == (30, b"state")
    store.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 120005}, "PostgreSQL 12; at least 13 is needed"),
        ({"server_encoding": "LATIN1"}, "has the encoding LATIN1"),
        ({"replica": True}, "that only reads .a replica.; name the one that writes"),
        ({"synchronous_commit": "local"}, "synchronous_commit = local"),
    ],
)
def test_servers_that_will_not_do_are_refused(
    postgres_server: PostgresServer, changed: dict[str, Any], message: str
) -> None:
    from regime_service.stores.postgres import check_server

    facts = {
        "version": 150000, "server_encoding": "UTF8", "replica": False, "synchronous_commit": "on", "fsync": "on",
        **changed,
    }  # fmt: skip

    class Server:
        class info:
            server_version = facts["version"]

        def execute(self, sql: str, values: tuple[Any, ...]) -> Any:
            self.asked = values[0] if values else "replica"
            return self

        def fetchone(self) -> tuple[Any, ...]:
            return (facts[self.asked],)

    with pytest.raises(OperatorError, match=message):
        check_server(Server(), "postgresql://u@h/d")  # type: ignore[arg-type]
