"""Whether a solver's answer is the fixed point that plain iteration reaches."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from loopscope.fixed_points.halting import run_solver
from loopscope.fixed_points.plain_iteration import PlainIteration
from loopscope.fixed_points.residual import smallest_scale
from loopscope.loop import Loop, mask_of
from loopscope.trees import Tree, flatten, join, scaled_norm, select

SAME_WITHIN = 10.0
"""States within this many tolerances of each other count as the same, since an arrived state may be that far off."""
MERGED = 0.1
"""Two orbits have come together when their distance has fallen to this fraction of its first value."""
AT_REST = 1e-3
"""Two orbits stay apart when both move by less than this fraction of their distance. If they belonged to a single fixed point,
||(I - J)^-1|| would exceed a thousand."""
SPEED_IN_EPS = 16
"""Speed, in machine epsilons of the state's size, that rounding alone gives to an exact fixed point."""
ESCAPED = 10.0
"""An answer that speeds up by this factor under plain iteration is leaving its fixed point."""


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
    """Decide per example whether plain iteration from ``start`` reaches the same fixed point as ``answer``.

    The plain orbit is followed until its residual is within the tolerance, too. If it is then within ten tolerances of the
    answer, they are the same. Otherwise both the plain orbit and the orbit that begins at the answer are followed further:

    - same (True): their distance falls to a tenth, and the answer does not speed up tenfold on the way;
    - different (False): both move by less than a thousandth of their distance, or the answer speeds up tenfold, which means
      that its fixed point repels;
    - undecided (None): the budget is spent first, the plain orbit diverges or cycles, or the answer has not arrived.

    This is evidence, not proof. Fixed points nearer than ten tolerances count as one, and so do points on a slope so
    gentle that ||(I - J)^-1|| exceeds 1000. The cost is that of plain iteration until it arrives, plus two evaluations for
    each iteration after that. An example leaves the batch when it is decided.

    Args:
        loop: the loop.
        recalled: its recalled input.
        start: states at which the solver began.
        answer: states at which it ended.
        arrived: which answers have arrived; the others are not compared.
        tolerance: tolerance of the solve.
        budget: largest number of evaluations per example.

    Returns:
        The decisions, and the number of evaluations over all examples.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(  # fixed points at -1 and 1, and at 0, which repels
        ...     encode=lambda x: x, start=torch.clone, step=lambda z, x: z + z * (1 - z * z) / 2, read=lambda z: z
        ... )
        >>> start, answers = torch.full((3, 1), 0.5), torch.tensor([[1.0], [0.0], [-1.0]])
        >>> compare_with_plain(loop, start, start, answers, torch.ones(3).bool(), tolerance=1e-4, budget=100)[0]
        (True, False, False)
    """
    decided: list[bool | None] = [None] * len(arrived)
    rows = arrived.nonzero().squeeze(1)
    if not len(rows):
        return tuple(decided), 0
    recalled, start, answer = (select(tree, rows) for tree in (recalled, start, answer))
    plain = run_solver(loop, recalled, start, solver=PlainIteration(), tolerance=tolerance, max_iterations=budget)
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
    """Decide from the plain orbits of two arrived states, the second of which is the answer. Also count evaluations."""
    decided: list[bool | None] = [None] * len(budget)
    mask = mask_of(loop, recalled)
    plain, answer = (flatten(state, mask) for state in pair)
    apart_at_first = scaled_norm(plain - answer)
    size = torch.maximum(scaled_norm(answer), smallest_scale(start, mask))
    # Rounding moves even an exact fixed point.
    speed = SPEED_IN_EPS * torch.finfo(plain.dtype).eps * size
    same, other = apart_at_first <= SAME_WITHIN * tolerance * size, torch.zeros_like(budget, dtype=torch.bool)
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
        moved, answer_moved = scaled_norm(now - before).chunk(2)
        distance = scaled_norm(now[: len(rows)] - now[len(rows) :])
        if step == 1:
            speed[rows] = torch.maximum(speed[rows], answer_moved)
        leaving = answer_moved > ESCAPED * speed[rows]
        other = leaving | (moved + answer_moved <= AT_REST * distance)
        same = ~other & (distance <= MERGED * apart_at_first[rows])
        state = after
