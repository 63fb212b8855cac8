"""Simulated schedules in short: hundreds of what `make schedules` plays by the hundred thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from schedules import CONTROLS, play, schedules


def test_bots_that_follow_the_rules_enter_and_never_unsafely() -> None:
    found = schedules(range(1, 301))
    assert found.wrong == (), "SEED=n make schedules shows what happened"
    assert found.with_entries > 290, "who never enters is safe, too, and of no use"
    n = found.counts
    assert n["entries"] > 100 * found.schedules
    assert n["refused without cause"] < 0.002 * n["looks"]
    assert n["answers 503"] > 0 and n["answers 304"] > 0 and n["answers 422"] > 0 and n["answers 409"] > 0


@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_unsafe_is_found_out(control: str) -> None:
    assert any(play(seed, control).oracle.wrong for seed in range(1, 401))


def test_the_same_seed_is_the_same_schedule() -> None:
    one, again = play(7, trace=True), play(7, trace=True)
    assert one.trace and one.counts == again.counts
    assert [line for line in one.trace if "epoch" not in line] == [line for line in again.trace if "epoch" not in line]
