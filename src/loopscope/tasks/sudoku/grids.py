"""What the tasks of sudoku share, whatever the size of their boards: how grids are read, answered and judged."""

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
    """The splits of a task that are made together.

    Args:
        training: the examples to train on; None where there are too few.
        evaluation: those to evaluate on, by name, the easy ones first.
        why_no_training: what to say where somebody wants to train all the same.
    """

    training: Split | None
    evaluation: dict[str, Split]
    why_no_training: str = ""

    def require_training(self) -> Split:
        """Return the examples to train on.

        Raises:
            LoopscopeError: there are too few.
        """
        if self.training is None:
            raise LoopscopeError(self.why_no_training)
        return self.training


class SudokuGrids(ABC):
    """The part of a task that follows from the size of its boards.

    Problems and answers are grids row by row, digits from 1 and 0 where a cell is empty; logit c of a cell is for the
    digit c + 1.
    """

    @property
    @abstractmethod
    def side(self) -> int:
        """Cells of a row, and the number of digits."""

    @property
    def shape(self) -> TaskShape:
        """One number per digit and one for empty in, a logit per digit out, on a square board."""
        return TaskShape(inputs=self.side + 1, outputs=self.side, grid=(self.side, self.side))

    def inputs(self, problems: Int[Tensor, "batch cells"]) -> Float[Tensor, "batch cells features"]:
        """Return the cells one-hot: number 0 says empty, number d the digit d."""
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
        """Return which cells are right; the givens count too."""
        return logits.argmax(-1) + 1 == answers

    def other_rules(
        self,
        logits: Float[Tensor, "batch cells digits"],
        problems: Int[Tensor, "batch cells"],
        answers: Int[Tensor, "batch cells"],
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return nothing: a grid is right when all of it is, by one rule."""
        return {}
