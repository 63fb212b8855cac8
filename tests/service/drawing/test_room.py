"""One room draws: whoever forks a picture, or lets a file of another room draw one, is found here."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import regime_service
import regime_service.drawing

SERVICE = Path(regime_service.__file__).parent
ROOM = SERVICE / "drawing"
MODULES = sorted(m.name for m in pkgutil.iter_modules(regime_service.drawing.__path__, "regime_service.drawing."))


def drawing_outside(folder: Path, room: Path) -> list[str]:
    """Files that draw, or dress what was drawn, without being of the room."""
    found = []
    for file in sorted(folder.rglob("*")):
        if room in file.parents or file.suffix not in (".py", ".j2", ".css", ".js") or ".min." in file.name:
            continue
        text = file.read_text("utf-8")
        if re.search(r"<(svg|path|rect|circle|polyline) |class=.swatch|\bmatplotlib\b|\.(band|veil|tick|mark)\b", text):
            found.append(str(file.relative_to(folder)))
    return found


def test_only_one_room_draws(tmp_path: Path) -> None:
    assert drawing_outside(SERVICE, ROOM) == []
    # The search does find what it is for.
    assert drawing_outside(SERVICE, tmp_path) == [
        f"drawing/{n}" for n in ("look.css", "market.py", "svg.py", "trades.py")
    ]
    (tmp_path / "fork.py").write_text("def heat() -> str:\n    return '<svg class=\"picture\"></svg>'\n")
    assert drawing_outside(tmp_path, ROOM) == ["fork.py"]


def test_every_sign_of_a_legend_has_a_look() -> None:
    look = (ROOM / "look.css").read_text("utf-8")
    signs = re.findall(r'sign\("(?:swatch|line) ([^"]+)"', (ROOM / "figures.html.j2").read_text("utf-8"))
    assert len(signs) >= 15
    # `ACTIVE` is an empty box; the line of a legend is blue and drawn through unless something else is said.
    plain = {"ACTIVE", "entry", "measured", "many", "guarded"}
    ways = (".swatch.{}", "figcaption .{}", "figcaption .line.{}")
    assert [s for s in signs if s not in plain and not any(way.format(s) in look for way in ways)] == []


def test_every_class_of_a_picture_has_a_look() -> None:
    look = (ROOM / "look.css").read_text("utf-8")
    drawn = set()
    for file in ROOM.glob("*.py"):
        drawn |= set(re.findall(r'class="([a-z0-9-]+)[ "]', file.read_text("utf-8")))
    assert {"veil", "band", "measured", "break-even", "band90"} <= drawn
    assert sorted(name for name in drawn if f".{name}" not in look) == []


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
