"""Shape strings in the package's signatures are checked at run time in every test, at the first calls of each function."""

import inspect
from collections import defaultdict
from dataclasses import is_dataclass
from functools import partial, wraps

import jaxtyping
import pytest
import torch
from hypothesis import settings

# The first case of a test may compile for seconds, and other work may run beside: no property is about time.
settings.register_profile("loopscope", deadline=None)
settings.load_profile("loopscope")

MOST_CHECKS = 20
"""A test checks this many calls of a function. A loop calls the same functions again and again, with the same shapes."""

_jaxtyped = jaxtyping.jaxtyped
_calls: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0])
"""The number of calls of each function in this test, in a list of its own, which its decorated form holds."""


def _checked(function=None, *, typechecker):
    """Decorate a function as jaxtyping does, but check its first calls alone: a check takes longer than a small step.

    The checks are compiled at the first call that is checked. A function within another is made anew by each call of that one,
    so it shares its count, by its name, with those made before it.
    """
    if function is None:
        return partial(_checked, typechecker=typechecker)
    if inspect.isclass(function):
        if is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = _checked(function.__init__, typechecker=typechecker)
        return function
    if not inspect.isfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    calls = _calls[function.__module__, function.__qualname__]
    if calls[0] >= MOST_CHECKS:
        return function
    checked = None

    @wraps(function)
    def call(*arguments, **named):
        __tracebackhide__ = True
        if torch.compiler.is_compiling() or calls[0] >= MOST_CHECKS:
            return function(*arguments, **named)
        nonlocal checked
        checked = checked or _jaxtyped(function, typechecker=typechecker)
        calls[0] += 1
        return checked(*arguments, **named)

    return call


# The numeric tower is what type checkers assume: an int serves where a float is asked for.
jaxtyping.jaxtyped = _checked
jaxtyping.install_import_hook("loopscope", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def count_checks():
    """Let every test check the first calls of each function."""
    for calls in _calls.values():
        calls[0] = 0


@pytest.fixture
def unchecked():
    """Switch these checks off, as they are for users: to see what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
