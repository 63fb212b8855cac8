"""The wiring, where a process of its own would show too little: how serving ends when the writer has."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from regime.errors import Unavailable
from regime_service import app
from regime_service.app import EXIT_FAILED, Service, bind
from regime_service.settings import from_toml


@pytest.fixture
def service(tmp_path: Path) -> Service:
    made = Service(from_toml({"store": {"file": str(tmp_path / "s.db")}}, source="test"))
    made.start()
    return made


def test_a_writer_that_is_gone_without_a_word_ends_serving_with_exit_code_1(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "FAREWELL_S", 0.01)
    monkeypatch.setattr(app, "WATCH_EVERY_S", 0.01)
    alive, gone = service.runner._thread, threading.Thread(target=lambda: None)
    gone.start()
    gone.join()

    def lose_the_writer() -> None:
        service.runner._thread = gone

    with bind("127.0.0.1", 0) as sock:
        code = asyncio.run(asyncio.wait_for(app._serve(service, sock, lose_the_writer), 30))
    assert code == EXIT_FAILED
    service.runner._thread = alive
    service.stop()


def test_a_writer_that_is_busy_keeps_nobody_waiting_for_ever(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOOK_S", 0.01)
    with service.runner.lock:
        for look in (service.overrides, lambda: service.has_model("m")):
            with pytest.raises(Unavailable, match="busy"):
                look()
    assert service.overrides() == {}
    service.stop()


def test_a_disk_that_hangs_is_said_while_it_hangs_and_forgotten_when_it_answers(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, release = service.runner, threading.Event()
    usual = service._store.commit

    def commit() -> None:
        release.wait(30)
        usual()

    monkeypatch.setattr(service._store, "commit", commit)
    monkeypatch.setattr(app, "STUCK_S", 0.0)
    assert service.health().ready, "nothing is in hand"
    waiting = runner.submit([])
    while (health := service.health()).ready:
        time.sleep(0.001)
    assert "the disk hangs" in health.reason
    release.set()
    waiting.result(30)
    monkeypatch.setattr(app, "STUCK_S", 30.0)
    assert service.health().ready, "a disk that comes back is welcome"
    service.stop()
