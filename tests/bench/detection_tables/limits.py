"""What no detector can beat, and the limits an oracle would set.

`optimal_cusum`: Page's CUSUM of the exact log likelihood ratio, told the law before and after. It has the smallest
worst-case delay of all tests with the same run length (Moustakides 1986). Run length and delay solve

    L(s) = 1 + L(0) F(-s) + integral over y in (0, h) of L(y) dF(y - s)

with F the law of one step; here on 400 cells, which is exact to about 0.1 % (the tests compare with printed tables).

`Passages` finds the limit at which a detector rings once in so many rows: one pass over streams without change gives
the run length at every limit at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from regime.calibration import episodes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Law = Callable[[Floats], Floats]
CELLS = 400


@dataclass(frozen=True)
class Exact:
    """Limit (nats) and delay (rows, the first changed one is 1) of the best test, and the information of a row."""

    limit: float
    delay: float
    information: float


def steps_mean(shift: float) -> tuple[Law, Law, float]:
    """Law of the log likelihood ratio's steps before and after a mean moves by `shift` deviations; nats a row."""
    half = 0.5 * shift * shift
    return (
        lambda y: np.asarray(norm.cdf((y + half) / shift)),
        lambda y: np.asarray(norm.cdf((y - half) / shift)),
        half,
    )


def steps_scale(ratio: float) -> tuple[Law, Law, float]:
    """The same where the deviation grows by the factor `ratio`, over 1."""
    if ratio <= 1:
        raise ValueError(f"the deviation grows by a factor over 1: {ratio!r}")
    gain, offset = 0.5 * (1 - ratio**-2), math.log(ratio)

    def before(y: Floats) -> Floats:
        return np.asarray(chi2.cdf(np.maximum((y + offset) / gain, 0.0), 1))

    def after(y: Floats) -> Floats:
        return np.asarray(chi2.cdf(np.maximum((y + offset) / gain, 0.0) / ratio**2, 1))

    return before, after, 0.5 * (ratio**2 - 1) - offset


def run_length(law: Law, limit: float, cells: int = CELLS) -> float:
    """Mean rows until a CUSUM with steps of this law, begun at 0, is over `limit`."""
    edges = np.linspace(0.0, limit, cells + 1)
    points = np.concatenate(([0.0], 0.5 * (edges[1:] + edges[:-1])))
    left = np.eye(cells + 1)
    left[:, 0] -= law(-points)
    left[:, 1:] -= law(edges[None, 1:] - points[:, None]) - law(edges[None, :-1] - points[:, None])
    return float(np.linalg.solve(left, np.ones(cells + 1))[0])


def optimal_cusum(steps: tuple[Law, Law, float], rows_per_alarm: float) -> Exact:
    """The best test with this run length."""
    before, after, information = steps
    low, high = 0.05, math.log(rows_per_alarm) + 3.0
    for _ in range(26):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if run_length(before, middle, 200) < rows_per_alarm else (low, middle)
    for _ in range(3):  # the fine grid moves the limit a little: Newton's steps on log run length, slope about 1
        high -= math.log(run_length(before, high) / rows_per_alarm)
    return Exact(high, run_length(after, high), information)


class Passages:
    """Times and heights at which the statistic of each stream was higher than ever before."""

    def __init__(self) -> None:
        self._records: list[tuple[Ints, Floats, int]] = []

    def add(self, statistic: Floats) -> None:
        """Take the statistic of one run, row by row."""
        highest = np.maximum.accumulate(np.where(np.isnan(statistic), -np.inf, statistic))
        at = np.flatnonzero(highest > np.concatenate(([-np.inf], highest[:-1])))
        self._records.append((at, highest[at], len(statistic)))

    def run_length(self, limit: float) -> tuple[float, int]:
        """(rows watched) / (alarms), which is right for runs that ended without alarm, too; and the alarms."""
        rows = alarms = 0
        for at, height, length in self._records:
            i = int(np.searchsorted(height, limit, side="right"))
            if i < len(height):
                rows += int(at[i]) + 1
                alarms += 1
            else:
                rows += length
        return rows / max(alarms, 1), alarms

    def limit(self, rows_per_alarm: float) -> float:
        """The lowest limit with this run length."""
        heights = [height for _, height, _ in self._records if len(height)]
        low = min(float(h[0]) for h in heights if math.isfinite(h[0])) - 1.0
        high = max(float(h[-1]) for h in heights)
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.run_length(middle)[0] < rows_per_alarm else (low, middle)
        return high


