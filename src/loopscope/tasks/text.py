"""Problems and answers as text: what ``loopscope solve`` needs beside the task itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from rich.text import Text
from torch import Tensor

BANDS = ((0, "bright_black"), (8, "blue"), (30, "cyan"), (120, "yellow"))
"""From how many iterations on a part that settled then is shown in which colour; givens and the like in bold white."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Args:
        text: as it was given, tidied.
        tokens: the row that ``Task.inputs`` takes.
    """

    text: str
    tokens: Int[Tensor, "tokens"]


@runtime_checkable
class TextFormat(Protocol):
    """How the problems and answers of one task are written."""

    example: str

    def read(self, text: str) -> Problem:
        """Return the problem that a text writes down.

        Raises:
            LoopscopeError: the text writes none, or one that the rules make impossible; it says what is wrong and where.
        """

    def line(self, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> str:
        """Return the answer on one line."""

    def right(self, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> bool | None:
        """Return whether the rules confirm the answer; None where they cannot tell."""

    def picture(self, problem: Problem, logits: Float[Tensor, "tokens outputs"], since: Int[Tensor, "tokens"]) -> Text:
        """Return the answer for the eye; ``since`` says after which iteration each token's answer last changed."""


@runtime_checkable
class ListsChoices(Protocol):
    """The text of a task that shows a choice among legal answers (`loopscope.tasks.task.ShowsAChoice`)."""

    def choices(self, problem: Problem) -> Int[Tensor, "1 columns"]:
        """Return the legal answers of a problem, packed as the task's answers are."""


def colour(since: int) -> str:
    """Return the colour of what last changed after so many iterations."""
    return next(name for begin, name in reversed(BANDS) if since >= begin)


def legend() -> Text:
    """Return what the colours mean."""
    text = Text("settled after  ")
    ends = [begin for begin, _ in BANDS[1:]]
    for (begin, name), end in zip(BANDS, [*ends, None], strict=True):
        text.append(f"{begin}+ " if end is None else f"{max(1, begin)}-{end - 1} ", style=name)
        text.append(" ")
    return text.append("iterations")
