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
from loopscope.tasks.data.progress import generation_progress
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
"""Fraction of the training puzzles in which cells are revealed, if ``revealed`` is not 0."""


@dataclass(frozen=True)
class Sudoku(SudokuGrids):
    """The sudoku task: train on easy puzzles, test on hard ones.

    Problems and answers are grids in row-major order, with digits 1-9, and 0 for an empty cell. Logit c of a cell stands
    for digit c + 1. A data set has no two puzzles that are symmetric copies of each other, within or across splits.

    Args:
        path: a file of puzzles, or a folder that holds one. By default the folder LOOPSCOPE_DATA.
        source: where the puzzles come from. auto: a file if there is one, else a download; file; download
            (sudoku-extreme); generated: made from the seed; shipped: a small generated set.
        rows: largest number of lines to read from a file.
        generated_puzzles: number of puzzles to make under source generated.
        mixture: sources to use, by their names in the file's column source; all if empty.
        division: which puzzles are easy. singles: those solved by naked and hidden singles; percentile: those with
            fewer guesses than the 80th percentile of the mixture, whatever their givens (as in the paper).
        min_givens: under division singles, puzzles with fewer givens are evaluated separately and never trained on.
        guess_groups: under division singles, smallest number of guesses in each group of harder puzzles.
        train_puzzles: largest number of puzzles for training; all if None.
        validation_puzzles: number of easy puzzles for validation, chosen before those for training.
        test_puzzles: largest number of puzzles in each harder group.
        augmentation: random change of a training puzzle. none; digits: relabel the digits; symmetries: relabel, exchange
            rows, columns, bands and stacks, and transpose.
        revealed: largest number of empty cells that are filled in from the answer. This happens in a random half of the
            training puzzles, with a new random number of cells each time, because rules are learned fastest when few
            cells are empty. Puzzles that singles solve remain so. 0 turns it off.
        seed: seed of the splits, independent of the seed of training.

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
                f"guess_groups is {list(self.guess_groups)}, expected ascending numbers of at least 1, such as [1, 4, 10]"
            )

    @property
    def side(self) -> int:
        """The number of cells in a row, and of digits."""
        return 9

    def training_split(self) -> Split:
        """Return the puzzles for training. Their difficulty is the number of guesses.

        Raises:
            LoopscopeError: the data are missing or unreadable, or a split would be empty.
        """
        return self._splits().require_training()

    def evaluation_splits(self) -> dict[str, Split]:
        """Return the easy validation split and the harder groups that are not empty.

        Raises:
            LoopscopeError: the data are missing or unreadable.
        """
        return self._splits().evaluation

    def splits(self) -> dict[str, Split]:
        """Return all splits, with the training split first if there is one (see ``evaluation_splits``)."""
        found = self._splits()
        return ({} if found.training is None else {"training": found.training}) | found.evaluation

    def origin(self) -> Path | None:
        """Return the file of the puzzles, downloaded if necessary, or None if they are generated."""
        if self.source == "generated":
            return None
        return SHIPPED if self.source == "shipped" else data_file(self.source, self.path, FILES, EXTREME)

    def _splits(self) -> Splits:
        origin = self.origin()
        return _divide(self, origin, 0 if origin is None else origin.stat().st_mtime_ns)

    def augment(
        self, problems: Int[Tensor, "batch 81"], answers: Int[Tensor, "batch 81"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch 81"], Int[Tensor, "batch 81"]]:
        """Reveal cells of the puzzles of a batch, and apply a random symmetry to each as ``augmentation`` says."""
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
    """Fill in 0 to ``most`` random empty cells of the puzzles, and leave about half of the puzzles unchanged."""
    batch = len(problems)
    chosen = torch.rand(batch, generator=generator) < REVEALED_SHARE
    number = torch.randint(most + 1, (batch,), generator=generator) * chosen
    # The rank of each empty cell in a random order. Givens rank after all empty cells.
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
    """Return all puzzles of a task, read from its ``origin`` or generated.

    Raises:
        LoopscopeError: the puzzles cannot be read.
    """

    def make() -> Arrays:
        from loopscope.tasks.sudoku.generator import generated_puzzles

        with generation_progress("puzzles", task.generated_puzzles) as on_made:
            return generated_puzzles(task.generated_puzzles, task.seed, on_made).to_arrays()

    if origin is not None:
        return read_puzzles(origin, task.rows)
    # The cache key includes the source file of the generator, so that a change to it makes the puzzles again.
    return Puzzles.from_arrays(cached(GENERATOR, f"{FORMAT}, {task.generated_puzzles} of seed {task.seed}", make))


@lru_cache(maxsize=4)
def _divide(task: Sudoku, origin: Path | None, modified: int) -> Splits:
    """Return the splits of a task. ``modified``, the modification time of the file, invalidates the cache of results."""
    puzzles = puzzles_of(task, origin)
    for name in task.mixture:
        check_choice("a source of mixture", name, puzzles.names)
    if task.mixture:
        puzzles = puzzles.at(np.isin(puzzles.sources, [puzzles.names.index(name) for name in task.mixture]))
    # Sorting by class makes the splits independent of the order in the file.
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
        f"{origin or 'the generated data'} holds {len(rows)} puzzles of the split {easy_name!r}, expected more than "
        f"{task.validation_puzzles}, so that some are left for training: lower validation_puzzles",
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
    """Divide the puzzles at the 80th percentile of guesses (paper, data); the result is like that of ``_by_singles``."""
    bound = int(np.percentile(puzzles.guesses, PERCENTILE, method="inverted_cdf"))
    easy = puzzles.guesses < bound
    return f"fewer than {bound} guesses", easy, {f"{bound}+ guesses": ~easy}
