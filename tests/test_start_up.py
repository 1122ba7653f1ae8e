"""Which modules the package loads, and when: what is slow to load is loaded by what needs it."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path

import pytest
from subprocesses import modules_loaded_by

import loopscope

THIRD_PARTY = {
    *(
        "accelerate",
        "chess",
        "gradio",
        "huggingface_hub",
        "jaxtyping",
        "jsonargparse",
        "matplotlib",
        "numba",
        "numpy",
        "plotly",
    ),
    *("ray", "rich", "safetensors", "scipy", "sklearn", "torch", "yaml", "zstandard"),
}
NOT_TO_SOLVE = {
    *(
        "accelerate",
        "chess",
        "gradio",
        "huggingface_hub",
        "matplotlib",
        "numba",
        "pandas",
        "plotly",
        "ray",
        "scipy.stats",
    ),
    *("sklearn", "sympy", "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "transformers", "zstandard"),
    *("loopscope.reports.kit.charts", "loopscope.studies", "loopscope.training.trainer"),
}
PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


def of(names: set[str], loaded: set[str]) -> list[str]:
    """Return which of some packages or modules are loaded."""
    return sorted(name for name in names if name in loaded)


def test_importing_the_package_loads_no_other():
    loaded = modules_loaded_by("import loopscope")
    assert of(THIRD_PARTY, loaded) == []
    assert {name for name in loaded if name.startswith("loopscope.")} == {"loopscope.errors"}


@pytest.mark.parametrize("arguments", ["--help", "--version", "", "tarin"])
def test_help_and_unknown_commands_load_no_other_package(arguments):
    loaded = modules_loaded_by(f"import loopscope.cli\nloopscope.cli.main({arguments.split()})")
    assert of(THIRD_PARTY, loaded) == []


def test_solving_a_sudoku_loads_only_what_that_takes():
    program = "import loopscope.cli, sys\nloopscope.cli.main(sys.argv[1:])"
    loaded = modules_loaded_by(program, "solve", "sudoku", PUZZLE, "--max-iterations", "2")
    assert "loopscope.answers.answerer" in loaded
    assert of(NOT_TO_SOLVE, loaded) == []


def test_a_loop_of_ones_own_becomes_an_exhibit_without_gradio():
    assert of({"gradio", "matplotlib"}, modules_loaded_by("import loopscope.lab, loopscope.lab.stage")) == []


def test_every_public_name_is_found_and_listed():
    assert set(loopscope.__all__) <= set(dir(loopscope))
    for name in loopscope.__all__:
        assert getattr(loopscope, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'loopscope' has no attribute 'exmaine'"):
        loopscope.exmaine  # noqa: B018


def test_type_checkers_see_the_names_that_are_imported_on_first_use():
    tree = ast.parse(Path(loopscope.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in checked.body for alias in node.names}
    assert seen == loopscope._HOME_OF
    assert set(loopscope.__all__) == {*seen, "LoopscopeError"}


def test_no_public_name_is_that_of_a_submodule():
    """A submodule becomes an attribute of the package when it is imported, and would take the name's place."""
    submodules = {module.name for module in pkgutil.iter_modules(loopscope.__path__)}
    assert submodules & set(loopscope.__all__) == set()
