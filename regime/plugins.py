"""The folder is the registry: `kind = "ks"` names `regime/detectors/ks.py`, a dotted path names a file of your own."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from regime.errors import OperatorError


def available(package: str) -> list[str]:
    """Return the names of the modules in `package`, without private ones."""
    module = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_"))


def load(package: str, kind: str) -> type[Any]:
    """Return the class that `kind` names.

    A plain name is a module of `package`, whose class is its `__plugin__`. A dotted path `your.module.Class` is
    imported as it is. Raises `OperatorError` when there is no such thing, with the names that do exist.
    """
    try:
        if "." in kind:
            path, _, name = kind.rpartition(".")
            found = getattr(importlib.import_module(path), name)
        else:
            found = importlib.import_module(f"{package}.{kind}").__plugin__
    except (ImportError, AttributeError) as error:
        known = ", ".join(available(package))
        noun = package.rpartition(".")[2][:-1]
        raise OperatorError(f"there is no {noun} {kind!r} ({error}); known are {known}") from None
    if not isinstance(found, type):
        raise OperatorError(f"{kind!r} does not name a class")
    return found
