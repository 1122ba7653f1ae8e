"""The size of the noise of a stochastic step, and the residual at which it lets an orbit level off."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.kinds import TimedLoop
from loopscope.loop import mask_of
from loopscope.trees import Tree, flatten, scaled_norm

SPREAD_DRAWS = 8
"""Draws from which the spread of one step is estimated."""

UNSEEN = 2**20
"""Number of the first draw that no orbit sees: those of orbits are numbered from 0."""


def noise_of_step(loop: TimedLoop, state: Tree, recalled: Tree, draws: int = SPREAD_DRAWS) -> Float[Tensor, "batch"]:
    """Return the root mean square distance of a step's results from their mean over draws, relative to their norm.

    Args:
        loop: the loop.
        state: where to measure.
        recalled: the recalled input of the same examples.
        draws: number of independent draws, at least 2.

    Example:
        >>> import loopscope as ls
        >>> from loopscope.kinds import timed
        >>> def step(z, e, generator):
        ...     return e + 0.1 * torch.randn(z.shape, generator=generator)
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
        >>> view, inputs = timed(loop), torch.ones(1, 10000)
        >>> noise_of_step(view, view.start(inputs), inputs).round(decimals=2)
        tensor([0.1000])
    """
    mask = mask_of(loop, recalled)
    with torch.no_grad():
        loops = [loop.redrawn(UNSEEN + draw) for draw in range(draws)]
        steps = torch.stack([flatten(one.step(state, recalled), mask) for one in loops])
    mean = steps.mean(0)
    spread = scaled_norm(steps - mean, dim=2).square().sum(0).div(draws - 1).sqrt()
    size = scaled_norm(mean)
    return torch.where(size > 0, spread / size, torch.where(spread > 0, torch.inf, 0.0))


def levelled_residual(residual: Float[Tensor, "iterations batch"]) -> Float[Tensor, "batch"]:
    """Return the median of each orbit's relative residual over the last quarter of its iterations."""
    return residual[-max(1, len(residual) // 4) :].nanmedian(0).values
