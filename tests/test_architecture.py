"""What import-linter cannot see: the core asks nobody for the time, for chance or for a file, and nobody unpickles.

Who may import whom stands in pyproject.toml ([tool.importlinter], `make lint`). A module such as `datetime` is welcome
in the core, its `now()` is not; that difference is read here from the syntax tree. Each rule has its negative control
below: a snippet that must be found, so that a rule that has gone blind is noticed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

REPO: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = (REPO / "regime", REPO / "service" / "regime_service", REPO / "models" / "regime_models")

CLOCK: Final = "asks for the time; take it from the event, or as an argument"
CHANCE: Final = "is random, or random for the whole process; take a seeded numpy Generator as an argument"
OUTSIDE: Final = "reaches outside; hand the value in, hand the result back"
HASH: Final = "differs from process to process; use hashlib"
PICKLE: Final = "runs code found in a file; store plain arrays and numbers"

FORBIDDEN: Final = {
    "datetime.datetime.now": CLOCK,
    "datetime.datetime.utcnow": CLOCK,
    "datetime.datetime.today": CLOCK,
    "datetime.date.today": CLOCK,
    "os.urandom": CHANCE,
    "uuid.uuid1": CHANCE,
    "uuid.uuid4": CHANCE,
    "hash": HASH,
    "input": OUTSIDE,
    "open": OUTSIDE,
    "print": OUTSIDE,
}
FORBIDDEN_MODULES: Final = {"time": CLOCK, "random": CHANCE, "secrets": CHANCE}
# These make a generator of one's own. They are welcome with a seed; without one they ask the machine for chance.
TYPES: Final = {"BitGenerator", "Generator", "RandomState", "SeedSequence"}
SEEDED: Final = {*TYPES, "default_rng", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
PICKLERS: Final = {"pickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve"}
PICKLE_METHODS: Final = {"read_pickle", "to_pickle"}


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: {"np": "numpy", "now": "time.time", ...}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _bound_names(tree: ast.AST) -> set[str]:
    """Names that the module gives a meaning of its own, for example a candle's `open`."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
    return bound


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name that `np.random.rand` or `clock` stands for; "" if the node is not a plain chain of names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def _loaded_module(call: ast.Call, names: dict[str, str]) -> str:
    """The module that `__import__("x")` or `importlib.import_module("x")` loads; "" if the call does not do that."""
    if _dotted(call.func, names) in {"__import__", "importlib.import_module"} and call.args:
        name = call.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return name.value
    return ""


