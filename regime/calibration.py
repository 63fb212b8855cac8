"""Limits for a wanted false-alarm run length on autocorrelated, correlated, seasonal features.

"At most one false alarm in 30 days" is a promise about one number, the family statistic of a whole stream; this module
finds the limits that keep it, from the training-period sample alone, and says how sure it is.

**The law that is fitted** (per feature; `table` holds the numbers):

    z_t = normal score of x_t              monotone, piecewise linear through 15 quantiles, straight tails
        - season(hour of day, day of week) where one was found
    e_t = z_t - sum phi_k z_(t-k) - sum psi_j m_j      6 lags and running means of 24, 96, 288 rows (HAR, Corsi 2009)
    u_t = clip(e_t / s_(t-1), 3)           s: EWMA (0.97) of e^2, volatility clusters are taken out

**The channels.** Page's CUSUM on u for shifts of .25, .5 and 1 standard deviation, up and down; running means of 96
and 288 rows of z itself (a level that moves slowly is invisible to a whitened score); CUSUM of the likelihood ratio of
e^2 for a scale times 1.7, 2.5, 0.5; and, over all features at once, the sum and the soft-thresholded sum of squared
running means of u (16 and 64 rows; Xie & Siegmund 2013), for changes too small to see in any one feature.

*Shape* (skew, tails): running means of 288 rows of the third and fourth Hermite polynomial of z, clipped at 3; their
expected values stay 0 under a small shift and under a small change of scale, to first order.

*Dependence* (each feature as usual, but not with the others as usual): u is projected on its leading principal
components (those of the reference's correlation with a variance over 1.3, at most 16; Jackson & Mudholkar 1979). What
the projection leaves of a feature is judged by a CUSUM of the likelihood ratio for a standard deviation times 1.5
(only for features of which the others explain 20 % of the variance or more); the logarithm of the squared prediction
error of all, as a running mean of 64 rows, up and down; and the products of two components, uncorrelated in the
reference, as running means of 144 rows, their squares summed. A missing score is filled with its prediction;
while more than a tenth of the coupled features is missing, dependence is not judged.

**Gaps.** A value after a gap of k rows surprises by what happened in k rows, not in one. So what was missing is
remembered as the law expects it to be, with its covariance, and e_t is divided by the root of its variance given the
gap: the exact innovation of an autoregression with missing values (Jones 1980). The evidence of a feature stands still
while it is away. An innovation that is partly of the gap moves less with the others than theirs do, and after a long
gap a feature is divided by an old s: such a score counts as missing where dependence is judged. The law is learned from
rows whose six lags are all there; a feature that has fewer than 200 of them (one that comes every hour, say) has its
law from one value to the next, and no gap is made up for. Where fewer than 90 % of the features are there, as in the
three rows before, in more than a fifth of the reference, dependence is not judged at all. A row in which nothing is
there counts as no row, for everything.

**The limit.**
 1. *Cross-fitting.* The reference is cut into 6 stretches of time. Each stretch is judged by a law fitted on the other
    five: a limit from rows that the law has seen is too low, above all for features that wander.
 2. *One scale.* The largest values a day of each (channel, feature) give a Gumbel law; statistics become
    `(value - location) / scale`. Then an extreme-value law for the largest of each channel, whose tail may be heavier
    (Hosking 1985), bends it onto the Gumbel scale, and the family statistic is the largest of all: 0 is about what
    a usual day brings, and each unit more is rarer by about a factor of e.
 3. *One limit.* Episodes (alarms less than a day apart are one) are counted on the cross-fitted statistic at a ladder
    of limits. Beyond what was counted, the rate falls as exp(-b h), with b estimated from the counts under a prior
    1 +- 0.15, and the *predictive* rate, averaged over what is not known about b, is set to the wanted one.

**When it misleads.** A run length much longer than the reference is extrapolated: see `Report.claim`. The reference is
taken to be free of change. Whatever is rarer than once in the reference is not in the limits.

References: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954). F. Corsi, A simple approximate long-memory
model of realized volatility, J. Financial Econometrics 7 (2009). Y. Xie and D. Siegmund, Sequential multi-sensor
change-point detection, Annals of Statistics 41 (2013). E. J. Gumbel, Statistics of Extremes (1958). J. E. Jackson and
G. S. Mudholkar, Control procedures for residuals associated with principal component analysis, Technometrics 21 (1979).
R. H. Jones, Maximum likelihood fitting of ARMA models to time series with missing observations, Technometrics 22
(1980).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.errors import CorruptionError
from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VERSION = 3
DAY_MS = 86_400_000
PERIODS_WANTED = 12
"""A reference of so many target periods is long enough to count the false alarms rather than extrapolate them."""
ROWS_MIN = 1_000
"""Fewer rows justify no limit at all."""
WARM = 288
"""Values of a feature before it is judged."""
LOST_MAX = 289
"""Rows that a hole in time counts for at most: after 288 a feature begins from anew anyway."""
_LOST_SHARE_MAX = 0.2
"""A reference with a larger share of lost rows is one of a market that closes: there a row follows the one before."""

_QUANTILES = np.array([.002, .01, .03, .08, .16, .25, .37, .5, .63, .75, .84, .92, .97, .99, .998])  # fmt: skip
_DRIFTS = (0.25, 0.5, 1.0)
_LEVELS = (96, 288)
_SCALES = (1.7, 2.5, 0.5)
_DENSE = (16, 64)
_POLYNOMIAL, _COUPLE, _ERROR, _PAIR = 288, 1.5, 64, 144
_HAR = (24, 96, 288)
# Who gets how much of the budget: nats by which a channel must be more surprising than the first ones. Equal shares for
# all cost a doubled volatility 314 rows instead of 198; these are for changes that are strong when they come. A
# change of dependence is the strongest of all: a higher price costs it a few rows.
_HANDICAP = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.5, 1.5, 2.5, 1.5, 1.5, 1.5, 1.5, 2.5, 2.5)
_GAP, _DEVOL, _CLIP, _SOFT, _SQUARE = 288.0, 0.97, 3.0, 1.5, 25.0
_FOLDS = 6
_BURN_IN = 4 * WARM
_DAILY, _WEEKLY = 4, 3
_LADDER = np.arange(-1.0, 24.0, 0.25)
_SLOPE, _SLOPE_SPREAD = 1.0, 0.15
_SPREAD_REFERENCE = 0.2

CHANNEL_NAMES: tuple[str, ...] = (
    *(f"drift {d:g}" for d in _DRIFTS),
    *(f"level {w}" for w in _LEVELS),
    *(f"scale {r:g}" for r in _SCALES),
    f"polynomials {_POLYNOMIAL}",
    f"coupling {_COUPLE:g}",
    *(f"{kind} {w}" for w in _DENSE for kind in ("dense", "some")),
    f"prediction error {_ERROR}",
    f"components {_PAIR}",
)
CHANNEL_KINDS: tuple[str, ...] = (
    *("location" for _ in _DRIFTS), *("location" for _ in _LEVELS),
    *("scale" for _ in _SCALES), "shape", "dependence", *("many" for _ in (*_DENSE, *_DENSE)),
    "dependence", "dependence",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the calibration found, and how far its promise goes.

    `claim` is "counted" (the reference is at least 12 target periods long), "extrapolated" (at least one), or "none".
    `run_length_low/high` is a 90 % interval of the true run length: sampling of counts and slope, and the spread of
    0.2 (log) between references that was measured on simulated markets.
    """

    rows: int
    days: float | None
    periods: float
    claim: str
    run_length: float
    run_length_low: float
    run_length_high: float
    evidence: tuple[tuple[float, int], ...]
    rows_judged: int
    slope: float
    season_daily: float
    season_weekly: float
    seasonal_features: tuple[str, ...]
    effective_rank: float
    dead: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    wandering: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Everything that the live detector needs: plain numbers, no reference. Limits are `inf` where none is justified.

    `table[row, feature]` and `numbers` are laid out as `regime.calibration_kernels` says. `season` tells whether the
    rows of the table from `T_SEASON` on hold a season (then times are needed); `last_ts_ms` and `step_ms` place a row
    that comes without a time. With `holes`, candles that are missing between two rows count as rows in which nothing
    was there; not where the reference has no times, or is of a market that closes.
    """

    version: int
    reference_id: str
    names: tuple[str, ...]
    rows_per_false_alarm: float
    rows_per_day: int
    limit_alarm: float
    limit_warning: float
    limit_recovery: float
    step_ms: int
    last_ts_ms: int
    season: bool
    holes: bool
    groups: tuple[int, ...]
    table: Floats
    numbers: Floats
    report: Report

    def to_json(self) -> str:
        """Return canonical JSON: equal content, equal text."""
        plain = asdict(self)
        for name in ("table", "numbers"):
            plain[name] = getattr(self, name).tolist()
        return json.dumps(_without_infinity(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Inverse of `to_json`. Raises `CorruptionError` for anything else, and for another version."""
        try:
            plain = _with_infinity(json.loads(text))
            if plain["version"] != VERSION:
                raise ValueError(f"it has version {plain['version']}, this program writes {VERSION}: calibrate again")
            report = plain.pop("report")
            for name in ("dead", "seasonal_features", "wandering", "warnings"):
                report[name] = tuple(report[name])
            report["duplicates"] = tuple(tuple(group) for group in report["duplicates"])
            report["evidence"] = tuple((float(h), int(n)) for h, n in report["evidence"])
            plain["names"], plain["groups"] = tuple(plain["names"]), tuple(plain["groups"])
            table = np.array(plain.pop("table"), dtype=np.float64).reshape(-1, len(plain["names"]))
            numbers = np.array(plain.pop("numbers"), dtype=np.float64)
            return cls(table=table, numbers=numbers, report=Report(**report), **plain)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptionError(f"a stored calibration cannot be read: {error}") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex, 32 characters) of `to_json`; made once, for it is asked for with every look at a detector."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return int(self.reference_id[:15], 16)


