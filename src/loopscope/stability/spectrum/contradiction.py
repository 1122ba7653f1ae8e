"""The check of a spectral radius against the orbit, which must contract as fast as the Jacobian says.

Near a fixed point, k steps take a residual d to J^k d. An orbit that contracts more slowly than the spectral radius allows may
still be in a transient, since a J that is not normal contracts more slowly at first. Otherwise there are two possible causes.
If the orbit contracts more slowly than ||J^k|| allows, a part of the step is hidden from autograd (a detach, a cache). If
repeated products J d contract more slowly than the radius, the computed radius is too small.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.jacobian import step_jacobian
from loopscope.loop import Loop
from loopscope.stability.orbits.arrival import FIT_STEPS, line
from loopscope.stability.orbits.rounding import Floor, floor_of
from loopscope.stability.spectrum.eigenvalues import SpectralRadius
from loopscope.stability.spectrum.singular_values import power_norms
from loopscope.trees import Tree, scaled_norm, select

RATE_MARGIN = 0.01
"""Relative margin by which a rate may exceed its bound: radii and norms are measured to 1%."""

POWER_STEPS = 128
"""Number of products with J after which only the dominant part of a residual is left. Growth is fitted to the second half."""


LINEAR = 0.01
"""Largest relative residual at which an orbit is taken to follow the Jacobian at its fixed point."""


def last_decay(
    residual: Float[Tensor, "iterations batch"], largest: float = math.inf, floor: Floor | None = None
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the factor per step of the residual over its last eight steps above rounding, and the effect of rounding on it.

    The effect of rounding is absolute, on the logarithm of the factor. Both are NaN if there are fewer than nine such residuals
    in a row, or the first of them is above ``largest``.

    Args:
        residual: relative residuals along the orbits.
        largest: residual from which on the orbit counts.
        floor: the rounding floor; that of the residuals' type by default.
    """
    floor = floor or floor_of(residual.dtype)
    count = len(residual)
    steps = torch.arange(count, device=residual.device)[:, None]
    last = torch.where(residual > floor.residual, steps, -1).amax(0)
    first = last - FIT_STEPS
    begin, end = (residual.gather(0, row.clamp_min(0)[None])[0].double() for row in (first, last))
    known = (first >= 0) & begin.isfinite() & (begin <= largest)
    decay = torch.where(known, (end / begin) ** (1 / FIT_STEPS), torch.nan)
    return decay, floor.error * 4 / end / FIT_STEPS


def further_growth(loop: Loop, state: Tree, recalled: Tree) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the logarithm of the growth per product of the residual at ``state`` under J, and its 95% half width.

    Norms are used rather than Rayleigh quotients, since they show the modulus of a complex pair.
    """
    jacobian = step_jacobian(loop, state, recalled)
    vectors = (jacobian.value - jacobian.point).to(jacobian.point)
    logs = []
    for _ in range(POWER_STEPS):
        vectors = jacobian.jvp(vectors / scaled_norm(vectors, keepdim=True))
        logs.append(scaled_norm(vectors).double().log())
    height = torch.stack(logs).cumsum(0)[POWER_STEPS // 2 :]
    return line(height, torch.ones_like(height, dtype=torch.bool))


def contradicted(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    residual: Float[Tensor, "iterations batch"],
    arrived: Bool[Tensor, "batch"],
    radius: SpectralRadius,
    *,
    seed: int = 0,
    floor: Floor | None = None,
) -> Bool[Tensor, "batch"]:
    """Return which arrived orbits contract more slowly, at the end, than J at their fixed point allows.

    Suspects are orbits that contract more slowly than the spectral radius and its error say. For these alone, about 200
    products decide whether J has a larger radius, and whether ||J^8|| explains the orbit.

    Args:
        loop: the loop.
        state: the fixed points.
        recalled: what ``loop.encode`` returned for the same examples.
        residual: relative residuals along the orbits to these points.
        arrived: which states are fixed points.
        radius: the spectral radii at these points.
        seed: seed of the random start of ||J^8||.
        floor: see ``last_decay``.
    """
    decay, rounding = last_decay(residual, LINEAR, floor)
    observed = decay.log() - rounding - RATE_MARGIN
    allowed = (radius.radius + radius.error).double().log().to(observed.device)
    suspects = arrived & (observed > allowed)
    rows = torch.nonzero(suspects).squeeze(1)
    if len(rows):
        state, recalled = select(state, rows), select(recalled, rows)
        bound = power_norms(loop, state, recalled, powers=(FIT_STEPS,), seed=seed)
        hidden = bound.converged[:, 0] & (observed[rows] > (bound.norms + bound.error)[:, 0].double().log() / FIT_STEPS)
        growth, error = further_growth(loop, state, recalled)
        suspects[rows] = hidden | (growth - error - RATE_MARGIN > allowed[rows])
    return suspects
