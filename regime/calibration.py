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
e^2 for a scale times 1.3, 1.7, 0.7; and, over all features at once, the sum and the soft-thresholded sum of squared
running means of u (8, 32, 128 rows; Xie & Siegmund 2013), for changes too small to see in any one feature.

**The limit.**
 1. *Cross-fitting.* The reference is cut into 6 stretches of time. Each stretch is judged by a law fitted on the other
    five: a limit from rows that the law has seen is too low, above all for features that wander.
 2. *One scale.* The largest values a day of each (channel, feature) give a Gumbel law; statistics become
    `(value - location) / scale`. Then the same for the largest of each channel, and the family statistic is the
    largest of all: 0 is about what a usual day brings, and each unit more is rarer by about a factor of e.
 3. *One limit.* Episodes (alarms less than a day apart are one) are counted on the cross-fitted statistic at a ladder
    of limits. Beyond what was counted, the rate falls as exp(-b h), with b estimated from the counts under a prior
    1 +- 0.15, and the *predictive* rate, averaged over what is not known about b, is set to the wanted one.

**When it misleads.** A run length much longer than the reference is extrapolated: see `Report.claim`. The reference is
taken to be free of change. Whatever is rarer than once in the reference is not in the limits.

References: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954). F. Corsi, A simple approximate long-memory
model of realized volatility, J. Financial Econometrics 7 (2009). Y. Xie and D. Siegmund, Sequential multi-sensor
change-point detection, Annals of Statistics 41 (2013). E. J. Gumbel, Statistics of Extremes (1958).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regime.errors import CorruptionError
from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VERSION = 1
DAY_MS = 86_400_000
PERIODS_WANTED = 12
"""A reference of so many target periods is long enough to count the false alarms rather than extrapolate them."""
ROWS_MIN = 1_000
"""Fewer rows justify no limit at all."""
WARM = 288
"""Values of a feature before it is judged."""

_QUANTILES = np.array([.002, .01, .03, .08, .16, .25, .37, .5, .63, .75, .84, .92, .97, .99, .998])  # fmt: skip
_DRIFTS = (0.25, 0.5, 1.0)
_LEVELS = (96, 288)
_SCALES = (1.3, 1.7, 0.7)
_DENSE = (8, 32, 128)
_HAR = (24, 96, 288)
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
    *(f"{kind} {w}" for w in _DENSE for kind in ("dense", "some")),
)
CHANNEL_KINDS: tuple[str, ...] = (
    *("location" for _ in _DRIFTS), *("location" for _ in _LEVELS),
    *("scale" for _ in _SCALES), *("many" for _ in (*_DENSE, *_DENSE)),
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
    that comes without a time.
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

    @property
    def digest(self) -> str:
        """SHA-256 (hex, 32 characters) of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.reference_id)


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
    sample = _Sample(reference, rows_per_day)
    live = sample.live
    if rows < ROWS_MIN or not live.any():
        return _without_limits(reference, sample, rows_per_false_alarm, step_ms, last_ms)

    say(0.05, "looking for seasons")
    every = np.ones(rows)
    first = _fit(sample, every, np.zeros((0, features)), np.zeros((rows, 0)))
    z, present = _scores(first, sample, np.zeros((rows, 0)))
    season, found = _season(z, present, reference.ts_ms, rows_per_day)
    basis = _basis(reference.ts_ms) if found.any and reference.ts_ms is not None else np.zeros((rows, 0))
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
        largest = np.zeros((k.CHANNELS + 2 * k.DENSE, len(own[0]) // block, features))
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
    location, scale = _channel_scale(families, block)
    law = law.rescaled(location, scale)
    family = [((m - location) / scale).max(axis=1) for m in families]
    tail = _Tail(family, quiet=rows_per_day)
    alarm = max(tail.limit(rows_per_false_alarm), 0.5)
    warning = min(tail.limit(rows_per_false_alarm / 4), alarm - 0.25)
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
        step_ms=step_ms, last_ts_ms=last_ms, season=basis.shape[1] > 0, groups=groups,
        table=law.table, numbers=law.numbers, report=report,
    )  # fmt: skip


# --- the law of a feature ------------------------------------------------------------------------------------------


class _Sample:
    """The values, and per feature whether there is anything to watch."""

    def __init__(self, reference: Reference, rows_per_day: int) -> None:
        self.values = reference.values
        self.rows_per_day = rows_per_day
        self.count: Ints = (~np.isnan(self.values)).sum(axis=0)
        self.live: NDArray[np.bool_] = ~reference.dead() & (self.count >= 2 * WARM)


@dataclass(frozen=True)
class _Law:
    table: Floats
    numbers: Floats

    def rescaled(self, location: Floats, scale: Floats) -> _Law:
        """Put each channel on the family's scale: (v - location) / scale."""
        from regime import calibration_kernels as k

        table, numbers = self.table.copy(), self.numbers.copy()
        for c in range(k.CHANNELS):
            table[k.T_LOC + c] += location[c] / table[k.T_INVERSE + c]
            table[k.T_INVERSE + c] /= scale[c]
        loc, inverse = slice(k.N_DENSE_LOC, k.N_DENSE_INVERSE), slice(k.N_DENSE_INVERSE, k.NUMBERS)
        numbers[loc] += location[k.CHANNELS :] / numbers[inverse]
        numbers[inverse] /= scale[k.CHANNELS :]
        return _Law(table, numbers)

    def cap(self, most: float) -> None:
        """CUSUMs stop at the normalised value `most`, so that they come down again soon after a change has ended."""
        from regime import calibration_kernels as k

        for c in range(k.CHANNELS):
            self.table[k.T_CAP + c] = self.table[k.T_LOC + c] + most / self.table[k.T_INVERSE + c]


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
        knots, slopes, zero = _normal_map(chosen[: np.count_nonzero(~np.isnan(chosen[:, f])), f], k.Z_MAX)
        table[k.T_KNOT : k.T_KNOT + k.KNOTS, f] = knots
        table[k.T_SLOPE : k.T_SLOPE + k.KNOTS + 1, f] = slopes
        table[k.T_ZERO, f] = zero
        with np.errstate(divide="ignore"):
            table[k.T_LOW, f] = knots[0] - (k.Z_MAX + zero) / slopes[0] if slopes[0] > 0 else knots[0]
            last, top = slopes.sum(), zero + slopes[1:] @ (knots[-1] - knots) if len(knots) else 0.0
            table[k.T_HIGH, f] = knots[-1] + (k.Z_MAX - top) / last if last > 0 else knots[-1]
    return _Law(table, numbers)._replace_dynamics(sample, weight, season, basis)  # type: ignore[attr-defined,no-any-return]
