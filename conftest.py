"""Shape strings in the package's signatures are checked at run time in every test, at the first calls of each function."""

import inspect
from collections import Counter
from dataclasses import is_dataclass
from functools import partial, wraps

import jaxtyping
import pytest
import torch
from hypothesis import settings

# The first case of a test may compile for seconds, and other work may run beside: no property is about time.
settings.register_profile("loopscope", deadline=None)
settings.load_profile("loopscope")

MOST_CHECKS = 100
"""A test checks this many calls of a function. A loop calls the same functions again and again, with the same shapes."""

_jaxtyped, _calls = jaxtyping.jaxtyped, Counter()


def _checked(function=None, *, typechecker):
    """Decorate a function as jaxtyping does, but check its first calls alone: a check takes longer than a small step."""
    if function is None:
        return partial(_checked, typechecker=typechecker)
    if inspect.isclass(function):
        if is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = _checked(function.__init__, typechecker=typechecker)
        return function
    if not inspect.isfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    # A function within another is made and decorated anew by each call of that one, under the same name.
    name = function.__module__, function.__qualname__
    if _calls[name] >= MOST_CHECKS:
        return function
    checked = _jaxtyped(function, typechecker=typechecker)

    @wraps(function)
    def call(*arguments, **named):
        __tracebackhide__ = True
        if torch.compiler.is_compiling() or _calls[name] >= MOST_CHECKS:
            return function(*arguments, **named)
        _calls[name] += 1
        return checked(*arguments, **named)

    return call


# The numeric tower is what type checkers assume: an int serves where a float is asked for.
jaxtyping.jaxtyped = _checked
jaxtyping.install_import_hook("loopscope", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def count_checks():
    """Let every test check the first calls of each function."""
    _calls.clear()


@pytest.fixture
def unchecked():
    """Switch these checks off, as they are for users: to see what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
