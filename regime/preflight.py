"""Before a model goes live: is there anything in its features or its record that makes backtest and live differ?

    check_values(names, values, close)   what a log or a reference of features shows by itself
    check_repeatable, check_lookback, check_lookahead
                                         what `regime.lookback` found by asking the feature function
    check_model(outcomes, ...)           what the trades say about the score and the edge

Each gives checks: PASS, WARN or FAIL, one sentence on what was found and what to do, and the figures behind it. FAIL is
what makes live and backtest differ, or loses money, as it stands; WARN is what often does. All is found in the data;
nothing is read from a feature's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.edge import edge
from regime.lookback import Computed, Memory, Peek
from regime.outcomes import Outcome

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DAY_MS = 86_400_000
NAMED_MAX = 12
"""Features named in a sentence; the figures hold all of them."""
MISSING_WARN, MISSING_FAIL = 0.01, 0.2
"""Share of candles without a value."""
SAME = 0.9999
"""Correlation from which two features are one, up to unit and sign."""
ALIKE = 0.95
PRICE_SPREAD = 0.05
"""A feature is in price units when its ratio to the close lies between 0.5 and 2 and varies by less than this."""
COUNTER_SHARE = 0.98
"""Share of its changes that go one way, for a counter."""
WALK_RATIO = (0.4, 0.3)
"""Variance of changes over an eighth and a fourth of the sample, over that of one candle times so many: about 1 for a
running sum of unrelated numbers, near 0 for what comes back."""
WALK_ROWS = 4_000
"""Shorter samples do not tell a running sum from a window of a day."""
OUT_DAYS_WARN = 14.0
OUT_TRADES_WARN = 50


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at: its verdict, a sentence, and the figures (plain numbers, texts and lists)."""

    name: str
    verdict: Literal["PASS", "WARN", "FAIL"]
    sentence: str
    figures: dict[str, Any] = {}


def worst(checks: Iterable[Check]) -> Literal["PASS", "WARN", "FAIL"]:
    """Return the gravest verdict; PASS of none."""
    found = {check.verdict for check in checks}
    return "FAIL" if "FAIL" in found else "WARN" if "WARN" in found else "PASS"


def check_values(
    names: Sequence[str], values: Floats, close: Floats | None = None, *, totals: bool = True
) -> list[Check]:
    """Return what a sample of features shows: dead, missing, duplicate, price-level and cumulative ones, and how many
    there really are.

    Parameters
    ----------
    names, values
        `float64[candles, features]` in time order; NaN is missing.
    close
        `float64[candles]`; without it nothing is said about price levels.
    totals
        Look for running totals; not needed where `check_lookback` knows them.

    It misleads on a short sample: what has not moved in two days may move on the third, and six days do not tell a slow
    average from a running sum for certain (`check_lookback` does, from the function itself).
    """
    live = _live(values)
    checks = [_dead(names, live), _missing(names, values)]
    scaled = _standard(values[:, live])
    kept = [name for name, alive in zip(names, live, strict=True) if alive]
    priced = np.zeros(len(kept), dtype=np.bool_)
    if close is not None:
        priced = in_price_units(values[:, live], close)
        checks.append(_price_level([name for name, is_one in zip(kept, priced, strict=True) if is_one]))
    if totals:
        checks.append(_cumulative(kept, cumulative(values[:, live], close)))
    checks += [_duplicates(kept, scaled), _independent(scaled)]
    return checks


def effective_number(scaled: Floats) -> float:
    """Return how many independent features carry as much as these: the participation ratio of the correlation matrix,
    (sum of eigenvalues)^2 / sum of their squares. n for n uncorrelated ones, 1 for n copies. NaN without features.

    `scaled` is `float64[candles, features]`, each with mean 0 and standard deviation 1, and no NaN.
    """
    if not scaled.shape[1]:
        return math.nan
    # Sum of squared eigenvalues = sum of squared entries: no decomposition needed.
    matrix = scaled.T @ scaled / len(scaled)
    return float(np.trace(matrix) ** 2 / (matrix**2).sum())


