"""Many configurations over one history, and how far the best of them can be believed.

    choices(grid)              every combination of a grid
    configured(config, choice) the configuration with those values
    swept(trades, trials)      the table: walk-forward folds, a held-out end, and how much is luck

The best of many always looks good on the history it was chosen on. Three things tell how good it is: what the
configurations chosen on the past made in the fold after it (walk-forward); what the one that is chosen in the end made
on the last part, which no choice looked at; and how often the best of *all* of them does as well when their refusals
are shifted in time, so that none of them can know anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.config import EngineConfig, ModelConfig, RuleConfig, from_mapping, nearest
from regime.errors import OperatorError
from regime.events import Trade
from regime.guard_value import SEED, SHIFTS, account_return, max_drawdown
from regime.policy import PRESETS, build_rules

Floats = NDArray[np.float64]

FOLDS = 5
HELD_OUT = 0.2
LUCK = 0.05
"""From this share of shifts on, that do as well, the best is within luck."""
TRADES_MIN = 10
"""Trades that a fold must hold for anything to be chosen or judged on it."""
INTERVAL = (0.05, 0.95)
_DRAWS = 1000
_TOTAL_LOSS = 1e-12


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration: its values, and the exposure it would have let each trade have (0: refused)."""

    choice: dict[str, Any]
    exposures: tuple[float, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one configuration came to before the held-out end. `gain_*` is per trade of the list, in logarithms of the
    account, beside trading them all: mean, and its 90 % interval over blocks of trades."""

    choice: dict[str, Any]
    refused: int
    profit_ratio: float
    drawdown_ratio: float
    gain: float
    gain_low: float
    gain_high: float
    held_out_profit_ratio: float | None


class Fold(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the walk: chosen on all that had closed before it began, judged on it."""

    begin_ms: int
    end_ms: int
    trades: int
    purged: int
    """Trades still open when the fold began: they count for neither side."""
    chosen: dict[str, Any] | None
    """None where too few trades had closed: then every trade is taken."""
    profit_ratio: float
    profit_without_ratio: float


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The table of a sweep."""

    tried: int
    trades: int
    rows: tuple[Row, ...]
    """Best first, by profit before the held-out end."""
    folds: tuple[Fold, ...]
    walked_profit_ratio: float
    walked_profit_without_ratio: float
    held_out_trades: int
    held_out_profit_ratio: float | None
    held_out_profit_without_ratio: float | None
    shifts: int
    luck: float | None
    """Share of random shifts in which the best of all configurations does as well as the best one did."""

    @property
    def within_luck(self) -> bool:
        return self.luck is None or self.luck > LUCK


def choices(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values of `grid`, the last key fastest.

    >>> choices({"preset": ["default", "conservative"], "entry": [0.8]})
    [{'preset': 'default', 'entry': 0.8}, {'preset': 'conservative', 'entry': 0.8}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def configured(config: EngineConfig, model: str, choice: Mapping[str, Any]) -> EngineConfig:
    """Return `config` with the values of `choice`.

    A key is one of the configuration (`false_pause_trades`), one of the model (`entry`), or an option of a rule
    (`drawdown.limit`). Raises `OperatorError` that names what is unknown or wrong.
    """
    top = {key: value for key, value in choice.items() if key in EngineConfig.__struct_fields__}
    own = {key: value for key, value in choice.items() if key in ModelConfig.__struct_fields__ and key not in top}
    options = {key: value for key, value in choice.items() if "." in key}
    for key in choice:
        if key not in top and key not in own and key not in options:
            known = [*EngineConfig.__struct_fields__, *ModelConfig.__struct_fields__]
            raise OperatorError(f"--grid: unknown key `{key}`{nearest(key, known)}; options of rules are RULE.OPTION")
    changed = from_mapping(msgspec.to_builtins(config) | top, EngineConfig, source="--grid")
    if own:
        plain = msgspec.to_builtins(changed.model(model)) | own
        models = {**changed.models, model: from_mapping(plain, ModelConfig, source="--grid")}
        changed = msgspec.structs.replace(changed, models=models)
    if options:
        rules = list(PRESETS[changed.preset].rules if changed.rules is None else changed.rules)
        for key, value in options.items():
            kind, _, option = key.partition(".")
            if kind not in {rule.kind for rule in rules}:
                kinds = ", ".join(rule.kind for rule in rules)
                raise OperatorError(f"--grid: `{key}`: there is no rule `{kind}` in force (there are: {kinds})")
            rules = [
                RuleConfig(kind=rule.kind, options={**rule.options, option: value}) if rule.kind == kind else rule
                for rule in rules
            ]
        changed = msgspec.structs.replace(changed, rules=rules)
    build_rules(changed)
    return changed


def swept(
    trades: Sequence[Trade], trials: Sequence[Trial], *, folds: int = FOLDS, held_out: float = HELD_OUT,
    seed: int = SEED,
) -> Sweep:  # fmt: skip
    """Return the table of a sweep.

    Parameters
    ----------
    trades
        In the order of opening, as `regime.guard_value.verdicts` gives them.
    trials
        At least one; each with as many exposures as there are trades.
    folds
        Parts of the time before the held-out end; the first is only chosen on.
    held_out
        Share of the trades, the last ones, that no choice looks at.

    It misleads where trades overlap much (blocks of ten then carry less than they seem to), and on a list that was
    itself chosen on this history: then the held-out end is none.
    """
    if not trials or not trades:
        raise ValueError("a sweep needs trades and at least one configuration")
    made = np.array([account_return(trade) for trade in trades], dtype=np.float64)
    opened = np.array([trade.opened_ms for trade in trades], dtype=np.int64)
    closed = np.array([trade.closed_ms for trade in trades], dtype=np.int64)
    exposure = np.array([trial.exposures for trial in trials], dtype=np.float64)
    growth = np.log(np.maximum(1.0 + exposure * made, _TOTAL_LOSS))
    plain = np.log(np.maximum(1.0 + made, _TOTAL_LOSS))
    cut = len(trades) - round(held_out * len(trades))
    end_ms = int(opened[cut]) if cut < len(trades) else int(closed.max()) + 1
    # What was open when the held-out end began belongs to neither part.
    early, late = (np.arange(len(trades)) < cut) & (closed < end_ms), np.arange(len(trades)) >= cut
    best = _best(growth[:, early])
    walked = _walk(trials, growth, plain, opened, closed, early, folds)
    shifts, luck = _luck(made[early], exposure[:, early], growth[:, early], seed)
    rows = []
    for number in np.argsort(-growth[:, early].sum(axis=1), kind="stable").tolist():
        gain = growth[number, early] - plain[early]
        low, high = _interval(gain, seed)
        rows.append(Row(
            choice=trials[number].choice, refused=int((exposure[number, early] == 0).sum()),
            profit_ratio=_profit(growth[number, early]),
            drawdown_ratio=max_drawdown(np.exp(np.cumsum(growth[number, early])).tolist()),
            gain=float(gain.mean()) if gain.size else 0.0, gain_low=low, gain_high=high,
            held_out_profit_ratio=_profit(growth[number, late]) if late.any() else None,
        ))  # fmt: skip
    return Sweep(
        tried=len(trials), trades=len(trades), rows=tuple(rows), folds=tuple(fold for fold, _, _ in walked),
        walked_profit_ratio=math.expm1(sum(with_it for _, with_it, _ in walked)),
        walked_profit_without_ratio=math.expm1(sum(without for _, _, without in walked)),
        held_out_trades=int(late.sum()),
        held_out_profit_ratio=_profit(growth[best, late]) if late.any() else None,
        held_out_profit_without_ratio=_profit(plain[late]) if late.any() else None,
        shifts=shifts, luck=luck,
    )  # fmt: skip


def _best(growth: Floats) -> int:
    return int(np.argmax(growth.sum(axis=1)))


def _profit(growth: Floats) -> float:
    return math.expm1(float(growth.sum()))


def _walk(
    trials: Sequence[Trial], growth: Floats, plain: Floats, opened: NDArray[np.int64], closed: NDArray[np.int64],
    early: NDArray[np.bool_], folds: int,
) -> list[tuple[Fold, float, float]]:  # fmt: skip
    times = opened[early]
    if len(times) < folds:
        return []
    edges = [int(times[round(len(times) * part / folds)]) for part in range(1, folds)]
    found = []
    for begin_ms, end_ms in itertools.pairwise([*edges, int(times[-1]) + 1]):
        inside = early & (opened >= begin_ms) & (opened < end_ms)
        past = early & (opened < begin_ms)
        known = past & (closed < begin_ms)
        chosen = _best(growth[:, known]) if known.sum() >= TRADES_MIN else None
        with_it = plain[inside] if chosen is None else growth[chosen, inside]
        fold = Fold(
            begin_ms=begin_ms, end_ms=end_ms, trades=int(inside.sum()), purged=int(past.sum() - known.sum()),
            chosen=None if chosen is None else trials[chosen].choice, profit_ratio=_profit(with_it),
            profit_without_ratio=_profit(plain[inside]),
        )  # fmt: skip
        found.append((fold, float(with_it.sum()), float(plain[inside].sum())))
    return found


def _luck(made: Floats, exposure: Floats, growth: Floats, seed: int) -> tuple[int, float | None]:
    """Share of circular shifts of all refusals together after which the best configuration is as good as the best was.

    As the list of trades stays as it is, so does whatever any pause earns on it; and as the best of all is taken each
    time, more configurations are no better than fewer (White's reality check, 2000, with shifts for resamples).
    """
    count = len(made)
    if count < TRADES_MIN or bool((exposure == exposure[:, :1]).all()):
        return 0, None
    places = np.arange(1, count)
    if len(places) > SHIFTS:
        places = np.random.default_rng(seed).choice(places, SHIFTS, replace=False)
    own = float(growth.sum(axis=1).max()) - 1e-12
    as_good = 0
    for place in places.tolist():
        shifted = np.log(np.maximum(1.0 + np.roll(exposure, place, axis=1) * made, _TOTAL_LOSS))
        as_good += bool(shifted.sum(axis=1).max() >= own)
    return len(places), as_good / len(places)


def _interval(gain: Floats, seed: int) -> tuple[float, float]:
    """90 % interval of the mean, by a bootstrap of blocks of ten neighbouring trades (Kuensch 1989)."""
    count, block = len(gain), 10
    if count < 2 * block:
        return math.nan, math.nan
    starts = np.random.default_rng(seed).integers(0, count, (_DRAWS, math.ceil(count / block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(_DRAWS, -1)[:, :count] % count
    low, high = np.quantile(gain[drawn].mean(axis=1), INTERVAL)
    return float(low), float(high)
