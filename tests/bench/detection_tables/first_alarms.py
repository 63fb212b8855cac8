"""Table 1: rows to the first false alarm, each detector as it comes, where nothing ever changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from worlds import NAMES, garch_absolute, market

from detection_tables import streams
from detection_tables.frouros_client import NAMES as FROUROS
from detection_tables.frouros_client import Frouros
from detection_tables.limits import mean_run
from regime.detectors.adwin import Adwin
from regime.detectors.calibrated import Calibrated
from regime.detectors.kswin import Kswin
from regime.detectors.page_hinkley import PageHinkley
from regime.reference import Reference

Floats = NDArray[np.float64]
REFERENCE = 25_920
WORLDS = ("iid N(0,1)", "AR(1) 0.9", "GARCH |r|")
MONTH = 8_640
"""Rows of market features that are watched, each time."""


def univariate(world: str, seed: int, rows: int, columns: int) -> Floats:
    rng = np.random.default_rng(seed)
    if world == "GARCH |r|":
        return garch_absolute(rng, rows, columns)
    x = rng.standard_normal((rows, columns))
    if world == "AR(1) 0.9":
        x = np.asarray(lfilter([math.sqrt(1 - 0.81)], [1, -0.9], x, axis=0))
    return x


def standardised(x: Floats) -> tuple[Floats, Floats]:
    """Reference and stream, by the reference's mean and deviation."""
    head, tail = x[:REFERENCE], x[REFERENCE:]
    return (head - head.mean(axis=0)) / head.std(axis=0), (tail - head.mean(axis=0)) / head.std(axis=0)


def river_first(make: Callable[[int], Any], stream: Floats, seconds: float) -> list[tuple[int, int]]:
    begun, found = time.perf_counter(), []
    for column in range(stream.shape[1]):
        one, rang, rows = make(column), 0, 0
        for value in stream[:, column].tolist():
            one.update(value)
            rows += 1
            if one.drift_detected:
                rang = 1
                break
        found.append((rows, rang))
        if time.perf_counter() - begun > seconds:
            break
    return found


def our_first(detector: Any, reference: Floats, stream: Floats, seconds: float) -> list[tuple[int, int]]:
    """First alarms of single features. Columns are streams; all are watched until the time is over."""
    step = streams.fed(detector, reference, streams.new_alarms)
    begun = time.perf_counter()
    first = np.full(stream.shape[1], -1, dtype=np.int64)
    t = 0
    for t, x in enumerate(stream):
        rang = step(x)
        if rang.any():
            first[(first < 0) & (rang > 0)] = t
        if t % 64 == 0 and ((first >= 0).all() or time.perf_counter() - begun > seconds):
            break
    return [(int(f) + 1, 1) if f >= 0 else (t + 1, 0) for f in first]


def calibrated_first(reference: Floats, stream: Floats, asked: float) -> tuple[int, int]:
    """Rows to the first alarm of the family, with limits found on the reference; from cold."""
    detector = Calibrated(rows_per_false_alarm=asked)
    detector.reset(Reference(streams.names(reference.shape[1]), reference))
    for t, x in enumerate(stream):
        detector.update(x)
        if detector.drift_detected:
            return t + 1, 1
    return len(stream), 0


def family_first(detector: Any, reference: Floats, stream: Floats) -> tuple[int, int]:
    detector.reset(Reference(streams.names(reference.shape[1]), reference))
    for t, x in enumerate(stream):
        detector.update(x)
        if detector.drift_detected:
            return t + 1, 1
    return len(stream), 0


