"""Averages that have not seen enough candles: at the start, after each restart, or at every call."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from regime.parity.causes.claim import Claim
from regime.parity.findings import candles, some
from regime.parity.statistics import correlation, slowness
from regime.parity.table import Floats, Ints, Mask, Pair, Table, kind

DENSE = 0.5
"""Share of the first candles that must differ, up to the last one that does."""
TAIL = 20
"""So many candles must agree after them."""
DECAYS = 0.6
"""The last third of the differences must be this much smaller than the first, at most."""
BINS = 8
GAP_STEPS = 2
LASTS = 0.5
SURE = 0.9
LENGTHS_MAX = 1_500
WEIGHT_MAX = 0.9
RULE = 0.03
"""A column is an exponential mean where the rule leaves no more than this share of its changes."""
ROWS_MIN = 16
"""Candles on which an exact rule must hold; what it leaves tells, not how many they are."""
GRID_MAX = 500_000
SMALL, NOTHING = 0.05, 0.01
"""Standard deviations of a column. Averages over too short a history may be as near as that, other windows are not."""
SLOW = 0.7
AGREEING_MIN = 4
"""Fewer features that agree are no scale for the memory of one that does not."""


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
    asked = np.flatnonzero(left.any(axis=0)).tolist()
    if pair.places("feature"):
        # A model has no history of its own: what it answers follows what it was given.
        asked = [c for c in asked if kind(pair.names[c]) != "probability"]
    for age in _ages(pair):
        places = [c for c in asked if _dies_away(pair, left, age.rows, c)]
        weight = int(left[:, places].sum())
        if places and (best is None or weight > best[0]):
            best = weight, age, places
    if best is None:
        return []
    _, age, places = best
    last = [int(age.rows[left[:, c]].max()) for c in places]
    slow = places[int(np.argmax(last))]
    said = [
        f"{some([pair.names[c] for c in places])}: differences are large on the first candles after {age.since} and "
        f"die away."
    ]
    if max(last) < int(age.rows.max()) - TAIL:
        said.append(f"After {candles(max(last) + 1)} both sides agree; {pair.names[slow]} takes longest.")
    else:
        size = _sizes(pair, left, age.rows, slow)
        said.append(f"{pair.names[slow]} is not there yet at the end: its difference fell to {size[-1] / size[0]:.0%}.")
    holed = [pair.names[c] for c in places if np.isnan(pair.x[:, c]).any() != np.isnan(pair.y[:, c]).any()]
    if holed:
        said.append(f"{some(holed)} has no value at all on the first of them.")
    return [_claim(pair, left, "short-warm-up", places, tuple(said), exact=False)]


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
    if known.sum() < BINS:
        return np.zeros(0)
    edges = np.quantile(age[known], np.linspace(0, 1, BINS + 1))
    parts = [size[known & (age >= low) & (age <= high)] for low, high in pairwise(edges.tolist())]
    if not all(len(part) for part in parts):
        return np.zeros(0)
    found = np.array([float(np.sqrt((part**2).mean())) for part in parts])
    return found if found[0] > 0 else np.zeros(0)


class Mean(NamedTuple):
    """An exponential mean found behind a column, on an even grid of candles (NaN where one is missing)."""

    weight: float
    mean: Floats
    """The mean itself, by the side that is right."""
    source: Floats
    """What it is the mean of."""
    error: Floats
    """How far the other side's is off."""


