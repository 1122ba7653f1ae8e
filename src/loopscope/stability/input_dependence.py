"""Axis 2, input-dependence: is it this problem's own fixed point?

Without recall a network has countably many fixed points, the same ones for every input; the input can only choose among
them through the start (paper, first theorem). With recall the fixed point itself can move. Swaps, counts and variances
tell the two apart; `sensitivity` has the derivative.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, Tree, batch_size, flatten, mask_of, select
from loopscope.stability.arrival import SLACK, Ends, FixedPoints, follow
from loopscope.stability.distances import distance, has_partner, partners
from loopscope.stability.starts import common, random_like

NEAR = 0.1
"""An end belongs to a fixed point if it is within this fraction of the distance between the two in question."""
MIN_STARTS = 4
"""Starts per input below which the variance within an input is not estimated."""


class Outcome(StrEnum):
    """Where an orbit ended after something of another input, x', was put in place of x's own."""

    MOVED = "moved"
    STAYED = "stayed"
    ELSEWHERE = "elsewhere"
    SHARED = "shared"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Swap:
    """The outcomes of one kind of swap, one pair (x, x') per example x.

    Attributes:
        outcomes: moved: ended at z*(x'); stayed: at z*(x); elsewhere; shared: the two are one; unknown: something had
            not arrived, or too coarsely, or the two inputs differ in shape.
        to_own: distance of the end to z*(x), over the distance D of the two fixed points; NaN where D is 0.
        to_other: distance of the end to z*(x'), likewise.
        arrived: whether the swapped orbit arrived.
    """

    outcomes: tuple[Outcome, ...]
    to_own: Float[Tensor, "batch"]
    to_other: Float[Tensor, "batch"]
    arrived: Bool[Tensor, "batch"]

    def fraction(self, outcome: Outcome) -> float | None:
        """Return the fraction of pairs with this outcome among those known (among all pairs for unknown).

        None where no outcome is known.
        """
        counts = Counter(self.outcomes)
        if outcome is Outcome.UNKNOWN:
            return counts[outcome] / len(self.outcomes)
        known = len(self.outcomes) - counts[Outcome.UNKNOWN]
        return counts[outcome] / known if known else None

    @property
    def fraction_moved(self) -> float | None:
        """The fraction of the known pairs that moved; None unless half of the pairs are known."""
        return self._fraction_of(Outcome.MOVED)

    @property
    def fraction_shared(self) -> float | None:
        """The fraction of the known pairs whose point serves both inputs: one point to begin with, or the state stayed.

        None unless half of the pairs are known.
        """
        return self._fraction_of(Outcome.SHARED, Outcome.STAYED)

    def _fraction_of(self, *outcomes: Outcome) -> float | None:
        unknown = self.outcomes.count(Outcome.UNKNOWN)
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
        recall: the state z*(x) is held and x' recalled instead.
        start: x stays recalled and the orbit starts from z*(x').
        distance: D = ||z*(x) - z*(x')||.
        partner: x' is the input of this example, x itself where no other one has the same real tokens.
    """

    recall: Swap
    start: Swap
    distance: Float[Tensor, "batch"]
    partner: Int[Tensor, "batch"]

    def fraction_shared(self, common_cluster: Int[Tensor, "batch"]) -> float | None:
        """Return the fraction of the known pairs whose point serves both inputs, None unless half of the pairs are known.

        A state that stays with another input recalled is no shared point where one start leads the two inputs to points
        of their own: what is recalled chooses there, and the input whose state stayed has two points at least.

        Args:
            common_cluster: of each example, the fixed point that it goes to from the common start, as in `Growth`.
        """
        own = (
            (common_cluster != common_cluster[self.partner])
            & (common_cluster >= 0)
            & (common_cluster[self.partner] >= 0)
        )
        pairs = zip(self.recall.outcomes, own.tolist(), strict=True)
        outcomes = tuple(Outcome.ELSEWHERE if (one, apart) == (Outcome.STAYED, True) else one for one, apart in pairs)
        return replace(self.recall, outcomes=outcomes).fraction_shared


def swap_test(
    loop: Loop,
    recalled: Tree,
    fixed: FixedPoints,
    *,
    iterations: int,
    shift: int = 1,
    tolerance: float = 1e-4,
) -> SwapTest:
    """Put another input in the place of the recalled one, then another input's fixed point in place of the start.

    Two runs of at most ``iterations`` steps. (The start swap of a pair is the recall swap of the reversed pair, so that
    over a rolled batch the two are independent samples.)

    Args:
        loop: any loop.
        recalled: its recalled input.
        fixed: the fixed points (`Ends` and `Trajectory` are such).
        iterations: the budget per orbit.
        shift: the partner of an example is the one ``shift`` places on, in a circle, of those with the same real tokens.
        tolerance: see `follow`.

    Raises:
        LoopscopeError: ``shift`` pairs examples with themselves.
    """
    batch = batch_size(recalled)
    if shift % batch == 0:
        raise LoopscopeError(
            f"a shift of {shift} in a batch of {batch} pairs each example with itself; give at least two inputs and a "
            "shift that is no multiple of their number"
        )
    mask = mask_of(loop, recalled)
    partner = partners(mask, shift, batch).to(fixed.arrived.device)
    pairs = _Pairs(fixed, mask, partner)
    ends = [
        follow(loop, recall, start, iterations=iterations, tolerance=tolerance, until="arrival", toward=own)
        for recall, start, own in (
            (select(recalled, partner), fixed.state, pairs.other),
            (recalled, pairs.other.state, fixed),
        )
    ]
    return SwapTest(pairs.judge(ends[0]), pairs.judge(ends[1]), pairs.distance, partner)


class _Pairs:
    """The two fixed points of each pair, and what an end is to them."""

    def __init__(self, fixed: FixedPoints, mask: Tensor | None, partner: Int[Tensor, "batch"]) -> None:
        self.fixed, self.mask, self.other = fixed, mask, fixed.take(partner)
        self.distance = distance(fixed.state, self.other.state, mask)
        self.comparable = fixed.arrived & self.other.arrived & has_partner(partner)

    def judge(self, ends: Ends) -> Swap:
        own = distance(ends.state, self.fixed.state, self.mask)
        other = distance(ends.state, self.other.state, self.mask)
        near = NEAR * self.distance
        shared = self.comparable & (self.distance <= self.fixed.error + self.other.error)
        resolved = ends.error + torch.maximum(self.fixed.error, self.other.error) <= near
        known = self.comparable & ends.arrived & resolved
        outcomes = []
        for row in range(len(own)):
            if shared[row]:
                outcomes.append(Outcome.SHARED)
            elif not known[row]:
                outcomes.append(Outcome.UNKNOWN)
            elif other[row] <= near[row]:
                outcomes.append(Outcome.MOVED)
            else:
                outcomes.append(Outcome.STAYED if own[row] <= near[row] else Outcome.ELSEWHERE)
        apart = torch.where(self.distance > 0, self.distance, torch.nan)
        return Swap(tuple(outcomes), own / apart, other / apart, ends.arrived)


def distinct(fixed: FixedPoints, mask: Tensor | None = None) -> tuple[Int[Tensor, "arrived"], Int[Tensor, "batch"]]:
    """Count the distinct fixed points among the first N arrived examples, for every N.

    Greedy leader clustering in the order of the batch: an example that is within ten times the larger of the two state
    errors of the leader of a cluster joins it (the nearest one), else it leads a new cluster.

    Returns:
        The number of clusters after each arrived example, and the cluster of each example (-1 where it has not
        arrived).
    """
    flat = flatten(fixed.state, mask)
    centers = torch.empty_like(flat)
    leaders: list[int] = []
    cluster = torch.full((len(flat),), -1, dtype=torch.long, device=flat.device)
    counts = []
    for row in torch.nonzero(fixed.arrived).squeeze(1).tolist():
        if leaders:
            # Through a matrix product the distance of near points would be lost to cancellation.
            apart = torch.cdist(
                centers[: len(leaders)], flat[row : row + 1], compute_mode="donot_use_mm_for_euclid_dist"
            ).squeeze(1)
            limit = SLACK * torch.maximum(fixed.error[leaders], fixed.error[row])
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
    """How many distinct fixed points there are among N inputs, as N grows over those that arrived.

    Only growth under a common start is input-dependence: under own starts an autonomous network can also go to many.

    Attributes:
        own: with each input's own start.
        common: with one start for all inputs.
        own_cluster: the cluster of each example, -1 where it has not arrived.
        common_cluster: likewise.
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
) -> Growth:
    """Count distinct fixed points under own starts (given) and under a common start (one run).

    Args:
        loop: any loop.
        recalled: its recalled input.
        fixed: the fixed points reached from each input's own start.
        start: those starts; the first example's is the common one.
        iterations: the budget per orbit.
        tolerance: see `follow`.
    """
    mask = mask_of(loop, recalled)
    ends = follow(loop, recalled, common(start), iterations=iterations, tolerance=tolerance, toward=fixed)
    own, own_cluster = distinct(fixed, mask)
    shared, shared_cluster = distinct(ends, mask)
    return Growth(own, shared, own_cluster, shared_cluster)


@dataclass(frozen=True)
class VarianceShare:
    """Variance of fixed points between inputs over the total. NaN where fewer than two inputs count.

    Attributes:
        share: B / (B + W); 0 where both are below the error of the states, for there all inputs share one point.
        error: standard error of the share, by the jackknife over inputs; NaN below three inputs.
        between: B, the variance of the inputs' mean states, less W / starts; not below 0.
        within: W, the variance over the starts of an input, averaged over inputs.
        inputs: inputs that count: those with at least four arrived starts.
        arrived: fraction of all orbits that arrived.
    """

    share: float
    error: float
    between: float
    within: float
    inputs: int
    arrived: float


def variance_share(
    loop: Loop,
    recalled: Tree,
    like: Tree,
    *,
    iterations: int,
    starts: int = MIN_STARTS,
    tolerance: float = 1e-4,
    seed: int = 0,
    known: FixedPoints | None = None,
) -> VarianceShare:
    """Compare how fixed points vary between inputs and, from random starts, within an input.

    Args:
        loop: any loop.
        recalled: its recalled input.
        like: states (first ones, or fixed points) whose tokens give the norms of the random starts' tokens.
        iterations: the budget per orbit; one run per start.
        starts: random starts per input, drawn for each input anew.
        tolerance: see `follow`.
        seed: for the starts.
        known: the inputs' fixed points, where orbits that are on their way there may end.

    Raises:
        LoopscopeError: fewer than four starts.
    """
    if starts < MIN_STARTS:
        raise LoopscopeError(f"expected at least {MIN_STARTS} starts per input, got {starts}")
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(loop, recalled)
    ends = [
        follow(loop, recalled, random_like(like, generator), iterations=iterations, tolerance=tolerance, toward=known)
        for _ in range(starts)
    ]
    points = torch.stack([flatten(end.state, mask) for end in ends])
    arrived = torch.stack([end.arrived for end in ends])
    error = torch.stack([end.error for end in ends])
    return share_of_variance(points, arrived, error)


def share_of_variance(
    points: Float[Tensor, "starts batch n"],
    arrived: Bool[Tensor, "starts batch"],
    error: Float[Tensor, "starts batch"],
) -> VarianceShare:
    """Return the share of the variance between inputs, from arrived points alone (see `VarianceShare`)."""
    used = arrived.sum(0) >= MIN_STARTS
    reached = float(arrived.double().mean())
    inputs = int(used.sum())
    if inputs < 2:
        return VarianceShare(torch.nan, torch.nan, torch.nan, torch.nan, inputs, reached)
    counted = arrived[:, used]
    count = counted.sum(0)
    # Chosen, not weighted: what has not arrived may be infinite.
    means = torch.where(counted[:, :, None], points[:, used], 0).sum(0) / count[:, None]
    squares = (points[:, used] - means).square().sum(2)
    within = torch.where(counted, squares, 0).sum(0).double() / (count - 1)
    offsets = (means - means.mean(0)).square().sum(1).double()
    noise = error[:, used][counted].double().square().mean()

    def share(total: Tensor, number: int, inner: Tensor, correction: Tensor) -> tuple[Tensor, Tensor]:
        between = (total / (number - 1) - correction).clamp_min(0)
        whole = between + inner
        return torch.where(whole > noise, between / whole, 0.0), between

    value, between = share(offsets.sum(), inputs, within.mean(), (within / count).mean())
    spread = torch.tensor(torch.nan)
    if inputs > 2:
        left = inputs - 1
        totals = offsets.sum() - inputs / left * offsets
        inner, correction = ((part.sum() - part) / left for part in (within, within / count))
        parts, _ = share(totals, left, inner, correction)
        spread = ((parts - parts.mean()).square().sum() * left / inputs).sqrt()
    return VarianceShare(float(value), float(spread), float(between), float(within.mean()), inputs, reached)
