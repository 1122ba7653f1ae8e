"""What a solve returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.trees import Tree


@dataclass(frozen=True)
class Solution:
    """Where a solver ended, per example.

    Attributes:
        state: the states whose residuals are reported; of a diverged example, the last finite one.
        output: read(state).
        iterations: evaluations of the step that the example needed, the one that proves arrival included.
        residual: relative residual r = ||f(z) - z|| / max(||z||, ||f(z)||, tiny) of ``state``; infinite where f(z) is
            not finite. It bounds no error: the distance to the fixed point is about r / (1 - q), with q the rate at
            which the loop contracts there.
        arrived: r <= tolerance.
        diverged: f(z) was not finite.
        same_as_plain: whether plain iteration from the same start reaches the same fixed point; None where that was
            not asked, could not be decided within the budget, or the example has not arrived (see `solve`).
        steps_computed: evaluations of the step that were computed, over all examples: the sum of ``iterations`` and
            what was spent on examples that had arrived and not yet left the batch (at most 2%).
        plain_steps: evaluations spent on deciding ``same_as_plain``, over all examples.
        tolerance: on the residual.
        max_iterations: the budget of each example.
    """

    state: Tree
    output: Tensor
    iterations: Int[Tensor, "batch"]
    residual: Float[Tensor, "batch"]
    arrived: Bool[Tensor, "batch"]
    diverged: Bool[Tensor, "batch"]
    same_as_plain: tuple[bool | None, ...]
    steps_computed: int
    plain_steps: int
    tolerance: float
    max_iterations: int

    @property
    def message(self) -> str:
        """What happened, in a sentence or two."""
        total, arrived = len(self.arrived), int(self.arrived.sum())
        parts = [f"{arrived} of {total} examples arrived (relative residual <= {self.tolerance:g})"]
        if arrived:
            taken = self.iterations[self.arrived]
            parts[0] += f" after {int(taken.min())} to {int(taken.max())} iterations, median {int(taken.median())}"
        diverged = int(self.diverged.sum())
        if diverged:
            parts.append(f"{diverged} diverged: the state stopped being finite")
        stuck = total - arrived - diverged
        if stuck:
            smallest = float(self.residual[~self.arrived & ~self.diverged].min())
            parts.append(
                f"{stuck} did not within {self.max_iterations} iterations (smallest residual {smallest:.1e}): "
                "try more iterations, another solver, or examine the loop for cycles and drift"
            )
        elsewhere = sum(same is False for same in self.same_as_plain)
        if elsewhere:
            parts.append(f"{elsewhere} arrived at another fixed point than plain iteration, or at one that repels it")
        return "; ".join(parts) + "."

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return all but the tensors of state and output as plain JSON; a residual that is not finite is null."""
        return {
            "message": self.message,
            "iterations": self.iterations.tolist(),
            "residual": [value if math.isfinite(value) else None for value in self.residual.tolist()],
            "arrived": self.arrived.tolist(),
            "diverged": self.diverged.tolist(),
            "same_as_plain": list(self.same_as_plain),
            "steps_computed": self.steps_computed,
            "plain_steps": self.plain_steps,
            "tolerance": self.tolerance,
            "max_iterations": self.max_iterations,
        }
