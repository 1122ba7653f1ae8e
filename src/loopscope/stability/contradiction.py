"""The independent check of a spectral radius: does the orbit contract as fast as the Jacobian says that it must?

Near a fixed point k steps take a residual d to J^k d, so that an orbit loses at least ||J^k||^(1/k) per step. One that
loses less contradicts the Jacobian: part of the step is hidden from autograd (a detach, a cache), or the eigenvalue was
missed. The radius alone is no bound over few steps: a J that is not normal contracts more slowly at first.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.loop import Loop, Tree, select
from loopscope.stability.arrival import FIT_STEPS, FLOOR_IN_EPS, rounding_floor
from loopscope.stability.singular import power_norms
from loopscope.stability.spectrum import SpectralRadius

SLACK = 0.01
"""Relative: what a rate may lie above its bound. Radii and norms are measured to 1%."""


def last_decay(residual: Float[Tensor, "iterations batch"]) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the residual's factor per step over its last eight steps above rounding, and how far rounding may move it.

    The second is absolute, on the logarithm of the first. NaN where there are no nine such residuals in a row.
    """
    floor = rounding_floor(residual.dtype)
    count = len(residual)
    steps = torch.arange(count, device=residual.device)[:, None]
    last = torch.where(residual > floor, steps, -1).amax(0)
    first = last - FIT_STEPS
    begin, end = (residual.gather(0, row.clamp_min(0)[None])[0].double() for row in (first, last))
    known = (first >= 0) & begin.isfinite()
    decay = torch.where(known, (end / begin) ** (1 / FIT_STEPS), torch.nan)
    return decay, floor / FLOOR_IN_EPS * 4 / end / FIT_STEPS


def contradicted(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    residual: Float[Tensor, "iterations batch"],
    arrived: Bool[Tensor, "batch"],
    radius: SpectralRadius,
    *,
    seed: int = 0,
) -> Bool[Tensor, "batch"]:
    """Return which arrived orbits contract more slowly, at the end, than J at their fixed point allows.

    More slowly than the spectral radius and its error say, and than ||J^8||, measured where the first finds suspects.

    Args:
        loop: the loop.
        state: the fixed points.
        recalled: what ``loop.encode`` returned for the same examples.
        residual: of the orbits that led there.
        arrived: which are fixed points.
        radius: the spectral radii there.
        seed: of the random start of ||J^8||.
    """
    decay, rounding = last_decay(residual)
    observed = decay.log() - rounding - SLACK
    suspects = arrived & (observed > (radius.radius + radius.error).double().log())
    rows = torch.nonzero(suspects).squeeze(1)
    if len(rows):
        bound = power_norms(loop, select(state, rows), select(recalled, rows), powers=(FIT_STEPS,), seed=seed)
        largest = (bound.norms + bound.error)[:, 0].double().log() / FIT_STEPS
        suspects[rows] = bound.converged[:, 0] & (observed[rows] > largest)
    return suspects
