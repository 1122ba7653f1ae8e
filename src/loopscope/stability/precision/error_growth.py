"""Predict how far a low precision leads an orbit astray, from what its first iterations show and the loop's exponents.

A difference obeys d' = J d + e: the Jacobian carries it on, and each step adds its own rounding error e. Once d has turned
towards the slowest direction, its length grows by exp(lambda) per iteration, where lambda is the exponent of the products of J
along the orbit. What the errors add depends on whether they agree from step to step (rounded weights) or not (rounded sums):
lengths add in the first case, squares of lengths in the second. The power q = 1 ... 1/2 between the two is read from the first
iterations, and so is the size of what is added. A difference between orbits that never settle ends as large as the distance
between two unrelated states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1e-300
"""Lengths are at least this, so that they have logarithms."""


@dataclass(frozen=True)
class Course:
    """What is known of a loop's orbits in the precision that others are compared with.

    Args:
        exponents: log growth of a tangent vector in each iteration.
        spread: root mean square distance of an orbit's states from their mean, over the second half of the orbit.
    """

    exponents: Float[Tensor, "iterations batch"]
    spread: Float[Tensor, "batch"]

    @property
    def never_settles(self) -> Tensor:
        """Whether differences grow over the second half of an orbit, per example."""
        return self.exponents[len(self.exponents) // 2 :].mean(0) > 0


def predict_difference(
    differences: Float[Tensor, "known batch"],
    errors: Float[Tensor, "iterations batch"],
    course: Course,
) -> Float[Tensor, "batch"]:
    """Return the length of the difference after as many iterations as the course has.

    Args:
        differences: length of the difference after 0, 1, ... iterations; at least five of them.
        errors: rounding error of each iteration alone, taken from a state of the exact orbit.
        course: the exponents of the exact orbit.

    Example:
        Errors of one unit that agree, in a loop that halves differences: d' = d / 2 + 1.

        >>> differences = (2 - 2 * 0.5 ** torch.arange(9.0, dtype=torch.float64))[:, None]
        >>> halving = Course(torch.full((100, 1), math.log(0.5), dtype=torch.float64), torch.zeros(1).double())
        >>> predict_difference(differences, torch.ones(100, 1).double(), halving).round(decimals=1)
        tensor([2.], dtype=torch.float64)
    """
    known, iterations = len(differences) - 1, len(course.exponents)
    power = _power(differences, errors)
    growth = (course.exponents / power).exp()
    relative = (errors.clamp_min(LEAST) / errors[known].clamp_min(LEAST)).pow(1 / power)
    size = differences.pow(1 / power)

    def carried(begin: int, end: int, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return what becomes of a size, and the sum of what the steps in between add, for an addition of one at ``known``."""
        added = torch.zeros_like(first)
        for index in range(begin, end):
            first, added = growth[index] * first, growth[index] * added + relative[index]
        return first, added

    half = known // 2
    kept, sum_of_added = carried(half, known, size[half])
    each = ((size[known] - kept) / sum_of_added).clamp_min(0)
    kept, sum_of_added = carried(known, iterations, size[known])
    found = (kept + each * sum_of_added).pow(power)
    return torch.where(course.never_settles & (course.spread > 0), found.minimum(math.sqrt(2) * course.spread), found)


def _power(differences: Float[Tensor, "known batch"], errors: Tensor) -> Float[Tensor, "batch"]:
    """Return q, between 1/2 and 1: the power of the time with which differences grow, in units of the errors."""
    known = len(differences) - 1
    units = differences / errors[: known + 1].clamp_min(LEAST)
    early, late = (units[part].square().mean(0).sqrt() for part in _quarters(known))
    apart = math.log(7 / 3)  # the middles of the quarters lie at 3/8 and 7/8
    return ((late / early.clamp_min(LEAST)).clamp_min(LEAST).log() / apart).clamp(0.5, 1.0)


def _quarters(known: int) -> tuple[slice, slice]:
    """Return the second and the last quarter of the known iterations."""
    return slice(known // 4, known // 2 + 1), slice(3 * known // 4, known + 1)
