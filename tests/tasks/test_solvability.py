"""The search for one solution agrees with the compiled solver."""

from __future__ import annotations

import numpy as np
import pytest

from loopscope.tasks.sudoku.rules import solve_grids
from loopscope.tasks.sudoku.solvability import UNIT_CELLS, UNITS_OF, has_solution

SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def grid(text):
    return np.array([0 if cell == "." else int(cell) for cell in text], dtype=np.int8)


def test_units_are_rows_columns_and_boxes():
    assert UNIT_CELLS[1] == list(range(9, 18))
    assert UNIT_CELLS[9 + 2] == list(range(2, 81, 9))
    assert UNIT_CELLS[18 + 4] == [30, 31, 32, 39, 40, 41, 48, 49, 50]
    assert all(cell in UNIT_CELLS[unit] for cell in range(81) for unit in UNITS_OF[cell])
    assert {len(units) for units in UNITS_OF} == {3}


@pytest.mark.parametrize(
    ("puzzle", "solvable"),
    [
        ("." * 81, True),
        (SOLUTION, True),
        ("8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..", True),  # needs guesses
        ("55" + "." * 79, False),
        ("..1234567" + "8" + "." * 8 + "..." + "." * 6 + "." * 54, False),  # row 1 needs an 8 that column 1 has
    ],
)
def test_known_puzzles(puzzle, solvable):
    assert has_solution(grid(puzzle)) is solvable


def test_it_agrees_with_the_compiled_solver():
    """On grids with one to four digits changed, most of which have no solution."""
    generator = np.random.default_rng(0)
    puzzles = np.tile(grid(SOLUTION), (200, 1))
    for puzzle in puzzles:
        puzzle[generator.permutation(81)[: generator.integers(30, 60)]] = 0
        given = np.flatnonzero(puzzle)
        changed = generator.choice(given, size=generator.integers(0, 5), replace=False)
        puzzle[changed] = generator.integers(1, 10, size=len(changed))
    expected = solve_grids(puzzles).found != 0
    assert 20 < expected.sum() < 180
    assert [has_solution(puzzle) for puzzle in puzzles] == expected.tolist()


def test_a_search_without_guesses_left_does_not_decide():
    assert has_solution(grid("." * 81), most_guesses=10) is None
    assert has_solution(grid("55" + "." * 79), most_guesses=0) is False
