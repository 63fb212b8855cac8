"""Table 3: delay at an equal rate of false alarms over independent normal values, as a multiple of the best test.

Everyone's limit is set by an oracle so that one stream rings once in `ARL` rows: streams without change are run side by
side, as features, and the limit is read off (`Passages`), or an option is tuned by bisection where a detector has no
statistic but only alarms (ADWIN: delta; Page-Hinkley: limit). References are as long as stated and new for every block
of streams; detectors that compare with their own past are shown the last 2,000 rows of it first. The change comes after
300 rows; runs that rang before are left out; a change not found in 3,000 rows counts 3,000. Run lengths are counted
from a cold start: a `ks` whose window is not full yet cannot ring, which gives it a limit that is a little low.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection_tables import streams
from detection_tables.limits import Exact, Passages, mean_run, optimal_cusum, steps_mean, steps_scale, tuned
from detection_tables.streams import Step
from regime.detectors.adwin import Adwin
from regime.detectors.calibrated import Calibrated
from regime.detectors.focus import Focus
from regime.detectors.ks import Ks
from regime.detectors.page_hinkley import PageHinkley
from regime.reference import Reference

Floats = NDArray[np.float64]
ARL = 5_000.0
LEAD, LONGEST = 300, 3_000
BLOCK = 500
CHANGES: dict[str, tuple[Exact, Callable[[Floats], Floats]]] = {}
FEATURES = 195
FAMILY_LEAD, FAMILY_LONGEST = 600, 1_200
FAMILY = ("calibrated", "xie_siegmund", "chi_square", "cusum", "focus", "shiryaev_roberts")
FAMILY_CHANGES = ((1, 1.0), (10, 0.5), (FEATURES, 0.1))


@dataclass(frozen=True)
class Entrant:
    """How to begin a step for a reference; `option` is the value being tuned, if any."""

    start: Callable[[Floats, float], Step]
    low: float = math.nan
    high: float = math.nan
    meaning: Callable[[float], str] = str

    @property
    def is_tuned(self) -> bool:
        return math.isfinite(self.low)


def changes() -> dict[str, tuple[Exact, Callable[[Floats], Floats]]]:
    if not CHANGES:
        for shift in (0.25, 0.5, 1.0):
            limit = optimal_cusum(steps_mean(shift), ARL)
            CHANGES[f"mean {shift:g}"] = (limit, lambda x, shift=shift: x + shift)  # type: ignore[misc]
        for ratio in (1.5, 2.0):
            limit = optimal_cusum(steps_scale(math.sqrt(ratio)), ARL)
            CHANGES[f"variance x{ratio:g}"] = (limit, lambda x, ratio=ratio: x * math.sqrt(ratio))  # type: ignore[misc]
    return CHANGES


def one_question(kept: slice) -> Callable[[Floats, float], Step]:
    """`focus` that asks about the mean or about the scale only: not an option of it, so its bonus is changed here."""

    def start(reference: Floats, option: float) -> Step:
        focus = Focus(arl=ARL)
        silenced = np.full_like(focus._bonus, -1e6)
        silenced[kept] = focus._bonus[kept]
        focus._bonus = silenced
        return streams.fed(focus, reference)

    return start


def plain(kind: type[Any], **options: Any) -> Callable[[Floats, float], Step]:
    def start(reference: Floats, option: float) -> Step:
        given = dict(options)
        if streams.takes(kind, "arl"):  # a stream is a feature here: the family's rate is that of all together
            given["arl"] = ARL / reference.shape[1]
        return streams.fed(kind(**given), reference)

    return start


def alarming(make: Callable[[float], Any]) -> Callable[[Floats, float], Step]:
    return lambda reference, option: streams.warmed(
        streams.fed(make(option), reference, streams.new_alarms), reference
    )  # fmt: skip


def rivers(make: Callable[[float], Any]) -> Callable[[Floats, float], Step]:
    return lambda reference, option: streams.warmed(streams.objects(lambda: make(option), reference), reference)


def entrants() -> dict[str, Entrant]:
    from river import drift

    found = {
        "`focus`": Entrant(plain(Focus)),
        "`focus`, the mean only": Entrant(one_question(slice(0, 2))),
        "`focus`, the scale only": Entrant(one_question(slice(2, 4))),
    }
    for name in ("shiryaev_roberts", "cusum"):
        kind = streams.available(name)
        if kind is None:
            print(f"(`{name}` is not in this version)")
        else:
            found[f"`{name}`"] = Entrant(plain(kind))
    for window in (100, 288):
        found[f"`ks`, window {window}"] = Entrant(
            lambda reference, option, window=window: streams.fed(Ks(window=window), reference, lambda d: d.distances)  # type: ignore[misc]
        )
    # -log10 delta; river takes a delta over 1, ours does not.
    for clock in (32, 1):
        found[f"`adwin`, clock {clock}, delta tuned"] = Entrant(
            alarming(lambda o, clock=clock: Adwin(delta=min(10**-o, 0.9999), clock=clock)), 0.0, 6.0,  # type: ignore[misc]
            lambda o: f"delta {10**-o:.3g}",
        )  # fmt: skip
        found[f"river ADWIN, clock {clock}, delta tuned"] = Entrant(
            rivers(lambda o, clock=clock: drift.ADWIN(delta=10**-o, clock=clock)), -1.5, 6.0,  # type: ignore[misc]
            lambda o: f"delta {10**-o:.3g}",
        )  # fmt: skip
    for delta in (0.005, 0.25):
        found[f"`page_hinkley`, delta {delta:g}, limit tuned"] = Entrant(
            alarming(lambda o, delta=delta: PageHinkley(delta=delta, limit=o)),
            3.0,
            150.0,
            lambda o: f"limit {o:.3g}",  # type: ignore[misc]
        )
    return found


def score(name: str, entrant: Entrant, seed: int, rows: int, nulls: int, runs: int, block: int) -> str:
    """A line of the table."""
    begun = time.perf_counter()
    length = int(1.3 * ARL)
    limit, option = 0.5, math.nan
    if entrant.is_tuned:
        few = 1 if "river" in name else nulls

        def ring(tried: float) -> float:
            rng = np.random.default_rng(seed)
            found: list[tuple[int, int]] = []
            for _ in range(few):
                step = entrant.start(rng.standard_normal((rows, block)), tried)
                first = streams.first_over(step, rng.standard_normal((length, block)), 0.5)
                found += [(int(f) + 1, 1) if f >= 0 else (length, 0) for f in first]
            return mean_run(found)[0]

        option = tuned(ring, entrant.low, entrant.high, ARL, 9)
        held = f"{entrant.meaning(option)}, rings every {ring(option):,.0f}"
    else:
        rng = np.random.default_rng(seed)
        passages = Passages()
        for _ in range(nulls):
            step = entrant.start(rng.standard_normal((rows, block)), option)
            for column in streams.scores(step, rng.standard_normal((length, block))).T:
                passages.add(column)
        limit = passages.limit(ARL)
        arl, alarms = passages.run_length(limit)
        held = f"{limit:.4g}, rings every {arl:,.0f} ({alarms} alarms)"
    cells = []
    for k, (best, change) in enumerate(changes().values()):
        rng = np.random.default_rng(seed + 100 + k)
        late: list[float] = []
        for _ in range(runs):
            step = entrant.start(rng.standard_normal((rows, block)), option)
            x = rng.standard_normal((LEAD + LONGEST, block))
            x[LEAD:] = change(x[LEAD:])
            first = streams.first_over(step, x, limit, lead=LEAD)
            late += [float(f - LEAD + 1) if f >= 0 else LONGEST for f in first if f < 0 or f >= LEAD]
        d = np.array(late) / best.delay
        cells.append(f"{d.mean():.3g} +-{d.std() / math.sqrt(len(d)):.2g}")
    took = time.perf_counter() - begun
    return f"| {name} | {rows:,} | {' | '.join(cells)} | {held} | {took:.0f} s |"


def run(seed: int, *, quick: bool, only: tuple[str, ...] = ()) -> None:
    """All of it, or the detectors with one of `only` in their name."""

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    nulls, runs, block = (1, 1, 100) if quick else (4, 6, BLOCK)
    print(f"\n## Table 3: delay at one false alarm in {ARL:,.0f} rows, times the best test (seed {seed})\n", flush=True)
    print(f"Independent N(0, 1); limits by an oracle from {nulls * block:,} streams of {1.3 * ARL:,.0f} rows without "
          f"change, delays from {runs * block:,} runs a cell; +- is one standard error.\n")  # fmt: skip
    for name, (best, _) in changes().items():
        print(f"- {name}: the best test, told both laws: limit {best.limit:.3f}, {best.delay:.1f} rows "
              f"(log(ARL) / information: {math.log(ARL) / best.information:.0f})")  # fmt: skip
    print(f"\n| detector | reference | {' | '.join(changes())} | limit | took |")
    print("|" + "---|" * (len(changes()) + 4), flush=True)
    for name, entrant in entrants().items():
        if not wanted(name):
            continue
        if quick and ("288" in name or "clock 1," in name or "0.25" in name):
            continue
        print(score(name, entrant, seed, 2_000, 1 if "river" in name else nulls, runs, block), flush=True)
    for name, entrant in entrants().items():
        if not wanted(name) or quick or entrant.is_tuned or "ks" in name:
            continue
        print(score(name, entrant, seed + 1, 26_000, nulls, runs, block), flush=True)
    chosen = [name for name in FAMILY if wanted(name)]
    if chosen:
        family(seed + 2, chosen, quick=quick)


def family(seed: int, chosen: list[str], *, quick: bool) -> None:
    """Many independent features, a change in one, ten or all of them; `statistic` is the family's own."""
    references, nulls, runs = (1, 6, 4) if quick else (5, 80, 100)
    length = int(1.3 * ARL)
    best = [optimal_cusum(steps_mean(math.sqrt(count) * shift), ARL) for count, shift in FAMILY_CHANGES]
    print(f"\n### {FEATURES} independent features, the family rings once in {ARL:,.0f} rows\n")
    print(f"{references} references of 25,920 rows, {nulls} runs of {length:,} rows without change on each for the "
          f"oracle's limit (over the references together), {runs} changes of a kind on each, after {FAMILY_LEAD} "
          f"rows.\n")  # fmt: skip
    for (count, shift), exact in zip(FAMILY_CHANGES, best, strict=True):
        print(f"- {count} x {shift:g}: the best test, told who moves: {exact.delay:.2f} rows")
    print("\n| detector | " + " | ".join(f"{c} x {s:g}" for c, s in FAMILY_CHANGES) + " | limit | took |")
    print("|" + "---|" * 6, flush=True)
    for name in chosen:
        kind = streams.available(name)
        if kind is None:
            print(f"(`{name}` is not in this version)")
            continue
        print(family_line(name, kind, seed, best, references, nulls, runs, length), flush=True)


