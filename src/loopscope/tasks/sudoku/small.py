"""Sudoku on small boards, such as six by six, generated from a seed. A model learns it in minutes on one core."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Int8, Int16
from torch import Tensor

from loopscope.errors import LoopscopeError, check_positive
from loopscope.tasks.sudoku.grids import Splits, SudokuGrids
from loopscope.tasks.task import Split

HARDEST = "hardest"
ROUND = 1000
"""Smallest number of boards drawn per round. The search for distinct boards ends after a round without a new one."""


@dataclass(frozen=True)
class Board:
    """The shape of a board. Cells are numbered in row-major order, and digit d is stored as the bit ``1 << d - 1``.

    Args:
        box: number of rows and columns of a box.
    """

    box: tuple[int, int]

    @property
    def side(self) -> int:
        """The number of cells in a row, column or box, and of digits."""
        return self.box[0] * self.box[1]

    @property
    def cells(self) -> int:
        """The number of cells of the board."""
        return self.side**2

    @property
    def all_digits(self) -> int:
        """The bits of all digits."""
        return (1 << self.side) - 1

    @cached_property
    def sizes(self) -> Int[np.ndarray, "sets"]:
        """The number of digits in each set of digits, indexed by its bits."""
        sizes: np.ndarray = (np.arange(1 << self.side)[:, None] >> np.arange(self.side) & 1).sum(axis=1)
        return sizes

    @cached_property
    def units_of(self) -> Int[np.ndarray, "3 cells"]:
        """The row, column and box of each cell, as indices into ``units``."""
        row, column = np.divmod(np.arange(self.cells), self.side)
        box = row // self.box[0] * self.box[0] + column // self.box[1]
        return np.stack([row, self.side + column, 2 * self.side + box])

    @cached_property
    def units(self) -> Int[np.ndarray, "units side"]:
        """The cells of the rows, then of the columns, then of the boxes."""
        cells = self.units_of.argsort(axis=1, kind="stable")
        return cells.reshape(3 * self.side, self.side)

    def held(self, grids: Int16[np.ndarray, "n cells"]) -> Int16[np.ndarray, "n units"]:
        """Return the set of digits in each unit."""
        return np.bitwise_or.reduce(grids[:, self.units], axis=2)

    def candidates(self, grids: Int16[np.ndarray, "n cells"]) -> Int16[np.ndarray, "n cells"]:
        """Return the digits that the row, column and box of each empty cell lack; none for a filled cell."""
        row, column, box = self.units_of
        held = self.held(grids)
        free = ~(held[:, row] | held[:, column] | held[:, box]) & self.all_digits
        return np.where(grids == 0, free, 0).astype(np.int16)

    def singles(self, candidates: Int16[np.ndarray, "n cells"]) -> Int16[np.ndarray, "n cells"]:
        """Return the naked and hidden singles of each cell.

        A naked single is the only candidate of a cell. A hidden single has no other place in a row, column or box. If a
        cell has two, the grid has no solution.
        """
        in_units = candidates[:, self.units]
        once, again = np.zeros_like(in_units[..., 0]), np.zeros_like(in_units[..., 0])
        for place in range(self.side):
            again |= once & in_units[..., place]
            once |= in_units[..., place]
        row, column, box = self.units_of
        only = once & ~again
        hidden = candidates & (only[:, row] | only[:, column] | only[:, box])
        return np.where(candidates & (candidates - 1) == 0, candidates, hidden)


def fill_singles(board: Board, grids: Int16[np.ndarray, "n cells"]) -> Int16[np.ndarray, "n cells"]:
    """Return the grids with naked and hidden singles filled in until there are none.

    After a contradiction, a grid ends with an empty cell, with a unit that lacks a digit, or with two digits in a cell.
    """
    grids = grids.copy()
    rows = np.arange(len(grids))
    while len(rows):
        found = board.singles(board.candidates(grids[rows]))
        changed = found.any(axis=1)
        rows = rows[changed]
        grids[rows] |= found[changed]
    return grids


def solved(board: Board, grids: Int16[np.ndarray, "n cells"]) -> Bool[np.ndarray, "n"]:
    """Return which grids have one digit in every cell, and every digit in every row, column and box."""
    one_each = ((grids != 0) & (grids & (grids - 1) == 0)).all(axis=1)
    right: np.ndarray = one_each & (board.held(grids) == board.all_digits).all(axis=1)
    return right


def random_boards(board: Board, count: int, draw: np.random.Generator) -> Int16[np.ndarray, "count cells"]:
    """Draw solved grids independently of each other, though not quite uniformly.

    The cell with the fewest candidates gets a random one and singles are filled in, until the grid is full. After a
    contradiction, a grid starts again.
    """
    boards = np.zeros((count, board.cells), dtype=np.int16)
    rows = np.arange(count)
    while len(rows):
        grids = boards[rows]
        candidates = board.candidates(grids)
        number = board.sizes[candidates] + np.where(grids == 0, 0.0, np.inf) + draw.random(grids.shape)
        cell = number.argmin(axis=1)[:, None]
        options = np.take_along_axis(candidates, cell, axis=1) >> np.arange(board.side) & 1
        digit = (options * (1 - draw.random(options.shape))).argmax(axis=1)
        np.put_along_axis(grids, cell, (1 << digit).astype(np.int16)[:, None], axis=1)
        grids = fill_singles(board, grids)
        done = solved(board, grids)
        # A grid is stuck with an empty cell without candidates, or if it is full but not solved.
        stuck = ((grids == 0) & (board.candidates(grids) == 0)).any(axis=1) | ((grids != 0).all(axis=1) & ~done)
        grids[stuck] = 0
        boards[rows] = grids
        rows = rows[~done]
    return boards


def relabelled_by_first_row(board: Board, grids: Int16[np.ndarray, "n cells"]) -> Int8[np.ndarray, "n cells"]:
    """Relabel grids so that the first row is ascending from 0. Grids that differ by a relabelling become equal."""
    digits = to_digits(board, grids) - 1
    labels = digits[:, : board.side].argsort(axis=1).astype(np.int8)
    return np.take_along_axis(labels, digits.astype(np.int64), axis=1)


def distinct_boards(board: Board, count: int, draw: np.random.Generator) -> Int16[np.ndarray, "n cells"]:
    """Draw ``count`` solved grids that differ by more than a relabelling, or fewer if no more are found."""
    boards = np.empty((0, board.cells), dtype=np.int16)
    while len(boards) < count:
        drawn = random_boards(board, max(ROUND, count - len(boards)), draw)
        together = np.concatenate([boards, drawn])
        _, first = np.unique(relabelled_by_first_row(board, together), axis=0, return_index=True)
        if len(first) == len(boards):
            break
        boards = together[np.sort(first)]
    return boards[:count]


def emptied(
    board: Board, boards: Int16[np.ndarray, "n cells"], most: Int[np.ndarray, "n"], draw: np.random.Generator
) -> Int16[np.ndarray, "n cells"]:
    """Empty cells of solved grids in random order, as long as naked and hidden singles solve the puzzles.

    Args:
        board: shape of the grids.
        boards: solved grids.
        most: largest number of cells to empty in each grid. Fewer are emptied if singles do not allow more.
        draw: generator of the random orders.
    """
    puzzles = boards.copy()
    order = draw.random(boards.shape).argsort(axis=1)
    empty = np.zeros(len(boards), dtype=np.int64)
    for cell in order.T:
        rows = np.flatnonzero(empty < most)
        tried = puzzles[rows]
        tried[np.arange(len(rows)), cell[rows]] = 0
        # Singles solve the puzzle with this cell filled. So they also solve it without, if they fill the cell.
        filled = fill_singles(board, tried)[np.arange(len(rows)), cell[rows]]
        rows = rows[filled != 0]
        puzzles[rows, cell[rows]] = 0
        empty[rows] += 1
    return puzzles


def to_digits(board: Board, grids: Int16[np.ndarray, "n cells"]) -> Int8[np.ndarray, "n cells"]:
    """Return the digits of grids, 0 for an empty cell."""
    digits = np.zeros(board.all_digits + 1, dtype=np.int8)
    digits[1 << np.arange(board.side)] = np.arange(1, board.side + 1)
    return digits[grids]


@dataclass(frozen=True)
class SmallSudoku(SudokuGrids):
    """Sudoku on small boards: train on puzzles with few empty cells, test on puzzles with up to as many as singles allow.

    Problems and answers are grids in row-major order, with digits from 1, and 0 for an empty cell. Logit c of a cell
    stands for digit c + 1. Naked and hidden singles solve every puzzle, so its solution is unique. Splits share no
    solved grid, not even a relabelled one.

    Args:
        box: rows and columns of a box; [2, 3] makes boards of six by six, [2, 2] of four by four.
        train_empty: largest number of empty cells in a training puzzle. The target of each puzzle is drawn from 1 to
            this number.
        test_empty: largest number of empty cells in each evaluation split; the first is the easy one. Targets are drawn
            from above the previous split's number. The number of all cells means as many as singles allow.
        train_puzzles: number of puzzles for training.
        test_puzzles: number of puzzles in each evaluation split.
        seed: seed of the puzzles, independent of the seed of training.

    Example:
        >>> import loopscope as ls
        >>> task = ls.SmallSudoku(box=(2, 2), train_empty=4, test_empty=(4, 8), train_puzzles=8, test_puzzles=4)
        >>> task.training_split().problems.shape, list(task.evaluation_splits())
        (torch.Size([8, 16]), ['1-4 empty', '5-8 empty'])
    """

    box: tuple[int, int] = (2, 3)
    train_empty: int = 12
    test_empty: tuple[int, ...] = (12, 18, 36)
    train_puzzles: int = 10_000
    test_puzzles: int = 500
    seed: int = 0

    name: ClassVar[str] = "small-sudoku"

    def __post_init__(self) -> None:
        check_positive(train_empty=self.train_empty, train_puzzles=self.train_puzzles, test_puzzles=self.test_puzzles)
        if min(self.box) < 2 or self.board.side > 9:
            raise LoopscopeError(
                f"box is {list(self.box)}, expected two numbers of at least 2 whose product is at most 9, such as [2, 3]"
            )
        cells = self.board.cells
        if self.train_empty > cells:
            raise LoopscopeError(f"train_empty is {self.train_empty}, expected at most the {cells} cells of a board")
        rising = list(self.test_empty) == sorted(set(self.test_empty))
        if not rising or min(self.test_empty, default=0) < 1 or max(self.test_empty) > cells:
            raise LoopscopeError(
                f"test_empty is {list(self.test_empty)}, expected ascending numbers of cells from 1 to {cells}, such as "
                f"[{cells // 3}, {cells // 2}, {cells}]"
            )

    @property
    def board(self) -> Board:
        """The shape of the board."""
        return Board(self.box)

    @property
    def side(self) -> int:
        """The number of cells in a row, and of digits."""
        return self.board.side

    def training_split(self) -> Split:
        """Return the puzzles for training. Their difficulty is the number of empty cells."""
        return _make(self).require_training()

    def evaluation_splits(self) -> dict[str, Split]:
        """Return the splits of ``test_empty``, named after their numbers of empty cells, or "hardest" if singles set it."""
        return _make(self).evaluation

    def augment(
        self, problems: Int[Tensor, "batch cells"], answers: Int[Tensor, "batch cells"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch cells"], Int[Tensor, "batch cells"]]:
        """Return the batch with the digits of each puzzle relabelled at random."""
        order = torch.rand(len(problems), self.side, generator=generator).argsort(1)
        labels = F.pad(order + 1, (1, 0)).to(problems.dtype)
        return labels.gather(1, problems.long()), labels.gather(1, answers.long())


@lru_cache(maxsize=4)
def _make(task: SmallSudoku) -> Splits:
    """Return a task's splits."""
    board, draw = task.board, np.random.default_rng(task.seed)
    aims = {}
    for before, end in pairwise((0, *task.test_empty)):
        begin = end if end == board.cells else before + 1
        numbers = f"{end}" if begin == end else f"{begin}-{end}"
        aims[HARDEST if end == board.cells else f"{numbers} empty"] = (begin, end)
    wanted = task.train_puzzles + len(aims) * task.test_puzzles
    boards = distinct_boards(board, wanted, draw)
    # Small boards have fewer distinct grids than the puzzles requested. Each split then reuses the grids of its share.
    share = max(1, len(boards) * task.test_puzzles // wanted)
    own = dict(zip(aims, np.split(boards[: share * len(aims)], len(aims)), strict=True))

    def split(boards: np.ndarray, count: int, begin: int, end: int) -> Split:
        answers = np.resize(boards, (count, board.cells))
        puzzles = emptied(board, answers, draw.integers(begin, end, count, endpoint=True), draw)
        empty = (puzzles == 0).sum(axis=1)
        grids, solutions = (torch.from_numpy(to_digits(board, part)) for part in (puzzles, answers))
        return Split(grids, solutions, torch.from_numpy(empty).float())

    training = split(boards[share * len(aims) :], task.train_puzzles, 1, task.train_empty)
    return Splits(
        training, {name: split(own[name], task.test_puzzles, begin, end) for name, (begin, end) in aims.items()}
    )
