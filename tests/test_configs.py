"""What the repository ships: configs that are plans."""

from __future__ import annotations

from pathlib import Path

from loopscope.studies import read_plan

ROOT = Path(__file__).parent.parent
RUNS = {
    "quick": 6,
    "cpu/chess": 4,
    "cpu/sudoku": 12,
    "paper/chess": 54,
    "paper/prefix-sums": 54,
    "paper/prefix-sums-cpu": 3,
    "paper/sudoku": 72,
}
"""Number of runs of each config, which falls if a grid loses a key."""


def test_every_config_is_a_plan_of_its_runs() -> None:
    folder = ROOT / "configs"
    found = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.yaml")}
    assert {name: len(read_plan(path).runs) for name, path in found.items()} == RUNS
