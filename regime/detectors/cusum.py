"""CUSUM bank: has the mean of a feature left the reference's, by a little for long or by much for a moment?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.kernel_bank import Scale
from regime.reference import Reference

Floats = NDArray[np.float64]

_CEILING = 2.0
_LIMIT_MAX = 400.0
"""Standard deviations. A sum that would need more has too short a reference to say anything: it is not watched."""
# Gauss-Hermite: what the standard errors of the reference's mean may be, and with which weight.
_ERRORS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class CusumBank:
    """Two-sided CUSUM of every feature at several drifts; the largest sum, as a share of its limit, is the family's.

    With `z` a feature's value standardised by the reference, and one pair of sums for each drift,

        up_t   = max(0, up_{t-1}   + z_t - drift / 2)        down_t = max(0, down_{t-1} - z_t - drift / 2)
        statistic = max over live features, drifts and sides of sum / limit(drift)

    which rings over 1. `up` at drift d is the fastest test there is for a mean that rises by d standard deviations
    (Moustakides 1986), and good for one that rises by d/2 to 2d.

    **The limits** come from `arl` by calculation: the rows between false alarms of the whole family, if values are
    independent and normal, in time and across features. The run length of one sum is Siegmund's (1985; within 0.8 % of
    the exact one). A rise and a fall never ring together, so their rates add up; the rates of the features and of the
    drifts are added too, which is exact for independent features and on the safe side for the drifts, whose sums go up
    together. The mean of a short reference is itself uncertain, and a sum adds that error up for ever: the rate is
    averaged over what the error may be (a normal law with variance 1 / rows). So a short reference has wide limits at
    small drifts; a sum whose limit would be over 400 is not watched.

    **Run length, measured.** Independent normal values, `arl` = 1000, run to the first alarm: 1 feature 1,750 rows
    (reference of 10,000 rows) and 1,820 (2,000), 20 features 1,540 (26,000) and 1,710 (2,000), 200 features 1,470
    (2,000); 18 - 1,350 alarms each. That is 1.5 to 1.8 times what was asked, the price of adding up the drifts.

    **When it misleads.** `arl` is a promise for INDEPENDENT NORMAL values ONLY. Neighbouring rows of a market indicator
    are alike, and a CUSUM adds the likeness up. Rows to the first alarm where 8,640 were asked (reference of 26,000
    rows; 4 to 6 runs):

    | 50 independent features | heavy tails (t5) | AR(1) 0.5 | AR(1) 0.9 | 195 simulated market features |
    |---|---|---|---|---|
    | 14,400 | 880 | 40 | 8 | 11 |

    Use `calibrated` on market features, which measures on the reference how often it rings. A change of scale is found
    late: a variance of 1.5 takes five times as long as it should; see `focus`.

    A sum stops at twice its limit, so the alarm goes soon after the feature is as before. A feature that is dead in the
    reference (constant) is not watched. A missing value leaves the sums of its feature as they were.

    A row of 200 features costs about 3 us, a row of each of 1,000 such streams in one call 1.5 ms.

    Parameters
    ----------
    drifts
        Changes of mean to look for, in standard deviations of the reference.
    arl
        Rows between false alarms of the whole family, if all values are independent.
    robust
        Standardise by median and median distance, in place of mean and standard deviation. The limits are not widened
        for it.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> cusum = CusumBank()
    >>> cusum.reset(Reference(["atr", "roc", "rsi"], rng.standard_normal((2000, 3))))
    >>> stream = rng.standard_normal((1000, 3))
    >>> stream[500:] += 1.0
    >>> for i, x in enumerate(stream):
    ...     cusum.update(x)
    ...     if cusum.drift_detected:
    ...         print(f"drift at row {i}: {cusum.statistic:.2f} of the limit")
    ...         break
    drift at row 515: 1.20 of the limit

    References
    ----------
    E. S. Page. Continuous inspection schemes. Biometrika 41, 1/2 (1954), 100-115.
    D. Siegmund. Sequential Analysis: Tests and Confidence Intervals. Springer (1985), chapter X.
    G. V. Moustakides. Optimal stopping times for detecting changes in distributions. Annals of Statistics 14, 4 (1986),
    1379-1387.
    """

    def __init__(
        self, *, drifts: Sequence[float] = (0.1, 0.25, 0.5, 1.0), arl: float = 8640.0, robust: bool = False
    ) -> None:
        numbers = [] if isinstance(drifts, str) or not isinstance(drifts, Sequence) else list(drifts)
        sound = all(isinstance(d, int | float) and math.isfinite(d) and d > 0 for d in numbers)
        if not numbers or not sound or len(set(numbers)) < len(numbers):
            raise ValueError(f"drifts is a list of different numbers over 0, in standard deviations: {drifts!r}")
        if not (math.isfinite(arl) and arl >= 1):
            raise ValueError(f"arl is the number of rows between false alarms, from 1: {arl!r}")
        if not isinstance(robust, bool):
            raise ValueError(f"robust is true or false: {robust!r}")
        self.drifts = tuple(sorted(float(d) for d in numbers))
        self.arl = float(arl)
        self.robust = robust
        self._drifts = np.array(self.drifts)

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, work out the limits, and begin with empty sums."""
        from regime.kernels.cusum import take

        self._take = take
        scale = Scale(reference, robust=self.robust)
        self._live = scale.live
        columns, charts = len(scale.live), 2 * len(self.drifts) * max(int(scale.live.sum()), 1)
        self._scale = scale.columns
        limits: Floats = np.full((len(self.drifts), columns), np.inf)
        rows = _rounded(scale.rows)
        for k, drift in enumerate(self.drifts):
            for count in np.unique(rows[scale.live]).tolist():
                limits[k, scale.live & (rows == count)] = limit_of(drift, self.arl * charts, count)
        self._shares: Floats = 1.0 / limits
        self._watched: NDArray[np.bool_] = np.asarray((self._shares > 0).any(axis=0))
        self._sums: Floats = np.zeros((2 * len(self.drifts), columns))
        self._shown: NDArray[np.bool_] = np.zeros(columns, dtype=np.bool_)
        self._ratios: Floats = np.zeros(columns)
        self._values: Floats = np.zeros(columns)
        self._largest = 0.0
        self._warm = False

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        row = np.ascontiguousarray(x, dtype=np.float64)
        self._largest = self._take(
            row, self._scale, self._drifts, self._shares, self._sums, self._ratios, self._values, _CEILING
        )
        if not self._warm:
            self._shown |= self._live & np.isfinite(row)
            self._warm = bool(2 * self._shown.sum() >= self._live.sum() > 0)

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown a value."""
        return self._warm

    @property
    def statistic(self) -> float:
        """The largest sum of a live feature, as a share of its limit; NaN while cold."""
        return self._largest if self._warm else math.nan

    @property
    def threshold(self) -> float:
        """1: the limit itself."""
        return 1.0

    @property
    def drift_detected(self) -> bool:
        """Whether `statistic` is over 1 now."""
        return self.statistic > 1.0

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: a feature's largest sum as a share of its limit; NaN when the feature is not watched."""
        return np.where(self._watched, self._ratios, np.nan)

    def state(self) -> dict[str, NDArray[Any]]:
        """The sums as shares of their limits, and who has shown a value: continues bit for bit."""
        return {"sums": self._sums.copy(), "shown": self._shown.copy()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. The sums are shares of the reference's limits: `reset` with the same one first."""
        for name, mine in (("sums", self._sums), ("shown", self._shown)):
            if state[name].shape != mine.shape:
                raise ValueError(f"state {name} has shape {state[name].shape}, expected {mine.shape}: another set-up")
            mine[...] = state[name]
        self._ratios = self._sums.max(axis=0)
        self._largest = float(self._ratios.max())
        self._warm = bool(2 * self._shown.sum() >= self._live.sum() > 0)

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        return hashlib.sha256(self._sums.astype("<f8", copy=False).tobytes() + self._shown.tobytes()).digest()

    @classmethod
    def examples(cls) -> list[CusumBank]:
        """Instances the contract suite is run over."""
        return [cls(arl=1e6), cls(drifts=[0.5, 1.0], arl=1e6, robust=True)]


def _rounded(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return counts rounded down in steps of 19 %, so that a few limits do for all features."""
    found: NDArray[np.int64] = np.floor(2.0 ** (np.floor(4 * np.log2(np.maximum(rows, 1))) / 4)).astype(np.int64)
    return found


def run_length(drift: float, limit: float, offset: float = 0.0) -> float:
    """Return the mean run length of one sum, from 0, over independent normal values with mean `offset`.

    Siegmund's formula with the corrected limit `limit + 1.166`. The integral equation it stands for is solved in the
    tests: it is 0.8 % shorter at drift 1, 0.02 % at 0.1.

    >>> round(run_length(1.0, 4.0))  # exactly: 335
    338
    """
    lean, height = offset - 0.5 * drift, limit + 1.166
    climb = -2.0 * lean * height
    if abs(climb) < 1e-4:
        return height**2
    if climb > 700.0:
        return math.inf
    return (math.expm1(climb) - climb) / (2.0 * lean**2)


@lru_cache(maxsize=1024)
def limit_of(drift: float, arl: float, rows: int) -> float:
    """Return the limit at which one sum rings once in `arl` rows, on average over references of `rows` rows.

    Infinite where it would have to be over 400: the error of the mean is too large for this drift.
    """
    errors = (_ERRORS / math.sqrt(rows)).tolist()

    def rate(limit: float) -> float:
        return sum(
            weight / run_length(drift, limit, error) for error, weight in zip(errors, _WEIGHTS.tolist(), strict=True)
        )

    if rate(_LIMIT_MAX) > 1 / arl:
        return math.inf
    low, high = 0.0, _LIMIT_MAX
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rate(middle) > 1 / arl else (low, middle)
    return high


__plugin__ = CusumBank
