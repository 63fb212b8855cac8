"""P(win | score, now): what a score of the bot is worth at present, learned from outcomes, and the threshold in it.

A bot's claimed probability may be right, too sure of itself, right until last week, or noise. Nobody knows which
beforehand, so seven guesses run side by side and are weighted by how well they foretold the outcomes so far (log loss;
fixed share, Herbster & Warmuth 1998, so that one which was bad for long is not
silenced for ever):

- the claimed score itself;
- three logistic recalibrations sigmoid(a + b logit(score)) (Platt 1999), a static one and two whose a and b drift, each
  an extended Kalman filter on a random walk (online Platt scaling: Gupta & Ramdas 2023);
- two tables of how often each fifth of the scores won, forgetting at two speeds: right where the truth is not logistic;
- a drifting base rate that does not look at the score.

It misleads where the score was retrained or rescaled (start a new one), where outcomes overlap (each is counted as if
it were independent of the others), and above the scores seen so far: the logistic guesses extrapolate. It learns from
every outcome alike, taken or shadow; fed with taken trades only, it learns nothing about what it refused.
"""

from __future__ import annotations

import math

import msgspec

SHARE = 0.001
"""Weight shared out anew with every outcome."""
PLATT_DRIFT = ((0.0, 0.0), (0.0008, 0.0002), (0.004, 0.0002))
"""Variance that a and b gain with every outcome: the static filter, the slow one, the quick one."""
PLATT_SD = (0.3, 0.5)
"""What a and b may be at first, around 0 and 1: the claim is believed until outcomes say otherwise."""
BIN_DISCOUNTS = (0.985, 0.996)
FLAT_DISCOUNT = 0.99
PRIOR = 8.0
"""Outcomes that the claim is worth in a table."""
BINS = 5
BINS_FROM = 60
"""Outcomes after which the scores are cut into fifths; until then the tables have one line each."""
GRID = 200
"""Thresholds are multiples of 1 / GRID."""
SCORES_DISCOUNT = 0.998
"""Memory of which scores occur: about the last 500."""

RARE = 0.02
"""A threshold that leaves a smaller share of the signals is none: so high up, P(win) is a guess about the unseen."""

_TINY = 1e-3
_GUESS_LOW, _GUESS_HIGH = 0.02, 0.98
_PLATT_VARIANCE_MAX = (4.0, 1.0)
_PLATT_MAX = 20.0
_STEP = 1e-9


