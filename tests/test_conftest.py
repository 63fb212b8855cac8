"""The rules of conftest.py hold: each case is a small pytest run of its own, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

SKIPS = """
    import pytest

    def test_component_is_there(need):
        need(True, "never read")

    def test_component_is_missing(need):
        need(False, "no postgres: set REGIME_POSTGRES")

    def test_skipped_by_hand():
        pytest.skip("too tired")

    @pytest.mark.skipif(True, reason="by a mark")
    def test_skipped_by_a_mark():
        pass

    @pytest.mark.skipif(True, reason="platform: only on Windows")
    def test_other_platform():
        pass

    def test_other_platform_by_need(need):
        need(False, "platform: only on Windows")

    @pytest.mark.xfail(reason="known", strict=True)
    def test_expected_failure():
        assert False
"""

WHOLE_FILE = """
    import pytest
    pytest.importorskip("no_such_module_anywhere")

    def test_never_reached():
        pass
"""

SAMPLE_DATA = """
    def test_sample_data(shared):
        assert (shared / "data").is_dir()
"""


def run_pytest(folder: Path, files: dict[str, str], *args: str, **env: str) -> tuple[int, str]:
    """Run the files under our conftest.py, in the folder `checkout` inside `folder`; give the exit code and output."""
    checkout = folder / "checkout"
    files = {"tests/conftest.py": CONFTEST.read_text(), **{name: textwrap.dedent(code) for name, code in files.items()}}
    for name, code in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(code)
    foreign = ("PYTEST_", "REGIME_", "COVERAGE_", "COV_CORE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(checkout), "-c", os.devnull]
    done = subprocess.run(
        [*command, "-rA", *args],
        cwd=checkout,
        env={**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def outcomes(output: str) -> dict[str, str]:
    """The test names and outcomes of a run with -rA; the skipped ones are not named there, so they are missing here."""
    lines = [line.split() for line in output.splitlines()]
    return {
        words[1].split("::")[1]: words[0]
        for words in lines
        if len(words) > 1 and words[0] in {"PASSED", "FAILED", "ERROR", "XFAIL"} and "::" in words[1]
    }


def test_without_require_all_a_missing_component_is_a_skip(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, {"tests/test_sample.py": SKIPS})
    assert code == 0, output
    assert outcomes(output) == {"test_component_is_there": "PASSED", "test_expected_failure": "XFAIL"}
    assert "1 passed, 5 skipped, 1 xfailed" in output
    assert "no postgres: set REGIME_POSTGRES" in output


def test_with_require_all_every_skip_is_a_failure_except_other_platforms(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, {"tests/test_sample.py": SKIPS}, REGIME_REQUIRE_ALL="1")
    assert code == 1, output
    assert outcomes(output) == {
        "test_component_is_there": "PASSED",
        "test_component_is_missing": "FAILED",
        "test_skipped_by_hand": "FAILED",
        "test_skipped_by_a_mark": "ERROR",  # skipped before the test began, hence an error of its setup
        "test_expected_failure": "XFAIL",
    }
    assert "2 failed, 1 passed, 2 skipped, 1 xfailed, 1 error" in output
    assert "no postgres: set REGIME_POSTGRES (a failure, not a skip" in output


@pytest.mark.parametrize(("require_all", "code"), [("0", 5), ("1", 2)])
def test_a_file_that_skips_itself_is_a_failure_only_with_require_all(
    tmp_path: Path, require_all: str, code: int
) -> None:
    got, output = run_pytest(tmp_path, {"tests/test_sample.py": WHOLE_FILE}, REGIME_REQUIRE_ALL=require_all)
    assert got == code, output
    assert "no_such_module_anywhere" in output


def test_sample_data_is_found_beside_the_checkout_or_where_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "a" / "shared" / "data").mkdir(parents=True)
    code, output = run_pytest(tmp_path / "a", {"tests/test_sample.py": SAMPLE_DATA})
    assert (code, "1 passed" in output) == (0, True), output

    code, output = run_pytest(
        tmp_path / "b", {"tests/test_sample.py": SAMPLE_DATA}, REGIME_SHARED=str(tmp_path / "a" / "shared")
    )
    assert (code, "1 passed" in output) == (0, True), output


def test_missing_sample_data_says_what_to_set(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path / "a", {"tests/test_sample.py": SAMPLE_DATA})
    assert code == 0, output
    assert "sample data not found: set REGIME_SHARED" in output

    code, output = run_pytest(tmp_path / "b", {"tests/test_sample.py": SAMPLE_DATA}, REGIME_REQUIRE_ALL="1")
    assert code == 1, output
    assert "sample data not found: set REGIME_SHARED" in output


@pytest.mark.parametrize(
    ("args", "ran"),
    [((), {"test_sample"}), (("tests",), {"test_sample"}), (("tests/bench",), {"test_speed"})],
)
def test_benchmarks_run_only_when_named(tmp_path: Path, args: tuple[str, ...], ran: set[str]) -> None:
    files = {"tests/test_sample.py": "def test_sample(): pass", "tests/bench/test_speed.py": "def test_speed(): pass"}
    code, output = run_pytest(tmp_path, files, *args)
    assert code == 0, output
    assert set(outcomes(output)) == ran
