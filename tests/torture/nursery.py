"""Starts `regime serve` in children that need not import anything: a fork of this process, which has.

Python, its libraries and the compiled kernels take seconds to load, and a thousand kills would be an hour of that.
Reads a line for each service (`serve ARGUMENTS`, `serve-CONTROL ARGUMENTS`), prints `child PID`; `reap` waits for it
and prints `ended STATUS`. What the service prints goes to the same standard output.

The negative controls exist here only, in a test's process; no setting of a user leads to them. `ack-early`: the service
answers before anything is on disk. `no-sync`: its session with PostgreSQL does not wait for the server's disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import regime_service.app  # loaded here once, so that the children have it
from regime import kernels
from regime_service import cli
from regime_service.ports import Receipt
from regime_service.runners.embedded import EmbeddedRunner

assert regime_service.app


async def ingest_early(runner: EmbeddedRunner, events: Sequence[Any], **options: Any) -> Receipt:
    runner.submit(events, **options).add_done_callback(lambda done: done.exception())
    return Receipt(len(events), 0, 0, 0, (), ())


def do_not_wait_for_the_disk() -> None:
    from regime_service.stores import postgres

    usual = postgres.PostgresStore._connect

    def connect(store: Any, *, reading: bool = False) -> Any:
        connection = usual(store, reading=reading)
        connection.execute("SET synchronous_commit = off")
        return connection

    postgres.PostgresStore._connect = connect  # type: ignore[method-assign]
    postgres.check_server = lambda *_: None


def main() -> None:
    kernels.warm()
    for line in sys.stdin:
        word, *arguments = line.rstrip("\n").split("\t")
        if word == "reap":
            print(f"ended {os.wait()[1]}", flush=True)
            continue
        child = os.fork()
        if child == 0:
            os.close(0)
            if word == "serve-ack-early":
                EmbeddedRunner.ingest = ingest_early  # type: ignore[method-assign, assignment]
            elif word == "serve-no-sync":
                do_not_wait_for_the_disk()
            os._exit(cli.main(["serve", *arguments]))
        print(f"child {child}", flush=True)


if __name__ == "__main__":
    main()
