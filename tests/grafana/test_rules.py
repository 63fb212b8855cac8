"""The rules: promtool's cases of firing and not firing, and a runbook that says what to do about each alert."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
RULES = REPO / "grafana" / "rules" / "regimegate.rules.yml"
CASES = Path(__file__).parent / "rules.test.yml"
RUNBOOK = (REPO / "docs" / "runbook.md").read_text("utf-8")
TEXT = RULES.read_text("utf-8")
ALERTS = re.findall(r"(?m)^      - alert: (\w+)$", TEXT)


@pytest.fixture(scope="module")
def promtool(need: Callable[[object, str], None]) -> str:
    found = shutil.which("promtool")
    need(found, "promtool is missing: apt-get install prometheus")
    return str(found)


def run_cases(promtool: str, cases: Path) -> subprocess.CompletedProcess[str]:
    command = [promtool, "test", "rules", str(cases)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_every_case_holds(promtool: str) -> None:
    said = run_cases(promtool, CASES)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("for: 5m", "for: 0m"),
        ("regime_ready) == 0", "regime_ready) == 1"),
        (">= 3\n", ">= 300\n"),
        ('"stale"', '"stal"'),
        ("< 1e9", "< 1e6"),
        ("min_over_time", "max_over_time"),
    ],
)
def test_a_rule_that_was_changed_fails_its_cases(promtool: str, tmp_path: Path, right: str, wrong: str) -> None:
    assert right in TEXT
    (tmp_path / "changed.rules.yml").write_text(TEXT.replace(right, wrong), "utf-8")
    (tmp_path / "cases.yml").write_text(
        CASES.read_text("utf-8").replace("../../grafana/rules/regimegate.rules.yml", "changed.rules.yml"), "utf-8"
    )
    assert run_cases(promtool, tmp_path / "cases.yml").returncode != 0


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fired = set(re.findall(r"alertname: (\w+)\n        eval_time: \S+\n        exp_alerts:", CASES.read_text("utf-8")))
    assert len(ALERTS) >= 8
    assert set(ALERTS) == fired


def test_every_alert_leads_to_a_heading_of_the_runbook_which_says_four_things() -> None:
    links = re.findall(r"runbook_url: (\S+)", TEXT)
    assert len(links) == len(ALERTS) == len(set(links))
    sections = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", RUNBOOK))
    # As GitHub makes anchors of headings.
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): text for title, text in sections.items()}
    for link in links:
        file, _, anchor = link.partition("#")
        assert file == "docs/runbook.md"
        for said in ("What it means.", "What the bot does meanwhile.", "Look at.", "What to do."):
            assert f"**{said}**" in anchors[anchor], f"{anchor}: {said}"
    assert set(anchors) == {link.partition("#")[2] for link in links}, "and no heading without an alert"


def test_every_message_of_the_service_stands_in_the_runbook_and_no_other() -> None:
    """The alerts that it tells of itself, by their names and by the words they begin with."""
    folder = REPO / "service" / "regime_service"
    sources = [folder / "app.py", folder / "notices.py", folder / "alerts" / "words.py"]
    said = {name for file in sources for name in re.findall(r'"(Regime[A-Z]\w+)"', file.read_text("utf-8"))}
    told = set(re.findall(r"(?m)^\| [^|]+ \| `(Regime\w+)` \|", RUNBOOK))
    assert "RegimeClockBehind" in said and told == said


def test_links_within_the_runbook_and_out_of_it_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", RUNBOOK)
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"(?m)^##+ (.+)$", RUNBOOK)}
    assert len(links) > 10
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings, link
        else:
            assert (REPO / "docs" / link).resolve().exists(), link
