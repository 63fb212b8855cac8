"""The service beside its own document: schemathesis reads /openapi.json and asks everything that is written there.

    conversation(examples, seed) -> Said

A real `regime serve` on a free port of loopback, its store on a RAM disk where there is one. All checks of
schemathesis are on (statuses, types, headers and bodies as documented, nonsense refused, what is allowed taken,
unknown methods refused). Two rounds: everything that schemathesis makes up, and once more all that looks at a stream,
with the name of one that exists.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from regime_service.testing import Served

FOLDER = Path(__file__).parent
STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
_CASES = re.compile(r"(\d+) generated")


class Said(NamedTuple):
    """Requests made, and what schemathesis had to say where something was not as documented; empty if nothing was."""

    cases: int
    faults: str


def conversation(examples: int, number: int, *, ram: bool = False, phases: str = "", again: bool = True) -> Said:
    """Ask `examples` times an operation and phase. `phases` names some of schemathesis' own, all if empty; `again`
    makes the second round."""
    base = "/dev/shm" if ram and Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="regime-document-", dir=base) as folder:
        served = Served(Path(folder), 'clock = "event"\n')
        try:
            body = {**STREAM, "ts_ms": 1_762_145_100_000, "features": {"f1": 1.0}}
            assert served.post("/v1/observations", body).status == 200
            everything = ask(served.address, Path(folder), examples, number, phases, "")
            names = "".join(f'"query.{name}" = "{value}"\n' for name, value in STREAM.items())
            looking = Said(0, "")
            if again:
                looking = ask(served.address, Path(folder), examples, number, phases, f"[parameters]\n{names}")
        finally:
            code = served.stop()
    if code != 0:
        return Said(0, f"the service ended with {code}")
    return Said(everything.cases + looking.cases, everything.faults + looking.faults)


def ask(address: str, folder: Path, examples: int, number: int, phases: str, more: str) -> Said:
    """Let schemathesis ask whoever answers at `address`; with `more` of its configuration it only looks."""
    config = folder / "schemathesis.toml"
    config.write_text(more + (FOLDER / "schemathesis.toml").read_text("utf-8"), "utf-8")
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run",
        f"http://{address}/openapi.json", "--checks", "all", "--max-examples", str(examples), "--seed", str(number),
        "--continue-on-failure", *(["--phases", phases] if phases else []),
        *(["--include-method", "GET"] if more else []),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = _CASES.search(done.stdout)
    cases = 0 if found is None else int(found[1])
    faults = "" if done.returncode == 0 and cases else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return Said(cases, faults)


__all__ = ["Said", "ask", "conversation"]
