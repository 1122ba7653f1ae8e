"""Geometry of the iteration: the growth of gradients along the orbit, and the radial mode.

The other quantities of this axis are in `loopscope.stability.spectrum`: the spectral radius and the singular values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.contexts import check_time
from loopscope.errors import LoopscopeError, check_count, check_seed
from loopscope.gmres import unit
from loopscope.jacobian import random_vectors, step_jacobian
from loopscope.loop import Loop, mask_of, start_from
from loopscope.trees import Tree, device_of, flatten, norms, real_numbers, token_norms, tree_map, unflatten

STEADY = math.log(10)
"""A gradient that changes by less than tenfold over the iterations is steady. This is a prior, not fitted on models."""


@dataclass(frozen=True)
class GradientNorms:
    """How a gradient changes on its way back through k iterations, k = 1 .. K, per example.

    J_t is the Jacobian of the step at z_t. The factor J_0 is left out, since it leads to the first state, which does not depend
    on the parameters of the step. If the first state is zero and the step normalizes it, J_0 is singular.

    Attributes:
        norms: ||u^T J_K ... J_{K-k+1}|| for random unit u at z_{K+1}, as a root mean square over the cotangents.
        slope: slope of log norm per iteration, by least squares over the second half, which are the iterations farthest back.
        slope_error: one standard error of the slope; zero if it rests on two points.
        label: vanishing, steady or exploding, by slope x K relative to log 10; unknown if the orbit is not finite.
    """

    norms: Float[Tensor, "batch iterations"]
    slope: Float[Tensor, "batch"]
    slope_error: Float[Tensor, "batch"]
    label: tuple[str, ...]


@dataclass(frozen=True)
class RadialMode:
    """The direction that an outer normalization removes, per token, and the growth of the norm.

    Attributes:
        gain: ||(n^T J)_t|| / ||n_t|| per token with n = f(z) / g^2. It is near zero if the step ends with an RMSNorm of gain g.
            Padding is zero.
        known_gain: whether g was given. Otherwise n = f(z).
        growth: log ||f(z)|| - log ||z|| of the whole state, an estimate of d log ||z|| / dt.
    """

    gain: Float[Tensor, "batch tokens"]
    known_gain: bool
    growth: Float[Tensor, "batch"]


def gradient_norms(
    loop: Loop,
    recalled: Tree,
    iterations: int,
    *,
    state: Tree | None = None,
    cotangents: int = 2,
    seed: int = 0,
) -> GradientNorms:
    """Return the norms of gradients sent back from z_{K+1}, through every state of the orbit, to z_1.

    Each step is evaluated three times: twice without gradient, so that only about 2 sqrt(K) states are held at once, and once
    for its backward pass. The numbers are those of backpropagation through the orbit.

    Args:
        loop: the loop.
        recalled: what ``loop.encode`` returned.
        iterations: K.
        state: z_0; the loop's own start by default.
        cotangents: number of random unit vectors at z_{K+1}, different for each example.
        seed: seed of the cotangents and of a random start.

    Raises:
        LoopscopeError: J is not defined (see `loopscope.jacobian.step_jacobian`), or an option is out of range.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: 0.5 * z + e, lambda z: z)
        >>> found = gradient_norms(loop, torch.ones(1, 3), 4)
        >>> found.norms, found.label
        (tensor([[0.5000, 0.2500, 0.1250, 0.0625]], dtype=torch.float64), ('vanishing',))
    """
    check_count(iterations=iterations, cotangents=cotangents)
    check_seed(seed)
    generator = torch.Generator(device_of(recalled)).manual_seed(seed)
    with torch.no_grad():
        first = start_from(loop, recalled, generator) if state is None else state
    orbit = backwards(loop, recalled, first, iterations)
    last = next(orbit)
    jacobian = step_jacobian(loop, last, recalled)
    real = real_numbers(last, mask_of(loop, recalled))
    vectors, logs = [], torch.zeros(cotangents, jacobian.batch, dtype=torch.float64, device=real.device)
    for _ in range(cotangents):
        drawn = random_vectors(jacobian.batch, jacobian.size, jacobian.point, generator) * real
        vectors.append(unit(drawn)[0])
    measured = []
    for earlier in chain([last], orbit):
        jacobian = jacobian.at(earlier)
        # Vectors are rescaled at every step, since gradients may overflow or vanish in float32 over many iterations.
        pulled = [unit(jacobian.vjp(vector)) for vector in vectors]
        vectors = [direction for direction, _ in pulled]
        logs = logs + torch.stack([length for _, length in pulled]).double().log()
        measured.append(0.5 * (torch.logsumexp(2 * logs, dim=0) - math.log(cotangents)))
    log_norms = torch.stack(measured, dim=1)
    slope, error = _slope(log_norms)
    label = tuple(_label(change) for change in (slope * iterations).tolist())
    return GradientNorms(norms=log_norms.exp(), slope=slope, slope_error=error, label=label)


def backwards(loop: Loop, recalled: Tree, first: Tree, iterations: int) -> Iterator[Tree]:
    """Yield the states z_K, ..., z_1 of an orbit, last one first, while holding about 2 sqrt(K) of them.

    The orbit is followed once, keeping every sqrt(K)-th state, and then once more from each state that was kept.

    Args:
        loop: the loop.
        recalled: what ``loop.encode`` returned.
        first: z_0.
        iterations: K.
    """

    def after(state: Tree) -> Tree:
        check_time()
        with torch.no_grad():
            return loop.step(state, recalled)

    apart = math.isqrt(iterations - 1) + 1
    kept, state = [], first
    for iteration in range(iterations):
        if iteration % apart == 0:
            kept.append(state)
        state = after(state)
    last = iterations - apart * (len(kept) - 1)
    while kept:
        states = [after(kept.pop())]
        while len(states) < last:
            states.append(after(states[-1]))
        last = apart
        while states:
            yield states.pop()


def _label(change: float) -> str:
    if math.isnan(change):
        return "unknown"
    return "exploding" if change > STEADY else "vanishing" if change < -STEADY else "steady"


def agreement(slope: Float[Tensor, "batch"], radius: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return the slope of the log gradient norms minus the log of the spectral radius at the fixed point.

    It is near zero once the orbit is close to the fixed point and the dominant mode prevails, and below zero while many modes
    decay. If it is clearly above zero, gradients grow faster than J at the fixed point can explain: there is a transient, or
    the state is not a fixed point.
    """
    tiny = torch.finfo(torch.float64).tiny
    return slope - radius.to(slope).clamp_min(tiny).log()