def _imported_modules(tree: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (module := _loaded_module(node, names)):
            yield node.lineno, module


def _has_seed(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(not (isinstance(value, ast.Constant) and value.value is None) for value in given)


def impurities(source: str) -> list[str]:
    """Each place in the source of a core module that asks for the time, for chance or for a file: "line: what why"."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    bound = _bound_names(tree)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found: set[tuple[int, str, str]] = set()

    for line, module in _imported_modules(tree, names):
        if reason := FORBIDDEN_MODULES.get(module.split(".")[0]):
            found.add((line, module.split(".")[0], reason))

    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in inner or not isinstance(node.ctx, ast.Load):
            continue
        name = _dotted(node, names)
        call = called.get(id(node))
        builtin_in_name_only = "." not in name and name in bound and call is None
        if name in FORBIDDEN and not builtin_in_name_only:
            found.add((node.lineno, name, FORBIDDEN[name]))
        elif name.endswith((".datetime.now", ".datetime.utcnow")):
            found.add((node.lineno, name, CLOCK))
        elif name.startswith("numpy.random."):
            last = name.removeprefix("numpy.random.")
            seeded = last in SEEDED and call is not None and _has_seed(call)
            as_type = last in TYPES and call is None
            if not seeded and not as_type:
                found.add((node.lineno, name, CHANCE))
        elif name == "numpy.datetime64" and call is not None and call.args:
            text = call.args[0]
            if isinstance(text, ast.Constant) and text.value in {"now", "today"}:
                found.add((node.lineno, f"{name}({text.value!r})", CLOCK))
    return [f"{line}: {what} {why}" for line, what, why in sorted(found)]


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def picklers(source: str) -> list[str]:
    """Each place where the source imports or uses something that unpickles: "line: what why"."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    found: set[tuple[int, str]] = set()
    for line, module in _imported_modules(tree, names):
        if PICKLERS & set(module.split(".")):  # the whole path: sklearn.externals.joblib is joblib too
            found.add((line, module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PICKLE_METHODS:
            found.add((node.lineno, node.attr))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node.value):
            found.add((node.value.lineno, "allow_pickle"))
    return [f"{line}: {what} {PICKLE}" for line, what in sorted(found)]


def test_the_core_asks_nobody_for_time_chance_or_files() -> None:
    files = sorted((REPO / "regime").rglob("*.py"))
    assert files, "no file found in regime/: this test looks in the wrong place"
    found = [f"{file.relative_to(REPO)}:{text}" for file in files for text in impurities(file.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_nothing_is_ever_unpickled() -> None:
    for package in PACKAGES:
        files = sorted(package.rglob("*.py"))
        assert files, f"no file found in {package}: this test looks in the wrong place"
        found = [f"{file.relative_to(REPO)}:{text}" for file in files for text in picklers(file.read_text("utf-8"))]
        assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("from datetime import datetime as dt\ndt.now()", "datetime.datetime.now"),
        ("import datetime as d\nclock = d.datetime.utcnow", "datetime.datetime.utcnow"),
        ("from datetime import datetime\ndatetime.today()", "datetime.datetime.today"),
        ("from datetime import date\ndate.today()", "datetime.date.today"),
        ("from regime import events\nevents.datetime.now()", "regime.events.datetime.now"),
        ("import numpy as np\nnp.datetime64('now')", "numpy.datetime64('now')"),
        ("import time", "time"),
        ("from time import monotonic as clock", "time"),
        ("def f():\n    import time as t\n    return t.time()", "time"),
        ("import importlib\nimportlib.import_module('time')", "time"),
        ("__import__('random')", "random"),
        ("import random", "random"),
        ("from random import Random", "random"),
        ("import secrets", "secrets"),
        ("import numpy as np\nnp.random.rand(3)", "numpy.random.rand"),
        ("import numpy as np\nnp.random.seed(1)", "numpy.random.seed"),
        ("from numpy import random as r\nr.normal()", "numpy.random.normal"),
        ("from numpy.random import shuffle\nshuffle([1])", "numpy.random.shuffle"),
        ("import numpy as np\nnp.random.default_rng()", "numpy.random.default_rng"),
        ("import numpy as np\nnp.random.default_rng(None)", "numpy.random.default_rng"),
        ("import numpy as np\nmake = np.random.default_rng", "numpy.random.default_rng"),
        ("import numpy as np\nnp.random.Generator(np.random.PCG64())", "numpy.random.PCG64"),
        ("import uuid\nuuid.uuid4()", "uuid.uuid4"),
        ("from uuid import uuid4\nuuid4()", "uuid.uuid4"),
        ("import os\nos.urandom(8)", "os.urandom"),
        ("hash('BTC/USDT')", "hash"),
        ("sorted(['b', 'a'], key=hash)", "hash"),
        ("open('candles.csv')", "open"),
        ("def f(open):\n    return open('candles.csv')", "open"),
        ("print('here')", "print"),
        ("list(map(print, [1]))", "print"),
        ("input()", "input"),
    ],
)
def test_each_impurity_is_found(bad: str, named: str) -> None:
    assert [text.split()[1] for text in impurities(bad)] == [named]


@pytest.mark.parametrize(
    "good",
    [
        "from datetime import datetime, UTC\ndatetime.fromtimestamp(0, tz=UTC)",
        "import datetime\nx: datetime.datetime\ny = datetime.timedelta(hours=1)",
        "def now(): return 1\nclock = now()",
        "class Engine:\n    def f(self): return self.clock.now()",
        "def f(time, random): return time + random",
        "import numpy as np\nnp.random.default_rng(7)",
        "import numpy as np\nnp.random.default_rng(seed=7)",
        "from numpy.random import default_rng\ndef f(seed): return default_rng(seed)",
        "import numpy as np\nnp.random.Generator(np.random.PCG64(7))",
        "import numpy as np\ndef f(rng: np.random.Generator): return rng.random(3)",
        "import numpy as np\nnp.datetime64('2025-10-15')",
        "import uuid\nuuid.uuid5(uuid.NAMESPACE_OID, 'x')",
        "class Candle:\n    open: float\ndef f(candle, open=1.0): return open - candle.open",
        "class Key:\n    def __hash__(self): return 1",
        "import hashlib\nhashlib.sha256(b'')",
        "def f(log): log.print('x')",
        "'print(1), open(2) and hash(3) in a docstring'",
    ],
)
def test_what_is_pure_is_let_through(good: str) -> None:
    assert impurities(good) == []


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "import pickle as p",
        "def f():\n    import pickle",
        "from pickle import loads",
        "import _pickle",
        "import joblib",
        "from joblib import load",
        "from sklearn.externals import joblib",
        "import dill",
        "import cloudpickle",
        "import shelve",
        "import importlib\nimportlib.import_module('pickle')",
        "__import__('joblib')",
        "import pandas as pd\npd.read_pickle('x')",
        "frame.to_pickle('x')",
        "import numpy as np\nnp.load('x.npy', allow_pickle=True)",
        "import numpy as np\nnp.load('x.npy', allow_pickle=trusted)",
    ],
)
def test_each_pickler_is_found(bad: str) -> None:
    assert len(picklers(bad)) == 1


@pytest.mark.parametrize(
    "good",
    [
        "import numpy as np\nnp.load('x.npy', allow_pickle=False)",
        "import msgspec",
        "from regime.errors import OperatorError",
        "'pickle in a docstring'",
    ],
)
def test_what_does_not_unpickle_is_let_through(good: str) -> None:
    assert picklers(good) == []