def calibrate(
    reference: Reference,
    *,
    rows_per_false_alarm: float,
    rows_per_day: int = 288,
    progress: Callable[[float, str], None] | None = None,
) -> Calibration:
    """Return limits under which a stream like `reference` rings once in `rows_per_false_alarm` rows.

    Parameters
    ----------
    reference
        Rows in time order, free of change. Without times no season is looked for.
    rows_per_false_alarm
        Wanted mean number of rows between false alarms of the whole family.
    rows_per_day
        Used where the reference has no times: alarms less than a day apart are one.
    progress
        Called with the share done and what is being done.

    Nothing is refused by raising: a reference that cannot carry the promise gets `report.claim == "none"`, and limits
    of `inf` when it is shorter than 1,000 rows or has no feature to watch.
    """
    if not (math.isfinite(rows_per_false_alarm) and rows_per_false_alarm >= 1):
        raise ValueError(f"rows_per_false_alarm is a number of rows, at least 1, not {rows_per_false_alarm!r}")
    say = progress or (lambda share, text: None)
    from regime import calibration_kernels as k

    rows, features = reference.values.shape
    step_ms, last_ms = 0, 0
    if reference.ts_ms is not None and rows > 1:
        step_ms = max(int(np.median(np.diff(reference.ts_ms))), 1)
        last_ms = int(reference.ts_ms[-1])
        rows_per_day = max(round(DAY_MS / step_ms), 1)
    say(0.0, "reading the reference")
    values, ts_ms, holes = _with_holes(reference.values, reference.ts_ms, step_ms)
    rows = len(values)
    sample = _Sample(reference, values, rows_per_day)
    live = sample.live
    if reference.rows < ROWS_MIN or not live.any():
        return _without_limits(reference, sample, rows_per_false_alarm, step_ms, last_ms)

    say(0.05, "looking for seasons")
    every = np.ones(rows)
    first = _fit(sample, every, np.zeros((0, features)), np.zeros((rows, 0)))
    z, present = _scores(first, sample, np.zeros((rows, 0)))
    season, found = _season(z, present, ts_ms, rows_per_day)
    basis = _basis(ts_ms) if found.any and ts_ms is not None else np.zeros((rows, 0))
    if not basis.shape[1]:
        season = np.zeros((0, features))

    block = int(min(max(rows // 90, 24), rows_per_day if rows_per_day >= 24 else WARM))
    edges = np.linspace(0, rows // block, _FOLDS + 1).astype(int) * block
    skip = math.ceil(2 * WARM / block)
    folds: list[tuple[_Law, Floats, Floats, int]] = []
    maxima: list[Floats] = []
    for i in range(_FOLDS):
        say(0.1 + 0.6 * i / _FOLDS, f"fitting without stretch {i + 1} of {_FOLDS}")
        weight = np.ones(rows)
        weight[edges[i] : edges[i + 1]] = 0.0
        law = _fit(sample, weight, season, basis)
        lead = math.ceil(min(edges[i], _BURN_IN) / block)
        start = edges[i] - lead * block
        own = _scores(law, sample, basis, start, edges[i + 1])
        weight = np.ones(len(own[0]))
        unused = max(lead, skip if i == 0 else 0)
        weight[: unused * block] = 0.0
        largest = np.zeros((k.FAMILY, len(own[0]) // block, features))
        _walk(law, *own, weight=weight, maxima=largest, block=block)
        maxima.append(largest[:, unused:])
        folds.append((law, *own, unused * block))
    say(0.7, "fitting the whole")
    law = _fit(sample, every, season, basis)
    law = _normalised(law, np.concatenate(maxima, axis=1), live)
    families: list[Floats] = []
    for i, (part, z_own, present_own, unused) in enumerate(folds):
        say(0.75 + 0.2 * i / _FOLDS, f"judging stretch {i + 1} of {_FOLDS}")
        others = np.concatenate([m for j, m in enumerate(maxima) if j != i], axis=1)
        families.append(_walk(_normalised(part, others, live), z_own, present_own)[unused:])
    say(0.95, "finding the limits")
    location, scale, shape = _channel_scale(families, block)
    law = law.rescaled(location, scale, shape)
    family = [bent(m, location, scale, shape).max(axis=1) for m in families]
    # Where the reference is shorter than three target periods nothing can be promised; the limit leans to silence.
    aim = rows_per_false_alarm * math.sqrt(max(1.0, 3.0 * rows_per_false_alarm / rows))
    tail = _Tail(family, quiet=rows_per_day, run_length=aim)
    alarm = max(tail.limit, 0.5)
    warning = min(_Tail(family, quiet=rows_per_day, run_length=aim / 4).limit, alarm - 0.25)
    recovery = warning - max(0.25, 0.25 * (alarm - warning))
    law.cap(1.5 * alarm + 2.0)
    z, present = _scores(law, sample, basis)
    groups = _groups(z, present, live)
    judged = int(sum(len(m) for m in family))
    low, high = tail.interval(alarm)
    report = _report(reference, sample, z, present, groups, rows_per_false_alarm, found)
    report = replace(
        report, run_length=1 / tail.rate(alarm), run_length_low=low, run_length_high=high,
        evidence=tail.evidence(), rows_judged=judged, slope=tail.slope,
    )  # fmt: skip
    say(1.0, "done")
    return Calibration(
        version=VERSION, reference_id=reference.reference_id, names=reference.names,
        rows_per_false_alarm=float(rows_per_false_alarm), rows_per_day=rows_per_day,
        limit_alarm=float(alarm), limit_warning=float(warning), limit_recovery=float(recovery),
        step_ms=step_ms, last_ts_ms=last_ms, season=basis.shape[1] > 0, holes=holes, groups=groups,
        table=law.table, numbers=law.numbers, report=report,
    )  # fmt: skip


def family_statistic(calibration: Calibration, values: Floats, ts_ms: Ints | None = None) -> Floats:
    """Return `float64[rows]`: what `Calibrated` says after each row, to the last bit, without asking row by row.

    Parameters
    ----------
    values
        `float64[rows, features]`, columns in the order of `calibration.names` (that of the reference), oldest first.
        What is not finite is missing.
    ts_ms
        `int64[rows]`: candle open times. Without, the first row is taken to follow the reference, as `update` does.

    The value is NaN until half of the live features have been seen 288 times. A row in which nothing is there repeats
    the value before it. Raises `ValueError` for another number of columns or of times.
    """
    from regime import calibration_kernels as k

    rows, features = values.shape
    if features != len(calibration.names) or (ts_ms is not None and len(ts_ms) != rows):
        raise ValueError(
            f"rows have {features} columns and {rows if ts_ms is None else len(ts_ms)} times, "
            f"expected {len(calibration.names)} and {rows}"
        )
    found = np.full(rows, math.nan)
    live = calibration.table[k.T_LIVE] > 0
    taken = np.flatnonzero((np.isfinite(values) & live).any(axis=1))
    at = calibration.last_ts_ms + calibration.step_ms * (1 + np.arange(len(taken))) if ts_ms is None else ts_ms[taken]
    basis = season_basis(at) if calibration.season else np.zeros((len(taken), 0))
    lost = lost_rows(at, calibration.step_ms) if calibration.holes else np.zeros(len(taken), dtype=np.int64)
    walked = np.full(len(taken) + int(lost.sum()), -1)  # the row of `taken`, -1 for one that was lost
    walked[np.arange(len(taken)) + np.cumsum(lost)] = np.arange(len(taken))
    state, clock = k.fresh_state(features)
    nothing, none, warm = np.zeros((0, 0)), np.zeros((0, 0, 0)), False
    start = 0
    while start < len(walked):
        # Row by row only until it is warm, in pieces to keep what is in memory small.
        step = walked[start : start + (4_096 if warm else 1)]
        there = step >= 0
        part = taken[step[there]]
        x, waves = np.full((len(step), features), math.nan), np.zeros((len(step), basis.shape[1]))
        x[there], waves[there] = values[part], basis[step[there]]
        z, present, family = np.empty(x.shape), np.empty(x.shape), np.full((len(x), k.FAMILY), -np.inf)
        k.scores(x, waves, calibration.table, z, present)
        k.walk(
            z, present, np.ones(len(x)), calibration.table, calibration.numbers, state, clock, family, nothing,
            nothing, none, 1,
        )  # fmt: skip
        warm = warm or half_seen(calibration, state)
        if warm:
            found[part] = np.maximum(family.max(axis=1), _CALM)[there]
        start += len(x)
    last = np.maximum.accumulate(np.where(np.isin(np.arange(rows), taken), np.arange(rows), 0))
    answer: Floats = found[last]
    return answer


def half_seen(calibration: Calibration, state: Floats) -> bool:
    """Return whether half of the live features have been seen often enough to be judged."""
    from regime import calibration_kernels as k

    live = calibration.table[k.T_LIVE] > 0
    seen = live & (state[k.S_COUNT] > calibration.numbers[k.N_WARM])
    return bool(2 * seen.sum() >= live.sum() > 0)


def lost_rows(ts_ms: Ints, step_ms: int) -> Ints:
    """Return how many rows are missing before each one (0 before the first), `LOST_MAX` at most."""
    lost = np.zeros(len(ts_ms), dtype=np.int64)
    lost[1:] = np.clip((np.diff(ts_ms) + step_ms // 2) // step_ms - 1, 0, LOST_MAX)
    return lost


def _with_holes(values: Floats, ts_ms: Ints | None, step_ms: int) -> tuple[Floats, Ints | None, bool]:
    """Return values and times with a row of nothing for each row that was lost, and whether that is to be done."""
    if ts_ms is None or step_ms < 1:
        return values, ts_ms, False
    lost = lost_rows(ts_ms, step_ms)
    total = int(lost.sum())
    if total > _LOST_SHARE_MAX * (len(values) + total):
        return values, ts_ms, False
    if not total:
        return values, ts_ms, True
    at = np.arange(len(values)) + np.cumsum(lost)
    filled = np.full((len(values) + total, values.shape[1]), math.nan)
    filled[at] = values
    # Counted back from the row that ended the hole.
    ends = np.searchsorted(at, np.arange(len(filled)))
    times: Ints = ts_ms[ends] - (at[ends] - np.arange(len(filled))) * step_ms
    return filled, times, True


# --- the law of a feature ------------------------------------------------------------------------------------------


class _Sample:
    """The values, and per feature whether there is anything to watch."""

    def __init__(self, reference: Reference, values: Floats, rows_per_day: int) -> None:
        self.values = values
        self.rows_per_day = rows_per_day
        self.count: Ints = (~np.isnan(self.values)).sum(axis=0)
        self.live: NDArray[np.bool_] = ~reference.dead() & (self.count >= 2 * WARM)
        # Once for the whole and for all stretches: where some were judged together and others not, no scale fits.
        there = np.isfinite(self.values[:, self.live])
        self.together = True
        if self.live.any() and len(there) > _TOGETHER_LAGS and not there.all():
            there = there[_TOGETHER_LAGS:] & _before(there, _TOGETHER_LAGS)
            self.together = bool((there.mean(axis=1) >= _THERE).mean() >= _TOGETHER_MIN)


def _before(there: NDArray[np.bool_], lags: int) -> NDArray[np.bool_]:
    """Return `bool[rows - lags, features]`: whether the `lags` values before each one are all there."""
    found = there[:-lags].copy()
    for lag in range(1, lags):
        found &= there[lags - lag : -lag]
    return found


@dataclass(frozen=True)
class _Law:
    table: Floats
    numbers: Floats

    def rescaled(self, location: Floats, scale: Floats, shape: Floats) -> _Law:
        """Put each channel on the family's scale: v = (v - location) / scale, then log(1 + shape v) / shape."""
        from regime import calibration_kernels as k

        table, numbers = self.table.copy(), self.numbers.copy()
        for c in range(k.CHANNELS):
            table[k.T_LOC + c] += location[c] / table[k.T_INVERSE + c]
            table[k.T_INVERSE + c] /= scale[c]
        loc, inverse = slice(k.N_SUM_LOC, k.N_SUM_INVERSE), slice(k.N_SUM_INVERSE, k.N_SHAPE)
        numbers[loc] += location[k.CHANNELS :] / numbers[inverse]
        numbers[inverse] /= scale[k.CHANNELS :]
        numbers[k.N_SHAPE :] = shape
        return _Law(table, numbers)

    def cap(self, most: float) -> None:
        """CUSUMs stop at the normalised value `most`, so that they come down again soon after a change has ended."""
        from regime import calibration_kernels as k

        for c in range(k.CHANNELS):
            xi = self.numbers[k.N_SHAPE + c]
            straight = math.expm1(xi * most) / xi if xi > 0 else most
            self.table[k.T_CAP + c] = self.table[k.T_LOC + c] + straight / self.table[k.T_INVERSE + c]


def _fit(sample: _Sample, weight: Floats, season: Floats, basis: Floats) -> _Law:
    """Fit the law on the rows of positive weight."""
    from regime import calibration_kernels as k

    features = sample.values.shape[1]
    table = np.zeros((k.T_SEASON + len(season), features))
    numbers = _numbers()
    table[k.T_LIVE] = sample.live
    table[k.T_SEASON :] = season
    chosen = sample.values[weight > 0]
    chosen = np.sort(chosen[:: max(len(chosen) // 13_000, 1)], axis=0)
    for f in np.flatnonzero(sample.live):
        if np.isnan(chosen[0, f]):  # Sorted, so nothing but gaps: these rows know nothing of it.
            table[k.T_LIVE, f] = 0.0
            continue
        knots, slopes, zero = _normal_map(chosen[: np.count_nonzero(~np.isnan(chosen[:, f])), f], k.Z_MAX)
        table[k.T_KNOT : k.T_KNOT + k.KNOTS, f] = knots
        table[k.T_SLOPE : k.T_SLOPE + k.KNOTS + 1, f] = slopes
        table[k.T_ZERO, f] = zero
        top, last = zero + slopes[0] * (knots[-1] - knots[0]) + slopes[1:] @ (knots[-1] - knots), slopes.sum()
        table[k.T_LOW, f] = knots[0] - (k.Z_MAX + zero) / slopes[0] if slopes[0] > 0 else knots[0]
        table[k.T_HIGH, f] = knots[-1] + (k.Z_MAX - top) / last if last > 1e-12 * slopes[0] else knots[-1]
    law = _Law(table, numbers)
    z, present = _scores(law, sample, np.zeros((len(sample.values), 0)))
    here = present * weight[:, None]
    count = np.maximum(here.sum(axis=0), 1.0)
    mean = (z * here).sum(axis=0) / count
    spread = np.sqrt(np.maximum(((z - mean) ** 2 * here).sum(axis=0) / count, _SPREAD_MIN**2))
    table[k.T_ZERO] = (table[k.T_ZERO] - mean) / spread
    table[k.T_SLOPE : k.T_SLOPE + k.KNOTS + 1] /= spread
    z, present = _scores(law, sample, basis)

    size = k.LAGS + k.HAR + 1
    products = np.zeros((size, size, features))
    complete = (here[k.LAGS :] > 0) & _before(present > 0, k.LAGS)
    table[k.T_BY_ROW] = complete.sum(axis=0) >= _COMPLETE_MIN
    k.gram(z, present, weight, table[k.T_BY_ROW], numbers, products)
    kept = np.maximum(products[-1, 0], 1.0)
    low, high = np.tril_indices(size, -1)
    products[low, high] = products[high, low]
    matrix = np.moveaxis(products, -1, 0)
    left, right = matrix[:, :-1, :-1], matrix[:, :-1, -1]
    ridge = 1e-9 * np.trace(left, axis1=1, axis2=2) + 1e-9
    phi = np.linalg.solve(left + ridge[:, None, None] * np.eye(size - 1), right[..., None])[..., 0]
    unexplained = matrix[:, -1, -1] - 2 * (phi * right).sum(axis=1) + np.einsum("fi,fij,fj->f", phi, left, phi)
    table[k.T_PHI : k.T_SIGMA] = phi.T
    table[k.T_SIGMA] = 1 / np.sqrt(np.maximum(unexplained / kept, _NOISE_MIN**2))
    for row in (k.T_U_SCALE, k.T_SQUARE, k.T_LEVEL_SCALE, k.T_LEVEL_SCALE + 1):
        table[row] = 1.0
    table[k.T_INVERSE : k.T_INVERSE + k.CHANNELS] = 1.0
    table[k.T_CAP : k.T_CAP + k.CHANNELS] = np.inf
    moments = np.zeros((k.MOMENTS, features))
    kept = np.zeros((min(len(z), _KEPT), 2, features))
    _sums(law, z, present, weight, moments, kept)
    m = moments / np.maximum(moments[0], 1.0)
    table[k.T_U_MEAN] = m[1]
    table[k.T_U_SCALE] = 1 / np.sqrt(np.maximum(m[2] - m[1] ** 2, _SPREAD_MIN**2))
    table[k.T_SQUARE] = 1 / np.maximum(m[3], _SPREAD_MIN)
    for j in range(k.LEVELS):
        mean, square = m[4 + 2 * j], m[5 + 2 * j]
        table[k.T_LEVEL_MEAN + j] = mean
        table[k.T_LEVEL_SCALE + j] = 1 / np.sqrt(np.maximum(square - mean**2, _NOISE_MIN**2))
    for j in range(2 * k.SHAPES):
        mean, square = m[4 + 2 * k.LEVELS + 2 * j], m[5 + 2 * k.LEVELS + 2 * j]
        table[k.T_SHAPE_MEAN + j] = mean
        table[k.T_SHAPE_SCALE + j] = 1 / np.sqrt(np.maximum(square - mean**2, _NOISE_MIN**2))
    if sample.together:
        _couple(law, np.clip((kept[:, 0] - table[k.T_U_MEAN]) * table[k.T_U_SCALE], -_CLIP, _CLIP), kept[:, 1])
    return law


def _couple(law: _Law, u: Floats, go: Floats) -> None:
    """Find the components of the whitened scores, and what they leave unexplained of each feature."""
    from regime import calibration_kernels as k

    table, numbers = law.table, law.numbers
    u = u * go
    spread = np.sqrt(np.maximum((u**2).sum(axis=0), 1e-12))
    power, loads = np.linalg.eigh((u / spread).T @ (u / spread))
    most = min(k.LOADS, len(power) // 2)
    order = np.argsort(-power)[:most]
    order = order[power[order] > _POWER_MIN]
    chosen = np.zeros((k.LOADS, u.shape[1]))
    chosen[: len(order)] = loads[:, order].T
    chosen[:, table[k.T_LIVE] == 0] = 0.0
    table[k.T_LOAD : k.T_LOAD + k.LOADS] = chosen
    table[k.T_BACK : k.T_BACK + k.LOADS] = chosen.T.reshape(k.LOADS, -1)
    spread = np.sqrt(((u @ chosen.T) ** 2).mean(axis=0))
    numbers[k.N_SPREAD : k.N_SUM_LOC] = np.where(spread > _NOISE_MIN, 1 / np.maximum(spread, _NOISE_MIN), 0.0)
    known = (chosen**2).sum(axis=0) > 0
    if not known.any():
        return
    left = np.empty(u.shape)
    back, scratch, filled = np.ascontiguousarray(chosen.T), np.empty(k.LOADS), np.empty(u.shape[1])
    for row, here, out in zip(u, go, left, strict=True):
        k.unexplained(row, here, known.astype(np.float64), chosen, back, scratch, filled, out)
    count = np.maximum(go.sum(axis=0), 1.0)
    variance, whole = (left**2 * go).sum(axis=0) / count, (u**2).sum(axis=0) / count
    explained = known & (variance < _UNEXPLAINED_MAX * whole) & (table[k.T_LIVE] > 0)
    table[k.T_COUPLE] = np.where(explained, 1 / np.maximum(variance, _UNEXPLAINED_MIN), 0.0)
    there = (go * explained).sum(axis=1)
    enough = (there > 0) & (there >= _THERE * explained.sum())  # as the detector judges
    error = (np.minimum(left**2 * table[k.T_COUPLE], _SQUARE) * go).sum(axis=1)[enough] / there[enough]
    numbers[k.N_ERROR_MEAN] = float(np.log(error + 1e-3).mean()) if error.size else 0.0


_COMPLETE_MIN = 200
"""Rows without a gap from which the law of one row to the next can be learned. A feature with fewer (one that comes
every hour, say) has its law from one value to the next, and its memory stands still in a gap."""
_SPREAD_MIN = 0.05
_NOISE_MIN = 1e-4
_KEPT = 6_000
_POWER_MIN = 1.3
_THERE = 0.9
_TOGETHER_LAGS, _TOGETHER_MIN = 3, 0.8
"""Dependence is judged where in so many rows of the reference enough features are there, as in so many rows before."""
_UNEXPLAINED_MIN, _UNEXPLAINED_MAX = 0.01, 0.8


def _numbers() -> Floats:
    from regime import calibration_kernels as k

    numbers = np.zeros(k.NUMBERS)
    numbers[: k.N_HAR] = WARM, _GAP, _DEVOL, _CLIP, _SOFT, _SQUARE
    numbers[k.N_HAR : k.N_DRIFT] = 2 / (np.array(_HAR) + 1.0)
    numbers[k.N_DRIFT : k.N_LEVEL] = _DRIFTS
    numbers[k.N_LEVEL : k.N_SCALE] = 2 / (np.array(_LEVELS) + 1.0)
    numbers[k.N_SCALE : k.N_DENSE] = _SCALES
    numbers[k.N_DENSE : k.N_POLYNOMIAL] = 2 / (np.array(_DENSE) + 1.0)
    numbers[k.N_POLYNOMIAL] = 2 / (_POLYNOMIAL + 1.0)
    numbers[k.N_COUPLE], numbers[k.N_ERROR], numbers[k.N_ERROR_LEAST] = _COUPLE, 2 / (_ERROR + 1.0), _THERE
    numbers[k.N_PAIR] = 2 / (_PAIR + 1.0)
    numbers[k.N_SUM_INVERSE : k.N_SHAPE] = 1.0
    return numbers


def _normal_map(column: Floats, most: float) -> tuple[Floats, Floats, float]:
    """Return knots, slopes (the first, then the change at each knot) and the score at the first knot.

    `column` is sorted, without NaN, and takes at least two values. A knot stands at each quantile; values that stand
    on one quantile after the other (ties, a 0/1 feature) are one knot at their middle rank. Beyond the outermost
    knots the line goes on, but not steeper than three times the slope of the middle half.
    """
    from scipy.special import ndtri

    n = len(column)
    knots = np.unique(np.quantile(column, _QUANTILES))
    if len(knots) < 5:
        knots = np.unique(np.concatenate((knots, column[[0, -1]])))
    if len(knots) > len(_QUANTILES):
        knots = knots[: len(_QUANTILES)]
    width = float(knots[-1] - knots[0])
    keep = np.concatenate(([True], np.diff(knots) > 1e-9 * width))
    knots = knots[keep]
    rank = 0.5 * (np.searchsorted(column, knots, "left") + np.searchsorted(column, knots, "right")) / n
    score = ndtri(np.clip(rank, 0.5 / n, 1 - 0.5 / n))
    if len(knots) < 2:
        return np.full(len(_QUANTILES), knots[0]), np.zeros(len(_QUANTILES) + 1), 0.0
    inner = np.diff(score) / np.diff(knots)
    half = float(np.subtract(*np.quantile(column, [0.75, 0.25])))
    steepest = 3 * 1.349 / half if half > 1e-9 * width else math.inf
    slope = np.concatenate(([min(inner[0], steepest)], inner, [min(inner[-1], steepest)]))
    change = np.diff(slope)
    unused = len(_QUANTILES) - len(knots)
    return (
        np.concatenate((knots, np.full(unused, knots[-1]))),
        np.concatenate((slope[:1], change, np.zeros(unused))),
        float(score[0]),
    )


def _scores(
    law: _Law, sample: _Sample, basis: Floats, start: int = 0, stop: int | None = None
) -> tuple[Floats, Floats]:
    from regime import calibration_kernels as k

    values = sample.values[start:stop]
    z, present = np.empty(values.shape), np.empty(values.shape)
    k.scores(values, basis[start:stop], law.table, z, present)
    return z, present


def _walk(
    law: _Law,
    z: Floats,
    present: Floats,
    *,
    weight: Floats | None = None,
    maxima: Floats | None = None,
    block: int = 1,
) -> Floats:
    """Return `float64[rows, channels]`, the largest normalised statistic of each channel at each row."""
    from regime import calibration_kernels as k

    rows, features = z.shape
    family = np.empty((rows, k.FAMILY))
    state, clock = k.fresh_state(features)
    nothing = np.zeros((0, 0))
    k.walk(
        z, present, np.ones(rows) if weight is None else weight, law.table, law.numbers, state, clock, family, nothing,
        nothing, np.zeros((0, 0, 0)) if maxima is None else maxima, block,
    )  # fmt: skip
    return np.maximum(family, _CALM)


def _sums(law: _Law, z: Floats, present: Floats, weight: Floats, moments: Floats, kept: Floats) -> None:
    from regime import calibration_kernels as k

    state, clock = k.fresh_state(z.shape[1])
    family = np.empty((len(z), k.FAMILY))
    k.walk_keeping(z, present, weight, law.table, law.numbers, state, clock, family, moments, kept)


_CALM = -20.0


# --- one scale -----------------------------------------------------------------------------------------------------


def _gumbel(maxima: Floats) -> tuple[Floats, Floats]:
    """Return location and scale of the Gumbel laws of `maxima[blocks, ...]`, by L-moments."""
    ordered = np.sort(maxima, axis=0)
    n = len(ordered)
    weights = (np.arange(n) / max(n - 1, 1)).reshape(-1, *[1] * (maxima.ndim - 1))
    mean = ordered.mean(axis=0)
    scale = np.maximum((2 * (ordered * weights).mean(axis=0) - mean) / math.log(2), 0.0)
    return mean - 0.5772 * scale, scale


def _normalised(law: _Law, maxima: Floats, live: NDArray[np.bool_]) -> _Law:
    """Give each (channel, feature) the Gumbel law of its largest values: `maxima[channels, blocks, features]`."""
    from regime import calibration_kernels as k

    table, numbers = law.table.copy(), law.numbers.copy()
    coupling = k.CHANNELS - k.COUPLES
    for c in range(k.CHANNELS):
        location, scale = _gumbel(maxima[c])
        judged = live if c < coupling else table[k.T_COUPLE] > 0
        usual = float(np.median(scale[judged])) if judged.any() else 0.0
        scale = np.maximum(scale, 0.3 * usual + 1e-6)
        location = location if c < coupling else np.where(judged, location, 1e6 * scale)
        table[k.T_LOC + c], table[k.T_INVERSE + c] = location, 1 / scale
    for c in range(k.SUMS):
        one, spread = _gumbel(maxima[k.CHANNELS + c, :, 0])
        numbers[k.N_SUM_LOC + c], numbers[k.N_SUM_INVERSE + c] = one, 1 / max(float(spread), 1e-6)
    return _Law(table, numbers)


def _channel_scale(families: Sequence[Floats], block: int) -> tuple[Floats, Floats, Floats]:
    """Return location, scale and shape (0 to 0.6) of each channel's largest values, by L-moments (Hosking 1985).

    A channel with a heavy tail would alone decide the limit of the family; `bent` takes the tail away.
    """
    from scipy.special import gamma

    blocks = [m[: len(m) // block * block].reshape(-1, block, m.shape[1]).max(axis=1) for m in families]
    ordered = np.sort(np.concatenate(blocks), axis=0)
    n = len(ordered)
    rank = np.arange(n, dtype=np.float64)[:, None]
    b0, b1 = ordered.mean(axis=0), (ordered * rank / (n - 1)).mean(axis=0)
    b2 = (ordered * rank * (rank - 1) / ((n - 1) * (n - 2))).mean(axis=0)
    l2 = np.maximum(2 * b1 - b0, 1e-3)
    t3 = np.clip((6 * b2 - 6 * b1 + b0) / l2, -0.5, 0.8)
    c = 2 / (3 + t3) - math.log(2) / math.log(3)
    shape = np.clip(0.7 * -(7.859 * c + 2.9554 * c * c) + 0.3 * _SHAPE_USUAL, 0.0, 0.6)
    g = np.where(shape > _SHAPE_MIN, shape, _SHAPE_MIN)
    scale = l2 * g / ((np.exp2(g) - 1) * gamma(1 - g))
    location = b0 - scale * (gamma(1 - g) - 1) / g
    scale = np.maximum(scale, 0.2)
    return location + np.array(_HANDICAP) * scale, scale, g


def bent(family: Floats, location: Floats, scale: Floats, shape: Floats) -> Floats:
    """Return the channels on the family's scale: (m - location) / scale, and the logarithm of what is over 0."""
    straight = (family - location) / scale
    found: Floats = np.where(straight > 0, np.log1p(shape * np.maximum(straight, 0)) / shape, straight)
    return found


_SHAPE_USUAL, _SHAPE_MIN = 0.2, 0.01


# --- one limit -----------------------------------------------------------------------------------------------------


def episodes(over: NDArray[np.bool_], quiet: int) -> int:
    """Return the number of alarms in `over[rows]`, where alarms at most `quiet` rows apart are one.

    >>> episodes(np.array([True, True, False, True, False, False, False, True]), 2)
    2
    """
    at = np.flatnonzero(over)
    return 0 if at.size == 0 else 1 + int((np.diff(at) > quiet).sum())


class _Tail:
    """Rate of episodes as a function of the limit, counted where it can be and extrapolated beyond.

    With n_i episodes at the rung h_i of the ladder, counted from the rung with the most on (below it, episodes run
    into each other) down to about the wanted rate, each rung keeps an episode of the rung before with probability
    exp(-b step): a binomial likelihood for b, times a normal prior. The rate beyond the first rung is the posterior
    mean of n_0 / rows * exp(-b (h - h_0)), which is more cautious than the rate at the likeliest b.
    """

    def __init__(self, family: Sequence[Floats], *, quiet: int, run_length: float) -> None:
        self.rows = int(sum(len(m) for m in family))
        self._counts = np.array([sum(episodes(m > h, quiet) for m in family) for h in _LADDER])
        first = len(_LADDER) - 1 - int(np.argmax(self._counts[::-1]))
        least = max(_COUNT_MIN, _COUNT_SHARE * self.rows / run_length)
        few = np.flatnonzero(self._counts[first:] < least)
        last = first + (int(few[0]) if few.size else len(_LADDER) - 1 - first)
        used = self._counts[first : max(last, first + 1) + 1].astype(float)
        step = float(_LADDER[1] - _LADDER[0])
        b = np.linspace(0.2, 3.0, 561)
        kept = np.minimum(used[1:], used[:-1]).sum()
        lost = np.maximum(used[:-1] - used[1:], 0).sum()
        prior = -0.5 * ((b - _SLOPE) / _SLOPE_SPREAD) ** 2
        likelihood = -kept * b * step + lost * np.log(-np.expm1(-b * step)) + prior
        posterior = np.exp(likelihood - likelihood.max())
        self._b, self._posterior = b, posterior / posterior.sum()
        self.slope = float(self._posterior @ b)
        self._start, self._most = float(_LADDER[first]), max(float(used[0]), 0.5)
        low, high = self._start, self._start + 60.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.rate(middle) > 1 / run_length else (low, middle)
        self.limit = high

    def rate(self, limit: float) -> float:
        """Predictive episodes a row at `limit`."""
        return float(self._posterior @ np.exp(-self._b * (limit - self._start))) * self._most / self.rows

    def interval(self, limit: float) -> tuple[float, float]:
        """90 % interval of the run length at `limit`."""
        spread = math.sqrt(float(self._posterior @ (self._b - self.slope) ** 2)) * max(limit - self._start, 0.0)
        whole = math.sqrt(1 / self._most + spread**2 + _SPREAD_REFERENCE**2)
        middle = 1 / self.rate(limit)
        return middle * math.exp(-1.645 * whole), middle * math.exp(1.645 * whole)

    def evidence(self) -> tuple[tuple[float, int], ...]:
        last = int(np.max(np.flatnonzero(self._counts), initial=0)) + 2
        return tuple((float(h), int(n)) for h, n in zip(_LADDER[:last], self._counts[:last], strict=True))


_COUNT_MIN, _COUNT_SHARE = 2.0, 0.4


# --- seasons -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Season:
    daily: Floats
    weekly: Floats
    chosen: NDArray[np.bool_]

    @property
    def any(self) -> bool:
        return bool(self.chosen.any())


def season_basis(ts_ms: Ints) -> Floats:
    """Return `float64[rows, 14]`: four harmonics of the day and three of the week (UTC), cosine and sine."""
    day = 2 * math.pi / DAY_MS * (ts_ms % DAY_MS)
    week = 2 * math.pi / (7 * DAY_MS) * (ts_ms % (7 * DAY_MS))
    waves = [(n + 1) * day for n in range(_DAILY)] + [(n + 1) * week for n in range(_WEEKLY)]
    return np.stack([f(wave) for wave in waves for f in (np.cos, np.sin)], axis=1)


def _basis(ts_ms: Ints | None) -> Floats:
    return np.zeros((0, 0)) if ts_ms is None else season_basis(ts_ms)


def _season(z: Floats, present: Floats, ts_ms: Ints | None, rows_per_day: int) -> tuple[Floats, _Season]:
    """Fit the harmonics on the whole, and on twelve or so stretches of whole days to see whether they are real.

    Returns the coefficients `float64[14, features]` (0 where there is no season) and what was found: the share of
    variance. A season counts when the squared t-values of its coefficients over the stretches are 8 on average and it
    explains one percent of the variance. At least 14 days are needed for the day, 56 for the week.
    """
    features = z.shape[1]
    none = np.zeros(features)
    coefficients = np.zeros((2 * (_DAILY + _WEEKLY), features))
    if ts_ms is None or ts_ms[-1] - ts_ms[0] < 14 * DAY_MS or rows_per_day < 8:
        return coefficients, _Season(none, none, np.zeros(features, dtype=bool))
    basis = season_basis(ts_ms)
    days = int((ts_ms[-1] - ts_ms[0] + 1) // DAY_MS)
    weekly_too = days >= 56
    length = 7 * max(days // 84, 1) if weekly_too else max(days // 10, 1)
    waves = 2 * (_DAILY + _WEEKLY) if weekly_too else 2 * _DAILY
    part = (ts_ms - ts_ms[0]) // (length * DAY_MS)
    parts = range(days // length)
    fits = np.array([_harmonics(basis[part == i, :waves], z[part == i], present[part == i]) for i in parts])
    middle = fits.mean(axis=0)
    noise = fits.var(axis=0, ddof=1) / len(fits)
    t_square = middle**2 / np.maximum(noise, 1e-12)
    real = 0.5 * np.maximum(middle**2 - noise, 0)
    daily, weekly = real[: 2 * _DAILY].sum(axis=0), real[2 * _DAILY :].sum(axis=0)
    use_daily = (t_square[: 2 * _DAILY].mean(axis=0) > _SEASON_T) & (daily > _SEASON_MIN)
    use_weekly = np.zeros(features, dtype=bool)
    if weekly_too:
        use_weekly = (t_square[2 * _DAILY :].mean(axis=0) > _SEASON_T) & (weekly > _SEASON_MIN)
    coefficients[: 2 * _DAILY, use_daily] = middle[: 2 * _DAILY, use_daily]
    if weekly_too:
        coefficients[2 * _DAILY :, use_weekly] = middle[2 * _DAILY :, use_weekly]
    return coefficients, _Season(np.where(use_daily, daily, 0), np.where(use_weekly, weekly, 0), use_daily | use_weekly)


_SEASON_MIN, _SEASON_T = 0.01, 8.0


def _harmonics(basis: Floats, z: Floats, present: Floats) -> Floats:
    count = np.maximum(present.sum(axis=0), 1.0)
    centred = (z - (z * present).sum(axis=0) / count) * present
    # The waves are orthogonal to each other over whole periods; solved together for references that are not.
    left = basis.T @ basis / max(len(basis), 1)
    right = basis.T @ centred / count
    found: Floats = np.linalg.solve(left + 1e-9 * np.eye(len(left)), right)
    return found


# --- what was found ------------------------------------------------------------------------------------------------


def _correlation(z: Floats, present: Floats) -> Floats:
    step = max(len(z) // 6_000, 1)
    part, here = z[::step], present[::step]
    mean = (part * here).sum(axis=0) / np.maximum(here.sum(axis=0), 1)
    part = (part - mean) * here
    spread = np.sqrt(np.maximum((part**2).sum(axis=0), 1e-12))
    found: Floats = (part / spread).T @ (part / spread)
    return found


def _groups(z: Floats, present: Floats, live: NDArray[np.bool_], alike: float = 0.95) -> tuple[int, ...]:
    """Return for each feature the first feature that it nearly repeats (|correlation of scores| over 0.95)."""
    close = np.abs(_correlation(z, present)) > alike
    first: list[int] = []
    for f in range(z.shape[1]):
        before = [g for g in range(f) if live[f] and live[g] and close[f, g] and first[g] == g]
        first.append(before[0] if before else f)
    return tuple(first)


def _report(
    reference: Reference,
    sample: _Sample,
    z: Floats,
    present: Floats,
    groups: tuple[int, ...],
    wanted: float,
    season: _Season | None,
) -> Report:
    names, live = reference.names, sample.live
    rows, per_day = reference.rows, sample.rows_per_day
    days = rows / per_day
    periods = rows / wanted
    claim = "counted" if periods >= PERIODS_WANTED else "extrapolated" if periods >= 1 else "none"
    effective = 0.0
    wandering: tuple[str, ...] = ()
    if live.any() and len(z):
        power = np.linalg.eigvalsh(_correlation(z[:, live], present[:, live]))
        effective = float(power.sum() ** 2 / (power**2).sum())
        tenths = [slice(i * len(z) // 10, (i + 1) * len(z) // 10) for i in range(10)]
        means = np.array([(z[t] * present[t]).sum(axis=0) / np.maximum(present[t].sum(axis=0), 1) for t in tenths])
        wandering = tuple(names[f] for f in np.flatnonzero(live & (means.std(axis=0) > 0.5)))
    duplicates = tuple(
        tuple(names[f] for f in range(len(names)) if groups[f] == g) for g in sorted(set(groups)) if groups.count(g) > 1
    )
    dead = tuple(names[f] for f in np.flatnonzero(~live))
    seasonal = tuple(names[f] for f in np.flatnonzero(season.chosen)) if season is not None else ()
    daily = float(season.daily[live].max()) if season is not None and live.any() else 0.0
    weekly = float(season.weekly[live].max()) if season is not None and live.any() else 0.0
    said: list[str] = []
    asked = f"one false alarm in {wanted / per_day:.4g} days ({wanted:,.0f} rows)"
    if claim == "none":
        said.append(
            f"the reference covers {days:.1f} days, which is {periods:.2g} times the asked period: {asked} cannot be "
            f"promised; at least {wanted / per_day:.4g} days are needed, "
            f"{PERIODS_WANTED * wanted / per_day:.4g} are better"
        )
    elif claim == "extrapolated":
        said.append(
            f"the reference covers {days:.1f} days, {periods:.1f} times the asked period, fewer than {PERIODS_WANTED}: "
            f"{asked} is extrapolated from more frequent alarms"
        )
    if reference.ts_ms is None:
        said.append("the reference has no times: seasons of the day and the week were not looked for")
    if not sample.together:
        said.append("so much of the reference is missing that dependence between features is not judged")
    if dead:
        said.append(f"not watched, because they hardly change or are hardly there: {_some(dead)}")
    if len(wandering) * 5 > int(live.sum()) > 0:
        said.append(
            f"{len(wandering)} of {int(live.sum())} features wander inside the reference: is it free of change? "
            f"{_some(wandering)}"
        )
    return Report(
        rows=rows, days=days, periods=periods, claim=claim, run_length=math.inf, run_length_low=0.0,
        run_length_high=math.inf, evidence=(), rows_judged=0, slope=_SLOPE, season_daily=max(daily, 0.0),
        season_weekly=max(weekly, 0.0), seasonal_features=seasonal, effective_rank=effective, dead=dead,
        duplicates=duplicates, wandering=wandering, warnings=tuple(said),
    )  # fmt: skip


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _without_limits(reference: Reference, sample: _Sample, wanted: float, step_ms: int, last_ms: int) -> Calibration:
    """The calibration of a reference that can carry no limit: the detector stays cold."""
    from regime import calibration_kernels as k

    features = len(reference.names)
    groups = tuple(range(features))
    sample.live = np.zeros(features, dtype=bool) if reference.rows >= ROWS_MIN else sample.live
    report = _report(reference, sample, np.zeros((0, features)), np.zeros((0, features)), groups, wanted, None)
    reason = (
        f"no limit: {reference.rows} rows are fewer than {ROWS_MIN:,}"
        if reference.rows < ROWS_MIN
        else "no limit: no feature of the reference changes"
    )
    report = replace(report, claim="none", warnings=(reason, *report.warnings))
    return Calibration(
        version=VERSION, reference_id=reference.reference_id, names=reference.names,
        rows_per_false_alarm=float(wanted), rows_per_day=sample.rows_per_day, limit_alarm=math.inf,
        limit_warning=math.inf, limit_recovery=math.inf, step_ms=step_ms, last_ts_ms=last_ms, season=False, holes=False,
        groups=groups, table=np.zeros((k.T_SEASON, features)), numbers=_numbers(), report=report,
    )  # fmt: skip


# --- JSON has no infinity ------------------------------------------------------------------------------------------


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(v) for v in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def _with_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_infinity(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_infinity(v) for v in value]
    return math.inf if value == "inf" else value
