"""Sudoku made by the project: puzzles with one solution, from few givens to many, graded by guesses.

A random solved grid loses givens in random order while the puzzle stays right, which ends at some 24 givens. Moves lead
on to fewer givens or to more guesses: two givens leave, others come back until the puzzle is right again, it is thinned
out once more, and the result stays if it is no worse. Importing this module loads numba.
"""

# ruff: noqa: NPY002 (compiled code knows no other generator; each puzzle seeds its thread's own)
from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numpy as np
from jaxtyping import Int8, UInt32

from loopscope.errors import check_choice
from loopscope.tasks.sudoku.kernels import kernel
from loopscope.tasks.sudoku.puzzles import Puzzles, without_copies
from loopscope.tasks.sudoku.rules import (
    ALL,
    BOX,
    COUNT,
    MOST_GUESSES,
    fill_singles,
    place,
    search,
    set_up,
    solve,
    symmetry_classes,
)

KINDS = ("singles", "search", "hard")
SINGLES, SEARCH, HARD = range(3)

FEWEST, MOST = 19, 36
"""The numbers of givens that are aimed at, each as often; those below 21 are not always reached."""

LEAST_GUESSES, MOST_AIMED = 4, 400
"""The numbers of guesses that hard puzzles are aimed at, as often in each doubling."""

MOVES = 100
CHUNK = 64


@kernel
@no_type_check
def random_solution(grid, free):
    """Fill a grid at random: guesses at the cell with the fewest candidates, from the start where they go wrong."""
    while True:
        grid[:] = 0
        free[:] = ALL
        while True:
            cell = fill_singles(grid, free)
            if cell == -1:
                return
            if cell == -2:
                break
            digits = free[cell // 9] & free[9 + cell % 9] & free[18 + BOX[cell]]
            for _ in range(np.random.randint(COUNT[digits])):
                digits &= digits - 1
            place(grid, free, cell, digits & -digits)


@kernel
@no_type_check
def is_right(puzzle, kind, grid, free):
    """Return whether singles solve a puzzle of the kind singles, or whether any other has exactly one solution."""
    if kind == SINGLES:
        return set_up(puzzle, grid, free) and fill_singles(grid, free) == -1
    return search(puzzle, grid, 2, MOST_GUESSES)[0] == 1


@kernel
@no_type_check
def thin(puzzle, fewest, kind, grid, free):
    """Take givens away in random order while the puzzle stays right and has more than ``fewest``."""
    givens = np.count_nonzero(puzzle)
    for cell in np.random.permutation(81):
        if givens <= fewest:
            return
        digit = puzzle[cell]
        if digit:
            puzzle[cell] = 0
            if is_right(puzzle, kind, grid, free):
                givens -= 1
            else:
                puzzle[cell] = digit


@kernel
@no_type_check
def move(puzzle, solution, fewest, kind, grid, free):
    """Take two givens away, give others until the puzzle is right, and thin it out."""
    taken = 0
    for cell in np.random.permutation(81):
        if puzzle[cell] and taken < 2:
            puzzle[cell] = 0
            taken += 1
    for cell in np.random.permutation(81):
        if puzzle[cell] == 0:
            puzzle[cell] = solution[cell]
            if is_right(puzzle, kind, grid, free):
                break
    thin(puzzle, fewest, kind, grid, free)


@kernel
@no_type_check
def merit(puzzle, kind, grid):
    """Return what moves must not lower: guesses of a hard puzzle, empty cells of any other."""
    if kind == HARD:
        return search(puzzle, grid, 2, MOST_GUESSES)[1]
    return 81 - np.count_nonzero(puzzle)


@kernel
@no_type_check
def make(seed, aim, kind, moves, puzzle, solution):
    """Write one puzzle and its solution; it stops at the merit aimed at, or after so many moves."""
    np.random.seed(seed)
    grid, free = np.empty(81, dtype=np.int8), np.empty(27, dtype=np.int64)
    fewest = 17 if kind == HARD else 81 - aim
    random_solution(solution, free)
    puzzle[:] = solution
    thin(puzzle, fewest, kind, grid, free)
    reached = merit(puzzle, kind, grid)
    for _ in range(moves):
        if reached >= aim:
            return
        changed = puzzle.copy()
        move(changed, solution, fewest, kind, grid, free)
        now = merit(changed, kind, grid)
        if now >= reached:
            puzzle[:] = changed
            reached = now


@kernel
@no_type_check
def _make_all(seeds, aims, kind, moves, puzzles, solutions):
    for i in range(len(seeds)):
        make(seeds[i], aims[i], kind, moves, puzzles[i], solutions[i])


def _aims(count: int, kind: str, seed: int) -> np.ndarray:
    """Return the merit that each puzzle is to reach."""
    draw = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "hard":
        return np.exp(draw.uniform(np.log(LEAST_GUESSES), np.log(MOST_AIMED), count)).astype(np.int64)
    return 81 - draw.integers(FEWEST, MOST + 1, count)


def generate(
    count: int, seed: int = 0, kind: str = "singles", on_made: Callable[[int], None] | None = None
) -> tuple[Int8[np.ndarray, "n 81"], Int8[np.ndarray, "n 81"]]:
    """Return puzzles with exactly one solution each, and the solutions; the same for the same arguments.

    Args:
        count: how many.
        seed: of everything random.
        kind: singles: solved by naked and hidden singles, each number of givens from 19 to 36 as often, though not
            always reached below 21; search: one solution, givens likewise; hard: one solution, and moves towards many
            guesses, 4 to 400 aimed at.
        on_made: called with how many more were made, as they are; from other threads.

    Raises:
        LoopscopeError: there is no such kind.
    """
    check_choice("kind", kind, KINDS)
    puzzles, solutions = np.zeros((2, count, 81), dtype=np.int8)
    seeds: UInt32[np.ndarray, "n"] = np.random.SeedSequence([seed, KINDS.index(kind)]).generate_state(count)
    aims = _aims(count, kind, seed)

    def fill(begin: int) -> None:
        rows = slice(begin, begin + CHUNK)
        _make_all(seeds[rows], aims[rows], KINDS.index(kind), MOVES, puzzles[rows], solutions[rows])
        if on_made is not None:
            on_made(len(seeds[rows]))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(0, count, CHUNK)))
    return puzzles, solutions


def generated_puzzles(count: int, seed: int = 0, on_made: Callable[[int], None] | None = None) -> Puzzles:
    """Return about ``count`` graded puzzles, most of them solved by singles, no two of them symmetric copies.

    Seven tenths are of the kind singles, two of search, one of hard (see ``generate``); the kinds are the sources.
    """
    counts = {"singles": count - 3 * (count // 10), "search": 2 * (count // 10), "hard": count // 10}
    parts = [generate(share, seed, kind, on_made) for kind, share in counts.items()]
    puzzles, solutions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    sources = np.repeat(np.arange(len(KINDS)), list(counts.values()))
    classes = symmetry_classes(puzzles, solutions)
    return without_copies(Puzzles(puzzles, solutions, solve(puzzles).guesses, classes, sources, KINDS))
