"""Readouts that read the whole history: what they need of it is carried in the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopscope.kinds.derived import derived
from loopscope.kinds.kind import wants_of
from loopscope.loop import FunctionLoop, Loop, start_from
from loopscope.trees import Context, Tree, floating_leaves, leaves, select


class Remembering(NamedTuple):
    """The state of a loop with what its readout needs of earlier states.

    Attributes:
        state: the state of the loop.
        history: what is needed, as context: it follows its examples, and has neither norms nor derivatives.
    """

    state: Tree
    history: Context


def with_history(
    loop: Loop,
    *,
    begin: Callable[[Tree, Tree], Tree],
    update: Callable[[Tree, Tree, Tree], Tree],
    read: Callable[[Tree, Tree], Tensor],
) -> FunctionLoop:
    """Return a loop whose readout reads all states so far, not the last one alone.

    What the readout needs is carried in the state: a weighted sum, or a window of the last states. It is context, so that
    residuals, Jacobians and exponents stay those of the state itself.

    Args:
        loop: the loop; its own ``read`` is not used.
        begin: (state, recalled) -> what is carried beside the first state, batch first.
        update: (carried, state, recalled) -> what is carried beside the next state, which is given.
        read: (carried, recalled) -> logits.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> mean = ls.with_history(
        ...     loop,
        ...     begin=lambda z, e: {"sum": torch.zeros_like(z), "count": torch.zeros(len(z), 1)},
        ...     update=lambda carried, z, e: {"sum": carried["sum"] + z, "count": carried["count"] + 1},
        ...     read=lambda carried, e: carried["sum"] / carried["count"],
        ... )
        >>> recalled = mean.encode(torch.ones(1, 1))
        >>> state = mean.start(recalled)
        >>> for _ in range(3):
        ...     state = mean.step(state, recalled)
        >>> state.state, mean.read(state, recalled)  # the mean of 1, 1.5 and 1.75
        (tensor([[1.7500]]), tensor([[1.4167]]))
    """

    def start(recalled: Tree, generator: torch.Generator | None = None) -> Remembering:
        state = start_from(loop, recalled, generator)
        return Remembering(state, Context(begin(state, recalled), batched=True))

    def step(state: Remembering, recalled: Tree, **others: Any) -> Remembering:
        after = loop.step(state.state, recalled, **others)
        return Remembering(after, Context(update(state.history.values, after, recalled), batched=True))

    return derived(
        loop,
        start=start,
        step=wants_of(loop).signed(step),
        read=lambda state, recalled: read(state.history.values, recalled),
    )


def remembers(loop: Loop, state: Tree, recalled: Tree) -> bool:
    """Return whether the state carries a history: floating numbers in its context that a step changes.

    Costs one evaluation of the step with one example, and none where there is no such context.

    Args:
        loop: a loop whose step asks for nothing besides the state and the recalled input.
        state: a state, usually the first.
        recalled: what ``loop.encode`` returned for the same examples.
    """
    before, recalled = select(state, slice(0, 1)), select(recalled, slice(0, 1))
    if not _carried(before):
        return False
    with torch.no_grad():
        after = loop.step(before, recalled)
    return any(not torch.equal(one, other) for one, other in zip(_carried(before), _carried(after), strict=True))


def _carried(state: Tree) -> list[Tensor]:
    """Return the floating tensors of a state that are context."""
    own = {id(leaf) for leaf in floating_leaves(state)}
    return [leaf for leaf in leaves(state) if leaf.is_floating_point() and id(leaf) not in own]
