"""Break the code in small ways and see whether the tests notice: mutation testing of what safety rests on.

    python tests/torture/mutants.py [--sample 40] [--seed 1] [--only PART] [--jobs 2]

Each mutant is one small change (a comparison, an operator, a number, a condition, a call left out) of one file, made in
memory while it is imported; the tests of that file are run against it, and one failing is enough: it is killed. A
mutant that makes them hang is killed, too. Texts are left alone: what a message says is read by people, and SQL is
either right or an error. Prints those that survived, with file and line, and the score of each file.

Children are forked from a process that has imported the libraries; a mutant costs what its tests cost.

Exit codes: 0 every file scores at least 85 %, 1 one does not.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
WANTED = 0.85
STORE_TESTS = ("tests/contracts/test_stores.py",)
# A test of the other store costs ten times as much, and says nothing new of what both have in common.
SQLITE_TESTS = ("tests/service/stores/test_sqlite.py", *STORE_TESTS, "-k", "not postgres")
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "regime/gate.py": ("regime.gate", ("tests/regime/test_gate.py", "tests/regime/rules/test_break_even.py")),
    "service/regime_service/http/gate.py": (
        "regime_service.http.gate", (
            "tests/service/http/test_gate_edges.py", "tests/service/http/test_gate.py",
            "tests/service/http/test_auth.py",
        ),
    ),
    "service/regime_service/http/lease.py": ("regime_service.http.lease", ("tests/service/http/test_lease.py",)),
    "service/regime_service/stores/__init__.py": ("regime_service.stores", SQLITE_TESTS),
    "service/regime_service/stores/rows.py": ("regime_service.stores.rows", SQLITE_TESTS),
    "service/regime_service/stores/grouped.py": ("regime_service.stores.grouped", SQLITE_TESTS),
    "service/regime_service/stores/sqlite.py": ("regime_service.stores.sqlite", SQLITE_TESTS),
    "service/regime_service/stores/postgres.py": (
        "regime_service.stores.postgres", (*STORE_TESTS, "tests/service/stores/test_postgres.py"),
    ),
}  # fmt: skip
"""File -> its module, and the tests that must notice."""

_SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.FloorDiv,), ast.Div: (ast.Mult,),
    ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip

_CHANGEABLE = (ast.Compare, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Constant, ast.Expr, ast.If)


class Mutant(NamedTuple):
    """One change of a file: the whole of it as a tree, where, and what it was and is."""

    file: str
    line: int
    change: str
    tree: ast.Module


def mutants(file: str) -> Iterator[Mutant]:
    """Yield every mutant of a file, in the order of its lines."""
    source = (ROOT / file).read_text("utf-8")
    for number, (original, *_) in enumerate(_places(ast.parse(source))):
        for kind in range(2):
            changed = _changed(original, kind)
            if changed is None:
                continue
            tree = ast.parse(source)
            node, parent, field, at = list(_places(tree))[number]
            if at is None:
                setattr(parent, field, changed)
            else:
                getattr(parent, field)[at] = changed
            line = getattr(node, "lineno", 0)
            change = " -> ".join(ast.unparse(each).partition("\n")[0] for each in (node, changed))
            yield Mutant(file, line, change[:110], ast.fix_missing_locations(tree))


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str, int | None]]:
    """Yield what could be changed, with where it stands."""
    stack: list[ast.AST] = [tree]
    while stack:
        parent = stack.pop()
        if isinstance(parent, ast.Raise | ast.JoinedStr) or _only_declared(parent):
            continue  # what errors say; what a protocol declares, and nobody runs
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(
                parent, ast.Call
            ):
                continue
            children = value if isinstance(value, list) else [value]
            for at, child in enumerate(children):
                if not isinstance(child, ast.AST):
                    continue
                stack.append(child)
                if isinstance(
                    child, ast.Compare | ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Constant | ast.Expr | ast.If
                ):
                    yield child, parent, field, at if isinstance(value, list) else None


def _only_declared(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in node.body)


def _changed(node: ast.AST, kind: int) -> ast.AST | None:
    """Return another form of `node`; None where there is no such form."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare() if kind < len(forms := _SWAPS.get(type(new.ops[0]), ())):
            new.ops[0] = forms[kind]()  # type: ignore[assignment]
        case ast.BinOp() | ast.BoolOp() if kind < len(forms := _SWAPS.get(type(new.op), ())):
            new.op = forms[kind]()  # type: ignore[assignment]
        case ast.UnaryOp(op=ast.Not()) if kind == 0:
            return new.operand
        case ast.Constant(value=bool() as value) if kind == 0:
            new.value = not value
        case ast.Constant(value=int() | float() as value) if kind == 0 and not isinstance(value, bool):
            new.value = value + 1
        case ast.Expr(value=ast.Call()) if kind == 0:
            return ast.Pass()
        case ast.If() if kind < 2:
            new.test = ast.Constant(value=kind == 0)
        case _:
            return None
    return new


