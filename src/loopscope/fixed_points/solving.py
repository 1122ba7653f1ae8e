"""One verb: solve."""

from __future__ import annotations

import torch

from loopscope.checks import check_independent, check_is_loop, check_mask, check_start, check_step
from loopscope.contexts import eval_mode
from loopscope.errors import LoopscopeError
from loopscope.fixed_points.plain import compare_with_plain
from loopscope.fixed_points.reaching import reach
from loopscope.fixed_points.residual import check_precision
from loopscope.fixed_points.solution import Solution
from loopscope.fixed_points.solvers import PlainIteration, Solver
from loopscope.loop import Loop
from loopscope.trees import Tree, batch_size, leaves, select

DEFAULT_SOLVER = PlainIteration()


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
    """Reach the fixed point of each example.

    An example that has arrived, or whose state is no longer finite, leaves the batch; the others go on. No gradient is
    recorded (for training see ``loopscope.fixed_points.implicit``), autocast is off, and the loop's mode is left as it
    was.

    Solvers other than plain iteration may end at a fixed point that the model itself never reaches: one that repels
    it, or one in another basin. ``plain_iterations`` is a budget per example to find out, by following the model's own
    orbits: see `loopscope.fixed_points.plain.compare_with_plain` for what that proves and costs. Without it, only plain
    iteration itself says so (``same_as_plain``).

    Args:
        loop: any loop.
        inputs: its inputs, batch first.
        solver: PlainIteration(), DampedIteration(...), Anderson(...) or Broyden(...).
        tolerance: on the relative residual r = ||f(z) - z|| / max(||z||, ||f(z)||, tiny) (framework, axis 1).
        max_iterations: evaluations of the step that an example may take.
        start: the first state; the loop's own by default.
        seed: for a loop whose start is random.
        plain_iterations: evaluations that an example may take to decide ``same_as_plain``; 0 asks nothing.

    Raises:
        LoopscopeError: no loop; see `loopscope.fixed_points.reaching.reach`; a mask that fits no part of the state; or what
            `loopscope.loop.check_step` and `check_independent` refuse, a random step and one that mixes examples (seven
            steps of an example more, which ``steps_computed`` leaves out).
    """
    check_is_loop(loop)
    if plain_iterations < 0:
        raise LoopscopeError(f"plain_iterations is {plain_iterations}, expected a number of at least 0")
    batch = batch_size(inputs)
    device = leaves(inputs)[0].device
    with eval_mode(loop), torch.no_grad(), torch.autocast(device.type, enabled=False):
        recalled = loop.encode(inputs)
        if start is None:
            start = loop.start(recalled, torch.Generator(device).manual_seed(seed))
        check_start(start, batch)
        check_precision(start, tolerance)
        if batch:
            # A little noise lets examples arrive, at points that are none: two steps of one example tell.
            check_step(loop, select(start, slice(0, 1)), select(recalled, slice(0, 1)))
            _check_pair(loop, start, recalled)
            check_mask(loop, start, recalled)
        found = reach(loop, recalled, start, solver=solver, tolerance=tolerance, max_iterations=max_iterations)
        arrived = found.residual <= tolerance
        same: tuple[bool | None, ...] = (None,) * batch
        spent = 0
        if isinstance(solver, PlainIteration):
            same = tuple(True if here else None for here in arrived.tolist())
        elif plain_iterations:
            same, spent = compare_with_plain(
                loop, recalled, start, found.state, arrived, tolerance=tolerance, budget=plain_iterations
            )
        output = loop.read(found.state)
    return Solution(
        state=found.state,
        output=output,
        iterations=found.iterations,
        residual=found.residual,
        arrived=arrived,
        diverged=~found.residual.isfinite(),
        same_as_plain=same,
        steps_computed=found.steps_computed,
        plain_steps=spent,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def _check_pair(loop: Loop, start: Tree, recalled: Tree) -> None:
    """Refuse a step that mixes examples, seen on the first two: where one leaves, the other would go elsewhere."""
    start, recalled = select(start, slice(0, 2)), select(recalled, slice(0, 2))
    first = loop.step(start, recalled)
    check_independent(loop, first, loop.step(first, recalled), recalled)
