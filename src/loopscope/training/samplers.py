"""Samplers of iteration counts: a training step runs iterations without gradient, then iterations with gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

POISSON_SPREAD = 0.5
POISSON_GRADIENT = 8


@dataclass(frozen=True)
class IterationCounts:
    """Iterations of one training step.

    Args:
        free: number of iterations without gradient, which come first.
        gradient: number of iterations with backpropagation, which come last; at least 1.
    """

    free: int
    gradient: int


def uniform(maximum: int, generator: torch.Generator) -> IterationCounts:
    """Draw n ~ U{0..maximum-1} free iterations, then k ~ U{1..maximum-n} with gradient (paper, training)."""
    free = int(torch.randint(0, maximum, (), generator=generator))
    gradient = int(torch.randint(1, maximum - free + 1, (), generator=generator))
    return IterationCounts(free, gradient)


def poisson(maximum: int, generator: torch.Generator) -> IterationCounts:
    """Draw a total from a log-normal Poisson of mean maximum / 2, capped at ``maximum``. The last 8 have gradient.

    The rate is log-normal with spread 0.5, as in recurrent-depth pre-training.
    """
    normal = torch.randn((), generator=generator, dtype=torch.float64)
    rate = (math.log(maximum / 2) - POISSON_SPREAD**2 / 2 + POISSON_SPREAD * normal).exp()
    total = min(maximum, max(1, int(torch.poisson(rate, generator=generator))))
    gradient = min(total, POISSON_GRADIENT)
    return IterationCounts(total - gradient, gradient)


SAMPLERS: dict[str, Callable[[int, torch.Generator], IterationCounts]] = {"uniform": uniform, "poisson": poisson}
"""The samplers by name. Each maps (largest number of iterations, generator) to counts."""
