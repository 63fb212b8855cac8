"""Is a bot that earned its fees still earning them? An e-detector over the outcomes of one side, and its mirror image.

Pure functions of the remembered outcomes (oldest first, at most 500 matter), so that the rule that asks keeps no state.

For each outcome that may have been the first bad one, a Bayes factor compares two stories: "from here on some win rate
under break-even" (flat over 0..break-even) and "all along the same win rate at or above break-even" (half of the prior
exactly at break-even, the rest flat above), which had learnt from the outcomes before. So a bot that used to win 80 %
is judged against 80 %, one without a past against break-even, and nobody says beforehand how good it was or how bad it
will be. Their sum is the Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo 2022, "E-detectors: a nonparametric
framework for sequential change detection") with mixtures in place of the unknown rates (as in Wasserman, Ramdas &
Balakrishnan 2020, "Universal inference", but with a mixture below the line, too, and a limit set by simulation: the
bound of theory holds on average over the prior only, and is not sharp).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

MEMORY = 500
"""Outcomes looked at; older ones are left out."""
_NULL_NODES = 12
_ALTERNATIVE_NODES = 8
# Share of the prior that says: earns exactly its fees. Without it, a bot at break-even would be rung up too often.
_ATOM = 0.5
# Fitted by simulation, see `pause_evidence`: limit = scale * false_pause_trades * odds ratio ** -slope.
_SCALE = 1.15
_SLOPE = 0.5
_LATE_START = 250.0  # Outcomes in which one more false start of good ones is allowed for, see `resume_evidence`.
_BASELINE_PRIOR = 4.0
_PAYOFF_PRIOR_SD = 1.0  # Of the logarithm of the payoff ratio, around a payoff of 1.
_SPREAD_PRIOR = 4.0  # Trades that the prior's spread of sizes (100 %) is worth.
_EDGE = 0.01  # Break-even is kept this far from 0 and 1: there, nothing could be said either way.


class PauseEvidence(NamedTuple):
    """What the outcomes say against "wins at least as often as break-even asks"."""

    log_e: float
    """ln(1 + e-detector); 0 without outcomes. One more loss never lowers it."""
    limit: float
    """What `log_e` must reach, so that the stated rate of false pauses holds."""
    start: int
    """Index of the outcome that most likely was the first of the bad ones; 0 without outcomes."""
    start_low: int
    start_high: int
    """The start lies in start_low..start_high with 90 % posterior probability, if there was one."""
    wins: int
    trades: int
    """Wins and outcomes since the start."""
    probability_below: float
    """Posterior probability (flat prior) that the win rate since the start is under break-even; NaN without outcomes.
    Too sure of itself: the start was chosen for looking bad."""
    pause: bool


class ResumeEvidence(NamedTuple):
    """What the outcomes since a pause began say for "wins more often than break-even asks"."""

    log_e: float
    limit: float
    """What `log_e` must reach."""
    wins: int
    trades: int
    """Wins and outcomes since the most likely begin of the good ones."""
    probability_above: float
    """Posterior probability (flat prior) that the win rate over these is above break-even; NaN without outcomes."""
    resume: bool


def pause_evidence(
    won: Bools,
    break_even: float,
    *,
    false_pause_trades: float = 1000.0,
    confidence: float = 0.8,
    independent_share: float = 1.0,
) -> PauseEvidence:
    """Weigh whether the newest outcomes stopped winning as often as break-even asks.

    It pauses when the e-detector reached its limit *and* the outcomes since the start are under break-even with a
    posterior probability of `confidence`. The limit is `false_pause_trades`, times a constant, lower for a bot that was
    far above break-even (there one loss says more, and a limit is overshot by more).

    Measured (600 simulated bots a line, `python tests/bench/bench_e_detector.py`, seed 650000; the constants were
    chosen on other seeds): false pauses as a multiple of the rate asked for, break-even known, standard error 0.04.
    Below 1 is conservative; over win rates up to 0.8 and 250, 1,000 or 3,000 trades asked, the most is 1.17, the least
    0.44.

    =====================  ====  ====  ====  ====  ====  ====
    1,000 trades asked     win rate
    ---------------------  ----------------------------------
    break-even             at it +0.03 0.53  0.60  0.72  0.80
    =====================  ====  ====  ====  ====  ====  ====
    0.50 (payoff 1.0)      0.88        -     0.83  0.86  0.88
    0.40 (payoff 1.5)      0.92  0.55  0.87  0.96  0.94  1.02
    0.33 (payoff 2.0)      0.92  0.51  0.96  0.96  0.98  1.17
    =====================  ====  ====  ====  ====  ====  ====

    Trades from a collapse to the pause, 1,000 trades asked, break-even 0.5, 300 healthy trades before; beside it the
    CUSUM that knows both rates and has 1,000 trades between false alarms:

    ==============  ===========  ============  =====  ======================
    win rate        CUSUM, mean  here: mean    ratio  median, 90 % of bots
    ==============  ===========  ============  =====  ======================
    0.80 to 0.30           8.6           9.4    1.10  8, 16
    0.80 to 0.40          11.7          14.8    1.26  11, 27
    0.70 to 0.30          13.0          14.4    1.11  12, 26
    0.70 to 0.40          20.2          24.4    1.21  19, 45
    0.60 to 0.35          27.2          38.3    1.41  30, 76
    0.55 to 0.30          27.6          37.8    1.37  33, 71
    ==============  ===========  ============  =====  ======================

    Bad from the first trade on (break-even 0.5): 0.2 is paused after 27 trades (mean), 0.3 after 49, 0.4 after 138.

    It misleads after a fall that still earns: the stated rate is that of a bot whose win rate stays what it was. Of
    bots that fell from 0.80 to 0.65 at a break-even of 0.5, 90 % are paused within 500 trades (half of them within 74):
    the confirmation is asked again with each outcome, and any bad run satisfies it. It misleads where trades depend on
    each other: at 0.60, where one in five repeats the outcome before it, false pauses come 2.5 times as often as asked,
    and 11 times where every other one does. An `independent_share` of 0.67 and 0.33 brings that to 0.65 and 0.57 times,
    and makes every pause later. And it misleads when the payoff changed: then break-even is of the past.

    Parameters
    ----------
    won : ndarray of bool, shape (n,)
        Whether each trade made money after fees, oldest first; the last 500 matter. None at all is no evidence.
    break_even
        Win rate (0..1) at which the bot neither earns nor loses. If it comes from the same trades:
        `cautious_break_even`.
    false_pause_trades
        Trades per false pause of a bot that earns its fees (above 0).
    confidence
        See above (0..1; 0 asks for no confirmation).
    independent_share
        How much of an independent trade each outcome is worth (above 0, at most 1).

    Raises
    ------
    ValueError
        For a figure outside its range; the message names it.
    """
    _check(break_even, independent_share)
    if not (math.isfinite(false_pause_trades) and false_pause_trades > 0):
        raise ValueError(f"false_pause_trades must be a number above 0, got {false_pause_trades!r}")
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must be at least 0 and below 1, got {confidence!r}")
    last = np.ascontiguousarray(won, dtype=np.bool_)[-MEMORY:]
    left_out = len(won) - len(last)
    found = _pause(last.tobytes(), break_even, false_pause_trades, confidence, independent_share)
    if not left_out:
        return found
    return found._replace(
        start=found.start + left_out, start_low=found.start_low + left_out, start_high=found.start_high + left_out
    )


def resume_evidence(
    won_since_pause: Bools,
    break_even: float,
    *,
    false_resume_share: float = 0.1,
    independent_share: float = 1.0,
) -> ResumeEvidence:
    """Weigh whether the outcomes since a pause began win more often than break-even asks.

    The mirror image, with two differences: there is no prior at break-even itself (a bot that comes out at zero may as
    well try), and the starts have weights (half for the first outcome, 1 / (2 n (n + 1)) for the n-th after it, and 1
    / 250 more for each) instead of one each. So the share of bad bots that are let back within m outcomes is bounded:
    at most `false_resume_share` * (1 + m / 250) on average over bad win rates that are flat between 0 and break-even
    (Ville 1939; Doob's inequality for the sum), less for those far under it, more for those close to it. A bot above
    break-even is let back with probability 1: there is no dead-lock. Without the 1 / 250 the share would be bounded
    for ever, and a return after a long bad stretch cost ever more evidence: on simulated bots that switch between good
    and bad (narrow scores), a regret of 37 instead of 25.

    Measured at break-even 0.5 (300 simulated bots, `python tests/bench/bench_e_detector.py --part resume`, seed
    650000), outcomes until it may trade again:

    ======================  =====  ======  ====  ==========  ===========
    win rate                mean   median  90 %  within 50   within 500
    ======================  =====  ======  ====  ==========  ===========
    0.30                                               5 %         15 %
    0.40                                              12 %         25 %
    0.45                                              27 %         43 %
    0.50                                              44 %         80 %
    0.55                     65.9      24   186       64 %         99 %
    0.60                     28.6      14    77       84 %        100 %
    0.70                     11.9       9    24       99 %        100 %
    0.80                      7.1       6    12      100 %        100 %
    0.80 after 30 at 0.25    13.3      12    21      100 %        100 %
    0.60 after 30 at 0.25    48.9      34    99       66 %        100 %
    ======================  =====  ======  ====  ==========  ===========

    Parameters
    ----------
    won_since_pause : ndarray of bool, shape (n,)
        Whether each trade (real or shadow) closed since the pause began made money after fees, oldest first.
    break_even, independent_share
        As in `pause_evidence`; the same break-even, or a bot between the two figures is neither good nor bad.
    false_resume_share
        See above (above 0, under 1).

    Raises
    ------
    ValueError
        For a figure outside its range; the message names it.
    """
    _check(break_even, independent_share)
    if not 0 < false_resume_share < 1:
        raise ValueError(f"false_resume_share must be above 0 and below 1, got {false_resume_share!r}")
    last = np.ascontiguousarray(won_since_pause, dtype=np.bool_)[-MEMORY:]
    return _resume(last.tobytes(), break_even, false_resume_share, independent_share)


def cautious_break_even(profits: Floats, *, z: float = 1.0) -> float:
    """Return a break-even win rate that is, likely, not above the true one, from the trades' own net returns.

    It is that of the payoff ratio's upper end: `z` posterior standard deviations above the logarithm of (mean win /
    mean loss). The prior says 1, within a factor of e, so that a bot without a single win (or loss) has a break-even,
    too: 0.27. The sizes' spread enters by the delta method, and is taken for 100 % where there are few.

    Measured (300 simulated bots a line, `python tests/bench/bench_e_detector.py --part estimated,delay`, seed 650000,
    lognormal sizes): false pauses of `pause_evidence` with this break-even are 0.68 to 1.01 times the rate of one in
    1,000 that was asked for, over payoffs 1 to 2, win rates from break-even to 0.72 and a spread of sizes (standard
    deviation of their logarithm) of 0.3 or 1.0. With a spread of 1.5 they are 0.91 and 1.06 times at payoff 1, and 1.56
    times at payoff 2 and a win rate at break-even (2.28 where one in 3,000 was asked for): not as promised. The price:
    a fall from 0.80 to 0.30 is seen after 9.6 instead of 9.4 trades, to 0.40 after 22.2 instead of 14.8, and a bot that
    wins 20 % from its first trade on after 42 instead of 27 (all at spread 1.0).

    It misleads where sizes are so heavy-tailed (the 1.5 above) that trades make the mean which the list does not have
    yet.

    Parameters
    ----------
    profits : ndarray of float, shape (n,)
        Net return of each trade, in any unit; the order does not matter, zeros count as neither.
    z
        Normal quantile (0 or more); 1.0 is the 84 % end.

    Raises
    ------
    ValueError
        If a return or `z` is not finite, or `z` is below 0.

    >>> round(cautious_break_even(np.array([])), 2)
    0.27
    """
    if not np.isfinite(profits).all():
        raise ValueError("profits must be finite numbers")
    if not (math.isfinite(z) and z >= 0):
        raise ValueError(f"z must be a number, 0 or more, got {z!r}")
    gains, losses = profits[profits > 0], -profits[profits < 0]
    middle, precision = 0.0, 1.0 / _PAYOFF_PRIOR_SD**2
    if len(gains) and len(losses):
        # Scaled: absurd figures must not overflow.
        gain, loss = _mean_and_spread(gains), _mean_and_spread(losses)
        measured = 1.0 / (gain[1] / len(gains) + loss[1] / len(losses))
        middle = (math.log(gain[0]) - math.log(loss[0])) * measured / (precision + measured)
        precision += measured
    return 1.0 / (1.0 + math.exp(min(middle + z / math.sqrt(precision), 700.0)))


def _mean_and_spread(sizes: Floats) -> tuple[float, float]:
    """Return the mean and the squared coefficient of variation, which a handful of trades cannot make small."""
    scale = float(sizes.max())
    scaled = sizes / scale
    mean = float(scaled.mean())
    spread = float(((scaled - mean) ** 2).sum()) / mean**2
    return mean * scale, (spread + _SPREAD_PRIOR) / (len(sizes) - 1 + _SPREAD_PRIOR)


def _check(break_even: float, independent_share: float) -> None:
    if not 0 <= break_even <= 1:
        raise ValueError(f"break_even must be a number between 0 and 1, got {break_even!r}")
    if not 0 < independent_share <= 1:
        raise ValueError(f"independent_share must be above 0 and at most 1, got {independent_share!r}")


def _beta_below(successes: float, failures: float, rate: float) -> float:
    """Return how much of the beta law lies below `rate`."""
    from scipy.special import betainc  # Here, because it takes 0.4 s to load and a start should not wait for it.

    return float(betainc(successes, failures, rate))


# The engine asks at each event of a side, and most events are not closed trades: then the answer is looked up.
@lru_cache(maxsize=1024)
def _pause(raw: bytes, break_even: float, trades: float, confidence: float, share: float) -> PauseEvidence:
    won = np.frombuffer(raw, np.bool_)
    asked = min(max(break_even, _EDGE), 1.0 - _EDGE)
    count = len(won)
    if not count:
        return PauseEvidence(0.0, math.log1p(_SCALE * trades), 0, 0, 0, 0, 0, math.nan, False)
    wins, terms = _log_terms(won, asked, share, _ATOM)
    log_e, start = float(np.logaddexp(0.0, _log_sum(terms))), int(terms.argmax())
    low, high = _interval(terms)
    # The higher above break-even the bot was, the more one loss says, the more the limit is overshot.
    baseline = (wins[start] + _BASELINE_PRIOR * asked) / (start + _BASELINE_PRIOR)
    lead = max(0.0, _logit(min(baseline, 1.0 - _EDGE / 2)) - _logit(asked))
    limit = math.log1p(_SCALE * trades * math.exp(-_SLOPE * lead))
    since, size = int(wins[-1] - wins[start]), count - start
    below = _beta_below(share * since + 1.0, share * (size - since) + 1.0, asked)
    return PauseEvidence(log_e, limit, start, low, high, since, size, below, log_e >= limit and below >= confidence)


@lru_cache(maxsize=1024)
def _resume(raw: bytes, break_even: float, false_share: float, share: float) -> ResumeEvidence:
    won = np.frombuffer(raw, np.bool_)
    asked = min(max(break_even, _EDGE), 1.0 - _EDGE)
    count, limit = len(won), -math.log(false_share)
    if not count:
        return ResumeEvidence(0.0, limit, 0, 0, math.nan, False)
    losses, terms = _log_terms(~won, 1.0 - asked, share, 0.0)
    terms += _log_start_prior(count)
    log_e, start = _log_sum(terms), int(terms.argmax())
    size = count - start
    since = size - int(losses[-1] - losses[start])
    above = _beta_below(share * (size - since) + 1.0, share * since + 1.0, 1.0 - asked)
    return ResumeEvidence(log_e, limit, since, size, above, log_e >= limit)


@lru_cache(maxsize=MEMORY)
def _log_start_prior(count: int) -> Floats:
    """Return ln of the weight of each start: half for the first outcome, 1 / (2 n (n + 1)) for the n-th after it, and
    `1 / _LATE_START` more for each."""
    later = np.arange(1.0, count)
    prior: Floats = np.log(0.5 / np.concatenate(([1.0], later * (later + 1.0))) + 1.0 / _LATE_START)
    prior.setflags(write=False)
    return prior


def _log_terms(won: Bools, asked: float, share: float, atom: float) -> tuple[NDArray[np.int64], Floats]:
    """Return wins before each outcome (one longer than `won`) and, for each start, ln of its Bayes factor."""
    wins = np.zeros(len(won) + 1, np.int64)
    np.cumsum(won, out=wins[1:])
    losses = np.arange(len(won) + 1) - wins
    nodes, weights, lower, lower_weights = _nodes(atom)
    before = _log_mixture(wins, losses, asked + (1.0 - asked) * nodes, weights, asked, share)
    after = _log_mixture((wins[-1] - wins)[:-1], (losses[-1] - losses)[:-1], asked * lower, lower_weights, asked, share)
    return wins, after + before[:-1] - before[-1]


@lru_cache(maxsize=2)
def _nodes(atom: float) -> tuple[Floats, Floats, Floats, Floats]:
    even = (np.arange(_NULL_NODES) + 0.5) / _NULL_NODES
    weights = np.full(_NULL_NODES, (1.0 - atom) / _NULL_NODES)
    if atom:
        even, weights = np.append(0.0, even), np.append(atom, weights)
    lower = (np.arange(_ALTERNATIVE_NODES) + 0.5) / _ALTERNATIVE_NODES
    return even, np.log(weights), lower, np.full(_ALTERNATIVE_NODES, -math.log(_ALTERNATIVE_NODES))


def _log_mixture(
    wins: NDArray[np.int64], losses: NDArray[np.int64], rates: Floats, log_weights: Floats, asked: float, share: float
) -> Floats:
    """Return ln of the mixture over `rates` of the likelihood of so many wins and losses, relative to `asked`."""
    slopes = np.stack((np.log(rates / asked), np.log((1.0 - rates) / (1.0 - asked)), log_weights), axis=1)
    slopes[:, :2] *= share
    logs: Floats = slopes @ np.stack((wins, losses, np.ones(len(wins))))
    # In doubles: the largest of each column is taken out, so that 500 outcomes cannot overflow at any break-even.
    most = logs.max(axis=0)
    logs -= most
    np.exp(logs, out=logs)
    found: Floats = np.log(logs.sum(axis=0)) + most
    return found


def _log_sum(logs: Floats) -> float:
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).sum()))


def _interval(terms: Floats) -> tuple[int, int]:
    total = np.cumsum(np.exp(terms - terms.max()))
    low, high = np.searchsorted(total, (0.05 * total[-1], 0.95 * total[-1]))
    return int(low), min(int(high), len(terms) - 1)


def _logit(rate: float) -> float:
    return math.log(rate / (1.0 - rate))
