"""The names of machines and of the code that training runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import loopscope
from loopscope.studies.machine import TRAINING, code


def test_the_code_of_training_has_a_hash_of_its_own(tmp_path):
    """It changes with any change to the code of a model, and does not depend on reports."""
    for name in ("loop.py", "models/block.py", "reports/page.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a + b")
    names = []
    for file in ("reports/page.py", "models/block.py"):
        code.cache_clear()
        names.append(code(tmp_path))
        (tmp_path / file).write_text("b + a")
    code.cache_clear()
    assert names[0] == names[1] != code(tmp_path)


@pytest.mark.parametrize("name", TRAINING)
def test_the_code_of_training_is_where_the_hash_looks_for_it(name):
    """A file that was renamed would leave the hash without a word."""
    assert (Path(loopscope.__file__).parent / name).exists()
