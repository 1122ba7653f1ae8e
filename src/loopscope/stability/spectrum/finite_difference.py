"""Comparison of products with the Jacobian to finite differences of the step, per example.

Autograd does not see what runs under ``torch.no_grad`` or behind ``detach``. If only a part of the step is hidden, the
Jacobian looks sound, but its spectral radius is that of another loop. A finite difference of the step itself shows this, even
for loops that do not contract, where ``contradiction`` has no rate to compare.

Finite differences have errors of their own: curvature for large step sizes, rounding for small ones. They are therefore taken
at several step sizes, and the two neighbouring ones that agree best give the value and its resolution. A step that computes in
bfloat16 is thus compared above its rounding, and a step with jumps remains undecided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.gmres import unit
from loopscope.jacobian import Jacobian, random_vectors, step_jacobian
from loopscope.loop import Loop, mask_of
from loopscope.trees import Tree, norms, real_numbers, scaled_norm

RUNGS = tuple(10 ** (-k / 2) for k in range(1, 8))
"""Step sizes, relative to the size of the state: from 0.3 to 3e-4."""
TOLERATED = 0.02
"""Relative disagreement that is tolerated beyond the resolution of the finite difference."""
RESOLUTIONS = 3.0
"""Number of resolutions from which a disagreement counts as real, since the resolution is an estimate."""
PUSHES = 4
"""Number of products with J that turn a random direction towards those that decay most slowly."""


@dataclass(frozen=True)
class DifferenceCheck:
    """How far products with J are from finite differences of the step, in the worse of two directions, per example.

    Attributes:
        disagreement: ||J v - d|| / max(||J v||, ||d||), where d is the finite difference along v, or the same for v^T J if that
            is larger; NaN if the step is not finite.
        resolution: error of d by the same measure, estimated from its two best step sizes.
        hidden: whether the disagreement exceeds both the resolution and 2%, so that autograd does not see the whole step.
    """

    disagreement: Float[Tensor, "batch"]
    resolution: Float[Tensor, "batch"]
    hidden: Bool[Tensor, "batch"]


def check_differences(loop: Loop, state: Tree, recalled: Tree, *, seed: int = 0) -> DifferenceCheck:
    """Compare J v and v^T J at ``state`` to finite differences, along a random direction and one that decays slowly.

    This costs about 28 evaluations of the step and ten products.

    Args:
        loop: the loop.
        state: where J is taken, batch first.
        recalled: what ``loop.encode`` returned for the same examples.
        seed: seed of the random direction. The global random state is not used.

    Raises:
        LoopscopeError: J is not defined (see ``step_jacobian``).
    """
    jacobian = step_jacobian(loop, state, recalled)
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(loop, recalled)
    drawn = random_vectors(jacobian.batch, jacobian.size, jacobian.point, generator)
    vectors, _ = unit(drawn * real_numbers(state, mask))
    size = torch.maximum(norms(state, mask), scaled_norm(jacobian.value)).to(jacobian.point)
    size = torch.where(size > 0, size, torch.ones_like(size))[:, None]
    found = [_along(jacobian, vectors, size)]
    for _ in range(PUSHES):
        pushed, length = unit(jacobian.jvp(vectors))
        # If J is zero or not finite, the random direction is kept.
        vectors = torch.where(((length > 0) & length.isfinite())[:, None], pushed, vectors)
    found.append(_along(jacobian, vectors, size))
    disagreement, resolution = (torch.stack(parts) for parts in zip(*found, strict=True))
    beyond = disagreement - TOLERATED - RESOLUTIONS * resolution
    worst = beyond.nan_to_num(nan=-torch.inf).argmax(0, keepdim=True)
    disagreement, resolution, beyond = (part.gather(0, worst)[0] for part in (disagreement, resolution, beyond))
    return DifferenceCheck(disagreement, resolution, beyond > 0)


def _along(
    jacobian: Jacobian, vectors: Float[Tensor, "batch n"], size: Float[Tensor, "batch 1"]
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the disagreement along unit ``vectors``, and the resolution of the finite difference."""
    difference, resolution = _finite_difference(jacobian, vectors, size)
    pushed = jacobian.jvp(vectors)
    length, other = (scaled_norm(part) for part in (difference, pushed))
    forward = _relative(scaled_norm(pushed - difference), torch.maximum(length, other))
    # Eigenvalues are computed from products v^T J. With d for v, they give d^T J v, which should be ||d||^2.
    backward = (jacobian.vjp(unit(difference)[0]) * vectors).sum(1)
    reverse = _relative((backward - length).abs(), torch.maximum(length, other))
    return torch.maximum(forward, reverse), resolution


def _finite_difference(
    jacobian: Jacobian, vectors: Float[Tensor, "batch n"], size: Float[Tensor, "batch 1"]
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch"]]:
    """Return (f(z + h v) - f(z - h v)) / 2h for the best h, and its relative error. The unit of h is ``size``."""
    slopes = []
    with torch.no_grad():
        for rung in RUNGS:
            change = rung * size * vectors
            ahead, behind = (jacobian.function(jacobian.point + sign * change, jacobian.context) for sign in (1, -1))
            slopes.append((ahead - behind) / (2 * rung * size))
    stacked = torch.stack(slopes)
    lengths = scaled_norm(stacked, 2)
    apart = scaled_norm(stacked.diff(dim=0), 2)
    errors = _relative(apart, torch.maximum(lengths[:-1], lengths[1:]))
    errors = torch.where(errors.isnan(), torch.inf, errors)
    best = errors.argmin(0)
    rows = torch.arange(len(best), device=best.device)
    return stacked[best + 1, rows], errors[best, rows]


def _relative(change: Tensor, scale: Tensor) -> Tensor:
    return change / torch.where(scale > 0, scale, torch.ones_like(scale))
