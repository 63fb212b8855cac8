"""Power cuts in short: seconds of what `make powercut` does in 10,000 trials."""

from __future__ import annotations

import sys
from pathlib import Path

import apsw
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from powercut import CONTROLS, Disk, applied, trials

from regime_service.stores import sqlite


def test_no_acknowledged_event_is_lost_in_a_power_cut(tmp_path: Path) -> None:
    found = trials(range(1, 151), tmp_path)
    assert (found.lost, found.faults) == (0, ())
    assert found.cuts > 150
    assert found.acknowledged > 1000, "cuts that come before anything is acknowledged prove nothing"


@pytest.mark.parametrize("control", CONTROLS)
def test_a_store_that_answers_too_early_is_found_out(tmp_path: Path, control: str) -> None:
    assert trials(range(1, 41), tmp_path, control).lost > 0


def test_a_store_whose_log_is_never_synced_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk itself is not lenient: if it takes no notice of a sync, the very same store loses."""
    monkeypatch.setattr(Disk, "sync", lambda self, name: None)
    assert trials(range(1, 41), tmp_path).lost > 0


def test_the_harness_leaves_sqlite_as_it_was(tmp_path: Path) -> None:
    before = (apsw.vfs_names(), sqlite._CHECKPOINT_PAGES, sqlite._sync_folder)
    trials(range(1, 2), tmp_path)
    assert (apsw.vfs_names(), sqlite._CHECKPOINT_PAGES, sqlite._sync_folder) == before


def test_writes_and_truncations_are_applied_in_order() -> None:
    assert applied(b"abc", [("write", 5, b"xy"), ("truncate", 6, b""), ("write", 0, b"Z")]) == b"Zbc\0\0x"
