"""The effect of rounding on an orbit: the residuals that it explains, and the distance that it leaves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.fixed_points.noise_floor import NoiseFloor
from loopscope.trees import Tree, flatten, scaled_norm

FLOOR_IN_EPS = 16
"""A relative residual of at most this many machine epsilons is rounding, in whatever precision the step computes."""
DISTANCE_IN_ERRORS = 4.0
"""A state at the floor is assumed to be at least this many rounding errors away from the result of an exact step."""
REST = 32
"""A state is at rest if it has returned to its place after this many evaluations. A slower motion would be below half a rounding
error per step, and so be lost to rounding."""
MOVED_IN_FLOORS = 2.0
"""A state at rest moves by at most this many floors, because residuals at the floor move it back and forth."""


@dataclass(frozen=True)
class Floor:
    """The extent of rounding.

    Attributes:
        residual: largest relative residual that may be rounding.
        error: relative error of one evaluation of the step.
    """

    residual: float
    error: float

    @property
    def distance(self) -> float:
        """The smallest relative change that a step at the floor is assumed to make."""
        return DISTANCE_IN_ERRORS * self.error

    def is_above(self, other: Floor) -> bool:
        """Return whether this floor is above another one."""
        return self.residual > other.residual


def floor_of(dtype: torch.dtype) -> Floor:
    """Return the floor of a step that computes in the precision ``dtype`` of its state."""
    eps = torch.finfo(dtype).eps
    return Floor(FLOOR_IN_EPS * eps, eps)


def measured_floor(noise: NoiseFloor, dtype: torch.dtype) -> Floor:
    """Return the floor of a step whose rounding was measured: the higher of those of the step and of its state.

    Args:
        noise: result of ``measure_noise_floor``.
        dtype: dtype of the state.
    """
    least = floor_of(dtype)
    return Floor(max(least.residual, noise.residual), max(least.error, noise.noise))


class Rest:
    """Finds the states at rest, which are within rounding of their places `REST` evaluations ago.

    In a drift or a slow approach, a state moves steadily although every single change is below the floor. Over many
    evaluations such changes add up, whereas those of rounding do not.

    Args:
        start: the first states.
        mask: true where a token is real.
        most: largest relative residual at which a state may be at rest.
        iterations: largest number of iterations of the orbits. Short orbits are compared over half of it.
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
        """Record the states after one more step, and return which of them are at rest.

        Args:
            index: index of the evaluation, from 0.
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
