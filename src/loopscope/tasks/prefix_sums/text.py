"""Prefix sums as people write them: a string of bits."""

from __future__ import annotations

from jaxtyping import Float, Int
from rich.text import Text
from torch import Tensor, tensor

from loopscope.errors import LoopscopeError
from loopscope.tasks.prefix_sums.task import prefix_sums
from loopscope.tasks.text import Problem, colour


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

    def picture(self, problem: Problem, logits: Float[Tensor, "tokens 2"], since: Int[Tensor, "tokens"]) -> Text:
        """Return the bits above their prefix sums, with wrong sums on red."""
        sums, answer = prefix_sums(problem.tokens[None])[0].tolist(), self.line(problem, logits)
        text = Text()
        for begin in range(0, len(answer), 64):
            rows = slice(begin, begin + 64)
            text.append(f"bits  {problem.text[rows]}\nsums  ", style="bold white")
            for bit, sum_, last in zip(answer[rows], sums[rows], since[rows].tolist(), strict=True):
                text.append(bit, style=colour(last) if int(bit) == sum_ else "white on red")
            text.append("\n")
        text.rstrip()
        return text