class WinProbability(msgspec.Struct, kw_only=True):
    """The mixture for one side of one stream. Plain numbers only: a snapshot is a plain encoding of it.

    >>> side = WinProbability()
    >>> for i in range(200):
    ...     side.update(0.8, i % 2 == 0)
    >>> round(side.probability(0.8), 1)
    0.5
    """

    seen: int = 0
    """Outcomes learned from."""
    weights: list[float] = msgspec.field(default_factory=lambda: [1.0 / 7] * 7)
    platt: list[list[float]] = msgspec.field(
        default_factory=lambda: [[0.0, 1.0, PLATT_SD[0] ** 2, 0.0, PLATT_SD[1] ** 2] for _ in PLATT_DRIFT]
    )
    """Of each filter: a, b, and their variances and covariance (aa, ab, bb)."""
    edges: list[float] = []
    """Inner edges of the tables' lines; empty until there are `BINS_FROM` outcomes."""
    bins: list[list[float]] = msgspec.field(default_factory=lambda: [[0.0, 0.0] for _ in BIN_DISCOUNTS])
    """Of each table: won, lost, won, lost ... line by line, discounted."""
    flat: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.0])
    """Won, lost, discounted: the base rate."""
    first: list[float] = []
    """The first outcomes, until the scores are cut: the score, negative if it lost. Empty afterwards."""
    scores: list[float] = msgspec.field(default_factory=lambda: [0.0] * (GRID + 1))
    """How often each score occurred lately, by cell of the grid."""

    def update(self, score: float, won: bool) -> None:
        """Learn from one outcome.

        Parameters
        ----------
        score
            What the bot claimed at the entry, 0..1; what lies outside is cut off. NaN raises `ValueError`.
        won
            Whether the trade made money after fees.
        """
        score = _inside(score)
        guesses = [min(max(p, _GUESS_LOW), _GUESS_HIGH) for p, _ in self._guesses(score)]
        shares = [w * (p if won else 1.0 - p) for w, p in zip(self.weights, guesses, strict=True)]
        total = math.fsum(shares)
        self.weights = [(1.0 - SHARE) * share / total + SHARE / len(shares) for share in shares]
        for filter_, drift in zip(self.platt, PLATT_DRIFT, strict=True):
            _learn(filter_, drift, _logit(score), won)
        if not self.seen:
            self.flat = _claimed(score)
        _count(self.flat, 0, won, FLAT_DISCOUNT)
        self._learn_bins(score, won)
        self.scores = [SCORES_DISCOUNT * count for count in self.scores]
        self.scores[math.floor(score * GRID)] += 1.0
        self.seen += 1

    def probability(self, score: float) -> float:
        """Return P(win) of a signal with this score, now; the score itself before the first outcome."""
        return math.fsum(w * p for w, (p, _) in zip(self.weights, self._guesses(_inside(score)), strict=True))

    def interval(self, score: float, z: float = 1.645) -> tuple[float, float]:
        """Return where P(win) credibly lies: mean -+ `z` standard deviations of the mixture, cut to 0..1.

        The variance is that of each guess about itself, and how far the guesses are apart. It is an approximation on
        both counts (a normal law, filters linearised). Of simulated bots the 90 % interval held the truth 100 times in
        100 where nothing changed, 90 to 95 where the true rate decayed, switched, or the score went flat.
        """
        guesses = self._guesses(_inside(score))
        mean = math.fsum(w * p for w, (p, _) in zip(self.weights, guesses, strict=True))
        variance = math.fsum(w * (v + (p - mean) ** 2) for w, (p, v) in zip(self.weights, guesses, strict=True))
        half = z * math.sqrt(variance)
        return max(0.0, mean - half), min(1.0, mean + half)

    def mean(self, least: float = 0.0) -> float:
        """Return P(win) averaged over the scores that occurred lately and are not below `least`. NaN if none was."""
        first = min(max(math.ceil(least * GRID - _STEP), 0), GRID)
        weight = math.fsum(self.scores[first:])
        if weight <= 0.0:
            return math.nan
        cells = ((self.scores[i], i) for i in range(first, GRID + 1) if self.scores[i] > 0.0)
        return math.fsum(count * self.probability((i + 0.5) / GRID) for count, i in cells) / weight

    def threshold(
        self, break_even: float, *, base: float, current: float | None, hysteresis: float, top: float = 0.99
    ) -> float | None:
        """Return the smallest score not below `base` from which on signals earn their fees, None if there is none.

        P(win) need not rise with the score. It is made to: neighbouring scores are pooled, weighted by how often they
        occurred lately, until it does (isotonic regression; Ayer et al. 1955). That threshold is also the one which
        earns most by the mixture's own estimate: a lucky low score does not pull the threshold down, a bad stretch in
        the middle does not shut out what is good above. A score that hardly ever occurs is no threshold (`RARE`).

        Parameters
        ----------
        break_even
            Win rate that just pays (`regime.outcomes.break_even_win_rate`).
        base
            The threshold of the bot itself; never undercut.
        current
            The threshold in force; None if none is, because no score cleared when it was last asked. At first: `base`.
        hysteresis
            The threshold in force stays unless P(win) at it is off by more than this, up or down: an entry that was
            refused comes back when it clears `break_even + hysteresis`, one that was allowed goes when it falls under
            `break_even - hysteresis`. About 0.01.
        top
            The largest threshold that makes sense.
        """
        cells = self._rising(base, top)
        if not cells:
            return None
        lowest = _crossing(cells, break_even - hysteresis)
        highest = _crossing(cells, break_even + hysteresis)
        if lowest is None or (current is None and highest is None):
            return None
        if current is not None and lowest <= max(current, base) and (highest is None or current <= highest):
            return max(current, base)
        middle = _crossing(cells, break_even)
        # Only a signal that cleared the lower bar stands; it does not take a new, better one to keep it.
        return lowest if middle is None else middle

    def _rising(self, base: float, top: float) -> list[tuple[float, float]]:
        """Return (lower end, P(win)) of pooled stretches of scores from `base` to `top`, both rising."""
        if base > top:
            return []
        first = min(math.floor(base * GRID + _STEP), GRID)
        rest = math.fsum(self.scores[first:])
        rare = RARE * rest
        pools: list[list[float]] = []  # lower end, weighted sum, weight
        for cell in range(first, GRID + 1):
            end = max(cell / GRID, base)
            if end > top or rest < rare:
                break
            rest -= self.scores[cell]
            weight = self.scores[cell] + 0.01  # Where no score occurs, the curve is still defined.
            pools.append([end, weight * self.probability(min((cell + 0.5) / GRID, 1.0)), weight])
            while len(pools) > 1 and pools[-2][1] * pools[-1][2] >= pools[-1][1] * pools[-2][2]:
                _, total, weight = pools.pop()
                pools[-1][1] += total
                pools[-1][2] += weight
        return [(end, total / weight) for end, total, weight in pools]

    def _guesses(self, score: float) -> list[tuple[float, float]]:
        """Return (P(win), its variance) of each guess, in the order of `weights`."""
        logit = _logit(score)
        guesses = [(score, 0.0)]
        for a, b, aa, ab, bb in self.platt:
            p = _sigmoid(a + b * logit)
            guesses.append((p, (p * (1.0 - p)) ** 2 * (aa + 2.0 * ab * logit + bb * logit * logit)))
        flat = _beta(self.flat[0], self.flat[1], 0.5 if self.seen else score)
        line = _line(self.edges, score)
        for table in self.bins:
            guesses.append(_beta(table[2 * line], table[2 * line + 1], flat[0]))
        guesses.append(flat)
        return guesses

    def _learn_bins(self, score: float, won: bool) -> None:
        if self.edges:
            self._count(_line(self.edges, score), won)
            return
        self.first.append(score if won else -score - 1.0)
        if len(self.first) < BINS_FROM:
            if len(self.first) == 1:
                self.bins = [_claimed(score) for _ in BIN_DISCOUNTS]
            self._count(0, won)
            return
        # Cut the scores into fifths, and tell the tables the first outcomes anew.
        past = [(value, True) if value >= 0.0 else (-value - 1.0, False) for value in self.first]
        ordered = sorted(score for score, _ in past)
        # Many equal scores give fewer lines: an edge twice would make a line that nothing can fall into.
        self.edges = sorted({ordered[len(ordered) * i // BINS] for i in range(1, BINS)})
        lines: list[list[float]] = [[] for _ in range(len(self.edges) + 1)]
        for value in ordered:
            lines[_line(self.edges, value)].append(value)
        whole = math.fsum(ordered) / len(ordered)
        claims = [math.fsum(line) / len(line) if line else whole for line in lines]
        self.bins = [[count for claim in claims for count in _claimed(claim)] for _ in BIN_DISCOUNTS]
        for value, success in past:
            self._count(_line(self.edges, value), success)
        self.first = []

    def _count(self, line: int, won: bool) -> None:
        for table, discount in zip(self.bins, BIN_DISCOUNTS, strict=True):
            _count(table, line, won, discount)


def _inside(score: float) -> float:
    if math.isnan(score):
        raise ValueError("a score must be a number between 0 and 1, got nan")
    return min(max(score, 0.0), 1.0)


def _logit(score: float) -> float:
    inner = min(max(score, _TINY), 1.0 - _TINY)
    return math.log(inner / (1.0 - inner))


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(z, -30.0), 30.0)))


