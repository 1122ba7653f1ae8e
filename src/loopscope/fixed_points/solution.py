"""Solving for fixed points: ``solve`` and the ``Solution`` that it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.checks import check_read, prepare
from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import check_count_or_zero
from loopscope.fixed_points.halting import SolverRun, run_solver
from loopscope.fixed_points.noise_floor import NoiseFloor, measure_noise_floor
from loopscope.fixed_points.plain_comparison import compare_with_plain
from loopscope.fixed_points.plain_iteration import PlainIteration
from loopscope.fixed_points.residual import check_precision
from loopscope.fixed_points.solver import Solver, check_solver
from loopscope.loop import Loop, readout
from loopscope.trees import Tree, batch_size, select

DEFAULT_SOLVER = PlainIteration()


@dataclass(frozen=True)
class Solution:
    """Where a solver ended, per example.

    Attributes:
        state: the best states, which have the smallest relative residuals of all states that the solver visited.
        output: the readout of ``state``.
        iterations: evaluations of the step that the example needed, including the one that proves arrival.
        residual: relative residual r = ||f(z) - z|| / max(||z||, ||f(z)||, tiny) of ``state``; infinite if f(z) was not
            finite from the start. It does not bound the error: the distance to the fixed point is about r / (1 - q), where
            q is the rate at which the loop contracts there.
        best_iteration: number of the evaluation that found ``residual``, from 1; equal to ``iterations`` for an example
            that arrived.
        last_state: the states of the last evaluation; equal to ``state`` for an example that arrived.
        last_residual: relative residual of ``last_state``; infinite if the example diverged.
        arrived: whether the residual is within the tolerance.
        diverged: whether f(z) was not finite at the last evaluation.
        output_valid: whether the output has no NaN, and is infinite only where the output of the first state is, too (a
            readout may mask options with infinities).
        same_as_plain: whether plain iteration from the same start reaches the same fixed point; None if this was not
            requested, could not be decided within the budget, or the example has not arrived (see ``solve``).
        noise_floor: how precisely the step computes, measured if some example neither arrived nor diverged, else None.
        steps_computed: number of evaluations of the step that were computed, over all examples: the sum of ``iterations``, and
            at most 2% more for halted examples that had not left the batch yet.
        plain_steps: number of evaluations spent on deciding ``same_as_plain``, over all examples.
        tolerance: bound on the residual.
        max_iterations: largest number of evaluations per example.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> solution = ls.solve(loop, torch.eye(4), tolerance=1e-5)
        >>> bool(solution.arrived.all()), solution.state.diag().round(decimals=3)
        (True, tensor([2., 2., 2., 2.]))
    """

    state: Tree
    output: Tensor
    iterations: Int[Tensor, "batch"]
    residual: Float[Tensor, "batch"]
    best_iteration: Int[Tensor, "batch"]
    last_state: Tree
    last_residual: Float[Tensor, "batch"]
    arrived: Bool[Tensor, "batch"]
    diverged: Bool[Tensor, "batch"]
    output_valid: Bool[Tensor, "batch"]
    same_as_plain: tuple[bool | None, ...]
    noise_floor: NoiseFloor | None
    steps_computed: int
    plain_steps: int
    tolerance: float
    max_iterations: int

    @property
    def message(self) -> str:
        """A summary in one or more sentences."""
        parts = [self._of_arrived(), self._of_diverged(), self._of_others(), self._of_other_points(), self._of_output()]
        return " ".join(f"{part}." for part in parts if part)

    def _of_arrived(self) -> str:
        total, arrived = len(self.arrived), int(self.arrived.sum())
        text = f"{arrived} of {total} examples arrived (relative residual <= {self.tolerance:g})"
        if not arrived:
            return text
        taken = self.iterations[self.arrived]
        return f"{text} after {int(taken.min())} to {int(taken.max())} iterations, median {int(taken.median())}"

    def _of_diverged(self) -> str:
        diverged = int(self.diverged.sum())
        return f"{diverged} diverged: the state stopped being finite" if diverged else ""

    def _of_others(self) -> str:
        others = ~self.arrived & ~self.diverged
        if not bool(others.any()):
            return ""
        text = f"{int(others.sum())} did not arrive within {self.max_iterations} iterations"
        rows = others.nonzero().squeeze(1)
        row = rows[self.residual[rows].argmin()]
        smallest = float(self.residual[row])
        text += f" (smallest residual {smallest:.1e}, at iteration {int(self.best_iteration[row])})"
        floor = self.noise_floor
        if floor is None or smallest > floor.residual or self.tolerance > floor.residual:
            return f"{text}: try more iterations or another solver, or examine the loop for cycles and drift"
        text += f": the step has a relative rounding error of {floor.noise:.1e}"
        if floor.is_coarser:
            text += f", like that of {floor.precision}, in a state of {floor.state}"
        return f"{text}, and residuals below {floor.residual:.1e} may be rounding: raise the tolerance or the step's precision"

    def _of_other_points(self) -> str:
        elsewhere = sum(same is False for same in self.same_as_plain)
        text = f"{elsewhere} arrived at a fixed point that plain iteration does not reach, or that repels it"
        return text if elsewhere else ""

    def _of_output(self) -> str:
        invalid = ~self.output_valid
        if not bool(invalid.any()):
            return ""
        at = self.best_iteration[invalid]
        first, last = int(at.min()), int(at.max())
        when = f"iteration {first}" if first == last else f"iterations {first} to {last}"
        return f"The readout of {int(invalid.sum())} examples is NaN or infinite, at {when}"

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the states and the output as plain JSON. A residual that is not finite becomes null."""
        floor = self.noise_floor
        return {
            "message": self.message,
            "iterations": self.iterations.tolist(),
            "residual": _finite(self.residual),
            "best_iteration": self.best_iteration.tolist(),
            "last_residual": _finite(self.last_residual),
            "arrived": self.arrived.tolist(),
            "diverged": self.diverged.tolist(),
            "output_valid": self.output_valid.tolist(),
            "same_as_plain": list(self.same_as_plain),
            "noise_floor": floor and {"noise": floor.noise, "residual": floor.residual, "precision": floor.precision},
            "steps_computed": self.steps_computed,
            "plain_steps": self.plain_steps,
            "tolerance": self.tolerance,
            "max_iterations": self.max_iterations,
        }


