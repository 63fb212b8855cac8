"""FOCuS: has the mean or the scale of a feature left the reference's, whenever it began and whatever its size?"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.kernel_bank import Scale
from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LONGEST = 1024
# What a change so many values old has added to its score: mean, and scale.
_BONUS_MEAN = (
    (1, -1.9), (3, 0.4), (8, 2.5), (20, 4.5), (50, 4.7), (110, 5.3), (200, 6.4), (320, 6.8), (480, 6.1), (700, 3.6),
    (1024, 1.9),
)  # fmt: skip
_BONUS_SCALE = (
    (1, -4.3), (3, -2.9), (8, -1.9), (20, -0.7), (50, 0.3), (110, 1.9), (200, 3.1), (320, 3.7), (480, 4.1), (1024, 3.8),
)  # fmt: skip
_BONUS_CALMER = -2.0
# Limit at which one feature rings once in so many of its values, simulated (see the docstring).
_LIMITS = (
    (30, 5.38), (100, 7.09), (300, 8.68), (1_000, 10.37), (3_000, 11.81), (10_000, 13.30), (30_000, 14.59),
    (100_000, 16.00), (300_000, 17.30), (1_000_000, 18.65),
)  # fmt: skip
_LIMIT_SLOPE = 1.15
"""For each factor of e beyond the last."""
_QUESTIONS = ("mean up", "mean down", "scale up", "scale down")


class Focus:
    """FOCuS (Romano, Eckley, Fearnhead and Rigaill 2023) for the mean and the scale of every feature, in one detector.

    With `z` a feature's values standardised by the reference, S their running sum, and `N` how many values of it the
    reference holds, the evidence that the mean changed `w` values ago and stayed so is the log likelihood ratio of the
    best fitting size of change,

        (S_t - S_{t-w})^2 / (2 w (1 + w / N)) + bonus(w)

    where `1 + w / N` is there because the mean of the reference is an estimate, too. The same is asked of the scale,
    with the sum of z^2 - 1 and the likelihood of a gamma law, w/2 (e - ln(1 + e)) for a mean square of 1 + e. The score
    of a feature is the largest over all `w` up to 1,024, both questions and both directions. Only the corners of a
    convex hull have to be tried, about ln t of them for each question, and without bonus and `N` that loses nothing.

        statistic = max over live features of score        threshold = the limit for `arl`

    **The bonus** says how the budget for false alarms is spent on changes that are w values old. Without it most of the
    budget goes to the many short stretches, and a change of 0.25 is found late. This one rises like ln w up to 300 and
    falls after, and is 3 to 4 lower for the scale (2 more for a scale that falls). It was chosen by a random search,
    about 1,400 candidates on other seeds than the table's, and some 30 by hand; the best of them look much alike.

    **Delay, measured** on fresh seeds beside others: independent normal values, one feature, every limit tuned to
    one false alarm in 5,000 rows, change after 300 rows; two seeds of 3,000 runs, standard error about 1 %. Reference
    of 2,000 rows, unless said. As a multiple of the delay of the best test that knows both laws (131, 43.6, 13.7, 91.1,
    35.4 rows):

    | | mean +0.25 | +0.5 | +1 | variance x1.5 | x2 |
    |---|---|---|---|---|---|
    | this detector, reference of 26,000 rows | 1.16 | 1.12 | 1.14 | 1.79 | 1.82 |
    | this detector | 1.25 | 1.14 | 1.14 | 1.87 | 1.81 |
    | FOCuS for the mean, bonus ln w up to 512 | 1.27 | 1.15 | 1.16 | 6.0 | 4.8 |
    | FOCuS for the scale, the same bonus | 11 | 9.7 | 3.5 | 1.37 | 1.32 |
    | FOCuS for both, no bonus | 2.12 | 1.53 | 1.30 | 1.86 | 1.51 |
    | `cusum` at 0.1, 0.25, 0.5, 1 | 1.32 | 1.16 | 1.13 | 6.8 | 6.2 |
    | CUSUM of both sides, told the size | 1.13 | 1.06 | 1.05 | - | - |

    Between and beyond, 2,000 rows: mean +0.15 1.63, +0.35 1.19, +0.7 1.11, +1.5 1.25, +3 1.48 (2.9 rows in place of
    2), variance x1.25 2.4, x3 1.78; variance halved in 112 rows. The best test knows the mean and need not estimate it:
    that is what the longer reference gains.

    **The limit** for `arl`, rows between false alarms of the whole family, is that of one feature for `arl` times the
    number of live features. It was simulated with a reference without error (120 million values, up to one alarm in a
    million values; straight on beyond that). It holds for references of 500 rows and more: asked 5,000, one of 2,000
    rows gave 5,800.

    **When it misleads.** `arl` holds for INDEPENDENT NORMAL values ONLY. Rows to the first alarm where 8,640 were asked
    (reference of 26,000 rows; 6 runs, 4 for the market):

    | 50 independent features | heavy tails (t5) | AR(1) 0.5 | AR(1) 0.9 | 195 simulated market features |
    |---|---|---|---|---|
    | 24,700 (3 alarms) | 66 | 31 | 7 | 8 |

    Use `calibrated` on market features, which measures on the reference how often it rings. Here a heavy tail is a
    change of scale.

    `changes` says when the change of each feature began, most likely, and what it is. A feature that is dead in the
    reference (constant) is not watched. Missing values are skipped, and all times are counted in a feature's own
    values. Nothing begins anew after an alarm: the evidence leaves with the stretch of 1,024 values that holds it.

    A row of 200 features costs about 36 us; the state is 430 kB and grows a little.

    Parameters
    ----------
    arl
        Rows between false alarms of the whole family, if all values are independent and normal.
    robust
        Standardise by median and median distance, in place of mean and standard deviation. The limit is not widened
        for it.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> focus = Focus()
    >>> focus.reset(Reference(["atr", "roc", "rsi"], rng.standard_normal((2000, 3))))
    >>> stream = rng.standard_normal((1000, 3))
    >>> stream[500:] += 1.0
    >>> for i, x in enumerate(stream):
    ...     focus.update(x)
    ...     if focus.drift_detected:
    ...         feature = int(np.nanargmax(focus.feature_statistics))
    ...         ago, what = focus.changes[feature]
    ...         print(f"{what} since row {i + 1 - ago}, found at row {i}")
    ...         break
    mean up since row 500, found at row 514

    References
    ----------
    G. Romano, I. A. Eckley, P. Fearnhead and G. Rigaill. Fast online changepoint detection via functional pruning
    CUSUM statistics. Journal of Machine Learning Research 24, 81 (2023), 1-36.
    """

    def __init__(self, *, arl: float = 8640.0, robust: bool = False) -> None:
        if not (math.isfinite(arl) and arl >= 1):
            raise ValueError(f"arl is the number of rows between false alarms, from 1: {arl!r}")
        if not isinstance(robust, bool):
            raise ValueError(f"robust is true or false: {robust!r}")
        self.arl = float(arl)
        self.robust = robust
        self._bonus = _bonus()

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, and begin with nothing seen."""
        from regime.kernels import focus as kernel

        self._take = kernel.take
        self._scale = Scale(reference, robust=self.robust)
        self._live = self._scale.live
        columns, room = len(self._live), kernel.CORNERS_AT_FIRST
        self._rows_inverse: Floats = 1.0 / np.maximum(self._scale.rows, 1)
        self._limit = limit_of(self.arl * max(int(self._live.sum()), 1))
        self._state: dict[str, NDArray[Any]] = {
            "begins": np.zeros((columns, 4, room), dtype=np.int64),
            "heights": np.zeros((columns, 4, room)),
            "corners": np.zeros((columns, 4), dtype=np.int64),
            "totals": np.zeros((columns, 2)),
            "seen": np.zeros(columns, dtype=np.int64),
            "scores": np.zeros(columns),
            "found": np.zeros((columns, 2), dtype=np.int64),
        }
        self._warm = False
        self._statistic = math.nan

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        held = self._state
        most = self._take(
            np.ascontiguousarray(x, dtype=np.float64), self._scale.columns, self._live, self._rows_inverse, self._bonus,
            held["begins"], held["heights"], held["corners"], held["totals"], held["seen"], held["scores"],
            held["found"],
        )  # fmt: skip
        if most == held["begins"].shape[2]:
            for name in ("begins", "heights"):
                held[name] = np.concatenate((held[name], np.zeros_like(held[name])), axis=2)
        self._judge()

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown a value."""
        return self._warm

    @property
    def statistic(self) -> float:
        """The largest score of a live feature; NaN while cold."""
        return self._statistic

    @property
    def threshold(self) -> float:
        """The limit of the score for `arl`."""
        return self._limit

    @property
    def drift_detected(self) -> bool:
        """Whether `statistic` is over `threshold` now."""
        return self._statistic > self._limit

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: score over the limit; NaN for a dead feature and one that has shown no value."""
        known = self._live & (self._state["seen"] > 0)
        return np.where(known, self._state["scores"] / self._limit, np.nan)

    @property
    def changes(self) -> list[tuple[int, str]]:
        """The likeliest change of each feature: how many values ago it began, and what it is ("mean up", "mean down",
        "scale up", "scale down"). 0 and "" where nothing speaks for any."""
        found = self._state["found"].tolist()
        return [(age, _QUESTIONS[question] if age else "") for age, question in found]

    def state(self) -> dict[str, NDArray[Any]]:
        """The corners and the running sums: continues bit for bit."""
        return {name: array.copy() for name, array in self._state.items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. Its values are standardised: `reset` with the same reference first."""
        for name, mine in self._state.items():
            given = state[name]
            wanted = (*mine.shape[:2], given.shape[-1]) if mine.ndim == 3 else mine.shape
            if given.shape != wanted:
                raise ValueError(f"state {name} has shape {given.shape}, expected {mine.shape}: another set-up")
        for name, mine in self._state.items():
            self._state[name] = np.array(state[name], dtype=mine.dtype, order="C")
        self._warm = False
        self._judge()

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        found = hashlib.sha256()
        for array in self._state.values():
            found.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return found.digest()

    @classmethod
    def examples(cls) -> list[Focus]:
        """Instances the contract suite is run over."""
        return [cls(arl=1e5), cls(arl=1e6, robust=True)]

    def _judge(self) -> None:
        if not self._warm:
            shown = np.count_nonzero(self._state["seen"])  # a dead feature is never seen
            self._warm = bool(2 * shown >= self._live.sum() > 0)
        if self._warm:
            self._statistic = float(self._state["scores"].max())


def _bonus() -> Floats:
    """Return `float64[4, LONGEST + 1]`: what a change so many values old has added, for each question."""
    age = np.log(np.maximum(np.arange(LONGEST + 1), 1))
    mean, scale = (np.interp(age, np.log([w for w, _ in b]), [v for _, v in b]) for b in (_BONUS_MEAN, _BONUS_SCALE))
    return np.ascontiguousarray([mean, mean, scale, scale + _BONUS_CALMER])


def limit_of(arl: float) -> float:
    """Return the limit at which one feature rings once in `arl` values."""
    last = _LIMITS[-1][0]
    within = np.interp(math.log(arl), np.log([rows for rows, _ in _LIMITS]), [limit for _, limit in _LIMITS])
    return float(within) + _LIMIT_SLOPE * max(math.log(arl / last), 0.0)


__plugin__ = Focus
