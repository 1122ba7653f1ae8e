"""The swap test: whether the fixed point follows the recalled input or the start."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, mask_of
from loopscope.stability.distances import distance, has_partner, partners
from loopscope.stability.orbits.arrival import Ends, FixedPoints, follow
from loopscope.stability.orbits.rounding import Floor
from loopscope.trees import Tree, batch_size, select

NEAR = 0.1
"""The end of an orbit belongs to one of two fixed points if it is within this fraction of their distance."""


class SwapOutcome(StrEnum):
    """Where an orbit of x ended after its recalled input or its start was replaced by that of another input x'."""

    MOVED = "moved"
    STAYED = "stayed"
    ELSEWHERE = "elsewhere"
    SHARED = "shared"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Swap:
    """The outcomes of one kind of swap, one pair (x, x') per example x.

    Attributes:
        outcomes: "moved" if the orbit ended at z*(x'), "stayed" if at z*(x), "elsewhere" if at neither, "shared" if the two are
            the same point, and "unknown" if an orbit did not arrive accurately enough or x has no partner.
        to_own: distance from the end to z*(x), relative to the distance D of the two fixed points; NaN if D is 0.
        to_other: distance from the end to z*(x'), relative to D.
        arrived: whether the swapped orbit arrived.
    """

    outcomes: tuple[SwapOutcome, ...]
    to_own: Float[Tensor, "batch"]
    to_other: Float[Tensor, "batch"]
    arrived: Bool[Tensor, "batch"]

    def fraction(self, outcome: SwapOutcome) -> float | None:
        """Return the fraction of the known pairs with this outcome, or None if no outcome is known.

        For ``UNKNOWN``, it is the fraction of all pairs.
        """
        counts = Counter(self.outcomes)
        if outcome is SwapOutcome.UNKNOWN:
            return counts[outcome] / len(self.outcomes)
        known = len(self.outcomes) - counts[SwapOutcome.UNKNOWN]
        return counts[outcome] / known if known else None

    @property
    def fraction_moved(self) -> float | None:
        """The fraction of the known pairs that moved, or None unless half of the pairs are known."""
        return self._fraction_of(SwapOutcome.MOVED)

    @property
    def fraction_shared(self) -> float | None:
        """The fraction of the known pairs whose two inputs share a fixed point, or None unless half of the pairs are known.

        Pairs whose states stay apart are subtracted, because the start alone has led them to different points. If each input
        has two such points, half of all pairs share one by chance. The result is at least zero.
        """
        shared, stayed = self._fraction_of(SwapOutcome.SHARED), self._fraction_of(SwapOutcome.STAYED)
        return None if shared is None or stayed is None else max(0.0, shared - stayed)

    def _fraction_of(self, *outcomes: SwapOutcome) -> float | None:
        unknown = self.outcomes.count(SwapOutcome.UNKNOWN)
        if 2 * unknown > len(self.outcomes):
            return None
        return sum(map(self.outcomes.count, outcomes)) / (len(self.outcomes) - unknown)

    def take(self, rows: slice) -> Swap:
        """Return the swaps of some pairs."""
        return Swap(self.outcomes[rows], self.to_own[rows], self.to_other[rows], self.arrived[rows])


@dataclass(frozen=True)
class SwapTest:
    """Both swap tests. A recall network gives (moved, stayed); an autonomous one gives (stayed, moved).

    Attributes:
        recall: the orbit starts at z*(x), and x' is recalled instead of x.
        start: the orbit starts at z*(x'), and x is recalled.
        distance: D = ||z*(x) - z*(x')||.
        partner: index of the example x' for each x; that of x itself if it has no partner (see `partners`).
    """

    recall: Swap
    start: Swap
    distance: Float[Tensor, "batch"]
    partner: Int[Tensor, "batch"]

    def fraction_shared(self, common_cluster: Int[Tensor, "batch"]) -> float | None:
        """Return the fraction of the known pairs that share a fixed point from their own starts and from a common one.

        It is None unless half of the pairs are known. Inputs that share a point from their own starts but not from a common
        one have several points each, and the start chooses among them.

        Args:
            common_cluster: the fixed point that each example reaches from the common start, as in `Growth`.
        """
        other = common_cluster[self.partner]
        apart = (common_cluster != other) & (common_cluster >= 0) & (other >= 0)
        pairs = zip(self.recall.outcomes, apart.tolist(), strict=True)
        outcomes = tuple(
            SwapOutcome.ELSEWHERE if (one, far) == (SwapOutcome.SHARED, True) else one for one, far in pairs
        )
        return replace(self.recall, outcomes=outcomes).fraction_shared


