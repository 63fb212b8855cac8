"""Drift detectors: one file each, each over all features of a stream at once, behind one protocol.

A detector is cold (`warm` is False, `statistic` is NaN) until it has seen enough: warm-up is silence, not zero.
Its family statistic is held against one `threshold`; what each feature contributed is in `feature_statistics`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from regime.calibration import Calibration
from regime.reference import Reference

Floats = NDArray[np.float64]


@runtime_checkable
class Detector(Protocol):
    """What the engine asks of a drift detector.

    The constructor takes options only (keyword arguments, plain values) and raises `ValueError` in words for a bad
    one; nothing is checked again in `update`.
    """

    def reset(self, reference: Reference) -> None:
        """Forget everything and compare with `reference` from now on. Columns of `update` are `reference.names`."""
        ...

    def update(self, x: Floats) -> None:
        """Take one row, `float64[features]`; NaN is a missing value and leaves that feature as it was."""
        ...

    @property
    def warm(self) -> bool:
        """Whether there is anything to say yet."""
        ...

    @property
    def statistic(self) -> float:
        """The family statistic; larger is more evidence. NaN while cold."""
        ...

    @property
    def threshold(self) -> float:
        """Limit of the family statistic; `inf` when no limit could be justified from the reference."""
        ...

    @property
    def drift_detected(self) -> bool:
        """Whether the family statistic is over its limit now."""
        ...

    @property
    def feature_statistics(self) -> Floats:
        """`float64[features]`: each feature's own statistic divided by its own limit (over 1 stands out); NaN where
        there is none."""
        ...

    def state(self) -> dict[str, NDArray[Any]] | None:
        """Everything that `update` changes, as plain arrays to continue from after `reset` with the same reference;
        None when the state cannot be taken out (the stream then restarts by replaying its log)."""
        ...

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from what `state` returned. Call `reset` with the same reference first."""
        ...

    def fingerprint(self) -> bytes:
        """Bytes that differ when the state differs: part of the engine's digest, for detectors with and without
        `state`."""
        ...

    @classmethod
    def examples(cls) -> list[Detector]:
        """Instances the contract suite is run over."""
        ...


@runtime_checkable
class CalibratedDetector(Detector, Protocol):
    """A detector whose limits are found by `regime.calibration` and can be kept, so that they stay as they were found.

    Its constructor takes `rows_per_false_alarm` and `rows_per_day`, which the engine fills in from the budget.
    """

    calibration: Calibration
    rows_per_false_alarm: float
    rows_per_day: int

    def reset_calibrated(self, reference: Reference | None, calibration: Calibration) -> None:
        """`reset`, with limits that were found before. `ValueError` for those of another reference; None where it is
        known to be the one: nothing else may be asked of it."""
        ...

    def update(self, x: Floats, ts_ms: int | None = None) -> None:
        """Take one row; `ts_ms` places it in the day and the week where a season was found."""
        ...

    @property
    def level(self) -> str:
        """`calm`, `warning` or `alarm`; a level is left under the recovery limit only."""
        ...

    def explain(self, most: int = 10) -> Any:
        """What is behind the statistic now (`regime.detectors.calibrated.Explanation`); None while cold."""
        ...
