"""What every test may ask for: the sample data, and a fair answer to "what if a component is missing?".

Off CI a test whose component is missing is skipped, and pytest says at the end why. With REGIME_REQUIRE_ALL=1, which
.ci/run sets, every skip is a failure: a test that cannot run there proves nothing. One kind of skip stays a skip even
then: a reason that begins with "platform:", for a test that has no meaning on this operating system.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import pytest

if TYPE_CHECKING:
    from postgres_server import PostgresServer

sys.path.insert(0, str(Path(__file__).parent))  # for `postgres_server`

REPO: Final = Path(__file__).resolve().parents[1]
PLATFORM_PREFIX: Final = "platform:"

# No deadline: under coverage, on a machine of two cores, the clock says nothing about an example. On CI the examples
# are the same in every run, so that a red run can be repeated; elsewhere they are new each time, and find new things.
hypothesis.settings.register_profile("regime", deadline=None)
hypothesis.settings.register_profile("regime-ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("regime-ci" if os.environ.get("CI") else "regime")


# Whoever is started in the background of a script (`make test &`) is told to ignore Ctrl-C, and so is whatever the
# tests start: then a test that sends it waits for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def require_all() -> bool:
    """Whether a missing component is a failure in this run."""
    return os.environ.get("REGIME_REQUIRE_ALL") == "1"


def require(component_available: object, reason: str) -> None:
    """Go on if the component is there; else skip the test, or fail it when everything is required."""
    __tracebackhide__ = True
    if component_available:
        return
    if require_all() and not reason.startswith(PLATFORM_PREFIX):
        pytest.fail(f"{reason} (a failure, not a skip, because REGIME_REQUIRE_ALL=1)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def need() -> Callable[[object, str], None]:
    """`need(shutil.which("chromium"), "no browser: install chromium")` in a test or a fixture."""
    return require


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run; `.ci/run` installs one, and sets REGIME_REQUIRE_POSTGRES=1."""
    from postgres_server import MISSING, PostgresServer, programs

    folder = programs()
    for there, reason in (
        (folder, MISSING),
        (find_spec("psycopg"), "psycopg is not installed: pip install psycopg[binary]"),
    ):
        if not there and os.environ.get("REGIME_REQUIRE_POSTGRES") == "1":
            pytest.fail(f"{reason} (a failure, not a skip, because REGIME_REQUIRE_POSTGRES=1)", pytrace=False)
        require(there, reason)
    assert folder is not None
    server = PostgresServer(folder)
    yield server
    server.remove()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    """The same server, running, with an empty database."""
    postgres_server.empty()
    return postgres_server


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of sample data: REGIME_SHARED, or `shared` beside the checkout. Look only; never write into it."""
    folder = Path(os.environ.get("REGIME_SHARED") or REPO.parent / "shared")
    require(
        (folder / "data").is_dir(),
        f"sample data not found: set REGIME_SHARED to the folder that holds data/ (looked in {folder})",
    )
    return folder


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Benchmarks run only when they are named: `make bench`, or `pytest tests/bench`."""
    bench = REPO / "tests" / "bench"
    if bench not in (collection_path, *collection_path.parents):
        return None
    named = [Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args]
    return None if any(bench in (path, *path.parents) for path in named) else True


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that says so. An expected failure (xfail) is reported as a skip too: leave it."""
    if not (require_all() and report.outcome == "skipped") or hasattr(report, "wasxfail"):
        return
    reason = _skip_reason(report)
    if not reason.startswith(PLATFORM_PREFIX):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped, which REGIME_REQUIRE_ALL=1 makes a failure: {reason}\n"
            "Install what is missing; or, if this test has no meaning on this operating system, begin the reason with "
            f'"{PLATFORM_PREFIX}".'
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, pytest.CollectReport]:
    report: pytest.CollectReport = yield
    _fail_if_skipped(report)
    return report
