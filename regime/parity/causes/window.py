"""The same values, normalised or averaged over another window."""

from __future__ import annotations

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import some
from regime.parity.statistics import correlation, slowness
from regime.parity.table import Floats, Mask, Pair, kind

BLOCK = 24
BLOCKS_MIN = 5
FITS = 0.8
"""Share of the variance of the changes that a line of each block's own must explain, at the median, ..."""
GAINS = 0.4
"""... and share of the variance of the difference of the changes."""
DIFFERS = 0.005
SLOW = 0.7
"""Noise of another feed has a correlation of 0 from candle to candle, window means of 20 candles one of 0.9."""
ALIKE = 0.5
WINDOWS = 48


def normalised(pair: Pair, left: Mask) -> list[Claim]:
    """Find features that follow the other side's while a factor, or a distance, drifts slowly.

    A value normalised over a rolling window is (r - m) / s with m and s of that window; over another window it is
    a line of the first, with a slope and offset that change slowly. One line for all candles would be a unit, a
    distance that stays a total. Three signs, any of which is enough: in blocks of 24 candles a slope of their own
    explains the changes; the ratio of the two sides changes slowly (r / m); or their distance does.

    When it misleads: averages that forget slowly look so, too (`history.py` is asked before), and so does any other
    formula for nearly the same thing, RSI over 14 and over 21 candles for example. It is evidence, not proof.
    """
    found: list[int] = []
    signs: list[str] = []
    # What a model makes of its inputs is the model's doing; alone, a probability may be normalised like anything else.
    kinds = {"feature"} if pair.places("feature", "candle") else {"probability"}
    for c in pair.places(*kinds):
        if left[:, c].mean() <= 0.1 or not pair.continuous(c):
            continue
        sign = _sign(pair, c)
        if sign is not None:
            found.append(c)
            if len(signs) < 4:
                signs.append(f"{pair.names[c]}: {sign}.")
    if not found:
        return []
    cells = np.zeros_like(left)
    cells[:, found] = left[:, found]
    said = (*signs, "That is what a rolling mean and scale over another number of candles do.")
    return [Claim("other-window", tuple(pair.names[c] for c in found), cells, said, exact=False)]


def _sign(pair: Pair, c: int) -> str | None:
    law = _slopes(pair, c)
    if law is not None:
        fits, gains, low, high = law
        if fits >= FITS and gains >= GAINS and low > 0 and high / low > 1 + DIFFERS:
            return (
                f"LIVE moves with BACKTEST by a factor that drifts from {low:.3g} to {high:.3g} (tenth to ninetieth "
                f"hundredth of blocks of {BLOCK} candles; within a block it explains {fits:.0%} of the changes)"
            )
    if kind(pair.names[c]) == "probability":
        # Answers of any two models to the same slow market are apart by something slow.
        return None
    x, y = pair.x[:, c], pair.y[:, c]
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < BLOCK or (correlation(x[both], y[both]) or 0.0) < ALIKE:
        return None
    slow = slowness(pair, x - y)
    if slow is not None and slow >= SLOW:
        return f"the distance of the two changes slowly (correlation {slow:.2f} from one candle to the next)"
    if np.all(x[both] * y[both] > 0):
        with np.errstate(invalid="ignore", divide="ignore"):
            slow = slowness(pair, np.log(np.abs(x / y)))
        if slow is not None and slow >= SLOW:
            return f"the ratio of the two changes slowly (correlation {slow:.2f} from one candle to the next)"
    return None


def _slopes(pair: Pair, c: int) -> tuple[float, float, float, float] | None:
    """Medians of the share explained (of the changes, of their difference), and the range of the slopes."""
    with np.errstate(invalid="ignore"):
        u, v = np.diff(pair.y[:, c]), np.diff(pair.x[:, c])
    ok = pair.follows[1:] & np.isfinite(u) & np.isfinite(v)
    u, v = u[ok], v[ok]
    blocks = len(u) // BLOCK
    if blocks < BLOCKS_MIN:
        return None
    u, v = u[: blocks * BLOCK].reshape(blocks, BLOCK), v[: blocks * BLOCK].reshape(blocks, BLOCK)
    uu, uv, vv = (u * u).sum(axis=1), (u * v).sum(axis=1), (v * v).sum(axis=1)
    dd = ((v - u) ** 2).sum(axis=1)
    good = (uu > 0) & (vv > 0) & (dd > 0)
    if good.sum() < BLOCKS_MIN:
        return None
    uu, uv, vv, dd = uu[good], uv[good], vv[good], dd[good]
    slope = uv / uu
    rest = vv - slope * uv
    fits, gains = float(np.median(1 - rest / vv)), float(np.median(1 - rest / dd))
    low, high = np.quantile(slope, [0.1, 0.9])
    return fits, gains, float(low), float(high)


def smoothed(pair: Pair, left: Mask) -> list[Claim]:
    """Find columns that are the mean of the other side's last few candles."""
    found: dict[int, tuple[int, str]] = {}
    for c in np.flatnonzero(left.mean(axis=0) > 0.3).tolist():
        if not pair.continuous(c):
            continue
        for side, a, b in (("LIVE", pair.x[:, c], pair.y[:, c]), ("BACKTEST", pair.y[:, c], pair.x[:, c])):
            length = _mean_of(pair, a, b, c)
            if length is not None:
                found[c] = length, side
                break
    if not found:
        return []
    cells = np.zeros_like(left)
    cells[:, list(found)] = left[:, list(found)]
    said = [
        f"{pair.names[c]}: {side} is the other side's mean over {length} candles" for c, (length, side) in found.items()
    ]
    return [Claim("other-window", tuple(pair.names[c] for c in found), cells, (some(said, 3) + ".",), exact=True)]


def _mean_of(pair: Pair, a: Floats, b: Floats, c: int) -> int | None:
    total = np.concatenate(([0.0], np.cumsum(np.where(np.isfinite(b), b, np.nan))))
    tol = 2 * pair.tolerance[:, c]
    for length in range(2, min(WINDOWS, pair.rows // 2)):
        mean = (total[length:] - total[:-length]) / length
        ok = np.isfinite(mean) & np.isfinite(a[length - 1 :])
        if ok.sum() >= 20 and (np.abs(mean - a[length - 1 :])[ok] <= tol[length - 1 :][ok]).mean() >= 0.95:
            return length
    return None