def radial_mode(loop: Loop, state: Tree, recalled: Tree, gain: Tensor | None = None) -> RadialMode:
    """Return how much of each token's radial direction passes an iteration, from one vjp, and the growth of the norm.

    An outer RMSNorm with gain g removes the *left* direction n = f(z) / g^2 of each token: d ||f(z) / g||^2 = 0.

    Args:
        loop: the loop.
        state: where J is taken, batch first.
        recalled: what ``loop.encode`` returned.
        gain: g, [width] or a shape that broadcasts against the state's leaves.

    Raises:
        LoopscopeError: J is not defined (see `loopscope.jacobian.step_jacobian`), or the gain has a zero.
    """
    if gain is not None and bool((gain == 0).any()):
        raise LoopscopeError(
            "the gain of the last normalization has a zero, so f(z) / g^2 is not defined: leave the gain out"
        )
    jacobian = step_jacobian(loop, state, recalled)
    mask = mask_of(loop, recalled)
    with torch.no_grad():
        after = unflatten(jacobian.value, state)
        normal = after if gain is None else tree_map(lambda leaf: leaf / gain.to(leaf).square(), after)
        pulled = unflatten(jacobian.vjp(flatten(normal, mask).to(jacobian.point)), state)
        size = token_norms(normal, mask)
        passed = token_norms(pulled, mask) / torch.where(size > 0, size, torch.ones_like(size))
        growth = norms(after, mask).log() - norms(state, mask).log()
    return RadialMode(gain=passed, known_gain=gain is not None, growth=growth)


def _slope(
    log_norms: Float[Tensor, "batch iterations"],
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the slope of log norm over the second half and its standard error; the slope is -inf if the gradient is zero."""
    count = log_norms.shape[1]
    first = min(count // 2, max(0, count - 2))
    logs = log_norms[:, first:]
    if logs.shape[1] < 2:
        return logs[:, 0], torch.zeros_like(logs[:, 0])
    steps = torch.arange(logs.shape[1], dtype=logs.dtype, device=logs.device)
    steps = steps - steps.mean()
    spread = steps.square().sum()
    slope = (logs * steps).sum(1) / spread
    rest = logs - logs.mean(1, keepdim=True) - slope.unsqueeze(1) * steps
    freedom = max(1, logs.shape[1] - 2)
    error = (rest.square().sum(1) / freedom / spread).sqrt()
    dead = log_norms[:, -1] == -math.inf
    return torch.where(dead, torch.full_like(slope, -math.inf), slope), torch.where(dead, 0.0, error)
