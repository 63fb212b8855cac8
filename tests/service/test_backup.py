"""Back-ups: whole or not there, never over something else, and a new epoch for whoever serves from one."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest

sys.path.insert(0, str(Path(__file__).parent / "stores"))

from test_sqlite import KEY, decision, edit, fill, put

from regime.errors import CorruptionError, OperatorError, RegimeError
from regime_service.backup import copy_store
from regime_service.stores import group
from regime_service.stores.rows import epoch_after, new_ulid
from regime_service.stores.sqlite import SqliteStore


@pytest.fixture
def source(tmp_path: Path) -> Path:
    fill(path := tmp_path / "store.db")
    return path


def contents(path: Path) -> tuple[object, ...]:
    store = SqliteStore(path, read_only=True)
    try:
        list(store.verify())
        return (
            store.epoch, list(store.events()), store.decisions(KEY), store.reference("r1"), store.newest_snapshot("f"),
            store.dead_letters(), store.messages(),
        )  # fmt: skip
    finally:
        store.close()


def test_a_back_up_is_the_store_in_one_file_for_its_owner_only(source: Path, tmp_path: Path) -> None:
    copied = copy_store(str(source), str(tmp_path / "backup.db"))
    assert contents(tmp_path / "backup.db") == contents(source)
    assert copied == (40, (tmp_path / "backup.db").stat().st_size)
    assert (tmp_path / "backup.db").stat().st_mode & 0o077 == 0
    left = sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(("-shm", "-wal", ".lock")))
    assert left == ["backup.db", "store.db"]


def test_it_is_taken_while_a_service_writes_and_holds_all_that_was_acknowledged(source: Path, tmp_path: Path) -> None:
    store = SqliteStore(source)
    stop, written = threading.Event(), [40]

    def write() -> None:
        while not stop.is_set():
            put(store, written[0], written[0] + 1)
            written[0] += 2

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            before = written[0]
            copied = copy_store(str(source), str(tmp_path / f"{number}.db"))
            assert copied.events >= before
            assert copied.events % 2 == 0, "whole groups only"
    finally:
        stop.set()
        writer.join()
    assert store.failed is None
    put(store, written[0])
    store.close()


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    (taken := tmp_path / "backup.db").write_text("precious")
    (link := tmp_path / "link.db").symlink_to(tmp_path / "nowhere")
    for target in (taken, link, source):
        with pytest.raises(OperatorError, match="exists already"):
            copy_store(str(source), str(target))
    assert taken.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_what_comes_there_meanwhile_is_not_overwritten_either(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = SqliteStore.copy_to

    def copy(self: SqliteStore, target: str | os.PathLike[str]) -> None:
        usual(self, target)
        (tmp_path / "backup.db").write_text("precious")

    monkeypatch.setattr(SqliteStore, "copy_to", copy)
    with pytest.raises(OperatorError, match="exists by now"):
        copy_store(str(source), str(tmp_path / "backup.db"))
    assert (tmp_path / "backup.db").read_text() == "precious"
    assert not list(tmp_path.glob(".*part*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE events SET recorded_ms = 8 WHERE seq = 9", "event 9 does not match"),
        ("UPDATE outbox SET body = x'00'", "message 1 of the outbox"),
    ],
)
def test_a_damaged_store_leaves_no_back_up(source: Path, tmp_path: Path, damage: str, message: str) -> None:
    edit(source, damage)
    with pytest.raises(CorruptionError, match=message):
        copy_store(str(source), str(tmp_path / "backup.db"))
    assert not list(tmp_path.glob("*backup*"))


@pytest.mark.parametrize("target", ["absent/backup.db", "store.db/backup.db"])
def test_a_place_that_cannot_be_written_is_told(source: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(OperatorError, match="cannot be written"):
        copy_store(str(source), str(tmp_path / target))
    with pytest.raises(OperatorError, match="no store"):
        copy_store(str(tmp_path / "absent.db"), str(tmp_path / "backup.db"))


def test_no_room_for_the_copy_is_told_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def __init__(self, name: object, flags: list[int]) -> None:
            super().__init__(usual, name, flags)  # type: ignore[arg-type]

        def xWrite(self, data: object, offset: int) -> None:
            raise apsw.FullError("simulated")

    class Files(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("no-room", usual, maxpathname=0)

        def xOpen(self, name: object, flags: list[int]) -> File:  # type: ignore[override]
            return File(name, flags)

    files, connection = Files(), apsw.Connection

    def connect(name: str, **options: Any) -> apsw.Connection:
        return connection(name, **options, vfs="no-room") if name.endswith(".part") else connection(name, **options)

    monkeypatch.setattr(apsw, "Connection", connect)
    with pytest.raises(OperatorError, match="the disk is full"):
        copy_store(str(source), str(tmp_path / "backup.db"))
    monkeypatch.undo()
    files.unregister()
    assert not list(tmp_path.glob("*backup*"))


@pytest.mark.parametrize("how", ["restore", "cp", "twice"])
def test_who_serves_from_a_back_up_begins_a_new_epoch_once(source: Path, tmp_path: Path, how: str) -> None:
    copy_store(str(source), str(backup := tmp_path / "backup.db"))
    # The old service went on, and gave out versions that the back-up does not know.
    store = SqliteStore(source)
    with group(store):
        store.put_decision(2, decision(3))
    old_epoch = store.epoch
    store.close()
    restored = tmp_path / "restored.db"
    if how == "cp":
        shutil.copy(backup, restored)
    else:
        copy_store(str(backup), str(restored))
    if how == "twice":
        copy_store(str(restored), str(tmp_path / "again.db"))
        restored = tmp_path / "again.db"
    assert SqliteStore(restored, read_only=True).epoch == old_epoch, "looking at it changes nothing"
    store = SqliteStore(restored)
    new_epoch = store.epoch
    assert new_epoch > old_epoch, "clients ignore an older one"
    assert (store.latest()[KEY].version, store.last_seq()) == (2, 40)
    with group(store):
        store.put_decision(2, decision(3))
    store.close()
    store = SqliteStore(restored)
    assert store.epoch == new_epoch, "the next start is a start like any other"
    assert store._meta(
        store._reader,
        "restored_from",
    ).startswith(old_epoch)  # type: ignore[union-attr]
    store.close()
    source_again = SqliteStore(source)
    assert source_again.epoch == old_epoch, "and the original stays what it was"
    source_again.close()


def test_a_new_epoch_sorts_after_the_old_one_also_where_the_clock_stands_in_the_past() -> None:
    old = new_ulid(1_800_000_000_000, bytes(10))
    for now_ms in (0, 1_700_000_000_000, 1_800_000_000_000, 1_900_000_000_000):
        assert epoch_after(old, now_ms) > old
    assert len(epoch_after("", 5)) == 26


def test_a_file_of_version_1_is_backed_up_and_comes_back(source: Path, tmp_path: Path) -> None:
    import test_sqlite

    test_sqlite.version_1(tmp_path / "old.db")
    copy_store(str(tmp_path / "old.db"), str(tmp_path / "backup.db"))
    old = SqliteStore(tmp_path / "old.db", read_only=True).epoch
    store = SqliteStore(tmp_path / "backup.db")
    assert (store.last_seq(), store.dead_letters()) == (40, [])
    assert store.epoch > old
    store.close()


def test_a_newer_file_is_refused(source: Path, tmp_path: Path) -> None:
    edit(source, "PRAGMA user_version = 99")
    with pytest.raises(RegimeError, match="newer regimegate"):
        copy_store(str(source), str(tmp_path / "backup.db"))
