"""Nothing is deleted, and an operator is told in time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from regime_service.app import Service
from regime_service.retention import (
    DAY_MS,
    FREE_BYTES_MIN,
    GIB,
    LOG_BYTES_MAX,
    LOG_DAYS_MAX,
    StoreSize,
    measure,
    warnings,
)
from regime_service.settings import from_toml

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (StoreSize(GIB, 500 * GIB, NOW_MS - 10 * DAY_MS), []),
        (StoreSize(0, 500 * GIB, None), []),
        (StoreSize(GIB, FREE_BYTES_MIN, NOW_MS - 100 * DAY_MS), []),
        (StoreSize(GIB, FREE_BYTES_MIN - 1, NOW_MS), ["the disk is short: 1024 MiB are free"]),
        (StoreSize(10 * GIB, 29 * GIB, NOW_MS - 10 * DAY_MS), ["the disk lasts for about 29 days more"]),
        (StoreSize(10 * GIB, 31 * GIB, NOW_MS - 10 * DAY_MS), []),
        (StoreSize(GIB, 2 * GIB, NOW_MS - DAY_MS // 2), []),
        (StoreSize(LOG_BYTES_MAX + 1, 500 * GIB, NOW_MS - 100 * DAY_MS), ["the log is large (20.0 GiB)"]),
        (StoreSize(GIB, 500 * GIB, NOW_MS - (LOG_DAYS_MAX + 1) * DAY_MS), ["the log is old (731 days)"]),
        (StoreSize(GIB, 500 * GIB, NOW_MS + DAY_MS), []),
    ],
)
def test_what_is_said(found: StoreSize, words: list[str]) -> None:
    said = warnings(found, NOW_MS)
    assert len(said) == len(words)
    assert all(sentence.startswith(start) for sentence, start in zip(said, words, strict=True)), said


class Made:
    """A store as far as its size is asked for."""

    def __init__(self, path: Path, oldest_ms: int | None) -> None:
        self.path = str(path)
        self._oldest_ms = oldest_ms

    def oldest_ms(self) -> int | None:
        return self._oldest_ms


class OnServer(Made):
    def size_bytes(self) -> int:
        return GIB


def test_the_figures_are_those_of_the_file_and_its_wal(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(bytes(100))
    assert measure(Made(tmp_path / "s", 7))[::2] == (100, 7)
    (tmp_path / "s-wal").write_bytes(bytes(50))
    assert measure(Made(tmp_path / "s", None)).store_bytes == 150
    assert (measure(Made(tmp_path / "s", None)).free_bytes or 0) > 0


def test_of_a_store_on_a_server_the_room_beside_it_is_not_known_and_nothing_is_said_of_it(tmp_path: Path) -> None:
    found = measure(OnServer(tmp_path / "no such file", 7))
    assert found == StoreSize(GIB, None, 7)
    assert warnings(found, 7 + 30 * DAY_MS) == []


def test_the_service_warns_at_its_start_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("regime_service.retention.FREE_BYTES_MIN", 2**60)
    service = Service(from_toml({"store": {"file": str(tmp_path / "s.db")}}, source="test"))
    with caplog.at_level(logging.WARNING, "regimegate"):
        service.start()
    try:
        assert [r.message[:17] for r in caplog.records] == ["the disk is short"]
        assert service.health().ready
        assert service.size.store_bytes > 0
    finally:
        service.stop()


def test_a_store_that_is_gone_is_the_writers_to_find_out(tmp_path: Path) -> None:
    service = Service(from_toml({"store": {"file": str(tmp_path / "s.db")}}, source="test"))
    service.start()
    service.stop()
    assert service.look_after_store() == []
    with pytest.raises(OSError, match="gone"):
        measure(Made(tmp_path / "gone", None))
