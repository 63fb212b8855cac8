from __future__ import annotations

from pathlib import Path

import pytest

from regime.detectors.ks import Ks
from regime.errors import OperatorError
from regime.plugins import available, load


def test_the_folder_is_the_registry() -> None:
    folder = Path(__file__).parents[2] / "regime" / "detectors"
    files = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert available("regime.detectors") == sorted(files)
    assert {"adwin", "ks", "page_hinkley"} <= files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with one plugin, one private module and a module that is no plugin."""
    folder = tmp_path / "some_rules"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "zeal.py").write_text("class Zeal:\n    pass\n__plugin__ = Zeal\n")
    (folder / "bare.py").write_text("x = 1\n")
    (folder / "odd.py").write_text("__plugin__ = 3\n")
    (folder / "_private.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return "some_rules"


def test_private_modules_are_not_available(package: str) -> None:
    assert available(package) == ["bare", "odd", "zeal"]


def test_a_plain_name_is_a_module_of_the_package() -> None:
    assert load("regime.detectors", "ks") is Ks


def test_a_dotted_path_is_a_class_of_your_own(package: str) -> None:
    assert load("regime.detectors", f"{package}.zeal.Zeal").__name__ == "Zeal"


@pytest.mark.parametrize("kind", ["kss", "", "some.where.Else", "regime.detectors.ks.Kss"])
def test_an_unknown_name_is_refused_with_those_that_exist(kind: str) -> None:
    with pytest.raises(OperatorError, match=r"no detector .*known are .*adwin, .*ks"):
        load("regime.detectors", kind)


def test_a_module_without_plugin_is_refused(package: str) -> None:
    with pytest.raises(OperatorError, match="known are bare, odd, zeal"):
        load(package, "bare")


def test_what_is_not_a_class_is_refused(package: str) -> None:
    with pytest.raises(OperatorError, match="'odd' does not name a class"):
        load(package, "odd")
