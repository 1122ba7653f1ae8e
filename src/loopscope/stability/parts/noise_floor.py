"""The rounding of the step, which limits how close orbits get to their fixed points, measured on the first few orbits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from loopscope.checks import state_dtype
from loopscope.contexts import interruptible
from loopscope.errors import StoppedError
from loopscope.fixed_points.noise_floor import EXAMPLES, NoiseFloor, measure_noise_floor
from loopscope.loop import Loop
from loopscope.stability.orbits.arrival import follow
from loopscope.stability.orbits.rounding import Floor, floor_of, measured_floor
from loopscope.stability.orbits.trace import Trajectory
from loopscope.stability.results import NoiseFloorResult
from loopscope.trees import Tree, batch_size, select

WARM_UP = 32
"""Number of iterations before the rounding is measured, so that states have the size that they have along orbits."""


@dataclass(frozen=True)
class MeasuredFloor:
    """The noise floor of a loop.

    Attributes:
        noise: how precisely the step computes; None if no state stayed finite or there was no time.
        floor: the residuals that this rounding explains.
    """

    noise: NoiseFloor | None
    floor: Floor

    def hides(self, trajectory: Trajectory) -> str | None:
        """Return why it is unknown whether orbits arrive, if they end at a floor above the tolerance, or None."""
        levelled = int(trajectory.levelled.sum())
        if self.noise is None or not levelled or self.floor.residual <= trajectory.tolerance:
            return None
        # The suggested tolerance is easy to type and not below the floor.
        enough = float(f"{1.05 * self.floor.residual:.1e}")
        return (
            f"the step rounds like {self.noise.precision} (relative error {self.noise.noise:.1e}), so residuals up to "
            f"{self.floor.residual:.1e} are rounding, and {levelled} of {len(trajectory.arrived)} orbits end there, above the "
            f"tolerance of {trajectory.tolerance:g}; set the tolerance to {enough:g} or compute the step more precisely"
        )

    def result(self) -> NoiseFloorResult | None:
        """Return the floor as the examination reports it."""
        if self.noise is None:
            return None
        return NoiseFloorResult(self.noise.noise, self.floor.residual, self.noise.precision)


def unmeasured_floor(start: Tree) -> MeasuredFloor:
    """Return the floor of the state's type, for loops whose orbits have no fixed points to approach."""
    return MeasuredFloor(None, floor_of(state_dtype(start)))


def measure_floor(
    loop: Loop, recalled: Tree, start: Tree, *, iterations: int, is_late: Callable[[], bool], seed: int = 0
) -> MeasuredFloor:
    """Measure the rounding of the step at the states of the first few examples, after `WARM_UP` iterations.

    Args:
        loop: the loop.
        recalled: what ``loop.encode`` returned.
        start: the first states.
        iterations: largest number of iterations of an orbit.
        is_late: returns whether the time is over, in which case nothing is measured.
        seed: seed of the directions in which states are moved.
    """
    few = slice(0, EXAMPLES)
    recalled, state, dtype = select(recalled, few), select(start, few), state_dtype(start)
    # The measurement evaluates the step at the last state, which is one more iteration.
    if before := min(WARM_UP, iterations - 1):
        ends = follow(loop, recalled, state, iterations=before, stop=is_late)
        finite = torch.nonzero(~ends.diverged).squeeze(1)
        state, recalled = select(ends.state, finite), select(recalled, finite)
    if not batch_size(state):
        return MeasuredFloor(None, floor_of(dtype))
    try:
        with interruptible(is_late):
            noise = measure_noise_floor(loop, state, recalled, seed=seed)
    except StoppedError:
        return MeasuredFloor(None, floor_of(dtype))
    return MeasuredFloor(noise, measured_floor(noise, dtype))
