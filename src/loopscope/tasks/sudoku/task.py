"""Sudoku: fill a grid of nine by nine so that every row, column and box holds each digit once (paper, data)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.shipped import DATA
from loopscope.tasks.data.cache import Arrays, cached
from loopscope.tasks.data.progress import making
from loopscope.tasks.data.sources import Remote, Source, data_file
from loopscope.tasks.sudoku.grids import Splits, SudokuGrids
from loopscope.tasks.sudoku.puzzles import FORMAT, Puzzles, read_puzzles
from loopscope.tasks.sudoku.symmetries import random_relabellings, random_symmetries
from loopscope.tasks.task import Split

Augmentation = Literal["none", "digits", "symmetries"]
Division = Literal["singles", "percentile"]

FILES = ("sudoku_puzzles.csv", "sudoku.csv", "sudoku.txt")
EXTREME = Remote(
    "https://huggingface.co/datasets/sapientinc/sudoku-extreme/resolve/main/train.csv", "sudoku-extreme.csv"
)
SHIPPED = DATA / "sudoku.csv.gz"
GENERATOR = Path(__file__).with_name("generator.py")
PERCENTILE = 80
CELLS = 81
REVEALED_SHARE = 0.5
"""The share of training puzzles in which cells are revealed, where any are."""


@dataclass(frozen=True)
class Sudoku(SudokuGrids):
    """The sudoku task: train on easy puzzles, test on hard ones.

    Problems and answers are grids row by row, digits 1-9 and 0 where a cell is empty; logit c of a cell is for the
    digit c + 1. No two puzzles of a data set are symmetric copies of each other, so neither are those of its splits.

    Args:
        path: a file of puzzles or a folder that holds one; the folder of LOOPSCOPE_DATA if left out.
        source: where the puzzles come from. auto: the file where there is one, else a download; file; download
            (sudoku-extreme); generated: made here, the same for the same seed; shipped: a small generated set.
        rows: most lines of a file that are read, from its beginning.
        generated_puzzles: how many are made under source generated.
        mixture: names of the sources to use, out of a file's column source; all if left empty.
        division: what is easy. singles: what naked and hidden singles solve; percentile: fewer guesses than the 80th
            percentile of the mixture, with no puzzle put apart by its givens (the paper's).
        min_givens: under division singles, puzzles of fewer givens are never trained on, and evaluated apart.
        guess_groups: under division singles, the fewest guesses of each group of harder puzzles.
        train_puzzles: most puzzles to train on; all there are if left out.
        validation_puzzles: easy puzzles to validate on, taken before those to train on.
        test_puzzles: most puzzles of every harder group.
        augmentation: what is changed at random in a training puzzle. none; digits: relabelled; symmetries: relabelled,
            and rows, columns, bands and stacks exchanged and the board transposed.
        revealed: up to so many empty cells are filled in from the answer, in half of the training puzzles at random, how
            many drawn anew each time: rules are learned soonest where few cells are empty. A puzzle that singles solve
            stays one. 0 leaves the puzzles as they are.
        seed: seed of the splits, apart from the seed of training.

    Example:
        >>> import loopscope as ls
        >>> task = ls.Sudoku(source="shipped", augmentation="symmetries")
        >>> task.shape
        TaskShape(inputs=10, outputs=9, grid=(9, 9), attention='full', kernel_size=None)
    """

    path: str | None = None
    source: Source = "auto"
    rows: int = 500_000
    generated_puzzles: int = 40_000
    mixture: tuple[str, ...] = ()
    division: Division = "singles"
    min_givens: int = 18
    guess_groups: tuple[int, ...] = (1, 4, 10, 100)
    train_puzzles: int | None = None
    validation_puzzles: int = 1000
    test_puzzles: int = 1000
    augmentation: Augmentation = "digits"
    revealed: int = 0
    seed: int = 0

    name: ClassVar[str] = "sudoku"

    def __post_init__(self) -> None:
        check_positive(
            rows=self.rows,
            generated_puzzles=self.generated_puzzles,
            validation_puzzles=self.validation_puzzles,
            test_puzzles=self.test_puzzles,
        )
        if self.train_puzzles is not None:
            check_positive(train_puzzles=self.train_puzzles)
        if not 0 <= self.revealed <= CELLS:
            raise LoopscopeError(f"revealed is {self.revealed}, expected a number of cells from 0 to {CELLS}")
        check_choice("source", self.source, get_args(Source))
        if self.path is not None and self.source not in ("auto", "file"):
            raise LoopscopeError(f"path {self.path} was given with source {self.source}: leave one of them out")
        check_choice("division", self.division, get_args(Division))
        check_choice("augmentation", self.augmentation, get_args(Augmentation))
        if list(self.guess_groups) != sorted(set(self.guess_groups)) or min(self.guess_groups, default=0) != 1:
            raise LoopscopeError(
                f"guess_groups is {list(self.guess_groups)}, expected rising numbers from 1 on, such as [1, 4, 10]"
            )

    @property
    def side(self) -> int:
        """Cells of a row, and the number of digits."""
        return 9

    def training_split(self) -> Split:
        """Return the puzzles to train on; the difficulty is the number of guesses.

        Raises:
            LoopscopeError: there are no data, they cannot be read, or a split would be empty.
        """
        return self._splits().require_training()

    def evaluation_splits(self) -> dict[str, Split]:
        """Return the easy validation split and the harder groups, without those that hold no puzzle.

        Raises:
            LoopscopeError: there are no data, or they cannot be read.
        """
        return self._splits().evaluation

    def splits(self) -> dict[str, Split]:
        """Return all splits, the training split first where there is one; see ``evaluation_splits``."""
        found = self._splits()
        return ({} if found.training is None else {"training": found.training}) | found.evaluation

    def origin(self) -> Path | None:
        """Return the file that the puzzles come from, downloaded if need be; None where they are made here."""
        if self.source == "generated":
            return None
        return SHIPPED if self.source == "shipped" else data_file(self.source, self.path, FILES, EXTREME)

    def _splits(self) -> Splits:
        origin = self.origin()
        return _divide(self, origin, 0 if origin is None else origin.stat().st_mtime_ns)

    def augment(
        self, problems: Int[Tensor, "batch 81"], answers: Int[Tensor, "batch 81"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch 81"], Int[Tensor, "batch 81"]]:
        """Return the batch with cells ``revealed``, after a random symmetry per puzzle of those of ``augmentation``."""
        if self.revealed:
            problems = reveal(problems, answers, self.revealed, generator)
        if self.augmentation == "none":
            return problems, answers
        draw = random_relabellings if self.augmentation == "digits" else random_symmetries
        symmetries = draw(len(problems), generator)
        return symmetries(problems), symmetries(answers)


def reveal(
    problems: Int[Tensor, "batch 81"], answers: Int[Tensor, "batch 81"], most: int, generator: torch.Generator
) -> Int[Tensor, "batch 81"]:
    """Return the puzzles with 0 to ``most`` of their empty cells, at random, filled in; half of them as they are."""
    batch = len(problems)
    chosen = torch.rand(batch, generator=generator) < REVEALED_SHARE
    number = torch.randint(most + 1, (batch,), generator=generator) * chosen
    # Each empty cell's place in a random order of the empty cells; givens come after all of them.
    order = torch.rand(problems.shape, generator=generator) + (problems != 0)
    place = order.argsort(1).argsort(1)
    return torch.where(place < number.unsqueeze(1), answers, problems)


def _split(puzzles: Puzzles) -> Split:
    return Split(
        torch.from_numpy(puzzles.puzzles),
        torch.from_numpy(puzzles.solutions),
        torch.from_numpy(puzzles.guesses).float(),
    )


def puzzles_of(task: Sudoku, origin: Path | None) -> Puzzles:
    """Return all puzzles that a task reads from its ``origin`` or makes, whatever their split.

    Raises:
        LoopscopeError: they cannot be read.
    """

    def make() -> Arrays:
        from loopscope.tasks.sudoku.generator import generated_puzzles

        with making("puzzles", task.generated_puzzles) as on_made:
            return generated_puzzles(task.generated_puzzles, task.seed, on_made).to_arrays()

    if origin is not None:
        return read_puzzles(origin, task.rows)
    # Made anew where the program that makes them has changed.
    return Puzzles.from_arrays(cached(GENERATOR, f"{FORMAT}, {task.generated_puzzles} of seed {task.seed}", make))


@lru_cache(maxsize=4)
def _divide(task: Sudoku, origin: Path | None, modified: int) -> Splits:
    """Return a task's splits; ``modified`` is the time of change of its file: one that has changed is read again."""
    puzzles = puzzles_of(task, origin)
    for name in task.mixture:
        check_choice("a source of mixture", name, puzzles.names)
    if task.mixture:
        puzzles = puzzles.at(np.isin(puzzles.sources, [puzzles.names.index(name) for name in task.mixture]))
    # In an order that depends on the class alone, no file's order decides what is trained on.
    puzzles = puzzles.at(np.argsort(puzzles.classes))
    puzzles = puzzles.at(np.random.default_rng(task.seed).permutation(len(puzzles)))
    easy_name, easy, harder = _by_singles(task, puzzles) if task.division == "singles" else _by_percentile(puzzles)
    rows = np.flatnonzero(easy)
    validation, training = np.split(rows, [task.validation_puzzles])
    groups = {easy_name: validation}
    groups |= {name: np.flatnonzero(group)[: task.test_puzzles] for name, group in harder.items()}
    return Splits(
        _split(puzzles.at(training[: task.train_puzzles])) if len(training) else None,
        {name: _split(puzzles.at(group)) for name, group in groups.items() if len(group)},
        f"{origin or 'what was generated'} holds {len(rows)} puzzles of the split {easy_name!r}: too few to validate on "
        f"{task.validation_puzzles} and to train on others; lower validation_puzzles",
    )


def _by_singles(task: Sudoku, puzzles: Puzzles) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """Return the name and the mask of the easy puzzles, and the masks of the harder groups by name."""
    singles, usual = puzzles.guesses == 0, puzzles.givens >= task.min_givens
    ends = [*task.guess_groups[1:], None]
    groups = {}
    for least, end in zip(task.guess_groups, ends, strict=True):
        within = puzzles.guesses >= least if end is None else (puzzles.guesses >= least) & (puzzles.guesses < end)
        groups[f"{least}+ guesses" if end is None else f"{least}-{end - 1} guesses"] = usual & within
    few = "17 givens" if task.min_givens == 18 else f"under {task.min_givens} givens"
    return (
        "singles",
        singles & usual,
        groups | {f"{few}, singles": ~usual & singles, f"{few}, guesses": ~usual & ~singles},
    )


def _by_percentile(puzzles: Puzzles) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """Return what ``_by_singles`` does, divided at the 80th percentile of guesses (paper, data)."""
    bound = int(np.percentile(puzzles.guesses, PERCENTILE, method="inverted_cdf"))
    easy = puzzles.guesses < bound
    return f"fewer than {bound} guesses", easy, {f"{bound}+ guesses": ~easy}
