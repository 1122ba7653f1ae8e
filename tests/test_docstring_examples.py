"""Every public name has an example, and the examples in all docstrings of the package give the output that they show."""

import doctest
import importlib
import pkgutil

import pytest

import loopscope
from loopscope import models

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [
    loopscope.__name__,
    *sorted(
        module.name
        for module in pkgutil.walk_packages(loopscope.__path__, f"{loopscope.__name__}.")
        if not module.name.endswith("__main__")
    ),
]


@pytest.mark.parametrize("name", loopscope.__all__)
def test_a_public_name_has_an_example(name):
    assert ">>>" in (getattr(loopscope, name).__doc__ or "")


@pytest.mark.parametrize("name", models.__all__)
def test_a_public_name_of_models_has_an_example(name):
    assert ">>>" in (getattr(models, name).__doc__ or "")


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("unchecked")
def test_the_examples_of_a_module_give_the_output_they_show(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=OPTIONS).failed == 0
