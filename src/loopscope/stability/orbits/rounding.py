"""What rounding hides of an orbit: the residuals that it accounts for, and the distance that it leaves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.fixed_points.noise_floor import NoiseFloor
from loopscope.trees import Tree, flatten, scaled_norm

FLOOR_IN_EPS = 16
"""A relative residual of at most this many machine epsilons is rounding, whatever the step computes in."""
DISTANCE_IN_ERRORS = 4.0
"""A state at the floor counts as at least this many rounding errors away from where an exact step would take it."""
REST = 32
"""Evaluations after which a state must be where it was to be at rest. A motion that is slower than that allows is below half a
rounding error per step, and rounding swallows it."""
MOVED_IN_FLOORS = 2.0
"""A state at rest moves by at most this many floors. Residuals at the floor move it to and fro."""


@dataclass(frozen=True)
class Floor:
    """What rounding explains.

    Attributes:
        residual: largest relative residual that may be rounding.
        error: relative error of one evaluation of the step.
    """

    residual: float
    error: float

    @property
    def distance(self) -> float:
        """The relative change that a step at the floor is taken to make, at least."""
        return DISTANCE_IN_ERRORS * self.error

    def is_above(self, other: Floor) -> bool:
        """Return whether this floor is above another one."""
        return self.residual > other.residual


def floor_of(dtype: torch.dtype) -> Floor:
    """Return the floor of a step that computes as precisely as states of ``dtype`` are kept."""
    eps = torch.finfo(dtype).eps
    return Floor(FLOOR_IN_EPS * eps, eps)


def measured_floor(noise: NoiseFloor, dtype: torch.dtype) -> Floor:
    """Return the floor of a step whose rounding was measured: that of its state or that of the step, the higher one.

    Args:
        noise: from ``measure_noise_floor``.
        dtype: of the state.
    """
    least = floor_of(dtype)
    return Floor(max(least.residual, noise.residual), max(least.error, noise.noise))


class Rest:
    """Which states are at rest: within rounding of where they were `REST` evaluations ago.

    Above the rounding of its own type a state can move steadily while every single change is below the floor: a drift, or a
    slow approach. Over many evaluations such changes add up, while those of rounding do not.

    Args:
        start: the first states.
        mask: true where a token is real.
        most: largest relative residual at which a state may be at rest.
        iterations: the budget of the orbits; shorter orbits are compared over half of it.
    """

    def __init__(self, start: Tree, mask: Tensor | None, most: float, iterations: int) -> None:
        self.most, self.every = MOVED_IN_FLOORS * most, max(1, min(REST, iterations // 2))
        self.before = flatten(start, mask).clone()
        self.now = torch.zeros(len(self.before), dtype=torch.bool, device=self.before.device)

    def seen(
        self,
        index: int,
        rows: Int[Tensor, "active"],
        state: Tree,
        mask: Tensor | None,
        scale: Float[Tensor, "active"],
    ) -> Bool[Tensor, "active"]:
        """Take in the states after one more step, and return which of them are at rest.

        Args:
            index: 0 for the first evaluation.
            rows: the examples that are still followed.
            state: their states.
            mask: their mask of real tokens.
            scale: their size.
        """
        if (index + 1) % self.every == 0:
            flat = flatten(state, mask)
            self.now[rows] = scaled_norm(flat - self.before[rows]) <= self.most * scale
            self.before[rows] = flat
        return self.now[rows]
