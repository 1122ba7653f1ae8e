"""A string of bits above its prefix sums."""

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
from loopscope.tasks.prefix_sums.task import prefix_sums
from loopscope.tasks.prefix_sums.text import PrefixSumsText

EXAMPLES = {
    "110100011101": "12 bits",
    "011010011001": "12 other bits",
    PrefixSumsText.example: "16 bits",
    "11010001110101100011010101110001": "32 bits, as in training",
    2 * "11010001110101100011010101110001" + 2 * "0110100110010110": "96 bits, three times as long as in training",
}
"""Problems to pick, each with what there is to say of it."""
PRESSED = ' data-press="Click"'
"""The key that a click on a bit is taken for, see page.js."""


class BitsView:
    """Each bit with its prefix sum below: even or odd, how many ones so far? Wrong sums are marked."""

    part = "bit"
    hint = "a string of 0 and 1"
    examples: ClassVar[dict[str, str]] = EXAMPLES
    keys: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self._text = PrefixSumsText()

    def answer(self, question: Question, logits: Logits) -> Int[Tensor, "parts"]:
        """Return the sum of each prefix, modulo 2."""
        return tokens_answer(logits)

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return whether every sum is right."""
        return self._text.right(problem_of(question), logits)

    def said(self, question: Question, logits: Logits) -> str:
        """Return the sums as a string of bits."""
        return self._text.line(problem_of(question), logits)

    def html(self, question: Question, snapshot: Snapshot | None) -> str:
        """Return the strip of bits."""
        problem = problem_of(question)
        if snapshot is None:
            cells = [
                cell(place, f"<i>{bit}</i><b>&nbsp;</b>", f"bit {place + 1}: {bit}", "bit", "empty")
                for place, bit in enumerate(problem.text)
            ]
            return grid("bits", title("Bits", None, "Press 0 or 1, or click, to change one"), ["".join(cells)], PRESSED)
        wanted = prefix_sums(problem.tokens[None])[0].tolist()
        sums, sure = tokens_answer(snapshot.logits).tolist(), confidence(snapshot.logits)
        cells, wrong = [], 0
        for place, (bit, found) in enumerate(zip(problem.text, sums, strict=True)):
            notes, kinds = [percent(sure[place])], ["bit", "answer"]
            if found != wanted[place]:
                notes, kinds, wrong = [*notes, "wrong"], [*kinds, "wrong"], wrong + 1
            if bool(snapshot.changed[place]):
                notes, kinds = [*notes, "just changed"], [*kinds, "changed"]
            label = f"bit {place + 1}: {bit}, sum so far {found}, {', '.join(notes)}"
            shown = f"<i>{bit}</i><b>{found if found >= 0 else '?'}</b>"
            cells.append(cell(place, shown, label, *kinds, sure=sure[place]))
        key = legend(
            ("bit answer", "<i>1</i><b>0</b>", "bit, and below it the sum so far (0 even, 1 odd)"),
            ("bit answer changed", "<i>1</i><b>0</b>", "just changed"),
            ("bit answer wrong", "<i>1</i><b>0</b>", "wrong"),
        )
        notes = [f"{counted(wrong, 'sum')} wrong", f"{counted(int(snapshot.changed.sum()), 'sum')} just changed"]
        return grid("bits", title("Bits", snapshot, *notes), ["".join(cells)], PRESSED) + key

    def edited(self, question: Question, place: int, key: str) -> str | None:
        """Return the string with one bit set, or flipped by a click."""
        text = problem_of(question).text
        bit = {"Click": "10"[int(text[place])], "0": "0", "1": "1"}.get(key)
        return None if bit is None else text[:place] + bit + text[place + 1 :]

    def moved(self, question: Question, origin: int, target: int) -> str | None:
        """Bits do not move."""
        return None
