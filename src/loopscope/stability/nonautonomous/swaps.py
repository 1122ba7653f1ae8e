"""Swaps at an iteration: does an orbit follow what is recalled, or the state that it is at?

A loop without a single map has no fixed points to go to. Orbits are compared with each other at the same iteration, under the
same random numbers: the orbit of x, that of x', and the one that is at x's state and recalls x' from an iteration on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.checks import check_is_loop, check_not_empty, prepare
from loopscope.contexts import eval_mode, random_state_kept, without_autocast
from loopscope.errors import LoopscopeError
from loopscope.kinds import timed
from loopscope.loop import Loop, iterate, mask_of
from loopscope.stability.dependence.swap_test import NEAR, SwapOutcome
from loopscope.stability.distances import distance, has_partner, partners
from loopscope.stability.results import SwapResult
from loopscope.trees import Tree, batch_size, device_of, norms, select

SHARED = 1e-3
"""Two orbits this close, relative to their norms, are one."""
APART = 1e-4
"""The fall of a distance is measured until it is this fraction of the first one, where rounding is still small."""
ON_ITS_WAY = 0.9
"""An orbit that is still on its way to another has come this much closer over the second half of the iterations."""


@dataclass(frozen=True)
class SwapAt:
    """The outcomes of swaps at an iteration, one pair per example.

    Attributes:
        iteration: when the swap was done.
        until: when orbits were compared.
        recall: where the orbit goes whose state is x's and that recalls x' from then on. Moved: to the orbit of x'.
        start: where the orbit goes whose state is that of x' and that recalls x. Stayed: back to the orbit of x.
        contraction: factor per iteration by which the latter approaches the orbit of x.
        partner: which example x' is; the example itself where it has none.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> ls.swap_at(loop, torch.eye(3), iteration=5, until=40).contraction.round(decimals=2)
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """

    iteration: int
    until: int
    recall: tuple[SwapOutcome, ...]
    start: tuple[SwapOutcome, ...]
    contraction: Float[Tensor, "batch"]
    partner: Int[Tensor, "batch"]

    def result(self) -> SwapResult:
        """Return the counts of outcomes, and the fractions that moved and that are shared."""
        known = [one for one in self.recall if one is not SwapOutcome.UNKNOWN]
        enough = bool(known) and 2 * len(known) >= len(self.recall)
        return SwapResult(
            recall=_counts(self.recall),
            start=_counts(self.start),
            moved=known.count(SwapOutcome.MOVED) / len(known) if enough else None,
            shared=known.count(SwapOutcome.SHARED) / len(known) if enough else None,
        )


def _counts(outcomes: tuple[SwapOutcome, ...]) -> dict[str, int]:
    counts = Counter(outcomes)
    return {outcome.value: counts[outcome] for outcome in SwapOutcome}


def swap_at(loop: Loop, inputs: Tree, *, iteration: int, until: int, seed: int = 0) -> SwapAt:
    """Swap inputs at an iteration of a loop of any kind, and compare the orbits later.

    Args:
        loop: any loop; its step may take ``iteration``, ``generator`` or both.
        inputs: what ``loop.encode`` takes, batch first; at least two that differ.
        iteration: when to swap, at least 1.
        until: when to compare, later than that.
        seed: of a random start and of the random numbers that the step draws.

    Raises:
        LoopscopeError: there is no iteration between the swap and the comparison, or the loop is not one.

    Example:
        A loop that halves its state and adds the input follows what it recalls from then on:

        >>> import torch, loopscope as ls
        >>> def step(z, e, iteration):
        ...     return z / 2 + e * (1 + 1 / (1 + iteration))
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
        >>> found = ls.swap_at(loop, torch.eye(3), iteration=5, until=40)
        >>> [outcome.value for outcome in found.recall], found.result().moved
        (['moved', 'moved', 'moved'], 1.0)
    """
    check_is_loop(loop)
    check_not_empty(inputs)
    with eval_mode(loop), without_autocast(), random_state_kept(device_of(inputs)), torch.no_grad():
        view = timed(loop, seed)
        ready = prepare(view, inputs, seed=seed)
        return swap_along(view, ready.recalled, ready.start, iteration=iteration, until=until)


def swap_along(loop: Loop, recalled: Tree, start: Tree, *, iteration: int, until: int, shift: int = 1) -> SwapAt:
    """Swap inputs at an iteration of the orbits from ``start``. Costs at most 4 ``until`` evaluations of the step.

    Args:
        loop: a loop whose clock, if it has one, is in its state (see `loopscope.kinds.timed`).
        recalled: its recalled input.
        start: the first states.
        iteration: when to swap, at least 1.
        until: when to compare, later than that.
        shift: which other input takes an input's place: so many places further, among those with the same padding.

    Raises:
        LoopscopeError: there is no iteration between the swap and the comparison.
    """
    if not 1 <= iteration < until:
        raise LoopscopeError(f"the swap is at iteration {iteration} of {until}, expected one between 1 and {until - 1}")
    mask = mask_of(loop, recalled)
    partner = partners(recalled, mask, shift)
    halves = (until - iteration) // 2, until - iteration - (until - iteration) // 2
    with torch.no_grad():
        # The orbit of x' is followed at the place of x, since the noise belongs to the place.
        theirs = select(recalled, partner)
        own, other = iterate(loop, start, recalled, iteration), iterate(loop, select(start, partner), theirs, iteration)
        runs = [_Run(own, recalled), _Run(other, theirs), _Run(own, theirs), _Run(other, recalled)]
        apart = [distance(own, other, mask)]
        for _ in range(halves[0]):
            runs = [run.stepped(loop) for run in runs]
            apart.append(distance(runs[3].state, runs[0].state, mask))
        before = _Pair(runs, mask, has_partner(partner))
        for _ in range(halves[1]):
            runs = [run.stepped(loop) for run in runs]
            apart.append(distance(runs[3].state, runs[0].state, mask))
    pair = _Pair(runs, mask, has_partner(partner))
    recall, back = (
        pair.judge(run.state, before.nearest(old)) for run, old in zip(runs[2:], before.swapped, strict=True)
    )
    return SwapAt(iteration, until, recall, back, _contraction(torch.stack(apart)), partner)


@dataclass(frozen=True)
class _Run:
    """An orbit that recalls something of its own."""

    state: Tree
    recalled: Tree

    def stepped(self, loop: Loop) -> _Run:
        return _Run(loop.step(self.state, self.recalled), self.recalled)


def _contraction(apart: Float[Tensor, "iterations batch"]) -> Float[Tensor, "batch"]:
    """Return the factor per iteration by which a distance falls, until it is too small to be told from rounding."""
    ratio = apart.double() / apart[0].double()
    small = ratio <= APART
    end = torch.where(small.any(0), small.int().argmax(0), len(apart) - 1)
    return ratio.gather(0, end[None]).squeeze(0) ** (1 / end)


class _Pair:
    """The orbits of x and of x' at one iteration, with which others are compared."""

    def __init__(self, runs: list[_Run], mask: Tensor | None, paired: Tensor) -> None:
        self.own, self.other, *self.swapped = (run.state for run in runs)
        self.mask, self.paired = mask, paired
        self.apart = distance(self.own, self.other, mask)
        self.size = torch.maximum(norms(self.own, mask), norms(self.other, mask))

    def nearest(self, state: Tree) -> Float[Tensor, "batch"]:
        """Return the distance to the nearer of the two orbits, relative to their distance."""
        return torch.minimum(distance(state, self.own, self.mask), distance(state, self.other, self.mask)) / self.apart

    def judge(self, state: Tree, nearest_before: Float[Tensor, "batch"]) -> tuple[SwapOutcome, ...]:
        to_own, to_other = (distance(state, one, self.mask) / self.apart for one in (self.own, self.other))
        known = self.paired & torch.isfinite(self.apart) & torch.isfinite(to_own + to_other)
        shared = self.paired & (self.apart <= SHARED * self.size)
        coming = self.nearest(state) <= ON_ITS_WAY * nearest_before
        outcomes = []
        for row in range(batch_size(state)):
            if shared[row]:
                outcomes.append(SwapOutcome.SHARED)
            elif not known[row]:
                outcomes.append(SwapOutcome.UNKNOWN)
            elif to_other[row] <= NEAR:
                outcomes.append(SwapOutcome.MOVED)
            elif to_own[row] <= NEAR:
                outcomes.append(SwapOutcome.STAYED)
            else:
                outcomes.append(SwapOutcome.UNKNOWN if coming[row] else SwapOutcome.ELSEWHERE)
        return tuple(outcomes)
