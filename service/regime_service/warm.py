"""`python -m regime_service.warm`: compile the detectors' inner loops now, so that no first row waits for the compiler.

Called by `make setup`. numba keeps the compiled code beside the kernels (`__pycache__`), or in the user's cache folder
where that cannot be written.
"""

from __future__ import annotations

import numpy as np

from regime import kernels
from regime.detectors.calibrated import Calibrated
from regime.reference import Reference


def warm() -> None:
    """Compile everything, or load it from the cache."""
    kernels.warm()
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"]
    detector = Calibrated()
    detector.reset(Reference(names, rng.standard_normal((2000, 3)), ts_ms=np.arange(2000) * 300_000))
    for row in rng.standard_normal((300, 3)):
        detector.update(row)
    detector.explain()


if __name__ == "__main__":
    warm()