def mean_run(first: Iterable[tuple[int, int]]) -> tuple[float, int]:
    """Rows between alarms from (rows watched, 1 if it rang) of each run; rows watched where none rang."""
    rows = alarms = 0
    for watched, rang in first:
        rows += watched
        alarms += rang
    return rows / max(alarms, 1), alarms


def tuned(ring: Callable[[float], float], low: float, high: float, wanted: float, steps: int = 12) -> float:
    """The value of an option at which `ring(option)`, the run length, is `wanted`; it must grow with the option."""
    for _ in range(steps):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if ring(middle) < wanted else (low, middle)
    return 0.5 * (low + high)


def oracle_limit(statistics: Sequence[Floats], rows_per_alarm: float, quiet: int) -> float:
    """The lowest limit at and above which runs without change ring at most once in `rows_per_alarm` rows.

    Looked for from above: far below, all alarms run into one, and a limit that is always exceeded seems to ring once.
    """
    rows = sum(map(len, statistics))
    allowed = rows / rows_per_alarm
    everything = np.concatenate(statistics)
    heights = np.unique(everything[np.isfinite(everything)])
    if len(heights) > 1000:  # even steps in the height, as alarms are rare where rows are few
        heights = np.unique(np.quantile(heights, 1 - np.geomspace(1 / len(heights), 1, 1000)))

    def rings(limit: float) -> int:
        return sum(episodes(s > limit, quiet) for s in statistics)

    good, bad = float(heights[-1]), -math.inf
    for height in heights[::-1]:
        if rings(float(height)) > allowed:
            bad = float(height)
            break
        good = float(height)
    for _ in range(12 if math.isfinite(bad) else 0):
        middle = 0.5 * (good + bad)
        good, bad = (good, middle) if rings(middle) > allowed else (middle, bad)
    return good


def market_limit(
    law: tuple[float, float, float], asked: float, seed: int, *, volatility: float = 1.0, momentum: float = 0.0
) -> Exact:
    """How late one who knows the laws of GARCH returns before and after must be, approximately.

    The information of a row is measured: log(asked) over the rows in which the log likelihood ratio of an observer who
    starts at the change reaches log(asked). The delay is that of the optimal CUSUM with as much information a row in
    independent normal values. The returns only are looked at; the indicators also hold volume and ranges.
    """
    rng = np.random.default_rng(seed)
    alpha, beta, freedom = law
    runs, lead, longest = 400, 500, 6000
    omega, unit = 1 - alpha - beta, math.sqrt((freedom - 2) / freedom)
    variance = np.ones(runs)
    known, changed = np.ones(runs), np.ones(runs)
    before_r = np.zeros(runs)
    score, rang = np.zeros(runs), np.full(runs, longest)
    for t in range(lead + longest):
        shock = np.sqrt(variance) * unit * rng.standard_t(freedom, runs)
        variance = omega + variance * beta + alpha * shock**2
        r = shock
        if t >= lead:
            r = volatility * shock + momentum * before_r
            clean = (r - momentum * before_r) / volatility
            z0, z1 = r / np.sqrt(known) / unit, clean / np.sqrt(changed) / unit
            score += -math.log(volatility) - 0.5 * np.log(changed / known)
            score -= 0.5 * (freedom + 1) * (np.log1p(z1**2 / freedom) - np.log1p(z0**2 / freedom))
            rang = np.where((score >= math.log(asked)) & (rang == longest), t - lead + 1, rang)
            if (rang < longest).all():
                break
            changed = omega + beta * changed + alpha * clean**2
        else:
            changed = omega + beta * changed + alpha * r**2
        known = omega + beta * known + alpha * r**2
        before_r = r
    information = math.log(asked) / float(rang.mean())
    return optimal_cusum(steps_mean(math.sqrt(2 * information)), asked)
