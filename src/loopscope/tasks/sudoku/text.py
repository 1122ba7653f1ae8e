"""Sudoku as people write it: 81 characters, row by row."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.text import Text
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.tasks.sudoku.puzzles import breaches, solved, units
from loopscope.tasks.sudoku.solvability import has_solution
from loopscope.tasks.text import CHANGED, GIVEN, WRONG, Candidates, Frame, Problem, candidates_of, colour

FRAME = "+-------+-------+-------+"


class SudokuText:
    """A puzzle of 81 characters, with 0 or . for an empty cell, and an answer of 81 digits."""

    example = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"

    def read(self, text: str) -> Problem:
        """Parse a puzzle. White space and the lines of a drawn frame (|, -, +) are ignored."""
        cells = "".join(character for character in text if not character.isspace() and character not in "|-+")
        for place, character in enumerate(cells, 1):
            if character not in "0123456789.":
                raise LoopscopeError(
                    f"{character!r} at place {place} is not a cell: expected 1-9, or 0 or . if it is empty"
                )
        if len(cells) != 81:
            raise LoopscopeError(f"{len(cells)} cells were given, expected 81: 9 rows of 9, such as {self.example}")
        grid = np.array([0 if cell == "." else int(cell) for cell in cells], dtype=np.int8)
        if wrong := breaches(grid):
            raise LoopscopeError(f"no grid can hold this puzzle: {'; '.join(wrong)}")
        _refuse_unsolvable(grid)
        return Problem(cells.replace("0", "."), torch.from_numpy(grid))

    def line(self, problem: Problem, logits: Float[Tensor, "81 9"]) -> str:
        """Return the 81 digits of the grid."""
        return "".join(str(digit) for digit in self._grid(logits).tolist())

    def right(self, problem: Problem, logits: Float[Tensor, "81 9"]) -> bool:
        """Return whether the grid obeys the rules and keeps the givens, which makes it a solution."""
        grid, given = self._grid(logits), problem.tokens.numpy()
        return bool(solved(grid[None])[0]) and bool((grid[given > 0] == given[given > 0]).all())

    def parts(self, problem: Problem, logits: Float[Tensor, "81 9"]) -> Int[Tensor, "81"]:
        """Return the digit of each cell."""
        return logits.argmax(-1) + 1

    def candidates(self, problem: Problem, logits: Float[Tensor, "81 9"], count: int) -> list[Candidates]:
        """Return the probabilities of the digits of the least certain cells that are not given."""
        cells = (problem.tokens == 0).nonzero().squeeze(1).tolist()
        places = [f"row {cell // 9 + 1}, column {cell % 9 + 1}" for cell in cells]
        return candidates_of(logits[cells], places, "123456789", count)

    def picture(self, problem: Problem, frame: Frame) -> Text:
        """Return the board: givens in bold, other digits coloured by when they last changed, errors in red."""
        grid, given, changed = self._grid(frame.logits), problem.tokens.numpy(), frame.changed.tolist()
        wrong = clashes(grid) | ((given > 0) & (grid != given))
        text = Text()
        for row in range(9):
            text.append(f"{FRAME}\n" if row % 3 == 0 else "")
            for column in range(9):
                cell = 9 * row + column
                text.append("| " if column % 3 == 0 else "")
                style = GIVEN if given[cell] else colour(int(frame.since[cell]))
                text.append(str(grid[cell]), style=WRONG if wrong[cell] else style)
                text.append(CHANGED if changed[cell] else " ")
            text.append("|\n")
        return text.append(FRAME)

    def _grid(self, logits: Float[Tensor, "81 9"]) -> np.ndarray:
        return (logits.argmax(-1) + 1).to(torch.int8).cpu().numpy()


def clashes(grid: np.ndarray) -> np.ndarray:
    """Return the cells whose digit occurs again in their row, column or box."""
    places = units(np.arange(81, dtype=np.int8)[None])[0]
    digits = grid[places]
    twice = (digits[:, :, None] == digits[:, None, :]).sum(2) > 1
    same = np.zeros(81, dtype=bool)
    same[places[twice]] = True
    return same


def _refuse_unsolvable(grid: np.ndarray) -> None:
    """Refuse a puzzle without a solution, as far as a short search can tell."""
    if has_solution(grid) is False:
        raise LoopscopeError("the puzzle has no solution: a search over all grids finds none; check the givens")