def run(seed: int, *, quick: bool, asked: float = 8640.0) -> None:
    from river import drift

    seconds = 1.0 if quick else 60.0
    columns, rows = (60, 4_000) if quick else (200, 50_000)
    repeats = 1 if quick else 12
    print(f"\n## Table 1: rows to the first false alarm, defaults, nothing changes (seed {seed})\n", flush=True)
    print(
        f"Rows watched over alarms; `> n`: none in n rows. Market: the first of {len(NAMES)} features to ring in each "
        f"of {repeats} mild markets of {MONTH:,} rows, and in [] all alarms in 30 days.\n"
    )
    frouros = Frouros.start()
    river: dict[str, Callable[[int], Any]] = {
        "ADWIN": lambda i: drift.ADWIN(),
        "PageHinkley": lambda i: drift.PageHinkley(),
        "KSWIN": lambda i: drift.KSWIN(seed=i),
    }
    ours: dict[str, Callable[[], Any]] = {"adwin": Adwin, "page_hinkley": PageHinkley, "kswin": Kswin}
    table: dict[str, list[str]] = {}
    for w, world in enumerate(WORLDS):
        begun = time.perf_counter()
        reference, stream = standardised(univariate(world, seed + w, REFERENCE + rows, columns))
        for name, make in river.items():
            table.setdefault(f"river {name}", []).append(streams.shown(*mean_run(river_first(make, stream, seconds))))
        if frouros is not None:
            for name in FROUROS:
                found = frouros.first_alarms(name, stream[: 5_000 if quick else 20_000], seconds)
                table.setdefault(f"frouros {name}", []).append(streams.shown(*mean_run(found)))
        for name, kind in ours.items():
            few = slice(0, 8 if quick else 40) if name == "kswin" else slice(None)
            found = our_first(kind(), reference[:, few], stream[:, few], seconds)
            table.setdefault(f"our `{name}`", []).append(streams.shown(*mean_run(found)))
        many = 2 if quick else 40
        length = 8_000 if quick else int(6 * asked)
        runs = []
        for i in range(many):
            r, s = standardised(univariate(world, seed + 1000 + 10 * i + w, REFERENCE + length, 1))
            runs.append(calibrated_first(r, s, asked))
        table.setdefault(f"our `calibrated`, asked {asked:,.0f}", []).append(streams.shown(*mean_run(runs)))
        print(f"({world}: {time.perf_counter() - begun:.0f} s)", flush=True)

    family: dict[str, list[tuple[int, int]]] = {}
    single: dict[str, list[tuple[int, int]]] = {}
    total: dict[str, list[int]] = {}
    for i in range(repeats):
        x = market("mild", seed + 7000 + i, REFERENCE + MONTH)
        reference, stream = standardised(x)
        for name in ("ADWIN", "PageHinkley"):
            first, rang = len(stream), 0
            for column in range(stream.shape[1]):
                one = river[name](column)
                for t, value in enumerate(stream[:, column].tolist()):
                    one.update(value)
                    if one.drift_detected:
                        rang += 1
                        first = min(first, t + 1)
            single.setdefault(f"river {name}", []).append((first, int(rang > 0)))
            total.setdefault(f"river {name}", []).append(rang)
        first_kswin = river_family_first(river["KSWIN"], stream)
        single.setdefault("river KSWIN", []).append(first_kswin)
        if frouros is not None and i < 2:
            for name in FROUROS:
                head = stream[:400]
                done = frouros.first_alarms(name, head, 5.0 if quick else 200.0)
                rang_at = [rows for rows, rang in done if rang]
                single.setdefault(f"frouros {name}", []).append((min(rang_at), 1) if rang_at else (len(head), 0))
        for name, kind in ours.items():
            if name == "kswin" and i >= (1 if quick else 2):
                continue
            head = stream[: 120 if quick else 1_500] if name == "kswin" else stream
            watched = [first for first in our_first(kind(), reference, head[:2000], 60.0) if first[1]]
            single.setdefault(f"our `{name}`", []).append(min(watched) if watched else (len(head), 0))
            family.setdefault(f"our `{name}`", []).append(family_first(kind(), reference, head))
        longer = np.concatenate((stream, market("mild", seed + 7500 + i, 2_000 if quick else 5 * MONTH)))
        # The second stretch is another market of the same law: its rows come on the reference's own scale.
        head = x[:REFERENCE]
        longer[len(stream) :] = (longer[len(stream) :] - head.mean(axis=0)) / head.std(axis=0)
        name = f"our `calibrated`, asked {asked:,.0f}"
        family.setdefault(name, []).append(calibrated_first(reference, longer, asked))
        print(f"(market {i + 1} of {repeats})", flush=True)
    if frouros is not None:
        frouros.close()

    print(f"\n| detector | {' | '.join(WORLDS)} | {len(NAMES)} market features: first feature | the family |")
    print("|" + "---|" * 6)
    for name, cells in table.items():
        month = f" [{np.mean(total[name]):,.0f} in 30 days]" if name in total else ""
        alone = streams.shown(*mean_run(single[name])) + month if name in single else "-"
        whole = streams.shown(*mean_run(family[name])) if name in family else "-"
        print(f"| {name} | {' | '.join(cells)} | {alone} | {whole} |", flush=True)


def river_family_first(make: Callable[[int], Any], stream: Floats) -> tuple[int, int]:
    """The first alarm of any feature, row by row: KSWIN is too slow to go on once it rang."""
    held = [make(i) for i in range(stream.shape[1])]
    for t, x in enumerate(stream):
        for one, value in zip(held, x.tolist(), strict=True):
            one.update(value)
        if any(one.drift_detected for one in held):
            return t + 1, 1
    return len(stream), 0