def in_price_units(values: Floats, close: Floats) -> Bools:
    """Return `bool[features]`: those that are the price or something near it (averages, bands, levels), or move as it
    does in another unit. What is a difference of prices (an ATR in dollars) is not found."""
    found = np.zeros(values.shape[1], dtype=np.bool_)
    for f in range(values.shape[1]):
        both = np.isfinite(values[:, f]) & np.isfinite(close) & (close != 0)
        if both.sum() < 30:
            continue
        x, price = values[both, f], close[both]
        ratio = x / price
        mean = float(ratio.mean())
        if not mean:
            continue
        spread = float(ratio.std()) / abs(mean)
        if 0.5 <= mean <= 2.0 and spread < PRICE_SPREAD:
            found[f] = True
        elif x.std() > 0 and price.std() > 0:
            own = float(x.std()) / abs(float(x.mean())) if x.mean() else math.inf
            found[f] = spread < 0.5 * own < math.inf and abs(np.corrcoef(x, price)[0, 1]) > ALIKE
    return found


def cumulative(values: Floats, close: Floats | None = None) -> Bools:
    """Return `bool[features]`: those that only count up or down, or (from 4,000 candles on) wander as a running sum
    does, and not with the price.

    In 8,640 candles 84 of 100 running sums of unrelated numbers are found; sums over a day (288 candles), and what
    forgets half in 138, are called one in none of 600. What forgets half in 346 is, in 17 of 100.
    """
    found = np.zeros(values.shape[1], dtype=np.bool_)
    for f in range(values.shape[1]):
        there = np.isfinite(values[:, f])
        x = values[there, f]
        steps = np.diff(x)
        if len(x) < 200 or not steps.any():
            continue
        if max((steps > 0).mean(), (steps < 0).mean()) >= COUNTER_SHARE:
            found[f] = True
            continue
        if len(x) < WALK_ROWS or (steps != 0).mean() < 0.25 or steps.std() == 0:
            continue
        beside = 0.0
        if close is not None and np.isfinite(close[there]).all() and close[there].std() > 0:
            beside = abs(float(np.corrcoef(x, close[there])[0, 1]))
        related = abs(float(np.corrcoef(steps[1:], steps[:-1])[0, 1]))
        ratios = [float(np.var(x[q:] - x[:-q]) / (q * np.var(steps))) for q in (len(x) // 8, len(x) // 4)]
        found[f] = (
            related < 0.3 and beside < 0.9 and all(r >= limit for r, limit in zip(ratios, WALK_RATIO, strict=True))
        )
    return found


def check_repeatable(first: Computed, second: Computed) -> Check:
    """Return whether a function gave the same features twice for the same candles."""
    if first.names != second.names:
        return Check(
            name="repeatable", verdict="FAIL",
            sentence="The same candles gave other columns at the second call. Make the function depend on its candles "
            "alone; nothing below can be relied on before.",
        )  # fmt: skip
    same = ((first.values == second.values) | (np.isnan(first.values) & np.isnan(second.values))).all(axis=0)
    other = [name for name, is_same in zip(first.names, same, strict=True) if not is_same]
    return Check(
        name="repeatable", verdict="FAIL" if other else "PASS", figures={"features": other},
        sentence="The same candles give the same features." if not other
        else f"{_named(other)}: other values for the same candles at the second call. Take the chance, the clock or "
        "the memory out of the function; what is said of them below means nothing before.",
    )  # fmt: skip


def check_lookback(memories: Sequence[Memory], rows: int, *, live_candles: int | None = None) -> list[Check]:
    """Return whether the history a bot gives its features is long enough.

    `rows` is the history the look-backs were found on; `live_candles` what the bot gives live, where that is known.
    """
    endless = [m for m in memories if m.kind == "start"]
    longer = [m for m in memories if m.kind == "long"]
    known = sorted((m for m in memories if m.candles is not None), key=lambda m: -(m.candles or 0))
    needed = known[0].candles or 0 if known else 0
    figures = {m.name: m.candles if m.candles is not None else m.kind for m in memories}
    checks = []
    if endless:
        checks.append(Check(
            name="depends on the start", verdict="FAIL",
            sentence=f"{_named(m.name for m in endless)}: what they say depends on where the history begins, however "
            "long it is: live and backtest can never agree. Difference them, or compute them over a fixed window.",
            figures={"features": [m.name for m in endless]},
        ))  # fmt: skip
    else:
        checks.append(Check(name="depends on the start", verdict="PASS",
                            sentence="No feature depends on where the history begins."))  # fmt: skip
    if longer:
        checks.append(Check(
            name="look-back", verdict="FAIL",
            sentence=f"{_named(m.name for m in longer)}: {rows // 2:,} candles of look-back are not enough yet. Run "
            "this again on a longer history to find out how many are, and give the bot as many.",
            figures=figures,
        ))  # fmt: skip
        return checks
    if not known:
        return checks
    slow = _named(f"{m.name} ({m.candles:,})" for m in known[:3])
    if live_candles is None:
        verdict, what = "WARN" if needed > 1 else "PASS", (
            f"The features need {needed:,} candles (most of all: {slow}). See that the bot loads at least as many "
            "before it computes them (--live-candles says how many it loads, and makes this a check)."
        )  # fmt: skip
    elif live_candles < needed:
        short = [m for m in known if (m.candles or 0) > live_candles]
        verdict, what = (
            "FAIL",
            (
                f"The bot loads {live_candles:,} candles and "
                f"{_count(len(short), 'feature needs', 'features need')} more, {needed:,} at the most ({slow}). Live "
                f"they are not what the model was trained on. Load {needed:,} candles."
            ),
        )
    else:
        verdict, what = "PASS", f"The bot loads {live_candles:,} candles, its features need {needed:,} ({slow})."
    checks.append(Check(name="look-back", verdict=verdict, sentence=what, figures=figures))  # type: ignore[arg-type]
    return checks


def check_lookahead(peeks: Sequence[Peek]) -> Check:
    """Return whether a feature looks ahead."""
    if not peeks:
        return Check(name="look-ahead", verdict="PASS",
                     sentence="No feature changes when later candles are taken away.")  # fmt: skip
    said = [
        f"{p.name} (all candles change: scaled over everything?)" if p.candles is None
        else f"{p.name} (the last {p.candles} before the cut change)"
        for p in peeks
    ]  # fmt: skip
    return Check(
        name="look-ahead", verdict="FAIL",
        sentence=f"{_named(said)}: what they said changes when later candles are taken away. The backtest knows the "
        "future there, the live bot does not. Take them out, or compute them from the past alone, and train again.",
        figures={p.name: {"away": _plain(p.away), "candles": p.candles} for p in peeks},
    )  # fmt: skip


def check_model(
    outcomes: Sequence[Outcome], *, trained_until_ms: int | None = None, payoff: float | None = None
) -> list[Check]:
    """Return what the trades of a model say: does its score rank, is it honest, does it earn, how much of it is out of
    sample.

    `outcomes` are net of fees, oldest first. With `trained_until_ms` only those opened after it are judged: what came
    before was seen in training.
    """
    checks, judged = [], list(outcomes)
    if trained_until_ms is None:
        checks.append(Check(
            name="out of sample", verdict="WARN",
            sentence="Nobody said until when the model was trained (--trained-until), so it cannot be told which "
            "trades it had seen. All of them are judged below; if it was trained on them they prove nothing.",
        ))  # fmt: skip
    else:
        judged = [o for o in outcomes if (o.closed_ms if o.opened_ms is None else o.opened_ms) > trained_until_ms]
        days = max((o.closed_ms - trained_until_ms for o in judged), default=0) / DAY_MS
        figures = {"days": round(days, 2), "trades": len(judged), "trades_in_sample": len(outcomes) - len(judged)}
        if not judged:
            checks.append(Check(
                name="out of sample", verdict="FAIL",
                sentence=f"All {len(outcomes)} trades were opened before the training data end: the model had seen "
                "them, and they prove nothing. Test it on candles after that date.", figures=figures,
            ))  # fmt: skip
        else:
            few = days < OUT_DAYS_WARN or len(judged) < OUT_TRADES_WARN
            checks.append(Check(
                name="out of sample", verdict="WARN" if few else "PASS",
                sentence=f"{len(judged)} trades over {days:.0f} days after the training, "
                + (f"fewer than {OUT_TRADES_WARN} trades or {OUT_DAYS_WARN:.0f} days: too little to trust. "
                   "Let it run on paper first." if few else "the rest is left out below."), figures=figures,
            ))  # fmt: skip
    if judged:
        checks += _judged(judged, payoff)
    return checks


def _judged(outcomes: Sequence[Outcome], payoff: float | None) -> list[Check]:
    known = edge(outcomes, payoff=payoff)
    figures: dict[str, Any] = {
        name: _plain(value) for name, value in msgspec.structs.asdict(known).items()
        if isinstance(value, int | float | bool) or value is None
    }  # fmt: skip
    scored = [o for o in outcomes if o.entry_probability is not None]
    if known.trades < known.trades_min or known.win_rate is None:
        said = f"{len(scored)} of {len(outcomes)} trades carry the probability they were entered with"
        return [Check(
            name="score", verdict="WARN", figures=figures,
            sentence=f"{said}; it takes {known.trades_min} to say anything about the score or its edge.",
        )]  # fmt: skip
    assert known.claimed is not None and known.win_rate_low is not None and known.win_rate_high is not None
    if known.auc is None or known.auc_low is None or known.auc_high is None:
        ranks = Check(name="score ranks outcomes", verdict="WARN", figures=figures,
                      sentence="All trades came out alike: whether the score ranks them cannot be told.")  # fmt: skip
    else:
        area = f"AUC {known.auc:.2f} [{known.auc_low:.2f}, {known.auc_high:.2f}] over {known.trades} trades"
        ranks = Check(
            name="score ranks outcomes", figures=figures,
            verdict="PASS" if known.ranks else "FAIL" if known.auc_high < 0.5 else "WARN",
            sentence=f"Higher scores win more often ({area})." if known.ranks
            else f"Higher scores win less often ({area}): the score is upside down. Look for a flipped label."
            if known.auc_high < 0.5
            else f"Higher scores do not credibly win more often ({area}); 0.5 is a coin. Do not move the entry "
            "threshold by it, and do not size by it.",
        )  # fmt: skip
    rates = (
        f"it claims {known.claimed:.0%} and wins {known.win_rate:.0%} [{known.win_rate_low:.0%}, "
        f"{known.win_rate_high:.0%}]"
    )
    honest = known.win_rate_low <= known.claimed <= known.win_rate_high
    claims = Check(
        name="claimed against realised", verdict="PASS" if honest else "FAIL" if known.claimed > known.win_rate_high
        else "WARN", figures=figures,
        sentence=f"The score is about right on average: {rates}." if honest
        else f"The score is too sure of itself: {rates}. Calibrate it on trades it was not trained on."
        if known.claimed > known.win_rate_high
        else f"The score is too modest: {rates}. Calibrate it; it may be refusing trades that earn.",
    )  # fmt: skip
    needed = "it is not known what it takes: there are too few wins or losses"
    if known.break_even is not None:
        needed = f"it takes {known.break_even:.0%} at its payoff and fees"
    earns = Check(
        name="edge after fees", verdict={True: "PASS", False: "FAIL", None: "WARN"}[known.earns], figures=figures,  # type: ignore[arg-type]
        sentence=f"It wins {known.win_rate:.0%} of {known.trades} trades, {needed}"
        + {True: ".", False: ". It loses money after fees: do not trade it.",
           None: ". That is no credible edge yet: trade small, or wait for more trades."}[known.earns],
    )  # fmt: skip
    return [ranks, claims, earns]


def _dead(names: Sequence[str], live: Bools) -> Check:
    dead = [name for name, alive in zip(names, live, strict=True) if not alive]
    if not dead:
        return Check(name="dead features", verdict="PASS", sentence="Every feature varies.", figures={"features": []})
    return Check(
        name="dead features", verdict="WARN", figures={"features": dead},
        sentence=f"{len(dead)} of {len(names)} never change: {_named(dead)}. Mend or drop them: what wakes up later, "
        "the model has never seen.",
    )  # fmt: skip


def _missing(names: Sequence[str], values: Floats) -> Check:
    share = {n: float(s) for n, s in zip(names, (~np.isfinite(values)).mean(axis=0), strict=True) if s > MISSING_WARN}
    most = max(share.values(), default=0.0)
    listed = _named(f"{n} ({s:.0%})" for n, s in sorted(share.items(), key=lambda item: -item[1]))
    return Check(
        name="missing values", figures={"share": share},
        verdict="FAIL" if most > MISSING_FAIL else "WARN" if share else "PASS",
        sentence=f"No feature is missing in more than {MISSING_WARN:.0%} of the candles." if not share
        else f"{_count(len(share), 'feature has', 'features have')} "
        f"no value in more than {MISSING_WARN:.0%} of the candles: {listed}. "
        "See that live and backtest fill the gaps the same way, or drop the warm-up rows from training.",
    )  # fmt: skip


def _price_level(priced: Sequence[str]) -> Check:
    return Check(
        name="price levels", verdict="WARN" if priced else "PASS", figures={"features": list(priced)},
        sentence="No feature is in price units." if not priced
        else f"{_count(len(priced), 'is', 'are')} in price units: {_named(priced)}. A model learns the prices it was "
        "trained at from them; divide them by the close.",
    )  # fmt: skip


def _cumulative(names: Sequence[str], found: Bools) -> Check:
    running = [name for name, is_one in zip(names, found, strict=True) if is_one]
    return Check(
        name="running totals", verdict="WARN" if running else "PASS", figures={"features": running},
        sentence="No feature looks like a running total." if not running
        else f"{_named(running)}: over this sample they wander and do not come back, as running totals do. If they are "
        "some, live they soon lie where the model was never trained, and depend on where the bot was started: "
        "difference them. The feature function itself tells for certain (--function).",
    )  # fmt: skip


def _duplicates(names: Sequence[str], scaled: Floats) -> Check:
    matrix = np.abs(scaled.T @ scaled / max(len(scaled), 1))
    above = np.triu(matrix, 1)
    groups: list[list[str]] = []
    taken: set[int] = set()
    for f in range(len(names)):
        same = [int(g) for g in np.flatnonzero(above[f] >= SAME) if int(g) not in taken]
        if f not in taken and same:
            groups.append([names[f], *(names[g] for g in same)])
            taken.update(same)
    pairs = int((above > ALIKE).sum())
    said = _named(" = ".join(group) for group in groups)
    return Check(
        name="duplicates", verdict="WARN" if groups else "PASS", figures={"groups": groups, "pairs_above_0.95": pairs},
        sentence=(f"No two features are the same ({pairs} pairs correlate above {ALIKE})." if not groups
                  else f"{_count(len(groups), 'group says', 'groups say')} the same thing under several names: "
                  f"{said}. Keep one of each "
                  f"({pairs} pairs correlate above {ALIKE})."),
    )  # fmt: skip


def _independent(scaled: Floats) -> Check:
    number = effective_number(scaled)
    count = scaled.shape[1]
    return Check(
        name="independent features", verdict="PASS", figures={"effective": _plain(number), "live": count},
        sentence="There is no live feature." if not count
        else f"{count} live features carry about {number:.0f} independent ones.",
    )  # fmt: skip


def _live(values: Floats) -> Bools:
    live = np.zeros(values.shape[1], dtype=np.bool_)
    for f in range(values.shape[1]):
        column = values[:, f][np.isfinite(values[:, f])]
        live[f] = column.size > 0 and bool((column != column[0]).any())
    return live


def _standard(values: Floats) -> Floats:
    """Each column with mean 0 and standard deviation 1; a missing value counts as its mean."""
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    count = np.maximum(there.sum(axis=0), 1)
    centred = np.where(there, filled - filled.sum(axis=0) / count, 0.0)
    # Scaled by the largest first: absurd figures (1e200 is a number, too) must not overflow when squared.
    size = np.abs(centred).max(axis=0, initial=0.0)
    centred = centred / np.where(size > 0, size, 1.0)
    spread = np.sqrt((centred**2).sum(axis=0) / max(len(values), 1))
    found: Floats = centred / np.where(spread > 0, spread, 1.0)
    return found


def _named(names: Iterable[str]) -> str:
    each = list(names)
    shown = ", ".join(each[:NAMED_MAX])
    return shown if len(each) <= NAMED_MAX else f"{shown} and {len(each) - NAMED_MAX} more"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
