"""Running a solver on a batch, each example on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count
from loopscope.fixed_points.residual import check_precision, relative_residual, smallest_scale
from loopscope.fixed_points.solvers import PlainIteration, Solver
from loopscope.loop import Loop, mask_of
from loopscope.trees import Tree, batch_size, flatten, is_time_dependent, leaves, select, tree_map, unflatten

IDLE = 1.02
"""Steps computed may be so many times the steps needed: below, examples that are done leave the batch together."""


@dataclass(frozen=True)
class Reached:
    """Where a solver ended, per example.

    Attributes:
        state: the states whose residuals are given.
        iterations: evaluations that each example needed.
        residual: their relative residuals, infinite where f(z) is not finite.
        steps_computed: evaluations that were computed, over all examples.
    """

    state: Tree
    iterations: Int[Tensor, "batch"]
    residual: Float[Tensor, "batch"]
    steps_computed: int


def reach(loop: Loop, recalled: Tree, start: Tree, *, solver: Solver, tolerance: float, max_iterations: int) -> Reached:
    """Run a solver for each example until its residual is within the tolerance, or its budget is spent.

    No gradient is recorded. An example that is done counts no further, and leaves the batch (its rows of the state,
    the recalled input and the solver's memory) before the next evaluation that would take the steps computed beyond
    1.02 times the steps needed. So this bound holds always, and batches shrink in few, large cuts.

    Args:
        loop: any loop, in the mode that it should be in.
        recalled: what ``loop.encode`` returned.
        start: the first state.
        solver: see ``loopscope.fixed_points.solvers``.
        tolerance: on the relative residual.
        max_iterations: evaluations of the step that an example may take.

    Raises:
        LoopscopeError: the state is in half precision or carries a counter that the solver cannot step, the step
            changes the state's shape, or tolerance and budget are out of bounds.
    """
    check_count(max_iterations=max_iterations)
    if not isinstance(solver, Solver) or isinstance(solver, type):
        raise LoopscopeError(
            f"expected a solver such as PlainIteration() or Anderson(memory=6), got {solver!r}: make one of its class"
        )
    check_precision(start, tolerance)
    if is_time_dependent(start) and not isinstance(solver, PlainIteration):
        raise LoopscopeError(
            f"the state has a leaf that is not floating (a counter), which {type(solver).__name__} cannot step; "
            "use PlainIteration, or move the counter out of the state"
        )
    batch = batch_size(start)
    if batch_size(recalled) != batch or not batch:
        raise LoopscopeError(
            f"expected at least one example and as many states as recalled inputs, got {batch} states and "
            f"{batch_size(recalled)} recalled inputs"
        )
    device = leaves(start)[0].device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return _reach(loop, recalled, start, solver, tolerance, max_iterations)


def _reach(loop: Loop, recalled: Tree, start: Tree, solver: Solver, tolerance: float, max_iterations: int) -> Reached:
    mask = mask_of(loop, recalled)
    smallest = smallest_scale(start, mask)
    memory = solver.begin(flatten(start, mask))
    batch, device = len(smallest), smallest.device
    final = tree_map(torch.clone, start)
    # What decides who leaves is kept where Python can read it at no cost.
    iterations = torch.zeros(batch, dtype=torch.long)
    residual = torch.full((batch,), torch.inf, dtype=smallest.dtype)
    rows, going = torch.arange(batch), torch.ones(batch, dtype=torch.bool)
    state, needed, computed = start, 0, 0

    for index in range(1, max_iterations + 1):
        after = loop.step(state, recalled)
        needed, computed = needed + int(going.sum()), computed + len(rows)
        point, value = flatten(state, mask), flatten(after, mask)
        if point.shape != value.shape:
            raise LoopscopeError(
                f"the step maps a state of {point.shape[1]} numbers to {value.shape[1]}; "
                "it must return a state of the same structure and shapes"
            )
        if point.dtype != value.dtype:
            raise LoopscopeError(
                f"the step maps a state of {point.dtype} to {value.dtype}; it must return a state of the same precision"
            )
        now = relative_residual(point, value, smallest).cpu()
        leaving = going & ((now <= tolerance) | ~now.isfinite() | (index == max_iterations))
        if bool(leaving.any()):
            gone = rows[leaving]
            iterations[gone], residual[gone] = index, now[leaving]
            _put(final, state, gone.to(device), leaving.to(device))
            going = going & ~leaving
            if not bool(going.any()):
                break
        if computed + len(rows) > IDLE * (needed + int(going.sum())):
            kept = going.nonzero().squeeze(1)
            rows, going, kept = rows[kept], going[kept], kept.to(device)
            memory.keep(kept)
            after, recalled, smallest = select(after, kept), select(recalled, kept), smallest[kept]
            point, value = point[kept], value[kept]
            mask = None if mask is None else mask[kept]
        correction = memory.correction(point, value)
        state = after if correction is None else unflatten(flatten(after) + correction, after)
    return Reached(final, iterations.to(device), residual.to(device), computed)


def _put(whole: Tree, part: Tree, rows: Tensor, chosen: Tensor) -> None:
    def put(target: Tensor, source: Tensor) -> Tensor:
        return target.index_copy_(0, rows, source[chosen].to(target.dtype))

    tree_map(put, whole, part)
