"""Problems and answers as text, for ``loopscope solve``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from rich.text import Text
from torch import Tensor

BANDS = ((0, "bright_black"), (8, "blue"), (30, "cyan"), (120, "yellow"))
"""Colours of a part of an answer by the iteration at which it settled, each with the first iteration of its band."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Args:
        text: text of the problem in normal form.
        tokens: tokens of the problem, a row of the batch that ``Task.inputs`` takes.
    """

    text: str
    tokens: Int[Tensor, "tokens"]


@runtime_checkable
class TextFormat(Protocol):
    """The protocol of text formats: how the problems and answers of one task are written."""

    example: str

    def read(self, text: str) -> Problem:
        """Parse a problem.

        Raises:
            LoopscopeError: the text is not a problem, or the rules make the problem impossible. The message says what is
                wrong and where.
        """

    def line(self, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> str:
        """Return the answer on one line."""

    def right(self, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> bool | None:
        """Return whether the rules confirm the answer, or None if they cannot decide."""

    def picture(self, problem: Problem, logits: Float[Tensor, "tokens outputs"], since: Int[Tensor, "tokens"]) -> Text:
        """Return the answer as a picture, given the iteration at which each token's answer last changed."""


@runtime_checkable
class ListsChoices(Protocol):
    """A text format of a task that shows a choice among legal answers (`loopscope.tasks.task.ShowsAChoice`)."""

    def choices(self, problem: Problem) -> Int[Tensor, "1 columns"]:
        """Return the legal answers to a problem, packed like the answers of a split."""


def colour(since: int) -> str:
    """Return the colour of a part that last changed after ``since`` iterations."""
    return next(name for begin, name in reversed(BANDS) if since >= begin)


def legend() -> Text:
    """Return the legend of the colours."""
    text = Text("settled after  ")
    ends = [begin for begin, _ in BANDS[1:]]
    for (begin, name), end in zip(BANDS, [*ends, None], strict=True):
        text.append(f"{begin}+ " if end is None else f"{max(1, begin)}-{end - 1} ", style=name)
        text.append(" ")
    return text.append("iterations")
