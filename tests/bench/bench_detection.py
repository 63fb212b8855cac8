"""False alarms, delays and speed of the detectors, beside river and frouros in the same run.

    python tests/bench/bench_detection.py --seed S [--quick] [--tables 1,2,3,honesty,delays]

    1        rows to the first false alarm of every detector as it comes
    2        microseconds a row, as ratios
    3        delay at an equal rate of false alarms, independent values, as a multiple of the best test there is
    honesty  achieved / asked run length of the calibrated detector on fresh rows
    delays   changes of a market: delay at an equal rate beside river's best, start and kind as they are told

Each part says in its own file (`detection_tables/`) what is measured and how. All worlds are simulated (`worlds.py`);
everything is drawn from the seed.
"""

from __future__ import annotations

import argparse
import sys
import time

from detection_tables import exact, first_alarms, honesty, market_delays, speed

TABLES = ("1", "2", "3", "honesty", "delays")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--quick", action="store_true", help="a look at every part, two minutes: no figures to quote")
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--worlds", help="of honesty and delays; default mild,harsh,seasonal,jumps,iid and without iid")
    parser.add_argument("--rows", type=int, default=25_920, help="of a reference: 25920 are 90 days, 103680 are 360")
    parser.add_argument("--references", type=int, help="default: 20 for honesty, 5 for delays")
    parser.add_argument("--run-length", default="2000,8640", help="asked, for honesty")
    parser.add_argument("--periods", type=float, default=100.0, help="asked periods of fresh rows for each reference")
    parser.add_argument("--asked", type=float, default=8640.0, help="run length of table 1 and of the delays")
    parser.add_argument("--changes", type=int, default=4, help="of each kind, for each reference")
    parser.add_argument("--river-worlds", default="mild", help="where river is run beside, for delays")
    parser.add_argument("--river-periods", type=float, default=30.0, help="asked periods for river's limits")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="for river's settings")
    parser.add_argument("--only", default="", help="of table 3: detectors with one of these in their name")
    chosen = parser.parse_args()
    tables = chosen.tables.split(",")
    unknown = [name for name in tables if name not in TABLES]
    if unknown:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    quick = chosen.quick
    print(f"`{' '.join(['bench_detection.py', *sys.argv[1:]])}`", flush=True)
    begun = time.perf_counter()
    if "1" in tables:
        first_alarms.run(chosen.seed, quick=quick, asked=2000.0 if quick else chosen.asked)
    if "2" in tables:
        speed.run(chosen.seed, quick=quick)
    if "3" in tables:
        exact.run(chosen.seed, quick=quick, only=tuple(part for part in chosen.only.split(",") if part))
    if "honesty" in tables:
        honesty.run(
            chosen.seed,
            worlds=(chosen.worlds or ("mild" if quick else "mild,harsh,seasonal,jumps,iid")).split(","),
            rows=chosen.rows,
            references=chosen.references or (1 if quick else 20),
            asked=[2000.0] if quick else [float(a) for a in chosen.run_length.split(",")],
            periods=10.0 if quick else chosen.periods,
        )
    if "delays" in tables:
        market_delays.run(
            chosen.seed,
            worlds=(chosen.worlds or ("mild" if quick else "mild,harsh,seasonal,jumps")).split(","),
            river_worlds=chosen.river_worlds.split(","),
            rows=chosen.rows,
            references=chosen.references or (1 if quick else 5),
            runs=1 if quick else chosen.changes,
            asked=2000.0 if quick else chosen.asked,
            periods=10.0 if quick else chosen.periods,
            river_periods=10.0 if quick else chosen.river_periods,
            processes=chosen.processes,
            quick=quick,
        )
    print(f"\n({time.perf_counter() - begun:.0f} s in all)", flush=True)


if __name__ == "__main__":
    main()
