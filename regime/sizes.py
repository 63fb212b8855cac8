"""How far recent rows lie from the reference, feature by feature: PSI and Wasserstein-1. Sizes to report, no tests.

Nothing is decided on them: they say how large a change is once a detector has said that there is one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS_MIN = 30
"""Fewer recent values have no size: with ten bins a tenth of them would be three."""
BINS = 10


class Sizes(NamedTuple):
    """PSI and Wasserstein-1 of one feature; None where it has too few recent values, or is dead in the reference."""

    psi: float | None
    wasserstein: float | None


class Binned(NamedTuple):
    """The reference's values of one feature, as the sizes need them: made once, used for every later change."""

    mean: float
    spread: float
    ordered: Floats
    """The values in order, in standard deviations from their mean."""
    areas: Floats
    """`float64[values + 1]`: the sum of the first so many of them over the number of values."""
    edges: Floats
    """Inner edges of the bins, in the same unit."""
    counts: Ints
    """Values in each bin."""


class SizesOf:
    """PSI and Wasserstein-1 of recent values of the features of a reference.

    **PSI**, the population stability index, with p and q the shares of reference and recent values in a bin,

        PSI = sum over bins of (q - p) ln(q / p)

    over bins between the reference's deciles (fewer where values are equal; a value on an edge belongs to the bin
    above). Half a value is added to every bin, so that an empty one has no infinite logarithm. It is the
    Kullback-Leibler divergence there and back (Jeffreys), blind to how far a value has moved beyond its bin. Usual
    readings: under 0.1 little, 0.1 to 0.25 some, over 0.25 a large change (Siddiqi 2006).

    **Wasserstein-1** is the area between the two distribution functions, in standard deviations of the reference: how
    far a value has to be carried on average to make one sample of the other. A shift by d standard deviations is d. It
    is exact, no bins: scipy's `wasserstein_distance` divided by the standard deviation.

    **When they mislead.** The readings come from credit scoring, where there are thousands of *independent* customers.
    Neither number knows how many values it was made of: where nothing changes, PSI is about (bins - 1) / recent values
    (0.03 for 288 independent values, 0.26 for 30) and Wasserstein-1 about 1.3 over the root of the number (0.08 and
    0.23). Neighbouring candles are alike, so that 288 of them are worth a few independent ones: where each value is
    0.99 times the one before and some noise, 288 of them have a PSI of 1.1 and a Wasserstein-1 of 0.6 on average while
    nothing changes. Compare them between features and changes; do not hold them against 0.25.

    Parameters
    ----------
    reference
        What recent values are compared with. Nothing is computed before it is asked for, and a feature's ordered values
        are kept once they were (16 bytes a value).

    Examples
    --------
    >>> import numpy as np
    >>> from regime.reference import Reference
    >>> values = np.arange(1000.0)[:, None]
    >>> sizes = SizesOf(Reference(["a"], values)).of("a", values[::10, 0] + values.std())
    >>> round(sizes.psi, 2), round(sizes.wasserstein, 2)
    (1.04, 0.98)

    References
    ----------
    N. Siddiqi. Credit Risk Scorecards. Wiley (2006).
    S. S. Vallender. Calculation of the Wasserstein distance between probability distributions on the line. Theory of
    Probability and its Applications 18, 4 (1974), 784-786.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._columns = {name: column for column, name in enumerate(reference.names)}
        self._binned: dict[str, Binned | None] = {}

    def of(self, name: str, recent: Floats) -> Sizes:
        """Return the sizes of one feature. `recent` is `float64[rows]` in the feature's own unit; NaN and infinities
        are left out. `KeyError` for a feature that the reference does not have."""
        if name not in self._binned:
            self._binned[name] = binned(self._reference.values[:, self._columns[name]])
        known, values = self._binned[name], recent[np.isfinite(recent)]
        if known is None or len(values) < ROWS_MIN:
            return Sizes(None, None)
        standard = (values - known.mean) / known.spread
        return Sizes(psi(known, standard), wasserstein(known, standard))


def binned(column: Floats) -> Binned | None:
    """Return the values of one feature (NaN is missing) as the sizes need them; None where they are all equal, or so
    large that their spread is no number."""
    values = column[np.isfinite(column)]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, spread = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    if not (math.isfinite(mean) and 0 < spread < math.inf):
        return None
    ordered: Floats = np.sort((values - mean) / spread)
    areas: Floats = np.concatenate(([0.0], np.cumsum(ordered) / len(ordered)))
    # Edges are values that occur, so that a value on an edge lies above it in both samples.
    edges = np.unique(ordered[[len(ordered) * k // BINS for k in range(1, BINS)]])
    edges = edges[edges > ordered[0]]
    return Binned(mean, spread, ordered, areas, edges, _counts(edges, ordered))


def psi(known: Binned, standard: Floats) -> float:
    """Return the population stability index of recent values, `float64[n]` in standard deviations of the reference."""
    bins = len(known.counts)
    p = (known.counts + 0.5) / (len(known.ordered) + 0.5 * bins)
    q = (_counts(known.edges, standard) + 0.5) / (len(standard) + 0.5 * bins)
    return float(((q - p) * np.log(q / p)).sum())


def wasserstein(known: Binned, standard: Floats) -> float:
    """Return the Wasserstein-1 distance of recent values, `float64[n]` in standard deviations of the reference.

    The i-th of the n recent values in order is carried to the part of the reference between the shares i/n and (i+1)/n;
    what it lies over and what it lies under are two differences of `areas`.
    """
    recent, rows = np.sort(standard), len(known.ordered)
    shares = np.arange(len(recent) + 1) / len(recent)
    low, high = shares[:-1], shares[1:]
    at = np.clip(np.searchsorted(known.ordered, recent) / rows, low, high)
    grid = np.arange(rows + 1) / rows
    below, middle, above = (np.interp(share, grid, known.areas) for share in (low, at, high))
    parts = recent * (at - low) - (middle - below) + (above - middle) - recent * (high - at)
    return max(float(parts.sum()), 0.0)


def _counts(edges: Floats, values: Floats) -> Ints:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)
