"""Detectors over one group of columns: the features, or the model's own probabilities (the *scores*)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from regime.calibration import Calibration, calibrate
from regime.config import DetectorConfig, EngineConfig
from regime.detectors import CalibratedDetector, Detector
from regime.errors import OperatorError
from regime.plugins import load
from regime.policy import PRESETS
from regime.reference import Reference
from regime.rules import Evidence
from regime.sizes import ROWS_MIN, SizesOf

Floats = NDArray[np.float64]
Arrays = dict[str, dict[str, NDArray[Any]]]

TOP_FEATURES = 10
DAY_MS = 86_400_000
SIZED_ROWS = 288
"""Rows that are kept to say how large a change is: `psi` and `wasserstein` are over no more than these."""
_NOTED = 3


class Budget(NamedTuple):
    """What the detectors of a watch may spend: candles between two false alarms, and candles in a day."""

    rows_per_false_alarm: float
    rows_per_day: int

    @classmethod
    def of(cls, config: EngineConfig, timeframe_ms: int, share: float) -> Budget:
        """Return the `share` of a stream's budget."""
        return cls(config.rows_per_false_alarm(timeframe_ms, share), max(round(DAY_MS / timeframe_ms), 1))


class Change(NamedTuple):
    """What a detector says changed: where, how and since when (event time; an interval).

    `features` are those that stand out most, largest first, each with `name`, `statistic`, `channel`, `like` (features
    that say the same), and, to report only, `psi` and `wasserstein` (`regime.sizes`): over the rows since `start_ms`,
    of the last 288 at most, and None while there are fewer than 30 with a value.
    """

    kind: str
    severity: float
    features: tuple[dict[str, Any], ...]
    start_ms: int
    start_low_ms: int
    start_high_ms: int


