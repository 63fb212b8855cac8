"""What the guard was worth on a history: which trades it would have refused, and what those trades made.

A trade is judged by the decision *in force when it was opened*: the last one judged at or before `opened_ms` (one
judged at that very instant counts: the bot asks before it enters). It is

- **refused** when its side was not ACTIVE, or its entry probability is known and below the entry threshold;
- **taken** otherwise, at the decision's `size_factor`;
- taken at full size, and counted as `unjudged`, when there was no decision yet.

A trade that was closed at the instant it was opened is judged by the decision *before* that instant: its own outcome
must not decide whether it is taken.

How to read the figures, and where they mislead:

- The outcomes of refused trades were still fed to the engine as they stand in the list, **as if the bot had shadowed
  them** (followed each refused signal on paper to its end). A bot that does not would come back later from a pause.
- On a losing list any pause earns. The figure that decides is `shifts_as_good_ratio`: the share of random circular
  shifts of the same refusals that do at least as well. Near 0 the guard knew *when*; near 0.5 it was luck.
- Curves compound `profit_ratio * leverage * size_ratio` (1 each where not given) trade after trade, in the order of
  closing. Trades that overlap are compounded as if one followed the other.
- Shadow trades are paper, not money: they are left out, and counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.decision import Decision, TradingState
from regime.events import StreamKey, Trade
from regime.outcomes import Outcome

Floats = NDArray[np.float64]

SHIFTS = 1000
"""Random shifts tried; where a list has fewer trades than that, every shift there is."""
SEED = 20251101
BELOW_ENTRY = "entry-threshold"
"""Refusal code of a trade whose side was ACTIVE but whose entry probability was too low."""
_TOTAL_LOSS = 1e-12
"""What a growth factor is raised to at the least: a total loss stays one without taking the logarithm of zero."""


class Verdict(NamedTuple):
    """What the guard would have said to one trade."""

    trade: Trade
    decision: Decision | None
    """The decision in force; None when there was none yet."""
    exposure: float
    """0 when refused, else the share of its own size the trade would have had."""
    codes: tuple[str, ...]
    """Why it was refused: reason codes in force, or `entry-threshold`; empty when taken."""

    @property
    def refused(self) -> bool:
        return bool(self.codes)


class GuardValue(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a history with and without the guard. `profit_*` and `drawdown_*` are ratios of the account."""

    trades: int
    """Real trades judged; `taken` + `refused`."""
    taken: int
    refused: int
    smaller: int
    """Of those taken, how many at less than full size (probation)."""
    unjudged: int
    """Of those taken, how many were opened before the first decision."""
    shadow_left_out: int
    refused_by: dict[str, int]
    """Refused trades by reason code; a trade refused for two reasons counts under both."""
    winners_missed: int
    losers_avoided: int
    """Refused trades that made nothing after fees; `winners_missed` + `losers_avoided` = `refused`."""
    refused_mean_ratio: float | None
    """What a refused trade made on average, at full size (account); None where nothing was refused."""
    refused_mean_low: float | None
    refused_mean_high: float | None
    """Its 90 % interval (bootstrap, seeded); too narrow where trades overlap. Wholly under 0: it was worth it."""
    gains_missed_ratio: float
    """Sum of what the refused winners made (not compounded)."""
    losses_avoided_ratio: float
    """Sum of what the refused losers lost (not compounded, a positive number)."""
    profit_without_ratio: float
    profit_with_ratio: float
    drawdown_without_ratio: float
    drawdown_with_ratio: float
    shifts: int
    shifts_as_good_ratio: float | None
    """Share of random shifts that end at least as high; None where nothing was refused or made smaller, or where
    there is no other place to shift to."""


class Curves(NamedTuple):
    """Equity after each trade, starting from 1, in the order of closing."""

    closed_ms: list[int]
    without: list[float]
    guarded: list[float]


def verdicts(
    trades: Sequence[Trade], decisions: Mapping[StreamKey, Sequence[Decision]], *, base_entry: float = 0.0
) -> list[Verdict]:
    """Return what the guard would have said to each real trade, in the order of opening.

    `decisions` holds the decisions of each stream as they were given, in order; those that changed nothing may be left
    out. `base_entry` is the bot's own threshold: a trade under it is refused only while the guard asks for more, for
    what the bot does by its own setting is not the guard's doing. In shadow mode what was *computed* counts: what the
    guard would have said had it been listened to.
    """
    found = []
    times = {key: [decision.as_of_ms for decision in given] for key, given in decisions.items()}
    for trade in sorted((t for t in trades if not t.shadow), key=lambda t: t.opened_ms):
        key = StreamKey(trade.model, trade.symbol, trade.timeframe)
        before = bisect_left if trade.closed_ms == trade.opened_ms else bisect_right
        at = before(times.get(key, []), trade.opened_ms)
        found.append(_verdict(trade, decisions[key][at - 1] if at else None, base_entry))
    return found


