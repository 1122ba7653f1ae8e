"""A family of looped models: how `capture` is called for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loopscope.adapters.captured import Gate
from loopscope.adapters.positions import Positions
from loopscope.adapters.proof import ProvenLoop
from loopscope.loop import AnswersPer
from loopscope.trees import Tree

EXAMPLES, TOKENS = 3, 8
"""Size of the inputs on which an adapted model is proven if none are given."""


@dataclass(frozen=True)
class Family:
    """How `capture` is called for the models of a family.

    Attributes:
        name: name of the family.
        classes: names of the classes that belong to it; their package is never imported.
        run: (model, inputs, iterations) -> logits, by the model's own forward.
        example: inputs for a model of the family.
        at: the call that is one iteration, or ends one; not asked where the loop is made by hand.
        every: calls of ``at`` per iteration.
        positions: the tokens that are read unless others are asked for.
        answers_per: what one answer belongs to: "token" for language models.
        refusal: why a model of the family cannot be a loop; None where it can.
        by_hand: makes the loop, read at some positions, of a model whose iterations differ, so that none can be captured; None
            for all others.
        gate: the probability of stopping that the model's learned gate gives to a state; None for a model without a gate.
    """

    name: str
    classes: tuple[str, ...]
    run: Callable[[Any, Tree, int], Any]
    example: Callable[[Any], Tree]
    at: Callable[[Any], str] = lambda model: ""
    every: Callable[[Any], int] = lambda model: 1
    positions: Callable[[Any], Positions] = lambda model: "all"
    answers_per: AnswersPer = "example"
    refusal: Callable[[Any], str | None] = lambda model: None
    by_hand: Callable[[Any, Positions], ProvenLoop] | None = None
    gate: Gate = lambda model, state: None

    def has(self, model: nn.Module) -> bool:
        """Return whether a model's class, or a class that it derives from, belongs to the family."""
        return any(kind.__name__ in self.classes for kind in type(model).__mro__)


def last_token(model: Any) -> Positions:
    """Return what is read of a causal language model: the last token, which says what comes next."""
    return "last"


@contextmanager
def setting(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute to another value within this context."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def tokens(vocabulary: int, *, width: int = TOKENS) -> Tensor:
    """Return a few rows of token ids, the same every time and without 0, which often means padding."""
    return torch.randint(1, vocabulary, (EXAMPLES, width), generator=torch.Generator().manual_seed(0))


def text(vocabulary: int) -> dict[str, Tensor]:
    """Return a few rows of token ids with a mask."""
    ids = tokens(vocabulary)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
