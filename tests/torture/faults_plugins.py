"""A detector and a rule that fail on demand; settings name them by their dotted path."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np

from regime.rules import View

CRASH = "FAULTS_CRASH"
"""While the environment holds it, `Brittle` takes its process down: "event" at a feature of three, "snapshot" when a
snapshot is restored."""
HANGING = threading.Event()
"""What a feature of 77 waits for."""


class Brittle:
    """Cannot take a feature of a million; at two there is no memory left; at 77 it hangs."""

    def __init__(self) -> None:
        self._rows = np.zeros(1)

    def reset(self, reference: Any) -> None:
        self._rows = np.zeros(1)

    def update(self, x: Any) -> None:
        if x.max() == 3 and os.environ.get(CRASH) == "event":
            os.kill(os.getpid(), signal.SIGSEGV)
        if x.max() == 77:
            HANGING.wait(20)
        if x.max() > 1.5e6:
            raise MemoryError
        if x.max() > 1e5:
            raise ArithmeticError("over 100,000")
        self._rows += 1

    warm = drift_detected = property(lambda self: False)
    statistic = threshold = property(lambda self: 0.0)
    feature_statistics = property(lambda self: np.zeros(2))

    def state(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state(self, state: dict[str, Any]) -> None:
        if os.environ.get(CRASH) == "snapshot":
            os.kill(os.getpid(), signal.SIGSEGV)
        self._rows = state["rows"]

    def fingerprint(self) -> bytes:
        return self._rows.tobytes()

    @staticmethod
    def examples() -> list[Any]:
        return []


class Grumpy:
    """Fails while the newest trade lost a half."""

    code = "grumpy"

    def judge(self, view: View) -> None:
        if view.outcomes and view.outcomes[-1].profit_ratio < -0.4:
            raise RuntimeError("no")
