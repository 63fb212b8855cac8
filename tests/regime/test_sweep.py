"""Many configurations over one list of trades: what is chosen, what is held out, and how much is luck."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from regime.config import EngineConfig, ModelConfig
from regime.errors import OperatorError
from regime.events import Trade
from regime.sweep import Sweep, Trial, choices, configured, swept

HOUR = 3_600_000


def trades(profits: NDArray[np.float64], hours: float = 0.5) -> list[Trade]:
    return [
        Trade(
            model="m", symbol="s", timeframe="5m", trade_id=str(i), side="long", opened_ms=i * HOUR,
            closed_ms=round((i + hours) * HOUR), entry_price=1.0, exit_price=1.0, profit_ratio=float(profit),
        )
        for i, profit in enumerate(profits)
    ]  # fmt: skip


def trial(exposures: NDArray[np.float64], **choice: object) -> Trial:
    return Trial(choice=choice or {"x": 1}, exposures=tuple(exposures.tolist()))


def test_every_combination_is_tried_once() -> None:
    found = choices({"a": [1, 2], "b": ["x", "y", "z"]})
    assert len(found) == 6 and found[1] == {"a": 1, "b": "y"}


def test_a_choice_changes_the_configuration_the_model_and_the_options_of_rules() -> None:
    config = EngineConfig(models={"m": ModelConfig(exit=0.7)})
    made = configured(config, "m", {"false_pause_trades": 300, "entry": 0.85, "drawdown.limit": 0.1,
                                    "drawdown.release": 0.05, "preset": "conservative"})  # fmt: skip
    assert (made.false_pause_trades, made.preset) == (300, "conservative")
    assert (made.model("m").entry, made.model("m").exit) == (0.85, 0.7)
    assert made.rules is not None
    (drawdown,) = [rule for rule in made.rules if rule.kind == "drawdown"]
    assert drawdown.options == {"limit": 0.1, "release": 0.05}
    assert configured(config, "m", {}) == config


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"presett": "default"}, "unknown key `presett`.*preset"),
        ({"preset": "nonsense"}, "--grid"),
        ({"entry": 7}, "--grid"),
        ({"nothing.limit": 1}, "there is no rule `nothing` in force"),
        ({"drawdown.nothing": 1}, "drawdown"),
    ],
)
def test_a_wrong_choice_is_named(choice: dict[str, object], words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        configured(EngineConfig(), "m", choice)


def test_the_best_is_chosen_before_the_held_out_end_and_judged_on_it() -> None:
    profits = np.array([-0.01, 0.02] * 100)
    good, late = np.tile([0.0, 1.0], 100), np.ones(200)
    late[:160], late[160::2] = 1.0, 0.0
    found = swept(trades(profits), [trial(np.ones(200), it="none"), trial(good, it="good"), trial(late, it="late")])
    assert [row.choice["it"] for row in found.rows] == ["good", "none", "late"]
    assert found.held_out_trades == 40 and found.tried == 3
    assert found.held_out_profit_ratio == pytest.approx(1.02**20 - 1)
    assert found.held_out_profit_without_ratio == pytest.approx(1.02**20 * 0.99**20 - 1)
    best = found.rows[0]
    assert best.profit_ratio == pytest.approx(1.02**80 - 1)
    assert best.gain == pytest.approx(-math.log(0.99) / 2)
    assert best.gain_low - 1e-12 <= best.gain <= best.gain_high + 1e-12
    assert (best.refused, best.drawdown_ratio) == (80, 0.0)
    assert found.rows[1].gain == 0.0


def test_each_fold_is_judged_by_what_was_chosen_before_it_began() -> None:
    profits = np.concatenate([np.full(50, -0.01), np.full(50, 0.01)])
    shy, bold = np.zeros(100), np.ones(100)
    found = swept(trades(profits), [trial(shy, it="shy"), trial(bold, it="bold")], folds=5, held_out=0.0)
    assert [fold.chosen and fold.chosen["it"] for fold in found.folds] == ["shy"] * 4
    assert [fold.trades for fold in found.folds] == [20] * 4
    assert found.walked_profit_ratio == 0.0
    assert found.walked_profit_without_ratio == pytest.approx(0.99**30 * 1.01**50 - 1)


def test_a_trade_that_is_open_when_a_fold_begins_chooses_nothing() -> None:
    """Its end lies in the fold that is judged."""
    found = swept(trades(np.full(100, 0.01), hours=3.5), [trial(np.ones(100))], folds=5, held_out=0.2)
    assert [fold.purged for fold in found.folds] == [3] * 4
    assert found.rows[0].profit_ratio == pytest.approx(1.01**77 - 1), "and the held-out end has none of it either"


def test_with_too_few_trades_before_a_fold_nothing_is_chosen() -> None:
    found = swept(trades(np.full(20, 0.01)), [trial(np.zeros(20))], folds=5, held_out=0.0)
    assert [fold.chosen is None for fold in found.folds] == [True, True, False, False]
    assert found.folds[0].profit_ratio == found.folds[0].profit_without_ratio


def sweep_of(seed: int, *, skill: float, loss: float = 0.004, configurations: int = 10) -> Sweep:
    """Refusals in stretches; with `skill` they fall on the losing stretch of the list."""
    rng = np.random.default_rng(seed)
    edge = np.where((np.arange(400) % 400 >= 150) & (np.arange(400) % 400 < 260), -loss, 0.002)
    profits = edge + 0.01 * rng.standard_normal(400)
    made = []
    for number in range(configurations):
        exposure = np.ones(400)
        begin = 150 if rng.random() < skill else int(rng.integers(0, 300))
        exposure[begin : begin + 100] = 0.0
        made.append(trial(exposure, number=number))
    return swept(trades(profits), made)


def test_the_best_of_many_that_know_nothing_is_within_luck_nineteen_times_in_twenty() -> None:
    """However many are tried: each shift takes the best of as many."""
    for configurations in (1, 20):
        found = [
            sweep_of(seed, skill=0.0, configurations=configurations).within_luck for seed in range(60)
        ]  # fmt: skip
        assert sum(not each for each in found) <= 8, configurations


def test_one_that_knows_when_is_told_from_luck() -> None:
    found = [sweep_of(seed, skill=1.0, loss=0.01, configurations=1) for seed in range(20)]
    assert sum(not each.within_luck for each in found) >= 15


def test_where_nothing_differs_in_time_luck_is_not_known() -> None:
    found = swept(trades(np.full(50, 0.01)), [trial(np.ones(50)), trial(np.zeros(50))])
    assert found.luck is None and found.within_luck and found.shifts == 0


def test_a_total_loss_and_a_single_trade_do_no_harm() -> None:
    found = swept(trades(np.array([-1.0])), [trial(np.ones(1))])
    assert found.rows[0].profit_ratio == pytest.approx(-1.0)
    assert math.isnan(found.rows[0].gain_low)
    with pytest.raises(ValueError, match="needs trades"):
        swept([], [trial(np.ones(0))])
