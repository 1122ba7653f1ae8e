"""Compilation of loops over arrays. Importing this module loads numba, so import it only where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loopscope.extras import require

numba = require("numba", "making, grading or proving sudoku puzzles")


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays at its first call, and cache the code for later processes if possible.

    Decorate the function with ``@typing.no_type_check``, so that no run-time type checker wraps it before compilation.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return numba.njit(nogil=True)(function)
