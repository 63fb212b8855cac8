"""What the compiled detectors share: the scale of each feature, and a family of features that alarm each by itself.

numba is not imported here: the caller hands in the step of its kernel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]

_SEEN, _AGE = 1, 2
_NEVER = np.iinfo(np.int64).max


class Scale:
    """How each feature is standardised: `(x / size - mean) / spread`, from the reference.

    `live` are the features that take at least two values in the reference; the others have no scale. `rows` is how many
    values of each feature the reference holds.

    Parameters
    ----------
    reference
        The sample to measure.
    robust
        Median and 1.4826 times the median distance from it, in place of mean and standard deviation. A feature of which
        more than half of the values are equal has no median distance and keeps mean and standard deviation.
    """

    def __init__(self, reference: Reference, *, robust: bool = False) -> None:
        values = reference.values
        present = ~np.isnan(values)
        count = np.maximum(present.sum(axis=0), 1)
        # Divided by its largest value first: the square of a column of 1e200 is not a number any more.
        size = np.where(present, np.abs(values), 0.0).max(axis=0)
        size = np.where(size > 0, size, 1.0)
        scaled = np.where(present, values / size, 0.0)
        mean = scaled.sum(axis=0) / count
        spread = np.sqrt((np.where(present, scaled - mean, 0.0) ** 2).sum(axis=0) / count)
        self.live: Flags = ~reference.dead() & (spread > 0)
        if robust and self.live.any():
            sample = np.where(present, scaled, np.nan)[:, self.live]
            middle = np.nanmedian(sample, axis=0)
            around = 1.4826 * np.nanmedian(np.abs(sample - middle), axis=0)
            mean[self.live] = np.where(around > 0, middle, mean[self.live])
            spread[self.live] = np.where(around > 0, around, spread[self.live])
        self.rows: Ints = present.sum(axis=0)
        self.columns: Floats = np.ascontiguousarray([size, mean, np.where(self.live, spread, 1.0)])
        """`float64[3, features]`: size, mean, spread, as the kernels take them."""


class KernelBank:
    """A family of features, each of which alarms by itself, and the share of them that alarmed lately.

    Every feature has a clock of its own, which counts its values and not the rows: an alarm is *recent* for `memory`
    values of that feature, counted from and including the one it came with. The same family as `RiverBank`, over a
    kernel's arrays in place of river's objects, so that its state can be taken out and put back.

    Parameters
    ----------
    scale
        Says which features are live.
    memory
        How many values an alarm counts as recent.
    arrays
        Everything that `step` changes. `arrays["whole"]` is `int64[features, 3]`; its second column counts the values
        of a feature, its third holds the age of the last alarm.
    step
        Takes a row.
    """

    def __init__(self, scale: Scale, *, memory: int, arrays: Arrays, step: Callable[[Arrays, Floats], None]) -> None:
        self.live = scale.live
        self._live_count = int(scale.live.sum())
        self._memory = memory
        self._arrays = arrays
        self._step = step
        whole = arrays["whole"]
        whole[:, _SEEN] = 0
        whole[:, _AGE] = _NEVER
        self._values_median = 0.0
        self._values_wanted = 0

    def update(self, x: Floats) -> None:
        """Take one row; NaN and infinities are missing."""
        self._step(self._arrays, np.ascontiguousarray(x, dtype=np.float64))

    def has_seen(self, values: int) -> bool:
        """Return whether the median live feature has shown so many values; never when no feature is live."""
        # Once true, always true: the median is not looked for again in every row.
        if values != self._values_wanted or self._values_median < values:
            seen = self._arrays["whole"][self.live, _SEEN]
            self._values_median = float(np.median(seen)) if self._live_count else -1.0
            self._values_wanted = values
        return self._values_median >= values

    def share_alarmed(self) -> float:
        """Return the share of live features whose last alarm is recent; NaN when no feature is live."""
        if not self._live_count:
            return float("nan")
        recent = int((self._arrays["whole"][:, _AGE] <= self._memory).sum())  # a dead feature never alarms
        return recent / self._live_count

    def recency(self) -> Floats:
        """Return `float64[features]`: `(memory + 1) / age` of the last alarm, over 1 exactly while it is recent.

        0 when a feature has not alarmed yet; NaN when it is not live.
        """
        age = self._arrays["whole"][:, _AGE]
        return np.where(self.live, np.where(age == _NEVER, 0.0, (self._memory + 1) / age), np.nan)

    def state(self) -> Arrays:
        """Return copies of the arrays: continues bit for bit."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, NDArray[Any]], *, growing: Collection[str] = ()) -> None:
        """Continue from `state`. The arrays named by `growing` may be longer or shorter than ours along their second
        axis."""
        for name, mine in self._arrays.items():
            given = state[name]
            expected = mine.shape if name not in growing else (mine.shape[0], given.shape[1], *mine.shape[2:])
            if given.shape != expected:
                raise ValueError(f"state {name} has shape {given.shape}, expected {mine.shape}: another set-up")
        for name, mine in self._arrays.items():
            self._arrays[name] = np.array(state[name], dtype=mine.dtype, order="C")
        self._values_median = 0.0
        self._values_wanted = 0

    def fingerprint(self) -> bytes:
        """Return SHA-256 over the arrays."""
        found = hashlib.sha256()
        for name, array in self._arrays.items():
            found.update(name.encode())
            found.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return found.digest()
