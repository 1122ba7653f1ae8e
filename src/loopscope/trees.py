"""Trees of batch-first tensors: flatten, select, join, norms and masks.

A tree is a tensor or a nest of mappings, lists, tuples (named ones too) and dataclasses of tensors whose first dimension
is the batch. Leaves that are not floating (counters, ids) stay outside norms and derivatives. None, numbers and text are
context: they pass through every function as they are. So does what a ``Context`` holds.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import LoopscopeError

Tree = Any
"""A tensor, or a nest of mappings, lists, tuples and dataclasses of tensors, batch first."""

HALF = (torch.float16, torch.bfloat16)
"""Precisions in which norms and residuals would say little."""

_PLAIN = (Number, str, type(None))
"""Leaves that are context."""


@dataclass(frozen=True)
class Context:
    """A part of a tree that belongs to its examples, but has neither norms nor derivatives.

    Attributes:
        values: tensors and whatever else there is.
        batched: whether the tensors are batch first, and follow their examples where these are selected or joined.
            Else they are kept as they are: rotary tables, say.
    """

    values: Tree
    batched: bool


def children(tree: Tree) -> dict[Any, Any] | None:
    """Return the parts of a container by key, position or field name; None for a leaf."""
    if isinstance(tree, Tensor):
        return None
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, (list, tuple, ValuesView)):
        return dict(enumerate(tree))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {
            field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if hasattr(tree, field.name)
        }
    return None


def with_children(tree: Tree, parts: dict[Any, Any]) -> Tree:
    """Return a container like ``tree`` that holds other parts."""
    if isinstance(tree, Mapping):
        return _mapping_of(tree, parts)
    if isinstance(tree, tuple):
        return type(tree)(*parts.values()) if hasattr(tree, "_fields") else tuple(parts.values())
    if isinstance(tree, list):
        return list(parts.values())
    if isinstance(tree, ValuesView):
        return parts.values()
    twin = copy.copy(tree)
    for name, part in parts.items():
        object.__setattr__(twin, name, part)
    return twin


def _mapping_of(tree: Mapping[Any, Any], parts: dict[Any, Any]) -> Mapping[Any, Any]:
    if type(tree) is dict:
        return parts
    try:
        twin: Any = copy.copy(tree)
        twin.update(parts)
    except (AttributeError, TypeError):  # a mapping that cannot be copied or written to
        return parts
    return twin


def _map(function: Callable[..., Any], trees: tuple[Tree, ...], enter: Callable[[Context], bool]) -> Tree:
    first, *others = trees
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, Context) and not enter(first):
        return first
    parts = children(first)
    if parts is None:
        return first
    rest = [children(other) or {} for other in others]
    if any(other.keys() != parts.keys() for other in rest):
        raise LoopscopeError(f"expected trees of one structure, got parts {[list(one) for one in (parts, *rest)]}")
    return with_children(
        first, {key: _map(function, (part, *(other[key] for other in rest)), enter) for key, part in parts.items()}
    )


def tree_map(function: Callable[..., Any], *trees: Tree) -> Tree:
    """Apply ``function`` tensor by tensor over trees of the same structure; other leaves are those of the first."""
    if isinstance(trees[0], Tensor):
        return function(*trees)
    return _map(function, trees, lambda context: True)


def _by_example(function: Callable[..., Any], *trees: Tree) -> Tree:
    return _map(function, trees, lambda context: context.batched)


def detached(tree: Tree) -> Tree:
    """Return a tree of the same values without a graph, fit for autograd where it was made in inference mode."""

    def detach(leaf: Tensor) -> Tensor:
        return leaf.clone() if leaf.is_inference() else leaf.detach()

    return tree_map(detach, tree)


def _leaves(tree: Tree, enter: Callable[[Context], bool]) -> Iterator[Any]:
    if isinstance(tree, Context) and not enter(tree):
        return
    parts = children(tree)
    if parts is None:
        yield tree
        return
    for part in parts.values():
        yield from _leaves(part, enter)


def leaves(tree: Tree) -> list[Tensor]:
    """Return the batch-first tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in _leaves(tree, lambda context: context.batched) if isinstance(leaf, Tensor)]


def floating_leaves(tree: Tree) -> list[Tensor]:
    """Return the floating tensors of a tree: those with norms and derivatives."""
    return [
        leaf for leaf in _leaves(tree, lambda context: False) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]


def device_of(tree: Tree) -> torch.device:
    """Return the device of a tree's first tensor; the CPU of a tree without any."""
    return next((leaf.device for leaf in leaves(tree)), torch.device("cpu"))


def batch_size(tree: Tree) -> int:
    """Return the number of examples in a tree.

    Raises:
        LoopscopeError: the tree holds something else than tensors and context, or tensors disagree about the batch.
    """
    tensors = leaves(tree)
    others = [leaf for leaf in _leaves(tree, lambda context: False) if not isinstance(leaf, Tensor)]
    if not tensors or not all(isinstance(leaf, _PLAIN) for leaf in others):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in others})) or "nothing"
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
    return _by_example(lambda leaf: leaf[rows], tree)


def join(trees: list[Tree]) -> Tree:
    """Return one tree with the examples of all ``trees`` in order."""
    return _by_example(lambda *parts: torch.cat(parts), *trees)


def where(rows: Bool[Tensor, "batch"], chosen: Tree, otherwise: Tree) -> Tree:
    """Return a tree that takes each example from ``chosen`` where ``rows`` is true, else from ``otherwise``."""

    def pick(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (yes.ndim - 1)), yes, no)

    return _by_example(pick, chosen, otherwise)


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
    offset = 0

    def fill(leaf: Tensor) -> Tensor:
        nonlocal offset
        if not leaf.is_floating_point():
            return leaf
        begin, offset = offset, offset + leaf[0].numel()
        return vectors[:, begin:offset].reshape(leaf.shape).to(leaf.dtype)

    return _map(fill, (like,), lambda context: False)


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