def solve(
    loop: Loop,
    inputs: Tree,
    *,
    solver: Solver = DEFAULT_SOLVER,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
    start: Tree | None = None,
    seed: int = 0,
    plain_iterations: int = 0,
) -> Solution:
    """Solve for the fixed point of each example.

    An example that has arrived, or whose state is no longer finite, leaves the batch; the others continue. No gradient is
    recorded (for training see `loopscope.fixed_points.fixed_point`), autocast is off, and the loop's mode is restored.

    Solvers other than plain iteration may end at a fixed point that the model itself never reaches, because it repels the
    model or lies in another basin. With ``plain_iterations``, the model's own orbits are followed to find this out:
    see `loopscope.fixed_points.plain_comparison.compare_with_plain` for what this proves and costs. Without it,
    ``same_as_plain`` is set for plain iteration only.

    The checks before the solve take five further steps of two examples. ``steps_computed`` counts neither these steps nor
    those that measure the noise floor.

    Args:
        loop: any loop.
        inputs: its inputs, batch first.
        solver: PlainIteration(), DampedIteration(...), Anderson(...) or Broyden(...).
        tolerance: bound on the relative residual r = ||f(z) - z|| / max(||z||, ||f(z)||, tiny).
        max_iterations: largest number of evaluations of the step per example.
        start: the first state; the loop's own by default.
        seed: seed of a random start.
        plain_iterations: largest number of evaluations per example to decide ``same_as_plain``; 0 leaves it undecided.

    Raises:
        LoopscopeError: an option is out of bounds, or `loopscope.checks.prepare` or
            `loopscope.fixed_points.halting.run_solver` refuses the loop, for example because its step is random or mixes
            examples.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 0.5 * z + x, read=lambda z: z
        ... )
        >>> solution = ls.solve(loop, torch.tensor([[1.0], [-3.0]]), solver=ls.Anderson(), tolerance=1e-6)
        >>> print(solution)
        2 of 2 examples arrived (relative residual <= 1e-06) after 3 to 3 iterations, median 3.
        >>> solution.state
        tensor([[ 2.],
                [-6.]])
    """
    check_solver(solver)
    check_count_or_zero(plain_iterations=plain_iterations)
    with eval_mode(loop), torch.no_grad(), without_autocast():
        ready = prepare(loop, inputs, seed=seed, start=start)
        recalled, start, batch = ready.recalled, ready.start, batch_size(ready.start)
        check_precision(start, tolerance)
        first = readout(loop, start, recalled)
        found = run_solver(loop, recalled, start, solver=solver, tolerance=tolerance, max_iterations=max_iterations)
        arrived, diverged = found.residual <= tolerance, ~found.last_residual.isfinite()
        same: tuple[bool | None, ...] = (None,) * batch
        spent = 0
        if isinstance(solver, PlainIteration):
            same = tuple(True if here else None for here in arrived.tolist())
        elif plain_iterations:
            same, spent = compare_with_plain(
                loop, recalled, start, found.state, arrived, tolerance=tolerance, budget=plain_iterations
            )
        output = readout(loop, found.state, recalled)
        check_read(output, batch)
        floor = _floor_of(loop, recalled, found, ~arrived & ~diverged)
    return Solution(
        state=found.state,
        output=output,
        iterations=found.iterations,
        residual=found.residual,
        best_iteration=found.best_iteration,
        last_state=found.last_state,
        last_residual=found.last_residual,
        arrived=arrived,
        diverged=diverged,
        output_valid=_valid(output, first),
        same_as_plain=same,
        noise_floor=floor,
        steps_computed=found.steps_computed,
        plain_steps=spent,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def _floor_of(loop: Loop, recalled: Tree, found: SolverRun, stuck: Bool[Tensor, "batch"]) -> NoiseFloor | None:
    """Return the noise floor at the best states of the examples that are stuck, or None if there are none."""
    rows = stuck.nonzero().squeeze(1)
    return measure_noise_floor(loop, select(found.state, rows), select(recalled, rows)) if len(rows) else None


def _valid(output: Tensor, first: Tensor) -> Bool[Tensor, "batch"]:
    """Return which readouts have no NaN, and are infinite only where the first ones are."""
    if not output.is_floating_point():
        return torch.ones(len(output), dtype=torch.bool, device=output.device)
    new_infinity = output.isinf() & ~first.isinf() if first.shape == output.shape else output.isinf()
    return ~(output.isnan() | new_infinity).flatten(1).any(1)


def _finite(values: Float[Tensor, "batch"]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
