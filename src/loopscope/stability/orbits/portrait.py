"""The portrait of an orbit: its path in the plane of its two principal directions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, mask_of
from loopscope.schema import to_plain
from loopscope.stability.orbits.arrival import Step, follow
from loopscope.stability.orbits.plane import principal_plane
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.results import PortraitResult
from loopscope.stability.starts import random_like
from loopscope.trees import Tree, flatten, join, select, tree_map

LONGEST = 200
"""Largest number of iterations shown. What happens later is too small to see."""


def portrait(
    loop: Loop,
    recalled: Tree,
    start: Tree,
    row: int,
    *,
    iterations: int,
    tolerance: float,
    seed: int = 0,
    floor: Floor | None = None,
) -> PortraitResult:
    """Return one example's orbit, and a second one from a random start, in the plane that shows most of them.

    Args:
        loop: any loop.
        recalled: its recalled input.
        start: its first states.
        row: the example.
        iterations: largest number of iterations of an orbit.
        tolerance: relative residual within which a state may count as arrived.
        seed: seed of the random start.
        floor: see `follow`.

    Raises:
        LoopscopeError: the first state is not finite.
    """
    one = slice(row, row + 1)
    recall, first = select(recalled, one), select(start, one)
    length = min(iterations, LONGEST)
    other_first = random_like(first, torch.Generator().manual_seed(seed))
    (path, other), arrived = _orbits(loop, recall, [first, other_first], length, tolerance, floor)
    if not len(path):
        raise LoopscopeError(f"the first state of example {row} is not finite: look at encode and start")
    both = torch.cat([path, other])
    plane = principal_plane(both, path[-1])
    points = plane.project(both)
    return PortraitResult(
        row=row,
        path=to_plain(points[: len(path)]),
        foreign=to_plain(points[len(path) :]),
        explained=to_plain(plane.explained),
        fixed_point=to_plain(points[len(path) - 1]) if arrived else None,
    )


def _orbits(
    loop: Loop, recalled: Tree, starts: list[Tree], iterations: int, tolerance: float, floor: Floor | None
) -> tuple[list[Float[Tensor, "time n"]], bool]:
    """Return the finite states of an example's orbit from each start, and whether the first orbit arrived."""
    recalled, start = join([recalled] * len(starts)), tree_map(torch.clone, join(starts))
    states = [[state] for state in flatten(start, mask_of(loop, recalled))]

    def keep(step: Step) -> None:
        for row, state in zip(step.rows.tolist(), flatten(step.after, step.mask), strict=True):
            states[row].append(state)

    ends = follow(loop, recalled, start, iterations=iterations, tolerance=tolerance, observe=keep, floor=floor)
    paths = [torch.stack(path) for path in states]
    return [path[path.isfinite().all(1)] for path in paths], bool(ends.arrived[0])
