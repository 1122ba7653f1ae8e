"""Whether a solver's answer is the fixed point that plain iteration reaches."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from loopscope.fixed_points.reaching import reach
from loopscope.fixed_points.residual import smallest_scale
from loopscope.fixed_points.solvers import PlainIteration
from loopscope.loop import Loop, mask_of
from loopscope.trees import Tree, flatten, join, select

CLOSE = 10.0
"""States within so many tolerances of each other cannot be told apart: what an arrival may be off (framework)."""
TOGETHER = 0.1
"""Two orbits have come together when their distance is so much of what it was (as in the framework's swap test)."""
APART = 1e-3
"""Two orbits stay apart when both move by less than this part of their distance: for one fixed point that would take
||(I - J)^-1|| above a thousand."""
ROUNDING = 16
"""So many machine epsilons, relative to the state, are rounding."""
LEFT = 10.0
"""An answer that under plain iteration moves so many times faster than at first is leaving where it was."""


@torch.no_grad()
def compare_with_plain(
    loop: Loop,
    recalled: Tree,
    start: Tree,
    answer: Tree,
    arrived: Bool[Tensor, "batch"],
    *,
    tolerance: float,
    budget: int,
) -> tuple[tuple[bool | None, ...], int]:
    """Decide per example whether plain iteration from ``start`` reaches the fixed point that ``answer`` stands for.

    First the plain orbit is followed until its residual, too, is within the tolerance. Where it then stands within ten
    tolerances of the answer, they are the same. Else both are followed on, the plain orbit and the one that begins at
    the answer:

    - same (True): their distance falls to a tenth, and the answer did not speed up tenfold on the way;
    - another (False): both move by less than a thousandth of their distance, or the answer speeds up tenfold, so that
      the loop does not hold it (a repelling fixed point);
    - undecided (None): the budget ended first, the plain orbit diverged or cycles, or the answer had not arrived.

    This is evidence, not proof: fixed points nearer than ten tolerances count as one, and so do points on a slope so
    gentle that ||(I - J)^-1|| > 1000 would be needed to tell. The cost is what plain iteration takes to arrive, plus
    two evaluations for each iteration after that; an example that is decided leaves the batch.

    Args:
        loop: the loop.
        recalled: its recalled input.
        start: where the solver began.
        answer: where it ended.
        arrived: which answers have arrived; the rest is not looked at.
        tolerance: of the solve.
        budget: evaluations that an example may take.

    Returns:
        the decisions, and the evaluations spent over all examples.
    """
    decided: list[bool | None] = [None] * len(arrived)
    rows = arrived.nonzero().squeeze(1)
    if not len(rows):
        return tuple(decided), 0
    recalled, start, answer = (select(tree, rows) for tree in (recalled, start, answer))
    plain = reach(loop, recalled, start, solver=PlainIteration(), tolerance=tolerance, max_iterations=budget)
    settled = (plain.residual <= tolerance).nonzero().squeeze(1)
    if not len(settled):
        return tuple(decided), plain.steps_computed
    recalled, start, first, second = (select(tree, settled) for tree in (recalled, start, plain.state, answer))
    same, spent = _follow(loop, recalled, start, (first, second), tolerance, budget - plain.iterations[settled])
    for row, decision in zip(rows[settled].tolist(), same, strict=True):
        decided[row] = decision
    return tuple(decided), plain.steps_computed + spent


def _follow(
    loop: Loop, recalled: Tree, start: Tree, pair: tuple[Tree, Tree], tolerance: float, budget: Int[Tensor, "batch"]
) -> tuple[list[bool | None], int]:
    """Decide from the plain orbits of two arrived states, the second being the answer; also return evaluations."""
    decided: list[bool | None] = [None] * len(budget)
    mask = mask_of(loop, recalled)
    plain, answer = (flatten(state, mask) for state in pair)
    apart_at_first = torch.linalg.vector_norm(plain - answer, dim=1)
    size = torch.maximum(torch.linalg.vector_norm(answer, dim=1), smallest_scale(start, mask))
    # Rounding moves even an exact fixed point.
    speed = ROUNDING * torch.finfo(plain.dtype).eps * size
    same, other = apart_at_first <= CLOSE * tolerance * size, torch.zeros_like(budget, dtype=torch.bool)
    rows = torch.arange(len(budget), device=size.device)
    state, recalled = join(list(pair)), join([recalled, recalled])
    spent = step = 0

    while True:
        for row, decision in zip(rows[same | other].tolist(), same[same | other].tolist(), strict=True):
            decided[row] = decision
        going = ~(same | other) & (budget[rows] >= 2 * (step + 1))
        if not bool(going.any()):
            return decided, spent
        both = torch.cat([going, going])
        state, recalled, rows = select(state, both), select(recalled, both), rows[going]
        after = loop.step(state, recalled)
        spent, step = spent + 2 * len(rows), step + 1
        mask = mask_of(loop, recalled)
        before, now = flatten(state, mask), flatten(after, mask)
        moved, answer_moved = torch.linalg.vector_norm(now - before, dim=1).chunk(2)
        distance = torch.linalg.vector_norm(now[: len(rows)] - now[len(rows) :], dim=1)
        if step == 1:
            speed[rows] = torch.maximum(speed[rows], answer_moved)
        leaving = answer_moved > LEFT * speed[rows]
        other = leaving | (moved + answer_moved <= APART * distance)
        same = ~other & (distance <= TOGETHER * apart_at_first[rows])
        state = after
