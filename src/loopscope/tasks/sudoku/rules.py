"""The rules of sudoku: solving with guesses counted until uniqueness is proved, and telling symmetric copies.

A set of digits is a bit mask, digit d at bit d - 1. Importing this module loads numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Int8, Int64, UInt64

from loopscope.tasks.sudoku.kernels import kernel

ALL = 511
MOST_GUESSES = 2_000_000
"""Guesses after which a search gives up: some seconds. The hardest puzzles known need some ten thousand."""

UNDECIDED = -1


def _units() -> np.ndarray:
    """Return the cells of the 27 rows, columns and boxes."""
    board = np.arange(81).reshape(9, 9)
    boxes = board.reshape(3, 3, 3, 3).swapaxes(1, 2).reshape(9, 9)
    return np.concatenate([board, board.T, boxes])


UNITS = _units()
BOX = np.array([3 * (cell // 27) + cell % 9 // 3 for cell in range(81)])
COUNT = np.array([bin(digits).count("1") for digits in range(ALL + 1)])
DIGIT = np.array([digits.bit_length() for digits in range(ALL + 1)])
ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


@kernel
@no_type_check
def place(grid, free, cell, digits):
    """Write the one digit of ``digits`` into an empty cell; return whether the rules allow it there."""
    row, column, box = cell // 9, 9 + cell % 9, 18 + BOX[cell]
    if not free[row] & free[column] & free[box] & digits:
        return False
    grid[cell] = DIGIT[digits]
    free[row] &= ~digits
    free[column] &= ~digits
    free[box] &= ~digits
    return True


@kernel
@no_type_check
def fill_singles(grid, free):
    """Fill naked and hidden singles until none is left; return the cell to guess at.

    Args:
        grid: changed in place.
        free: per unit the digits that it still lacks, changed in place.

    Returns:
        the first of the empty cells with the fewest candidates; -1 where the grid is full, -2 where it contradicts
        the rules.
    """
    candidates = np.empty(81, dtype=np.int64)
    while True:
        found, fewest, where = False, 10, -1
        for cell in range(81):
            candidates[cell] = 0
            if grid[cell] == 0:
                digits = free[cell // 9] & free[9 + cell % 9] & free[18 + BOX[cell]]
                candidates[cell] = digits
                if digits == 0:
                    return -2
                if COUNT[digits] == 1:
                    place(grid, free, cell, digits)
                    candidates[cell] = 0
                    found = True
                elif COUNT[digits] < fewest:
                    fewest, where = COUNT[digits], cell
        if found:
            continue
        if where == -1:
            return -1
        for unit in range(27):
            if free[unit] == 0:
                continue
            once, twice = 0, 0
            for k in range(9):
                digits = candidates[UNITS[unit, k]]
                twice |= once & digits
                once |= digits
            if once & free[unit] != free[unit]:
                return -2
            single = once & ~twice & free[unit]
            if single == 0:
                continue
            for k in range(9):
                cell = UNITS[unit, k]
                digits = candidates[cell] & single
                if digits and grid[cell] == 0:
                    if COUNT[digits] != 1 or not place(grid, free, cell, digits):
                        return -2
                    found = True
        if not found:
            return where


@kernel
@no_type_check
def set_up(puzzle, grid, free):
    """Write a puzzle's givens into an empty grid; return whether they keep the rules."""
    grid[:] = 0
    free[:] = ALL
    for cell in range(81):  # noqa: SIM110 (compiled)
        if puzzle[cell] and not place(grid, free, cell, 1 << (puzzle[cell] - 1)):
            return False
    return True


