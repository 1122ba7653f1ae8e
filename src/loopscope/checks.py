"""What a loop, its first state, its step and its readout must satisfy; each refusal is one line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopscope.contexts import random_state_kept
from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, mask_of
from loopscope.trees import (
    Tree,
    batch_size,
    device_of,
    flatten,
    floating_leaves,
    leaves,
    mask_fits,
    select,
    tree_map,
)

MIXED = 0.02
"""An example that goes so far from where it goes alone, relative to its norm, is moved by others, not by rounding."""


def check_is_loop(given: Any) -> None:
    """Refuse what is no loop.

    Raises:
        LoopscopeError: it lacks one of the four functions.
    """
    if not isinstance(given, Loop):
        raise LoopscopeError(
            f"{type(given).__name__} is no loop: it needs encode, start, step and read (FunctionLoop wraps four functions)"
        )


def check_not_empty(inputs: Tree) -> int:
    """Return the number of examples in a batch; refuse an empty one.

    Raises:
        LoopscopeError: there are none; see also `loopscope.trees.batch_size`.

    Example:
        >>> check_not_empty(torch.zeros(0, 3))
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: the batch is empty (shapes [(0, 3)]): expected at least one example
    """
    batch = batch_size(inputs)
    if not batch:
        shapes = [tuple(leaf.shape) for leaf in leaves(inputs)]
        raise LoopscopeError(f"the batch is empty (shapes {shapes}): expected at least one example")
    return batch


def check_start(state: Tree, batch: int) -> None:
    """Refuse first states that are not one for each input.

    Raises:
        LoopscopeError: there are more or fewer.
    """
    if (states := batch_size(state)) != batch:
        raise LoopscopeError(
            f"expected a first state for each input, got {states} states for {batch} inputs: see start"
        )


def check_read(logits: Any, batch: int) -> None:
    """Refuse a readout that is not one tensor of outputs per input.

    Raises:
        LoopscopeError: it is no tensor, has another batch size, or no dimension of outputs.
    """
    if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != batch:
        shape = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise LoopscopeError(f"read returned {shape}, expected a tensor of shape ({batch}, ..., outputs)")


def check_mask(loop: Loop, state: Tree, recalled: Tree) -> None:
    """Refuse a mask that fits no part of the state: it would exclude nothing, and padding would count.

    Raises:
        LoopscopeError: no floating tensor of the state has the mask's shape as its first dimensions.
    """
    mask = mask_of(loop, recalled)
    if mask is not None and not any(mask_fits(leaf, mask) for leaf in floating_leaves(state)):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in floating_leaves(state))
        raise LoopscopeError(
            f"the mask has shape {tuple(mask.shape)}, which fits no tensor of the state, of shape {shapes}: expected the first "
            "dimensions of one, (batch, tokens)"
        )


def check_step(loop: Loop, state: Tree, recalled: Tree) -> Tree:
    """Return the next state; refuse a step that writes over its state, is random, or returns another kind of state.

    Broadcasting would hide the last, and every number would be wrong. Costs two evaluations of the step.

    Raises:
        LoopscopeError: the state is another one afterwards, two evaluations from it differ, or what they return has
            another structure, other shapes or another precision.
    """
    with torch.no_grad(), random_state_kept(device_of(state)):
        # The CPU's generator alone: a GPU's, which draws on, differs from one evaluation to the next anyway.
        torch.default_generator.manual_seed(0)
        before = tree_map(torch.clone, state)
        first = loop.step(state, recalled)
        if not _same(before, state):
            raise LoopscopeError(
                "the step writes over the state it is given (an operation in place, such as add_): it must return a new one"
            )
        torch.default_generator.manual_seed(1)
        second = loop.step(state, recalled)
    if not _same(first, second):
        raise LoopscopeError(
            "the step is random: two evaluations from one state differ; call .eval() on the model, "
            "or fix its noise (draw it in encode) before examining"
        )
    for kind, word in ((_shape, "of shape"), (_precision, "in")):
        given, returned = (tree_map(kind, tree) for tree in (before, first))
        if given != returned:
            raise LoopscopeError(
                f"step turned a state {word} {given} into {returned}: it must return what it takes, a state of the same "
                "structure, shapes and precision, and start must too"
            )
    return first


def check_independent(loop: Loop, before: Tree, after: Tree, recalled: Tree) -> None:
    """Refuse a step that takes an example elsewhere alone than among others: what arrives leaves the batch.

    Costs an evaluation of the step with one example.

    Args:
        loop: the loop.
        before: a state of the whole batch; not the first one, for where that is zero a mean over the batch is not seen.
        after: the state one step later.
        recalled: the recalled input.

    Raises:
        LoopscopeError: it does.
    """
    if batch_size(before) < 2:
        return
    before, together, recalled = (select(tree, slice(0, 1)) for tree in (before, after, recalled))
    with torch.no_grad():
        try:
            mask = mask_of(loop, recalled)
            alone, together = flatten(loop.step(before, recalled), mask), flatten(together, mask)
            apart = alone.shape != together.shape or bool((alone - together).norm() > MIXED * together.norm())
        except (RuntimeError, ValueError):
            apart = True
    if apart:
        raise LoopscopeError(
            "the step mixes examples: one alone goes elsewhere than in the batch (batch normalization in train mode, a mean "
            "over the batch, a tensor of the whole batch that does not come from encode); each must go its own way"
        )


def _shape(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__


def _precision(leaf: Any) -> Any:
    return str(leaf.dtype).removeprefix("torch.") if isinstance(leaf, Tensor) else type(leaf).__name__


def _same(one: Tree, other: Tree) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)
