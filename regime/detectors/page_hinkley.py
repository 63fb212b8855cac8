"""Page-Hinkley: has the mean of a feature left its own running mean?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.kernel_bank import Arrays, KernelBank, Scale
from regime.reference import Reference

Floats = NDArray[np.float64]

_MODES = ("up", "down", "both")


class PageHinkley:
    """Page-Hinkley on every feature, and the share of features that alarmed lately.

    With `a_t` the mean of a feature's values since its last alarm, the test sums how far they stray from it,

        up_t   = alpha up_{t-1}   + x_t - a_t - delta,   alarm when up_t - min(up) > limit
        down_t = alpha down_{t-1} + x_t - a_t + delta,   alarm when max(down) - down_t > limit

    and begins anew after an alarm. `limit` (river calls it threshold) and `delta` are in the units of the feature, so
    each feature is standardised by the reference's mean and standard deviation first. It compares a feature with its
    own past, not with the reference.

        statistic = share of live features that alarmed within their last `memory` values

    **When it misleads.** It rings without end even where all is well: once in 1,500 values of an independent standard
    normal feature, and on 195 simulated market features first at row 64, then 8,900 times in 30 days of five minutes,
    so that at any moment 89 % of the features have alarmed within a day. What is left to a limit on that share is
    96 %:

    | volatility clusters | rows between alarms | volatility x2, 10 features + 1 sd |
    |---|---|---|
    | mildly (GARCH .04/.94, t8) | 15,000 | 1 of 8, 3 of 8 found in 2,400 rows |
    | harshly (GARCH .05/.94, t5) | 12,500 | 3 of 9, 3 of 9: little more than chance |

    (5 references of 90 days, 30,000 rows each, limit chosen on other seeds, alarms within 288 rows count once). On
    market features this detector is silent rather than useful; take `ks`. With 5 independent features the family
    alarmed once in 80,000 rows, with 50 not in 32,000. With fewer than 25 features the default limit asks that all of
    them alarm.

    A feature that is dead in the reference (constant) has no scale and is not watched. Missing values are skipped, and
    all counts are of a feature's own values.

    All features go through one compiled loop. It alarms exactly where river's `PageHinkley` does, which
    `river_page_hinkley` wraps: 345,820 alarms on 10,000 streams of 2,500 rows, with gaps and restarts, none different
    (`bench_kernels.py --equality 10000`). A row of 200 features costs about 4 us, a twentieth of river's own loop.

    Parameters
    ----------
    min_instances
        Values before the first alarm.
    delta
        Drift to tolerate, in standard deviations of the reference.
    limit
        Limit of the sums, in standard deviations of the reference.
    alpha
        Factor by which the sums forget, each value.
    mode
        `up`, `down` or `both`: the direction to watch.
    memory
        For how many values an alarm counts.
    share_limit
        `threshold`: the share of live features that must be exceeded.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> page_hinkley = PageHinkley()
    >>> page_hinkley.reset(Reference(["atr", "roc", "rsi"], rng.standard_normal((2000, 3))))
    >>> stream = rng.standard_normal((1000, 3))
    >>> stream[500:] += 1.0
    >>> for i, x in enumerate(stream):
    ...     page_hinkley.update(x)
    ...     if page_hinkley.drift_detected:
    ...         print(f"drift at row {i}: {page_hinkley.statistic:.0%} of the features alarmed")
    ...         break
    drift at row 568: 100% of the features alarmed

    References
    ----------
    E. S. Page. Continuous inspection schemes. Biometrika 41, 1/2 (1954), 100-115.
    """

    def __init__(
        self,
        *,
        min_instances: int = 30,
        delta: float = 0.005,
        limit: float = 50.0,
        alpha: float = 0.9999,
        mode: str = "both",
        memory: int = 288,
        share_limit: float = 0.96,
    ) -> None:
        for name, value in (("min_instances", min_instances), ("memory", memory)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a number of values, a whole number from 1: {value!r}")
        if not (math.isfinite(delta) and delta >= 0):
            raise ValueError(f"delta is the drift to tolerate, in standard deviations, from 0: {delta!r}")
        if not (math.isfinite(limit) and limit > 0):
            raise ValueError(f"limit is a sum of standard deviations, over 0: {limit!r}")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is a factor of forgetting, over 0 and at most 1: {alpha!r}")
        if mode not in _MODES:
            raise ValueError(f"mode is one of {', '.join(_MODES)}: {mode!r}")
        if not 0 <= share_limit <= 1:
            raise ValueError(f"share_limit is a share of the features, from 0 to 1: {share_limit!r}")
        limit_up = limit if mode in {"up", "both"} else math.inf
        limit_down = limit if mode in {"down", "both"} else math.inf
        self._options = np.array([min_instances, delta, alpha, limit_up, limit_down], dtype=np.float64)
        self._first = min_instances
        self.memory = memory
        self.share_limit = float(share_limit)

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, and begin with empty sums."""
        from regime.kernels import page_hinkley as kernel

        scale = Scale(reference)
        arrays: Arrays = {
            "sums": np.tile(kernel.EMPTY, (len(scale.live), 1)),
            "whole": np.zeros((len(scale.live), 3), dtype=np.int64),
        }

        def step(held: Arrays, x: Floats) -> None:
            kernel.take(x, scale.columns, scale.live, held["sums"], held["whole"], self._options)

        self._bank = KernelBank(scale, memory=self.memory, arrays=arrays, step=step)

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        self._bank.update(x)

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown enough values for the test to begin."""
        return self._bank.has_seen(self._first)

    @property
    def statistic(self) -> float:
        """The share of live features that alarmed within their last `memory` values; NaN while cold."""
        return self._bank.share_alarmed() if self.warm else math.nan

    @property
    def threshold(self) -> float:
        """`share_limit`."""
        return self.share_limit

    @property
    def drift_detected(self) -> bool:
        """Whether `statistic` is over `share_limit` now."""
        return self.statistic > self.share_limit

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: `(memory + 1) / age` of the last alarm, which is 1 value old when it rings; 0 before the
        first one, NaN for a dead feature."""
        return self._bank.recency()

    def state(self) -> dict[str, NDArray[Any]]:
        """The sums, and what was counted: continues bit for bit."""
        return self._bank.state()

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. Its values are standardised: `reset` with the same reference first."""
        self._bank.load_state(state)

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        return self._bank.fingerprint()

    @classmethod
    def examples(cls) -> list[PageHinkley]:
        """Instances the contract suite is run over."""
        return [cls(), cls(delta=0.1, limit=20.0, mode="up", memory=50)]


__plugin__ = PageHinkley