@kernel
@no_type_check
def search(puzzle, solution, most_solutions, most_guesses):
    """Search for a puzzle's solutions, each guess at the cell with the fewest candidates.

    Args:
        puzzle: 81 digits, 0 where empty.
        solution: the first solution is written here.
        most_solutions: solutions after which to stop.
        most_guesses: guesses after which to give up.

    Returns:
        solutions found (-1 where it gave up), and guesses made: every digit tried counts.
    """
    grids = np.zeros((82, 81), dtype=np.int8)
    frees = np.zeros((82, 27), dtype=np.int64)
    cells = np.zeros(82, dtype=np.int64)
    left = np.zeros(82, dtype=np.int64)
    solutions, guesses, depth = 0, 0, 0
    if not set_up(puzzle, grids[0], frees[0]):
        return 0, 0
    while True:
        cell = fill_singles(grids[depth], frees[depth])
        if cell == -1:
            solutions += 1
            if solutions == 1:
                solution[:] = grids[depth]
            if solutions == most_solutions:
                return solutions, guesses
        if cell >= 0:
            free = frees[depth]
            cells[depth] = cell
            left[depth] = free[cell // 9] & free[9 + cell % 9] & free[18 + BOX[cell]]
        else:
            depth -= 1
        while depth >= 0 and left[depth] == 0:
            depth -= 1
        if depth < 0:
            return solutions, guesses
        if guesses == most_guesses:
            return -1, guesses
        guesses += 1
        digit = left[depth] & -left[depth]
        left[depth] &= ~digit
        grids[depth + 1] = grids[depth]
        frees[depth + 1] = frees[depth]
        place(grids[depth + 1], frees[depth + 1], cells[depth], digit)
        depth += 1


@kernel
@no_type_check
def _search_all(puzzles, solutions, found, guesses, most_guesses):
    for i in range(len(puzzles)):
        found[i], guesses[i] = search(puzzles[i], solutions[i], 2, most_guesses)


@dataclass(frozen=True)
class Solved:
    """What a search found for each puzzle.

    Args:
        solutions: the first solution; zeros where there is none.
        found: solutions: 0, 1, 2 for several, or -1 where the search gave up.
        guesses: digits tried until that was known; with one solution, 0 says that singles solve the puzzle.
    """

    solutions: Int8[np.ndarray, "n 81"]
    found: Int64[np.ndarray, "n"]
    guesses: Int64[np.ndarray, "n"]


def solve(puzzles: Int8[np.ndarray, "n 81"], most_guesses: int = MOST_GUESSES) -> Solved:
    """Solve puzzles by singles and guesses, until each one's solution is known to be the only one."""
    solutions = np.zeros_like(puzzles)
    found, guesses = np.zeros((2, len(puzzles)), dtype=np.int64)
    _search_all(puzzles, solutions, found, guesses, most_guesses)
    return Solved(solutions, found, guesses)


@kernel
@no_type_check
def _smaller(ours, best, begin, end):
    """Return the sign of ours compared with best over the cells from begin up to end."""
    for i in range(begin, end):
        if ours[i] != best[i]:
            return -1 if ours[i] < best[i] else 1
    return 0


@kernel
@no_type_check
def _order_six_columns(upper, lower, corner, turns, columns, label):
    """Write the first six columns of an order, and their labels; the digits of the third stack are labelled 7.

    Relabelling makes the first row 1-9. For the second row to be smallest it must begin with 4: the column with its
    first digit comes fourth. What is left open in two stacks is the order of two columns each: the bits of ``turns``.
    """
    fourth = 0
    while upper[fourth] != lower[corner]:
        fourth += 1
    label[:] = 7
    columns[0], columns[3] = corner, fourth
    for k in (1, 2):
        columns[k] = corner // 3 * 3 + (corner + (k if turns & 1 else 3 - k)) % 3
        columns[3 + k] = fourth // 3 * 3 + (fourth + (k if turns & 2 else 3 - k)) % 3
    for k in range(6):
        label[upper[columns[k]]] = k + 1


@kernel
@no_type_check
def _too_large(lower, columns, label, best):
    """Return whether no order of the third stack can make the second row as small as the best."""
    for k in range(6):
        least = label[lower[columns[k]]]
        if least != best[9 + k]:
            return least > best[9 + k]
        if least == 7:
            return False
    return False


@kernel
@no_type_check
def _order_rows(grid, first, second, column, label, rows):
    """Write the order of rows that makes a grid smallest, given its first two: by the digits of the first column."""
    rows[0], rows[1], rows[2] = first, second, first // 3 * 9 + 3 - first - second
    for b in range(2):
        band = (first // 3 + 1 + b) % 3
        for k in range(3):
            rows[3 + 3 * b + k] = 3 * band + k
        for i in range(2):
            for k in range(2 - i):
                at = 3 + 3 * b + k
                if label[grid[rows[at], column]] > label[grid[rows[at + 1], column]]:
                    rows[at], rows[at + 1] = rows[at + 1], rows[at]
    if label[grid[rows[3], column]] > label[grid[rows[6], column]]:
        for k in range(3):
            rows[3 + k], rows[6 + k] = rows[6 + k], rows[3 + k]


@kernel
@no_type_check
def canonical(puzzle, solution, best, best_puzzle):
    """Write the form that all symmetric copies of a puzzle share, and no other puzzle.

    Of all forms of its solution the smallest, read row by row, and of the puzzles that go with it the smallest: a
    symmetric grid has several ways to its smallest form, which may differ in the puzzle.
    """
    best[:] = 10
    best_puzzle[:] = 10
    grid, given = np.empty((9, 9), dtype=np.int8), np.empty((9, 9), dtype=np.int8)
    ours, ours_puzzle = np.empty(81, dtype=np.int8), np.empty(81, dtype=np.int8)
    columns, rows, label = np.empty(9, dtype=np.int64), np.empty(9, dtype=np.int64), np.empty(10, dtype=np.int8)
    for turned in range(2):
        for row in range(9):
            for column in range(9):
                cell = 9 * column + row if turned else 9 * row + column
                grid[row, column], given[row, column] = solution[cell], puzzle[cell] != 0
        for pair in range(18):
            first = pair // 2
            second = first // 3 * 3 + (first + 1 + pair % 2) % 3
            for corner in range(9):
                for turns in range(4):
                    _order_six_columns(grid[first], grid[second], corner, turns, columns, label)
                    if _too_large(grid[second], columns, label, best):
                        continue
                    third = 3 * (3 - columns[0] // 3 - columns[3] // 3)
                    for order in range(6):
                        for k in range(3):
                            columns[6 + k] = third + ORDERS[order, k]
                            label[grid[first, columns[6 + k]]] = 7 + k
                        for k in range(9):
                            ours[k] = k + 1
                            ours[9 + k] = label[grid[second, columns[k]]]
                        sign = _smaller(ours, best, 9, 18)
                        if sign > 0:
                            continue
                        _order_rows(grid, first, second, columns[0], label, rows)
                        for i in range(2, 9):
                            for k in range(9):
                                ours[9 * i + k] = label[grid[rows[i], columns[k]]]
                            sign = sign or _smaller(ours, best, 9 * i, 9 * i + 9)
                            if sign > 0:
                                break
                        if sign > 0:
                            continue
                        for i in range(9):
                            for k in range(9):
                                ours_puzzle[9 * i + k] = ours[9 * i + k] * given[rows[i], columns[k]]
                        if sign < 0 or _smaller(ours_puzzle, best_puzzle, 0, 81) < 0:
                            best[:] = ours
                            best_puzzle[:] = ours_puzzle


@kernel
@no_type_check
def _classes(puzzles, solutions, classes):
    best, best_puzzle = np.empty(81, dtype=np.int8), np.empty(81, dtype=np.int8)
    for i in range(len(puzzles)):
        canonical(puzzles[i], solutions[i], best, best_puzzle)
        code = np.uint64(14695981039346656037)  # FNV-1a over the digits, then one round of mixing
        for digit in best_puzzle:
            code = (code ^ np.uint64(digit)) * np.uint64(1099511628211)
        code = (code ^ (code >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        classes[i] = code ^ (code >> np.uint64(33))


def symmetry_classes(puzzles: Int8[np.ndarray, "n 81"], solutions: Int8[np.ndarray, "n 81"]) -> UInt64[np.ndarray, "n"]:
    """Return numbers that are equal where puzzles are symmetric copies, with their only solutions given.

    They are hashes of 64 bits of an exact canonical form: among a million puzzles, two that are no copies share a
    number with a probability of 3e-8.
    """
    classes = np.zeros(len(puzzles), dtype=np.uint64)
    _classes(puzzles, solutions, classes)
    return classes


def canonical_forms(puzzles: Int8[np.ndarray, "n 81"], solutions: Int8[np.ndarray, "n 81"]) -> Int8[np.ndarray, "n 81"]:
    """Return the form of each puzzle that it shares with its symmetric copies and with no other puzzle."""
    forms = np.empty_like(puzzles)
    best = np.empty(81, dtype=np.int8)
    for puzzle, solution, form in zip(puzzles, solutions, forms, strict=True):
        canonical(puzzle, solution, best, form)
    return forms
