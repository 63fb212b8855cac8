"""ADWIN as river wrote it, one object per feature: what `adwin` is proved equal to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference
from regime.river_bank import RiverBank

Floats = NDArray[np.float64]


class RiverAdwin:
    """river's ADWIN, one object per feature, and the share of features that alarmed lately.

    `adwin` gives the same answers (its tests prove it against this one), from arrays that fit into a snapshot and about
    ten times as fast. What is said there of the test, its options and when it misleads holds here word for word.
    This one is the oracle, and for those who want river itself to answer.

    river keeps ADWIN's buckets in compiled code that gives them out as a pickle only, so there is no `state`: a stream
    with this detector restarts by replaying its log. A row of 200 features costs about 0.06 ms.

    Parameters
    ----------
    delta, clock, max_buckets, min_window_length, grace_period, memory, share_limit
        As in `adwin`.

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
        self.options: dict[str, float] = {
            "delta": delta,
            "clock": clock,
            "max_buckets": max_buckets,
            "min_window_length": min_window_length,
            "grace_period": grace_period,
        }
        self.memory = memory
        self.share_limit = float(share_limit)
        self._first = max(clock, grace_period)

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, and begin with empty windows."""
        from river.drift import ADWIN

        self._bank = RiverBank(lambda: ADWIN(**self.options), reference, memory=self.memory)

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        self._bank.update(x)

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown enough values for ADWIN to have looked once."""
        return self._bank.values_seen_median() >= self._first

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

    def state(self) -> dict[str, NDArray[Any]] | None:
        """None: river keeps ADWIN's buckets in compiled code, and only a pickle could take them out."""
        return None

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Raises `ValueError`: there is no state to continue from, replay the rows."""
        raise ValueError("river's ADWIN gives its state to nobody: replay the stream's log instead")

    def fingerprint(self) -> bytes:
        """SHA-256 over the rows taken, the alarms, and the width and mean of each feature's window."""
        return self._bank.fingerprint()

    @classmethod
    def examples(cls) -> list[RiverAdwin]:
        """Instances the contract suite is run over."""
        return [cls(), cls(delta=0.0001, clock=1, memory=50)]


__plugin__ = RiverAdwin
