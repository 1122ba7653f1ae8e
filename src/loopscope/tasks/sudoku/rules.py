"""The rules of sudoku: solving, counting the guesses that prove uniqueness, and recognizing symmetric copies.

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
"""Guesses after which a search gives up, a few seconds. The hardest known puzzles need about ten thousand."""

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
    """Write the single digit in ``digits`` into an empty cell. Return whether the rules allow it."""
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
    """Fill naked and hidden singles until none is left, and return the cell to guess at.

    Args:
        grid: the grid; changed in place.
        free: digits that each unit still lacks; changed in place.

    Returns:
        The first empty cell with the fewest candidates; -1 if the grid is full, -2 if it contradicts the rules.
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
    """Write the givens of a puzzle into an empty grid. Return whether they obey the rules."""
    grid[:] = 0
    free[:] = ALL
    for cell in range(81):  # noqa: SIM110 (compiled)
        if puzzle[cell] and not place(grid, free, cell, 1 << (puzzle[cell] - 1)):
            return False
    return True


@kernel
@no_type_check
def search(puzzle, solution, most_solutions, most_guesses):
    """Search for the solutions of a puzzle, guessing at the cell with the fewest candidates.

    Args:
        puzzle: 81 digits, 0 for an empty cell.
        solution: array that receives the first solution.
        most_solutions: number of solutions after which to stop.
        most_guesses: number of guesses after which to give up.

    Returns:
        The number of solutions (-1 if the search gave up) and the number of guesses, one for each digit tried.
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
    """Result of a search, one row per puzzle.

    Args:
        solutions: first solution; zeros if there is none.
        found: number of solutions: 0, 1, 2 for several, or -1 if the search gave up.
        guesses: number of digits tried. A puzzle with one solution and 0 guesses is solved by singles.
    """

    solutions: Int8[np.ndarray, "n 81"]
    found: Int64[np.ndarray, "n"]
    guesses: Int64[np.ndarray, "n"]


def solve_grids(puzzles: Int8[np.ndarray, "n 81"], most_guesses: int = MOST_GUESSES) -> Solved:
    """Solve puzzles by singles and guesses, and decide whether each solution is unique."""
    solutions = np.zeros_like(puzzles)
    found, guesses = np.zeros((2, len(puzzles)), dtype=np.int64)
    _search_all(puzzles, solutions, found, guesses, most_guesses)
    return Solved(solutions, found, guesses)


@kernel
@no_type_check
def _smaller(ours, best, begin, end):
    """Compare ours with best over the cells from begin up to end, and return the sign."""
    for i in range(begin, end):
        if ours[i] != best[i]:
            return -1 if ours[i] < best[i] else 1
    return 0


@kernel
@no_type_check
def _order_six_columns(upper, lower, corner, turns, columns, label):
    """Write the first six columns of an order and their labels. The digits of the third stack are labelled 7.

    Relabelling makes the first row 1-9. The smallest second row begins with 4, so the column of its first digit comes
    fourth. In each of the two stacks, the order of two columns remains free: the bits of ``turns`` choose it.
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
    """Write the order of rows that gives the smallest grid with these first two rows, sorting by the first column."""
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
    """Write the canonical form of a puzzle, which it shares with its symmetric copies and with no other puzzle.

    The canonical solution is the lexicographically smallest symmetric copy of the solution. Several symmetries may lead
    to it if the solution is symmetric itself; the canonical puzzle is the smallest of their puzzles.
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
    """Return a number per puzzle that is equal for symmetric copies, given the unique solutions.

    The numbers are 64-bit hashes of an exact canonical form. The probability of a collision among a million puzzles is
    3e-8.
    """
    classes = np.zeros(len(puzzles), dtype=np.uint64)
    _classes(puzzles, solutions, classes)
    return classes


def canonical_forms(puzzles: Int8[np.ndarray, "n 81"], solutions: Int8[np.ndarray, "n 81"]) -> Int8[np.ndarray, "n 81"]:
    """Return the canonical form of each puzzle, equal for symmetric copies only."""
    forms = np.empty_like(puzzles)
    best = np.empty(81, dtype=np.int8)
    for puzzle, solution, form in zip(puzzles, solutions, forms, strict=True):
        canonical(puzzle, solution, best, form)
    return forms
