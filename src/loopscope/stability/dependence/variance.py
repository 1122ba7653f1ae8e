"""The share of the variance of fixed points that lies between inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count
from loopscope.loop import Loop, mask_of
from loopscope.stability.orbits.arrival import FixedPoints, follow
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.starts import random_like
from loopscope.trees import Tree, flatten

MIN_STARTS = 4
"""Smallest number of starts per input for an estimate of the variance within an input."""


@dataclass(frozen=True)
class VarianceShare:
    """Variance of fixed points between inputs over the total variance. NaN if fewer than two inputs count.

    Attributes:
        share: B / (B + W); 0 if both are below the error of the states, so that all inputs share one point.
        error: standard error of the share, by the jackknife over inputs; NaN for fewer than three inputs.
        between: B, the variance of the inputs' mean states minus W / starts, but at least 0.
        within: W, the variance over the starts of an input, averaged over inputs.
        inputs: number of inputs that count, which are those with at least four arrived starts.
        arrived: fraction of all orbits that arrived.
    """

    share: float
    error: float
    between: float
    within: float
    inputs: int
    arrived: float


def variance_share(
    loop: Loop,
    recalled: Tree,
    like: Tree,
    *,
    iterations: int,
    starts: int = MIN_STARTS,
    tolerance: float = 1e-4,
    seed: int = 0,
    known: FixedPoints | None = None,
    floor: Floor | None = None,
) -> VarianceShare:
    """Compare the variance of fixed points between inputs with that within an input, using random starts.

    Args:
        loop: any loop.
        recalled: its recalled input.
        like: states, such as first states or fixed points. Tokens of random starts get the norms of their tokens.
        iterations: largest number of iterations per orbit. There is one run per start.
        starts: number of random starts per input. They differ between inputs.
        tolerance: see `follow`.
        seed: seed of the starts.
        known: the inputs' fixed points. Orbits on their way to them may end early.
        floor: see `follow`.

    Raises:
        LoopscopeError: there are fewer than four starts.
    """
    check_count(starts=starts)
    if starts < MIN_STARTS:
        raise LoopscopeError(f"expected at least {MIN_STARTS} starts per input, got {starts}")
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(loop, recalled)
    ends = [
        follow(
            loop,
            recalled,
            random_like(like, generator),
            iterations=iterations,
            tolerance=tolerance,
            toward=known,
            floor=floor,
        )
        for _ in range(starts)
    ]
    points = torch.stack([flatten(end.state, mask) for end in ends])
    arrived = torch.stack([end.arrived for end in ends])
    error = torch.stack([end.error for end in ends])
    return share_of_variance(points, arrived, error)


def share_of_variance(
    points: Float[Tensor, "starts batch n"],
    arrived: Bool[Tensor, "starts batch"],
    error: Float[Tensor, "starts batch"],
) -> VarianceShare:
    """Return the share of the variance between inputs, from arrived points only (see `VarianceShare`)."""
    used = arrived.sum(0) >= MIN_STARTS
    reached = float(arrived.double().mean())
    inputs = int(used.sum())
    if inputs < 2:
        return VarianceShare(torch.nan, torch.nan, torch.nan, torch.nan, inputs, reached)
    counted = arrived[:, used]
    count = counted.sum(0)
    # States are selected rather than weighted, because those that have not arrived may be infinite.
    means = torch.where(counted[:, :, None], points[:, used], 0).sum(0) / count[:, None]
    squares = (points[:, used] - means).square().sum(2)
    within = torch.where(counted, squares, 0).sum(0).double() / (count - 1)
    offsets = (means - means.mean(0)).square().sum(1).double()
    noise = error[:, used][counted].double().square().mean()

    def share(total: Tensor, number: int, inner: Tensor, correction: Tensor) -> tuple[Tensor, Tensor]:
        between = (total / (number - 1) - correction).clamp_min(0)
        whole = between + inner
        return torch.where(whole > noise, between / whole, 0.0), between

    value, between = share(offsets.sum(), inputs, within.mean(), (within / count).mean())
    spread = torch.tensor(torch.nan)
    if inputs > 2:
        left = inputs - 1
        totals = offsets.sum() - inputs / left * offsets
        inner, correction = ((part.sum() - part) / left for part in (within, within / count))
        parts, _ = share(totals, left, inner, correction)
        spread = ((parts - parts.mean()).square().sum() * left / inputs).sqrt()
    return VarianceShare(float(value), float(spread), float(between), float(within.mean()), inputs, reached)