def _line(edges: list[float], score: float) -> int:
    return sum(score >= edge for edge in edges)


def _claimed(claim: float) -> list[float]:
    """Return the counts of a line before its first outcome."""
    return [PRIOR * claim, PRIOR * (1.0 - claim)]


def _count(table: list[float], line: int, won: bool, discount: float) -> None:
    for i in range(len(table)):
        table[i] *= discount
    table[2 * line + (not won)] += 1.0


def _beta(won: float, lost: float, centre: float) -> tuple[float, float]:
    """Return mean and variance of a rate after so many wins and losses; `centre` counts for one outcome."""
    count = won + lost + 1.0
    p = (won + centre) / count
    return p, p * (1.0 - p) / (count + 1.0)


def _learn(filter_: list[float], drift: tuple[float, float], logit: float, won: bool) -> None:
    """One step of the extended Kalman filter of sigmoid(a + b logit): predict (drift), then correct."""
    a, b, aa, ab, bb = filter_
    aa, bb = aa + drift[0], bb + drift[1]
    # Scores that never vary say nothing about b: without a bound its variance would grow for ever.
    for_a, for_b = min(1.0, _PLATT_VARIANCE_MAX[0] / aa), min(1.0, _PLATT_VARIANCE_MAX[1] / bb)
    aa, ab, bb = aa * for_a, ab * math.sqrt(for_a * for_b), bb * for_b
    p = _sigmoid(a + b * logit)
    information = p * (1.0 - p)
    to_a, to_b = aa + ab * logit, ab + bb * logit
    gain = 1.0 / (1.0 + information * (to_a + to_b * logit))
    error = (1.0 if won else 0.0) - p
    filter_[:] = (
        min(max(a + gain * to_a * error, -_PLATT_MAX), _PLATT_MAX),
        min(max(b + gain * to_b * error, -_PLATT_MAX), _PLATT_MAX),
        max(aa - information * gain * to_a * to_a, 1e-9),
        ab - information * gain * to_a * to_b,
        max(bb - information * gain * to_b * to_b, 1e-9),
    )


def _crossing(cells: list[tuple[float, float]], bar: float) -> float | None:
    """Return the lower end of the first stretch above `bar`."""
    return next((end for end, p in cells if p > bar), None)
