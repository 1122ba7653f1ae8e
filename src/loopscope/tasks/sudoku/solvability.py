"""A search in plain Python for whether one sudoku puzzle has a solution.

``loopscope.tasks.sudoku.rules`` solves many puzzles with compiled code. For a single puzzle, loading the compiler would take
longer than the search.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int8

ALL = (1 << 9) - 1
UNIT_CELLS = [
    *([9 * row + column for column in range(9)] for row in range(9)),
    *([9 * row + column for row in range(9)] for column in range(9)),
    *([27 * (box // 3) + 3 * (box % 3) + 9 * (k // 3) + k % 3 for k in range(9)] for box in range(9)),
]
"""The cells of the 27 rows, columns and boxes."""
UNITS_OF = [[unit for unit in range(27) if cell in UNIT_CELLS[unit]] for cell in range(81)]
"""The three units of each cell."""

MOST_GUESSES = 20_000
"""Guesses after which the search gives up, a few seconds. Most puzzles need fewer than a hundred."""


def has_solution(puzzle: Int8[np.ndarray, "81"], most_guesses: int = MOST_GUESSES) -> bool | None:
    """Return whether a puzzle has a solution; None if the search gave up.

    Args:
        puzzle: digits in row-major order, 0 for an empty cell.
        most_guesses: guesses after which to give up.

    Example:
        >>> has_solution(np.zeros(81, dtype=np.int8))
        True
    """
    lacking = [ALL] * 27  # per unit, the digits that it still lacks: digit d at bit d - 1
    empty = []
    for cell, digit in enumerate(puzzle.tolist()):
        if digit == 0:
            empty.append(cell)
        elif not _place(lacking, cell, 1 << (digit - 1)):
            return False
    return _search(lacking, empty, iter(range(most_guesses)))


def _place(lacking: list[int], cell: int, digit: int) -> bool:
    """Remove a digit from what the units of a cell lack. Return whether all three lacked it."""
    possible = all(lacking[unit] & digit for unit in UNITS_OF[cell])
    for unit in UNITS_OF[cell]:
        lacking[unit] &= ~digit
    return possible


def _choices(lacking: list[int], empty: list[int]) -> tuple[list[tuple[int, int]], bool]:
    """Return the smallest set of choices, one of which must be right, and whether it is empty: a contradiction.

    The choices are pairs of cell and digit: the candidates of one cell, or the places of one digit in one unit.
    """
    fewest: list[tuple[int, int]] | None = None
    candidates = {}
    for cell in empty:
        row, column, box = UNITS_OF[cell]
        digits = lacking[row] & lacking[column] & lacking[box]
        candidates[cell] = digits
        if fewest is None or digits.bit_count() < len(fewest):
            fewest = [(cell, 1 << bit) for bit in range(9) if digits >> bit & 1]
            if len(fewest) <= 1:
                return fewest, not fewest
    for unit, digits in enumerate(lacking):
        for bit in range(9):
            if digits >> bit & 1:
                places = [(cell, 1 << bit) for cell in UNIT_CELLS[unit] if candidates.get(cell, 0) >> bit & 1]
                if fewest is None or len(places) < len(fewest):
                    fewest = places
                    if len(fewest) <= 1:
                        return fewest, not fewest
    return fewest or [], False


def _search(lacking: list[int], empty: list[int], guesses: Iterator[int]) -> bool | None:
    """Return whether the empty cells can be filled. Both lists are changed; ``guesses`` yields once per allowed guess."""
    while empty:
        choices, contradiction = _choices(lacking, empty)
        if contradiction:
            return False
        if len(choices) == 1:
            cell, digit = choices[0]
            _place(lacking, cell, digit)
            empty.remove(cell)
            continue
        for cell, digit in choices:
            if next(guesses, None) is None:
                return None
            tried = list(lacking)
            _place(tried, cell, digit)
            found = _search(tried, [other for other in empty if other != cell], guesses)
            if found is not False:
                return found
        return False
    return True
