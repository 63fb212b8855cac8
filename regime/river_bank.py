"""One of river's univariate detectors per feature, driven as a family: what `adwin` and `page_hinkley` share.

river is not imported here: the caller hands in a `make` that builds one of its detectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference

Floats = NDArray[np.float64]

_NEVER = np.iinfo(np.int64).max


class RiverBank:
    """A detector of river's for every live feature, each fed with its own standardised values.

    A feature is live when it takes at least two values in the reference. Its values are standardised by the
    reference's mean and standard deviation before river sees them; missing ones (NaN and infinities) are not passed
    on. So every feature has a clock of its own, which counts its values and not the rows: an alarm is *recent* for
    `memory` values of that feature, counted from and including the one it came with.

    Parameters
    ----------
    make
        Builds one detector of river's.
    reference
        The sample whose mean and standard deviation are the scale.
    memory
        How many values an alarm counts as recent.
    """

    def __init__(self, make: Callable[[], Any], reference: Reference, *, memory: int) -> None:
        values = reference.values
        present = ~np.isnan(values)
        count = np.maximum(present.sum(axis=0), 1)
        # Divided by its largest value first: the square of a column of 1e200 is not a number any more.
        size = np.where(present, np.abs(values), 0.0).max(axis=0)
        size = np.where(size > 0, size, 1.0)
        scaled = np.where(present, values / size, 0.0)
        mean = scaled.sum(axis=0) / count
        spread = np.sqrt((np.where(present, scaled - mean, 0.0) ** 2).sum(axis=0) / count)
        self.live: NDArray[np.bool_] = ~reference.dead() & (spread > 0)
        self._size = size
        self._mean = mean
        self._spread = np.where(self.live, spread, 1.0)
        self._memory = memory
        self._detectors: list[Any] = [make() if alive else None for alive in self.live.tolist()]
        self.values_seen: NDArray[np.int64] = np.zeros(len(self.live), dtype=np.int64)
        self._age: NDArray[np.int64] = np.full(len(self.live), _NEVER, dtype=np.int64)
        self._digest = hashlib.sha256(b"river bank").digest()

    def update(self, x: Floats) -> list[int]:
        """Take one row and return the columns that alarmed on it."""
        taken = self.live & np.isfinite(x)
        columns = np.flatnonzero(taken)
        if columns.size == 0:
            return []
        z = (x[columns] / self._size[columns] - self._mean[columns]) / self._spread[columns]
        detectors = self._detectors
        alarmed = []
        for column, value in zip(columns.tolist(), z.tolist(), strict=True):
            detector = detectors[column]
            detector.update(value)
            if detector.drift_detected:
                alarmed.append(column)
        self.values_seen[columns] += 1
        self._age[columns] = np.where(self._age[columns] == _NEVER, _NEVER, self._age[columns] + 1)
        self._age[alarmed] = 1
        step = hashlib.sha256(self._digest)
        step.update(columns.tobytes())
        step.update(x[columns].tobytes())
        step.update(np.array(alarmed, dtype=np.int64).tobytes())
        self._digest = step.digest()
        return alarmed

    def values_seen_median(self) -> float:
        """Return how many values the median live feature has shown; 0 when no feature is live."""
        return float(np.median(self.values_seen[self.live])) if self.live.any() else 0.0

    def share_alarmed(self) -> float:
        """Return the share of live features whose last alarm is recent; NaN when no feature is live."""
        return float((self._age[self.live] <= self._memory).mean()) if self.live.any() else float("nan")

    def recency(self) -> Floats:
        """Return `float64[features]`: `(memory + 1) / age` of the last alarm, over 1 exactly while it is recent.

        0 when a feature has not alarmed yet; NaN when it is not live.
        """
        return np.where(self.live, np.where(self._age == _NEVER, 0.0, (self._memory + 1) / self._age), np.nan)

    def fingerprint(self) -> bytes:
        """Return SHA-256 over all rows taken, the alarms, and where they can be read the windows river holds now."""
        found = hashlib.sha256(self._digest)
        held = [
            (detector.width, detector.estimation)
            for detector in self._detectors
            if detector is not None and hasattr(detector, "width")
        ]
        found.update(np.array(held, dtype=np.float64).tobytes())
        return found.digest()
