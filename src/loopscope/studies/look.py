"""A brief look: path independence from three passes of the trained iterations, without one product with the Jacobian.

An examination in prediction mode costs more than running a narrow model for 500 iterations. A look takes what states
alone tell: how the residual ends (reachability), and whether other starts end in the same place and in the same answer
(reachability and input-dependence, in one). States need not have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import check_positive
from loopscope.evaluation import decisions
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, iterate, mask_of
from loopscope.stability.distances import distance
from loopscope.stability.orbits.arrival import line
from loopscope.stability.orbits.trace import Answers
from loopscope.stability.starts import first_state, of_others, random_like
from loopscope.trees import Tree, flatten, token_norms, tree_map

SLOWEST = 0.9
"""The slowest tokens: the quantile of the tokens' residuals that stands for them."""


@dataclass(frozen=True)
class Pass:
    """One pass from a loop's own start, per example, padding excluded.

    Args:
        recalled: the recalled input.
        start: z_0.
        before: z_{T-1}.
        last: z_T.
        residual: relative residual of each step of the second half of the pass; of the last two at least, if there are
            two.
    """

    recalled: Tree
    start: Tree
    before: Tree
    last: Tree
    residual: Float[Tensor, "steps batch"]


def run_pass(loop: Loop, recalled: Tree, iterations: int, seed: int = 0) -> Pass:
    """Return a pass of some iterations, at least one, without a graph."""
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
    """Return the change per step of the residual's logarithm to base 10, by least squares; NaN of a single step."""
    logs = residual.double().clamp_min(torch.finfo(torch.float32).eps).log10()
    return line(logs, torch.ones_like(logs, dtype=torch.bool))[0]


def slowest_tokens(loop: Loop, seen: Pass) -> Float[Tensor, "batch"]:
    """Return the 90% quantile over real tokens of how far the last step moved each, over its norm.

    NaN where a token is no longer finite: of the others alone it would be no quantile.
    """
    mask = mask_of(loop, seen.recalled)
    change = token_norms(tree_map(lambda after, before: after - before, seen.last, seen.before), mask)
    size = token_norms(seen.last, mask)
    moved = (change / size.clamp_min(torch.finfo(size.dtype).eps)).double()
    real = torch.ones_like(moved, dtype=torch.bool) if mask is None else mask.flatten(1)
    quantile = moved.masked_fill(~real, torch.nan).nanquantile(SLOWEST, dim=1)
    return quantile.masked_fill((~moved.isfinite() & real).any(1), torch.nan)


@dataclass(frozen=True)
class Return:
    """Where other starts end after the iterations of a pass, per example.

    Args:
        left: distance from the pass's own end, over the distance at the start: 0 where the end is the input's own
            whatever the start, 1 where the state stays where it is put, NaN where the start is that end.
        same_answer: whether the answer is that of the pass's own end: what ``answers`` makes of a readout, or else what
            all of its tokens decide. A state that is not finite has no answer.
    """

    left: Float[Tensor, "batch"]
    same_answer: Bool[Tensor, "batch"]


def after_swap(loop: Loop, seen: Pass, iterations: int, answers: Answers | None = None) -> Return:
    """Return where examples end that set out from the ends of their neighbours, of equal shape.

    The swap test without the condition that states have arrived.
    """
    return _ends(loop, seen, of_others(seen.last, 1), iterations, answers)


def after_random_start(
    loop: Loop, seen: Pass, iterations: int, seed: int = 0, answers: Answers | None = None
) -> Return:
    """Return where examples end that set out from random states whose tokens have the norms of their own ends'."""
    return _ends(loop, seen, random_like(seen.last, torch.Generator().manual_seed(seed)), iterations, answers)


def _ends(loop: Loop, seen: Pass, start: Tree, iterations: int, answers: Answers | None) -> Return:
    mask = mask_of(loop, seen.recalled)
    with torch.no_grad():
        end = iterate(loop, start, seen.recalled, iterations)
        logits = [loop.read(state) for state in (seen.last, end)]
        own, other = (decisions(each, mask) if answers is None else answers(each) for each in logits)
    finite = flatten(end, mask).isfinite().all(1) & flatten(seen.last, mask).isfinite().all(1)
    left = distance(end, seen.last, mask) / distance(start, seen.last, mask)
    return Return(left, (own == other).all(1) & finite)
