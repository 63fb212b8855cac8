"""The dashboards as files: what is committed is what the builder says, and Grafana's own types accept it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
FOLDER = REPO / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
NODE = REPO / ".node"
"""Where `make setup-node` puts TypeScript and @grafana/schema."""

PLAIN = """import type { Dashboard } from "@grafana/schema";
// JSON holds the values of enums, not their names.
type Plain<T> = 0 extends 1 & T ? T
  : T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text("utf-8"))
    return found


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def test_there_are_three() -> None:
    assert [file.stem for file in FILES] == ["fleet", "service", "stream"]


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "build.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_what_is_committed_is_what_the_builder_says() -> None:
    said = build(REPO / "grafana", "--check")
    assert (said.returncode, said.stderr) == (0, "")


def test_a_dashboard_that_was_changed_by_hand_is_noticed_and_written_anew(tmp_path: Path) -> None:
    for name in ("build.py", "panels.py"):
        shutil.copy(REPO / "grafana" / name, tmp_path)
    shutil.copytree(FOLDER, tmp_path / "dashboards")
    file = tmp_path / "dashboards" / "fleet.json"
    before = file.read_text("utf-8")
    file.write_text(before.replace("Paused", "Napping"), "utf-8")
    said = build(tmp_path, "--check")
    assert said.returncode == 1 and "fleet.json" in said.stderr
    assert build(tmp_path).returncode == 0
    assert file.read_text("utf-8") == before


def test_classic_json_of_our_own(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] <= 42
    assert dashboard["uid"].startswith("regimegate-") and len(dashboard["uid"]) <= 40
    assert "regimegate" in dashboard["tags"]


def test_uids_differ() -> None:
    uids = [json.loads(file.read_text("utf-8"))["uid"] for file in FILES]
    assert len(set(uids)) == len(uids)


def test_ids_and_references_differ_and_every_query_asks_the_chosen_prometheus(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(dashboard):
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references), panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_every_panel_says_what_it_means(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert len(panel["description"]) >= 15 and panel["description"].endswith("."), panel["title"]


def test_a_click_at_a_stream_leads_to_a_dashboard_that_is_there_and_chooses_what_it_asks_for() -> None:
    known = {board["uid"]: board for board in (json.loads(file.read_text("utf-8")) for file in FILES)}
    links = [
        (panel, link["url"])
        for board in known.values()
        for panel in panels(board)
        for link in panel["fieldConfig"]["defaults"].get("links", [])
    ]
    assert len(links) >= 5
    for panel, url in links:
        path, _, query = url.partition("?")
        choices = [variable["name"] for variable in known[path.removeprefix("/d/")]["templating"]["list"]]
        chosen = re.findall(r"var-(\w+)=", query)
        assert sorted(chosen) == sorted(choices), panel["title"]
        # A table has its labels as columns, all else has them with the series. Symbols hold slashes and colons.
        place = "__data.fields" if panel["type"] == "table" else "__field.labels"
        for name in ("model", "symbol", "timeframe"):
            assert f"var-{name}=${{{place}.{name}:percentencode}}" in query, panel["title"]


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
    return across and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def test_panels_lie_side_by_side_within_the_grid(dashboard: dict[str, Any]) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard["panels"]]
    for i, (title, place) in enumerate(places):
        assert place["x"] + place["w"] <= 24, title
        for other, its in places[:i]:
            assert not overlap(place, its), f"{title} lies over {other}"


def typed(folder: Path, texts: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Have TypeScript compare JSON with Grafana's type of a dashboard."""
    (folder / "node_modules").symlink_to(NODE / "node_modules")
    for name, text in texts.items():
        # On the line of the keyword: what begins on the next one would be another statement.
        (folder / f"{name}.ts").write_text(
            f"{PLAIN}export default {text.strip()} satisfies Plain<Dashboard>;\n", "utf-8"
        )
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext",
             "--moduleResolution", "bundler"]  # fmt: skip
    return subprocess.run(
        ["node", str(NODE / "node_modules/typescript/bin/tsc"), *flags, *(f"{name}.ts" for name in texts)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture
def typescript(need: Callable[[object, str], None]) -> None:
    need(shutil.which("node"), "node is missing: apt-get install nodejs npm")
    need((NODE / "node_modules" / "@grafana" / "schema").is_dir(), "@grafana/schema is missing: make setup-node")


@pytest.mark.usefixtures("typescript")
def test_the_types_of_grafana_accept_every_dashboard(tmp_path: Path) -> None:
    said = typed(tmp_path, {file.stem: file.read_text("utf-8") for file in FILES})
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.usefixtures("typescript")
@pytest.mark.parametrize(
    ("right", "wrong"), [('"palette-classic"', '"palette-klassic"'), ('"gridPos"', '"gridpos"'), ('"w": 4', '"w": "4"')]
)
def test_the_types_of_grafana_would_have_refused_a_mistake(tmp_path: Path, right: str, wrong: str) -> None:
    text = (FOLDER / "stream.json").read_text("utf-8")
    assert right in text
    assert typed(tmp_path, {"wrong": text.replace(right, wrong)}).returncode != 0
