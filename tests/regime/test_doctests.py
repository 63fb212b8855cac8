"""The examples in the docstrings of the core are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import regime

MODULES = sorted(m.name for m in pkgutil.walk_packages(regime.__path__, "regime."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_there_are_modules() -> None:
    assert {"regime.engine", "regime.rules.drift", "regime.detectors.ks"} <= set(MODULES)
