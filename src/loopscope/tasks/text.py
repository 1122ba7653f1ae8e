"""Problems and answers as text, for ``loopscope solve`` and for the pages that show a problem being solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from rich.text import Text
from torch import Tensor

PLAIN = ""
"""The terminal's own colour, which is legible on every background."""
BANDS = ((0, PLAIN), (8, "color(32)"), (30, "color(134)"), (120, "color(166)"))
"""Colours of a part of an answer by the iteration at which it last changed, each with the first iteration of its band.

All colours of pictures are of medium brightness, so that they are legible on light and on dark backgrounds.
"""
GIVEN = "bold"
WRONG = "color(196) reverse"
CHANGED = "*"
"""Mark of a part of an answer that changed in the last iteration."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Args:
        text: text of the problem in normal form.
        tokens: tokens of the problem, a row of the batch that ``Task.inputs`` takes.
    """

    text: str
    tokens: Int[Tensor, "tokens"]


@dataclass(frozen=True)
class Frame:
    """One iteration of a problem that is being solved.

    Args:
        iteration: number of the iteration, from 1.
        logits: readout of the state.
        since: iteration at which each part of the answer last changed (see ``TextFormat.parts``); 0 for a part that is
            still that of the first state.
        residual: relative residual of the step that led to this state.
        unsure: one minus the confidence of the answer.
    """

    iteration: int
    logits: Float[Tensor, "tokens outputs"]
    since: Int[Tensor, "parts"]
    residual: float
    unsure: float

    @property
    def changed(self) -> Bool[Tensor, "parts"]:
        """Which parts of the answer changed in this iteration."""
        return self.since == self.iteration


@dataclass(frozen=True)
class Candidates:
    """What a model considers for one part of an answer.

    Args:
        place: name of the part, such as "row 4, column 7".
        shares: the candidates with their softmax probabilities, the most probable first.
    """

    place: str
    shares: tuple[tuple[str, float], ...]


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

    def parts(self, problem: Problem, logits: Float[Tensor, "tokens outputs"]) -> Int[Tensor, "parts"]:
        """Return the parts of the answer as numbers, such as the digit of each cell. A change shows that it changed."""

    def candidates(self, problem: Problem, logits: Float[Tensor, "tokens outputs"], count: int) -> list[Candidates]:
        """Return the candidates of the ``count`` least certain parts of the answer, the least certain first."""

    def picture(self, problem: Problem, frame: Frame) -> Text:
        """Return the answer as a picture that marks what changed in the last iteration."""


@runtime_checkable
class ListsChoices(Protocol):
    """A text format of a task that shows a choice among legal answers (`loopscope.tasks.task.ShowsAChoice`)."""

    def choices(self, problem: Problem) -> Int[Tensor, "1 columns"]:
        """Return the legal answers to a problem, packed like the answers of a split."""


def candidates_of(
    logits: Float[Tensor, "parts outputs"], places: Sequence[str], names: Sequence[str], count: int
) -> list[Candidates]:
    """Return the candidates of the least certain parts, the least certain first.

    Args:
        logits: one row for each part.
        places: names of the parts.
        names: names of the outputs.
        count: largest number of parts.

    Example:
        >>> import torch
        >>> (found,) = candidates_of(torch.tensor([[0.0, 9.0], [0.0, 0.5]]), ["bit 1", "bit 2"], ["0", "1"], 1)
        >>> found.place, [(name, round(share, 2)) for name, share in found.shares]
        ('bit 2', [('1', 0.62), ('0', 0.38)])
    """
    shares = logits.double().softmax(-1)
    order = shares.max(-1).values.argsort(stable=True)[:count].tolist()
    return [
        Candidates(
            places[part],
            tuple((names[output], float(shares[part, output])) for output in shares[part].argsort(descending=True)),
        )
        for part in order
    ]


def colour(since: int) -> str:
    """Return the colour of a part that last changed at iteration ``since``."""
    return next(name for begin, name in reversed(BANDS) if since >= begin)


def legend(pictures: Sequence[Text]) -> Text:
    """Return the legend of pictures: what their colours and marks mean."""
    text = Text("last changed at iteration ")
    ends = [begin for begin, _ in BANDS[1:]]
    for (begin, name), end in zip(BANDS, [*ends, None], strict=True):
        text.append(f"{begin}+" if end is None else f"{begin}-{end - 1}", style=name)
        text.append(" " if end is not None else "")
    if any(CHANGED in picture.plain for picture in pictures):
        text.append(f"; {CHANGED} in this one")
    if any(str(span.style) == WRONG for picture in pictures for span in picture.spans):
        text.append("; ").append("wrong", style=WRONG)
    return text
