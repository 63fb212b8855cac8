"""The inputs agree, the answers do not: another model."""

from __future__ import annotations

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import some
from regime.parity.statistics import correlation
from regime.parity.table import Floats, Mask, Pair

ROWS_MIN = 20
INPUTS_MIN = 2
SHARE = 0.2
"""So many candles with equal inputs and another answer are no matter of a tree that stands on its threshold."""
SAME_ORDER = 0.995


def other_model(pair: Pair, left: Mask) -> list[Claim]:
    """Find probabilities that differ on candles where every common feature and price agrees.

    When it misleads: it knows only the columns in the files. A feature that neither side logs may differ, and a
    model fed by position instead of by name, in another order, is called another model, too: both are worth a look.
    """
    inputs = pair.places("feature", "candle")
    answers = [c for c in pair.places("probability") if left[:, c].any()]
    if len(inputs) < INPUTS_MIN or not answers:
        return []
    equal = ~pair.over[:, inputs].any(axis=1)
    found = [c for c in answers if equal.sum() >= ROWS_MIN and left[equal, c].mean() >= SHARE]
    if not found:
        return []
    cells = np.zeros_like(left)
    cells[:, found] = left[:, found]
    share = float(left[equal][:, found].any(axis=1).mean())
    said = [
        f"On {equal.sum():,} candles all {len(inputs)} common inputs agree, and on {share:.0%} of these the "
        f"probability differs."
    ]
    for c in found:
        both = equal & np.isfinite(pair.x[:, c]) & np.isfinite(pair.y[:, c])
        order = rank_correlation(pair.x[both, c], pair.y[both, c])
        if order is not None and order >= SAME_ORDER:
            said.append(
                f"{pair.names[c]}: both rank the candles alike ({order:.3f}): the same model with another calibration?"
            )
        elif order is not None:
            said.append(f"{pair.names[c]}: rank correlation {order:.2f} on those candles.")
    return [Claim("other-model", tuple(pair.names[c] for c in found), cells, tuple(said), exact=False)]


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Return Spearman's rank correlation (ties by order of appearance); None under 20 pairs."""
    ranks = [np.argsort(np.argsort(values, kind="stable")).astype(np.float64) for values in (x, y)]
    return correlation(*ranks)


def not_the_clock(pair: Pair, places: list[int], lags: list[tuple[str, float, int, float]]) -> tuple[str, ...]:
    """Say what was tried in vain on columns nothing explains. `lags`: name, correlation as it stands, best lag, its."""
    said = []
    for name, plain, lag, best in lags:
        said.append(
            f"{name}: correlation {plain:.3f}; the best of all shifts by up to 12 candles ({lag:+d}) reaches "
            f"{best:.3f}; one that explained it would reach 0.9."
        )
    r = [
        f"{pair.names[c]} {fit:.2f}" for c in places if (fit := weighted_window(pair.x[:, c], pair.y[:, c])) is not None
    ]
    if r:
        said.append(
            f"A weighted window over the last 12 candles explains this share of the variance, chance taken off: "
            f"{some(r)}."
        )
    return tuple(said)


def weighted_window(x: Floats, y: Floats, length: int = 12) -> float | None:
    """Return the adjusted R² of the best weighted window of `y` over the last `length` candles as an account of `x`;
    None under five candles a weight. 1 would be a look-back that explains all; at or below 0 there is nothing in it."""
    rows = len(x) - length + 1
    if rows < 5 * length:
        return None
    design = np.stack([y[length - 1 - k : len(y) - k] for k in range(length)] + [np.ones(rows)], axis=1)
    target = x[length - 1 :]
    ok = np.isfinite(design).all(axis=1) & np.isfinite(target)
    design, target = design[ok], target[ok]
    n, p = design.shape
    if n < 5 * length or target.std() == 0:
        return None
    weights = np.linalg.lstsq(design, target, rcond=None)[0]
    rest = float(((target - design @ weights) ** 2).sum())
    total = float(((target - target.mean()) ** 2).sum())
    return float(1 - (rest / (n - p)) / (total / (n - 1)))