class _Changed(MetaPathFinder, Loader):
    """Imports one module from a tree, all others as ever."""

    def __init__(self, module: str, mutant: Mutant) -> None:
        self._module, self._mutant = module, mutant

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        file = ROOT / self._mutant.file
        spec = spec_from_loader(fullname, self, origin=str(file), is_package=file.name == "__init__.py")
        assert spec is not None
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(file.parent))
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._mutant.tree, str(ROOT / self._mutant.file), "exec"), module.__dict__)


def survivors(
    chosen: Sequence[Mutant | None], module: str, tests: tuple[str, ...], limit_s: float, jobs: int
) -> list[Mutant | None]:
    """Return those that the tests do not notice (None stands for no change at all)."""
    left, running, alive = list(reversed(chosen)), dict[int, tuple[Mutant | None, float]](), list[Mutant | None]()
    while left or running:
        while left and len(running) < jobs:
            mutant = left.pop()
            running[_child(mutant, module, tests)] = mutant, time.monotonic() + limit_s
        time.sleep(0.02)
        for child, (mutant, until_s) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if not done and time.monotonic() < until_s:
                continue
            # With its session end the servers and children of tests that were cut short.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            if not done:
                os.waitpid(child, 0)
            elif status == 0:
                alive.append(mutant)
                if mutant is not None:
                    print(f"  survived  {mutant.file}:{mutant.line}  {mutant.change}", flush=True)
            del running[child]
    return alive


def _child(mutant: Mutant | None, module: str, tests: tuple[str, ...]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        if mutant is not None:
            sys.meta_path.insert(0, _Changed(module, mutant))
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-o",
            "addopts=--import-mode=importlib",
            "-m",
            "not slow",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        code = int(pytest.main([*options, *tests]))
    finally:
        os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="so many mutants of each file, drawn at random (0: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in ("numpy", "apsw", "httpx", "psycopg", "uvicorn", "prometheus_client"):
        importlib.import_module(name)
    low, killed_all, tried_all = False, 0, 0
    for file, (module, tests) in TARGETS.items():
        if options.only not in file:
            continue
        began_s = time.monotonic()
        if not survivors([None], module, tests, 900, 1):
            print(f"{file}: its tests fail without any change")
            return 1
        limit_s = 30 + 5 * (time.monotonic() - began_s)
        chosen = every = list(mutants(file))
        if options.sample and options.sample < len(every):
            chosen = sorted(random.Random(options.seed).sample(every, options.sample), key=lambda m: m.line)
        alive = survivors(chosen, module, tests, limit_s, options.jobs)
        killed = len(chosen) - len(alive)
        score = killed / len(chosen) if chosen else 1.0
        low = low or score < WANTED
        killed_all, tried_all = killed_all + killed, tried_all + len(chosen)
        print(f"{file}: {killed} of {len(chosen)} killed ({score:.0%}), {len(every)} mutants in all", flush=True)
    print(f"all: {killed_all} of {tried_all} killed ({killed_all / max(1, tried_all):.0%})")
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
