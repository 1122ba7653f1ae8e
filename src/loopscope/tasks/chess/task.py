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
"""Made by this project, CC0; ``chess/generate.py`` says by which command."""
FILES = ("lichess_db_puzzle.csv", "lichess_puzzles.csv")
VALIDATION_SHARE = 0.2
LEGAL_MOVE_RULE = "best legal move"


@dataclass(frozen=True)
class Chess:
    """The chess task: train on puzzles of low rating, test on those of higher ones.

    A problem is a position to solve, turned to the side to move and mirrored so that its king stands on files e to h;
    the model gives one score per square, and is right when the two highest are those of the puzzle's move, or of any
    mating move where that mates. No two puzzles show the same pieces on the same squares.

    Args:
        path: a file of puzzles in Lichess's format, or a folder that holds one; the folder of LOOPSCOPE_DATA if left
            out.
        source: where the puzzles come from. auto: the file where there is one, else a download; file; download
            (Lichess's open database); generated: mates in one and in two made here, the same for the same seed, to
            train on the former and test on the latter; shipped: a small set of those, which comes with the package.
        generated_mates: how many of each distance are made under source generated; four in a second and a core.
        rows: most rows of the file that are read, from its beginning.
        puzzles: most puzzles up to the training rating, four fifths to train on and one fifth to validate on; all
            there are if left out. The paper's number is 50,000.
        test_puzzles: most puzzles of every other split.
        train_rating: the highest rating to train on; ratings are for puzzles of a file.
        test_ratings: the highest rating of each harder split; it begins where the one before ends.
        seed: seed of the splits, apart from the seed of training.

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
            raise LoopscopeError(f"puzzles is {self.puzzles}, expected at least 2: one to train on, one to validate on")
        bounds = [self.train_rating, *self.test_ratings]
        if bounds != sorted(set(bounds)):
            raise LoopscopeError(
                f"test_ratings is {list(self.test_ratings)} after train_rating {self.train_rating}, expected rising "
                "numbers above it, such as [2000, 2400]"
            )

    @property
    def shape(self) -> TaskShape:
        """12 piece planes in and one score out per square of a board of 8 by 8."""
        return TaskShape(inputs=PLANES, outputs=1, grid=(8, 8))

    def origin(self) -> Path:
        """Return the file that the puzzles come from, downloaded or made if need be."""
        if self.source == "shipped":
            return SHIPPED
        if self.source == "generated":
            return generated_file(self.generated_mates, self.seed)
        return data_file(self.source, self.path, FILES, LICHESS)

    def _puzzles(self) -> Puzzles:
        return read_puzzles(self.origin(), self.rows)

    def _bounds(self) -> dict[str, tuple[int, int]]:
        """Return the name of each split, the easy one first, with the ratings that it lies above and reaches up to."""
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
        """Return the rows to train on and those to validate on; a single easy puzzle is one to validate on."""
        rows = self._rated(puzzles, *next(iter(self._bounds().values())))[: self.puzzles]
        validation = max(1, round(VALIDATION_SHARE * len(rows)))
        return rows[validation:], rows[:validation]

    def training_split(self) -> Split:
        """Return the puzzles to train on; the difficulty is their rating, or the distance to mate.

        Raises:
            LoopscopeError: there are no data, they cannot be read, or a split would be empty.
        """
        puzzles = self._puzzles()
        training, validation = self._easy(puzzles)
        if not len(training):
            above, upto = next(iter(self._bounds().values()))
            raise LoopscopeError(
                f"{self.origin()} holds {len(validation)} puzzles rated {above + 1}-{upto}, expected at least 2, to train on "
                "and to validate on: give another file or other ratings"
            )
        return _split(puzzles, training)

    def evaluation_splits(self) -> dict[str, Split]:
        """Return the easy validation split and the harder ones; ranges of ratings that hold no puzzle are left out.

        Raises:
            LoopscopeError: there are no data, they cannot be read, or no range holds a puzzle.
        """
        puzzles = self._puzzles()
        (easy, _), *harder = self._bounds().items()
        rows = {easy: self._easy(puzzles)[1]}
        rows |= {name: self._rated(puzzles, *bounds)[: self.test_puzzles] for name, bounds in harder}
        if not any(map(len, rows.values())):
            there = f"only {puzzles.ratings.min()} to {puzzles.ratings.max()}" if len(puzzles) else "and no other"
            raise LoopscopeError(
                f"{self.origin()} holds no puzzle rated {', '.join(rows)}, {there}: give another file, or other ratings by "
                "train_rating and test_ratings"
            )
        return {name: _split(puzzles, chosen) for name, chosen in rows.items() if len(chosen)}

    def splits(self) -> dict[str, Split]:
        """Return all splits, the training split first where there is one; see ``evaluation_splits``."""
        puzzles = self._puzzles()
        training = self._easy(puzzles)[0]
        return ({"training": _split(puzzles, training)} if len(training) else {}) | self.evaluation_splits()

    def inputs(self, problems: Int[Tensor, "batch 64"]) -> Float[Tensor, "batch 64 12"]:
        """Return 12 piece planes, those of the side to move first."""
        return planes(problems)

    def augment(
        self, problems: Int[Tensor, "batch 64"], answers: Int[Tensor, "batch columns"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch 64"], Int[Tensor, "batch columns"]]:
        """Return the batch as it is: turning and mirroring have used up the symmetries of chess."""
        return problems, answers

    def loss(self, logits: Float[Tensor, "batch 64 1"], answers: Int[Tensor, "batch columns"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy, in nats per board, of a softmax over squares; each of the move's two weighs half.

        The paper says cross-entropy and leaves its form open [ours]. This one compares squares with each other, as the
        rule of the two highest does; at its best it is ln 2.
        """
        moves = Answers.unpack(answers)
        squares = torch.stack([moves.origins[:, 0], moves.targets[:, 0]], dim=1)
        return -logits.squeeze(-1).float().log_softmax(-1).gather(1, squares).mean()

    def chosen(self, logits: Float[Tensor, "batch 64 1"]) -> Int[Tensor, "batch 2"]:
        """Return the two highest squares, in rising order."""
        return logits.squeeze(-1).topk(2, dim=1).indices.sort(1).values

    def correct(
        self,
        logits: Float[Tensor, "batch 64 1"],
        problems: Int[Tensor, "batch 64"],
        answers: Int[Tensor, "batch columns"],
    ) -> Bool[Tensor, "batch 1"]:
        """Return whether the two highest squares are those of an accepted move (paper, data)."""
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
        """Return whether the legal move of the highest sum of its squares' scores is accepted.

        A pawn that reaches the last row becomes a queen, so a puzzle of underpromotion is lost. An equal score of a
        move that is not accepted is a loss too.
        """
        moves = Answers.unpack(answers)
        totals = moves.totals(logits.squeeze(-1).float())
        best, rival = (totals.masked_fill(~side, float("-inf")).amax(1) for side in (moves.right, ~moves.right))
        return {LEGAL_MOVE_RULE: best > rival}

    def shown(
        self, logits: Float[Tensor, "batch 64 1"], answers: Int[Tensor, "batch columns"]
    ) -> tuple[Bool[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Return whether the legal move that is shown is accepted, and one minus its probability among the legal moves.

        The move shown has the highest sum of its two squares' scores. The sums are logits of a softmax over legal moves.
        """
        moves = Answers.unpack(answers)
        totals = moves.totals(logits.squeeze(-1).double())
        best = totals.argmax(1, keepdim=True)
        others = totals.softmax(1).scatter(1, best, 0.0).sum(1)
        return moves.right.gather(1, best).squeeze(1), others


def _split(puzzles: Puzzles, rows: np.ndarray) -> Split:
    """Return the puzzles of some rows as a split."""
    answers = puzzles.packed()[torch.from_numpy(rows)]
    return Split(
        torch.from_numpy(puzzles.problems[rows]), answers, torch.from_numpy(puzzles.ratings[rows].astype(np.float32))
    )
