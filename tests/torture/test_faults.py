"""Every fault of the matrix ends as it should: paused or silent within a second, never in an unsafe ACTIVE."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import faults
from faults import CASES, Bench, Case, run


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_each_fault_ends_as_it_should(one: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second is for a machine that does nothing else; `make faults` measures it.
    monkeypatch.setattr(faults, "LIMIT_S", 10.0)
    assert asyncio.run(run(one, tmp_path)).fault == ""


def test_the_matrix_is_as_large_as_it_says() -> None:
    assert len(CASES) == len({one.name for one in CASES}) >= 40


async def nothing(bench: Bench) -> None:
    """A fault that is none."""


@pytest.mark.parametrize("outcome", ["paused", "503", "503 ends"])
def test_a_service_that_stays_active_is_found_out(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LIMIT_S", 0.05)
    assert "ACTIVE instead of" in asyncio.run(run(Case("nothing", outcome, "", nothing), tmp_path)).fault


def test_a_wrong_reason_and_a_pause_that_spreads_are_found_out(tmp_path: Path) -> None:
    async def silence(bench: Bench) -> None:
        bench.clock.pass_s(10_000)

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    wrong = asyncio.run(run(Case("x", "paused", "engine-error", silence), tmp_path / "a"))
    assert "is not said" in wrong.fault
    spread = asyncio.run(run(Case("x", "paused", "stale", silence, others=True), tmp_path / "b"))
    assert "the other stream is" in spread.fault
