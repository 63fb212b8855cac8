"""From the store into the archive: by hand, or in the background while the service runs."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from regime import codec
from regime.decision import Decision
from regime.errors import OperatorError, RegimeError
from regime.events import Recalibrated
from regime_service.stores.opening import open_store

log = logging.getLogger("regimegate")

EVENTS_AT_ONCE = 5_000
"""Events of one append: the files they belong to are read and written once for all of them."""
FIRST_S = 5.0
"""Seconds after the start at which the service first looks what is to be archived."""


class Source(Protocol):
    """What is asked of a store; it may be in use by a service."""

    @property
    def epoch(self) -> str: ...

    def logged(self, after_seq: int = 0, until_seq: int | None = None) -> Iterator[tuple[int, int, bytes]]: ...

    def served(self, after_id: int = 0) -> Iterator[tuple[int, int, Decision]]: ...

    def reference(self, reference_id: str) -> bytes: ...

    def close(self) -> None: ...


def fill(folder: Path | str, store: Source) -> int:
    """Bring the archive in `folder` up to the store; return how many events were new.

    Raises `OperatorError` where the folder cannot be used or somebody else fills it, `CorruptionError` where the store
    or the archive is damaged.
    """
    # Only here: who starts an Archiver has no need of Parquet.
    from regime_service.archive.folder import Archive

    with _alone(Path(folder)):
        archive = Archive(folder)
        archive.begin(store.epoch)
        count = 0
        while True:
            rows = [
                (seq, recorded_ms, codec.decode(raw))
                for seq, recorded_ms, raw in islice(store.logged(archive.state.last_seq), EVENTS_AT_ONCE)
            ]
            if not rows:
                return count
            for _, _, event in rows:
                if isinstance(event, Recalibrated):
                    for known in (event.reference_id, *event.calibrations.values()):
                        if not archive.has_reference(known):
                            archive.put_reference(known, store.reference(known))
            until = rows[-1][0]
            served = []
            for row, seq, decision in store.served(archive.state.last_decision):
                if seq > until:
                    break
                served.append((row, seq, decision))
            count += archive.append(rows, served)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "archive.lock").open("a")
    except OSError as error:
        raise OperatorError(f"the archive cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OperatorError(
                f"another program fills the archive {folder} at this moment (a running service does every minute)"
            ) from None
        yield


class Task(msgspec.Struct, frozen=True):
    """What the process of an `Archiver` is told, as a line of JSON: a store (with its secrets) and a folder."""

    store: str
    folder: str


class Archiver:
    """Fills the archive in the background, every `every_s` seconds, in a process of its own.

    So what reads and writes Parquet weighs nothing in the service, takes none of its time, and cannot end it. It reads
    the store through a connection of its own and disturbs nobody. What goes wrong is logged, once for each thing, and
    tried again. What it has not reached when the service stops is archived after the next start.
    """

    def __init__(self, store: str, folder: Path | str, *, every_s: float) -> None:
        self._task = Task(store, str(folder))
        self._every_s = every_s
        self._stopped = threading.Event()
        self._said = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="archiver", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End at once: an append that is cut off is made good by the next."""
        self._stopped.set()
        if (child := self._child) is not None:
            child.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait_s = min(FIRST_S, self._every_s)
        while not self._stopped.wait(wait_s):
            wait_s = self._every_s
            try:
                self._say(self._ask())
            except OSError as error:
                self._say(f"its process cannot be started or has ended: {error}")
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    def _ask(self) -> str:
        """Have the archive filled; return what went wrong, empty if nothing."""
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self._stopped.is_set():
                self._child.kill()
            self._send(msgspec.json.encode(self._task))
        self._send(b"")
        assert self._child.stdout is not None
        answer = self._child.stdout.readline()
        if not answer:
            return "" if self._stopped.is_set() else f"its process ended with {self._child.wait()}"
        return msgspec.json.decode(answer, type=str)

    def _send(self, line: bytes) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(line + b"\n")
        self._child.stdin.flush()

    def _say(self, wrong: str) -> None:
        if wrong and wrong != self._said:
            log.warning("the archive is not up to date: %s", wrong)
        self._said = wrong


def main() -> None:
    """Fill the archive each time a line comes in, until no more can come; answer with what went wrong."""
    lines = iter(sys.stdin.buffer.readline, b"")
    task = msgspec.json.decode(next(lines), type=Task)
    for _ in lines:
        wrong = ""
        try:
            with contextlib.closing(open_store(task.store, read_only=True)) as store:
                fill(task.folder, store)
        except RegimeError as error:
            wrong = str(error)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        os.write(1, msgspec.json.encode(wrong) + b"\n")


if __name__ == "__main__":
    main()
