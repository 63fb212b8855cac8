"""Detectors over many rows, through their public methods only."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import regime.calibration
import regime.detectors
from regime.calibration import Calibration
from regime.detectors import Detector
from regime.detectors.calibrated import Calibrated
from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Step = Callable[[Floats], Floats]
"""Takes a row of as many streams as columns; gives back how strong the evidence is in each."""

START_MS = 1_700_006_400_000 // 86_400_000 * 86_400_000
STEP_MS = 300_000


def times(rows: int) -> Ints:
    found: Ints = START_MS + STEP_MS * np.arange(rows, dtype=np.int64)
    return found


def available(name: str) -> type[Any] | None:
    """The detector of that name; None where this version has none."""
    try:
        module = importlib.import_module(f"regime.detectors.{name}")
    except ModuleNotFoundError:
        return None
    found: type[Any] = module.__plugin__
    return found


def every_detector() -> Iterator[tuple[str, type[Any]]]:
    for module in pkgutil.iter_modules(regime.detectors.__path__):
        found = getattr(importlib.import_module(f"regime.detectors.{module.name}"), "__plugin__", None)
        if found is not None:
            yield module.name, found


def takes(kind: type[Any], option: str) -> bool:
    return option in inspect.signature(kind).parameters


def names(columns: int) -> list[str]:
    return [f"f{i:05}" for i in range(columns)]


def fed(detector: Detector, reference: Floats, of: Callable[[Any], Floats] = lambda d: d.feature_statistics) -> Step:
    """A step of `detector` with `reference`, every column a stream of its own; `of` reads the evidence."""
    detector.reset(Reference(names(reference.shape[1]), reference))

    def step(x: Floats) -> Floats:
        detector.update(x)
        return of(detector)

    return step


def new_alarms(detector: Any) -> Floats:
    """1 for a feature of `adwin`, `page_hinkley` or `kswin` that rings on this very row."""
    found: Floats = (detector.feature_statistics == detector.memory + 1).astype(float)
    return found


def objects(make: Callable[[], Any], reference: Floats) -> Step:
    """A step of river's, one object per column, each column standardised by the reference first."""
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    held = [make() for _ in range(reference.shape[1])]

    def step(x: Floats) -> Floats:
        rang = np.zeros(len(held))
        for i, (one, value) in enumerate(zip(held, ((x - mean) / deviation).tolist(), strict=True)):
            one.update(value)
            if one.drift_detected:
                rang[i] = 1.0
        return rang

    return step


def warmed(step: Step, reference: Floats, rows: int = 2000) -> Step:
    """The same step after it was shown the end of the reference: for detectors that compare with their own past."""
    for x in reference[-rows:]:
        step(x)
    return step


def scores(step: Step, stream: Floats) -> Floats:
    found = np.empty(stream.shape)
    for t, x in enumerate(stream):
        found[t] = step(x)
    return found


def first_over(step: Step, stream: Floats, limit: float, *, lead: int = 0) -> Ints:
    """The row (0 is the first) at which each column first rang; -1 where it did not. Stops when all have."""
    found = np.full(stream.shape[1], -1, dtype=np.int64)
    for t, x in enumerate(stream):
        with np.errstate(invalid="ignore"):
            found[(found < 0) & (step(x) > limit)] = t
        if t >= lead and t % 64 == 0 and (found >= 0).all():
            break
    return found


def family_path(reference: Reference, calibration: Calibration, values: Floats, ts_ms: Ints | None) -> Floats:
    """The family statistic of `calibrated`, row by row; -inf while cold. Columns are in the reference's order."""
    quick = getattr(regime.calibration, "family_statistic", None)
    if quick is not None:
        found: Floats = np.asarray(quick(calibration, values, ts_ms), dtype=np.float64)
        return np.where(np.isnan(found), -np.inf, found)
    detector = Calibrated(rows_per_false_alarm=calibration.rows_per_false_alarm, rows_per_day=calibration.rows_per_day)
    detector.reset_calibrated(reference, calibration)
    return detector_path(detector, values, ts_ms)


def detector_path(detector: Any, values: Floats, ts_ms: Ints | None = None) -> Floats:
    """The family statistic of any detector, row by row; -inf while cold."""
    found = np.empty(len(values))
    for t, x in enumerate(values):
        if ts_ms is None:
            detector.update(x)
        else:
            detector.update(x, int(ts_ms[t]))
        found[t] = detector.statistic
    return np.where(np.isnan(found), -np.inf, found)


def described(values: Floats | list[float]) -> str:
    a = np.asarray(values, dtype=np.float64)
    return f"mean {a.mean():6.0f}  median {np.median(a):6.0f}  n {len(a)}" if len(a) else "none"


def shown(rows: float, alarms: int) -> str:
    """A run length as a table says it."""
    return f"> {rows:,.0f}" if alarms == 0 else f"{rows:,.0f}" if alarms >= 5 else f"{rows:,.0f} ({alarms} alarms)"


def missing(value: float) -> bool:
    return not math.isfinite(value)
