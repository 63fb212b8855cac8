"""`regime demo` as a person runs it: a process of its own, which starts another one and never leaves it behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

SHORT = {"candles": 900, "break_at": 288}
"""Long enough to be noticed: two days after the break, where the first warning comes within one."""
BRIEF = {"candles": 60, "break_at": 50}
"""Too short to be noticed: 50 minutes after the break."""

_SCRIPT = """
import functools, sys
from regime_service import cli, demo
demo.run_demo = functools.partial(demo.run_demo, **{scenario})
sys.exit(cli.main(["demo", "--port", "0", *sys.argv[1:]]))
"""


class Running:
    """A demo that was started; its lines come as it writes them."""

    def __init__(self, command: list[str], folder: Path) -> None:
        env = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
        self.seen: list[str] = []
        # A session of its own: a signal to its group is what Ctrl-C in a terminal is.
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def until(self, words: str) -> str:
        """Read on to the line that holds `words` and return it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line)
            if words in line:
                return line
        raise AssertionError(f"it ended without {words!r}:\n{''.join(self.seen)}\n{self._errors()}")

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and everything it wrote on standard output."""
        assert self.process.stdout is not None
        self.seen += list(self.process.stdout)
        return self.process.wait(60), "".join(self.seen)

    def _errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def errors(self) -> str:
        return self._errors()

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def service_pid(self) -> int:
        found = re.search(r"process (\d+)", "".join(self.seen))
        assert found is not None, "".join(self.seen)
        return int(found[1])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("--once", scenario=SHORT)`; without a scenario the demo as it is. Ended by its own id afterwards."""
    started: list[Running] = []

    def run(*arguments: str, scenario: dict[str, int] | None = None) -> Running:
        command = [sys.executable, "-m", "regime_service.cli", "demo", "--port", "0", *arguments]
        if scenario is not None:
            command = [sys.executable, "-c", _SCRIPT.format(scenario=scenario), *arguments]
        started.append(Running(command, tmp_path))
        return started[-1]

    yield run
    for running in started:
        running.close()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_round_tells_the_story_and_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    demo = start("--once", "--store", "kept.db", scenario=SHORT)
    code, text = demo.end()
    assert code == 0, text + demo.errors()
    for words in (
        "the market breaks", "break at", "first warning after", "paused after", "losses avoided",
        "healthy period disturbed", "regime", "replay --reference",
    ):  # fmt: skip
        assert words in text
    assert re.search(r"^2025-03-\d\d \d\d:\d\d  (both |long |short)  ", text, re.MULTILINE)
    assert "\x1b" not in text
    assert is_gone(demo.service_pid)
    assert (tmp_path / "kept.db").exists()


def test_the_first_line_comes_at_once(start: Start) -> None:
    began = time.monotonic()
    demo = start("--once", scenario=BRIEF)
    demo.until("simulated bot")
    # A few tenths of a second; the rest is for machines that do other things as well.
    assert time.monotonic() - began < 10.0
    demo.end()


def test_a_break_that_nobody_noticed_is_a_failure(start: Start) -> None:
    demo = start("--once", scenario=BRIEF)
    code, text = demo.end()
    assert (code, "the break was not noticed" in text) == (1, True)
    assert is_gone(demo.service_pid)


def test_the_service_stays_up_until_ctrl_c_which_ends_both(start: Start) -> None:
    demo = start(scenario=SHORT)
    address = demo.until("The service stays up at ").split()[5].rstrip(".")
    text = "".join(demo.seen)
    url = re.search(r"curl '(\S+)'", text)
    assert url is not None and url[1].startswith(address)
    for page in (url[1], f"{address}/docs"):
        with urllib.request.urlopen(page, timeout=10) as response:
            assert response.status == 200
    assert not is_gone(demo.service_pid)
    demo.interrupt()
    assert demo.end()[0] == 0
    assert is_gone(demo.service_pid)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_in_the_middle_ends_both(start: Start, number: signal.Signals, code: int) -> None:
    demo = start("--once", scenario={"candles": 20_000, "break_at": 19_000})
    demo.until("warm-up")
    os.killpg(demo.process.pid, number)
    assert demo.end()[0] == code
    assert is_gone(demo.service_pid)


def test_a_service_that_dies_ends_the_demo_with_a_sentence(start: Start) -> None:
    demo = start(scenario=BRIEF)
    demo.until("The service stays up at ")
    os.kill(demo.service_pid, signal.SIGKILL)
    assert demo.end()[0] == 1
    assert "the service ended by itself" in demo.errors()


def test_a_port_that_is_taken_is_left_alone(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = start("--once", "--port", str(port), scenario=BRIEF)
        line = demo.until("The service answers at")
        assert "the port asked for is taken" in line and f":{port}," not in line
        demo.end()


def test_a_store_that_exists_is_refused_in_a_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_text("mine")
    demo = start("--once", "--store", "mine.db", scenario=BRIEF)
    assert demo.end()[0] == 2
    assert "regime demo: the store mine.db exists" in demo.errors()


@pytest.mark.slow
def test_the_demo_as_it_is_takes_less_than_a_minute(start: Start) -> None:
    began = time.monotonic()
    demo = start("--once")
    code, text = demo.end()
    assert code == 0, text + demo.errors()
    assert time.monotonic() - began < 60.0
