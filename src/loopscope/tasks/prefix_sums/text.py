"""Prefix sums as people write them: a string of bits."""

from __future__ import annotations

from jaxtyping import Float, Int
from rich.text import Text
from torch import Tensor, tensor

from loopscope.errors import LoopscopeError
from loopscope.tasks.prefix_sums.task import prefix_sums
from loopscope.tasks.text import CHANGED, GIVEN, WRONG, Candidates, Frame, Problem, candidates_of, colour


class PrefixSumsText:
    """A string of bits as the problem, and the parities of its prefixes as the answer."""

    example = "1101000111010110"

    def read(self, text: str) -> Problem:
        """Parse a string of 0 and 1. White space is ignored."""
        bits = "".join(text.split())
        if not bits:
            raise LoopscopeError(f"no bits were given: expected a string such as {self.example}")
        for place, bit in enumerate(bits, 1):
            if bit not in "01":
                raise LoopscopeError(f"{bit!r} at place {place} is not a bit: expected 0 and 1, such as {self.example}")
        return Problem(bits, tensor([int(bit) for bit in bits]))

    def line(self, problem: Problem, logits: Float[Tensor, "tokens 2"]) -> str:
        """Return the answer's bits."""
        return "".join(str(bit) for bit in logits.argmax(-1).tolist())

    def right(self, problem: Problem, logits: Float[Tensor, "tokens 2"]) -> bool:
        """Return whether every bit is the parity of the bits up to it."""
        return bool((logits.argmax(-1) == prefix_sums(problem.tokens[None])[0]).all())

    def parts(self, problem: Problem, logits: Float[Tensor, "tokens 2"]) -> Int[Tensor, "tokens"]:
        """Return the answer's bits as numbers."""
        return logits.argmax(-1)

    def candidates(self, problem: Problem, logits: Float[Tensor, "tokens 2"], count: int) -> list[Candidates]:
        """Return the probabilities of 0 and 1 for the least certain bits."""
        return candidates_of(logits, [f"sum {place}" for place in range(1, len(logits) + 1)], "01", count)

    def picture(self, problem: Problem, frame: Frame) -> Text:
        """Return the bits above their prefix sums, with wrong sums in red and a mark below sums that changed."""
        sums, answer = prefix_sums(problem.tokens[None])[0].tolist(), self.line(problem, frame.logits)
        changed = frame.changed.tolist()
        text = Text()
        for begin in range(0, len(answer), 64):
            rows = slice(begin, begin + 64)
            text.append(f"bits  {problem.text[rows]}\n", style=GIVEN).append("sums  ")
            for bit, sum_, last in zip(answer[rows], sums[rows], frame.since[rows].tolist(), strict=True):
                text.append(bit, style=colour(last) if int(bit) == sum_ else WRONG)
            marks = "".join(CHANGED if new else " " for new in changed[rows])
            text.append(f"\n      {marks}".rstrip(" ") + "\n")
        text.right_crop(1)
        return text
