"""The answer of any loop: its tokens as a strip or a grid, or HTML that the user's own function makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
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
    title,
    tokens_answer,
)
from loopscope.reports.kit.page import text
from loopscope.stability.orbits.answers import Answers, Correct

MOST_TOKENS = 1024
"""Tokens that are drawn; the answer may have more."""


@dataclass(frozen=True)
class TokensView:
    """Tokens with the largest output of each.

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
            return tokens_answer(logits)
        return self.answers(logits[None]).reshape(-1).long()

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return whether the answer is that of the targets; None for problems without any."""
        if self.correct is None or question.row is None:
            return None
        return bool(self.correct(logits[None], torch.tensor([question.row]))[0])

    def said(self, question: Question, logits: Logits) -> str:
        """Return the first tokens in words."""
        return " ".join(self._words(tokens_answer(logits)[:32]))

    def html(self, question: Question, snapshot: Snapshot | None) -> str:
        """Return the tokens, or what the user's function makes of the logits."""
        if snapshot is None:
            return f'<p class="board soft">{text(question.text)}</p>'
        if self.draw is not None:
            return f'<div class="board own">{self.draw(snapshot.logits)}</div>'
        shown = tokens_answer(snapshot.logits)[:MOST_TOKENS]
        sure, words = confidence(snapshot.logits[:MOST_TOKENS]), self._words(shown)
        changed = snapshot.changed.tolist() if len(snapshot.changed) >= len(words) else [False] * len(words)
        cells = []
        for place, word in enumerate(words):
            notes = [percent(sure[place]), *(["just changed"] if changed[place] else [])]
            label = text(f"{self.part} {place + 1}: {word}, {', '.join(notes)}")
            kinds = ["answer", *(["changed"] if changed[place] else [])]
            cells.append(cell(place, text(word), label, *kinds, sure=sure[place]))
        rows = [cells] if self.columns is None else _split(cells, self.columns)
        board = "tokens" if self.columns is None else "tokens lattice"
        wide = "" if self.columns is None else f' style="--columns:{self.columns}"'
        key = legend(("answer", "7", "answer, paler where less sure"), ("answer changed", "7", "just changed"))
        note = f"{counted(sum(changed), self.part)} just changed"
        more = len(snapshot.logits) - len(words)
        rest = f'<p class="soft">and {counted(more, "token")} more</p>' if more > 0 else ""
        return grid(board, title("Answer", snapshot, note), ["".join(row) for row in rows], wide) + rest + key

    def edited(self, question: Question, place: int, key: str) -> str | None:
        """Problems of a user's loop are not typed into a board."""
        return None

    def moved(self, question: Question, origin: int, target: int) -> str | None:
        """Tokens do not move."""
        return None

    def _words(self, answer: Int[Tensor, "parts"]) -> list[str]:
        return [self.word(one) if one >= 0 else "?" for one in answer.tolist()]


def _split(cells: list[str], columns: int) -> list[list[str]]:
    return [cells[first : first + columns] for first in range(0, len(cells), columns)]
