"""Detectors over one group of columns: the features, or the model's own probabilities (the *scores*)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.config import DetectorConfig, EngineConfig
from regime.detectors import Detector
from regime.errors import OperatorError
from regime.plugins import load
from regime.policy import PRESETS
from regime.reference import Reference
from regime.rules import Evidence

Floats = NDArray[np.float64]
Arrays = dict[str, dict[str, NDArray[Any]]]

TOP_FEATURES = 10


class Watch:
    """All detectors of the configuration over one group of columns.

    Silent until `compare_with` has given it a reference. `name` goes into each Evidence as its `channel`.
    """

    def __init__(self, name: str, config: EngineConfig) -> None:
        self.name = name
        self.detectors = build_detectors(config)
        self.reference: Reference | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `update`; empty without a reference."""
        return () if self.reference is None else self.reference.names

    def compare_with(self, reference: Reference | None, *, start: bool = True) -> None:
        """Forget everything and compare with `reference` from now on; with None fall silent.

        `start=False` only keeps it in hand: after an engine error the detectors are not touched again.
        """
        self.reference = reference
        if reference is not None and start:
            for detector in self.detectors.values():
                detector.reset(reference)

    def update(self, row: Floats) -> None:
        """Take one row, `float64[columns]`; NaN is missing. Nothing happens without a reference."""
        if self.reference is not None:
            for detector in self.detectors.values():
                detector.update(row)

    def evidence(self) -> list[Evidence]:
        """Return what each detector says now."""
        return [self._evidence(kind, detector) for kind, detector in self.detectors.items()]

    def _evidence(self, kind: str, detector: Detector) -> Evidence:
        if self.reference is None or not detector.warm:
            return Evidence(kind, float("nan"), float("nan"), warm=False, drift=False, top=(), channel=self.name)
        drift = detector.drift_detected
        top = top_features(self.reference.names, detector.feature_statistics) if drift else ()
        return Evidence(
            kind, detector.statistic, detector.threshold, warm=True, drift=drift, top=top, channel=self.name
        )

    def fingerprint(self) -> bytes:
        """Bytes that differ when what the detectors hold differs."""
        parts = []
        for kind, detector in self.detectors.items():
            parts += [kind.encode(), b"" if self.reference is None else detector.fingerprint()]
        return b"\0".join(parts)

    def state(self) -> Arrays | None:
        """Everything the detectors hold, by kind; None where one cannot take it out without pickle."""
        states: Arrays = {}
        for kind, detector in self.detectors.items():
            arrays = {} if self.reference is None else detector.state()
            if arrays is None:
                return None
            states[kind] = arrays
        return states

    def load_state(self, states: Arrays) -> None:
        """Continue from `state`. Call `compare_with` with the same reference first."""
        if self.reference is not None:
            for kind, detector in self.detectors.items():
                detector.load_state(states[kind])


def build_detectors(config: EngineConfig) -> dict[str, Detector]:
    """Return the detectors of `config` by kind. Raises `OperatorError` naming a wrong option."""
    chosen = PRESETS[config.preset].detectors if config.detectors is None else tuple(config.detectors)
    built: dict[str, Detector] = {}
    for detector in chosen:
        if detector.kind in built:
            raise OperatorError(f"detector {detector.kind!r} stands twice in the configuration")
        built[detector.kind] = _build_detector(detector)
    return built


def _build_detector(chosen: DetectorConfig) -> Detector:
    made = load("regime.detectors", chosen.kind)
    try:
        detector: Detector = made(**chosen.options)
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
