"""The loop: the one idea that the whole project shares.

A looped model is four functions. ``encode`` turns inputs into everything that stays the same over iterations
(the *recalled* input), ``start`` makes the first state, ``step`` is one iteration, ``read`` turns a state into a
prediction. Models are loops; solvers, training, evaluation and examination work on loops. Neither side knows the
other's inside.

Inputs, recalled and state are tensors or pytrees of tensors with the batch as first dimension. Leaves of the state
that are not floating (counters) pass through untouched and stay outside norms and derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.trees import Tree


@runtime_checkable
class Loop(Protocol):
    """A looped model, as everything here sees it.

    A loop may also have ``mask(recalled) -> Bool[Tensor, "batch tokens"]``, true where a token is real; padding is
    then kept out of norms, swaps and accuracy. And it may have ``outer_gain``, the gain of a normalization that ends
    each iteration (None where none does): the direction that this removes is then known.
    """

    def encode(self, inputs: Tree) -> Tree:
        """Return what stays the same over iterations, computed once per problem."""

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        """Return the first state z_0; random loops draw it from ``generator``."""

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the next state, f(z, e), of the same structure and shapes as ``state``."""

    @property
    def read(self) -> Callable[..., Tensor]:
        """The prediction (logits) of a state: ``read(state)``, or ``read(state, recalled)`` where it needs both."""


def readout(loop: Loop, state: Tree, recalled: Tree) -> Tensor:
    """Return a loop's prediction, giving its ``read`` the recalled input where that asks for it.

    Args:
        loop: the loop.
        state: a state of it.
        recalled: what ``loop.encode`` returned for the same examples.
    """
    return loop.read(state, recalled) if _takes_recalled(loop.read) else loop.read(state)


def _takes_recalled(read: Callable[..., Tensor]) -> bool:
    """Return whether a readout has a second argument that must be given, or one that is called ``recalled``."""
    try:
        parameters = list(inspect.signature(read).parameters.values())
    except ValueError:  # a built-in function has no signature
        return False
    second = parameters[1] if len(parameters) > 1 else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return second is not None and (
        second.name == "recalled" or (second.kind in positional and second.default is inspect.Parameter.empty)
    )


def _takes_generator(start: Callable[..., Tree]) -> bool:
    try:
        return len(inspect.signature(start).parameters) >= 2
    except ValueError:  # a built-in function such as torch.zeros_like has no signature
        return False


@dataclass(frozen=True)
class FunctionLoop:
    """Any looped model, wrapped in four functions.

    Args:
        encode: inputs -> recalled.
        start: recalled -> state, or (recalled, generator) -> state for a random start.
        step: (state, recalled) -> state.
        read: state -> logits, or (state, recalled) -> logits where the readout needs more than the state.
        padding: optional, recalled -> Bool[Tensor, "batch tokens"], true where a token is real.
    """

    encode: Callable[[Tree], Tree]
    start: Callable[..., Tree]
    step: Callable[[Tree, Tree], Tree]
    read: Callable[..., Tensor]
    padding: Callable[[Tree], Tensor] | None = None

    def __post_init__(self) -> None:
        if not _takes_generator(self.start):
            only_recalled = self.start
            object.__setattr__(self, "start", lambda recalled, generator=None: only_recalled(recalled))

    def mask(self, recalled: Tree) -> Tensor | None:
        """Return the mask of real tokens, or None where every token is real."""
        return None if self.padding is None else self.padding(recalled)


def mask_of(loop: Loop, recalled: Tree) -> Bool[Tensor, "batch *tokens"] | None:
    """Return the loop's mask of real tokens, or None where it has none.

    Raises:
        LoopscopeError: it is no tensor of truth values.
    """
    given = getattr(loop, "mask", None)
    mask = None if given is None else given(recalled)
    if mask is not None and getattr(mask, "dtype", None) != torch.bool:
        raise LoopscopeError(
            f"the mask is {getattr(mask, 'dtype', type(mask).__name__)}, expected torch.bool, true where a token is real: "
            "compare (mask > 0), or call .bool()"
        )
    return mask


def outer_gain_of(loop: Loop) -> Float[Tensor, "width"] | None:
    """Return the gain of the normalization that ends each iteration, where the loop names one."""
    gain = getattr(loop, "outer_gain", None)
    return None if gain is None else gain.detach()


def iterate(loop: Loop, state: Tree, recalled: Tree, iterations: int) -> Tree:
    """Return the state after ``iterations`` further steps."""
    for _ in range(iterations):
        state = loop.step(state, recalled)
    return state
