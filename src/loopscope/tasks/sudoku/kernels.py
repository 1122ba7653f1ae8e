"""Compiled loops over arrays. Importing this module loads numba, so only modules that are imported late may do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loopscope.extras import require

numba = require("numba", "making, grading or proving sudoku puzzles")


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays at its first call, and keep the code for the next process where that can be done.

    Its annotations are for readers only; under ``@typing.no_type_check`` no checker wraps it before it is compiled.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written to: neither the package's nor the user's own
        return numba.njit(nogil=True)(function)
