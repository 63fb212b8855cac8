"""How late are changes of a market seen, and is it said rightly when they began and what they are?

For each reference an oracle sets the limit at which the asked run length is met exactly on fresh rows; the delay at the
limit that the detector found for itself stands beside it. river's ADWIN and Page-Hinkley, one object a feature, are
given the same rows: their statistic is the share of features that rang within the last `memory` rows, its limit is set
by the same oracle, and of all settings and memories the one is shown that was fastest for that very change: favours
that nobody could grant them in use.

A run in which the detector rang within the day before the change is left out; a change not seen counts as `CAP` rows.
Where a change comes by degrees, rows are counted from its first one. `started_rows_ago` is read at the first alarm at
the detector's own limit.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worlds import DAY, NAMES, Change, Planted, market, planted

from detection_tables import streams
from detection_tables.honesty import LEAD, ORDER, STRETCH
from detection_tables.limits import market_limit, oracle_limit
from regime.calibration import calibrate, episodes
from regime.detectors.calibrated import Calibrated
from regime.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CAP = 4_000
GRADUAL = 3 * DAY
MEMORIES = (32, 128, 288, 1000)
SIZES = {"mean": (1.0, 0.5, 0.1), "scale": (2.0, 1.5, 1.2), "skewed": (1.0,) * 3, "heavy": (1.0,) * 3,
         "dependence": (1.0,) * 3}  # fmt: skip
RIGHT = {"mean": {"location", "many"}, "scale": {"scale"}, "skewed": {"shape"}, "heavy": {"shape"},
         "dependence": {"dependence"}}  # fmt: skip
RIVER: tuple[tuple[str, dict[str, float]], ...] = (
    ("ADWIN", {}),
    ("ADWIN", {"delta": 1e-6}),
    ("ADWIN", {"delta": 1e-15}),
    ("ADWIN", {"delta": 1e-40}),
    ("PageHinkley", {}),
    ("PageHinkley", {"threshold": 200.0}),
    ("PageHinkley", {"threshold": 800.0}),
    ("PageHinkley", {"delta": 0.25}),
    ("PageHinkley", {"delta": 0.25, "threshold": 200.0}),
)
GARCH = {"mild": (0.04, 0.94, 8.0), "harsh": (0.05, 0.94, 5.0)}
MARKET: dict[str, dict[str, float]] = {
    "volatility x1.5": {"volatility": 1.5},
    "volatility x2": {"volatility": 2.0},
    "momentum .15": {"momentum": 0.15},
    "momentum .3": {"momentum": 0.3},
}


def all_changes(world: str, *, quick: bool) -> dict[str, Change | Planted]:
    found: dict[str, Change | Planted] = {}
    if world != "iid":
        for name, size in MARKET.items():
            found[name] = Change(at=LEAD, **size)  # type: ignore[arg-type]
        found["volatility x2 within 3 days"] = Change(at=LEAD, volatility=2.0, rows_to_full=GRADUAL)
        found["momentum .3 within 3 days"] = Change(at=LEAD, momentum=0.3, rows_to_full=GRADUAL)
    for kind, sizes in SIZES.items():
        if kind == "dependence" and world == "iid":
            continue
        for count, size in zip((1, 10, len(NAMES)), sizes, strict=True):
            for days in (0, GRADUAL):
                how = f"{kind} {size:g}" if kind in {"mean", "scale"} else kind
                name = f"{how}, {'all' if count > 10 else count}" + (" within 3 days" if days else "")
                found[name] = Planted(at=LEAD, kind=kind, count=count, size=size, rows_to_full=days)
    if quick:
        wanted = ("volatility x2", "mean 1, 1", "scale 1.5, 10", "skewed, 10", "dependence, 10")
        found = {name: change for name, change in found.items() if name in wanted}
    return found


def changed(world: str, change: Change | Planted, seed: int, reference: Floats) -> Floats:
    rows = LEAD + CAP
    if isinstance(change, Change):
        return market(world, seed, rows, change)
    return planted(market(world, seed, rows), change, world=world, seed=seed + 7, reference=reference)


@dataclass
class Seen:
    """What came of all runs of one change."""

    oracle: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    error: list[int] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    river: dict[tuple[int, int], list[float]] = field(default_factory=dict)


def delay(statistic: Floats, limit: float) -> float | None:
    """Rows from the change to the alarm; None where it rang within the day before."""
    at = np.flatnonzero(statistic > limit)
    if ((at < LEAD) & (at >= LEAD - DAY)).any():
        return None
    at = at[at >= LEAD]
    return float(at[0] - LEAD + 1) if at.size else float(CAP)


def watch(detector: Calibrated, x: Floats, seen: Seen, limit: float) -> None:
    """Run the live detector over one change; ask it for its explanation when it rings."""
    ts = streams.times(len(x))
    found = np.full(len(x), -np.inf)
    explained = False
    for t, row in enumerate(x):
        detector.update(row, int(ts[t]))
        found[t] = detector.statistic if detector.warm else -math.inf
        if t >= LEAD and not explained and detector.drift_detected:
            explained = True
            said = detector.explain()
            if said is not None and not (found[LEAD - DAY : LEAD] > detector.threshold).any():
                true = t - LEAD + 1
                seen.error.append(said.started_rows_ago - true)
                seen.covered.append(said.started_rows_ago_low <= true <= said.started_rows_ago_high)
                seen.kinds[said.kind] += 1
        if explained and t >= LEAD and (found[LEAD : t + 1] > limit).any():
            break
    for late, at in ((seen.oracle, limit), (seen.own, detector.threshold)):
        rows = delay(found, at)
        if rows is not None:
            late.append(rows)


# --- river ---------------------------------------------------------------------------------------------------------


class River:
    """One object a feature; the share of features that rang within each of `MEMORIES` rows."""

    def __init__(self, setting: int, scale: Floats) -> None:
        from river import drift

        name, options = RIVER[setting]
        self._mean, self._deviation = scale
        self._held = [getattr(drift, name)(**options) for _ in self._mean]
        self._last = np.full(len(self._held), -(10**9))
        self._row = 0

    def shares(self, x: Floats) -> Floats:
        """`float64[memories, rows]`."""
        rang = np.zeros(x.shape, dtype=bool)
        for f, column in enumerate(((x - self._mean) / self._deviation).T.tolist()):
            one = self._held[f]
            for t, value in enumerate(column):
                one.update(value)
                if one.drift_detected:
                    rang[t, f] = True
        rows = self._row + np.arange(len(x))[:, None]
        last = np.maximum.accumulate(np.where(rang, rows, self._last), axis=0)
        self._last, self._row = last[-1], self._row + len(x)
        return np.array([(rows - last < memory).mean(axis=1) for memory in MEMORIES])


def river_task(setting: int, folder: str, runs: dict[str, list[str]], fresh: list[str], asked: float) -> Any:
    """Limits of one setting for each memory, from the fresh rows, and its delays: {(change, memory): [rows]}."""
    scale = np.load(Path(folder) / "scale.npy")
    statistics: list[list[Floats]] = [[] for _ in MEMORIES]
    for path in fresh:
        shares = River(setting, scale).shares(np.load(path))
        for m in range(len(MEMORIES)):
            statistics[m].append(shares[m, LEAD:])
    limits = np.array([oracle_limit(s, asked, DAY) for s in statistics])
    achieved = [
        sum(map(len, s)) / max(sum(episodes(v > h, DAY) for v in s), 0.5)
        for s, h in zip(statistics, limits, strict=True)
    ]
    found: dict[tuple[str, int], list[float]] = {}
    for name, paths in runs.items():
        for path in paths:
            x = np.load(path)
            river = River(setting, scale)
            parts = [river.shares(x[:LEAD])]
            for at in range(LEAD, len(x), 256):  # no further than needed
                parts.append(river.shares(x[at : at + 256]))
                shares = np.concatenate(parts, axis=1)
                if (shares[:, LEAD:] > limits[:, None]).any(axis=1).all():
                    break
            for m in range(len(MEMORIES)):
                rows = delay(shares[m], float(limits[m]))
                if rows is not None:
                    found.setdefault((name, m), []).append(rows)
    return found, achieved


# --- the table -----------------------------------------------------------------------------------------------------


def run(
    seed: int,
    *,
    worlds: list[str],
    river_worlds: list[str],
    rows: int,
    references: int,
    runs: int,
    asked: float,
    periods: float,
    river_periods: float,
    processes: int,
    quick: bool,
) -> None:
    for world in worlds:
        begun = time.perf_counter()
        chosen = all_changes(world, quick=quick)
        seen = {name: Seen() for name in chosen}
        with_river = world in river_worlds
        print(f"\n## Delays, world {world}: one alarm in {asked:,.0f} rows, reference of {rows:,} rows, {references} "
              f"references x {runs} changes of a kind, limits on {periods:g} asked periods (seed {seed})\n",
              flush=True)  # fmt: skip
        kept: list[float] = []
        for i in range(references):
            base = seed + 10_000 * i
            one_reference(base, world, chosen, seen, rows, runs, asked, periods,
                          river_periods if with_river else 0.0, processes, quick, kept)  # fmt: skip
            print(f"(reference {i + 1} of {references}: its own limit rings at {kept[-1]:.2f} of the asked length; "
                  f"{time.perf_counter() - begun:.0f} s)", flush=True)  # fmt: skip
        table(world, seen, asked, seed, with_river)


def one_reference(
    base: int,
    world: str,
    chosen: dict[str, Change | Planted],
    seen: dict[str, Seen],
    rows: int,
    runs: int,
    asked: float,
    periods: float,
    river_periods: float,
    processes: int,
    quick: bool,
    kept: list[float],
) -> None:
    values = market(world, base, rows)
    reference = Reference(NAMES, values, ts_ms=streams.times(rows))
    calibration = calibrate(reference, rows_per_false_alarm=asked)
    with tempfile.TemporaryDirectory() as folder:
        statistics, fresh = [], []
        stretch = min(STRETCH, int(periods * asked))
        for j in range(math.ceil(periods * asked / stretch)):
            x = market(world, base + 1 + j, stretch + LEAD)[:, ORDER]
            statistics.append(streams.family_path(reference, calibration, x, streams.times(len(x)))[LEAD:])
            if j * stretch < river_periods * asked:
                fresh.append(str(Path(folder) / f"fresh{j}.npy"))
                np.save(fresh[-1], x)
        limit = oracle_limit(statistics, asked, DAY)
        rang = sum(episodes(s > calibration.limit_alarm, DAY) for s in statistics)
        kept.append(sum(map(len, statistics)) / max(rang, 0.5) / asked)
        paths: dict[str, list[str]] = {}
        detector = Calibrated(rows_per_false_alarm=asked, rows_per_day=calibration.rows_per_day)
        for k, (name, change) in enumerate(chosen.items()):
            for j in range(runs):
                x = changed(world, change, base + 5000 + 100 * k + j, values)[:, ORDER]
                detector.reset_calibrated(reference, calibration)
                watch(detector, x, seen[name], limit)
                if river_periods:
                    paths.setdefault(name, []).append(str(Path(folder) / f"{k}_{j}.npy"))
                    np.save(paths[name][-1], x)
        if not river_periods:
            return
        np.save(Path(folder) / "scale.npy", np.array([reference.values.mean(axis=0), reference.values.std(axis=0)]))
        settings = (0, 4) if quick else range(len(RIVER))
        tasks = [(setting, folder, paths, fresh, asked) for setting in settings]
        with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
            answers = pool.map(river_task, *zip(*tasks, strict=True))
            for setting, (found, achieved) in zip(settings, answers, strict=True):
                lengths = ", ".join(f"{a / asked:.2f}" for a in achieved)
                print(
                    f"(river {said(setting)}: at the oracle's limits it rings at {lengths} of what was asked)",
                    flush=True,
                )
                for (name, m), late in found.items():
                    seen[name].river.setdefault((setting, m), []).extend(late)


def said(setting: int) -> str:
    name, options = RIVER[setting]
    return name + "".join(f" {key} {value:g}" for key, value in options.items())


def cell(late: list[float]) -> str:
    if not late:
        return "-"
    missed = sum(v >= CAP for v in late)
    return f"{np.mean(late):,.0f} ({np.median(late):,.0f}; {len(late)}" + (f", {missed} not seen)" if missed else ")")


def table(world: str, seen: dict[str, Seen], asked: float, seed: int, with_river: bool) -> None:
    print("\nDelay in rows: mean (median; runs). Start: error of `started_rows_ago` in rows, median (5 % - 95 %).\n")
    print("| change | best test, approx. | `calibrated`, oracle's limit | its own limit | fastest river | start | "
          "interval holds it | kind right | kinds named |")  # fmt: skip
    print("|" + "---|" * 9)
    for name, one in seen.items():
        best = "-"
        if name in MARKET and world in GARCH:
            exact = market_limit(GARCH[world], asked, seed, **MARKET[name]).delay
            times = f", x{np.mean(one.oracle) / exact:.1f}" if one.oracle else ""
            best = f"{exact:,.0f}{times}"
        river = "-"
        if with_river and one.river:
            # A setting that rings before nearly every change would win by the few runs that are left.
            most = max(map(len, one.river.values()))
            fair = {key: late for key, late in one.river.items() if 2 * len(late) >= most}
            setting, memory = min(fair, key=lambda key: float(np.mean(fair[key])))
            river = f"{cell(fair[setting, memory])} {said(setting)}, memory {MEMORIES[memory]}"
        start = "-"
        if one.error:
            e = np.array(one.error)
            start = f"{np.median(e):+.0f} ({np.quantile(e, 0.05):+.0f} - {np.quantile(e, 0.95):+.0f})"
        kind = name.split(" ")[0].split(",")[0]
        total = sum(one.kinds.values())
        right = f"{sum(one.kinds[k] for k in RIGHT[kind]) / total:.0%}" if kind in RIGHT and total else "-"
        held = f"{np.mean(one.covered):.0%}" if one.covered else "-"
        kinds = ", ".join(f"{k} {n}" for k, n in one.kinds.most_common(3)) or "-"
        cells = (name, best, cell(one.oracle), cell(one.own), river, start, held, right, kinds)
        print(f"| {' | '.join(cells)} |", flush=True)
