"""Trees of batch-first tensors: flatten, select, join, norms and masks.

A tree is a tensor, or nested mappings, lists, tuples (also named ones) and dataclasses of tensors whose first dimension
is the batch. Leaves that are not floating (counters, ids) are left out of norms and derivatives. None, numbers and text are
context: every function passes them through unchanged. The same holds for the contents of a ``Context``.
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
"""A tensor, or nested mappings, lists, tuples and dataclasses of tensors, batch first."""

HALF = (torch.float16, torch.bfloat16)
"""Precisions that are too low for norms and residuals."""

_PLAIN = (Number, str, type(None))
"""Leaves that are context."""


@dataclass(frozen=True)
class Context:
    """A part of a tree that belongs to its examples, but has neither norms nor derivatives.

    Attributes:
        values: tensors and other values.
        batched: whether the tensors are batch first, so that they are selected and joined together with their examples.
            Otherwise, as with rotary tables, they are kept unchanged.
    """

    values: Tree
    batched: bool


def children(tree: Tree) -> dict[Any, Any] | None:
    """Return the parts of a container by key, position or field name, or None for a leaf."""
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
    """Apply ``function`` to the tensors of trees with the same structure. Other leaves are taken from the first tree."""
    if isinstance(trees[0], Tensor):
        return function(*trees)
    return _map(function, trees, lambda context: True)


def _by_example(function: Callable[..., Any], *trees: Tree) -> Tree:
    return _map(function, trees, lambda context: context.batched)


def detached(tree: Tree) -> Tree:
    """Return a tree of the same values without a graph. Tensors made in inference mode become usable with autograd."""

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
    """Return the device of a tree's first tensor, or the CPU if it has none."""
    return next((leaf.device for leaf in leaves(tree)), torch.device("cpu"))


