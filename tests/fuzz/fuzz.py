"""No bytes make the service answer a 5xx but a deliberate 503, and none make it forget or misjudge what it took.

    make fuzz       everything in full, and the tables of docs/measurements/reliability.md (N=... mutated requests)
    python tests/fuzz/fuzz.py --only mutation --requests 20000 --seed 5

1. `mutation.py`: requests that are almost right, against the application in process, stores on a RAM disk.
2. `document.py`: schemathesis against a served one, by its own /openapi.json.
3. `stateful.py`: any order of calls that hypothesis thinks of, beside a simple model of the contract.

Faults that are planted in the service must be found by the same harness: tests/fuzz/test_mutation.py and
test_stateful.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from document import Said, conversation
from mutation import Tally, campaign
from stateful import STEPS, machines


def one_campaign(number: int, requests: int) -> Tally:
    warnings.simplefilter("ignore")
    return campaign(number, requests, ram=True)


def some_machines(number: int, runs: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    try:
        counts = machines(runs, number, ram=True)
    except BaseException:
        counts["found: " + traceback.format_exc()] = 1
    return counts


def spread(work: Callable[[int, int], Any], number: int, amount: int, jobs: int) -> list[Any]:
    """Do so much work, in `jobs` processes with seeds of their own."""
    parts = [amount // jobs + (i < amount % jobs) for i in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, [number * 100 + i for i in range(jobs)], parts))


def print_mutation(number: int, requests: int, jobs: int) -> int:
    began_s = time.monotonic()
    tally = Tally()
    for part in spread(one_campaign, number, requests, jobs):
        tally.add(part)
    print(f"\nMutated requests: seed {number}, {jobs} processes, {time.monotonic() - began_s:.0f} s\n")
    rows = dict(sorted(tally.counts.items()))
    for name, count in ({"requests": 0} | rows | {"found": len(tally.found)}).items():
        print(f"| {name} | {count:,} |")
    print("\n| status | answers |\n| --- | --- |")
    for status, count in sorted(tally.statuses.items()):
        print(f"| {status or 'none: the peer had hung up'} | {count:,} |")
    for finding in tally.found:
        print(f"\n{finding}")
    return len(tally.found)


def print_document(number: int, examples: int) -> int:
    began_s = time.monotonic()
    said: Said = conversation(examples, number, ram=True)
    print(f"\nschemathesis: seed {number}, {time.monotonic() - began_s:.0f} s\n\n| requests | faults |\n| --- | --- |")
    print(f"| {said.cases:,} | {'none' if not said.faults else 'see below'} |")
    if said.faults:
        print(said.faults)
    return bool(said.faults)


def print_stateful(number: int, runs: int, jobs: int) -> int:
    began_s = time.monotonic()
    counts: Counter[str] = Counter()
    for part in spread(some_machines, number, runs, jobs):
        counts += part
    found = [name for name in counts if name.startswith("found: ")]
    print(f"\nAny order of calls, at most {STEPS} in a run: seed {number}, {time.monotonic() - began_s:.0f} s\n")
    for name, count in counts.items():
        if name not in found:
            print(f"| {name} | {count:,} |")
    print(f"| found | {len(found)} |")
    for name in found:
        print(f"\n{name}")
    return len(found)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("mutation", "document", "stateful"))
    parser.add_argument("--requests", type=int, default=1_000_000, help="mutated requests")
    parser.add_argument("--examples", type=int, default=100, help="of each operation and phase, for schemathesis")
    parser.add_argument("--runs", type=int, default=10_000, help="runs beside the model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args(arguments)
    found = 0
    if given.only in (None, "document"):
        found += print_document(given.seed, given.examples)
    if given.only in (None, "stateful"):
        found += print_stateful(given.seed, given.runs, given.jobs)
    if given.only in (None, "mutation"):
        found += print_mutation(given.seed, given.requests, given.jobs)
    print(f"\n{'Nothing was found.' if not found else f'{found} things were found; see above.'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
