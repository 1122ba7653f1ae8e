"""The common part of the sudoku tasks, for boards of any size: encoding, loss and correctness of grids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.tasks.task import Split, TaskShape


@dataclass(frozen=True)
class Splits:
    """The splits of a task, which are made together.

    Args:
        training: examples for training; None if there are too few.
        evaluation: examples for evaluation, by name, the easy ones first.
        why_no_training: error message for a request to train without a training split.
    """

    training: Split | None
    evaluation: dict[str, Split]
    why_no_training: str = ""

    def require_training(self) -> Split:
        """Return the examples for training.

        Raises:
            LoopscopeError: there are too few examples.
        """
        if self.training is None:
            raise LoopscopeError(self.why_no_training)
        return self.training


def digit(output: int) -> str:
    """Return the digit that an output of a cell stands for."""
    return str(output + 1)


class SudokuGrids(ABC):
    """Base class of the sudoku tasks, determined by the size of the board.

    Problems and answers are grids in row-major order, with digits from 1, and 0 for an empty cell. Logit c of a cell
    stands for digit c + 1.
    """

    @property
    @abstractmethod
    def side(self) -> int:
        """The number of cells in a row, and of digits."""

    @property
    def shape(self) -> TaskShape:
        """A square board of cells with a one-hot input (the digits and empty) and one logit per digit."""
        return TaskShape(inputs=self.side + 1, outputs=self.side, grid=(self.side, self.side))

    def inputs(self, problems: Int[Tensor, "batch cells"]) -> Float[Tensor, "batch cells features"]:
        """Return the one-hot encoding of cells: index 0 for an empty cell, index d for digit d."""
        return F.one_hot(problems.long(), self.side + 1).float()

    def loss(
        self, logits: Float[Tensor, "batch cells digits"], answers: Int[Tensor, "batch cells"]
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over all cells, in nats."""
        return F.cross_entropy(logits.float().flatten(0, 1), answers.flatten().long() - 1)

    def correct(
        self,
        logits: Float[Tensor, "batch cells digits"],
        problems: Int[Tensor, "batch cells"],
        answers: Int[Tensor, "batch cells"],
    ) -> Bool[Tensor, "batch cells"]:
        """Return which cells are right, givens included."""
        return logits.argmax(-1) + 1 == answers

    def other_rules(
        self,
        logits: Float[Tensor, "batch cells digits"],
        problems: Int[Tensor, "batch cells"],
        answers: Int[Tensor, "batch cells"],
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return no rules: a grid is right only if all its cells are."""
        return {}
