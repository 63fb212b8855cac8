"""Seeded bots whose true win probability is known: for the tests, the benchmarks and the documentation.

A bot emits signals with a score. A win pays `payoff`, a loss costs 1, and each trade costs `fee`, all in units of what
is risked; so the break-even win rate is (1 + fee) / (1 + payoff). The true probability of a signal follows from its
score s by sigmoid(a + b logit(s)), where a and b walk along one of the paths of `KINDS`: only the oracle knows it.

Where it misleads: signals are independent of each other and evenly spaced, every win and every loss is alike unless
`spread` is given, and the law of the scores never changes. Real trades overlap and come in bursts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal[
    "stable good", "permanent break", "temporary break", "slow decay", "switching", "score goes flat", "always bad"
]
Variant = Literal["wide", "narrow", "plateau"]

KINDS: tuple[Kind, ...] = get_args(Kind)
VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""`wide`: scores vary much and are worth it. `narrow`: they vary little. `plateau`: three steps instead of a curve."""


@dataclass(frozen=True, kw_only=True)
class Bot:
    """Signals of one bot, oldest first. Arrays have one row per signal.

    `score` is what the bot claims and `p` the true probability of a win, `float64[n]`; `won` is `bool[n]`; `returns`,
    `float64[n]`, is what the trade makes after fees if it is taken, in units of what is risked. `break_even` is the
    win rate at which such trades just pay.
    """

    name: str
    score: Floats
    p: Floats
    won: NDArray[np.bool_]
    returns: Floats
    payoff: float
    fee: float
    break_even: float

    @property
    def expected(self) -> Floats:
        """Return what a signal makes on average after fees, `float64[n]`, in units of what is risked."""
        found: Floats = self.p * (1.0 + self.payoff) - (1.0 + self.fee)
        return found


def simulate_bot(
    kind: Kind,
    variant: Variant = "wide",
    *,
    seed: int,
    signals: int = 3000,
    payoff: float = 1.0,
    fee: float = 0.06,
    spread: float = 0.0,
) -> Bot:
    """Return the bot of this kind.

    Parameters
    ----------
    kind, variant
        The path of the true win rate, and how the score is tied to it.
    seed
        Any integer >= 0; same arguments, same bot.
    signals
        Length of the path. Breaks come at a share of it (a half, a third, a quarter); `switching` changes on average
        every 250 signals.
    payoff, fee
        See the module. Scores lie around break-even + 0.047, so the bots are alike whatever the payoff.
    spread
        Standard deviation of the logarithm of wins and of losses around their mean; 0 is all alike.
    """
    rng = np.random.default_rng(seed)
    break_even = _break_even(payoff, fee)
    a, b = _path(kind, signals, rng)
    # As beta(6, 4.4) around a break-even of 0.53; ten times as concentrated where the score says little.
    centre = break_even + 6.0 / 10.4 - 0.53
    weight = 104.0 if variant == "narrow" else 10.4
    score = rng.beta(weight * centre, weight * (1.0 - centre), signals)
    if variant == "plateau":
        steps = np.where(score < break_even + 0.02, -0.06, np.where(score < break_even + 0.15, 0.03, 0.07))
        p = np.clip(break_even + steps + 0.23 * a * b, 0.05, 0.95)
    else:
        logit = np.log(score / (1.0 - score))
        # Flat means: the same for every score. At a payoff of 1 that is a slope of 0 around 0.
        level = np.log(break_even / (1.0 - break_even)) - np.log(0.53 / 0.47)
        p = 1.0 / (1.0 + np.exp(-(a + (1.0 - b) * level + b * logit)))
    return _bot(f"{kind}, {variant}", score, p, rng, payoff, fee, spread)


def steady_bot(
    p: float, *, seed: int, signals: int = 3000, payoff: float = 1.0, fee: float = 0.0, spread: float = 0.0
) -> Bot:
    """Return a bot that wins with probability `p` for ever, whatever its score says (it is spread over 0.8 - 0.95).

    Parameters as in `simulate_bot`.
    """
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.8, 0.95, signals)
    return _bot(f"steady {p:g}", score, np.full(signals, p), rng, payoff, fee, spread)


def regret(exposure: Floats | NDArray[np.bool_], bot: Bot) -> float:
    """Return what a policy left on the table, per 1,000 signals, in units of what is risked on one; never below 0.

    The oracle takes exactly the signals that earn on average. Both sides are valued with the true probability, so luck
    does not enter the comparison.

    Parameters
    ----------
    exposure
        `float64[n]` or `bool[n]`: the share of the full size that was put on each signal, 0..1.
    """
    expected = bot.expected
    left = np.maximum(expected, 0.0).sum() - (np.asarray(exposure, dtype=np.float64) * expected).sum()
    return float(left) / len(expected) * 1000.0


def _break_even(payoff: float, fee: float) -> float:
    if not payoff > 0.0 or not 0.0 <= fee < payoff:
        raise ValueError(f"payoff must be above 0 and fee between 0 and payoff (got {payoff} and {fee})")
    return (1.0 + fee) / (1.0 + payoff)


def _path(kind: Kind, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the offset a and the slope b of every signal; 0 and 1 is a score that is right."""
    a, b = np.zeros(n), np.ones(n)
    if kind == "permanent break":
        a[n // 2 :] = -0.9
    elif kind == "temporary break":
        a[n // 3 : n // 3 + n // 4] = -0.9
    elif kind == "slow decay":
        a[n // 4 :] = -np.linspace(0.0, 1.2, n - n // 4)
    elif kind == "switching":
        start, bad = 0, False
        while start < n:
            length = int(rng.geometric(1 / 250))
            a[start : start + length] = -0.9 if bad else 0.1
            start, bad = start + length, not bad
    elif kind == "score goes flat":
        a[n // 2 :], b[n // 2 :] = -0.05, 0.0
    elif kind == "always bad":
        a[:] = -0.6
    elif kind != "stable good":
        raise ValueError(f"unknown kind of bot {kind!r}; known: {', '.join(KINDS)}")
    return a, b


def _bot(
    name: str, score: Floats, p: Floats, rng: np.random.Generator, payoff: float, fee: float, spread: float
) -> Bot:
    won = rng.random(len(score)) < p
    size = np.exp(spread * rng.standard_normal(len(score)) - spread**2 / 2) if spread else np.ones(len(score))
    # The fee is paid on the stake, whatever the trade made; at least a hair is won by a win, so that `won` is net.
    returns = np.where(won, np.maximum(payoff * size - fee, 1e-9), -size - fee)
    return Bot(
        name=name, score=score, p=p, won=won, returns=returns, payoff=payoff, fee=fee,
        break_even=_break_even(payoff, fee),
    )  # fmt: skip
