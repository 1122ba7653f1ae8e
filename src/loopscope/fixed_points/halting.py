"""Solver runs on a batch, in which each example halts on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count
from loopscope.fixed_points.plain_iteration import PlainIteration
from loopscope.fixed_points.residual import check_precision, relative_residual, smallest_scale
from loopscope.fixed_points.solver import Memory, Solver, check_solver
from loopscope.kinds.history import remembers
from loopscope.loop import Loop, is_time_dependent, mask_of
from loopscope.trees import (
    Tree,
    batch_size,
    flatten,
    leaves,
    select,
    tree_map,
    unflatten,
    where,
)

OVERHEAD = 1.02
"""Largest ratio of computed to needed steps. Halted examples stay in the batch until it would be exceeded."""


@dataclass(frozen=True)
class SolverRun:
    """Where a solver ended, per example.

    Attributes:
        state: the best states, which have the smallest residuals of all evaluated ones.
        iterations: evaluations that each example needed.
        residual: relative residuals of ``state``; infinite if f(z) was not finite from the start.
        best_iteration: number of the evaluation that found ``residual``, from 1.
        last_state: the states of the last evaluation; equal to ``state`` for an example that arrived.
        last_residual: relative residuals of ``last_state``; infinite if the example diverged, so that f(z) is not finite.
        steps_computed: number of evaluations that were computed, over all examples.
    """

    state: Tree
    iterations: Int[Tensor, "batch"]
    residual: Float[Tensor, "batch"]
    best_iteration: Int[Tensor, "batch"]
    last_state: Tree
    last_residual: Float[Tensor, "batch"]
    steps_computed: int


def run_solver(
    loop: Loop, recalled: Tree, start: Tree, *, solver: Solver, tolerance: float, max_iterations: int
) -> SolverRun:
    """Run a solver for each example until its residual is within the tolerance or its budget is spent.

    No gradient is recorded. An example halts when it has arrived, has diverged or has spent its budget. It is then no longer
    counted. Halted examples leave the batch (the rows of the state, the recalled input and the solver's memory) before an
    evaluation that would raise the number of computed steps above 1.02 times the number of needed ones. This bound
    therefore always holds, and batches shrink in a few large cuts.

    Args:
        loop: any loop, already in the right mode (usually eval mode).
        recalled: what ``loop.encode`` returned.
        start: the first states.
        solver: one of `loopscope.fixed_points`, or any other ``Solver``.
        tolerance: bound on the relative residual.
        max_iterations: largest number of evaluations of the step per example.

    Raises:
        LoopscopeError: the state is in half precision or carries a counter that the solver cannot advance, the step changes
            the shape or the precision of the state, the batch is empty, or an option is out of bounds.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 0.1 * z + x, read=lambda z: z
        ... )
        >>> inputs = torch.ones(2, 3)
        >>> run = run_solver(
        ...     loop, inputs, 0 * inputs, solver=PlainIteration(), tolerance=1e-3, max_iterations=50
        ... )
        >>> run.iterations, run.residual
        (tensor([4, 4]), tensor([0.0009, 0.0009]))
    """
    check_count(max_iterations=max_iterations)
    check_solver(solver)
    check_precision(start, tolerance)
    if not isinstance(solver, PlainIteration) and is_time_dependent(loop, start, recalled):
        raise LoopscopeError(
            "a step changes a part of the state that is not floating (a counter), which "
            f"{type(solver).__name__} cannot advance: use PlainIteration, or move the counter out of the state"
        )
    if not isinstance(solver, PlainIteration) and remembers(loop, start, recalled):
        raise LoopscopeError(
            f"the state carries a history, which {type(solver).__name__} would fill with states that are no iterations: use "
            "PlainIteration"
        )
    batch = batch_size(start)
    if batch_size(recalled) != batch or not batch:
        raise LoopscopeError(
            f"expected at least one example and as many states as recalled inputs, got {batch} states and "
            f"{batch_size(recalled)} recalled inputs"
        )
    device = leaves(start)[0].device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return _run(loop, recalled, start, solver, tolerance, max_iterations)


def _run(loop: Loop, recalled: Tree, start: Tree, solver: Solver, tolerance: float, max_iterations: int) -> SolverRun:
    mask = mask_of(loop, recalled)
    smallest = smallest_scale(start, mask)
    memory: Memory = solver.begin(flatten(start, mask))
    device, ended, best = smallest.device, _Ended(start, smallest), _Best(start, smallest)
    # Which examples halt is tracked on the CPU, where Python reads it without waiting for a GPU.
    rows, going = torch.arange(len(smallest)), torch.ones(len(smallest), dtype=torch.bool)
    state, needed, computed = start, 0, 0

    for index in range(1, max_iterations + 1):
        after = loop.step(state, recalled)
        needed, computed = needed + int(going.sum()), computed + len(rows)
        point, value = flatten(state, mask), flatten(after, mask)
        _check_alike(point, value)
        now = relative_residual(point, value, smallest).cpu()
        best.update(state, now, index, going)
        halting = going & ((now <= tolerance) | ~now.isfinite() | (index == max_iterations))
        if bool(halting.any()):
            ended.put(rows, halting, state, now, index, best)
            going = going & ~halting
            if not bool(going.any()):
                break
        if computed + len(rows) > OVERHEAD * (needed + int(going.sum())):
            kept = going.nonzero().squeeze(1)
            rows, going = rows[kept], going[kept]
            best.keep(kept)
            kept = kept.to(device)
            memory.keep(kept)
            after, recalled, smallest = select(after, kept), select(recalled, kept), smallest[kept]
            point, value = point[kept], value[kept]
            mask = None if mask is None else mask[kept]
        correction = memory.correction(point, value)
        state = after if correction is None else unflatten(flatten(after) + correction, after)
    return ended.result(computed)


class _Best:
    """The best states of the examples in the working batch so far."""

    def __init__(self, start: Tree, smallest: Float[Tensor, "batch"]) -> None:
        self.state = start
        self.residual = torch.full((len(smallest),), torch.inf, dtype=smallest.dtype)
        self.iteration = torch.ones(len(smallest), dtype=torch.long)

    def update(self, state: Tree, residual: Float[Tensor, "active"], index: int, going: Bool[Tensor, "active"]) -> None:
        # Halted examples may be overwritten, because their best states have already been stored.
        better = (residual < self.residual) | ~going
        self.residual = torch.where(better, residual, self.residual)
        self.iteration = torch.where(better, index, self.iteration)
        if bool(better.all()):
            self.state = state  # no copy is needed if all examples have improved
        elif bool(better.any()):
            self.state = where(better.to(leaves(state)[0].device), state, self.state)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.residual, self.iteration = self.residual[rows], self.iteration[rows]
        self.state = select(self.state, rows.to(leaves(self.state)[0].device))


class _Ended:
    """Where the examples of the whole batch have halted."""

    def __init__(self, start: Tree, smallest: Float[Tensor, "batch"]) -> None:
        self.state, self.last_state = tree_map(torch.clone, start), tree_map(torch.clone, start)
        self.iterations, self.best_iteration = torch.zeros(2, len(smallest), dtype=torch.long)
        self.residual, self.last_residual = torch.full((2, len(smallest)), torch.inf, dtype=smallest.dtype)
        self.device = smallest.device

    def put(self, rows: Tensor, halting: Tensor, state: Tree, residual: Tensor, index: int, best: _Best) -> None:
        gone = rows[halting]
        self.iterations[gone], self.best_iteration[gone] = index, best.iteration[halting]
        self.residual[gone], self.last_residual[gone] = best.residual[halting], residual[halting]
        for whole, part in ((self.state, best.state), (self.last_state, state)):
            _put(whole, part, gone.to(self.device), halting.to(self.device))

    def result(self, computed: int) -> SolverRun:
        return SolverRun(
            state=self.state,
            iterations=self.iterations.to(self.device),
            residual=self.residual.to(self.device),
            best_iteration=self.best_iteration.to(self.device),
            last_state=self.last_state,
            last_residual=self.last_residual.to(self.device),
            steps_computed=computed,
        )


def _put(whole: Tree, part: Tree, rows: Tensor, chosen: Tensor) -> None:
    def put(target: Tensor, source: Tensor) -> Tensor:
        return target.index_copy_(0, rows, source[chosen].to(target.dtype))

    tree_map(put, whole, part)


def _check_alike(point: Tensor, value: Tensor) -> None:
    if point.shape != value.shape:
        raise LoopscopeError(
            f"the step maps a state of {point.shape[1]} numbers to {value.shape[1]} numbers: "
            "it must return a state of the same structure and shapes"
        )
    if point.dtype != value.dtype:
        raise LoopscopeError(
            f"the step maps a state of {point.dtype} to {value.dtype}: it must return a state of the same precision"
        )
