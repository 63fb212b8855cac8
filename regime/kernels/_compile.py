"""`@kernel(...)`: numba's `njit` with the rules of this folder, and with types that mypy can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import boolean, float64, int64, njit, types

Function = TypeVar("Function", bound=Callable[..., Any])

ROW = types.Array(float64, 1, "C", readonly=True)
"""A row as the caller gave it; a row that may be written to is accepted, too."""
FLAGS = types.Array(boolean, 1, "C", readonly=True)
OPTIONS_REAL = types.Array(float64, 1, "C", readonly=True)
OPTIONS_WHOLE = types.Array(int64, 1, "C", readonly=True)
TABLE = types.Array(float64, 2, "C", readonly=True)
REAL = (float64[::1], float64[:, ::1], float64[:, :, ::1])
"""Arrays of state with 1, 2 and 3 axes."""
WHOLE = (int64[::1], int64[:, ::1], int64[:, :, ::1])
COUNT = int64
NUMBER = float64


def kernel(result: Any, *arguments: Any) -> Callable[[Function], Function]:
    """Compile for exactly these types, now or out of the cache.

    Division by zero gives infinity or NaN as numpy's does. Nothing is reordered or contracted: the results are those
    of the same Python, operation by operation.
    """

    def compiled(function: Function) -> Function:
        signature = result(*arguments)
        try:
            decorate = njit(signature, cache=True, error_model="numpy")
            return cast(Function, decorate(function))
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
        # No folder can be written: compile anew in every process rather than not at all.
        decorate = njit(signature, error_model="numpy")
        return cast(Function, decorate(function))

    return compiled


def inner(function: Function) -> Function:
    """Compile a part of a kernel into the kernels that call it."""
    return cast(Function, njit(error_model="numpy", inline="always")(function))
