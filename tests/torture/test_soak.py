"""The soak in short: seconds of what `make soak` does for an hour, and its judges on made figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from soak import Sample, memory_growth, more_at_the_end, soak

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: it reads /proc")


def samples(kb_per_s: float, *, burst_kb: int = 0) -> list[Sample]:
    return [Sample(s, round(300_000 + kb_per_s * s + burst_kb * (s == 200)), 25, 6) for s in range(3600)]


def test_a_slow_leak_is_growth_and_a_burst_that_is_given_back_is_not() -> None:
    assert memory_growth(samples(0.0)) == memory_growth(samples(0.0, burst_kb=500_000)) == 0
    assert memory_growth(samples(2.0)) == pytest.approx(0.0237, abs=0.001)


def test_what_counts_at_the_end_is_what_stays_open() -> None:
    assert more_at_the_end([25, 27, 25, 25, 25, 25, 33, 25, 25]) == 0, "open for a moment"
    assert more_at_the_end([25, 25, 26, 27, 28, 29, 29, 30, 31]) == 5
    assert more_at_the_end([]) == 0


@LINUX
@pytest.mark.slow
@pytest.mark.acceptance
def test_some_seconds_of_ordinary_work_without_an_error_and_the_same_state_after_a_restart(tmp_path: Path) -> None:
    found = soak(tmp_path, seconds=3, streams=2, warm=0.01, rest_s=0.02)
    # Histories still fill in so short a time, and code is loaded: memory and shares of requests say nothing yet.
    said_too_early = ("memory grew", "requests were told to ask again")
    assert [fault for fault in found.faults if not any(words in fault for words in said_too_early)] == []
    assert found.requests > 100 and found.references >= 1 and found.trades > 10


@LINUX
@pytest.mark.slow
@pytest.mark.acceptance
def test_a_service_that_forgets_open_files_is_found_out(tmp_path: Path) -> None:
    found = soak(tmp_path, seconds=8, streams=2, warm=0.01, rest_s=0.0, control="descriptors")
    assert any("descriptors more" in fault for fault in found.faults)
