"""A sudoku as a grid whose cells can be typed into."""

from __future__ import annotations

from typing import ClassVar

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
    problem_of,
    title,
    tokens_answer,
)
from loopscope.tasks.sudoku.text import SudokuText, clashes

EXAMPLES = {
    "..58..9..1.2...85.84....3...3825.....5...7..22.....53.9.......5...5..498...941.6.": "needs 1 to 3 guesses",
    "......3.9.......6.....18.........7..8.5.........874..1..43.6.5.76..2...8...4..9..": "needs 10 to 99 guesses",
    "8..5...67.....9.......2...141.2....5.....13743.94.8...7...4......23.5..6.4.61..3.": "easy",
    SudokuText.example: "easy, from the documentation",
    ".......563...........1.3.4..84.7.2......2.7...67....3...19.....4.87..1...7...5...": "too hard for the shipped model",
}
"""Problems to pick, each with what there is to say of it."""
EMPTY = frozenset((".", "0", " ", "Backspace", "Delete"))
"""Keys that empty a cell."""


class SudokuView:
    """Givens in black, the model's digits in blue, paler where it is less sure; changes and errors are marked."""

    part = "cell"
    hint = "81 characters, row by row; 0 or . for an empty cell"
    examples: ClassVar[dict[str, str]] = EXAMPLES
    keys: ClassVar[dict[str, str]] = {**{digit: digit for digit in "123456789"}, "Delete": "×"}

    def __init__(self) -> None:
        self._text = SudokuText()

    def answer(self, question: Question, logits: Logits) -> Int[Tensor, "parts"]:
        """Return the digit of each cell, minus one."""
        return tokens_answer(logits)

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return whether the grid obeys the rules and keeps the givens."""
        return self._text.right(problem_of(question), logits)

    def said(self, question: Question, logits: Logits) -> str:
        """Return the 81 digits."""
        return self._text.line(problem_of(question), logits)

    def html(self, question: Question, snapshot: Snapshot | None) -> str:
        """Return the grid."""
        given = problem_of(question).tokens.tolist()
        if snapshot is None:
            cells = [_given(place, digit) if digit else _empty(place) for place, digit in enumerate(given)]
            return grid("sudoku", title("Sudoku", None, "Type digits into its cells"), _rows(cells))
        digits = (tokens_answer(snapshot.logits) + 1).tolist()
        kept = (tokens_answer(snapshot.logits) + 1).numpy()
        wrong, sure, changed = clashes(kept), confidence(snapshot.logits), snapshot.changed.tolist()
        cells = []
        for place, digit in enumerate(digits):
            if given[place] == digit:
                cells.append(_given(place, digit, *(["wrong"] if wrong[place] else [])))
                continue
            notes = [percent(sure[place])]
            kinds = ["answer"]
            if given[place]:
                notes, kinds = [*notes, f"the given {given[place]} is not kept"], [*kinds, "wrong"]
            elif wrong[place]:
                notes, kinds = [*notes, "breaks a rule"], [*kinds, "wrong"]
            if changed[place]:
                notes, kinds = [*notes, "just changed"], [*kinds, "changed"]
            label = f"{_where(place)}: {digit}, {', '.join(notes)}"
            cells.append(cell(place, str(digit), label, *kinds, sure=sure[place]))
        many = int(wrong.sum())
        counts = (
            f"{counted(sum(changed), 'cell')} just changed",
            f"{counted(many, 'cell')} {'breaks' if many == 1 else 'break'} a rule" if many else "no rule is broken",
        )
        key = legend(
            ("given", "5", "given"),
            ("answer", "5", "answer, paler where less sure"),
            ("answer changed", "5", "just changed"),
            ("answer wrong", "5", "breaks a rule"),
        )
        return grid("sudoku", title("Sudoku", snapshot, *counts), _rows(cells)) + key

    def edited(self, question: Question, place: int, key: str) -> str | None:
        """Return the puzzle with a digit written into a cell, or taken out of it."""
        if key in EMPTY:
            key = "."
        if key not in "123456789." or len(key) != 1:
            return None
        text = problem_of(question).text
        return text[:place] + key + text[place + 1 :]

    def moved(self, question: Question, origin: int, target: int) -> str | None:
        """Digits do not move."""
        return None


def _where(place: int) -> str:
    return f"row {place // 9 + 1}, column {place % 9 + 1}"


def _given(place: int, digit: int, *kinds: str) -> str:
    return cell(place, str(digit), f"{_where(place)}: {digit}, given", "given", *kinds)


def _empty(place: int) -> str:
    return cell(place, "", f"{_where(place)}: empty", "empty")


def _rows(cells: list[str]) -> list[str]:
    return ["".join(cells[first : first + 9]) for first in range(0, 81, 9)]
