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
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, NamedTuple

from document import Said, conversation
from mutation import GENERATION, Tally, campaign
from stateful import STEPS, machines

PIECE_RUNS = 100


def one_campaign(number: int, requests: int) -> Tally:
    warnings.simplefilter("ignore")
    return campaign(number, requests, ram=True)


def some_machines(number: int, runs: int) -> Counter[str]:
    try:
        return machines(runs, number, ram=True)
    except BaseException:
        return Counter({"found: " + traceback.format_exc(): 1})


class Amount(NamedTuple):
    """How much is to be done, by how many processes at once, and after how long no more of it is begun."""

    number: int
    total: int
    jobs: int
    until_s: float


def spread(work: Callable[[int, int], Any], amount: Amount, piece: int) -> Iterator[Any]:
    """Do so much work piece by piece, each with a seed of its own, and yield what comes of each.

    Pieces that are not begun in time are left out: what was done is worth knowing all the same.
    """
    sizes = [min(piece, amount.total - at) for at in range(0, amount.total, piece)]
    seeds = iter(enumerate(sizes))
    with ProcessPoolExecutor(amount.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:

        def begin(count: int) -> set[Future[Any]]:
            late = time.monotonic() > amount.until_s
            return (
                set() if late else {pool.submit(work, amount.number * 100_000 + i, n) for i, n in islice(seeds, count)}
            )

        running = begin(amount.jobs)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()
            running |= begin(len(done))


def print_mutation(amount: Amount) -> int:
    began_s, tally = time.monotonic(), Tally()
    for part in spread(one_campaign, amount, GENERATION):
        tally.add(part)
    done = tally.counts["requests"]
    print(
        f"\nMutated requests: {done:,} of {amount.total:,}, seed {amount.number}, {time.monotonic() - began_s:.0f} s\n"
    )
    print("| what | count |\n| --- | --- |")
    for name, count in {**dict(sorted(tally.counts.items())), "found": len(tally.found)}.items():
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


def print_stateful(amount: Amount) -> int:
    began_s = time.monotonic()
    counts: Counter[str] = Counter()
    for part in spread(some_machines, amount, PIECE_RUNS):
        counts += part
    found = [name for name in counts if name.startswith("found: ")]
    print(
        f"\nAny order of calls, at most {STEPS} in a run: {counts['runs']:,} runs of {amount.total:,}, "
        f"seed {amount.number}, {time.monotonic() - began_s:.0f} s\n\n| what | count |\n| --- | --- |"
    )
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
    parser.add_argument("--minutes", type=float, default=1e6, help="after which nothing more is begun")
    given = parser.parse_args(arguments)
    found, until_s = 0, time.monotonic() + given.minutes * 60
    if given.only in (None, "document"):
        found += print_document(given.seed, given.examples)
    if given.only in (None, "stateful"):
        found += print_stateful(Amount(given.seed, given.runs, given.jobs, until_s))
    if given.only in (None, "mutation"):
        found += print_mutation(Amount(given.seed, given.requests, given.jobs, until_s))
    print(f"\n{'Nothing was found.' if not found else f'{found} things were found; see above.'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
