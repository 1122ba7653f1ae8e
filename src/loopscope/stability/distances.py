"""Distances between states of different examples, padding excluded."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.loop import Tree, flatten


def distance(first: Tree, second: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch"]:
    """Return the Euclidean distance of two states, per example."""
    return torch.linalg.vector_norm(flatten(first, mask) - flatten(second, mask), dim=1)


def same_shape(mask: Tensor | None, shift: int, batch: int) -> Bool[Tensor, "batch"]:
    """Return whether example i has the same real tokens as example i + shift."""
    if mask is None:
        return torch.ones(batch, dtype=torch.bool)
    return (mask == mask.roll(-shift, 0)).reshape(batch, -1).all(1)
