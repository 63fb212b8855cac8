from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import regime.kernels


def test_the_engine_loads_neither_numba_nor_river() -> None:
    code = "import sys, regime.engine, regime.kernels; assert not {'numba', 'river'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kernel_is_warmed() -> None:
    folder = Path(regime.kernels.__file__).parent
    assert sorted(regime.kernels.KERNELS) == sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_"))


def test_warm_compiles_each_kernel_for_one_kind_of_arguments() -> None:
    code = (
        "import regime.kernels as k, importlib; k.warm()\n"
        "for name in k.KERNELS:\n"
        "    take = importlib.import_module(f'regime.kernels.{name}').take\n"
        "    assert len(take.signatures) == 1, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
