"""A sample of the basin of attraction of a fixed point: which other starts lead back to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.errors import check_positive
from loopscope.loop import Loop, mask_of
from loopscope.stability.distances import SAME_IN_ERRORS, distance, has_partner, partners
from loopscope.stability.orbits.arrival import FixedPoints, follow
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.starts import moved, random_direction, random_like
from loopscope.trees import Tree, batch_size, norms, select


@dataclass(frozen=True)
class Basin:
    """Which starts led back to the fixed point.

    Entries are 1 if the orbit arrived at the same fixed point and 0 if it arrived at another one or diverged. They are NaN if
    this is unknown, because the orbit did not arrive accurately enough within the budget, the fixed point itself had not
    arrived, or the input has no partner.

    Attributes:
        radii: distance of the perturbed starts from the fixed point, relative to its norm.
        perturbed: starts at the fixed point plus a random vector of that radius.
        random: random starts whose tokens have the norms of those of the fixed point.
        foreign: starts at the fixed points of other inputs.
    """

    radii: tuple[float, ...]
    perturbed: Float[Tensor, "radii batch"]
    random: Float[Tensor, "draws batch"]
    foreign: Float[Tensor, "others batch"]


def fraction(returned: Float[Tensor, "starts batch"]) -> tuple[Float[Tensor, "starts"], Float[Tensor, "starts"]]:
    """Return for each start the fraction of known orbits that came back (NaN if there are none) and the fraction known."""
    return returned.nanmean(1), (~returned.isnan()).to(returned.dtype).mean(1)


def basin(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    *,
    iterations: int,
    radii: tuple[float, ...] = (0.01, 0.1, 1.0),
    random: int = 1,
    foreign: int = 1,
    tolerance: float = 1e-4,
    seed: int = 0,
    floor: Floor | None = None,
) -> Basin:
    """Start elsewhere and find out which orbits come back to the fixed points.

    There is one run of at most ``iterations`` steps per start, of the examples whose fixed point has arrived.

    Args:
        loop: any loop.
        recalled: its recalled input.
        fixed: the fixed points, such as `Ends` or a `Trajectory`.
        iterations: largest number of iterations per orbit.
        radii: relative radii of the perturbations.
        random: number of random starts per example.
        foreign: number of starts per example at other inputs' fixed points, less than the size of the batch.
        tolerance: see `follow`.
        seed: seed of perturbations and random states.
        floor: see `follow`.

    Raises:
        LoopscopeError: a radius is not positive.
    """
    for radius in radii:
        check_positive(radii=radius)
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(loop, recalled)
    size = norms(fixed.state, mask)
    batch = batch_size(fixed.state)

    def back(start: Tree) -> tuple[Tensor, Tensor]:
        return came_back(loop, recalled, fixed, start, iterations=iterations, tolerance=tolerance, floor=floor)

    perturbed = []
    for radius in radii:
        away = radius * size[:, None] * random_direction(fixed.state, generator, mask)
        returned, limit = back(moved(fixed.state, away))
        # The return of a start that is indistinguishable from the fixed point proves nothing.
        perturbed.append(returned.masked_fill(limit >= radius * size, torch.nan))
    drawn = [back(random_like(fixed.state, generator))[0] for _ in range(random)]
    others = []
    for shift in range(1, min(foreign, batch - 1) + 1):
        partner = partners(recalled, mask, shift)
        valid = fixed.arrived[partner] & has_partner(partner)
        others.append(back(select(fixed.state, partner))[0].masked_fill(~valid, torch.nan))
    none = size.new_zeros(0, batch)
    return Basin(
        radii,
        torch.stack(perturbed) if perturbed else none,
        torch.stack(drawn) if drawn else none,
        torch.stack(others) if others else none,
    )


def came_back(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    start: Tree,
    *,
    iterations: int,
    tolerance: float,
    floor: Floor | None = None,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return whether orbits come back to the fixed points, and the distance within which two ends count as one.

    The first is 1 if the orbit from ``start`` arrives at the fixed point, 0 if it arrives elsewhere or diverges, and NaN if
    this is unknown. The second is ten times the sum of the errors of both ends, or of the error of the fixed point alone if
    the orbit ended on its way to it.
    """
    returned = torch.full_like(fixed.error, torch.nan)
    limit = torch.full_like(fixed.error, torch.inf)
    rows = torch.nonzero(fixed.arrived).squeeze(1)
    if len(rows) == 0:
        return returned, limit
    recalled, points = select(recalled, rows), fixed.take(rows)
    ends = follow(
        loop,
        recalled,
        select(start, rows),
        iterations=iterations,
        tolerance=tolerance,
        until="arrival",
        toward=points,
        floor=floor,
    )
    limit[rows] = SAME_IN_ERRORS * (ends.error.masked_fill(ends.approached, 0) + points.error)
    same = ends.arrived & (distance(ends.state, points.state, mask_of(loop, recalled)) <= limit[rows])
    returned[rows] = torch.where(ends.diverged | ends.arrived, same.to(limit.dtype), torch.nan)
    return returned, limit
