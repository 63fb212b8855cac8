"""Two-sample Kolmogorov-Smirnov: has the recent distribution of a feature left the reference's?"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FOLDS = 4
_WINDOWS_MIN = 10
_ROWS_MEASURED = 25_920  # 90 days of five minutes: the length of reference on which `margin` was chosen
_THRESHOLD_MIN = 4.0  # independent values of one feature are over it in one window of 740
_LOW = np.int64(0xFFFFFFFF)
# Mean and standard deviation of the Kolmogorov distribution: sqrt(n) D for n independent values.
_MEAN_IID = math.sqrt(math.pi / 2) * math.log(2)
_SPREAD_IID = math.sqrt(math.pi**2 / 12 - math.pi / 2 * math.log(2) ** 2)


class Ks:
    """Kolmogorov-Smirnov distance of the last `window` values of each feature from the reference.

    For every feature, with `R(v)` the share of its reference values that are not above `v`, and `W(v)` the share of
    its last `window` values,

        D = max over v of |W(v) - R(v)|

    which is 0 when both have the same distribution and 1 when they do not overlap. It is exact, ties and 0/1 features
    included: `scipy.stats.ks_2samp` finds the same number. No p-value is taken from it, because neighbouring rows are
    alike: at p < 0.01 the textbook test calls 81 % of the features changed on an ordinary day. What is usual is
    measured on the reference instead. A window is slid through it and compared with the part of it that is far from
    the window, which gives each feature a usual D and a spread (not below the spread of independent values); then

        statistic = max over live features of (D - usual) / spread

    and `threshold` is `margin` times the largest statistic of the reference's own windows, carried to what 90 days of
    five minutes would have shown if the reference is shorter or longer, and at least 4. So the family rings exactly
    when one live feature goes over `usual + threshold * spread`, and `feature_statistics` is D over that limit. (With
    the mean over the features, instead of the largest, the median delay for a doubled volatility was 1,200 - 1,600 rows
    instead of 200; window 144, run length about 10,000.)

    **Run length, measured.** 195 indicators on a simulated market, 90 days of five minutes as reference, defaults;
    margin chosen on other seeds; alarms within 288 rows of each other count once; 10 references, 3 continuations of
    36,000 rows. Delay in rows, median and mean of 18 - 20 changes each, runs with an alarm in the 600 rows before left
    out; a run that never rings counts 2,400.

    | volatility clusters | rows between alarms (worst reference) | volatility x2 | 10 features + 1 sd |
    |---|---|---|---|
    | mildly (GARCH .04/.94, t8) | 21,000 (5,400) | 229, 262 | 120, 184 |
    | harshly (GARCH .05/.94, t5) | 51,000 (13,000) | half not found in 2,400 rows | 179, 223 |

    Volatility x2 and the shift, in the mild world, were found in every run; a momentum of 0.3 in 233, 308 rows (mild)
    and 269, 284 (harsh). Other lengths of reference, mild: 10 days ring every 1,700 rows, 30 days every 11,400, 180 and
    360 days every 290,000 (8, 8, 4, 4 references and 2 continuations; one alarm each in the last two, so this is no
    more than an order of magnitude), where a doubled volatility takes 340, 430 and 340, 500 rows.

    **When it misleads.** The limit is an interim one: a largest value times a margin, not a promise. Its run length
    differs by a factor of ten from one reference to the next, and a short reference makes it ring sooner than the
    table says. Where volatility already comes in bursts a doubled volatility is one more burst. Volatility x1.5 takes
    four days (mild) or is not found. A feature that wanders (a price, a slow average) has a limit near or over 1 and
    cannot stand out: nothing here can tell its change from its habit. A feature that is dead in the reference
    (constant) has D = 0 while it stays, and D = the share of its window that moved when it starts; it can stand out in
    `feature_statistics` but has no say in the family, since nothing is known about how it moves. Nor has one with
    fewer than 10 windows of values. With no other feature left the reference is too short to justify a limit:
    `threshold` is infinite, and `statistic` uses what is usual for independent values. Missing values are not put into
    the window, so the window of a feature that stopped arriving is old.

    A row of 200 features costs about 0.45 ms, `reset` on 26,000 rows about a second, and the sorted reference 8 bytes a
    value.

    Parameters
    ----------
    window
        How many recent values of a feature are compared, at least 8. At the same run length 144 found 10 shifted
        features in 106 rows instead of 146, but needed 512 rows instead of 258 for a doubled volatility (means).
    margin
        Safety on the limit. In the mild world 1.0 rang every 6,100 rows, 1.15 every 21,000, 1.3 every 97,000.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> ks = Ks(window=100)
    >>> ks.reset(Reference(["atr", "roc", "rsi"], rng.standard_normal((2000, 3))))
    >>> stream = rng.standard_normal((1000, 3))
    >>> stream[500:] += 1.0
    >>> for i, x in enumerate(stream):
    ...     ks.update(x)
    ...     if ks.drift_detected:
    ...         print(f"drift at row {i}: {ks.statistic:.1f} spreads, limit {ks.threshold:.1f}")
    ...         break
    drift at row 546: 6.0 spreads, limit 5.6

    References
    ----------
    A. N. Kolmogorov. Sulla determinazione empirica di una legge di distribuzione. Giornale dell'Istituto Italiano
    degli Attuari 4 (1933), 83-91.
    N. V. Smirnov. Table for estimating the goodness of fit of empirical distributions. Annals of Mathematical
    Statistics 19, 2 (1948), 279-281.
    """

    def __init__(self, *, window: int = 288, margin: float = 1.15) -> None:
        if not isinstance(window, int) or isinstance(window, bool) or window < 8:
            raise ValueError(f"window is the number of recent values to compare, a whole number from 8: {window!r}")
        if not (math.isfinite(margin) and margin > 0):
            raise ValueError(f"margin multiplies the largest statistic of the reference, a number over 0: {margin!r}")
        self.window = window
        self.margin = float(margin)
        self._after = np.arange(1, window + 1, dtype=np.int64)
        self._before = np.arange(window, dtype=np.int64)

    def reset(self, reference: Reference) -> None:
        """Sort the reference, measure on it how far its own windows stray, and start with empty windows."""
        values = reference.values
        rows, features = values.shape
        in_order = np.sort(values, axis=0).T  # NaN go to the end
        self._size: Ints = (~np.isnan(values)).sum(axis=0)
        self._compared = self._size > 0
        # Padded with infinity: no value is larger, so padding is never counted as smaller than a value.
        self._sorted: Floats = np.where(np.isnan(in_order), np.inf, in_order).ravel()
        self._offsets: Ints = np.tile(np.arange(features, dtype=np.int64) * rows, 2)
        self._halves: list[int] = []
        length = rows
        while length > 1:
            self._halves.append(length // 2)
            length -= length // 2
        self._columns = np.arange(features)
        self._forget(features)
        self._calibrate(values, reference.dead())

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        taken = np.isfinite(x) & self._compared
        if taken.all():
            columns = self._columns
        else:
            columns = np.flatnonzero(taken)
            if columns.size == 0:
                return
        ranks = self._ranks(np.where(taken, x, 0.0))
        position = self._position[columns]
        self._ring[columns, position] = ranks[columns]
        self._position[columns] = (position + 1) % self.window
        self._count[columns] = np.minimum(self._count[columns] + 1, self.window)
        self._judge()

    @property
    def warm(self) -> bool:
        """Whether the windows of at least half of the live features are full."""
        return self._warm

    @property
    def statistic(self) -> float:
        """The largest number of spreads by which the D of a live feature lies above its usual D; NaN while cold."""
        return self._statistic

    @property
    def threshold(self) -> float:
        """Limit of `statistic`; `inf` when the reference is too short to justify one."""
        return self._threshold

    @property
    def drift_detected(self) -> bool:
        """Whether `statistic` is over `threshold` now."""
        return self._statistic > self._threshold

    @property
    def distances(self) -> Floats:
        """`float64[features]`: the statistic D of each feature, in [0, 1]; NaN while its window is not full."""
        return self._distances.copy()

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: D over the feature's own limit; NaN while its window is not full or without limit."""
        ratios: Floats = self._distances / self._limits
        return ratios

    def state(self) -> dict[str, NDArray[Any]]:
        """Ranks of the values in the windows, and where the next one goes: continues bit for bit."""
        return {"ring": self._ring.copy(), "position": self._position.copy(), "count": self._count.copy()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. Its ranks mean nothing to another reference: `reset` with the same one first."""
        for name, mine in (("ring", self._ring), ("position", self._position), ("count", self._count)):
            if state[name].shape != mine.shape:
                raise ValueError(f"state {name} has shape {state[name].shape}, expected {mine.shape}: another set-up")
            mine[...] = state[name]
        self._judge()

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        found = hashlib.sha256()
        for column in (self._ring, self._position, self._count):
            found.update(column.astype("<i8", copy=False).tobytes())
        return found.digest()

    @classmethod
    def examples(cls) -> list[Ks]:
        """Instances the contract suite is run over."""
        return [cls(), cls(window=50)]

    def _forget(self, features: int) -> None:
        self._ring: Ints = np.zeros((features, self.window), dtype=np.int64)
        self._position: Ints = np.zeros(features, dtype=np.int64)
        self._count: Ints = np.zeros(features, dtype=np.int64)
        self._work = tuple(np.empty((features, self.window), dtype=np.int64) for _ in range(3))
        self._distances: Floats = np.full(features, np.nan)
        self._statistic = math.nan
        self._warm = False

    def _ranks(self, x: Floats) -> Ints:
        """Return how many reference values are below x (upper 32 bits) and how many are not above x (lower 32 bits).

        A binary search in all columns at once. Not above x is below the next larger float, so one search does both.
        """
        with np.errstate(over="ignore"):
            wanted = np.concatenate((x, np.nextafter(x, np.inf)))
        at = self._offsets.copy()
        for half in self._halves:
            at += half * (self._sorted.take(at + (half - 1)) < wanted)
        at += self._sorted.take(at) < wanted
        at -= self._offsets
        ranks: Ints = (at[: len(x)] << 32) | at[len(x) :]
        return ranks

    def _distance(self, ranks: Ints, size: Ints) -> Floats:
        """Return D of each row of `ranks` against a sample of `size` values, in whole numbers until the last division.

        The pair (below, not above) orders values as they stand in the reference, and values with the same pair lie
        between the same two reference values, or on one: they are a tie. A tie needs no care: its last value has the
        largest `after`, its first one the smallest `before`, and the others are less extreme.
        """
        in_order, steps, seen = self._work  # memory of its own: fresh arrays of this size cost more than the sums
        in_order[...] = ranks
        in_order.sort(axis=1)
        n, m = size[:, None], self.window
        np.multiply(self._after, n, out=steps)
        np.bitwise_and(in_order, _LOW, out=seen)
        seen *= m
        steps -= seen
        above = steps.max(axis=1)
        np.multiply(self._before, n, out=steps)
        in_order >>= 32
        in_order *= m
        in_order -= steps
        below = in_order.max(axis=1)
        distance: Floats = np.maximum(above, below) / (np.maximum(size, 1) * m)
        return distance

    def _judge(self) -> None:
        full = (self._count == self.window) & self._compared
        if not full.any():
            return
        self._distances = np.where(full, self._distance(self._ring, self._size), np.nan)
        watched = full & self._live
        self._warm = bool(2 * watched.sum() >= self._live.sum() > 0)
        if self._warm:
            excess = (self._distances[watched] - self._usual[watched]) / self._spread[watched]
            self._statistic = float(excess.max())

    def _calibrate(self, values: Floats, dead: NDArray[np.bool_]) -> None:
        """Set what is usual for each feature, its limit, and the family's limit, from windows of the reference."""
        size = np.maximum(self._size, 1)
        root = np.sqrt((size + self.window) / (size * self.window))
        self._live = ~dead
        self._usual: Floats = np.where(dead, 0.0, _MEAN_IID * root)
        self._spread: Floats = _SPREAD_IID * root
        self._threshold = math.inf
        enough = self._size >= _WINDOWS_MIN * self.window
        self._limits: Floats = np.full(len(size), np.nan)
        if not (self._live & enough).any():
            return
        self._live &= enough
        distances = self._own_windows(values)[:, self._live]
        present = ~np.isnan(distances)
        count = np.maximum(present.sum(axis=0), 1)
        usual = np.where(present, distances, 0.0).sum(axis=0) / count
        spread = np.sqrt((np.where(present, distances - usual, 0.0) ** 2).sum(axis=0) / count)
        self._usual[self._live] = usual
        self._spread[self._live] = np.maximum(spread, self._spread[self._live])
        excess = (distances - usual) / self._spread[self._live]
        family = np.where(present, excess, -np.inf).max(axis=1)
        family = family[np.isfinite(family)]
        # The largest of a family grows by the scale of its Gumbel law whenever the rows grow by a factor of e.
        scale = float(family.std()) * math.sqrt(6) / math.pi
        largest = float(family.max()) + scale * math.log(_ROWS_MEASURED / len(values))
        self._threshold = max(self.margin * largest, _THRESHOLD_MIN)
        judged = (self._live | dead) & enough
        self._limits[judged] = (self._usual + self._threshold * self._spread)[judged]

    def _own_windows(self, values: Floats) -> Floats:
        """Return `float64[windows, features]`: D of the reference's windows, in time order, against the rest of it.

        The reference is cut into four stretches of time, and a window is compared with the three it does not lie in:
        a feature that wanders (a price) would look calm beside its own neighbourhood.
        """
        rows, features = values.shape
        sorted_columns = self._sorted.reshape(features, rows)
        steps = np.arange(self.window)
        found: list[Floats] = []
        for fold in range(_FOLDS):
            block = values[fold * rows // _FOLDS : (fold + 1) * rows // _FOLDS]
            present = ~np.isnan(block)
            ranks = np.zeros((features, max(len(block), self.window)), dtype=np.int64)
            inside = present.sum(axis=0)
            for feature in range(features):
                column = block[present[:, feature], feature]
                order = np.argsort(column)
                own, everything = column[order], sorted_columns[feature, : self._size[feature]]
                below = np.searchsorted(everything, own) - np.searchsorted(own, own)
                not_above = np.searchsorted(everything, own, "right") - np.searchsorted(own, own, "right")
                ranks[feature, order] = (below << 32) | not_above
            seen = np.cumsum(present, axis=0)
            for end in range(self.window, len(block) + 1, max(self.window // 4, 1)):
                start = seen[end - 1] - self.window
                window = np.take_along_axis(ranks, np.maximum(start, 0)[:, None] + steps, axis=1)
                usable = (start >= 0) & (self._size > inside)
                found.append(np.where(usable, self._distance(window, self._size - inside), np.nan))
        return np.array(found).reshape(-1, features)


__plugin__ = Ks
