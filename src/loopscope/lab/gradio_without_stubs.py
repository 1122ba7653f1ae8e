"""Importing Gradio without the type stubs that it writes for editors, which take half of the time."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from unittest.mock import patch

WRITER = "create_or_modify_pyi"
"""The function of Gradio that writes stubs. It skips classes that have no file."""

NEAREST = 8
"""Frames of the stack that are searched for it; checks of types add some between a function and its caller."""


def _callers(frame: FrameType | None) -> list[str]:
    """Return the names of the functions that a frame was called from."""
    names: list[str] = []
    while frame is not None and len(names) < NEAREST:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


@contextmanager
def without_stubs() -> Iterator[None]:
    """Let Gradio be imported without writing stubs."""
    found = inspect.getfile

    def getfile(thing: Any) -> str:
        if WRITER in _callers(sys._getframe()):
            raise OSError("no stubs are wanted")
        return found(thing)

    with patch.object(inspect, "getfile", getfile):
        yield
