"""Does the score rank outcomes, is it right, does the bot earn its fees, and did it ever, out of sample?

Before a threshold in the score is moved, this is asked: where a higher score does not win more often, a higher
threshold only trades less. Functions take `regime.outcomes.Outcome`, oldest first, net of fees; all intervals are
two-sided, 90 %, and assume that trades are independent of each other. Overlapping trades carry less evidence than their
number says, so all intervals are too narrow for them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from regime.outcomes import Outcome, break_even_win_rate, payoff_ratio, wilson_interval

Z = 1.645
"""Normal quantile of all intervals here: 90 %, two-sided."""
RANK_ON, RANK_OFF = 1.0, 0.5
"""Standard errors of the AUC above one half from which on a threshold is moved, and under which it is let go again.
Sooner than certainty (`Z`): a threshold that waits costs more than one that was moved in vain. What comes of it is in
docs/measurements/outcomes.md."""
BINS_MAX, PER_BIN_MIN = 10, 10
DAY_MS = 86_400_000


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """Trades with scores from `low` to `high` (both occurred): what they claimed on average, and what they won."""

    low: float
    high: float
    count: int
    claimed: float
    realised: float


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """What the outcomes say about the score and about the bot. None: not known, or not defined.

    `payoff` and `break_even` (with `win_rate`) are given as soon as they are defined; all else, and every verdict, from
    `trades_min` trades on.

    `ranks`: True, a higher score wins more often, credibly (lower end of the AUC above 0.5); False, that is not shown.
    `earns`: True or False where the win rate is credibly above or below break-even, their uncertainty taken together.
    `ece` is the mean distance of claimed and realised rate over `bins`; a score that is right would show about
    `ece_expected` with as many trades. `brier_skill` is 1 for a prophet, 0 for who always says the base rate.
    """

    trades: int
    """Outcomes that carry an entry probability."""
    trades_min: int
    n_real: int
    n_shadow: int
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    rank_z: float | None = None
    """Standard errors by which the AUC lies above 0.5: for whoever wants another limit than `ranks`, or hysteresis."""
    ranks: bool | None = None
    claimed: float | None = None
    win_rate: float | None = None
    win_rate_low: float | None = None
    win_rate_high: float | None = None
    brier: float | None = None
    brier_skill: float | None = None
    ece: float | None = None
    ece_expected: float | None = None
    bins: tuple[ReliabilityBin, ...] = ()
    payoff: float | None = None
    break_even: float | None = None
    break_even_low: float | None = None
    break_even_high: float | None = None
    earns: bool | None = None
    sentences: tuple[str, ...] = ()


def edge(outcomes: Sequence[Outcome], *, trades_min: int = 50, payoff: float | None = None) -> Edge:
    """Return what is known about the score and the bot.

    Parameters
    ----------
    outcomes
        Those without an entry probability count for the payoff ratio only. Real and shadow ones count alike; their
        numbers are given.
    trades_min
        With fewer, no verdict is given.
    payoff
        Mean win / mean loss, if it is known (take profit and stop loss fixed, say); else estimated from `outcomes`,
        and its uncertainty counts.
    """
    scored = [o for o in outcomes if o.entry_probability is not None and not math.isnan(o.entry_probability)]
    n, shadow = len(scored), sum(o.shadow for o in scored)
    won = [o.profit_ratio > 0 for o in scored]
    successes = sum(won)
    low, high = wilson_interval(successes, n, Z)
    needed, needed_low, needed_high = break_even_interval(outcomes, payoff=payoff)
    found = Edge(
        trades=n,
        trades_min=trades_min,
        n_real=n - shadow,
        n_shadow=shadow,
        win_rate=successes / n if n else None,
        win_rate_low=_known(low),
        win_rate_high=_known(high),
        payoff=_known(payoff_ratio(outcomes) if payoff is None else payoff),
        break_even=_known(needed),
        break_even_low=_known(needed_low),
        break_even_high=_known(needed_high),
        sentences=(_too_few(n, trades_min, len(outcomes)),),
    )
    if n < max(trades_min, 1):
        return found
    scores = [min(max(o.entry_probability or 0.0, 0.0), 1.0) for o in scored]
    rate = successes / n
    area = auc(scores, won)
    area_low, area_high = auc_interval(area, successes, n - successes)
    bins = reliability(scores, won)
    brier = math.fsum((s - y) ** 2 for s, y in zip(scores, won, strict=True)) / n
    ranks = area_low > 0.5 if not math.isnan(area) else None
    found = msgspec.structs.replace(
        found,
        auc=_known(area),
        auc_low=_known(area_low),
        auc_high=_known(area_high),
        rank_z=_known(auc_z(area, successes, n - successes)),
        ranks=ranks,
        claimed=math.fsum(scores) / n,
        brier=brier,
        brier_skill=1.0 - brier / (rate * (1.0 - rate)) if 0 < successes < n else None,
        ece=math.fsum(b.count * abs(b.claimed - b.realised) for b in bins) / n,
        ece_expected=math.fsum(b.count * math.sqrt(2 / math.pi * b.claimed * (1.0 - b.claimed) / b.count) for b in bins)
        / n,
        bins=bins,
        earns=_earns((rate, low, high), (needed, needed_low, needed_high)),
    )
    return msgspec.structs.replace(found, sentences=_sentences(found))


def auc(scores: Sequence[float], won: Sequence[bool]) -> float:
    """Return the chance that a trade that won had the higher score than one that lost; equal scores count half.

    0.5 is a score that says nothing. NaN unless there is at least one of each.

    >>> auc([0.9, 0.8, 0.7], [True, False, False])
    1.0
    """
    ordered = sorted(zip(scores, won, strict=True))
    wins = sum(won)
    losses = len(ordered) - wins
    if not wins or not losses:
        return math.nan
    ranks, start = 0.0, 0
    while start < len(ordered):
        end = start
        while end < len(ordered) and ordered[end][0] == ordered[start][0]:
            end += 1
        ranks += (start + 1 + end) / 2 * sum(success for _, success in ordered[start:end])
        start = end
    return (ranks - wins * (wins + 1) / 2) / (wins * losses)


def auc_interval(area: float, wins: int, losses: int, z: float = Z) -> tuple[float, float]:
    """Return the score interval of an AUC (Newcombe 2006, method 5: Hanley & McNeil's variance, solved as by Wilson).

    It holds near 0 and 1, too, and is conservative with many equal scores. (nan, nan) for NaN.
    """
    if math.isnan(area):
        return math.nan, math.nan
    half = (wins + losses) / 2 - 1

    def outside(truth: float) -> bool:
        spread = 1 + half * (1 - truth) / (2 - truth) + half * truth / (1 + truth)
        return abs(area - truth) > z * math.sqrt(truth * (1 - truth) * spread / (wins * losses))

    return _boundary(0.0, area, outside), _boundary(1.0, area, outside)


def auc_z(area: float, wins: int, losses: int) -> float:
    """Return by how many standard errors an AUC lies above one half, that of a score that says nothing.

    Hanley & McNeil's variance at one half, so `auc_z(...) > Z` and "the lower end of the interval is above 0.5" are the
    same. NaN for NaN.
    """
    half = (wins + losses) / 2 - 1
    return (area - 0.5) / math.sqrt(0.25 * (1 + half / 1.5) / (wins * losses)) if not math.isnan(area) else math.nan


def reliability(scores: Sequence[float], won: Sequence[bool]) -> tuple[ReliabilityBin, ...]:
    """Return claimed against realised win rate, in at most 10 bins of about equally many trades (at least 10 in each).

    Trades with the same score share a bin.
    """
    ordered = sorted(zip(scores, won, strict=True))
    n = len(ordered)
    count = max(1, min(BINS_MAX, n // PER_BIN_MIN))
    bins: list[ReliabilityBin] = []
    start = 0
    while start < n:
        end = max((len(bins) + 1) * n // count, start + min(PER_BIN_MIN, n - start))
        end = bisect.bisect_right(ordered, (ordered[end - 1][0], True))
        if n - end < PER_BIN_MIN:
            end = n
        part = ordered[start:end]
        bins.append(
            ReliabilityBin(
                low=part[0][0],
                high=part[-1][0],
                count=len(part),
                claimed=math.fsum(score for score, _ in part) / len(part),
                realised=sum(success for _, success in part) / len(part),
            )
        )
        start = end
    return tuple(bins)


def break_even_interval(outcomes: Sequence[Outcome], *, payoff: float | None = None) -> tuple[float, float, float]:
    """Return the win rate that just pays, and its interval (a point where `payoff` is given).

    The interval is that of the logarithm of mean win / mean loss (delta method), so it misleads with few wins or few
    losses, or where one of them dwarfs the others. All NaN unless there are at least two of each.
    """
    if payoff is not None:
        return (break_even_win_rate(payoff),) * 3
    gains = [o.profit_ratio for o in outcomes if o.profit_ratio > 0]
    losses = [-o.profit_ratio for o in outcomes if o.profit_ratio < 0]
    if len(gains) < 2 or len(losses) < 2:
        return math.nan, math.nan, math.nan
    ratio = payoff_ratio(outcomes)
    spread = Z * math.sqrt(_relative_variance(gains) + _relative_variance(losses))
    grown = math.exp(min(spread, 700.0))
    return break_even_win_rate(ratio), break_even_win_rate(ratio * grown), break_even_win_rate(ratio / grown)


def _relative_variance(values: Sequence[float]) -> float:
    """Return the variance of the mean over its square; scaled, so that absurd figures do not overflow."""
    scale = max(values)
    shares = [value / scale for value in values]
    mean = math.fsum(shares) / len(shares)
    return math.fsum((s - mean) ** 2 for s in shares) / (len(shares) - 1) / len(shares) / mean**2


def _boundary(outer: float, inner: float, outside: Callable[[float], bool]) -> float:
    """Return where between `outer` (excluded) and `inner` (included) the interval ends."""
    for _ in range(60):
        middle = (outer + inner) / 2
        if outside(middle):
            outer = middle
        else:
            inner = middle
    return inner


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _earns(rate: tuple[float, float, float], needed: tuple[float, float, float]) -> bool | None:
    if math.isnan(needed[0]):
        return None
    # Both are estimates: the distance is held against both half widths (added as independent errors).
    if rate[0] - needed[0] > math.hypot(rate[0] - rate[1], needed[2] - needed[0]):
        return True
    if needed[0] - rate[0] > math.hypot(rate[2] - rate[0], needed[0] - needed[1]):
        return False
    return None


def _too_few(scored: int, trades_min: int, trades: int) -> str:
    if not scored and trades:
        return f"not known: none of {trades} trades carries the probability it was entered with"
    of = "" if scored == trades else " with an entry probability"
    return f"not known yet ({scored} of {trades_min} trades{of})"


def _sentences(e: Edge) -> tuple[str, ...]:
    assert e.claimed is not None and e.win_rate is not None and e.win_rate_low is not None
    assert e.win_rate_high is not None
    said = []
    trades = f"{e.trades} trades" + (f", {e.n_shadow} of them shadow trades" if e.n_shadow else "")
    if e.auc is None or e.auc_low is None or e.auc_high is None:
        said.append(f"whether your score ranks outcomes cannot be told: all of {trades} came out alike")
    else:
        figures = f"AUC {e.auc:.2f} [{e.auc_low:.2f}, {e.auc_high:.2f}] over {trades}"
        if e.ranks:
            said.append(f"your score ranks outcomes: {figures}")
        elif e.auc_high < 0.5:
            said.append(
                f"your score ranks outcomes the wrong way round: {figures}; the entry threshold is left alone and the "
                "gate works on the stream as a whole"
            )
        elif e.auc_high < 0.55:
            said.append(
                f"your score does not rank outcomes: {figures}; the entry threshold is left alone and the gate works "
                "on the stream as a whole"
            )
        else:
            assert e.rank_z is not None
            meanwhile = (
                "that is enough to move the entry threshold" if e.rank_z > RANK_ON
                else "an entry threshold that was moved stays, no other is" if e.rank_z > RANK_OFF
                else "the entry threshold is left alone until it has"
            )  # fmt: skip
            said.append(f"your score has not been shown to rank outcomes for certain: {figures}; {meanwhile}")
    rates = f"it claims {e.claimed:.0%} wins and gets {e.win_rate:.0%} [{e.win_rate_low:.0%}, {e.win_rate_high:.0%}]"
    if e.claimed > e.win_rate_high:
        said.append(f"your score is too sure of itself: {rates}")
    elif e.claimed < e.win_rate_low:
        said.append(f"your score is too modest: {rates}")
    else:
        said.append(f"your score is about right on average: {rates}")
    if e.break_even is None or e.break_even_low is None or e.break_even_high is None:
        said.append("break-even is not known: it takes two wins and two losses")
    else:
        needed = f"break-even after fees is {e.break_even:.0%} wins"
        if e.break_even_low < e.break_even_high:
            needed += f" [{e.break_even_low:.0%}, {e.break_even_high:.0%}]"
        verdict = {
            True: "the trades earn their fees",
            False: "the trades do not earn their fees",
            None: "whether the trades earn their fees cannot be told yet",
        }[e.earns]
        said.append(f"{verdict}: {e.win_rate:.0%} won, {needed}")
    return tuple(said)


# --- overfit, or a change of regime? -------------------------------------------------------------------------------

OUT_TRADES_MIN = 20
SEGMENT_MIN = 12
"""Trades on each side of a split."""
SPLIT_LIMIT = 9.0
"""Twice the log likelihood ratio that the best of all splits must reach."""
EARLY_MAX, EARLY_Z = 60, 1.0
"""Trades after the training that tell when the losses began, and how many standard errors they must be below zero."""
NEAR_DAYS = 3
"""A change of the market so soon after the training cannot be told from overfit."""


class OutOfSample(msgspec.Struct, frozen=True, kw_only=True):
    """How the bot fares on candles it was not trained on.

    `verdict`: `overfit` (the losses begin where the training data end), `regime change` (it earned on new candles for a
    while, then stopped), `healthy` (it earns), `unknown` (cannot be told; `sentence` says why). `since_ms` is where the
    losses begin, or the end of the training data where there are none; `days` are those since the training.
    """

    since_ms: int | None
    days: float
    trades_in: int
    trades_out: int
    verdict: str
    sentence: str


def out_of_sample(
    outcomes: Sequence[Outcome], trained_until_ms: int | None, change_ms: int | None, drift: bool, now_ms: int
) -> OutOfSample:
    """Tell overfit from a change of the market, as far as the trades can.

    The net returns since the training are split in two where the means differ most. If the second part loses and the
    first one earned, each credibly (one-sided, 95 %), the regime changed; if they lost from the start, and the first
    trades alone say so (`EARLY_Z`), the model was overfit. Everything between is not called by either name.

    It misleads where the bot's settings were chosen on candles after `trained_until_ms` (then those are not out of
    sample), and where the market changed right when the training ended, unless `drift` or `change_ms` say that it did.
    A bot that earned for its first 15 trades only is called overfit one time in four.

    It is made to be silent rather than wrong. Simulated bots, payoff 1, sizes of wins and losses spread by 0.6
    (logarithm), 600 of each, shares in per cent:

    | wins | overfit | regime change | healthy | unknown |
    | --- | --- | --- | --- | --- |
    | 0.40 from the start, 60 trades | 32 | 0 | 0 | 68 |
    | 0.40 from the start, 250 | 57 | 2 | 0 | 41 |
    | 0.35 from the start, 80 | 63 | 0 | 0 | 37 |
    | 0.35 from the start, 200 | 80 | 0 | 0 | 20 |
    | 0.65 for 15, then 0.38 for 100 | 24 | 13 | 0 | 63 |
    | 0.65 for 30, then 0.38 for 90 | 6 | 30 | 0 | 64 |
    | 0.62 for 120, then 0.38 for 80 | 0 | 52 | 4 | 45 |
    | 0.60 for 300, then 0.40 for 100 | 0 | 55 | 16 | 29 |
    | 0.58 for 150 | 0 | 1 | 50 | 49 |
    | 0.50 for 150 | 3 | 1 | 7 | 89 |

    Parameters
    ----------
    outcomes
        Real and shadow, oldest first, net of fees. A trade belongs to where it was opened (`closed_ms` where that is
        not known).
    trained_until_ms
        End of the last candle the model was trained on.
    change_ms
        When the features changed, if a detector dates it.
    drift
        Whether the features are off their reference now.
    now_ms
        Event time.
    """
    if trained_until_ms is None:
        return OutOfSample(
            since_ms=None, days=0.0, trades_in=0, trades_out=0, verdict="unknown",
            sentence="whether the model is overfit cannot be told: nobody said until when it was trained",
        )  # fmt: skip
    times = [o.closed_ms if o.opened_ms is None else o.opened_ms for o in outcomes]
    late = [(at, o.profit_ratio) for at, o in zip(times, outcomes, strict=True) if at > trained_until_ms]
    returns = [r for _, r in late]
    days = max(0.0, (now_ms - trained_until_ms) / DAY_MS)
    trained = _date(trained_until_ms)

    def said(verdict: str, sentence: str, since_ms: int = trained_until_ms) -> OutOfSample:
        return OutOfSample(
            since_ms=since_ms, days=days, trades_in=len(outcomes) - len(late), trades_out=len(late), verdict=verdict,
            sentence=f"out of sample since {trained}: {sentence}",
        )  # fmt: skip

    n = len(returns)
    if n < OUT_TRADES_MIN:
        return said("unknown", f"overfit or not cannot be told yet, {n} of {OUT_TRADES_MIN} trades so far")
    split, evidence = _split(returns)
    changed = evidence > SPLIT_LIMIT
    before, after = returns[:split], returns[split:]
    recent = after if changed else returns
    if _strength(recent) > -Z:
        if _strength(recent) > Z and math.fsum(returns) > 0:
            return said("healthy", f"it earns there, {_mean_return(recent)} a trade over {len(recent)} trades")
        return said("unknown", f"over {len(recent)} trades it neither earns nor loses more than chance would explain")
    moved = drift or change_ms is not None
    if changed and _strength(before) > Z:
        also = (
            "the features changed as well"
            if moved
            else "the features look as before, so it is what they mean that changed"
        )
        return said(
            "regime change",
            f"it earned {_mean_return(before)} a trade over {split} trades, and loses {_mean_return(after)} a trade "
            f"since {_date(late[split][0])}; a regime change, not overfit ({also})",
            late[split][0],
        )
    early = returns[: min(EARLY_MAX, max(OUT_TRADES_MIN, n // 2))]
    if _strength(early) > -EARLY_Z or (changed and _strength(before) > -0.5):
        return said(
            "unknown",
            f"it loses there, {_mean_return(recent)} a trade, but its first {len(early)} trades do not tell whether "
            "from the start (overfit) or only later (regime change)",
        )
    if moved and (change_ms is None or change_ms <= trained_until_ms + NEAR_DAYS * DAY_MS):
        when = "at an unknown date" if change_ms is None else f"on {_date(change_ms)}"
        return said(
            "unknown",
            f"the losses begin there, but the features changed {when}, so overfit and regime change look the same",
        )
    return said(
        "overfit",
        f"the losses begin there ({_mean_return(early)} a trade over the first {len(early)} trades); overfit, not a "
        "regime change",
    )


def _split(returns: Sequence[float]) -> tuple[int, float]:
    """Return where two means differ most, and twice the log likelihood ratio against a single mean."""
    n = len(returns)
    scale = max(abs(r) for r in returns) or 1.0
    shares = [r / scale for r in returns]
    mean = math.fsum(shares) / n
    whole = math.fsum((s - mean) ** 2 for s in shares)
    if whole <= 0.0:
        return n, 0.0
    best, most, total, left = n, 0.0, math.fsum(shares), 0.0
    for k in range(1, n):
        left += shares[k - 1]
        if SEGMENT_MIN <= k <= n - SEGMENT_MIN:
            gain = left * left / k + (total - left) ** 2 / (n - k) - total * total / n
            if gain > most:
                best, most = k, gain
    return best, -n * math.log(max(1.0 - most / whole, 1e-12))


def _strength(returns: Sequence[float]) -> float:
    """Return mean over its standard error; infinite where all returns are alike, 0 with fewer than two."""
    if len(returns) < 2:
        return 0.0
    scale = max(abs(r) for r in returns)
    if scale == 0.0:
        return 0.0
    shares = [r / scale for r in returns]
    mean = math.fsum(shares) / len(shares)
    variance = math.fsum((s - mean) ** 2 for s in shares) / (len(shares) - 1)
    if variance <= 0.0:
        return math.copysign(math.inf, mean)
    return mean / math.sqrt(variance / len(shares))


def _mean_return(returns: Sequence[float]) -> str:
    scale = max(abs(r) for r in returns) or 1.0
    return f"{scale * (math.fsum(r / scale for r in returns) / len(returns)):+.2%}"


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")
