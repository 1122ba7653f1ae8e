"""Residuals of one orbit, and the ends of orbits that restart from other states, without products with a Jacobian.

An examination in prediction mode costs more than running a narrow model for 500 iterations. The numbers of this module
cost three passes of the trained iterations. They are how the residual ends (reachability), and whether orbits from other
states end in the same place with the same answer (reachability and input-dependence at once). States need not have
arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import check_positive
from loopscope.evaluation import decisions
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, iterate, mask_of, readout
from loopscope.stability.distances import distance
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.orbits.arrival import line
from loopscope.stability.starts import first_state, of_others, random_like
from loopscope.trees import Tree, flatten, token_norms, tree_map

SLOWEST = 0.9
"""The quantile of the tokens' residuals that represents the slowest tokens."""


@dataclass(frozen=True)
class Pass:
    """One pass from the loop's own first state, per example, without padding.

    Args:
        recalled: the recalled input.
        start: z_0.
        before: z_{T-1}.
        last: z_T.
        residual: relative residual of each step in the second half of the pass, and of the last two steps at least.
    """

    recalled: Tree
    start: Tree
    before: Tree
    last: Tree
    residual: Float[Tensor, "steps batch"]


def run_pass(loop: Loop, recalled: Tree, iterations: int, seed: int = 0) -> Pass:
    """Run a loop for some iterations, at least one, without building a graph."""
    check_positive(iterations=iterations)
    with torch.no_grad():
        mask = mask_of(loop, recalled)
        start = first_state(loop, recalled, seed)
        smallest = smallest_scale(start, mask)
        first = min(iterations // 2, max(0, iterations - 2))
        before = state = iterate(loop, start, recalled, first)
        residuals = []
        for _ in range(first, iterations):
            before, state = state, loop.step(state, recalled)
            residuals.append(relative_residual(flatten(before, mask), flatten(state, mask), smallest))
    return Pass(recalled, start, before, state, torch.stack(residuals))


def slope(residual: Float[Tensor, "steps batch"]) -> Float[Tensor, "batch"]:
    """Return the change per step of log10 of the residual, fitted by least squares; NaN for a single step."""
    logs = residual.double().clamp_min(torch.finfo(torch.float32).eps).log10()
    return line(logs, torch.ones_like(logs, dtype=torch.bool))[0]


def slowest_tokens(loop: Loop, seen: Pass) -> Float[Tensor, "batch"]:
    """Return the 90% quantile, over tokens that are not padding, of each token's change in the last step over its norm.

    The result is NaN if a token is no longer finite, because a quantile of the other tokens would not be one of all tokens.
    """
    mask = mask_of(loop, seen.recalled)
    change = token_norms(tree_map(lambda after, before: after - before, seen.last, seen.before), mask)
    size = token_norms(seen.last, mask)
    moved = (change / size.clamp_min(torch.finfo(size.dtype).eps)).double()
    real = torch.ones_like(moved, dtype=torch.bool) if mask is None else mask.flatten(1)
    quantile = moved.masked_fill(~real, torch.nan).nanquantile(SLOWEST, dim=1)
    return quantile.masked_fill((~moved.isfinite() & real).any(1), torch.nan)


@dataclass(frozen=True)
class Restart:
    """The ends of orbits from other states, after as many iterations as the pass, per example.

    Args:
        left: distance from the end of the pass, divided by the same distance at the start. It is 0 if the orbit reaches the
            input's own end, 1 if the state stays where it was put, and NaN if it started at that end.
        same_answer: whether the answer is the same as at the end of the pass. The answer is given by ``answers`` or, without
            it, by the decisions of all tokens. A state that is not finite has no answer.
    """

    left: Float[Tensor, "batch"]
    same_answer: Bool[Tensor, "batch"]


def after_swap(loop: Loop, seen: Pass, iterations: int, answers: Answers | None = None) -> Restart:
    """Restart each example from the end of its neighbour, and return where it ends.

    This is the swap test without the condition that states have arrived.
    """
    return _restart(loop, seen, of_others(seen.last, 1), iterations, answers)


def after_random_start(
    loop: Loop, seen: Pass, iterations: int, seed: int = 0, answers: Answers | None = None
) -> Restart:
    """Restart each example from a random state whose tokens have the norms of its own end, and return where it ends."""
    return _restart(loop, seen, random_like(seen.last, torch.Generator().manual_seed(seed)), iterations, answers)


def _restart(loop: Loop, seen: Pass, start: Tree, iterations: int, answers: Answers | None) -> Restart:
    mask = mask_of(loop, seen.recalled)
    with torch.no_grad():
        end = iterate(loop, start, seen.recalled, iterations)
        logits = [readout(loop, state, seen.recalled) for state in (seen.last, end)]
        own, other = (decisions(each, mask) if answers is None else answers(each) for each in logits)
    finite = flatten(end, mask).isfinite().all(1) & flatten(seen.last, mask).isfinite().all(1)
    left = distance(end, seen.last, mask) / distance(start, seen.last, mask)
    return Restart(left, (own == other).all(1) & finite)
