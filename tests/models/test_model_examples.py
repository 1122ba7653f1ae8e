"""The examples in the docstrings of models run and give what they show."""

import doctest
import importlib
import pkgutil

import pytest

from loopscope import models

MODULES = sorted(f"{models.__name__}.{module.name}" for module in pkgutil.iter_modules(models.__path__))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("unchecked")
def test_examples_give_what_they_show(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", models.__all__)
def test_every_public_name_has_an_example(name):
    assert doctest.DocTestFinder().find(getattr(models, name), name)[0].examples
