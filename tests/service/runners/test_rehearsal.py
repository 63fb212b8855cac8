"""A recovery in a process of its own: what it died of is said, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regime.codec import encode
from regime.config import EngineConfig, RuleConfig
from regime.events import Observation
from regime_service.runners import rehearsal
from regime_service.runners.rehearsal import Death, rehearse
from regime_service.stores import group, offer
from regime_service.stores.sqlite import SqliteStore

CONFIG = EngineConfig(clock="event", detectors=[])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = SqliteStore(tmp_path / "s.db")
    with group(store):
        for i in range(5):
            event = Observation(model="m", symbol="s", timeframe="5m", ts_ms=i * 300_000, features={"a": float(i)})
            offer(store, event, encode(event), 7)
    store.close()
    return tmp_path / "s.db"


def test_a_log_that_can_be_judged_is_no_reason(path: Path) -> None:
    assert rehearse(str(path), CONFIG) is None


def test_an_error_that_can_be_told_is_left_to_the_recovery(path: Path, tmp_path: Path) -> None:
    assert rehearse(str(tmp_path / "nothing.db"), CONFIG) is None


RULE = """
import os, signal

class Deadly:
    code = "deadly"
    def judge(self, view):
        if view.data.observations == 3:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_event_that_ends_it_is_named(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text(RULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = EngineConfig(clock="event", detectors=[], rules=[RuleConfig(kind="deadly.Deadly")])
    death = rehearse(str(path), config)
    assert death == Death(3, "signal 9, Killed")


def test_a_process_that_dies_before_it_reads_a_word_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal.sys, "executable", "/bin/sh")
    # `sh -m MODULE` is a shell that cannot find a script of that name: code 127, no death by a signal.
    assert rehearse(str(path), CONFIG) is None
    script = path.with_name("die")
    script.write_text("#!/bin/sh\nkill -s SEGV $$\n".replace("SIG", ""), "utf-8")
    os.chmod(script, 0o700)
    monkeypatch.setattr(rehearsal.sys, "executable", str(script))
    assert rehearse(str(path), CONFIG) == Death(None, "signal 11, Segmentation fault")