def _verdict(trade: Trade, decision: Decision | None, base_entry: float) -> Verdict:
    if decision is None:
        return Verdict(trade, None, 1.0, ())
    said = (decision.computed or decision.sides).of(trade.side)
    if said.state is not TradingState.ACTIVE:
        return Verdict(trade, decision, 0.0, tuple(reason.code for reason in said.reasons) or (str(said.state),))
    if trade.entry_probability is not None and said.entry > base_entry and trade.entry_probability < said.entry:
        return Verdict(trade, decision, 0.0, (BELOW_ENTRY,))
    return Verdict(trade, decision, said.size_factor, ())


def guard_value(judged: Sequence[Verdict], *, shadow_left_out: int = 0, seed: int = SEED) -> GuardValue:
    """Return what the guard was worth over `judged` (see `verdicts`), with the module's caveats.

    On a losing list any pause earns: the share of random shifts that do as well is the figure that decides.
    """
    refused = [v for v in judged if v.refused]
    made = [account_return(v.trade) for v in refused]
    won = [v.trade.profit_ratio > 0 for v in refused]
    by: dict[str, int] = {}
    for verdict in refused:
        for code in dict.fromkeys(verdict.codes):
            by[code] = by.get(code, 0) + 1
    curve = curves(judged)
    shifts, as_good = _shifted(judged, seed)
    mean, low, high = mean_interval(made, seed)
    return GuardValue(
        refused_mean_ratio=mean,
        refused_mean_low=low,
        refused_mean_high=high,
        trades=len(judged),
        taken=len(judged) - len(refused),
        refused=len(refused),
        smaller=sum(not v.refused and v.exposure < 1.0 for v in judged),
        unjudged=sum(v.decision is None for v in judged),
        shadow_left_out=shadow_left_out,
        refused_by=dict(sorted(by.items(), key=lambda item: (-item[1], item[0]))),
        winners_missed=sum(won),
        losers_avoided=len(refused) - sum(won),
        gains_missed_ratio=float(sum(r for r, w in zip(made, won, strict=True) if w)),
        losses_avoided_ratio=float(-sum(r for r, w in zip(made, won, strict=True) if not w)) + 0.0,
        profit_without_ratio=(curve.without[-1] if judged else 1.0) - 1.0,
        profit_with_ratio=(curve.guarded[-1] if judged else 1.0) - 1.0,
        drawdown_without_ratio=max_drawdown(curve.without),
        drawdown_with_ratio=max_drawdown(curve.guarded),
        shifts=shifts,
        shifts_as_good_ratio=as_good,
    )


class LiveValue(msgspec.Struct, frozen=True, kw_only=True):
    """What refusing was worth on the outcomes of one side that are remembered (at most 500, at full size, no leverage).

    `always` is what all signals together would have made, `guarded` what the trades that were not refused made; never
    trading makes 0. `open_ratio` marks refused signals that are still followed at the newest close.
    """

    real: int
    refused: int
    always_ratio: float
    guarded_ratio: float
    refused_mean_ratio: float | None
    refused_mean_low: float | None
    refused_mean_high: float | None
    open: int
    open_ratio: float
    shifts_as_good_ratio: float | None
    sentence: str


def live_value(outcomes: Sequence[Outcome], marked: Sequence[float] = (), *, seed: int = SEED) -> LiveValue:
    """Return what the guard is worth so far: refused signals as their shadows came out, against always, never and
    random shifts.

    Parameters
    ----------
    outcomes
        Of one side, oldest first; those marked as shadow were refused.
    marked
        What open shadows would make if they were closed now.
    """
    made = np.array([o.profit_ratio for o in outcomes], dtype=np.float64)
    real = np.array([not o.shadow for o in outcomes], dtype=np.float64)
    refused = [o.profit_ratio for o in outcomes if o.shadow]
    mean, low, high = mean_interval(refused, seed)
    _, as_good = _shifts(made, real, seed)
    return LiveValue(
        real=len(outcomes) - len(refused), refused=len(refused), always_ratio=float(made.sum()),
        guarded_ratio=float((made * real).sum()), refused_mean_ratio=mean, refused_mean_low=low,
        refused_mean_high=high, open=len(marked), open_ratio=float(sum(marked)), shifts_as_good_ratio=as_good,
        sentence=_worth(refused, mean, low, high, as_good),
    )  # fmt: skip


