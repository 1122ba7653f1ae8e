"""The examples in the docstrings of loops, checks and measurements run and give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import loopscope as ls
from loopscope.stability import dependence, orbits, spectrum

FOLDERS = (dependence, orbits, spectrum)
MODULES = [
    *(f"loopscope.{name}" for name in ("checks", "contexts", "errors", "gmres", "jacobian", "loop", "trees")),
    *(f"loopscope.stability.{name}" for name in ("distances", "geometry", "starts")),
    *(f"{folder.__name__}.{module.name}" for folder in FOLDERS for module in pkgutil.iter_modules(folder.__path__)),
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=OPTIONS).failed == 0


@pytest.mark.parametrize("name", ["FunctionLoop", "Loop", "spectral_radius", "top_eigenvalues"])
def test_public_names_have_examples(name):
    assert doctest.DocTestFinder().find(getattr(ls, name), name)[0].examples
