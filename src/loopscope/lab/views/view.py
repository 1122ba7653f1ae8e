"""What a view is: it shows a problem and what a loop answers to it, as HTML with labels for screen readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.stability.orbits.answers import gives_answer, predictions
from loopscope.tasks.text import Problem
from loopscope.trees import Tree

Logits = Float[Tensor, "tokens outputs"]
"""What is read from the state of one example. An answer has a part for each token, or fewer, such as the squares of a move."""


@dataclass(frozen=True)
class Question:
    """One problem, ready for a loop.

    Args:
        text: the problem as it is typed in.
        inputs: the inputs of the loop, a batch of one.
        problem: the problem as its task reads it; None for a user's loop.
        row: its place among the inputs that a user's loop came with; None if it was typed in.
        tokens: the tokens of a text as they are written, without padding; empty for problems that are not texts.
    """

    text: str
    inputs: Tree
    problem: Problem | None = None
    row: int | None = None
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What a loop shows at one iteration.

    Args:
        iteration: the iteration.
        logits: what is read from the state.
        changed: which parts of the answer differ from those one iteration before.
    """

    iteration: int
    logits: Logits
    changed: Bool[Tensor, "parts"]


@runtime_checkable
class View(Protocol):
    """The protocol of views."""

    @property
    def part(self) -> str:
        """The name of one part of an answer, such as "cell"; its plural ends in s."""

    @property
    def hint(self) -> str:
        """What problems look like, for the box that they are typed into; empty if they cannot be typed in."""

    @property
    def keys(self) -> dict[str, str]:
        """The keys that can be pressed at a place of the board, each with its name on a button."""

    def answer(self, question: Question, logits: Logits) -> Int[Tensor, "parts"]:
        """Return the answer, one whole number per part."""

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return whether the answer is right, or None where nothing tells."""

    def said(self, question: Question, logits: Logits) -> str:
        """Return the answer in words, for screen readers and captions."""

    def html(self, question: Question, snapshot: Snapshot | None) -> str:
        """Return the problem and the answer as HTML; the problem alone without a snapshot."""

    def edited(self, question: Question, place: int, key: str) -> str | None:
        """Return the text of the problem after a key was pressed at a place of the board; None if it means nothing."""

    def moved(self, question: Question, origin: int, target: int) -> str | None:
        """Return the text of the problem after a part was moved to another place; None where parts do not move."""


@runtime_checkable
class Board(View, Protocol):
    """A view of a task's problems, which the task is registered with (`loopscope.tasks.registry.Registration.board`)."""

    @property
    def examples(self) -> Mapping[str, str]:
        """Problems to pick, as they are typed in, each with what there is to say of it."""


def tokens_answer(logits: Logits) -> Int[Tensor, "tokens"]:
    """Return each token's largest output, or the sign of a single one; -1 where there is no answer because of NaN."""
    return torch.where(gives_answer(logits), predictions(logits).long(), -1)


def confidence(logits: Logits) -> list[float]:
    """Return the probability of each token's answer, between 0 and 1; 0 where there is none because of NaN.

    Example:
        >>> confidence(torch.tensor([[0.0, 0.0], [torch.nan, 1.0], [9.0, -9.0]]))
        [0.5, 0.0, 1.0]
    """
    one = logits.shape[-1] == 1
    sure = torch.sigmoid(logits.abs()).squeeze(-1) if one else logits.softmax(-1).amax(-1)
    return [round(value, 3) for value in sure.nan_to_num(0.0).tolist()]


def percent(sure: float) -> str:
    """Return a probability in words: "97% sure"."""
    return f"{100 * sure:.0f}% sure"


def cell(place: int, shown: str, label: str, *kinds: str, sure: float = 1.0, extra: str = "") -> str:
    """Return one cell of a board: it can be focused, and its label is what a screen reader says.

    Args:
        place: the number of the cell.
        shown: HTML of its content.
        label: its description, as plain text without markup.
        kinds: CSS classes.
        sure: confidence, between 0 and 1.
        extra: further HTML attributes.
    """
    focus = 0 if place == 0 else -1
    style = "" if sure == 1.0 else f' style="--sure:{sure:g}"'
    return (
        f'<div role="gridcell" class="{" ".join(("cell", *kinds))}" tabindex="{focus}" data-place="{place}" '
        f'aria-label="{label}"{style}{extra}>{shown}</div>'
    )


def grid(kind: str, label: str, rows: list[str], attributes: str = "") -> str:
    """Return a board of rows of cells."""
    inside = "".join(f'<div role="row" class="row">{row}</div>' for row in rows)
    return f'<div role="grid" class="board {kind}" aria-label="{label}"{attributes}>{inside}</div>'


def legend(*entries: tuple[str, str, str]) -> str:
    """Return the legend of a board.

    Args:
        entries: for each entry the CSS classes of a sample cell, what it shows, and what it means.
    """
    inside = "".join(f'<li><span class="cell {kinds}">{shown}</span>{words}</li>' for kinds, shown, words in entries)
    return f'<ul class="key">{inside}</ul>'


def title(name: str, snapshot: Snapshot | None, *notes: str) -> str:
    """Return the label of a whole board."""
    when = "the problem" if snapshot is None else f"iteration {snapshot.iteration}"
    return ". ".join([f"{name}, {when}", *(note for note in notes if note)])


def counted(number: int, what: str) -> str:
    """Return a number with its noun: "1 cell", "3 cells"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def problem_of(question: Question) -> Problem:
    """Return the problem of a task's question."""
    problem: Any = question.problem
    assert isinstance(problem, Problem)
    return problem