def family_line(
    name: str, kind: type[Any], seed: int, best: list[Exact], references: int, nulls: int, runs: int, length: int
) -> str:
    begun = time.perf_counter()
    rng = np.random.default_rng(seed)
    passages = Passages()
    ready = []
    for _ in range(references):
        options: dict[str, Any] = {"arl": ARL} if streams.takes(kind, "arl") else {}
        if kind is Calibrated:
            options = {"rows_per_false_alarm": ARL}
        detector = kind(**options)
        detector.reset(Reference(streams.names(FEATURES), rng.standard_normal((25_920, FEATURES))))
        fresh = detector.state()
        ready.append((detector, fresh))
        for _ in range(nulls):
            detector.load_state(fresh)
            x = rng.standard_normal((FAMILY_LEAD + length, FEATURES))
            passages.add(streams.detector_path(detector, x)[FAMILY_LEAD:])
    limit = passages.limit(ARL)
    arl, alarms = passages.run_length(limit)
    cells = []
    for (count, shift), exact in zip(FAMILY_CHANGES, best, strict=True):
        late = []
        for detector, fresh in ready:
            for _ in range(runs):
                detector.load_state(fresh)
                x = rng.standard_normal((FAMILY_LEAD + FAMILY_LONGEST, FEATURES))
                x[FAMILY_LEAD:, rng.permutation(FEATURES)[:count]] += shift
                delay = family_delay(detector, x, limit)
                if delay is not None:
                    late.append(delay / exact.delay)
        cells.append(f"{np.mean(late):.3g} +-{np.std(late) / math.sqrt(len(late)):.2g}")
    held = f"{limit:.4g} (its own {ready[0][0].threshold:.4g}), rings every {arl:,.0f} ({alarms} alarms)"
    return f"| `{name}` | {' | '.join(cells)} | {held} | {time.perf_counter() - begun:.0f} s |"


def family_delay(detector: Any, x: Floats, limit: float) -> int | None:
    """Rows from the change to the alarm; None where the statistic was over its limit just before."""
    over = False
    for t, row in enumerate(x):
        detector.update(row)
        over = detector.statistic > limit
        if t < FAMILY_LEAD and t >= FAMILY_LEAD - LEAD and over:
            return None
        if t >= FAMILY_LEAD and over:
            return t - FAMILY_LEAD + 1
    return FAMILY_LONGEST
