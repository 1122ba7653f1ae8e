"""Padding: the mask among a model's inputs, and inputs with more of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from loopscope.trees import Tree

MASKS = ("attention_mask", "mask")
"""What the input that says which tokens are real may be called."""
ADDED = 2
"""Tokens of padding that are added."""


def _name_of_mask(inputs: Tree) -> str | None:
    given = inputs if isinstance(inputs, Mapping) else {}
    return next((name for name in MASKS if isinstance(given.get(name), Tensor) and given[name].ndim == 2), None)


def padding_mask(inputs: Tree) -> Bool[Tensor, "batch tokens"] | None:
    """Return which tokens of a model's inputs are real; None where no mask is among them."""
    name = _name_of_mask(inputs)
    return None if name is None else inputs[name] > 0


def shortened(inputs: Tree) -> list[Tree]:
    """Return inputs in which every other example has a token less, as one more variant; none where there is no mask."""
    name = _name_of_mask(inputs)
    if name is None or inputs[name].shape[1] < 2:
        return []
    mask = inputs[name].clone()
    mask[::2, -1] = 0
    return [{**inputs, name: mask}]


def padded(inputs: Tree) -> Tree:
    """Return inputs with tokens of padding behind the others, and with other tokens where there is padding already."""
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
    """Return two outputs at real tokens alone, where they have one for each token."""
    if mask is None or one.shape[:2] != mask.shape or other.shape[:2] != mask.shape:
        return one, other
    return one[mask], other[mask]
