"""Pauses of healthy bots end: a short form of tests/bench/bench_pauses.py, and a control that does not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import regime.exploration


def bench() -> ModuleType:
    file = Path(__file__).parents[1] / "bench" / "bench_pauses.py"
    spec = importlib.util.spec_from_file_location("bench_pauses", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_pauses"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("scores", ["none", "flat", "ranks"])
@pytest.mark.parametrize("preset", ["default", "conservative"])
def test_a_healthy_bot_trades_again_after_a_bad_streak(preset: str, scores: str, paper: bool) -> None:
    found = [bench().back(preset, 1000 + i, paper=paper, streak=25, scores=scores) for i in range(6)]
    assert any(paused for paused, _ in found)
    assert all(candles is not None for _, candles in found)


def test_a_blind_pause_tries_trades_of_the_bots_own_threshold() -> None:
    # Above the threshold that stood raised hardly any signal came: this bot was away for 4,000 signals.
    paused, candles = bench().back("default", 664_406, paper=False, streak=25, scores="flat", signals_max=1500)
    assert paused and candles is not None


def test_without_exploration_a_blind_bot_never_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        regime.exploration, "still_paused", lambda view, standing, *_: regime.exploration._paused(standing, None)
    )
    for rule in ("break_even", "drawdown", "edge"):
        monkeypatch.setattr(sys.modules[f"regime.rules.{rule}"], "still_paused", regime.exploration.still_paused)
    paused, candles = bench().back("default", 1000, paper=False, streak=25, signals_max=1000)
    assert paused and candles is None
