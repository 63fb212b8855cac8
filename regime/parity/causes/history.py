"""Averages that have not seen enough candles: at the start, after each restart, or at every call."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import candles, some
from regime.parity.table import Floats, Ints, Mask, Pair, Table

DENSE = 0.5
"""Share of the first candles that must differ, up to the last one that does."""
TAIL = 20
"""So many candles must agree after them."""
DECAYS = 0.6
"""The last third of the differences must be this much smaller than the first, at most."""
BINS = 8
GAP_STEPS = 2
SURE = 0.99
LENGTHS_MAX = 1_500
ALPHA_MAX = 0.9


class Age(NamedTuple):
    """Candles since a beginning: of a file, or of a run of candles after a hole."""

    rows: Ints
    since: str


def warm_up(pair: Pair, left: Mask) -> list[Claim]:
    """Find differences that are large where a side begins (or goes on after a hole) and die away.

    A faulty version of a bot that was replaced half-way looks like it, but its differences do not shrink. An average
    as slow as the log is long never gets equal within it: then the decay alone is the evidence.
    """
    best: tuple[int, Age, list[int]] | None = None
    for age in _ages(pair):
        places = [c for c in np.flatnonzero(left.any(axis=0)).tolist() if _dies_away(pair, left, age.rows, c)]
        cells = int(left[:, places].sum())
        if places and (best is None or cells > best[0]):
            best = cells, age, places
    if best is None:
        return []
    _, age, places = best
    cells = np.zeros_like(left)
    cells[:, places] = left[:, places]
    last = [int(age.rows[left[:, c]].max()) for c in places]
    slow = places[int(np.argmax(last))]
    said = [
        f"{some([pair.names[c] for c in places])}: differences are large on the first candles after {age.since} and die away."
    ]
    if max(last) < int(age.rows.max()) - TAIL:
        said.append(f"After {candles(max(last) + 1)} both sides agree; {pair.names[slow]} takes longest.")
    else:
        size = _sizes(pair, left, age.rows, slow)
        said.append(f"{pair.names[slow]} is not there yet at the end: its difference fell to {size[-1] / size[0]:.0%}.")
    holed = [pair.names[c] for c in places if np.isnan(pair.x[:, c]).any() != np.isnan(pair.y[:, c]).any()]
    if holed:
        said.append(f"{some(holed)} has no value at all on the first of them.")
    return [Claim("short-warm-up", tuple(pair.names[c] for c in places), cells, tuple(said), exact=False)]


def _ages(pair: Pair) -> list[Age]:
    ages = [Age(np.arange(pair.rows), "the beginning")]
    for table, rows, side in (
        (pair.live, pair.rows_live, "LIVE"),
        (pair.backtest, pair.rows_backtest, "BACKTEST"),
    ):
        begins = _begins(table, pair.step_ms)
        if len(begins) > 1:
            start = begins[np.searchsorted(begins, rows, side="right") - 1]
            ages.append(Age(rows - start, f"each hole of {side} ({len(begins) - 1} of them)"))
    return ages


def _begins(table: Table, step_ms: int) -> Ints:
    holes = np.flatnonzero(np.diff(table.ts_ms) >= GAP_STEPS * step_ms) + 1
    return np.concatenate(([0], holes)).astype(np.int64)


def _dies_away(pair: Pair, left: Mask, age: Ints, c: int) -> bool:
    here = left[:, c]
    ages = age[here]
    last = int(ages.max())
    young = age <= last
    quiet = int((~young).sum())
    if quiet >= TAIL and last < 0.7 * age.max() and here[young].mean() >= DENSE:
        if last < 3:
            return True
        size = np.abs(pair.difference[:, c])
        blank = np.isnan(size) & here
        early, late = here & (age <= last / 3), here & (age > 2 * last / 3)
        if blank[here].mean() > DENSE:
            return bool(blank[early].mean() > DENSE) if early.any() else False
        known = ~np.isnan(size)
        if not (early & known).any() or not (late & known).any():
            return bool(blank[early].any())
        return bool(np.median(size[late & known]) <= DECAYS * np.median(size[early & known]))
    if here[young].mean() < 0.8 * DENSE:
        return False
    size = _sizes(pair, left, age, c)
    if len(size) < BINS or size[-1] > 0.25 * size[0]:
        return False
    # Falling nearly all the way: rank correlation of size with age.
    ranks = np.argsort(np.argsort(size))
    n = len(size)
    rank = 1 - 6 * float(((ranks - np.arange(n)) ** 2).sum()) / (n * (n * n - 1))
    return rank <= -0.85


def _sizes(pair: Pair, left: Mask, age: Ints, c: int) -> Floats:
    """Root mean square difference in each eighth of the ages."""
    size = np.abs(pair.difference[:, c])
    known = np.isfinite(size)
    edges = np.quantile(age[known], np.linspace(0, 1, BINS + 1)) if known.any() else np.zeros(0)
    found = [
        float(np.sqrt((size[known & (age >= low) & (age <= high)] ** 2).mean()))
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return np.array(found) if found and found[0] > 0 else np.zeros(0)


def too_short(pair: Pair, left: Mask) -> list[Claim]:
    """Find averages that one side works out anew at every candle from a limited number of candles.

    An exponential mean follows y(t) = y(t-1) + a (close(t) - y(t-1)) whatever came before. A side that begins its mean
    anew L - 1 candles back is off by (1 - a)^(L-1) (close - y)(t-L+1) at every candle: one number L explains all of it.
    Columns that are no such mean are told by their memory: long ones differ, short ones agree. That is evidence, not proof.
    """
    places = [c for c in np.flatnonzero(left.mean(axis=0) > 0.02).tolist() if pair.continuous(c)]
    features = set(pair.places("feature"))
    places = [c for c in places if c in features]
    if not places or left[:, pair.places("candle")].any():
        return []
    for side, ours, theirs in (("LIVE", pair.x, pair.y), ("BACKTEST", pair.y, pair.x)):
        means = _short_means(pair, ours, theirs, places)
        if means:
            lengths = list(means.values())
            length = int(np.median(lengths))
            also = [c for c in places if c in means or _alike(pair, c)]
            cells = np.zeros_like(left)
            cells[:, also] = left[:, also]
            names = [pair.names[c] for c in means]
            return [
                Claim(
                    "short-warm-up", tuple(pair.names[c] for c in also), cells,
                    (f"{some(names)}: {side} is an exponential mean that begins anew {length} candles before each candle "
                     f"(correlation of its error with that rule above {SURE}).",
                     f"{side} works from the last {length} candles only; the other side from its whole history."),
                    exact=True,
                )
            ]  # fmt: skip
    return _by_memory(pair, left, places)


def _short_means(pair: Pair, ours: Floats, theirs: Floats, places: list[int]) -> dict[int, int]:
    """For each column where `theirs` is an exponential mean of the close and `ours` the same begun anew: its length."""
    if "close" not in pair.names:
        return {}
    close = pair.y[:, pair.names.index("close")]
    found: dict[int, int] = {}
    for c in places:
        y, d = theirs[:, c], ours[:, c] - theirs[:, c]
        for source in (close, np.log(close)):
            gap = source[1:] - y[:-1]
            step = np.diff(y)
            ok = pair.follows[1:] & np.isfinite(gap) & np.isfinite(step)
            if ok.sum() < 50 or not float((gap[ok] ** 2).sum()) > 0:
                continue
            alpha = float((gap[ok] * step[ok]).sum() / (gap[ok] ** 2).sum())
            rest = step[ok] - alpha * gap[ok]
            if not 0 < alpha < ALPHA_MAX or (rest**2).sum() > 1e-4 * (step[ok] ** 2).sum():
                continue
            length = _length(d, source - y, pair)
            if length is not None:
                found[c] = length
            break
    return found


def _length(d: Floats, error: Floats, pair: Pair) -> int | None:
    """The number of candles back at which the error explains the difference; None where none does."""
    if not np.all(pair.follows[1:]):
        # Holes would make "L candles back" another row each time: use the longest run without any.
        breaks = np.flatnonzero(~pair.follows)
        ends = np.append(breaks[1:], pair.rows)
        longest = int(np.argmax(ends - breaks))
        d, error = d[breaks[longest] : ends[longest]], error[breaks[longest] : ends[longest]]
    best, at_length = 0.0, 0
    for length in range(2, min(LENGTHS_MAX, len(d) - 30)):
        a, b = d[length - 1 :], error[: len(error) - length + 1]
        ok = np.isfinite(a) & np.isfinite(b)
        if ok.sum() < 30:
            continue
        norm = float(np.sqrt((a[ok] ** 2).sum() * (b[ok] ** 2).sum()))
        if norm > 0 and (r := float((a[ok] * b[ok]).sum()) / norm) > best:
            best, at_length = r, length
    return at_length if best >= SURE else None


def _alike(pair: Pair, c: int) -> bool:
    """Whether two columns are the same quantity but for something small."""
    d = pair.difference[:, c]
    return bool(np.nanstd(d) < 0.5 * pair.spread[c])


def _by_memory(pair: Pair, left: Mask, places: list[int]) -> list[Claim]:
    features = [c for c in pair.places("feature") if pair.continuous(c)]
    agree = [c for c in features if not left[:, c].any()]
    if len(places) < 2 or len(agree) < 2 or not all(_alike(pair, c) for c in places):
        return []
    memory = {c: _memory(pair.y[:, c]) for c in (*places, *agree)}
    wins = [memory[a] > memory[b] for a in places for b in agree]
    if np.mean(wins) < 0.9:
        return []
    # The longer the memory the larger the error, relative to the column's own spread.
    cells = np.zeros_like(left)
    cells[:, places] = left[:, places]
    shown = sorted(places, key=lambda c: -memory[c])
    return [
        Claim(
            "short-warm-up", tuple(pair.names[c] for c in shown), cells,
            (f"What has a long memory differs ({some([pair.names[c] for c in shown])}), what has a short one agrees "
             f"({some([pair.names[c] for c in agree])}), all along the log.",
             "So one side seems to work from too few candles at every call. This is evidence, not proof."),
            exact=False,
        )
    ]  # fmt: skip


def _memory(values: Floats) -> float:
    """Correlation of a column with itself eight candles before."""
    a, b = values[8:], values[:-8]
    ok = np.isfinite(a) & np.isfinite(b)
    if ok.sum() < 30:
        return 0.0
    a, b = a[ok] - a[ok].mean(), b[ok] - b[ok].mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
