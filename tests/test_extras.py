"""Optional packages: listed where they are installed from, and named where they are missing."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from loopscope.errors import LoopscopeError
from loopscope.extras import EXTRAS, NAMES, check_installed, install_command, is_installed, require

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
PACKAGE_OF = {"pytorch_lightning": "pytorch-lightning", "sklearn": "scikit-learn"}
"""The names on PyPI that are not those of the modules."""


def names_in(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_each_package_is_in_its_extra_and_not_required():
    for package, extra in EXTRAS.items():
        name = PACKAGE_OF.get(package, package)
        assert name in names_in(OPTIONAL[extra])
        assert name not in names_in(PROJECT["dependencies"])


def test_all_and_dev_include_every_extra():
    (every,) = OPTIONAL["all"]
    # Third-party models are no feature of this package.
    assert set(re.search(r"\[(.*)\]", every)[1].split(",")) | {"models"} == set(EXTRAS.values())
    (own,) = [entry for entry in OPTIONAL["dev"] if entry.startswith("loopscope[")]
    assert "all" in re.search(r"\[(.*)\]", own)[1].split(",")


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_one_line_that_names_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert not is_installed(package)
    for ask in (require, check_installed):
        with pytest.raises(LoopscopeError) as refused:
            ask(package, "this feature")
        assert str(refused.value) == (
            f"this feature needs {NAMES.get(package, package)}, which is not installed: "
            f'pip install "loopscope[{EXTRAS[package]}]"'
        )
        assert install_command(package) in str(refused.value)


def test_a_package_that_is_there_is_returned():
    assert require("zstandard", "this feature") is sys.modules["zstandard"]
