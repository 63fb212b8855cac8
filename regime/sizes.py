"""How far recent rows lie from the reference, feature by feature: PSI and Wasserstein-1. Sizes to report, no tests.

Nothing is decided on them: they say how large a change is once a detector has said that there is one. So of the
reference no more is kept than they need, under a kilobyte a feature: its sample, 90 days of 5-minute candles of 200
features, would be 40 MB a stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS_MIN = 30
"""Fewer recent values have no size: with ten bins a tenth of them would be three."""
BINS = 10
BLOCKS = 128
"""Values that stand for the reference's in the Wasserstein distance, each the mean of its share of them in order."""


class Sizes(NamedTuple):
    """PSI and Wasserstein-1 of one feature; None where it has too few recent values, or is dead in the reference."""

    psi: float | None
    wasserstein: float | None


class Binned(NamedTuple):
    """What is kept of the reference's values of one feature."""

    mean: float
    spread: float
    edges: Floats
    """Inner edges of the bins, in standard deviations from the mean."""
    counts: Ints
    """Values in each bin."""
    ordered: Floats
    """The values in order, in the same unit; means of equal shares of them where there are more than `BLOCKS`."""


class SizesOf:
    """PSI and Wasserstein-1 of recent values of the features of a reference.

    **PSI**, the population stability index, with p and q the shares of reference and recent values in a bin,

        PSI = sum over bins of (q - p) ln(q / p)

    over bins between the reference's deciles (fewer where values are equal; a value on an edge belongs to the bin
    above). Half a value is added to every bin, so that an empty one has no infinite logarithm. It is the
    Kullback-Leibler divergence there and back (Jeffreys), blind to how far a value has moved beyond its bin. Usual
    readings: under 0.1 little, 0.1 to 0.25 some, over 0.25 a large change (Siddiqi 2006).

    **Wasserstein-1** is the area between the two distribution functions, in standard deviations of the reference: how
    far a value has to be carried on average to make one sample of the other. A shift by d standard deviations is d.
    It is scipy's `wasserstein_distance` divided by the standard deviation, but that `BLOCKS` values stand for all those
    of a larger reference: that is wrong by their own distance from them at the most (0.014 for a normal law, 0.034
    for a t law with 3 degrees of freedom).

    **When they mislead.** The readings come from credit scoring, where there are thousands of *independent* customers.
    Neither number knows how many values it was made of: where nothing changes, PSI is about (bins - 1) / recent values
    (0.03 for 288 independent values, 0.26 for 30) and Wasserstein-1 about 1.3 over the root of the number (0.08 and
    0.23). Neighbouring candles are alike, so that 288 of them are worth a few independent ones: where each value is
    0.99 times the one before and some noise, 288 of them have a PSI of 1.1 and a Wasserstein-1 of 0.6 on average while
    nothing changes. Compare them between features and changes; do not hold them against 0.25.

    Parameters
    ----------
    reference
        What recent values are compared with. It is read once and not kept. Values count in single precision, on both
        sides: recent ones are kept so.

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
        self._columns = {name: column for column, name in enumerate(reference.names)}
        features = len(reference.names)
        self._arrays = {
            "law": np.full((features, 2), np.nan),
            "edges": np.full((features, BINS - 1), np.nan),
            "counts": np.zeros((features, BINS), dtype=np.int32),
            "ordered": np.full((features, BLOCKS), np.nan, dtype=np.float32),
        }
        for column in range(features):
            known = binned(reference.values[:, column])
            if known is not None:
                self._arrays["law"][column] = known.mean, known.spread
                for name, found in (("edges", known.edges), ("counts", known.counts), ("ordered", known.ordered)):
                    self._arrays[name][column, : len(found)] = found

    @classmethod
    def of_arrays(cls, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> SizesOf:
        """Inverse of `arrays`; `names` are those of the reference. Raises `ValueError` where they do not fit."""
        found = cls.__new__(cls)
        found._columns = {name: column for column, name in enumerate(names)}
        found._arrays = {name: arrays[name] for name in ("law", "edges", "counts", "ordered")}
        widths = (("law", 2), ("edges", BINS - 1), ("counts", BINS), ("ordered", BLOCKS))
        if any(found._arrays[name].shape != (len(names), width) for name, width in widths):
            raise ValueError("what is kept of the reference does not fit its features")
        return found

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is kept, to be stored. Not a copy."""
        return self._arrays

    def of(self, name: str, recent: Floats) -> Sizes:
        """Return the sizes of one feature. `recent` is `float64[rows]` in the feature's own unit; NaN and infinities
        are left out. `KeyError` for a feature that the reference does not have."""
        column = self._columns[name]
        values = _single(recent)
        values = values[np.isfinite(values)]
        mean, spread = self._arrays["law"][column]
        if math.isnan(spread) or len(values) < ROWS_MIN:
            return Sizes(None, None)
        edges, ordered = self._arrays["edges"][column], self._arrays["ordered"][column].astype(np.float64)
        edges = edges[~np.isnan(edges)]
        counts = self._arrays["counts"][column, : len(edges) + 1].astype(np.int64)
        known = Binned(float(mean), float(spread), edges, counts, ordered[~np.isnan(ordered)])
        standard = (values - known.mean) / known.spread
        return Sizes(psi(known, standard), wasserstein(known, standard))