def batch_size(tree: Tree) -> int:
    """Return the number of examples in a tree.

    Raises:
        LoopscopeError: the tree holds something other than tensors and context, or the batch sizes of its tensors differ.
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


LARGE_NEGATIVE = -100.0
"""Numbers of at most this, added to attention scores, block attention completely: exp(-100) is zero in float32."""


class _Aside(Context):
    """A leaf that `masks_aside` has set aside."""


def masks_aside(tree: Tree) -> Tree:
    """Return a tree whose floating masks are context, so that they are left out of norms and derivatives.

    A floating leaf is a mask if it holds zeros and a single number of -100 or less, like masks that are added to attention
    scores: such a number means "not at all", and its size carries no information. Leaves of zeros, such as a mask without
    padding, are set aside as well if the input has anything else, because they have no size that a change could be relative to.

    Example:
        >>> bias = torch.tensor([[0.0, -1e9], [0.0, 0.0]])
        >>> [leaf.shape for leaf in floating_leaves(masks_aside({"e": torch.ones(2, 3), "bias": bias}))]
        [torch.Size([2, 3])]
    """
    numbers = [leaf for leaf in floating_leaves(tree) if not _is_mask(leaf)]
    aside = [leaf for leaf in floating_leaves(tree) if _is_mask(leaf)]
    discrete = any(not leaf.is_floating_point() for leaf in leaves(tree))
    if discrete or any(bool((leaf != 0).any()) for leaf in numbers):
        aside += [leaf for leaf in numbers if not bool((leaf != 0).any())]
    chosen = {id(leaf) for leaf in aside}
    return _map(lambda leaf: _Aside(leaf, batched=True) if id(leaf) in chosen else leaf, (tree,), lambda context: False)


def masks_back(tree: Tree) -> Tree:
    """Return a tree with the leaves that `masks_aside` has set aside put back."""
    if isinstance(tree, _Aside):
        return tree.values
    parts = None if isinstance(tree, Context) else children(tree)
    return tree if parts is None else with_children(tree, {key: masks_back(part) for key, part in parts.items()})


def _is_mask(leaf: Tensor) -> bool:
    others = leaf.detach()[leaf.detach() != 0]
    return bool(others.numel()) and float(others.max()) <= LARGE_NEGATIVE and bool((others == others.max()).all())


def select(tree: Tree, rows: Tensor | slice) -> Tree:
    """Return the examples of a tree at ``rows`` (indices, a boolean mask or a slice of the batch)."""
    return _by_example(lambda leaf: leaf[rows], tree)


def join(trees: list[Tree]) -> Tree:
    """Return one tree with the examples of all ``trees``, in order."""
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
    """Return each example's floating numbers as one vector, with padding set to zero.

    Args:
        state: a tree, batch first.
        mask: true where a token is real. It applies to leaves whose first dimensions match its shape.
    """
    parts = [masked(leaf, mask).reshape(leaf.shape[0], -1) for leaf in floating_leaves(state)]
    if not parts:
        raise LoopscopeError("expected a state with at least one floating tensor, got none")
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def real_numbers(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch n"]:
    """Return a flat state of ones for the numbers of real tokens and zeros for padding."""
    return flatten(tree_map(torch.ones_like, state), mask)


def unflatten(vectors: Float[Tensor, "batch n"], like: Tree) -> Tree:
    """Return a tree like ``like`` whose floating leaves are filled from ``vectors``. Other leaves are kept."""
    offset = 0

    def fill(leaf: Tensor) -> Tensor:
        nonlocal offset
        if not leaf.is_floating_point():
            return leaf
        begin, offset = offset, offset + leaf[0].numel()
        return vectors[:, begin:offset].reshape(leaf.shape).to(leaf.dtype)

    return _map(fill, (like,), lambda context: False)


def binary_scale(vectors: Tensor, dim: int = 1) -> Tensor:
    """Return the power of two at or just below the largest absolute value along ``dim``, which has size one in the result.

    Division by it is exact and leaves numbers whose squares neither overflow nor vanish. It is 1 if the largest value is
    zero or not finite.
    """
    largest = _largest(vectors, dim)
    return _power_below(largest).where((largest > 0) & largest.isfinite(), 1)


def _largest(vectors: Tensor, dim: int) -> Tensor:
    """Return the largest absolute value along ``dim``, which has size one in the result. Without numbers, it is zero."""
    if not vectors.shape[dim]:
        return vectors.new_zeros(
            [1 if place == dim % vectors.ndim else size for place, size in enumerate(vectors.shape)]
        )
    return vectors.detach().abs().amax(dim, keepdim=True)


# For each type: integers of the same size, the bits of the exponent, and those of the least and the largest power of two.
_EXPONENTS = {
    torch.float32: (torch.int32, 0xFF << 23, 1 << 23, 0xFE << 23),
    torch.float64: (torch.int64, 0x7FF << 52, 1 << 52, 0x7FE << 52),
}


def _power_below(largest: Tensor) -> Tensor:
    """Return the power of two at or just below numbers that are not negative, as far as it is a normal number."""
    integers, exponent, least, most = _EXPONENTS[largest.dtype]
    return largest.view(integers).bitwise_and(exponent).clamp(least, most).view(largest.dtype)


def scaled_norm(vectors: Tensor, dim: int = 1, keepdim: bool = False) -> Tensor:
    """Return Euclidean norms along ``dim`` of float32 or float64 numbers whose squares may overflow or vanish.

    >>> scaled_norm(torch.tensor([[3e30, 4e30], [3e-30, 4e-30]]))
    tensor([5.0000e+30, 5.0000e-30])
    """
    scale = _power_below(_largest(vectors, dim))
    length = scale * torch.linalg.vector_norm(vectors / scale, dim=dim, keepdim=True)
    return length if keepdim else length.squeeze(dim)


def token_norms(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
    """Return the Euclidean norm of each token's part of the state.

    A leaf [batch, tokens..., width] has one token per position; a leaf [batch, width] or [batch] has a single one.
    Leaves with the same number of tokens, such as the two states of a TRM, form one vector per token together. The norms of
    other leaves are concatenated. Padding has norm zero.
    """
    tokens = [
        masked(leaf, mask).reshape(leaf.shape[0], -1, leaf.shape[-1] if leaf.ndim > 1 else 1)
        for leaf in floating_leaves(state)
    ]
    if len({part.shape[1] for part in tokens}) > 1:
        return torch.cat([scaled_norm(part, -1) for part in tokens], dim=1)
    largest = [torch.linalg.vector_norm(part, ord=torch.inf, dim=-1, keepdim=True) for part in tokens]
    # All parts share one scale, that of their largest number: a zero part alone would have scale 1.
    scale = _power_below(torch.cat(largest, dim=-1).amax(-1, keepdim=True))
    squares = torch.stack([(part / scale).square().sum(-1) for part in tokens]).sum(0)
    return squares.sqrt() * scale.squeeze(-1)


def norms(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch"]:
    """Return the Euclidean norm of each example's whole state, excluding padding."""
    return scaled_norm(flatten(state, mask))


def unchanging_leaves(state: Tree) -> list[Any]:
    """Return the leaves of a state that steps should not change: all but floating tensors and None."""
    found = _leaves(state, lambda context: True)
    return [leaf for leaf in found if leaf is not None and not (isinstance(leaf, Tensor) and leaf.is_floating_point())]


def has_clock(before: Tree, after: Tree) -> bool:
    """Return whether a step changed a leaf of its state that is not a floating tensor, such as a counter.

    Example:
        >>> zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
        >>> has_clock((zeros, torch.tensor([4, 7])), (ones, torch.tensor([4, 7])))
        False
        >>> has_clock((zeros, torch.tensor([0, 0])), (zeros, torch.tensor([1, 1])))
        True
    """
    pairs = zip(unchanging_leaves(before), unchanging_leaves(after), strict=False)
    return any(not torch.equal(one, other) if isinstance(one, Tensor) else one != other for one, other in pairs)
