"""The inner loops of the compiled detectors, one file each: plain loops over columns of numbers, compiled by numba.

A kernel knows columns and nothing else: not what a feature is called, not which stream it belongs to. A thousand
streams of 200 features are 200,000 columns to it, so a caller with many streams lays their rows end to end, calls once,
and cuts the answers apart again (`tests/bench/bench_kernels.py` does so).

Rules of the house, so that a replay finds the same bits on every machine of a kind: no `fastmath` and no `parallel`,
every column by itself, sums in the order in which the values came. Each kernel has one signature, given when it is
defined, so importing its module compiles it (seconds), or loads it from numba's cache (milliseconds), and nothing is
ever compiled while rows come in. A detector imports its kernel in `reset` and not sooner: `import regime.engine` loads
no numba.

**Where the compiled code lies.** Beside the kernel, in `regime/kernels/__pycache__` (`*.nbi`, `*.nbc`). Where that
folder cannot be written numba takes the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`, `numba/...`), and
`NUMBA_CACHE_DIR` overrules both. Where none of them can be written every process compiles for itself, three seconds.
An entry is renewed when the kernel's own file, numba's version or the processor changes; after a change in `_compile`
delete the entries.
"""

from __future__ import annotations

import importlib

KERNELS = ("adwin", "cusum", "focus", "page_hinkley", "scan", "shiryaev_roberts")


def warm() -> None:
    """Compile every kernel, or load it: after this no detector waits for the compiler. `make setup` calls it."""
    for name in KERNELS:
        importlib.import_module(f"{__name__}.{name}")
