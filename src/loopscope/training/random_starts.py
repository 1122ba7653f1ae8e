"""Random starts: training that begins anywhere favours one fixed point for each input."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.stability.starts import random_like
from loopscope.trees import where


def with_random_starts(
    start: Float[Tensor, "batch tokens width"], fraction: float, generator: torch.Generator
) -> Float[Tensor, "batch tokens width"]:
    """Return the first states with a random part of the examples replaced: each token gets a random direction of its own norm.

    Args:
        start: the loop's own first states.
        fraction: probability that an example is replaced.
        generator: what is drawn with, on its device.

    Example:
        >>> start = torch.ones(4, 2, 9)
        >>> with_random_starts(start, 1.0, torch.Generator()).norm(dim=-1).round(decimals=4).unique()
        tensor([3.])
    """
    chosen = torch.rand(len(start), generator=generator, device=generator.device) < fraction
    drawn = random_like(start.detach().float(), generator).to(start)
    return where(chosen.to(start.device), drawn, start)
