"""What the scans share: how all features together have left the reference over the last 1, 2, 4, ... rows.

A scan looks at the family before it looks at a feature: a shift that no feature shows by itself is plain in the sum of
many. What is added up is the business of the detector (`xie_siegmund`, `chi_square`); the windows, the reference's own
windows, and the limit are the same.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.kernel_bank import Scale
from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]

WINDOWS_MIN = 4
"""A window that fits less often into the reference is not watched: nothing is known about how it usually is."""
# Values of a standard normal variable, and the logarithm of their weights, for the sums over it.
_STEP = 0.02
_U = np.arange(0.5 * _STEP, 60.0, _STEP)
_LOG_WEIGHTS = -0.5 * _U**2 + math.log(2.0 * _STEP / math.sqrt(2.0 * math.pi))
LOOKS = 4.0
"""So many independent looks a row do the windows of 1 to 512 come to, simulated: see `tests/bench/bench_scans.py`."""


class ScanBank:
    """The largest of the standardised family sums over windows of 1, 2, 4, ... values, as a share of its limit.

    With U_f(w) the sum of the last w standardised values of feature f over sqrt(w (1 + w / N)), where N is how many
    values the reference holds of it,

        G(w) = sum over live features of g(U_f(w))
        statistic = max over w of (G(w) - usual(w)) / (spread(w) limit(w))

    and over 1 it rings. `usual` and `spread` are the mean and the standard deviation of G(w) over all windows of the
    reference, or, where that is more, what they are for independent normal values: features that are alike, and rows
    that are alike, make G(w) wander, and the reference says how much. `limit` is the quantile of a standardised sum of
    so many independent g(U) as have that spread (the features, over the variance ratio), or that skewness if they are
    fewer, by a saddlepoint formula.

    Parameters
    ----------
    sparse
        0: g(U) = U^2. Over 0: g(U) = ln(1 - sparse + sparse e^(U^2 / 2)).
    longest
        The longest window, a power of 2; windows that fit less than four times into the reference are left out.
    arl
        Rows between false alarms, if all values are independent and normal.
    """

    def __init__(self, *, sparse: float, longest: int, arl: float) -> None:
        if not isinstance(longest, int) or isinstance(longest, bool) or longest not in {2**k for k in range(13)}:
            raise ValueError(f"longest is the longest window, a power of 2 from 1 to 4096: {longest!r}")
        if not (math.isfinite(arl) and 1 <= arl <= 1e12):
            raise ValueError(f"arl is the number of rows between false alarms, from 1 to 1e12: {arl!r}")
        self.longest = longest
        self.arl = float(arl)
        self._sparse = float(sparse)

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, measure its own windows, and begin with nothing seen."""
        from regime.kernels.scan import take

        self._take = take
        scale = Scale(reference)
        self._scale, self._live = scale.columns, scale.live
        self._count = int(scale.live.sum())
        windows = self.longest.bit_length()
        widths = 2.0 ** np.arange(windows)
        share: Floats = widths / np.maximum(scale.rows, 1)[:, None]
        self._begin(len(scale.live), windows, np.ascontiguousarray(1.0 + share))
        self._measure(reference.values, scale, share)
        self._feature_limit = two_sided(min(1.0 / (LOOKS * self.arl * max(self._count, 1)), 0.3))
        self._begin(len(scale.live), windows, self._doubt)

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        self._row[0] = x
        self._walk(self._row, self._doubt, self._together, self._full)
        self._judge()

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown a value."""
        return self._warm

    @property
    def statistic(self) -> float:
        """The largest excess of a family sum, as a share of its limit; NaN while cold. Under 0 is calmer than usual."""
        return self._statistic

    @property
    def threshold(self) -> float:
        """1, the limit itself; `inf` where the reference is too short for any window."""
        return 1.0 if self._count and np.isfinite(self._limits).any() else math.inf

    @property
    def drift_detected(self) -> bool:
        """Whether `statistic` is over `threshold` now."""
        return self._statistic > self.threshold

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: largest |U| of a feature over the limit at which it would make one feature among so many
        ring by itself; NaN for a dead feature and one that has shown no value. All may be under 1 where many have moved
        by a little."""
        state = self._state
        reached = state["seen"][:, None] >= self._widths
        most: Floats = np.sqrt(np.where(reached, state["squares"], 0.0).max(axis=1)) / self._feature_limit
        return np.where(self._live & (state["seen"] > 0), most, np.nan)

    @property
    def window(self) -> int:
        """How many values the window is long whose sum stands out most: about when the change began. 0 while cold."""
        return int(self._widths[self._best]) if self._warm else 0

    def state(self) -> dict[str, NDArray[Any]]:
        """The sums of the last values, by length: continues bit for bit."""
        return {name: array.copy() for name, array in self._state.items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. Its values are standardised: `reset` with the same reference first."""
        for name, mine in self._state.items():
            if state[name].shape != mine.shape:
                raise ValueError(f"state {name} has shape {state[name].shape}, expected {mine.shape}: another set-up")
        for name, mine in self._state.items():
            mine[...] = state[name]
        self._row[0] = np.nan  # A row of nothing: the sums over the features are made anew.
        self._warm = False
        self._walk(self._row, self._doubt, self._together, self._full)
        self._judge()

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        found = hashlib.sha256()
        for array in self._state.values():
            found.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return found.digest()

    def _begin(self, columns: int, windows: int, doubt: Floats) -> None:
        self._state: Arrays = {
            "rings": np.zeros((columns, max(self.longest - 1, 1))),
            "seen": np.zeros(columns, dtype=np.int64),
            "squares": np.zeros((columns, windows)),
        }
        self._doubt = doubt
        self._widths: Ints = 2 ** np.arange(windows, dtype=np.int64)
        self._row: Floats = np.empty((1, columns))
        self._together: Floats = np.zeros((1, windows))
        self._full: Ints = np.zeros((1, windows), dtype=np.int64)
        self._warm, self._statistic, self._best = False, math.nan, 0

    def _walk(self, rows: Floats, doubt: Floats, together: Floats, full: Ints) -> None:
        held = self._state
        self._take(
            rows, self._scale, self._live, doubt, self._sparse, held["rings"], held["seen"], held["squares"], together,
            full,
        )  # fmt: skip

    def _measure(self, values: Floats, scale: Scale, share: Floats) -> None:
        """Set what is usual for each window, its spread and its limit, from the reference's own windows."""
        rows, windows = len(values), len(self._widths)
        alone = _independent_features(values, scale)
        together, full = np.empty((rows, windows)), np.empty((rows, windows), dtype=np.int64)
        # Inside the sample that gave the mean, sums stray less; out of it, more.
        self._walk(np.ascontiguousarray(values), np.ascontiguousarray(np.maximum(1.0 - share, 0.25)), together, full)
        usual, spread = independent(self._sparse)
        self._usual: Floats = np.full(windows, self._count * usual)
        self._spread: Floats = np.full(windows, math.sqrt(max(self._count, 1)) * spread)
        self._limits: Floats = np.full(windows, np.inf)
        for k in range(windows):
            most = int(full[-1, k])  # a feature with few values may never fill a long window: counted without it
            if not 2 * most >= self._count > 0:
                continue
            counted = together[full[:, k] == most, k] * (self._count / most)
            if len(counted) <= (WINDOWS_MIN - 1) * int(self._widths[k]):
                continue
            strays = max(float(counted.std()), float(self._spread[k]))
            alike = (strays / float(self._spread[k])) ** 2
            self._usual[k] = max(float(counted.mean()), float(self._usual[k]))
            self._spread[k] = strays
            self._limits[k] = limit_of(self._sparse, _rounded(max(min(self._count / alike, alone), 1.0)), self.arl)

    def _judge(self) -> None:
        full = self._full[0]
        if not self._warm:
            self._warm = bool(2 * full[0] >= self._count > 0)
        if self._warm:
            share = full / self._count
            excess = (self._together[0] - share * self._usual) / (self._spread * self._limits)
            excess[2 * full < self._count] = -np.inf
            self._best = int(np.argmax(excess))
            self._statistic = float(excess[self._best])


def _independent_features(values: Floats, scale: Scale) -> float:
    """Return how many independent features have a sum of squares as skewed as that of all live ones.

    With the eigenvalues of the correlation matrix, (sum of squares)^3 / (sum of cubes)^2: one common cause of many
    features weighs more than the spread of the sum alone would say.
    """
    size, mean, spread = scale.columns
    standard = np.nan_to_num((values / size - mean) / spread)[:, scale.live]
    together = standard.T @ standard / max(len(values), 1)
    squares, cubes = float((together**2).sum()), float(((together @ together) * together).sum())
    return squares**3 / cubes**2 if cubes > 0 else 1.0


def _rounded(count: float) -> float:
    """Return a count rounded down in steps of 9 %, so that a few limits do for all windows; fewer have wider limits."""
    return float(2.0 ** (math.floor(8 * math.log2(count)) / 8))


def _g(sparse: float) -> Floats:
    if sparse <= 0:
        return _U**2
    return np.logaddexp(math.log1p(-sparse) if sparse < 1 else -np.inf, math.log(sparse) + 0.5 * _U**2)


@lru_cache(maxsize=64)
def independent(sparse: float) -> tuple[float, float]:
    """Return mean and standard deviation of g(U) of one feature, for a standard normal U."""
    weights, g = np.exp(_LOG_WEIGHTS), _g(sparse)
    mean = float((weights * g).sum())
    return mean, math.sqrt(float((weights * (g - mean) ** 2).sum()))


@lru_cache(maxsize=1024)
def limit_of(sparse: float, count: float, arl: float) -> float:
    """Return the limit of the standardised sum of g(U) over `count` independent features, one alarm in `arl` rows.

    The rows of one window are much alike, and so are windows of similar length: all of them together are worth `LOOKS`
    independent looks a row. The probability of one look is by the saddlepoint formula of Lugannani and Rice (1980),
    which is within 2 % of simulated quantiles for 10 and more features; where few features are mixed sparsely it breaks
    down, and one feature alone, with the others as usual, gives the larger limit.
    """
    chance = min(1.0 / (LOOKS * arl), 0.3)
    wanted = math.log(chance)
    g = _g(sparse)
    mean, spread = independent(sparse)
    low, high = 1e-4, (0.5 if sparse <= 0 else 1.0) - 1e-4

    def tilted(theta: float) -> tuple[float, float, float]:
        """ln E exp(theta g), and mean and variance under the law that is tilted so."""
        exponents = theta * g + _LOG_WEIGHTS
        top = float(exponents.max())
        weights = np.exp(exponents - top)
        total = float(weights.sum())
        first = float((weights * g).sum()) / total
        return top + math.log(total), first, float((weights * (g - first) ** 2).sum()) / total

    def tail(theta: float) -> float:
        height, first, variance = tilted(theta)
        w = math.sqrt(max(2.0 * count * (theta * first - height), 1e-12))
        u = theta * math.sqrt(count * variance)
        normal = 0.5 * math.erfc(w / math.sqrt(2.0))
        found = normal + math.exp(-0.5 * w * w) / math.sqrt(2.0 * math.pi) * (1.0 / u - 1.0 / w)
        return math.log(max(found, 1e-300))

    for _ in range(45):
        theta = 0.5 * (low + high)
        low, high = (theta, high) if tail(theta) > wanted else (low, theta)
    alone = float(np.interp(two_sided(chance / count), _U, g)) - mean
    return max((tilted(theta)[1] - mean) * math.sqrt(count), alone / math.sqrt(count)) / spread


def two_sided(chance: float) -> float:
    """Return the u that a standard normal variable exceeds, up or down, with this probability.

    >>> round(two_sided(0.05), 3)
    1.96
    """
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2.0)) > chance else (low, middle)
    return high
