"""ADWIN: has the mean of a feature changed within its own adaptive window?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.kernel_bank import Arrays, KernelBank, Scale
from regime.reference import Reference

Floats = NDArray[np.float64]


class Adwin:
    """ADWIN on every feature, and the share of features that alarmed lately.

    ADWIN keeps a window of the recent values of one feature, and cuts it in two wherever the means of the halves differ
    by more than chance allows:

        |mean_0 - mean_1| >= sqrt(2 v d / m) + 2 d / (3 m),  d = ln(2 ln(n) / delta),  m = harmonic n_0, n_1

    with `v` the variance of the whole window of `n`. It forgets the older half then, and that is its alarm. It
    compares a feature with its own past, not with the reference. The second term does not grow with the values, so the
    answer depends on their scale: each feature is standardised by the reference's mean and standard deviation first.

        statistic = share of live features that alarmed within their last `memory` values

    **When it misleads.** The bound is for independent values, and there it keeps its promise (one alarm in 400,000
    values or more). Neighbouring values of a market indicator are alike, and every swing is a change of mean: on 195
    simulated market features the first alarm comes at row 64 and 10,400 follow in 30 days of five minutes, so that at
    any moment 86 % of the features have alarmed within a day. What is left to a limit on that share is 93 %:

    | volatility clusters | rows between alarms | volatility x2, 10 features + 1 sd |
    |---|---|---|
    | mildly (GARCH .04/.94, t8) | 11,500 | 2 of 10, 0 of 10 found in 2,400 rows |
    | harshly (GARCH .05/.94, t5) | 7,500 | 1 of 9, 1 of 9: no more than chance |

    (5 references of 90 days, 30,000 rows each, limit chosen on other seeds, alarms within 288 rows count once). On
    market features this detector is silent rather than useful; take `ks`. It is for values that do not remember their
    past: results of trades, residuals, spreads of a few minutes. With 5 or 50 independent features no alarm of the
    family came in 80,000 and 32,000 rows. With fewer than 15 features the default limit asks that all of them alarm.

    A feature that is dead in the reference (constant) has no scale and is not watched. Missing values are skipped, and
    all counts are of a feature's own values.

    All features go through one compiled loop. It alarms exactly where river's `ADWIN` does, which `river_adwin` wraps:
    51,719 alarms on 10,000 streams of 2,500 rows, with gaps and restarts, none different (`bench_kernels.py
    --equality 10000`). A row of 200 features costs about 6 us, a fifth of river's own loop; the state is 120 kB.

    Parameters
    ----------
    delta
        Significance of one comparison.
    clock
        Look for a cut once in so many values.
    max_buckets, min_window_length, grace_period
        As in river: buckets of one size before two are merged, values in the shorter half at least, values before the
        first look.
    memory
        For how many values an alarm counts.
    share_limit
        `threshold`: the share of live features that must be exceeded.

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> rng = np.random.default_rng(42)
    >>> adwin = Adwin()
    >>> adwin.reset(Reference(["atr", "roc", "rsi"], rng.standard_normal((2000, 3))))
    >>> stream = rng.standard_normal((1000, 3))
    >>> stream[500:] += 1.0
    >>> for i, x in enumerate(stream):
    ...     adwin.update(x)
    ...     if adwin.drift_detected:
    ...         print(f"drift at row {i}: {adwin.statistic:.0%} of the features alarmed")
    ...         break
    drift at row 575: 100% of the features alarmed

    References
    ----------
    A. Bifet and R. Gavalda. Learning from time-changing data with adaptive windowing. Proceedings of the 2007 SIAM
    International Conference on Data Mining, 443-448.
    """

    def __init__(
        self,
        *,
        delta: float = 0.002,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
        memory: int = 288,
        share_limit: float = 0.93,
    ) -> None:
        if not 0 < delta < 1:
            raise ValueError(f"delta is a significance level between 0 and 1: {delta!r}")
        counts = {
            "clock": clock,
            "max_buckets": max_buckets,
            "min_window_length": min_window_length,
            "grace_period": grace_period,
            "memory": memory,
        }
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a number of values, a whole number from 1: {value!r}")
        if not 0 <= share_limit <= 1:
            raise ValueError(f"share_limit is a share of the features, from 0 to 1: {share_limit!r}")
        self.max_buckets = max_buckets
        self._real = np.array([delta])
        self._whole = np.array([clock, min_window_length, grace_period], dtype=np.int64)
        self.memory = memory
        self.share_limit = float(share_limit)
        self._first = max(clock, grace_period)

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, and begin with empty windows."""
        from regime.kernels import adwin as kernel

        scale = Scale(reference)
        columns, room = len(scale.live), self.max_buckets + 1
        arrays: Arrays = {
            "sums": np.zeros((columns, kernel.LEVELS_AT_FIRST, room)),
            "held": np.zeros((columns, kernel.LEVELS_AT_FIRST), dtype=np.int64),
            "window": np.zeros((columns, 2)),
            "whole": np.zeros((columns, 3), dtype=np.int64),
        }

        def step(held: Arrays, x: Floats) -> None:
            fullest = kernel.take(
                x, scale.columns, scale.live, held["sums"], held["held"], held["window"], held["whole"],
                self._real, self._whole,
            )  # fmt: skip
            if fullest:  # The longest window is about to need a level more.
                held["sums"] = np.concatenate((held["sums"], np.zeros((columns, 1, room))), axis=1)
                held["held"] = np.concatenate((held["held"], np.zeros((columns, 1), dtype=np.int64)), axis=1)

        self._bank = KernelBank(scale, memory=self.memory, arrays=arrays, step=step)

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        self._bank.update(x)

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown enough values for ADWIN to have looked once."""
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
        """The windows, and what was counted: continues bit for bit."""
        return self._bank.state()

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from `state`. Its values are standardised: `reset` with the same reference first."""
        self._bank.load_state(state, growing=("sums", "held"))

    def fingerprint(self) -> bytes:
        """SHA-256 over the bytes of `state`."""
        return self._bank.fingerprint()

    @classmethod
    def examples(cls) -> list[Adwin]:
        """Instances the contract suite is run over."""
        return [cls(), cls(delta=0.0001, clock=1, memory=50)]


__plugin__ = Adwin