class Watch:
    """All detectors of the configuration over one group of columns.

    Silent until `compare_with` has given it a reference. `name` goes into each Evidence as its `channel`. Detectors
    that take one get their part of the false-alarm budget; the budget is split evenly where there are several.
    """

    def __init__(self, name: str, config: EngineConfig, timeframe_ms: int, share: float) -> None:
        self.name = name
        self.budget = Budget.of(config, timeframe_ms, share)
        self.detectors = build_detectors(config, self.budget)
        self.columns: tuple[str, ...] = ()
        """Names of the columns of `update`; empty without a reference."""
        self._timeframe_ms = timeframe_ms
        self._now_ms = 0
        self._sizes: SizesOf | None = None
        self._rows: NDArray[np.float32] = np.empty((SIZED_ROWS, 0), dtype=np.float32)
        self._times = np.zeros(SIZED_ROWS, dtype=np.int64)
        self._taken = 0

    @property
    def comparing(self) -> bool:
        """Whether there is a reference to compare with."""
        return bool(self.columns)

    def compare_with(self, reference: Reference | None, calibrations: Mapping[str, Calibration] | None = None) -> None:
        """Forget everything and compare with `reference` from now on; with None fall silent.

        `calibrations` (by kind) are limits found before; a detector without them finds its own. The reference itself is
        not kept.
        """
        self._begin(() if reference is None else reference.names, None if reference is None else SizesOf(reference))
        if reference is None:
            return
        for kind, detector in self.detectors.items():
            found = (calibrations or {}).get(kind)
            if found is not None and _keeps_limits(detector):
                detector.reset_calibrated(reference, found)
            else:
                detector.reset(reference)

    def resume(
        self,
        columns: Sequence[str],
        states: Arrays,
        calibrations: Mapping[str, Calibration],
        reference: Callable[[], Reference],
    ) -> None:
        """Continue from `state`, with the columns and limits of then. `reference` gives the sample again; it is asked
        only for detectors that do not keep their limits, for it is large. Raises `ValueError` or `KeyError` where
        the parts do not fit together."""
        own = states[""]
        self._begin(tuple(columns), SizesOf.of_arrays(columns, own))
        for kind, detector in self.detectors.items():
            if _keeps_limits(detector):
                detector.reset_calibrated(None, calibrations[kind])
            else:
                detector.reset(reference())
        self.load_state(states)

    def _begin(self, columns: tuple[str, ...], sizes: SizesOf | None) -> None:
        self.columns, self._sizes = columns, sizes
        self._rows, self._taken = np.full((SIZED_ROWS, len(columns)), np.nan, dtype=np.float32), 0
        self._times = np.zeros(SIZED_ROWS, dtype=np.int64)

    def calibrations(self) -> dict[str, Calibration]:
        """Return the limits in force, of the detectors that can keep them."""
        if not self.comparing:
            return {}
        return {kind: d.calibration for kind, d in self.detectors.items() if _keeps_limits(d)}

    def within_budget(self) -> bool:
        """Whether all limits in force were found for the budget of today."""
        wanted = {k: getattr(d, "rows_per_false_alarm", None) for k, d in self.detectors.items()}
        return all(found.rows_per_false_alarm == wanted[kind] for kind, found in self.calibrations().items())

    def update(self, row: Floats, ts_ms: int) -> None:
        """Take one row, `float64[columns]`, of the candle that opened at `ts_ms`; NaN is missing."""
        if not self.comparing:
            return
        self._now_ms = ts_ms
        at = self._taken % SIZED_ROWS
        with np.errstate(over="ignore"):
            self._rows[at] = row
        self._times[at] = ts_ms
        self._taken += 1
        for detector in self.detectors.values():
            if _keeps_limits(detector):
                detector.update(row, ts_ms)
            else:
                detector.update(row)

    def evidence(self) -> list[Evidence]:
        """Return what each detector says now."""
        return [self._evidence(kind, detector) for kind, detector in self.detectors.items()]

    def _evidence(self, kind: str, detector: Detector) -> Evidence:
        if not self.comparing or not detector.warm:
            return Evidence(kind, float("nan"), float("nan"), warm=False, drift=False, top=(), channel=self.name)
        drift = detector.drift_detected
        top = top_features(self.columns, detector.feature_statistics) if drift else ()
        change = self.change(detector, sized=False) if drift else None
        return Evidence(
            kind, detector.statistic, detector.threshold, warm=True, drift=drift, top=top, channel=self.name,
            level=detector.level if _keeps_limits(detector) else "",
            note="" if change is None else _note(change),
            since_ms=None if change is None else change.start_ms,
        )  # fmt: skip

    def changed(self, found: Evidence) -> Change | None:
        """Return what changed by the detector that gave this evidence, while it is not calm."""
        calm = not found.drift and found.level not in ("warning", "alarm")
        return None if calm else self.change(self.detectors[found.kind])

    def change(self, detector: Detector, *, sized: bool = True) -> Change | None:
        """Return what `detector` says changed; None where it cannot say. Without `sized` the sizes are None: they cost
        more than all the rest, and nothing is decided on them."""
        found = detector.explain() if _keeps_limits(detector) and detector.warm else None
        if found is None:
            return None

        def at(rows_ago: int) -> int:
            return max(self._now_ms - rows_ago * self._timeframe_ms, 0)

        start_ms = at(found.started_rows_ago)
        names = [f.name for f in found.features]
        sizes = self._sizes_since(start_ms, names) if sized else [_NO_SIZES] * len(names)
        return Change(
            kind=found.kind,
            severity=found.severity,
            features=tuple(
                {"name": f.name, "statistic": f.statistic, "channel": f.channel, "like": list(f.like), **size}
                for f, size in zip(found.features, sizes, strict=True)
            ),
            start_ms=start_ms,
            start_low_ms=at(found.started_rows_ago_high),
            start_high_ms=at(found.started_rows_ago_low),
        )

    def _sizes_since(self, start_ms: int, names: Sequence[str]) -> list[dict[str, float | None]]:
        """Return PSI and Wasserstein-1 of the rows kept from `start_ms` on, by feature."""
        since = self._times[: min(self._taken, SIZED_ROWS)] >= start_ms
        if self._sizes is None or since.sum() < ROWS_MIN:
            return [_NO_SIZES] * len(names)
        rows = self._rows[: len(since)][since].astype(np.float64)  # out of order in time, which no size asks for
        return [self._sizes.of(name, rows[:, self.columns.index(name)])._asdict() for name in names]

    def fingerprint(self) -> bytes:
        """Bytes that differ when what the detectors hold differs."""
        parts = []
        for kind, detector in self.detectors.items():
            parts += [kind.encode(), detector.fingerprint() if self.comparing else b""]
        if self.comparing:
            parts += [
                array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in self._kept().values()
            ]
        return b"\0".join(parts)

    def state(self) -> Arrays | None:
        """Everything the detectors hold, by kind, and what the watch itself keeps, under ""; None where a detector
        cannot be taken out without pickle. Empty without a reference."""
        if not self.comparing:
            return {}
        assert self._sizes is not None
        states: Arrays = {}
        for kind, detector in self.detectors.items():
            arrays = detector.state()
            if arrays is None:
                return None
            states[kind] = arrays
        own = {"now_ms": np.array([self._now_ms]), **self._kept(), **self._sizes.arrays}
        return {**states, "": {name: array.copy() for name, array in own.items()}}

    def load_state(self, states: Arrays) -> None:
        """Continue from `state`. Call `compare_with` with the same reference first."""
        if self.comparing:
            for kind, detector in self.detectors.items():
                detector.load_state(states[kind])
            own = states[""]
            self._now_ms, self._taken = int(own["now_ms"][0]), int(own["taken"][0])
            for name, mine in (("rows", self._rows), ("times", self._times)):
                if own[name].shape != mine.shape:
                    raise ValueError(f"state {name} has shape {own[name].shape}, expected {mine.shape}: another set-up")
                mine[...] = own[name]

    def _kept(self) -> dict[str, NDArray[Any]]:
        """The last rows (in single precision: they are for sizes only) and their times. Rings: row number i is at i
        modulo their length."""
        return {"rows": self._rows, "times": self._times, "taken": np.array([self._taken])}


