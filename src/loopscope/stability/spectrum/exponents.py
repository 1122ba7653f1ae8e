"""Lyapunov exponents: of the product of Jacobians along an orbit, how fast small errors grow or shrink per iteration.

An orbit whose step depends on time, or draws random numbers, has no fixed point at which a Jacobian could be taken. What it has
is the product J_t ... J_1 along its way. A few orthonormal vectors are carried along by products with the Jacobians, and
orthogonalized at each iteration by a QR factorization (Benettin et al., 1980; Shimada and Nagashima, 1979). The logarithms of
the diagonal of R are the growth of that iteration; their means are the largest exponents. For random numbers of one draw these
are the exponents under common noise: two orbits that see the same noise come together if all of them are negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.checks import check_is_loop, check_not_empty, prepare
from loopscope.contexts import eval_mode, random_state_kept, without_autocast
from loopscope.errors import check_count
from loopscope.jacobian import step_jacobian
from loopscope.kinds import HeldLoop, timed
from loopscope.loop import Loop, mask_of
from loopscope.stability.orbits.classify import exponent
from loopscope.stability.starts import random_direction
from loopscope.trees import Tree, device_of, flatten, real_numbers

ALIGNING = 0.25
"""Share of the iterations that carried vectors may take to turn into the directions of largest growth; these do not count."""
ROUNDING_IN_EPS = 16
"""Relative error of a length, in machine epsilons, by which its logarithm may be off."""
LEAST = math.log(torch.finfo(torch.float64).tiny)
"""The logarithm that stands for zero growth: a Jacobian that maps a direction to nothing."""


@dataclass(frozen=True)
class Exponents:
    """The largest Lyapunov exponents along each orbit, in natural logarithms per iteration.

    Attributes:
        values: largest first; the mean of the growth over the iterations that count. NaN where the orbit is not finite for
            long enough.
        error: half width of the 95% interval of each.
        growth: growth of each carried vector in each iteration, the largest first; NaN where the orbit is no longer finite.
        first: the iteration from which on growth counts, from 0.
        counted: the number of iterations that count, per example.

    Example:
        >>> import torch, loopscope as ls
        >>> halving = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> found = ls.exponents(halving, torch.ones(1, 3), iterations=40, count=1)
        >>> found.values.exp(), found.first
        (tensor([[0.5000]], dtype=torch.float64), 10)
    """

    values: Float[Tensor, "batch k"]
    error: Float[Tensor, "batch k"]
    growth: Float[Tensor, "iterations batch k"]
    first: int
    counted: Int[Tensor, "batch"]


def exponents(loop: Loop, inputs: Tree, *, iterations: int = 500, count: int = 4, seed: int = 0) -> Exponents:
    """Return the largest Lyapunov exponents of J_t ... J_1 along orbits (J_t is the Jacobian of step t), for any loop.

    For an autonomous loop that arrives at a fixed point they are the logarithms of the moduli of the eigenvalues there.

    Args:
        loop: any loop; its step may take ``iteration``, ``generator`` or both.
        inputs: what ``loop.encode`` takes, batch first.
        iterations: how far to follow the orbits. The first quarter does not count.
        count: number of exponents; fewer if the state is smaller.
        seed: seed for a random start, the random numbers that the step draws, and the first vectors.

    Raises:
        LoopscopeError: the loop is not one, or its step cannot be differentiated, or fails at a later iteration.

    Example:
        >>> import torch, loopscope as ls
        >>> def step(z, e, iteration):
        ...     return torch.tensor([0.9, 0.5]) * (1.0 if iteration % 2 else 0.81) * z + e
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
        >>> ls.exponents(loop, torch.ones(1, 2), iterations=80, count=2).values.exp().round(decimals=3)
        tensor([[0.8100, 0.4500]], dtype=torch.float64)
    """
    check_is_loop(loop)
    check_not_empty(inputs)
    check_count(iterations=iterations, count=count)
    with eval_mode(loop), without_autocast(), random_state_kept(device_of(inputs)):
        view = timed(loop, seed)
        with torch.no_grad():
            ready = prepare(view, inputs, seed=seed)
        return exponents_along(view, ready.recalled, ready.start, iterations=iterations, count=count, seed=seed)


def exponents_along(
    loop: Loop,
    recalled: Tree,
    start: Tree,
    *,
    iterations: int,
    count: int,
    seed: int = 0,
    stop: Callable[[], bool] | None = None,
) -> Exponents:
    """Return the largest exponents along the orbits from ``start``.

    Each iteration costs about 3 + count evaluations of the step.

    Args:
        loop: a loop whose clock, if it has one, is in its state (see `loopscope.kinds.timed`).
        recalled: its recalled input.
        start: the first states.
        iterations: how far to follow the orbits.
        count: number of exponents; fewer if the state is smaller.
        seed: of the first vectors.
        stop: asked after every iteration; once it returns true, the orbits end there.
    """
    mask = mask_of(loop, recalled)
    real = real_numbers(start, mask)
    count = min(count, int(real.sum(1).min()))
    vectors = _first_vectors(start, mask, count, seed)
    held, state, logs = step_jacobian(HeldLoop(loop), start, recalled), start, []
    eps = torch.finfo(held.point.dtype).eps
    rounding = torch.zeros(len(real), count, dtype=torch.float64, device=real.device)
    for _ in range(iterations):
        jacobian = held.at(state)
        pushed = torch.stack([jacobian.jvp(vectors[:, :, place]) for place in range(count)], dim=2).double()
        finite = pushed.isfinite().flatten(1).all(1) & jacobian.value.isfinite().all(1)
        turned, triangle = torch.linalg.qr(torch.where(finite[:, None, None], pushed, 0))
        size = triangle.diagonal(dim1=1, dim2=2).abs()
        logs.append(size.log().clamp_min(LEAST).where(finite[:, None], math.nan))
        # What rounding of the largest product adds to a small one, to first order.
        rounding += torch.nan_to_num(eps * pushed.norm(dim=1).amax(1, keepdim=True) / size, nan=0.0, posinf=1 / eps)
        vectors = turned.to(vectors)
        with torch.no_grad():
            state = loop.step(state, recalled)
        if stop is not None and stop():
            break
    return _averaged(torch.stack(logs), rounding / len(logs), eps)


def _first_vectors(state: Tree, mask: Tensor | None, count: int, seed: int) -> Float[Tensor, "batch n k"]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([random_direction(state, generator, mask) for _ in range(count)], dim=2)
    return torch.linalg.qr(drawn.double())[0].to(flatten(state))


def _averaged(growth: Float[Tensor, "iterations batch k"], rounding: Float[Tensor, "batch k"], eps: float) -> Exponents:
    first = int(ALIGNING * len(growth))
    values = torch.full_like(growth[0], math.nan)
    error = values.clone()
    lasted = growth.isfinite().all(2).int().cumprod(0).sum(0)
    for row, end in enumerate(lasted.tolist()):
        if end > first:
            values[row], error[row] = exponent(growth[first:end, row], ROUNDING_IN_EPS * eps)
    order = values.nan_to_num(LEAST).argsort(1, descending=True)
    return Exponents(
        values.gather(1, order),
        (error + rounding).gather(1, order),
        growth,
        first,
        (lasted - first).clamp_min(0),
    )
