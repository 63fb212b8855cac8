"""SIGKILL in short: some seconds of what `make torture` does a thousand times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgres_server import MISSING, programs
from sigkill import torture


@pytest.mark.slow
@pytest.mark.acceptance
def test_killed_at_random_moments_it_loses_nothing_and_applies_nothing_twice(tmp_path: Path) -> None:
    found = torture(tmp_path, 50)
    assert (found.lost, found.faults) == (0, ())
    assert (found.kills, found.starting > 0) == (50, True)
    assert found.acknowledged > 500, "kills that come before anything is acknowledged prove nothing"
    assert found.repeats > 0


@pytest.mark.acceptance
def test_a_service_that_answers_before_it_stored_is_found_out(tmp_path: Path) -> None:
    assert torture(tmp_path, 30, control="ack-early").lost > 0


needs_postgres = pytest.mark.skipif(programs() is None, reason=MISSING)


@needs_postgres
@pytest.mark.slow
@pytest.mark.acceptance
def test_neither_the_service_nor_its_server_loses_anything_when_killed(tmp_path: Path) -> None:
    found = torture(tmp_path, 10, seed=5, store="postgres")
    assert (found.lost, found.faults, found.kills) == (0, (), 10)
    assert found.deaths > 0 and found.acknowledged > 100


@needs_postgres
@pytest.mark.slow
@pytest.mark.acceptance
def test_a_session_that_does_not_wait_for_the_servers_disk_is_found_out(tmp_path: Path) -> None:
    assert torture(tmp_path, 30, control="no-sync", store="postgres").lost > 0
