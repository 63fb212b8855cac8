"""How often the parity doctor names a planted fault first, and how often it names one where there is none.

    make bench-parity SEED=n          100 pairs a fault and source, 300 clean ones
    make bench-parity QUICK=1         20 and 60, for a look
    make bench-parity ARGS='--runs 40 --source "real candles"'

Sources: simulated markets; windows of a real candle file, its features computed anew; windows of a real feature log,
for faults of the table. The real ones are left out where the sample data are not there. Every pair has a seed of its
own, `[seed, source, fault, run]`; faults are of varying size and lie among honest differences (`parity_worlds.py`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import parity_worlds
from parity_worlds import FAULTS, OF_THE_TABLE, STEP, Material, clean, read_bars, read_logged

from regime.parity import CANDLE, CAUSES, Table, compare


def sources() -> dict[str, Material]:
    shared = Path(os.environ.get("REGIME_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"
    found: dict[str, Material] = {"simulated": None}
    if shared.is_dir():
        found["real candles"] = read_bars(shared / "ohlcv_5m_20250806_20251104.csv")
        found["real features"] = read_logged(shared / "reference_features_20251026_20251101.csv")
    else:
        print(f"No sample data in {shared}: simulated markets only.")
    return found


def without_prices(table: Table) -> Table:
    """The same log of a bot that does not log its candles."""
    keep = [c for c, name in enumerate(table.names) if name not in CANDLE]
    return Table(table.ts_ms, tuple(table.names[c] for c in keep), table.values[:, keep], table.log_ms)


def verdicts(fault: str, material: Material, key: list[int], runs: int, *, prices: bool = True) -> Counter[str]:
    """What was named first in each of `runs` pairs."""
    plant = clean if fault == "clean" else FAULTS[fault]
    named: Counter[str] = Counter()
    for run in range(runs):
        live, backtest = plant(np.random.default_rng([*key, run]), material)
        if not prices:
            live, backtest = without_prices(live), without_prices(backtest)
        named[compare(live, backtest, step_ms=STEP).verdict.cause] += 1
    return named


def upper(wrong: int, runs: int) -> float:
    """Upper end of the one-sided 95 % interval of a share (Wilson)."""
    z, p = 1.645, wrong / runs
    return (p + z * z / (2 * runs) + z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))) / (1 + z * z / runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--runs", type=int, default=100, help="pairs a fault and source; three times as many clean ones"
    )
    parser.add_argument("--source", help="only this one: simulated, real candles, real features")
    parser.add_argument("--without-prices", action="store_true", help="take the candles out of both logs")
    parser.add_argument("--rows", type=int, help="candles of every pair (default: 150, 300, 600 or 1,200)")
    parser.add_argument("--quick", action="store_true", help="20 pairs")
    arguments = parser.parse_args()
    runs = 20 if arguments.quick else arguments.runs
    if arguments.rows is not None:
        parity_worlds.ROWS[:] = [arguments.rows]
    print(f"seed {arguments.seed}; named first, by source; n pairs each\n")
    print("| planted | source | n | named first | otherwise |\n| --- | --- | --- | --- | --- |")
    began = time.process_time()
    for s, (source, material) in enumerate(sources().items()):
        if arguments.source not in (None, source):
            continue
        for f, fault in enumerate(["clean", *FAULTS]):
            if source == "real features" and fault not in ("clean", *OF_THE_TABLE):
                continue
            n = 3 * runs if fault == "clean" else runs
            named = verdicts(fault, material, [arguments.seed, s, f], n, prices=not arguments.without_prices)
            others = ", ".join(f"{cause} {count}" for cause, count in named.most_common() if cause != fault)
            right = named[fault]
            # Too few candles for a verdict is no false one.
            false = sum(count for cause, count in named.items() if cause in CAUSES)
            note = f" (false verdicts {false}, at most {upper(false, n):.2%})" if fault == "clean" else ""
            print(f"| {fault} | {source} | {n} | {right / n:.1%}{note} | {others or '-'} |", flush=True)
    print(f"\n{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
