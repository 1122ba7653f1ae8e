"""Trees of batch-first tensors: flatten, select, join, norms and masks.

A tree is a tensor or a nest of dicts, lists and tuples of tensors whose first dimension is the batch. Leaves that are not
floating (counters, ids) stay outside norms and derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

from loopscope.errors import LoopscopeError

Tree = Any
"""A tensor, or a nest of dicts, lists, tuples of tensors, batch first."""


def tree_map(function: Callable[..., Any], *trees: Tree) -> Tree:
    """Apply ``function`` leaf by leaf over trees of the same structure."""
    return pytree.tree_map(function, *trees)


def detached(tree: Tree) -> Tree:
    """Return a tree of the same values without a graph, fit for autograd where it was made in inference mode."""

    def detach(leaf: Tree) -> Tree:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.clone() if leaf.is_inference() else leaf.detach()

    return tree_map(detach, tree)


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def floating_leaves(tree: Tree) -> list[Tensor]:
    """Return the floating tensors of a tree: those with norms and derivatives."""
    return [leaf for leaf in leaves(tree) if leaf.is_floating_point()]


def device_of(tree: Tree) -> torch.device:
    """Return the device of a tree's first tensor; the CPU of a tree without any."""
    return next((leaf.device for leaf in leaves(tree)), torch.device("cpu"))


def batch_size(tree: Tree) -> int:
    """Return the number of examples in a tree.

    Raises:
        LoopscopeError: the tree holds something else than tensors, or they disagree about the batch.
    """
    tensors = leaves(tree)
    others = [leaf for leaf in pytree.tree_leaves(tree) if not isinstance(leaf, Tensor)]
    if others:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in others}))
        raise LoopscopeError(
            f"expected torch tensors, batch first, got {kinds}: convert with torch.as_tensor; keep what has no batch inside "
            "the model"
        )
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in tensors}
    if len(sizes) != 1 or None in sizes:
        shapes = [tuple(leaf.shape) for leaf in tensors]
        raise LoopscopeError(
            f"expected tensors that share their first dimension (the batch), got shapes {shapes}; "
            "keep what has no batch inside the model"
        )
    return int(sizes.pop())  # type: ignore[arg-type]


def select(tree: Tree, rows: Tensor | slice) -> Tree:
    """Return the examples of a tree at ``rows`` (indices, a boolean mask or a slice of the batch)."""
    return tree_map(lambda leaf: leaf[rows], tree)


def join(trees: list[Tree]) -> Tree:
    """Return one tree with the examples of all ``trees`` in order."""
    return tree_map(lambda *parts: torch.cat(parts), *trees)


def where(rows: Bool[Tensor, "batch"], chosen: Tree, otherwise: Tree) -> Tree:
    """Return a tree that takes each example from ``chosen`` where ``rows`` is true, else from ``otherwise``."""

    def pick(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (yes.ndim - 1)), yes, no)

    return tree_map(pick, chosen, otherwise)


def mask_fits(leaf: Tensor, mask: Tensor) -> bool:
    """Return whether a mask has the shape of a leaf's first dimensions."""
    return leaf.shape[: mask.ndim] == mask.shape


def masked(leaf: Tensor, mask: Tensor | None) -> Tensor:
    """Return a leaf with zeros in place of padding, where the mask applies to it."""
    if mask is None or not mask_fits(leaf, mask):
        return leaf
    # Filled, not multiplied: padding may hold numbers that are not finite.
    return leaf.masked_fill(~mask.view(*mask.shape, *[1] * (leaf.ndim - mask.ndim)), 0)


def flatten(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch n"]:
    """Return each example's floating numbers as one vector, padding set to zero.

    Args:
        state: a tree, batch first.
        mask: true where a token is real; applies to leaves whose leading shape it matches.
    """
    parts = [masked(leaf, mask).reshape(leaf.shape[0], -1) for leaf in floating_leaves(state)]
    if not parts:
        raise LoopscopeError("expected a state with at least one floating tensor, got none")
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def real_numbers(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch n"]:
    """Return one for each number of the flat state that belongs to a real token, zero for padding."""
    return flatten(tree_map(torch.ones_like, state), mask)


def unflatten(vectors: Float[Tensor, "batch n"], like: Tree) -> Tree:
    """Return a tree shaped as ``like`` whose floating leaves are filled from ``vectors``; the rest is ``like``'s."""
    flat, structure = pytree.tree_flatten(like)
    filled, offset = [], 0
    for leaf in flat:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            size = leaf[0].numel()
            filled.append(vectors[:, offset : offset + size].reshape(leaf.shape).to(leaf.dtype))
            offset += size
        else:
            filled.append(leaf)
    return pytree.tree_unflatten(filled, structure)


def token_norms(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
    """Return the Euclidean norm of each token's part of the state.

    A leaf [batch, tokens..., width] has one token per position, a leaf [batch, width] or [batch] a single one.
    Leaves with the same number of tokens (a TRM's two states, say) are one vector per token together; others are
    set side by side. Padding has norm zero.
    """
    squares = []
    for leaf in floating_leaves(state):
        leaf = masked(leaf, mask)
        tokens = leaf.reshape(leaf.shape[0], -1, leaf.shape[-1] if leaf.ndim > 1 else 1)
        squares.append(tokens.square().sum(-1))
    if len({part.shape[1] for part in squares}) == 1:
        return torch.stack(squares).sum(0).sqrt()
    return torch.cat(squares, dim=1).sqrt()


def norms(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch"]:
    """Return the Euclidean norm of each example's whole state, padding excluded."""
    return torch.linalg.vector_norm(flatten(state, mask), dim=1)


def is_time_dependent(state: Tree) -> bool:
    """Return whether the state carries a counter: for such loops only residuals and orbits are defined."""
    return any(not leaf.is_floating_point() for leaf in leaves(state))
