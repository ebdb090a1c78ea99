"""How kernels are compiled: by numba, once a machine, running without the interpreter's lock.

Machine code is kept in the package's `__pycache__`, or else in the user's cache folder (`NUMBA_CACHE_DIR` names
another first); where none can be written each process compiles for itself. Whoever can write there can run code as the
user, as with Python's own `__pycache__`. numba tells stale code by the kernel's own file alone, so a kernel calls
nothing from another file.

No bounds checks: callers check types and shapes before a kernel runs. No fastmath: there are no floats.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile at the first call with given types, or load what an earlier process compiled."""
    try:
        compiled = njit(cache=True, boundscheck=False, nogil=True)(function)
    except RuntimeError:  # numba found no folder it can write to
        compiled = njit(boundscheck=False, nogil=True)(function)
    return cast("Function", compiled)


def part(function: Function) -> Function:
    """A few lines that kernels of the same file share; the compiler copies them in."""
    return cast("Function", njit(boundscheck=False)(function))
