"""Generated text with exact answers: a prompt that ends in an equals sign, and the only right way to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

ALPHABET = "0123456789=()abcdefgh"
"""The characters of all texts. The number of a character is its token."""
ASK = "="
"""The character that ends a prompt."""


@dataclass(frozen=True)
class Task:
    """A way to draw texts.

    Args:
        prompt: draws a prompt, without the sign that ends it.
        answer: the answer to a prompt.
        asked: number of characters of a prompt, with the sign that ends it.
        answered: number of characters of an answer.
    """

    prompt: Callable[[torch.Generator], str]
    answer: Callable[[str], str]
    asked: int
    answered: int

    @property
    def positions(self) -> tuple[int, ...]:
        """The places of a text at which a model predicts a character of the answer: one before each."""
        return tuple(range(self.asked - 1, self.asked + self.answered - 1))

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, "batch tokens"]:
        """Draw texts, as tokens."""
        prompts = [self.prompt(generator) for _ in range(count)]
        return tokens_of([f"{prompt}{ASK}{self.answer(prompt)}" for prompt in prompts])

    def answers(self, texts: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch answered"]:
        """Return the answers in some texts."""
        return texts[:, self.asked :]


def tokens_of(texts: list[str]) -> Int[Tensor, "batch tokens"]:
    """Return texts of equal length as tokens.

    Example:
        >>> tokens_of(["()=10"])
        tensor([[11, 12, 10,  1,  0]])
    """
    return torch.tensor([[ALPHABET.index(character) for character in text] for text in texts])


LETTERS = 6
"""Letters to sort."""
BRACKETS = 8
"""Brackets whose depth is asked for."""


def _draw(characters: str, count: int, generator: torch.Generator) -> str:
    return "".join(
        characters[place] for place in torch.randint(len(characters), (count,), generator=generator).tolist()
    )


def sort(prompt: str) -> str:
    """Return letters in the order of the alphabet.

    Example:
        >>> sort("cab")
        'abc'
    """
    return "".join(sorted(prompt))


def depth(prompt: str) -> str:
    """Return how many brackets are open after each bracket. A closing bracket with none open changes nothing.

    Example:
        >>> depth("(())(")
        '12101'
    """
    opened, depths = 0, ""
    for bracket in prompt:
        opened = opened + 1 if bracket == "(" else max(0, opened - 1)
        depths += str(min(opened, 9))
    return depths


TASKS: dict[str, Task] = {
    "sorting": Task(lambda generator: _draw("abcdefgh", LETTERS, generator), sort, LETTERS + 1, LETTERS),
    "depth": Task(lambda generator: _draw("()", BRACKETS, generator), depth, BRACKETS + 1, BRACKETS),
}