_NO_SIZES: dict[str, float | None] = {"psi": None, "wasserstein": None}


def _keeps_limits(detector: Detector) -> TypeGuard[CalibratedDetector]:
    # Of the class: on an instance `isinstance` would evaluate every property.
    return hasattr(type(detector), "reset_calibrated")


def calibrate_all(
    watches: Mapping[Watch, Reference], progress: Callable[[float, str], None] | None = None
) -> dict[str, Calibration]:
    """Find the limits of all detectors that can keep them: `features.calibrated` and so on."""
    found = {}
    for watch, reference in watches.items():
        for kind, detector in watch.detectors.items():
            if _keeps_limits(detector):
                found[f"{watch.name}.{kind}"] = calibrate(
                    reference,
                    rows_per_false_alarm=detector.rows_per_false_alarm,
                    rows_per_day=detector.rows_per_day,
                    progress=progress,
                )
    return found


def build_detectors(config: EngineConfig, budget: Budget | None = None) -> dict[str, Detector]:
    """Return the detectors of `config` by kind. Raises `OperatorError` naming a wrong option."""
    chosen = PRESETS[config.preset].detectors if config.detectors is None else tuple(config.detectors)
    built: dict[str, Detector] = {}
    for detector in chosen:
        if detector.kind in built:
            raise OperatorError(f"detector {detector.kind!r} stands twice in the configuration")
        built[detector.kind] = _build_detector(detector, budget, len(chosen))
    return built


def _build_detector(chosen: DetectorConfig, budget: Budget | None, sharing: int) -> Detector:
    made = load("regime.detectors", chosen.kind)
    options: dict[str, Any] = dict(chosen.options)
    if budget is not None and hasattr(made, "reset_calibrated"):
        options.setdefault("rows_per_false_alarm", budget.rows_per_false_alarm * sharing)
        options.setdefault("rows_per_day", budget.rows_per_day)
    try:
        detector: Detector = made(**options)
    except (TypeError, ValueError) as error:
        raise OperatorError(f"detector {chosen.kind!r}: {error}") from None
    # Asked of the class: on an instance every property would be evaluated, and a cold detector has nothing to say.
    lacking = [name for name in vars(Detector) if not name.startswith("_") and not hasattr(made, name)]
    if lacking:
        raise OperatorError(f"detector {chosen.kind!r}: {made.__name__} lacks {', '.join(lacking)} of the protocol")
    return detector


def top_features(
    names: tuple[str, ...], statistics: Floats, count: int = TOP_FEATURES
) -> tuple[tuple[str, float], ...]:
    """Return the features that stand out most, largest first, as (name, times its own limit); NaN is left out."""
    order = np.argsort(-np.where(np.isnan(statistics), -np.inf, statistics), kind="stable")[:count]
    return tuple((names[i], float(statistics[i])) for i in order if not np.isnan(statistics[i]))


def _note(change: Change) -> str:
    kinds = {
        "location": "the level of",
        "scale": "the spread of",
        "shape": "the shape (skew or tails) of",
        "dependence": "how features move together, most of all",
        "many": "a little of everything, most of all",
    }
    names = [f["name"] + (f" (and {len(f['like'])} alike)" if f["like"] else "") for f in change.features[:_NOTED]]
    since = datetime.fromtimestamp(change.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return f"{kinds.get(change.kind, change.kind)} {', '.join(names)}, since about {since} UTC"
