"""Shape strings in the package's signatures are checked at run time in every test, once for all arguments of the same shapes.

Functions whose signatures have no shapes are left to mypy, because checking a call takes longer than most of their calls.
"""

import builtins
import inspect
import re
from collections import defaultdict
from dataclasses import is_dataclass
from functools import partial, wraps
from typing import get_args

import jaxtyping
import pytest
import torch
from hypothesis import settings

# The first case of a test may compile for seconds, and other work may run beside: no property is about time.
settings.register_profile("loopscope", deadline=None)
settings.load_profile("loopscope")

_jaxtyped = jaxtyping.jaxtyped
_seen: defaultdict[tuple[str, str], set] = defaultdict(set)
"""The shapes with which this test called each function, in a set of its own, which its decorated form holds."""


def _has_shapes(annotation):
    """Return whether a type is, or contains, a jaxtyping array such as Float[Tensor, "batch tokens"]."""
    if isinstance(annotation, type) and issubclass(annotation, (jaxtyping.AbstractArray, jaxtyping.AbstractDtype)):
        return True
    bound = getattr(annotation, "__bound__", None)
    return any(map(_has_shapes, get_args(annotation))) or (bound is not None and _has_shapes(bound))


def _may_have_shapes(function):
    """Return whether a signature has shapes, or a name that is not defined yet and may stand for some."""
    known = {**vars(builtins), **function.__globals__}
    for annotation in function.__annotations__.values():
        names = re.findall(r"(?<![\w.])[A-Za-z_]\w*", annotation) if isinstance(annotation, str) else []
        types = [known.get(name, jaxtyping.Float) for name in names] or [annotation]
        if any(map(_has_shapes, types)):
            return True
    return False


def _shapes(arguments):
    """Return the shapes and types of tensors, and the types of other arguments."""
    return tuple([(one.shape, one.dtype) if isinstance(one, torch.Tensor) else type(one) for one in arguments])


def _checked(function=None, *, typechecker):
    """Decorate a function as jaxtyping does, but check its first call with arguments of the same shapes alone.

    A loop calls the same functions again and again, and a check takes longer than a small step. The checks are compiled at the
    first call that is checked. A function within another is made anew by each call of that one, so it shares what was seen, by
    its name, with those made before it.
    """
    if function is None:
        return partial(_checked, typechecker=typechecker)
    if inspect.isclass(function):
        if is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = _checked(function.__init__, typechecker=typechecker)
        return function
    if not inspect.isfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    if not _may_have_shapes(function):
        return function
    seen = _seen[function.__module__, function.__qualname__]
    checked = None

    @wraps(function)
    def call(*arguments, **named):
        __tracebackhide__ = True
        if torch.compiler.is_compiling() or (shapes := _shapes((*arguments, *named.values()))) in seen:
            return function(*arguments, **named)
        nonlocal checked
        checked = checked or _jaxtyped(function, typechecker=typechecker)
        seen.add(shapes)
        return checked(*arguments, **named)

    return call


# The numeric tower is what type checkers assume: an int serves where a float is asked for.
jaxtyping.jaxtyped = _checked
jaxtyping.install_import_hook("loopscope", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def forget_shapes():
    """Let every test check each function."""
    for seen in _seen.values():
        seen.clear()


@pytest.fixture
def undrawn(monkeypatch):
    """Draw empty figures: drawing a page takes longer than what most of its tests are about."""

    def savefig(figure, file, *, format, **options):
        file.write("<svg></svg>" if format == "svg" else b"")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)


@pytest.fixture
def here():
    """Do the runs of studies in this process."""
    from small_studies import runs_here

    with runs_here():
        yield


@pytest.fixture
def unchecked():
    """Switch these checks off, as they are for users: to see what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
