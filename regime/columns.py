"""From named features, as they come, to the row that detectors compare: planned once, then one gather a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from regime.config import ignored

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Columns:
    """Where each feature of a stream stands in what is sent, and what of it is lacking or too much.

    Parameters
    ----------
    sent
        Names of the features of an observation, in the order they came.
    known
        Names that are compared, in the order of the row. Empty: nothing is known yet, and all that is sent is compared.
    ignore
        Patterns of names that are not looked at (`ModelConfig.ignore_features`).
    """

    def __init__(self, sent: Sequence[str], known: Sequence[str], ignore: Iterable[str]) -> None:
        patterns = tuple(ignore)
        place = {name: i for i, name in enumerate(sent) if not ignored(name, patterns)}
        self.sent = tuple(sent)
        self.known: tuple[str, ...] = tuple(known) if known else tuple(sorted(place))
        self.missing = tuple(name for name in self.known if name not in place)
        """Names that are compared and were not sent."""
        self.extra = tuple(sorted(place.keys() - set(self.known)))
        """Names that were sent and are not compared."""
        # What is missing is read from one place more, which holds no number.
        self._take = np.array([place.get(name, len(self.sent)) for name in self.known], dtype=np.intp)
        self._there = self._take < len(self.sent)

    def row(self, values: Iterable[float | None]) -> Floats:
        """Return `float64[known]` of the values of `sent`. None, NaN, infinities and what was not sent are NaN."""
        found = np.array([*values, None], dtype=np.float64)[self._take]
        found[~np.isfinite(found)] = np.nan
        return found

    def absent(self, row: Floats) -> tuple[str, ...]:
        """Return the names that were sent without a value, of the row that was made of them."""
        return tuple(self.known[int(i)] for i in np.flatnonzero(np.isnan(row) & self._there))
