"""Shiryaev-Roberts mixture: has the mean or the scale of a feature left the reference's, whenever it began?"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.kernel_bank import Scale
from regime.reference import Reference

Floats = NDArray[np.float64]

# Shifts of the mean in standard deviations, each up and down, and what each of the two is worth in the mixture.
_DRIFTS = ((0.25, 3.5), (0.4, 0.9), (0.7, 1.7), (1.1, 3.2))
# Variance after over variance before.
_VARIANCES = ((1.5, 0.34), (2.2, 0.09), (0.55, 0.03))
_OVERSHOOT = 0.33
"""The mixture comes in steps and jumps over its limit: rows between alarms are e^this times the limit, simulated."""
_LOG_LARGEST = 600.0


class ShiryaevRoberts:
    """Shiryaev-Roberts statistic of every feature, mixed over changes of mean and scale, averaged over the features.

    With `z` a feature's values standardised by the reference and LR_j the likelihood ratio of one of them under
    alternative j (mean +-0.25, +-0.4, +-0.7, +-1.1; variance x1.5, x2.2, x0.55) against a standard normal law,

        R_j(t) = (1 + R_j(t-1)) LR_j(z_t)        M(t) = sum over j of weight_j R_j(t), weights adding up to 1
        statistic = max(0, ln of the mean of M over the live features)

    R_j adds up the likelihood ratios of "changed to j at row i" over all i, where a CUSUM takes the largest of them.

    **The limit needs no table.** While nothing changes R_j(t) - t grows by 0 on average from row to row, and so does
    the mean of M less t: a rule that rings when the mean of M reaches A waits at least A rows on average (Pollak 1985),
    *whatever the features have to do with each other*, as long as rows are independent and normal and the reference is
    without error. (Shin, Ramdas and Rinaldo 2022 call such a sum an e-detector.) It jumps over A, by a factor of 1.4 on
    average, which is given back: `threshold` = ln(arl) - 0.33.

    **The error of the reference** would be added up for ever: an error e of the mean makes R_j ring about
    e^(2 e L / drift) times as often, with L the logarithm it has to reach, and that is e^(2 L^2 / (drift^2 N)) on
    average for a reference of N values. Weights are divided by the root of that factor (and of the like of it for the
    scale; by all of it alarms came half as often as asked), so a short reference gives up small shifts and keeps its
    rate.

    **Run length, measured** (`python tests/bench/bench_scans.py --seed 618000`, as all figures here). Independent
    normal values, run to the first alarm, rows between alarms over `arl`, 30 - 400 alarms each:

    | reference | 1 feature, 1,000 asked | 1, 5,000 | 20, 1,000 | 200, 1,000 | 200, 5,000 |
    |---|---|---|---|---|---|
    | 26,000 rows | 1.01 | 0.99 | 0.99 | 0.83 | - |
    | 2,000 rows | 1.23 | 1.14 | 1.10 | 1.19 | 0.91 |
    | 500 rows | 2.10 | - | - | - | - |

    50 features under the default of 8,640: 12,000 (6 alarms, 26,000 rows).

    **Delay, measured.** One feature, limit tuned to one alarm in 5,000 rows, change after 300 rows, 4,000 runs each, as
    a multiple of the delay of the CUSUM that knows both laws (131, 43.6, 13.7, 91.1, 35.4 rows); standard error 0.01
    for a mean, 0.015 for a variance:

    | reference | mean +0.25 | +0.5 | +1 | variance x1.5 | x2 |
    |---|---|---|---|---|---|
    | 26,000 rows | 1.12 | 1.10 | 1.12 | 1.64 | 1.61 |
    | 2,000 rows | 1.22 | 1.15 | 1.14 | 1.79 | 1.71 |

    Between and beyond, 26,000 rows: mean +0.15 1.36, +0.35 1.11, +0.7 1.11, +1.5 1.24, +3 1.69 (3.7 rows in place of
    2.2), variance x1.25 2.1, x3 1.69; variance halved in 115 rows. Alternatives and weights were chosen among about ten
    on other seeds, after an earlier search; the best of them look alike. Of 195 features, as a multiple again, the
    family's limit tuned alike (60 runs): one by 1.0 1.8, ten by 0.5 7.0, all by 0.1 29. The mean over the features is
    carried by the one that moved most: many small shifts are the business of `xie_siegmund` and `chi_square`.

    **When it misleads.** `arl` holds for INDEPENDENT NORMAL rows ONLY; that features are alike does no harm. Rows to
    the first alarm where 8,640 were asked (reference of 26,000 rows; 6 runs, 4 for the market):

    | 50 features alike (correlation 0.8) | heavy tails (t5) | AR(1) 0.5 | AR(1) 0.9 | 130 simulated market features |
    |---|---|---|---|---|
    | 5,300 | 57 | 36 | 8 | 14 (mild), 12 (harsh) |

    Use `calibrated` on market features, which measures on the reference how often it rings. Here a heavy tail is a
    change of scale.

    `changes` says when the change of each feature began, most likely, and what it is: of the alternative that weighs
    most, the mean of i with the likelihood ratios as weights (a shift of one standard deviation was dated to 2 values,
    a change of scale 20 - 30 values too early). A feature that is dead in the reference (constant) is not
    watched; one that has shown no value yet counts as calm. Missing values are skipped, and times are counted in a
    feature's own values. R_j stops where the statistic is about twice its limit, so the alarm goes some time after the
    feature is as before.

    A row of 200 features costs 24 us, a quarter of `focus` in the same run (`python tests/bench/bench_kernels.py`, on a
    busy machine); the state is 35 kB for them.

    Parameters
    ----------
    arl
        Rows between false alarms of the whole family, if rows are independent and normal; from 2 to 1e100.
    robust
        Standardise by median and median distance, in place of mean and standard deviation. The limit is not widened
        for it.

    Raises `ValueError` for an option that is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> detector = ShiryaevRoberts()
    >>> detector.reset(Reference(["atr", "roc", "rsi"], rng.standard_normal((2000, 3))))
    >>> stream = rng.standard_normal((1000, 3))
    >>> stream[500:] += 1.0
    >>> for i, x in enumerate(stream):
    ...     detector.update(x)
    ...     if detector.drift_detected:
    ...         feature = int(np.nanargmax(detector.feature_statistics))
    ...         ago, what = detector.changes[feature]
    ...         print(f"{what} since about row {i + 1 - ago}, found at row {i}")
    ...         break
    mean up since about row 502, found at row 512

    References
    ----------
    A. N. Shiryaev. On optimum methods in quickest detection problems. Theory of Probability and its Applications 8, 1
    (1963), 22-46.
    S. W. Roberts. A comparison of some control chart procedures. Technometrics 8, 3 (1966), 411-430.
    M. Pollak. Optimal detection of a change in distribution. Annals of Statistics 13, 1 (1985), 206-227.
    J. Shin, A. Ramdas and A. Rinaldo. E-detectors: a nonparametric framework for sequential change detection.
    arXiv:2203.03532 (2022).
    """

    def __init__(self, *, arl: float = 8640.0, robust: bool = False) -> None:
        if not (math.isfinite(arl) and 2 <= arl <= 1e100):
            raise ValueError(f"arl is the number of rows between false alarms, from 2 to 1e100: {arl!r}")
        if not isinstance(robust, bool):
            raise ValueError(f"robust is true or false: {robust!r}")
        self.arl = float(arl)
        self.robust = robust
        self._drifts: Floats = np.array([drift for drift, _ in _DRIFTS])
        self._ratios: Floats = np.sqrt([variance for variance, _ in _VARIANCES])
        self._limit = math.log(self.arl) - _OVERSHOOT

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, weigh the alternatives, and begin with nothing seen."""
        from regime.kernels.shiryaev_roberts import take

        self._take = take
        scale = Scale(reference, robust=self.robust)
        self._scale, self._live = scale.columns, scale.live
        columns, self._count = len(scale.live), int(scale.live.sum())
        self._feature_limit = self._limit + math.log(max(self._count, 1))
        self._weights = np.ascontiguousarray(weights(self._feature_limit, scale.rows))
        self._ceiling = math.exp(min(2.0 * self._feature_limit + 4.0, _LOG_LARGEST))
        alternatives = self._weights.shape[1]
        self._state: dict[str, NDArray[Any]] = {
            "sums": np.zeros((columns, alternatives)),
            "ages": np.zeros((columns, alternatives)),
            "mixed": np.zeros(columns),
            "shown": np.zeros(columns, dtype=np.bool_),
        }
        self._warm = False
        self._statistic = math.nan

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        row = np.ascontiguousarray(x, dtype=np.float64)
        if not self._warm:
            self._state["shown"] |= self._live & np.isfinite(row)
        self._judge(row)

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown a value."""
        return self._warm

    @property
    def statistic(self) -> float:
        """The logarithm of the mean mixture of the live features, at least 0; NaN while cold."""
        return self._statistic

    @property
    def threshold(self) -> float:
        """The limit of the logarithm for `arl`."""
        return self._limit

    @property
    def drift_detected(self) -> bool:
        """Whether `statistic` is over `threshold` now."""
        return self._statistic > self._limit

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: the logarithm of a feature's mixture over that at which it makes the family ring by
        itself, at least 0; NaN for a dead feature and one that has shown no value."""
        mixed = self._state["mixed"]
        shares: Floats = np.log(np.maximum(mixed, 1.0)) / self._feature_limit
        return np.where(self._live & (mixed > 0), shares, np.nan)

    @property
    def changes(self) -> list[tuple[int, str]]:
        """The likeliest change of each feature: how many values ago it began, and what it is ("mean up", "mean down",
        "scale up", "scale down"). 0 and "" where nothing speaks for any (a mixture under 1)."""
        best = (self._weights * self._state["sums"]).argmax(axis=1)
        ages = np.rint(np.take_along_axis(self._state["ages"], best[:, None], axis=1)[:, 0]).astype(np.int64)
        return [
            (age, _NAMES[alternative]) if mixture > 1.0 else (0, "")
            for age, alternative, mixture in zip(
                ages.tolist(), best.tolist(), self._state["mixed"].tolist(), strict=True
            )
        ]

    def state(self) -> dict[str, NDArray[Any]]:
        """The sums, their mixtures, the ages, and who has shown a value: continues bit for bit."""
        return {name: array.copy() for name, array in self._state.items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. Its values are standardised: `reset` with the same reference first."""
        for name, mine in self._state.items():
            if state[name].shape != mine.shape:
                raise ValueError(f"state {name} has shape {state[name].shape}, expected {mine.shape}: another set-up")
        for name, mine in self._state.items():
            mine[...] = state[name]
        self._warm = False
        self._judge(np.full(len(self._live), np.nan))  # A row of nothing: only the features are added up anew.

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        found = hashlib.sha256()
        for array in self._state.values():
            found.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return found.digest()

    @classmethod
    def examples(cls) -> list[ShiryaevRoberts]:
        """Instances the contract suite is run over."""
        return [cls(arl=1e6), cls(arl=1e7, robust=True)]

    def _judge(self, row: Floats) -> None:
        held = self._state
        total = self._take(
            row, self._scale, self._live, self._drifts, self._ratios, self._weights, held["sums"], held["ages"],
            held["mixed"], self._ceiling,
        )  # fmt: skip
        if not self._warm:
            self._warm = bool(2 * held["shown"].sum() >= self._count > 0)
        if self._warm:
            self._statistic = math.log(max(total / self._count, 1.0))


_NAMES = ("mean up", "mean down") * len(_DRIFTS) + tuple(
    "scale up" if variance > 1 else "scale down" for variance, _ in _VARIANCES
)


def weights(level: float, rows: NDArray[np.int64]) -> Floats:
    """Return `float64[features, alternatives]`: what each alternative is worth in the mixture of each feature.

    `level` is the logarithm a feature's mixture has to reach, `rows` how many values of each the reference holds. The
    weights of a reference without error add up to 1.
    """
    base = np.array([w for _, w in _DRIFTS for _ in range(2)] + [w for _, w in _VARIANCES])
    base /= base.sum()
    drifts = np.repeat([drift for drift, _ in _DRIFTS], 2)
    # By how much the exponent of the tail changes for an error of the mean, of the variance; and the error's variance.
    excess = 0.5 * (np.array([variance for variance, _ in _VARIANCES]) - 1.0)
    slopes = np.concatenate((2.0 / drifts, excess / (excess - 0.5 * np.log1p(2.0 * excess))))
    errors = np.concatenate((np.ones(len(drifts)), np.full(len(excess), 2.0)))
    reach = level - np.log(base)
    found: Floats = base * np.exp(-0.25 * (slopes * reach) ** 2 * errors / np.maximum(rows, 1)[:, None])
    return found


__plugin__ = ShiryaevRoberts
