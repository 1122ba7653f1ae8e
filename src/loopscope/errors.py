"""The one exception that a user's mistake raises, and the checks of choices and numbers that most modules need."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import SupportsIndex

RESUMABLE = 75
"""Exit status of what stopped early with nothing lost and can go on (the system's code for a temporary failure)."""


class LoopscopeError(Exception):
    """Bad input: the message is one line that says what was given, what was expected, and what to do."""


def nearest(given: str, options: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the option nearest to ``given``, or an empty string where none is near."""
    close = get_close_matches(given, list(options), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def check_choice(name: str, given: object, options: Iterable[str]) -> None:
    """Refuse a value that is not one of ``options``.

    Raises:
        LoopscopeError: naming the nearest option.
    """
    options = list(options)
    if given not in options:
        raise LoopscopeError(f"{name} is {given!r}, expected one of {', '.join(options)}{nearest(str(given), options)}")


def check_positive(**values: float) -> None:
    """Refuse values that are not above zero, or not finite, by name.

    Raises:
        LoopscopeError: naming the first such value.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise LoopscopeError(
                f"{name} is {value}, expected a {'finite ' if value == math.inf else ''}number above 0"
            )


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance on a relative residual that every state meets, or none.

    Raises:
        LoopscopeError: it is not between 0 and 1.

    Example:
        >>> check_tolerance(1000)
        Traceback (most recent call last):
            ...
        loopscope.errors.LoopscopeError: tolerance is 1000, expected a number between 0 and 1, such as 1e-4
    """
    if not 0 < tolerance < 1:
        raise LoopscopeError(f"tolerance is {tolerance:g}, expected a number between 0 and 1, such as 1e-4")


def check_count(**values: int) -> None:
    """Refuse values that are not whole numbers above zero, by name.

    Raises:
        LoopscopeError: naming the first such value.
    """
    for name, value in values.items():
        if not isinstance(value, SupportsIndex) or value.__index__() < 1:
            raise LoopscopeError(f"{name} is {value!r}, expected a whole number above 0")