def swap_test(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    *,
    iterations: int,
    shift: int = 1,
    tolerance: float = 1e-4,
    floor: Floor | None = None,
) -> SwapTest:
    """Run each input with another one recalled, and then from another input's fixed point.

    There are two runs of at most ``iterations`` steps. The start swap of a pair is the recall swap of the reversed pair.
    Over a batch whose partners are shifted, the two are therefore independent samples.

    Args:
        loop: any loop.
        recalled: its recalled input.
        fixed: the fixed points, such as `Ends` or a `Trajectory`.
        iterations: largest number of iterations per orbit.
        shift: distance of partners within the batch (see `partners`).
        tolerance: see `follow`.
        floor: see `follow`.

    Raises:
        LoopscopeError: there is a single input, or ``shift`` pairs examples with themselves.
    """
    batch = batch_size(recalled)
    if batch == 1:
        raise LoopscopeError("a single input has no other to be swapped with: give at least two inputs")
    if shift % batch == 0:
        raise LoopscopeError(
            f"a shift of {shift} in a batch of {batch} pairs each example with itself: give a shift that is not a "
            "multiple of the number of inputs"
        )
    mask = mask_of(loop, recalled)
    partner = partners(recalled, mask, shift)
    pairs = _Pairs(fixed, mask, partner)
    ends = [
        follow(
            loop,
            recall,
            start,
            iterations=iterations,
            tolerance=tolerance,
            until="arrival",
            toward=own,
            floor=floor,
        )
        for recall, start, own in (
            (select(recalled, partner), fixed.state, pairs.other),
            (recalled, pairs.other.state, fixed),
        )
    ]
    return SwapTest(pairs.swap(ends[0]), pairs.swap(ends[1]), pairs.distance, partner)


class _Pairs:
    """The two fixed points of each pair, to which the ends of orbits are compared."""

    def __init__(self, fixed: FixedPoints, mask: Tensor | None, partner: Int[Tensor, "batch"]) -> None:
        self.fixed, self.mask, self.other = fixed, mask, fixed.take(partner)
        self.distance = distance(fixed.state, self.other.state, mask)
        self.comparable = fixed.arrived & self.other.arrived & has_partner(partner)

    def swap(self, ends: Ends) -> Swap:
        own = distance(ends.state, self.fixed.state, self.mask)
        other = distance(ends.state, self.other.state, self.mask)
        near = NEAR * self.distance
        shared = self.comparable & (self.distance <= self.fixed.error + self.other.error)
        resolved = ends.error + torch.maximum(self.fixed.error, self.other.error) <= near
        known = self.comparable & ends.arrived & resolved
        outcomes = []
        for row in range(len(own)):
            if shared[row]:
                outcomes.append(SwapOutcome.SHARED)
            elif not known[row]:
                outcomes.append(SwapOutcome.UNKNOWN)
            elif other[row] <= near[row]:
                outcomes.append(SwapOutcome.MOVED)
            else:
                outcomes.append(SwapOutcome.STAYED if own[row] <= near[row] else SwapOutcome.ELSEWHERE)
        apart = torch.where(self.distance > 0, self.distance, torch.nan)
        return Swap(tuple(outcomes), own / apart, other / apart, ends.arrived)
