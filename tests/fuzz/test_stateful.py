"""A hundred runs of any order of calls, and faults planted in the service that the model must notice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stateful import machines

from regime.rules.stale import Stale
from regime_service.board import Board
from regime_service.runners.embedded import EmbeddedRunner
from regime_service.stores.sqlite import SqliteStore


@pytest.mark.slow
def test_the_service_does_what_the_contract_says_in_any_order_of_calls() -> None:
    counts = machines(100, 20, ram=True, steps=15)
    assert counts["runs"] >= 100
    assert counts["logs replayed to the same decisions"] == counts["runs"]
    assert counts["restarts"] > 30
    assert counts["answers compared"] > 500


def plant_never_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stale, "judge", lambda self, view: None)


def plant_conflicts_taken_for_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = SqliteStore.look_up

    def look_up(self: SqliteStore, event: Any, raw: bytes) -> Any:
        found = usual(self, event, raw)
        return "duplicate" if found == "conflict" else found

    monkeypatch.setattr(SqliteStore, "look_up", look_up)


def plant_an_old_board(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Board.post

    def late(self: Board, decisions: Any, views: Any = None) -> None:
        usual(self, [d for d in decisions if d.version % 3], views)

    monkeypatch.setattr(Board, "post", late)


def plant_half_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = EmbeddedRunner._sort_out

    def sort_out(self: EmbeddedRunner, job: Any) -> Any:
        try:
            return usual(self, job)
        except Exception:
            # What came before the one at fault is stored all the same.
            fresh, _, _ = usual(self, job._replace(events=job.events[:1], on_conflict="keep"))
            for event, raw in fresh:
                self._step(event, raw, {})
            raise

    monkeypatch.setattr(EmbeddedRunner, "_sort_out", sort_out)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (plant_never_stale, "REDUCING"), (plant_conflicts_taken_for_duplicates, "duplicates"),
        (plant_an_old_board, "a GET is older than the reply to a POST|404"),
        (plant_half_a_batch, "not what was acknowledged"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(plant: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, BaseExceptionGroup), match=words):
        machines(100, 3, ram=True, shrink=False)
