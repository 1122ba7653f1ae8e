"""Rules that stop a loop: for each threshold, when every unit stops, and how good its answers are then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

THRESHOLDS = 64
"""Largest number of thresholds that a rule is tried with."""
POOLED = 200_000
"""Largest number of scores that thresholds are chosen from."""


@dataclass(frozen=True)
class ExitPoint:
    """One rule with one threshold.

    Args:
        threshold: the rule stops where its score is at most this.
        iterations: mean number of iterations over the units.
        quality: fraction of units whose answer is right when they stop, or, without targets, is that of the last iteration.
    """

    threshold: float
    iterations: float
    quality: float


def stops(
    score: Float[Tensor, "iterations units"], thresholds: Float[Tensor, "thresholds"]
) -> Int[Tensor, "thresholds units"]:
    """Return the first iteration after which each unit's score is at most each threshold, or the last iteration.

    Example:
        >>> score = torch.tensor([[3.0, 1.0], [2.0, 5.0], [1.0, 0.0]])
        >>> stops(score, torch.tensor([1.0, 2.0, -1.0])).tolist()
        [[3, 1], [2, 1], [3, 3]]
    """
    iterations = len(score)
    ascending = score.cummin(0).values.flip(0).T.contiguous()
    within = torch.searchsorted(
        ascending, thresholds.to(score.dtype).expand(len(ascending), -1).contiguous(), right=True
    )
    return (iterations + 1 - within).clamp_max(iterations).T


def candidate_thresholds(score: Float[Tensor, "iterations units"]) -> Float[Tensor, "thresholds"]:
    """Return thresholds that divide the finite scores evenly, from those that stop nothing early to those that stop at once."""
    finite = score[score.isfinite()].double()
    if not len(finite):
        return torch.zeros(1, dtype=torch.float64)
    ordered = finite.sort().values
    if len(ordered) > POOLED:
        ordered = ordered[:: -(-len(ordered) // POOLED)]
    places = torch.linspace(0, len(ordered) - 1, THRESHOLDS).round().long()
    return torch.unique(ordered[places])


def exit_points(
    score: Float[Tensor, "iterations units"],
    good: Bool[Tensor, "iterations units"],
    thresholds: Float[Tensor, "thresholds"],
) -> list[ExitPoint]:
    """Return how many iterations a rule takes and how good its answers are, for each threshold.

    Args:
        score: the doubt after each iteration.
        good: whether the answer after each iteration is good.
        thresholds: the thresholds.
    """
    ends = stops(score, thresholds)
    iterations = ends.double().mean(1).tolist()
    quality = good.gather(0, ends - 1).double().mean(1).tolist()
    return [ExitPoint(*point) for point in zip(thresholds.tolist(), iterations, quality, strict=True)]


def first_good(good: Bool[Tensor, "iterations units"]) -> Int[Tensor, "units"]:
    """Return the first iteration after which each unit's answer is good; 1 where it never is, since waiting gains nothing."""
    return torch.where(good.any(0), good.int().argmax(0) + 1, 1)
