"""The exception for users' mistakes, the warning, and checks of choices and numbers that most modules need."""

import math
import operator
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

RESUMABLE = 75
"""Exit status of a command that stopped early and can be resumed without loss (EX_TEMPFAIL in sysexits.h)."""


class LoopscopeError(Exception):
    """Bad input: the message is one line that says what was given, what was expected, and what to do.

    Example:
        >>> import loopscope as ls
        >>> try:
        ...     ls.EvaluationConfig(iterations=0)
        ... except ls.LoopscopeError as error:
        ...     print(error)
        iterations is 0, expected a number above 0
    """


class NotDefinedError(LoopscopeError):
    """A quantity is not defined for this loop, such as a derivative with respect to token ids. This is not a failure."""


class StoppedError(LoopscopeError):
    """Work was ended because its time was over, so its result is missing."""


class LoopscopeWarning(UserWarning):
    """A result is returned although it may not be what was asked for. The message says what is wrong with it."""


def nearest(given: str, options: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the option nearest to ``given``, or an empty string if none is near."""
    close = get_close_matches(given, list(options), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def check_choice(name: str, given: object, options: Iterable[str]) -> None:
    """Refuse a value that is not one of ``options``.

    Raises:
        LoopscopeError: the value is not an option; the message names the nearest one.
    """
    options = list(options)
    if given not in options:
        raise LoopscopeError(f"{name} is {given!r}, expected one of {', '.join(options)}{nearest(str(given), options)}")


def check_positive(**values: float) -> None:
    """Refuse values that are not finite numbers above zero.

    Raises:
        LoopscopeError: a value is refused; the message names the first one.

    Example:
        >>> check_positive(learning_rate=-1.0)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: learning_rate is -1.0, expected a number above 0
    """
    for name, value in values.items():
        number = _as_number(value)
        if number is None or not 0 < number < math.inf:
            finite = "finite " if number == math.inf else ""
            raise LoopscopeError(f"{name} is {_shown(value)}, expected a {finite}number above 0")


def check_fraction(**values: float) -> None:
    """Refuse values that are not numbers above 0 and at most 1.

    Raises:
        LoopscopeError: a value is refused; the message names the first one.

    Example:
        >>> check_fraction(damping=1.5)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: damping is 1.5, expected a number above 0 and at most 1
    """
    for name, value in values.items():
        number = _as_number(value)
        if number is None or not 0 < number <= 1:
            raise LoopscopeError(f"{name} is {_shown(value)}, expected a number above 0 and at most 1")


def check_count(**values: int) -> None:
    """Refuse values that are not whole numbers above zero. True and False are not numbers.

    Raises:
        LoopscopeError: a value is refused; the message names the first one.

    Example:
        >>> check_count(max_iterations=0)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: max_iterations is 0, expected a whole number above 0
    """
    for name, value in values.items():
        number = _as_whole_number(value)
        if number is None or number < 1:
            raise LoopscopeError(f"{name} is {_shown(value)}, expected a whole number above 0")


LARGEST_HISTORY = 2**31
"""Bytes that may be kept of what happens at every iteration."""
MOST_ITERATIONS = 10**6
"""Iterations that may be recorded, however few inputs there are: results hold several numbers of each."""


def check_history(iterations: int, bytes_each: int) -> None:
    """Refuse more iterations than a record of each can be kept of.

    Args:
        iterations: the budget.
        bytes_each: bytes that are kept for each iteration.

    Raises:
        LoopscopeError: there are more than `MOST_ITERATIONS`, or the record would take more than `LARGEST_HISTORY` bytes.

    Example:
        >>> check_history(10**9, bytes_each=1000)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: iterations is 1,000,000,000, expected at most 1,000,000 for these inputs, ...
    """
    most = min(MOST_ITERATIONS, LARGEST_HISTORY // max(1, bytes_each))
    if iterations > most:
        raise LoopscopeError(
            f"iterations is {iterations:,}, expected at most {most:,} for these inputs, since every iteration of each is "
            "recorded: lower it, or give fewer inputs"
        )


def check_count_or_zero(**values: int) -> None:
    """Refuse values that are not whole numbers of at least zero.

    Raises:
        LoopscopeError: a value is refused; the message names the first one.

    Example:
        >>> check_count_or_zero(plain_iterations=-1)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: plain_iterations is -1, expected a whole number of at least 0
    """
    for name, value in values.items():
        number = _as_whole_number(value)
        if number is None or number < 0:
            raise LoopscopeError(f"{name} is {_shown(value)}, expected a whole number of at least 0")


def check_seed(seed: int) -> None:
    """Refuse a seed that PyTorch's generators do not accept.

    Raises:
        LoopscopeError: it is not a whole number, or not between -2**63 and 2**64 - 1.

    Example:
        >>> check_seed(2**64)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: seed is 18446744073709551616, expected a whole number from -2**63 to 2**64 - 1
    """
    number = _as_whole_number(seed)
    if number is None or not -(2**63) <= number < 2**64:
        raise LoopscopeError(f"seed is {_shown(seed)}, expected a whole number from -2**63 to 2**64 - 1")


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance on relative residuals that is not between 0 and 1, which every state would meet, or none.

    Raises:
        LoopscopeError: the tolerance is refused; the message names its value.

    Example:
        >>> check_tolerance(1000)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: tolerance is 1000, expected a number between 0 and 1, such as 1e-4
    """
    number = _as_number(tolerance)
    if number is None or not 0 < number < 1:
        given = _shown(tolerance) if number is None else f"{number:g}"
        raise LoopscopeError(f"tolerance is {given}, expected a number between 0 and 1, such as 1e-4")


def _as_number(value: Any) -> float | None:
    """Return a real number as a float; None for anything else, text and truth values included."""
    if isinstance(value, bool | str | bytes):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def _as_whole_number(value: Any) -> int | None:
    """Return a whole number; None for anything else, truth values included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        return None


def _shown(value: Any) -> str:
    """Return a value as an error message shows it: text in quotes, and anything too long for one line shortened."""
    try:
        text = repr(value) if isinstance(value, str | bytes) else str(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 60
"""Largest number of characters of a value that an error message shows."""
