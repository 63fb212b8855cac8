"""Asks `frouros_peer.py`, which runs in `.venv-frouros` (made by `make bench-detection`)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HOME = Path(__file__).resolve().parents[3] / ".venv-frouros"
NAMES = ("ADWIN", "PageHinkley", "KSWIN")


class Frouros:
    """A running peer. `Frouros.start` gives None, and says why, where it cannot run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    def start(cls) -> Frouros | None:
        python = HOME / "bin" / "python"
        if not python.exists():
            reason = HOME / ".reason"
            why = reason.read_text().strip() if reason.exists() else "make bench-detection makes it"
            print(f"frouros: left out, there is no .venv-frouros ({why})", flush=True)
            return None
        command = [str(python), str(Path(__file__).with_name("frouros_peer.py"))]
        found = cls(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        try:
            found.seconds_a_row("PageHinkley", features=1, rows=1)
        except (RuntimeError, OSError) as error:  # OSError: it ended before it was asked
            print(f"frouros: left out, {error}", flush=True)
            return None
        return found

    def _ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with code {self._process.wait()}")
        return json.loads(line)

    def first_alarms(self, name: str, stream: Floats, seconds: float) -> list[tuple[int, int]]:
        """(rows watched, 1 if it rang) of as many columns as the time allowed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stream.npy"
            np.save(path, stream)
            found = self._ask(do="first", detector=name, path=str(path), seconds=seconds)
        return [(int(rows), int(rang)) for rows, rang in found]

    def seconds_a_row(self, name: str, *, features: int, rows: int) -> float:
        return float(self._ask(do="time", detector=name, features=features, rows=rows))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