def binned(column: Floats) -> Binned | None:
    """Return of the values of one feature (NaN is missing) what the sizes need; None where they are all equal, or so
    large that their spread is no number."""
    values = _single(column)
    values = np.sort(values[np.isfinite(values)])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, spread = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    if not (math.isfinite(mean) and 0 < spread < math.inf):
        return None
    ordered: Floats = (values - mean) / spread
    # Edges are values that occur, so that a value on an edge lies above it in both samples.
    edges = np.unique(ordered[[len(ordered) * k // BINS for k in range(1, BINS)]])
    edges = edges[edges > ordered[0]]
    return Binned(mean, spread, edges, _counts(edges, ordered), _blocks(ordered))


def _single(values: Floats) -> Floats:
    """Return the values as single precision holds them."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


def _blocks(ordered: Floats) -> Floats:
    if len(ordered) <= BLOCKS:
        return ordered
    # The sum of the first so many of them, at the ends of equal shares.
    sums = np.concatenate(([0.0], np.cumsum(ordered) / len(ordered)))
    at = np.interp(np.arange(BLOCKS + 1) / BLOCKS, np.arange(len(sums)) / len(ordered), sums)
    found: Floats = np.diff(at) * BLOCKS
    return found


def psi(known: Binned, standard: Floats) -> float:
    """Return the population stability index of recent values, `float64[n]` in standard deviations of the reference."""
    bins = len(known.counts)
    p = (known.counts + 0.5) / (known.counts.sum() + 0.5 * bins)
    q = (_counts(known.edges, standard) + 0.5) / (len(standard) + 0.5 * bins)
    return float(((q - p) * np.log(q / p)).sum())


def wasserstein(known: Binned, standard: Floats) -> float:
    """Return the Wasserstein-1 distance of recent values, `float64[n]` in standard deviations of the reference.

    The i-th of the n recent values in order is carried to the part of the reference between the shares i/n and (i+1)/n;
    what it lies over and what it lies under are two differences of areas.
    """
    recent, rows = np.sort(standard), len(known.ordered)
    areas = np.concatenate(([0.0], np.cumsum(known.ordered) / rows))
    shares = np.arange(len(recent) + 1) / len(recent)
    low, high = shares[:-1], shares[1:]
    at = np.clip(np.searchsorted(known.ordered, recent) / rows, low, high)
    grid = np.arange(rows + 1) / rows
    below, middle, above = (np.interp(share, grid, areas) for share in (low, at, high))
    parts = recent * (at - low) - (middle - below) + (above - middle) - recent * (high - at)
    return max(float(parts.sum()), 0.0)


def _counts(edges: Floats, values: Floats) -> Ints:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)
