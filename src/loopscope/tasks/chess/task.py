"""Chess puzzles: find the two squares of the best move, on easy puzzles and then on hard ones (paper, data)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.shipped import DATA
from loopscope.tasks.chess.encoding import PLANES, Answers, planes
from loopscope.tasks.chess.puzzles import Puzzles, generated_file, read_puzzles
from loopscope.tasks.data.sources import Remote, Source, data_file
from loopscope.tasks.task import Split, TaskShape

LICHESS = Remote("https://database.lichess.org/lichess_db_puzzle.csv.zst", "lichess_db_puzzle.csv.zst")
SHIPPED = DATA / "chess_puzzles.csv.xz"
"""Puzzles made by this project (CC0). ``chess/generate.py`` documents the command."""
FILES = ("lichess_db_puzzle.csv", "lichess_puzzles.csv")
VALIDATION_SHARE = 0.2
LEGAL_MOVE_RULE = "best legal move"


@dataclass(frozen=True)
class Chess:
    """The chess task: train on puzzles of low rating, test on puzzles of higher ratings.

    A problem is a position to solve, turned to the side to move and mirrored so that its king stands on files e to h.
    The model outputs one score per square. The answer is right if the two highest scores are on the squares of the
    puzzle's move, or of any mating move if that move mates. All positions are distinct.

    Args:
        path: a file of puzzles in Lichess's format, or a folder that holds one. By default the folder LOOPSCOPE_DATA.
        source: where the puzzles come from. auto: a file if there is one, else a download; file; download (Lichess's
            open database); generated: mates in one for training and mates in two for testing, made from the seed;
            shipped: a small set of generated puzzles that comes with the package.
        generated_mates: number of puzzles of each distance under source generated. A core makes four per second.
        rows: largest number of rows to read from the file.
        puzzles: largest number of puzzles up to the training rating, of which one fifth is for validation; all if None.
            The paper uses 50,000.
        test_puzzles: largest number of puzzles in every other split.
        train_rating: highest rating of a training puzzle, for puzzles from a file.
        test_ratings: highest rating of each harder split. Each split begins where the previous one ends.
        seed: seed of the splits, independent of the seed of training.

    Example:
        >>> import loopscope as ls
        >>> task = ls.Chess(source="shipped")
        >>> task.shape
        TaskShape(inputs=12, outputs=1, grid=(8, 8), attention='full', kernel_size=None)
        >>> list(task.evaluation_splits())
        ['mate in 1', 'mate in 2']
    """

    path: str | None = None
    source: Source = "auto"
    generated_mates: int = 1000
    rows: int = 500_000
    puzzles: int | None = None
    test_puzzles: int = 10_000
    train_rating: int = 1600
    test_ratings: tuple[int, ...] = (2000, 2400)
    seed: int = 0

    name: ClassVar[str] = "chess"

    def __post_init__(self) -> None:
        check_positive(
            generated_mates=self.generated_mates,
            rows=self.rows,
            test_puzzles=self.test_puzzles,
            train_rating=self.train_rating,
        )
        check_choice("source", self.source, get_args(Source))
        if self.path is not None and self.source not in ("auto", "file"):
            raise LoopscopeError(f"path {self.path} was given with source {self.source}: leave one of them out")
        if self.puzzles is not None and self.puzzles < 2:
            raise LoopscopeError(
                f"puzzles is {self.puzzles}, expected at least 2: one for training and one for validation"
            )
        bounds = [self.train_rating, *self.test_ratings]
        if bounds != sorted(set(bounds)):
            raise LoopscopeError(
                f"test_ratings is {list(self.test_ratings)} after train_rating {self.train_rating}, expected ascending "
                "numbers above it, such as [2000, 2400]"
            )

    @property
    def shape(self) -> TaskShape:
        """A board of 8 by 8 squares with 12 piece planes as inputs and one score as output."""
        return TaskShape(inputs=PLANES, outputs=1, grid=(8, 8))

    def origin(self) -> Path:
        """Return the file of the puzzles, downloaded or generated if necessary."""
        if self.source == "shipped":
            return SHIPPED
        if self.source == "generated":
            return generated_file(self.generated_mates, self.seed)
        return data_file(self.source, self.path, FILES, LICHESS)

    def _puzzles(self) -> Puzzles:
        return read_puzzles(self.origin(), self.rows)

    def _bounds(self) -> dict[str, tuple[int, int]]:
        """Return the range of ratings (exclusive, inclusive) of each split by name, the easy one first."""
        if self.source in ("generated", "shipped"):
            return {"mate in 1": (0, 1), "mate in 2": (1, 2)}
        bounds = {f"up to {self.train_rating}": (0, self.train_rating)}
        for above, upto in pairwise([self.train_rating, *self.test_ratings]):
            bounds[f"{above + 1}-{upto}"] = (above, upto)
        return bounds

    def _rated(self, puzzles: Puzzles, above: int, upto: int) -> np.ndarray:
        """Return the rows of the puzzles in a range of ratings, in an order that depends on the seed."""
        rows = np.flatnonzero((puzzles.ratings > above) & (puzzles.ratings <= upto))
        return np.random.default_rng([self.seed, upto]).permutation(rows)

    def _easy(self, puzzles: Puzzles) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows for training and those for validation. A single easy puzzle is for validation."""
        rows = self._rated(puzzles, *next(iter(self._bounds().values())))[: self.puzzles]
        validation = max(1, round(VALIDATION_SHARE * len(rows)))
        return rows[validation:], rows[:validation]

    def training_split(self) -> Split:
        """Return the puzzles for training. Their difficulty is the rating or the distance to mate.

        Raises:
            LoopscopeError: the data are missing or unreadable, or a split would be empty.
        """
        puzzles = self._puzzles()
        training, validation = self._easy(puzzles)
        if not len(training):
            above, upto = next(iter(self._bounds().values()))
            raise LoopscopeError(
                f"{self.origin()} holds {len(validation)} puzzles rated {above + 1}-{upto}, expected at least 2, one for "
                "training and one for validation: give another file or other ratings"
            )
        return _split(puzzles, training)

    def evaluation_splits(self) -> dict[str, Split]:
        """Return the easy validation split and the harder splits that are not empty.

        Raises:
            LoopscopeError: the data are missing or unreadable, or no range contains a puzzle.
        """
        puzzles = self._puzzles()
        (easy, _), *harder = self._bounds().items()
        rows = {easy: self._easy(puzzles)[1]}
        rows |= {name: self._rated(puzzles, *bounds)[: self.test_puzzles] for name, bounds in harder}
        if not any(map(len, rows.values())):
            there = f"only {puzzles.ratings.min()} to {puzzles.ratings.max()}" if len(puzzles) else "nor any other"
            raise LoopscopeError(
                f"{self.origin()} holds no puzzle rated {', '.join(rows)}, {there}: give another file, or change "
                "train_rating and test_ratings"
            )
        return {name: _split(puzzles, chosen) for name, chosen in rows.items() if len(chosen)}

    def splits(self) -> dict[str, Split]:
        """Return all splits, with the training split first if there is one (see ``evaluation_splits``)."""
        puzzles = self._puzzles()
        training = self._easy(puzzles)[0]
        return ({"training": _split(puzzles, training)} if len(training) else {}) | self.evaluation_splits()

    def inputs(self, problems: Int[Tensor, "batch 64"]) -> Float[Tensor, "batch 64 12"]:
        """Return the 12 piece planes, with those of the side to move first."""
        return planes(problems)

    def augment(
        self, problems: Int[Tensor, "batch 64"], answers: Int[Tensor, "batch columns"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch 64"], Int[Tensor, "batch columns"]]:
        """Return the batch unchanged: the encoding already turns and mirrors boards, which uses up the symmetries of chess."""
        return problems, answers

    def loss(self, logits: Float[Tensor, "batch 64 1"], answers: Int[Tensor, "batch columns"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of a softmax over squares, in nats per board. The target is 1/2 on both squares.

        The form of the paper's cross-entropy is not known. This one is our choice: it compares squares with each
        other, like the rule of the two highest scores. Its minimum is ln 2.
        """
        moves = Answers.unpack(answers)
        squares = torch.stack([moves.origins[:, 0], moves.targets[:, 0]], dim=1)
        return -logits.squeeze(-1).float().log_softmax(-1).gather(1, squares).mean()

    def chosen(self, logits: Float[Tensor, "batch 64 1"]) -> Int[Tensor, "batch 2"]:
        """Return the two squares of highest score, in ascending order."""
        return logits.squeeze(-1).topk(2, dim=1).indices.sort(1).values

    def correct(
        self,
        logits: Float[Tensor, "batch 64 1"],
        problems: Int[Tensor, "batch 64"],
        answers: Int[Tensor, "batch columns"],
    ) -> Bool[Tensor, "batch 1"]:
        """Return whether the two squares of highest score are those of an accepted move (paper, data)."""
        moves = Answers.unpack(answers)
        highest = self.chosen(logits)
        low, high = torch.minimum(moves.origins, moves.targets), torch.maximum(moves.origins, moves.targets)
        return ((low == highest[:, :1]) & (high == highest[:, 1:]) & moves.right).any(1, keepdim=True)

    def other_rules(
        self,
        logits: Float[Tensor, "batch 64 1"],
        problems: Int[Tensor, "batch 64"],
        answers: Int[Tensor, "batch columns"],
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return whether the legal move with the highest sum of its two scores is accepted.

        Pawns promote to a queen, so a puzzle that needs an underpromotion counts as wrong. So does a tie with a move that
        is not accepted.
        """
        moves = Answers.unpack(answers)
        totals = moves.totals(logits.squeeze(-1).float())
        best, rival = (totals.masked_fill(~side, float("-inf")).amax(1) for side in (moves.right, ~moves.right))
        return {LEGAL_MOVE_RULE: best > rival}

    def shown(
        self, logits: Float[Tensor, "batch 64 1"], answers: Int[Tensor, "batch columns"]
    ) -> tuple[Bool[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Return whether the move shown is accepted, and one minus its probability among the legal moves.

        The move shown has the highest sum of its two scores. The sums are the logits of a softmax over legal moves.
        """
        moves = Answers.unpack(answers)
        totals = moves.totals(logits.squeeze(-1).double())
        best = totals.argmax(1, keepdim=True)
        others = totals.softmax(1).scatter(1, best, 0.0).sum(1)
        return moves.right.gather(1, best).squeeze(1), others


def _split(puzzles: Puzzles, rows: np.ndarray) -> Split:
    """Return the puzzles at some rows as a split."""
    answers = puzzles.packed()[torch.from_numpy(rows)]
    return Split(
        torch.from_numpy(puzzles.problems[rows]), answers, torch.from_numpy(puzzles.ratings[rows].astype(np.float32))
    )
