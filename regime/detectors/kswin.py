"""KSWIN: do the newest values of a feature look like those just before them? river's, one object per feature."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference
from regime.river_bank import RiverBank

Floats = NDArray[np.float64]


class Kswin:
    """KSWIN, one of river's objects per feature, and the share of features that alarmed lately.

    Of the last `window_size` values of a feature, the newest `stat_size` are compared with as many drawn at random from
    the older ones, by a Kolmogorov-Smirnov test at level `alpha`. The test is repeated with every value, and its window
    of 100 values has nothing to do with the reference.

        statistic = share of live features that alarmed within their last `memory` values

    **When it misleads.** It is here for comparison; take `ks`. At river's defaults an independent normal feature rings
    every 740 values, one like AR(1) 0.9 every 113, and the first of 195 simulated market features rings at row 100, the
    first at which it can. The chance in it is not the data's: each feature draws with a seed of its own (`seed` and the
    feature's place among the live ones, in name order), so a replay finds the same alarms, and another seed others. It
    also draws the same numbers again after every alarm. `alpha` is a hundred times smaller here than in river: an
    independent feature then rings every 47,000 values, AR(1) 0.9 still every 139, the first market feature at row 100
    still. It is slow: 36 to 52 ms for a row of 200 features, a hundred times `ks`.

    river keeps its random generator to itself, so there is no `state`: a stream with this detector restarts by
    replaying its log. A feature that is dead in the reference (constant) is not watched. Missing values are skipped,
    and all counts are of a feature's own values.

    Parameters
    ----------
    alpha
        Significance of one comparison; river's default is 0.005.
    window_size, stat_size
        As in river: values kept, and how many of them are new.
    seed
        Of the first live feature; the next one has the next.
    memory
        For how many values an alarm counts.
    share_limit
        `threshold`: the share of live features that must be exceeded.

    References
    ----------
    C. Raab, M. Heusinger and F.-M. Schleif. Reactive soft prototype computing for concept drift streams. Neurocomputing
    416 (2020), 340-351.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.00005,
        window_size: int = 100,
        stat_size: int = 30,
        seed: int = 0,
        memory: int = 288,
        share_limit: float = 0.5,
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is a significance level between 0 and 1: {alpha!r}")
        for name, value in (("window_size", window_size), ("stat_size", stat_size), ("memory", memory)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a number of values, a whole number from 1: {value!r}")
        if window_size < 2 * stat_size:
            raise ValueError(f"window_size must hold stat_size values twice, {2 * stat_size}: {window_size!r}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed is a whole number from 0: {seed!r}")
        if not 0 <= share_limit <= 1:
            raise ValueError(f"share_limit is a share of the features, from 0 to 1: {share_limit!r}")
        self.options: dict[str, Any] = {"alpha": alpha, "window_size": window_size, "stat_size": stat_size}
        self.seed = seed
        self.memory = memory
        self.share_limit = float(share_limit)
        self._first = window_size

    def reset(self, reference: Reference) -> None:
        """Take the scale of each feature from the reference, and begin with empty windows."""
        from river.drift import KSWIN

        seeds = itertools.count(self.seed)
        self._bank = RiverBank(lambda: KSWIN(**self.options, seed=next(seeds)), reference, memory=self.memory)

    def update(self, x: Floats) -> None:
        """Take one row. Infinities count as missing, as they do in a `Reference`."""
        self._bank.update(x)

    @property
    def warm(self) -> bool:
        """Whether half of the live features have shown enough values to fill their window."""
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
        """None: river's random generator could only be taken out by a pickle."""
        return None

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Raises `ValueError`: there is no state to continue from, replay the rows."""
        raise ValueError("river's KSWIN gives its state to nobody: replay the stream's log instead")

    def fingerprint(self) -> bytes:
        """SHA-256 over the rows taken and the alarms."""
        return self._bank.fingerprint()

    @classmethod
    def examples(cls) -> list[Kswin]:
        """Instances the contract suite is run over."""
        return [cls(window_size=300, memory=250)]  # the window is long because a full one is slow


__plugin__ = Kswin