def exponential(pair: Pair, left: Mask) -> list[Claim]:
    """Find exponential means of the close that one side began later, or begins anew at every candle.

    Such a mean follows y(t) = y(t-1) + a (close(t) - y(t-1)) whatever came before. A side that began later obeys the
    same rule, and its error shrinks by 1 - a at each candle, whether or not the log is long enough to see it go. A side
    that begins anew L - 1 candles back each time does not: it is off by (1 - a)^(L-1) (close - y)(t-L+1), one number L
    for all candles. A side with another a is another window.
    """
    features = set(pair.places("feature"))
    places = [c for c in np.flatnonzero(left.mean(axis=0) > 0.02).tolist() if c in features and pair.continuous(c)]
    if not places or "close" not in pair.names or left[:, pair.names.index("close")].any():
        return []
    grid = _Grid(pair)
    later, anew, spans = [], {}, {}
    for c in places:
        for ours, theirs in ((pair.x[:, c], pair.y[:, c]), (pair.y[:, c], pair.x[:, c])):
            found = _mean_behind(grid, ours, theirs, pair.tolerance[:, c])
            if found is None:
                continue
            how = _judged(found)
            if how == "later":
                later.append(c)
            elif how == "other":
                spans[c] = 2 / found.weight - 1
            elif how == "anew":
                anew[c] = _length(found)
            break
    claims = []
    if later or anew:
        said = []
        if later:
            said.append(
                f"{some([pair.names[c] for c in later])}: on both sides the same exponential mean of the close, but "
                f"one "
                "began later; its error shrinks from candle to candle."
            )
        if anew:
            lengths = [length for length in anew.values() if length is not None]
            said.append(
                f"{some([pair.names[c] for c in anew])}: an exponential mean of the close that one side begins anew at "
                "every candle" + (f", from the last {int(np.median(lengths))} candles." if lengths else ".")
            )
        also = [c for c in places if c in later or c in anew or (c not in spans and _alike(pair, c))]
        claims.append(_claim(pair, left, "short-warm-up", also, tuple(said), exact=True))
    if spans:
        shown = [
            f"{pair.names[c]}: BACKTEST's or LIVE's span is {span:.0f}, the other's another"
            for c, span in spans.items()
        ]
        claims.append(_claim(pair, left, "other-window", list(spans), (some(shown, 3) + ".",), exact=True))
    return claims


def _claim(pair: Pair, left: Mask, cause: str, places: list[int], said: tuple[str, ...], *, exact: bool) -> Claim:
    cells = np.zeros_like(left)
    cells[:, places] = left[:, places]
    return Claim(cause, tuple(pair.names[c] for c in places), cells, said, exact)


class _Grid:
    """Puts columns on an even grid of candles, so that "L candles back" is one step everywhere."""

    def __init__(self, pair: Pair) -> None:
        place = (pair.ts_ms - pair.ts_ms[0]) // pair.step_ms
        self.size = int(place[-1]) + 1
        self.place = place if self.size <= GRID_MAX else None
        close = pair.y[:, pair.names.index("close")]
        self.close = self.on(close)

    def on(self, values: Floats) -> Floats:
        if self.place is None:
            return values
        found = np.full(self.size, np.nan)
        found[self.place] = values
        return found


def _mean_behind(grid: _Grid, ours: Floats, theirs: Floats, tolerance: Floats) -> Mean | None:
    """The exponential mean of the close that `theirs` is, or is a distance to."""
    close = grid.close
    x, y = grid.on(ours), grid.on(theirs)
    with np.errstate(all="ignore"):
        log = np.log(close)
        shapes = (
            (x, y, close), (x, y, log), (close - x, close - y, close), (log - x, log - y, log),
            (close / (1 + x), close / (1 + y), close),
        )  # fmt: skip
    for shape in shapes:
        ours_mean, mean, source = (np.where(np.isfinite(series), series, np.nan) for series in shape)
        with np.errstate(invalid="ignore"):
            gap, step = source[1:] - mean[:-1], np.diff(mean)
        ok = np.isfinite(gap) & np.isfinite(step)
        if ok.sum() < ROWS_MIN or not float((gap[ok] ** 2).sum()) > 0:
            continue
        weight = float((gap[ok] * step[ok]).sum() / (gap[ok] ** 2).sum())
        rest = step[ok] - weight * gap[ok]
        if 0 < weight < WEIGHT_MAX and (rest**2).sum() <= RULE * (step[ok] ** 2).sum():
            return Mean(weight, mean, source, ours_mean - mean)
    return None


