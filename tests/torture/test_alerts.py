"""Alerts through SIGKILL in short: what `make alerts-torture` does two hundred times, and its controls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from alerts import torture


@pytest.mark.slow
@pytest.mark.acceptance
def test_killed_at_random_moments_it_loses_no_alert_and_tells_of_nothing_that_is_not_stored(tmp_path: Path) -> None:
    found = torture(tmp_path, 20, seed=3)
    assert (found.lost, found.phantoms, found.twice, found.faults) == (0, 0, 0, ())
    assert found.kills == 20
    assert found.expected > 20, "kills that come before there is anything to say prove nothing"
    assert found.moods.keys() - {"ok"}, "a receiver that never fails proves little"


@pytest.mark.slow
@pytest.mark.acceptance
def test_a_service_that_writes_alerts_down_after_the_commit_is_found_out(tmp_path: Path) -> None:
    assert torture(tmp_path, 25, control="alerts-late").lost > 0


@pytest.mark.acceptance
def test_a_service_that_sends_before_the_commit_is_found_out(tmp_path: Path) -> None:
    assert torture(tmp_path, 60, control="alerts-early").phantoms > 0
