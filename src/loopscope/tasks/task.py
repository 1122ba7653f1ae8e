"""The interface of a task: splits of problems and answers, their encoding, a loss, and a rule of correctness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError


@dataclass(frozen=True)
class Split:
    """Problems and their answers in compact form. ``Task.inputs`` turns problems into the inputs of a model.

    Args:
        problems: one row per example.
        answers: one row per example.
        difficulty: one number per example, such as a rating or a number of guesses; higher is harder. None if the task
            does not grade its problems.

    Example:
        >>> import torch, loopscope as ls
        >>> split = ls.Split(problems=torch.tensor([[0, 1], [1, 1], [1, 0]]), answers=torch.tensor([[0, 1], [1, 0], [1, 1]]))
        >>> len(split), len(split.first(2))
        (3, 2)
    """

    problems: Int[Tensor, "examples tokens"]
    answers: Int[Tensor, "examples columns"]
    difficulty: Float[Tensor, "examples"] | None = None

    def __post_init__(self) -> None:
        if len(self.problems) == 0 or len(self.problems) != len(self.answers):
            raise LoopscopeError(
                f"a split has {len(self.problems)} problems and {len(self.answers)} answers, expected as many of each"
            )
        if self.difficulty is not None and len(self.difficulty) != len(self.problems):
            raise LoopscopeError(
                f"a split has {len(self.problems)} problems and {len(self.difficulty)} difficulties, expected as many "
                "of each"
            )

    def __len__(self) -> int:
        return len(self.problems)

    def first(self, count: int | None) -> Split:
        """Return a split of the first ``count`` examples, or the whole split if ``count`` is None."""
        if count is None:
            return self
        difficulty = None if self.difficulty is None else self.difficulty[:count]
        return Split(self.problems[:count], self.answers[:count], difficulty)

    def to(self, device: torch.device) -> Split:
        """Return the split on a device."""
        difficulty = None if self.difficulty is None else self.difficulty.to(device)
        return Split(self.problems.to(device), self.answers.to(device), difficulty)


@dataclass(frozen=True)
class TaskShape:
    """The dimensions that a task requires of a model, used where the model's config leaves them open.

    Args:
        inputs: numbers per input token.
        outputs: logits per output token.
        grid: lengths of the token grid's axes, such as (9, 9); (0,) is a line of any length.
        attention: full, or local (neighbourhood attention on a line).
        kernel_size: number of positions that a token sees under local attention.
    """

    inputs: int
    outputs: int
    grid: tuple[int, ...]
    attention: Literal["full", "local"] = "full"
    kernel_size: int | None = None


@runtime_checkable
class Task(Protocol):
    """The protocol of tasks. An implementation is a frozen dataclass whose fields are the options of its data.

    Example:
        >>> import loopscope as ls
        >>> isinstance(ls.PrefixSums(), ls.Task)
        True
    """

    name: ClassVar[str]

    @property
    def shape(self) -> TaskShape:
        """The dimensions that the task requires of a model."""

    def training_split(self) -> Split:
        """Return the examples to train on."""

    def evaluation_splits(self) -> dict[str, Split]:
        """Return the examples to evaluate on, by name; the first split is the easy one."""

    def inputs(self, problems: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens features"]:
        """Return a batch of problems as the inputs that a model takes."""

    def augment(
        self, problems: Tensor, answers: Tensor, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
        """Return a training batch after random changes that keep its answers right."""

    def loss(self, logits: Float[Tensor, "batch tokens outputs"], answers: Int[Tensor, "batch tokens"]) -> Tensor:
        """Return the mean training loss, in nats per token."""

    def correct(
        self, logits: Float[Tensor, "batch tokens outputs"], problems: Tensor, answers: Tensor
    ) -> Bool[Tensor, "batch tokens"]:
        """Return which tokens are right. An answer is right if all of its tokens are."""

    def other_rules(
        self, logits: Float[Tensor, "batch tokens outputs"], problems: Tensor, answers: Tensor
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return which answers are right under further rules that are reported too, by name. Most tasks have none."""


@runtime_checkable
class ChoiceTask(Protocol):
    """A task whose answer is a choice of tokens by their scores, so that the order of the other scores does not matter."""

    def chosen(self, logits: Float[Tensor, "batch tokens 1"]) -> Int[Tensor, "batch choices"]:
        """Return the indices of the chosen tokens, in ascending order."""


@runtime_checkable
class ShowsAChoice(Protocol):
    """A task that shows the best of several legal answers, such as a move, instead of the readout of each token."""

    def shown(
        self, logits: Float[Tensor, "batch tokens 1"], answers: Int[Tensor, "batch columns"]
    ) -> tuple[Bool[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Return whether the best legal answer is right, and one minus its probability among the legal answers."""


def answers_of(task: Task) -> Callable[[Tensor], Tensor] | None:
    """Return the function from logits to comparable answers, or None if the answer is each token's largest output."""
    return task.chosen if isinstance(task, ChoiceTask) else None