def _judged(found: Mean) -> str:
    """Say how the other side's mean came about: `later`, `anew`, with an`other` weight, or `` for none of them."""
    d = found.error
    if not (np.isfinite(d) & (d != 0)).any():
        return ""
    # What is left of the error when it has shrunk by one candle's share: nothing, if the other side obeys the rule.
    rest = d[1:] - (1 - found.weight) * d[:-1]
    ok = np.isfinite(rest)
    if ok.sum() < ROWS_MIN:
        return ""
    size = np.nanmean(d**2)
    noise = _noise(found)
    if (rest[ok] ** 2).mean() <= max(1e-4 * size, 4 * noise):
        return "later" if size > 4 * noise else ""
    ours = found.mean + d
    with np.errstate(invalid="ignore"):
        gap, step = found.source[1:] - ours[:-1], np.diff(ours)
    both = np.isfinite(gap) & np.isfinite(step)
    weight = float((gap[both] * step[both]).sum() / (gap[both] ** 2).sum())
    own = step[both] - weight * gap[both]
    if (own**2).mean() <= max(0.05 * (rest[ok] ** 2).mean(), 4 * noise) and abs(weight / found.weight - 1) > 0.005:
        return "other"
    # Begun anew: the error is small beside the gap it was born from, and changes as slowly as that does.
    born = np.nanstd(found.source - found.mean)
    both = np.isfinite(d[1:]) & np.isfinite(d[:-1])
    lasts = correlation(d[1:][both], d[:-1][both])
    return "anew" if np.nanstd(d) < 0.5 * born and lasts is not None and lasts >= LASTS else ""


def _noise(found: Mean) -> float:
    """Mean square of what printing leaves of the rule on the side that obeys it."""
    rest = np.diff(found.mean) - found.weight * (found.source[1:] - found.mean[:-1])
    return float(np.nanmean(rest**2))


def _length(found: Mean) -> int | None:
    """The number of candles back from which the mean is begun anew; None where the log is too short to tell."""
    born, d = found.source - found.mean, found.error
    best, at_length = 0.0, None
    for length in range(2, min(LENGTHS_MAX, len(d) - 30)):
        a, b = d[length - 1 :], born[: len(born) - length + 1]
        ok = np.isfinite(a) & np.isfinite(b)
        if ok.sum() < 30:
            continue
        a, b = a[ok], b[ok]
        norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
        if norm <= 0:
            continue
        r = float((a * b).sum()) / norm
        share = float((a * b).sum()) / float((b * b).sum())
        if r > max(best, SURE) and 0.8 < share / (1 - found.weight) ** (length - 1) < 1.25:
            best, at_length = r, length
    return at_length


def _alike(pair: Pair, c: int) -> bool:
    """Whether two columns are the same quantity but for something small."""
    return bool(np.nanstd(pair.difference[:, c]) < 0.5 * pair.spread[c])


def by_memory(pair: Pair, left: Mask) -> list[Claim]:
    """Find what no rule tells: columns with a long memory differ a little, those with a short one agree; or a distance
    that is small and changes slowly.

    When it misleads: it is evidence, not proof; a long average over another length looks the same.
    """
    features = set(pair.places("feature"))
    places = [c for c in np.flatnonzero(left.mean(axis=0) > 0.02).tolist() if c in features and pair.continuous(c)]
    if not places or left[:, pair.places("candle")].any():
        return []
    return _by_memory(pair, left, places) or _nearly_forgotten(pair, left, places)


def _nearly_forgotten(pair: Pair, left: Mask, places: list[int]) -> list[Claim]:
    """Find distances that change slowly and are smaller than those of another window, a seventh longer for example:
    all of them small, or one of them next to nothing."""
    slow = {c: how for c in places if (how := slowness(pair, pair.difference[:, c])) is not None and how >= SLOW}
    sizes = {c: float(np.nanstd(pair.difference[:, c])) / pair.spread[c] for c in slow if pair.spread[c] > 0}
    if not sizes or (max(sizes.values()) > SMALL and min(sizes.values()) > NOTHING):
        return []
    least = min(sizes, key=lambda c: sizes[c])
    said = (
        f"{some([pair.names[c] for c in slow])}: the distance of the two sides changes slowly (correlation "
        f"{max(slow.values()):.2f} from one candle to the next) and is small, that of {pair.names[least]} "
        f"{sizes[least]:.2%} of its standard deviation: so averages differ that have nearly forgotten where they "
        "began. This is evidence, not proof.",
    )
    return [_claim(pair, left, "short-warm-up", list(slow), said, exact=False)]


def _by_memory(pair: Pair, left: Mask, places: list[int]) -> list[Claim]:
    features = [c for c in pair.places("feature") if pair.continuous(c)]
    agree = [c for c in features if not left[:, c].any()]
    if len(agree) < AGREEING_MIN or not all(_alike(pair, c) for c in places):
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
