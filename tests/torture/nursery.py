"""Starts `regime serve` in children that need not import anything: a fork of this process, which has.

Python, its libraries and the compiled kernels take seconds to load, and a thousand kills would be an hour of that.
Reads a line for each service (`serve ARGUMENTS`, `serve-CONTROL ARGUMENTS`), prints `child PID`; `reap` waits for it
and prints `ended STATUS`. What the service prints goes to the same standard output.

The others are negative controls, and exist here only, in a test's process; no setting of a user leads to them.
`ack-early`: the service answers before anything is on disk. `no-sync`: its session with PostgreSQL does not wait for
the server's disk. `alerts-late`: an alert is written down after the decision was committed, not with it.
`alerts-early`: it is sent before.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import regime_service.app  # loaded here once, so that the children have it
from regime import kernels
from regime_service import cli
from regime_service.alerts.outbox import Outbox
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


class LateOutbox(Outbox):
    """Writes down in the next group what this group gave reason to say."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.in_group: list[Any] = []
        self.late: list[Any] = []

    def note(self, *change: Any) -> None:
        self.in_group.append(change)

    def due(self) -> bool:
        return bool(self.late) or super().due()

    def write(self, seq: int) -> None:
        for change in self.late:
            Outbox.note(self, *change)
        self.late = []
        super().write(seq)

    def committed(self) -> None:
        self.late, self.in_group = self.late + self.in_group, []
        super().committed()


class EarlyOutbox(Outbox):
    """Sends within the group, and writes it down for nobody. The commit takes a while: the disk is slow."""

    def note(self, seq: int, before: Any, after: Any) -> None:
        for alert in self._voice.alerts_of(before, after, self._now_ms()):
            for way in self._ways.values():
                way.channel.send([alert], within_s=1.0)
        time.sleep(0.02)


CONTROLS: dict[str, type[Outbox]] = {"serve-alerts-late": LateOutbox, "serve-alerts-early": EarlyOutbox}


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
            elif word in CONTROLS:
                regime_service.app.Outbox = CONTROLS[word]  # type: ignore[misc]
            os._exit(cli.main(["serve", *arguments]))
        print(f"child {child}", flush=True)


if __name__ == "__main__":
    main()
