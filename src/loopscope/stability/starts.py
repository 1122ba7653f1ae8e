"""States to start from: perturbed ones, random ones, and those of other inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.loop import first_state as first_state
from loopscope.trees import Tree, batch_size, flatten, scaled_norm, select, tree_map, unflatten


def random_direction(like: Tree, generator: torch.Generator, mask: Tensor | None = None) -> Float[Tensor, "batch n"]:
    """Return a random unit vector per example in the space of the floating leaves of ``like``, zero at padding."""
    flat = flatten(like)
    drawn = torch.randn(flat.shape, generator=generator, dtype=torch.float64, device=generator.device).to(flat)
    drawn = flatten(unflatten(drawn, like), mask)
    return drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)


def moved(state: Tree, vectors: Float[Tensor, "batch n"]) -> Tree:
    """Return state + vectors. Numbers whose vector entry is zero, such as padding, are unchanged bit for bit."""
    return unflatten(flatten(state) + vectors, state)


def random_like(state: Tree, generator: torch.Generator) -> Tree:
    """Return random states: each token has a random direction and the norm of the same token of ``state``."""

    def redraw(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        drawn = torch.randn(leaf.shape, generator=generator, dtype=torch.float64, device=generator.device).to(leaf)
        if leaf.ndim == 1:
            return drawn.sign() * leaf.abs()
        size, drawn_size = (scaled_norm(part, -1, keepdim=True) for part in (leaf, drawn))
        return drawn * (size / drawn_size)

    return tree_map(redraw, state)


def of_others(state: Tree, shift: int) -> Tree:
    """Return the states of other examples: example i gets the state of example i + shift."""
    return tree_map(lambda leaf: leaf.roll(-shift, 0), state)


def common(state: Tree, row: int = 0) -> Tree:
    """Return the state of one example, repeated for all examples."""
    return select(state, torch.full((batch_size(state),), row))
