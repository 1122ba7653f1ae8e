"""Leaps: where a loop will be after hundreds of iterations, from thirty.

What is fast has settled after a few steps; what is left are a few slow modes, and each change of the state follows from
the one before by a small matrix. It is fitted per orbit to the last few changes (as dynamic mode decomposition does),
and its powers are summed. A few true steps after each leap let the fast parts settle at the new place, and give
the changes for the next leap; time steppers of stiff systems know this as projective integration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.checks import check_independent, check_mask, check_step
from loopscope.errors import LoopscopeError
from loopscope.fixed_points.residual import state_dtype
from loopscope.loop import Loop, is_time_dependent, mask_of
from loopscope.stability.starts import first_state, moved
from loopscope.trees import Tree, flatten

LANDINGS = (15, 48, 152, 480)
"""The iterations looked at: those before the first leap, then each leap's, to about three times as many."""
SETTLING = 5
"""True steps after each leap: thirty steps in all."""
WATCHED = 3
"""Of these the last so many are looked at in the end: in a cycle one of them is no picture of the others."""
SMALL = 1e-3
"""Directions in which changes are smaller than this fraction of the largest are not told from rounding."""


@dataclass(frozen=True)
class Landing:
    """A state far ahead.

    Args:
        iteration: the iterations that it stands for.
        state: the state.
        before: after a leap, the states of the iterations just before, in order.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> last = ls.leaps(loop, torch.eye(4))[-1]
        >>> last.iteration, len(last.before), last.state.diag()
        (480, 2, tensor([2., 2., 2., 2.]))
    """

    iteration: int
    state: Tree
    before: Sequence[Tree] = ()


def leap(states: Sequence[Tree], iterations: int, mask: Tensor | None = None) -> Tree:
    """Return the state ``iterations`` further on, if every change is a matrix times the one before.

    Modes that grow are taken to go on at their present pace.

    Args:
        states: the last states of each orbit in order, three at least; more tell more modes apart.
        iterations: how far to leap, at least 1.
        mask: true where a token is real; padding has no part in it, and stays where it is.
    """
    flat = torch.stack([flatten(state, mask) for state in states], dim=1).double()
    return moved(states[-1], _further(flat.diff(dim=1), iterations).to(flatten(states[-1])))


def _further(changes: Float[Tensor, "batch changes n"], iterations: int) -> Float[Tensor, "batch n"]:
    """Return the sum of the next ``iterations`` changes; 0 of an orbit that stands still or is not finite."""
    # All that is needed of the long vectors is their products with each other: a few numbers per orbit, for the CPU,
    # whose least squares alone allow for modes that cannot be told apart.
    products = (changes @ changes.mT).cpu()
    finite = products.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    products = products.where(finite, torch.zeros_like(products))
    squares, right = torch.linalg.eigh(products[:, :-1, :-1])
    sizes = squares.clamp_min(0).sqrt()
    known = sizes > SMALL * sizes[:, -1:]
    # The former changes times these weights are orthonormal directions, none where nothing is known.
    directions = right * torch.where(known, 1 / sizes.where(known, torch.ones_like(sizes)), 0.0).unsqueeze(1)
    matrix = directions.mT @ products[:, :-1, 1:] @ directions
    rates, modes = torch.linalg.eig(matrix)
    last = (directions.mT @ products[:, :-1, -1:]).to(modes)
    parts = torch.linalg.lstsq(modes, last).solution
    sums = _sum_of_powers(rates / rates.abs().clamp_min(1), iterations)
    weights = directions @ (modes @ (sums.unsqueeze(2) * parts)).real
    weights, finite = weights.to(changes), finite.to(changes.device)
    return (weights.mT @ changes[:, :-1]).squeeze(1).where(finite.squeeze(2), torch.zeros(()).to(changes))


def _sum_of_powers(rates: Tensor, count: int) -> Tensor:
    """Return rates + rates^2 + ... + rates^count, exact also where a rate is 1, in as many steps as count has bits."""
    total, power = torch.zeros_like(rates), torch.ones_like(rates)
    for bit in f"{count:b}":
        total, power = total + power * total, power * power
        if bit == "1":
            power = power * rates
            total = total + power
    return total


def leaps(loop: Loop, recalled: Tree, seed: int = 0, earlier: int | None = None) -> list[Landing]:
    """Return the states after 15 iterations and, by leaps, after 48, 152 and 480, without a graph.

    Costs 30 steps, one more to tell whether they are random, and one of a single input to tell whether they mix inputs.

    Args:
        loop: any loop.
        recalled: its recalled input.
        seed: of a random first state.
        earlier: an iteration before 15 whose state is returned too, as the first.

    Raises:
        LoopscopeError: the state carries a counter, which a leap would leave behind, or is not in float32 or float64, or
            the step is random, mixes examples, or changes the shapes or the precision of its state, or a mask fits no part
            of the state.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> [landing.iteration for landing in ls.leaps(loop, torch.eye(4))]
        [15, 48, 152, 480]
    """
    with torch.no_grad():
        mask = mask_of(loop, recalled)
        start = first_state(loop, recalled, seed)
        state_dtype(start)
        if is_time_dependent(loop, start, recalled):
            raise LoopscopeError(
                "the state carries a counter, which a leap would leave behind: leaps are for steps that depend on the "
                "state and the input alone; iterate this loop as far as you want to know it"
            )
        check_mask(loop, start, recalled)
        states = [start, *_steps(loop, check_step(loop, start, recalled), recalled, LANDINGS[0] - 1)]
        check_independent(loop, states[1], states[2], recalled)
        seen = [iteration for iteration in (earlier, LANDINGS[0]) if iteration and iteration <= LANDINGS[0]]
        landings = [Landing(iteration, states[iteration]) for iteration in dict.fromkeys(seen)]
        for before, after in pairwise(LANDINGS):
            landed = leap(states[-SETTLING - 1 :], after - before - SETTLING, mask)
            states = _steps(loop, landed, recalled, SETTLING)
            landings.append(Landing(after, states[-1], states[-WATCHED:-1]))
    return landings


def _steps(loop: Loop, state: Tree, recalled: Tree, steps: int) -> list[Tree]:
    states = [state]
    for _ in range(steps):
        states.append(loop.step(states[-1], recalled))
    return states
