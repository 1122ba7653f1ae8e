"""The number of distinct fixed points among inputs, as their number grows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.loop import Loop, mask_of
from loopscope.stability.distances import SAME_IN_ERRORS
from loopscope.stability.orbits.arrival import FixedPoints, follow
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.starts import common
from loopscope.trees import Tree, flatten


def distinct(fixed: FixedPoints, mask: Tensor | None = None) -> tuple[Int[Tensor, "arrived"], Int[Tensor, "batch"]]:
    """Count the distinct fixed points among the first N arrived examples, for every N.

    This is greedy leader clustering in the order of the batch: an example joins the cluster with the nearest leader if that
    is within ten times the larger of the two state errors. Otherwise it leads a new cluster.

    Returns:
        The number of clusters after each arrived example, and the cluster of each example (-1 if it has not arrived).
    """
    flat = flatten(fixed.state, mask)
    centers = torch.empty_like(flat)
    leaders: list[int] = []
    cluster = torch.full((len(flat),), -1, dtype=torch.long, device=flat.device)
    counts = []
    for row in torch.nonzero(fixed.arrived).squeeze(1).tolist():
        if leaders:
            # With a matrix product, the distance of near points would be lost to cancellation.
            apart = torch.cdist(
                centers[: len(leaders)], flat[row : row + 1], compute_mode="donot_use_mm_for_euclid_dist"
            ).squeeze(1)
            limit = SAME_IN_ERRORS * torch.maximum(fixed.error[leaders], fixed.error[row])
            nearest = int((apart / limit.clamp_min(torch.finfo(limit.dtype).tiny)).argmin())
            if apart[nearest] <= limit[nearest]:
                cluster[row] = nearest
        if cluster[row] < 0:
            cluster[row] = len(leaders)
            centers[len(leaders)] = flat[row]
            leaders.append(row)
        counts.append(len(leaders))
    return torch.tensor(counts, dtype=torch.long), cluster


@dataclass(frozen=True)
class Growth:
    """The number of distinct fixed points among the first N arrived inputs, for every N.

    Only growth from a common start shows input-dependence. From their own starts, inputs of an autonomous network can also
    reach many fixed points.

    Attributes:
        own: the numbers from each input's own start.
        common: the numbers from one start for all inputs.
        own_cluster: cluster of each example from its own start, -1 if it has not arrived.
        common_cluster: cluster of each example from the common start.
    """

    own: Int[Tensor, "own_arrived"]
    common: Int[Tensor, "common_arrived"]
    own_cluster: Int[Tensor, "batch"]
    common_cluster: Int[Tensor, "batch"]


def distinct_fixed_points(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    start: Tree,
    *,
    iterations: int,
    tolerance: float = 1e-4,
    floor: Floor | None = None,
) -> Growth:
    """Count distinct fixed points from the inputs' own starts (given) and from a common start (one run).

    Args:
        loop: any loop.
        recalled: its recalled input.
        fixed: the fixed points reached from each input's own start.
        start: the inputs' own starts. The start of the first example is the common one.
        iterations: largest number of iterations per orbit.
        tolerance: see `follow`.
        floor: see `follow`.
    """
    mask = mask_of(loop, recalled)
    ends = follow(loop, recalled, common(start), iterations=iterations, tolerance=tolerance, toward=fixed, floor=floor)
    own, own_cluster = distinct(fixed, mask)
    shared, shared_cluster = distinct(ends, mask)
    return Growth(own, shared, own_cluster, shared_cluster)
