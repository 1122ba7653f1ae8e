"""Training objectives: the state on which the loss is taken, and how its gradient reaches the parameters.

Under ``progressive`` and ``full`` the gradient is backpropagated through iterations. Under ``implicit``, ``truncated`` and
``phantom`` the state is a fixed point, which is found without a graph and then gets a gradient (see
`loopscope.fixed_points.implicit_differentiation`). Memory does not grow with the number of iterations to the fixed point.

An objective is a module around the model, so that wrappers of modules (several processes, mixed precision) apply to its
whole forward pass. ``figures`` holds the values of the last pass for the metrics.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from loopscope.fixed_points import Gradient, Implicit, Phantom, Truncated, fixed_point
from loopscope.fixed_points.halting import SolverRun
from loopscope.gmres import LinearSolution
from loopscope.training.samplers import IterationCounts

UNROLLED = ("progressive", "full")
"""Objectives that backpropagate through all iterations with gradient, from the last iterate."""
LAST_ITERATIONS: dict[str, type[Truncated] | type[Phantom]] = {"truncated": Truncated, "phantom": Phantom}
"""Objectives that backpropagate through a few iterations at the fixed point."""
AT_FIXED_POINT = ("implicit", *LAST_ITERATIONS)
"""Objectives at a fixed point."""
OBJECTIVES = (*UNROLLED, *AT_FIXED_POINT)
"""The objectives by name."""


class Unrolled(nn.Module):
    """The logits of the last iterate, with backpropagation through its last iterations (paper, training).

    Args:
        model: a model.
        checkpoint_every: keep one state for every this many iterations; None keeps all activations.
    """

    def __init__(self, model: nn.Module, checkpoint_every: int | None) -> None:
        super().__init__()
        self.model, self.checkpoint_every = model, checkpoint_every
        self.figures: dict[str, float] = {}

    def forward(self, inputs: Tensor, counts: IterationCounts) -> Tensor:
        """Return the logits after the given numbers of iterations."""
        self.figures = {"free_iterations": counts.free, "gradient_iterations": counts.gradient}
        logits: Tensor = self.model(inputs, counts.free, counts.gradient, self.checkpoint_every)
        return logits


class AtFixedPoint(nn.Module):
    """The logits at the fixed point, which is found by plain iteration in float32 and has its own gradient.

    Args:
        model: a looped model.
        gradient: method for the gradient of the fixed point.
        tolerance: relative residual at which a state counts as the fixed point.
        max_iterations: largest number of evaluations of the step. If an example needs more, its last state is used.
    """

    def __init__(self, model: nn.Module, gradient: Gradient, tolerance: float, max_iterations: int) -> None:
        super().__init__()
        self.model, self.tolerance, self.max_iterations = model, tolerance, max_iterations
        self.gradient = replace(gradient, report=self._solved) if isinstance(gradient, Implicit) else gradient
        self.figures: dict[str, float] = {}

    def forward(self, inputs: Tensor, counts: IterationCounts) -> Tensor:
        """Return the logits at the fixed point. The counts are ignored."""
        state = fixed_point(
            self.model,  # type: ignore[arg-type]
            inputs,
            gradient=self.gradient,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            report=self._arrived,
        )
        logits: Tensor = self.model.read(state)  # type: ignore[operator]
        return logits

    def _arrived(self, found: SolverRun) -> None:
        arrived = found.residual <= self.tolerance
        self.figures = {
            "iterations": float(found.iterations.double().mean()),
            "arrived": float(arrived.double().mean()),
        }

    def _solved(self, found: LinearSolution) -> None:
        self.figures["solved"] = float(found.converged.double().mean())
