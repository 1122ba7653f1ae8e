"""The answer of any loop: its tokens as a strip or a grid, below those of a text, or HTML that the user's own function makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.lab.views.view import (
    Logits,
    Question,
    Snapshot,
    cell,
    confidence,
    counted,
    grid,
    legend,
    percent,
    problem_of,
    title,
    tokens_answer,
)
from loopscope.reports.kit.page import text
from loopscope.stability.orbits.answers import Answers, Correct
from loopscope.tasks.text import TextFormat

MOST_TOKENS = 1024
"""Tokens that are drawn; the answer may have more."""
ALONE = (("answer", "7", "answer, paler where less sure"), ("answer changed", "7", "just changed"))
PAIRED = (
    (
        "pair answer",
        "<i>a</i><b>b</b>",
        "token of the text, and below it the model's next token, paler where less sure",
    ),
    ("pair answer changed", "<i>a</i><b>b</b>", "just changed"),
)


@dataclass(frozen=True)
class TokensView:
    """Tokens with the largest output of each. For a text, each stands below the token of the text that it follows.

    Args:
        word: how an output is written; its number by default.
        columns: tokens per row; None for a strip that wraps.
        draw: the user's function from logits, [tokens, outputs], to HTML, in place of tokens.
        correct: which of the inputs that the loop came with are right, see `loopscope.stability.targets.rule_of`.
        answers: the user's function from logits to comparable answers.
        hint: what problems look like if they can be typed in.
    """

    word: Callable[[int], str] = str
    columns: int | None = None
    draw: Callable[[Tensor], str] | None = None
    correct: Correct | None = None
    answers: Answers | None = None
    hint: str = ""
    part: str = "token"
    keys: ClassVar[dict[str, str]] = {}

    def answer(self, question: Question, logits: Logits) -> Int[Tensor, "parts"]:
        """Return each token's largest output, or what the user's function answers."""
        if self.answers is None:
            return tokens_answer(_without_padding(question, logits))
        return self.answers(logits[None]).reshape(-1).long()

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return whether the answer is that of the targets; None for problems without any."""
        if self.correct is None or question.row is None:
            return None
        return bool(self.correct(logits[None], torch.tensor([question.row]))[0])

    def said(self, question: Question, logits: Logits) -> str:
        """Return the first tokens in words."""
        return " ".join(self._words(tokens_answer(_without_padding(question, logits))[:32]))

    def html(self, question: Question, snapshot: Snapshot | None) -> str:
        """Return the tokens, or what the user's function makes of the logits."""
        if snapshot is None:
            return _strip(question.tokens) if question.tokens else f'<p class="board soft">{text(question.text)}</p>'
        if self.draw is not None:
            return f'<div class="board own">{self.draw(snapshot.logits)}</div>'
        logits = _without_padding(question, snapshot.logits)
        shown = tokens_answer(logits[:MOST_TOKENS])
        sure, words = confidence(logits[:MOST_TOKENS]), self._words(shown)
        changed = snapshot.changed.tolist() if len(snapshot.changed) >= len(words) else [False] * len(words)
        # Readouts at some positions alone do not say which tokens of the text they follow.
        above = question.tokens if len(question.tokens) == len(logits) else ()
        cells = []
        for place, word in enumerate(words):
            notes = [percent(sure[place]), *(["just changed"] if changed[place] else [])]
            kinds = ["answer", *(["changed"] if changed[place] else [])]
            if above:
                label = text(f"{self.part} {place + 1}, {above[place]}: next {word}, {', '.join(notes)}")
                inside, kinds = f"<i>{text(above[place])}</i><b>{text(word)}</b>", ["pair", *kinds]
            else:
                label, inside = text(f"{self.part} {place + 1}: {word}, {', '.join(notes)}"), text(word)
            cells.append(cell(place, inside, label, *kinds, sure=sure[place]))
        rows = [cells] if self.columns is None else _split(cells, self.columns)
        board = "tokens" if self.columns is None else "tokens lattice"
        wide = "" if self.columns is None else f' style="--columns:{self.columns}"'
        note = f"{counted(sum(changed), self.part)} just changed"
        more = len(logits) - len(words)
        rest = f'<p class="soft">and {counted(more, "token")} more</p>' if more > 0 else ""
        name = "Text, with the next token below each token" if above else "Answer"
        return (
            grid(board, title(name, snapshot, note), ["".join(row) for row in rows], wide)
            + rest
            + (legend(*PAIRED) if above else legend(*ALONE))
        )

    def edited(self, question: Question, place: int, key: str) -> str | None:
        """Problems of a user's loop are not typed into a board."""
        return None

    def moved(self, question: Question, origin: int, target: int) -> str | None:
        """Tokens do not move."""
        return None

    def _words(self, answer: Int[Tensor, "parts"]) -> list[str]:
        return [self.word(one) if one >= 0 else "?" for one in answer.tolist()]


@dataclass(frozen=True)
class TypedView(TokensView):
    """Tokens of a task whose problems can be typed in, and which brings no board of its own.

    Args:
        form: the text format of the task.
    """

    form: TextFormat = field(kw_only=True)

    @property
    def examples(self) -> dict[str, str]:
        """The example of the text format."""
        return {self.form.example: "an example"}

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return whether the rules confirm the answer."""
        return self.form.right(problem_of(question), logits)

    def said(self, question: Question, logits: Logits) -> str:
        """Return the answer on one line."""
        return self.form.line(problem_of(question), logits)


def _without_padding(question: Question, logits: Logits) -> Float[Tensor, "real outputs"]:
    """Return the logits at the tokens of a text; those of other problems unchanged."""
    return logits[: len(question.tokens)] if question.tokens else logits


def _strip(tokens: Sequence[str]) -> str:
    """Return the tokens of a text."""
    cells = [
        cell(place, f"<i>{text(token)}</i><b>&nbsp;</b>", text(f"token {place + 1}: {token}"), "pair", "empty")
        for place, token in enumerate(tokens[:MOST_TOKENS])
    ]
    return grid("tokens", title("Text", None), ["".join(cells)])


def _split(cells: list[str], columns: int) -> list[list[str]]:
    return [cells[first : first + columns] for first in range(0, len(cells), columns)]
