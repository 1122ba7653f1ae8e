"""The examined inputs with their orbits, from which every part of an examination starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.loop import Loop, mask_of
from loopscope.stability.config import Budget, ExaminationConfig
from loopscope.stability.distances import in_pairs
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.orbits.trace import Trajectory
from loopscope.stability.parts.noise_floor import MeasuredFloor
from loopscope.trees import Tree, select

SPARE = 2.0
"""Largest length of swapped and perturbed orbits, relative to the slowest of the inputs' own orbits."""
ALWAYS = 50
"""Number of iterations that a swapped or perturbed orbit may always take, within the budget."""


@dataclass(frozen=True)
class Sample:
    """The examined inputs with their orbits.

    Args:
        loop: the loop.
        inputs: the argument of ``loop.encode``.
        recalled: what ``loop.encode`` returned.
        start: the first states.
        trajectory: the orbits from the first states.
        config: options of the examination.
        trained: largest number of iterations in training, if known.
        measured_floor: rounding of the step.
    """

    loop: Loop
    inputs: Tree
    recalled: Tree
    start: Tree
    trajectory: Trajectory
    config: ExaminationConfig
    trained: int | None
    measured_floor: MeasuredFloor

    @property
    def budget(self) -> Budget:
        """The budget of the effort."""
        return self.config.budget

    @property
    def floor(self) -> Floor:
        """The residuals that rounding explains."""
        return self.measured_floor.floor

    @property
    def iterations(self) -> int:
        """The largest number of iterations of every orbit."""
        return orbit_budget(self.config, self.trained)

    @cached_property
    def secondary_iterations(self) -> int:
        """The largest number of iterations of swapped and perturbed orbits."""
        needed = self.trajectory.iterations_to_tolerance[self.trajectory.arrived]
        slowest = float(needed.max()) if len(needed) else ALWAYS
        return min(self.iterations, max(ALWAYS, math.ceil(SPARE * slowest)))

    @cached_property
    def near(self) -> Int[Tensor, "jacobians"]:
        """The inputs whose Jacobian, basin and variance are measured."""
        return self._order[: self.budget.jacobians]

    @cached_property
    def far(self) -> Int[Tensor, "swapped"]:
        """The inputs for swaps, counts of fixed points and gradients."""
        return self._order[: self.budget.swapped]

    @cached_property
    def _order(self) -> Int[Tensor, "batch"]:
        """All inputs, with those that arrived first, because some parts are measured at fixed points."""
        arrived = self.trajectory.arrived
        first, others = (torch.nonzero(chosen).squeeze(1) for chosen in (arrived, ~arrived))
        return torch.cat([in_pairs(first, self.recalled, mask_of(self.loop, self.recalled)), others])

    def at(self, rows: Tensor) -> tuple[Tree, Tree]:
        """Return the last states and the recalled inputs of some rows."""
        return select(self.trajectory.state, rows), select(self.recalled, rows)


def orbit_budget(config: ExaminationConfig, trained: int | None) -> int:
    """Return the largest number of iterations of any orbit. In prediction mode it is at most the trained number."""
    return min(config.iterations, trained) if config.prediction and trained else config.iterations
