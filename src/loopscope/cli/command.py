"""What a file of this package defines: a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def as_given(parsed: Namespace, arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments of a command unchanged."""
    return arguments


@dataclass(frozen=True)
class Command:
    """A command of ``loopscope``.

    Args:
        make_parser: returns the parser of its arguments.
        run: carries it out and returns the exit status.
        expand: maps the arguments, parsed and as they were given, to those that replace them.
    """

    make_parser: Callable[[], ArgumentParser]
    run: Callable[[Namespace], int]
    expand: Callable[[Namespace, Sequence[str]], Sequence[str]] = as_given
