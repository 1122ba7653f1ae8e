"""Generation of sudoku puzzles with one solution, over a range of givens, graded by guesses.

A random solved grid loses givens in random order as long as the puzzle stays valid, which ends near 24 givens. Local search
then moves towards fewer givens or more guesses: a move removes two givens, restores others until the puzzle is valid,
removes redundant ones again, and is accepted if the result is not worse. Importing this module loads numba.
"""

# ruff: noqa: NPY002 (compiled code has no other generator; each puzzle seeds that of its thread)
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
    solve_grids,
    symmetry_classes,
)

KINDS = ("singles", "search", "hard")
SINGLES, SEARCH, HARD = range(3)

MIN_GIVENS, MAX_GIVENS = 19, 36
"""Range of the target numbers of givens, drawn uniformly. Targets below 21 are not always reached."""

MIN_GUESSES, MAX_GUESSES = 4, 400
"""Range of the target numbers of guesses of hard puzzles, drawn log-uniformly."""

MOVES = 100
CHUNK = 64


@kernel
@no_type_check
def random_solution(grid, free):
    """Fill a grid at random, guessing at the cell with the fewest candidates. After a contradiction, start again."""
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
    """Return whether a puzzle is valid: solved by singles for the kind singles, else with exactly one solution."""
    if kind == SINGLES:
        return set_up(puzzle, grid, free) and fill_singles(grid, free) == -1
    return search(puzzle, grid, 2, MOST_GUESSES)[0] == 1


@kernel
@no_type_check
def thin(puzzle, fewest, kind, grid, free):
    """Remove givens in random order while the puzzle stays valid and has more than ``fewest``."""
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
    """Remove two givens, add others until the puzzle is valid, and thin it."""
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
    """Return the objective of the search: guesses for a hard puzzle, empty cells for any other."""
    if kind == HARD:
        return search(puzzle, grid, 2, MOST_GUESSES)[1]
    return 81 - np.count_nonzero(puzzle)


@kernel
@no_type_check
def make(seed, aim, kind, moves, puzzle, solution):
    """Write one puzzle and its solution. The search stops at the target merit or after ``moves`` moves."""
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
    """Return the target merit of each puzzle."""
    draw = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "hard":
        return np.exp(draw.uniform(np.log(MIN_GUESSES), np.log(MAX_GUESSES), count)).astype(np.int64)
    return 81 - draw.integers(MIN_GIVENS, MAX_GIVENS + 1, count)


def generate(
    count: int, seed: int = 0, kind: str = "singles", on_made: Callable[[int], None] | None = None
) -> tuple[Int8[np.ndarray, "n 81"], Int8[np.ndarray, "n 81"]]:
    """Generate puzzles with exactly one solution each, and their solutions. The result depends only on the arguments.

    Args:
        count: number of puzzles.
        seed: seed of all random draws.
        kind: kind of puzzle. singles: solved by naked and hidden singles, with a target of 19 to 36 givens (below 21
            not always reached); search: one solution, with the same targets; hard: one solution, with a target of 4
            to 400 guesses.
        on_made: called with the number of further puzzles made, from other threads.

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
    """Generate about ``count`` graded puzzles without symmetric copies.

    Seven tenths are of kind singles, two tenths of search and one tenth of hard (see ``generate``). The kinds are the
    sources of the puzzles.
    """
    counts = {"singles": count - 3 * (count // 10), "search": 2 * (count // 10), "hard": count // 10}
    parts = [generate(share, seed, kind, on_made) for kind, share in counts.items()]
    puzzles, solutions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    sources = np.repeat(np.arange(len(KINDS)), list(counts.values()))
    classes = symmetry_classes(puzzles, solutions)
    return without_copies(Puzzles(puzzles, solutions, solve_grids(puzzles).guesses, classes, sources, KINDS))
