"""Local input-dependence: how the fixed point moves with the input along two paths, checked by finite changes.

Through recall, with the start fixed, dz*/dx = (I - J)^{-1} df/dx, which takes a linear solve with products alone. Through the
start, with the recalled input fixed, the derivative is zero at an attracting isolated fixed point. Gains are measured along
random directions. They are lower bounds on the largest gain over all directions, which is the Lipschitz constant (see
`loopscope.stability.spectrum.singular_values`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.gmres import gmres as solve
from loopscope.gmres import identity_minus
from loopscope.jacobian import THROUGH_ENCODE, input_jacobian, step_jacobian
from loopscope.loop import Loop, mask_of
from loopscope.stability.orbits.arrival import Ends, FixedPoints, follow
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.starts import moved, random_direction
from loopscope.trees import Tree, flatten, join, masks_back, norms, scaled_norm, select


@dataclass(frozen=True)
class Sensitivity:
    """dz*/dx u for random unit vectors u.

    Attributes:
        path: what x is: either the inputs, through encode, or the recalled input.
        direction: u.
        response: dz*/dx u = (I - J)^{-1} df/dx u.
        gain: ||dz*/dx u||.
        relative: gain times ||x|| / ||z*||.
        residual: relative residual of the linear solve.
        converged: whether the residual is within its tolerance.
        at_fixed_point: whether the state has arrived. At other states the numbers are not derivatives of a fixed point.
    """

    path: str
    direction: Float[Tensor, "directions batch m"]
    response: Float[Tensor, "directions batch n"]
    gain: Float[Tensor, "directions batch"]
    relative: Float[Tensor, "directions batch"]
    residual: Float[Tensor, "directions batch"]
    converged: Bool[Tensor, "directions batch"]
    at_fixed_point: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class FiniteChange:
    """How a small change of the input, or of the start, moves the end of the orbit, relative to the size of the change.

    Attributes:
        gain: ||z*(+) - z*(-)|| / ||x(+) - x(-)||.
        resolution: the errors of the two ends over the size of the change. A smaller gain is indistinguishable from zero.
        disagreement: relative distance to the linear response; NaN if there is none to compare with.
        arrived: whether both orbits arrived.
    """

    gain: Float[Tensor, "batch"]
    resolution: Float[Tensor, "batch"]
    disagreement: Float[Tensor, "batch"]
    arrived: Bool[Tensor, "batch"]


def input_sensitivity(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    *,
    inputs: Tree | None = None,
    directions: int = 1,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> Sensitivity:
    """Return the derivative of the fixed points in the input along random directions, from products alone.

    Args:
        loop: any loop without a clock in its state.
        recalled: its recalled input.
        fixed: the fixed points.
        inputs: the inputs. If they are floating, x is the inputs, otherwise the floating leaves of ``recalled``.
        directions: number of random directions per example.
        tolerance: tolerance of the linear solve.
        max_iterations: largest number of products in the solve.
        seed: seed of the directions.

    Raises:
        LoopscopeError: the loop is time-dependent, or neither the inputs nor the recalled input is floating.
    """
    generator = torch.Generator().manual_seed(seed)
    through = input_jacobian(loop, fixed.state, recalled, inputs)
    operator = identity_minus(step_jacobian(loop, fixed.state, recalled))
    where = through.context["x"]
    mask = mask_of(loop, recalled)
    drawn, solutions = [], []
    for _ in range(directions):
        drawn.append(random_direction(where, generator, mask))
        solutions.append(solve(operator, through.jvp(drawn[-1]), tolerance=tolerance, max_iterations=max_iterations))
    response = torch.stack([solution.x for solution in solutions])
    gain = scaled_norm(response, 2)
    tiny = torch.finfo(gain.dtype).tiny
    return Sensitivity(
        path=through.path,
        direction=torch.stack(drawn),
        response=response,
        gain=gain,
        relative=gain * norms(where, mask) / norms(fixed.state, mask).clamp_min(tiny),
        residual=torch.stack([solution.residual for solution in solutions]),
        converged=torch.stack([solution.converged for solution in solutions]),
        at_fixed_point=fixed.arrived,
    )


def finite_input_change(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    sensitivity: Sensitivity,
    *,
    iterations: int,
    inputs: Tree | None = None,
    step: float = 1e-2,
    tolerance: float = 1e-4,
    floor: Floor | None = None,
) -> FiniteChange:
    """Change x along the first direction of ``sensitivity``, iterate from z*, and compare with the linear response.

    Args:
        loop: any loop.
        recalled: its recalled input.
        fixed: the fixed points, at which both orbits start.
        sensitivity: result of `input_sensitivity` for the same ``inputs``.
        iterations: largest number of iterations per orbit.
        inputs: the same as for `input_sensitivity`.
        step: size of the change to either side, relative to ||x||.
        tolerance: see `follow`.
        floor: see `follow`.
    """
    through = input_jacobian(loop, fixed.state, recalled, inputs)
    encodes, where = through.path == THROUGH_ENCODE, through.context["x"]
    mask = mask_of(loop, recalled)
    change = step * norms(where, mask)[:, None] * sensitivity.direction[0]
    sides = [masks_back(moved(where, sign * change)) for sign in (1, -1)]
    with torch.no_grad(), torch.autocast(change.device.type, enabled=False):
        both = join([loop.encode(side) for side in sides]) if encodes else join(sides)
    ends = follow(loop, both, join([fixed.state, fixed.state]), iterations=iterations, tolerance=tolerance, floor=floor)
    return _compare(ends, change, mask, sensitivity.response[0])


def start_sensitivity(
    loop: Loop,
    recalled: Tree,
    start: Tree,
    *,
    iterations: int,
    step: float = 1e-2,
    tolerance: float = 1e-4,
    seed: int = 0,
    known: FixedPoints | None = None,
    floor: Floor | None = None,
) -> FiniteChange:
    """Change the start along a random direction with the recalled input fixed, and measure how far the end moves.

    Args:
        loop: any loop.
        recalled: its recalled input.
        start: the first states.
        iterations: largest number of iterations per orbit.
        step: size of the change to either side, relative to ||z_0||, or absolute if z_0 is zero.
        tolerance: see `follow`.
        seed: seed of the direction.
        known: the fixed points. Orbits on their way to them may end early.
        floor: see `follow`.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(loop, recalled)
    size = norms(start, mask)
    size = torch.where(size > 0, size, 1.0)
    change = step * size[:, None] * random_direction(start, generator, mask)
    sides = join([moved(start, sign * change) for sign in (1, -1)])
    twice = None if known is None else known.take(torch.arange(len(size)).repeat(2))
    ends = follow(
        loop,
        join([recalled, recalled]),
        sides,
        iterations=iterations,
        tolerance=tolerance,
        toward=twice,
        floor=floor,
    )
    return _compare(ends, change, mask, None)


def _compare(ends: Ends, change: Tensor, mask: Tensor | None, response: Tensor | None) -> FiniteChange:
    batch = len(change)
    up, down = (flatten(select(ends.state, rows), mask) for rows in (slice(batch), slice(batch, None)))
    size = 2 * scaled_norm(change)
    moved_by = (up - down) / size[:, None]
    gain = scaled_norm(moved_by)
    disagreement = torch.full_like(gain, torch.nan)
    if response is not None:
        scale = torch.maximum(gain, scaled_norm(response))
        disagreement = scaled_norm(moved_by - response) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    resolution = (ends.error[:batch] + ends.error[batch:]) / size
    return FiniteChange(gain, resolution, disagreement, ends.arrived[:batch] & ends.arrived[batch:])
