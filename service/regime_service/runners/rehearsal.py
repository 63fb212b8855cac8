"""A recovery in a process of its own, which may die of it: asked for after starts that never came to an end.

An event may take the process down when it is judged (compiled code that crashes, memory that does not suffice), and so
may a snapshot. Then a supervisor would start the service for ever, each time with the same end. So, where the last two
starts were not finished, the next one rehearses: `python -m regime_service.runners.rehearsal` reads the store and steps
the log, as the service is about to do, and says before each event which one it is. If it dies, the last word says of
what, and the service stays, with that reason in its 503.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import IO

import msgspec

from regime.config import EngineConfig
from regime_service.runners.recovery import Samples, recover
from regime_service.stores.opening import open_store


class _Task(msgspec.Struct):
    store: str
    config: EngineConfig
    snapshots: bool


class Death(msgspec.Struct, frozen=True):
    """What a rehearsal died of: at event `seq` of the log (0: in the snapshot, None: before either), and how."""

    seq: int | None
    how: str


def rehearse(where: str, config: EngineConfig, *, snapshots: bool = True) -> Death | None:
    """Recover the store at `where` in a process of its own; None unless that process died.

    An error that it could still tell is none of ours: the recovery itself will meet it, and say it better. Takes as
    long as a recovery and the start of a process; blocks. Raises `OSError` where no process can be started.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        # Detectors and rules of a user are found where we find them.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    try:
        with child.stdin as stdin:
            stdin.write(msgspec.json.encode(_Task(where, config, snapshots)))
        last = _last_line(child.stdout)
    except BrokenPipeError:
        last = b""  # It died before it read a word.
    finally:
        child.stdout.close()
        code = child.wait()
    if code >= 0:
        return None
    return Death(int(last) if last else None, f"signal {-code}, {signal.strsignal(-code)}")


def _last_line(pipe: IO[bytes]) -> bytes:
    last = b""
    for line in pipe:
        last = line
    return last


def main() -> int:
    """Recover what standard input names; write the number of each event before it is judged."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Task)
    store = open_store(task.store, read_only=True)
    # Unbuffered: the last word must be out before the process is gone.
    recover(
        store, task.config, Samples(store), snapshots=task.snapshots, before=lambda seq: _say(b"%d\n" % seq)
    )  # fmt: skip
    return 0


def _say(line: bytes) -> None:
    os.write(1, line)


if __name__ == "__main__":
    sys.exit(main())
