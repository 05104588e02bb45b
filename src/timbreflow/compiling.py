"""Python loops over numbers, compiled by numba."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled at its first call, and kept in numba's cache where there is a folder for it.

    The cache lies beside the function's file, or in NUMBA_CACHE_DIR, so that only the first process compiles.
    """
    try:
        made: Callable[..., Any] = numba.njit(cache=True)(function)
    except RuntimeError:  # neither folder can be written
        made = numba.njit(function)
    return made