def _worth(
    refused: Sequence[float], mean: float | None, low: float | None, high: float | None, as_good: float | None
) -> str:
    if mean is None:
        return "no refused signal has come to its end on paper yet, so what the guard is worth is not known"
    if low is None or high is None:
        return f"not known yet ({len(refused)} refused signals resolved; it takes {_INTERVAL_MIN})"
    figures = f"{mean:+.2%} a trade [{low:+.2%}, {high:+.2%}] over {len(refused)} refused signals"
    luck = "" if as_good is None else f"; {as_good:.0%} of random shifts of the same refusals do as well"
    if high < 0:
        return f"worth having: what it refused would have lost, {figures}{luck}"
    if low > 0:
        return f"it costs: what it refused would have made money, {figures}{luck}"
    return f"neither worth nor cost is shown: {figures}{luck}"


def mean_interval(values: Sequence[float], seed: int = SEED) -> tuple[float | None, float | None, float | None]:
    """Return the mean and its 90 % interval by a seeded bootstrap; no interval with fewer than five values."""
    if not len(values):
        return None, None, None
    made = np.array(values, dtype=np.float64)
    mean = float(made.mean())
    if len(made) < _INTERVAL_MIN:
        return mean, None, None
    drawn = np.random.default_rng(seed).integers(0, len(made), (1000, len(made)))
    low, high = np.quantile(made[drawn].mean(axis=1), (0.05, 0.95))
    return mean, float(low), float(high)


_INTERVAL_MIN = 5


def account_return(trade: Trade) -> float:
    """Return what the trade did to the account at full size: profit times leverage times its share of the account."""
    leverage = 1.0 if trade.leverage is None else trade.leverage
    size = 1.0 if trade.size_ratio is None else trade.size_ratio
    return trade.profit_ratio * leverage * size


def curves(judged: Sequence[Verdict]) -> Curves:
    """Return the equity curves with and without the guard, one point per trade, in the order of closing."""
    in_order = sorted(judged, key=lambda v: v.trade.closed_ms)
    made = np.array([account_return(v.trade) for v in in_order], dtype=np.float64)
    exposure = np.array([v.exposure for v in in_order], dtype=np.float64)
    return Curves(
        [v.trade.closed_ms for v in in_order],
        _compounded(made).tolist(),
        _compounded(made * exposure).tolist(),
    )


def max_drawdown(equity: Sequence[float]) -> float:
    """Return the largest loss from a peak (0.1 is 10 %); the curve starts from 1. 0 for an empty curve."""
    if not len(equity):
        return 0.0
    curve = np.array([1.0, *equity], dtype=np.float64)
    return float((1.0 - curve / np.maximum.accumulate(curve)).max())


def _compounded(returns: Floats) -> Floats:
    equity: Floats = np.cumprod(np.maximum(1.0 + returns, _TOTAL_LOSS), dtype=np.float64)
    return equity


def _shifted(judged: Sequence[Verdict], seed: int) -> tuple[int, float | None]:
    """Return how many circular shifts of the exposures were tried, and the share that ended at least as high."""
    made = np.array([account_return(v.trade) for v in judged], dtype=np.float64)
    exposure = np.array([v.exposure for v in judged], dtype=np.float64)
    return _shifts(made, exposure, seed)


def _shifts(made: Floats, exposure: Floats, seed: int) -> tuple[int, float | None]:
    count = len(made)
    if count < 2 or bool(np.all(exposure == exposure[0])):
        return 0, None
    places = np.arange(1, count)
    if len(places) > SHIFTS:
        places = np.sort(np.random.default_rng(seed).choice(places, SHIFTS, replace=False))
    own = _log_growth(made, exposure)
    # A hair of tolerance: a shift that moves nothing must not lose by the order in which the sum was taken.
    as_good = sum(_log_growth(made, np.roll(exposure, place)) >= own - 1e-12 for place in places.tolist())
    return len(places), as_good / len(places)


def _log_growth(made: Floats, exposure: Floats) -> float:
    return float(np.log(np.maximum(1.0 + made * exposure, _TOTAL_LOSS)).sum())


__all__ = [
    "BELOW_ENTRY", "SHIFTS", "Curves", "GuardValue", "LiveValue", "Verdict", "account_return", "curves", "guard_value",
    "live_value", "max_drawdown", "mean_interval", "verdicts",
]  # fmt: skip
