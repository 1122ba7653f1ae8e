"""Padding: find the mask among a model's inputs, and pad inputs further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from loopscope.trees import Tree

MASKS = ("attention_mask", "mask")
"""Possible names of the input that marks the real tokens."""
ADDED = 2
"""Number of padding tokens that `padded` adds."""


def _name_of_mask(inputs: Tree) -> str | None:
    given = inputs if isinstance(inputs, Mapping) else {}
    return next((name for name in MASKS if isinstance(given.get(name), Tensor) and given[name].ndim == 2), None)


def padding_mask(inputs: Tree) -> Bool[Tensor, "batch tokens"] | None:
    """Return which tokens of a model's inputs are real, or None if the inputs contain no mask."""
    name = _name_of_mask(inputs)
    return None if name is None else inputs[name] > 0


def shortened(inputs: Tree) -> list[Tree]:
    """Return one variant of the inputs in which every other example is a token shorter; an empty list without a mask."""
    name = _name_of_mask(inputs)
    if name is None or inputs[name].shape[1] < 2:
        return []
    mask = inputs[name].clone()
    mask[::2, -1] = 0
    return [{**inputs, name: mask}]


def padded(inputs: Tree) -> Tree:
    """Return inputs with padding appended, and with different tokens in the padding that they already have."""
    name = _name_of_mask(inputs)
    assert name is not None
    mask = inputs[name]

    def longer(key: str, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.shape[:2] != mask.shape:
            return leaf
        first = leaf[:, :1]
        if key == name:
            return torch.cat([leaf, *[torch.zeros_like(first)] * ADDED], dim=1)
        real = (mask > 0).view(*mask.shape, *[1] * (leaf.ndim - 2))
        return torch.cat([torch.where(real, leaf, first), *[first] * ADDED], dim=1)

    return {key: longer(key, leaf) for key, leaf in inputs.items()}


def at_real_tokens(one: Tensor, other: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return two outputs at the real tokens only, if they have one value per token."""
    if mask is None or one.shape[:2] != mask.shape or other.shape[:2] != mask.shape:
        return one, other
    return one[mask], other[mask]
