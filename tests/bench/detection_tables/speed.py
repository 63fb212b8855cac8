"""Table 2: microseconds a row of 200 features, in turns, so that ratios hold on a busy machine; best of the rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection_tables import streams
from detection_tables.frouros_client import NAMES as FROUROS
from detection_tables.frouros_client import Frouros
from regime.reference import Reference

Floats = NDArray[np.float64]
SLOW_ROWS = {"kswin": 2, "river KSWIN": 1, "frouros KSWIN": 1, "frouros ADWIN": 4, "frouros PageHinkley": 10,
             "ks": 100, "river_adwin": 100, "river_page_hinkley": 100}  # fmt: skip


def run(seed: int, *, quick: bool, features: int = 200) -> None:
    from river import drift

    rounds = 2 if quick else 9
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6_000, features))
    reference = Reference(streams.names(features), rng.standard_normal((5_000, features)))
    timed: dict[str, Callable[[int], float]] = {}

    def ours(detector: Any) -> Callable[[int], float]:
        detector.reset(reference)
        for row in x[: 110 if "Kswin" in type(detector).__name__ else 1_200]:
            detector.update(row)

        def once(rows: int) -> float:
            begun = time.perf_counter()
            for row in x[:rows]:
                detector.update(row)
                detector.drift_detected  # noqa: B018  what the engine asks for after each row
            return (time.perf_counter() - begun) / rows

        return once

    def rivers(make: Callable[[int], Any], ready: int) -> Callable[[int], float]:
        held = [make(i) for i in range(features)]
        for row in x[:ready]:
            for one, value in zip(held, row.tolist(), strict=True):
                one.update(value)

        def once(rows: int) -> float:
            begun = time.perf_counter()
            for row in x[:rows]:
                for one, value in zip(held, row.tolist(), strict=True):
                    one.update(value)
                    one.drift_detected  # noqa: B018  a loop that never looks would be of no use
            return (time.perf_counter() - begun) / rows

        return once

    print(f"\n## Table 2: microseconds a row of {features} features (seed {seed})\n", flush=True)
    timed["river ADWIN"] = rivers(lambda i: drift.ADWIN(), 1_200)
    timed["river PageHinkley"] = rivers(lambda i: drift.PageHinkley(), 1_200)
    timed["river KSWIN"] = rivers(lambda i: drift.KSWIN(seed=i), 101)
    frouros = Frouros.start()
    if frouros is not None:
        peer = frouros
        for name in FROUROS:
            timed[f"frouros {name}"] = lambda rows, name=name: peer.seconds_a_row(name, features=features, rows=rows)  # type: ignore[misc]
    for name, kind in streams.every_detector():
        timed[f"our `{name}`"] = ours(kind())
    best = dict.fromkeys(timed, math.inf)
    for _ in range(rounds):
        for name, once in timed.items():
            rows = SLOW_ROWS.get(name.removeprefix("our ").strip("`"), 500)
            best[name] = min(best[name], once(rows))
    if frouros is not None:
        frouros.close()
    loop, everything = best["river ADWIN"], sum(best[f"river {n}"] for n in ("ADWIN", "PageHinkley", "KSWIN"))
    print("| detector | us a row | values a second | times river's ADWIN loop | times river's PageHinkley loop |")
    print("|" + "---|" * 5)
    for name, seconds in sorted(best.items(), key=lambda item: item[1]):
        print(f"| {name} | {seconds * 1e6:,.1f} | {features / seconds:.2g} | {loop / seconds:.2g} | "
              f"{best['river PageHinkley'] / seconds:.2g} |")  # fmt: skip
    mine = best["our `calibrated`"]
    two = loop + best["river PageHinkley"]
    print(
        f"\nriver's own loop for all three of its defaults takes {everything * 1e6:,.0f} us a row, "
        f"{everything / mine:,.0f} times `calibrated`; for ADWIN and PageHinkley alone {two / mine:.1f} times.",
        flush=True,
    )
