"""Gradients of fixed points: what to backpropagate, when the iterations that led there are not kept.

At z* = f(z*, e) the implicit function theorem gives dz*/dp = (I - J)^-1 df/dp for every parameter p and for e, with
J = df/dz. Backpropagation needs v = (I - J^T)^-1 g for the gradient g of the loss in z*, then v^T df/dp:

- `Implicit` solves for v: the gradient of the fixed point itself;
- `Truncated` keeps the first k terms of v = g + J^T g + J^T^2 g + ...; one term is the one-step gradient;
- `Phantom` does so for the damped iteration, whose terms shrink where those of J itself need not.

Each takes the loop, the recalled input (with its graph) and a solved state, and returns a state of the same value, up to
the residual, whose backward pass carries the gradient to the loop's parameters and to the recalled input. Memory and
time do not depend on how many iterations it took to get there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from loopscope.checks import check_mask, check_start
from loopscope.errors import LoopscopeError, check_positive
from loopscope.fixed_points.reaching import Reached, reach
from loopscope.fixed_points.solvers import PlainIteration, Solver
from loopscope.gmres import LinearSolution, identity_minus_transpose
from loopscope.gmres import gmres as solve
from loopscope.jacobian import Jacobian, step_jacobian
from loopscope.loop import Loop
from loopscope.trees import Tree, batch_size, detached, flatten, leaves, unflatten

DEFAULT_SOLVER = PlainIteration()


@runtime_checkable
class Gradient(Protocol):
    """A way to give a solved state its gradient."""

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return the state, one or more iterations on, with a graph to the parameters and to ``recalled``."""


@dataclass(frozen=True)
class Implicit:
    """The exact gradient, (I - J^T) v = g solved by GMRES with products alone (Bai, Kolter and Koltun, 2019).

    Costs one step with its backward pass, and a product v^T J for each iteration of GMRES. It is the gradient of the
    fixed point only as far as ``state`` is one, and does not ask that the loop contract there: I - J needs to be
    invertible, no more. Each example has its own J and is solved on its own.

    Args:
        tolerance: on the relative residual of each example's linear solve.
        max_iterations: products for each example; one that needs more keeps the best v found, so watch ``report``.
        restart: vectors that GMRES keeps, each of the size of the states.
        report: called in every backward pass with what the linear solve came to.

    Raises:
        LoopscopeError: in the backward pass, if the state carries a counter or the step is random.
    """

    tolerance: float = 1e-5
    max_iterations: int = 100
    restart: int = 32
    report: Callable[[LinearSolution], None] | None = None

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance, max_iterations=self.max_iterations, restart=self.restart)

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return f(state) with the implicit gradient."""
        state = detached(state)
        after = loop.step(state, recalled)
        jacobian = step_jacobian(loop, state, recalled)
        return unflatten(_ImplicitFunction.apply(flatten(after), jacobian, self), after)


class _ImplicitFunction(torch.autograd.Function):
    """The identity, whose backward pass applies (I - J^T)^-1."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, jacobian: Jacobian, options: Implicit) -> Tensor:
        ctx.jacobian, ctx.options = jacobian, options
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), options = gradients, ctx.options
        found = solve(
            identity_minus_transpose(ctx.jacobian),
            gradient.to(ctx.jacobian.point),
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
            restart=options.restart,
        )
        if options.report is not None:
            options.report(found)
        return found.x.to(gradient), None, None


@dataclass(frozen=True)
class Truncated:
    """Backpropagation through the last ``iterations`` alone; 1 is the one-step gradient (Fung et al., 2022).

    On a loop that contracts by q per step the relative error falls as q^iterations.

    Args:
        iterations: steps that are taken with gradient, from the solved state on.
    """

    iterations: int = 1

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return the state after ``iterations`` steps with gradient."""
        return _unrolled(loop, recalled, state, self.iterations, 1.0)


@dataclass(frozen=True)
class Phantom:
    """The phantom gradient: backpropagation through damped steps at the solved state (Geng et al., 2021).

    Args:
        iterations: damped steps that are taken with gradient.
        damping: the fraction of each step that is taken.

    Raises:
        LoopscopeError: the damping is not above 0 and at most 1.
    """

    iterations: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)
        if not 0 < self.damping <= 1:
            raise LoopscopeError(f"damping is {self.damping}, expected a number above 0 and at most 1")

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return the state after ``iterations`` damped steps with gradient."""
        return _unrolled(loop, recalled, state, self.iterations, self.damping)


def fixed_point(
    loop: Loop,
    inputs: Tree,
    *,
    gradient: Gradient,
    solver: Solver = DEFAULT_SOLVER,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
    seed: int = 0,
    report: Callable[[Reached], None] | None = None,
) -> Tree:
    """Return the fixed points of ``inputs`` with a graph to the loop's parameters and to the inputs, for training.

    The state is solved for without a graph, then given its ``gradient``. The loop stays in the mode it is in. Autocast
    is off: in bf16 residuals bottom out near 4e-3. An example that did not arrive within the budget is returned as it
    is; its gradient then belongs to no fixed point.

    Args:
        loop: any loop without counters.
        inputs: its inputs, batch first.
        gradient: Implicit(...), Truncated(...) or Phantom(...).
        solver: how the state is reached.
        tolerance: on the relative residual of the state.
        max_iterations: evaluations of the step that an example may take.
        seed: for a loop whose start is random.
        report: called with where the solver ended, before the gradient is attached.

    Raises:
        LoopscopeError: see `loopscope.fixed_points.reaching.reach`; inputs that are no tensors or disagree about the batch,
            another number of first states, or a mask that fits no part of the state.
    """
    batch = batch_size(inputs)
    device = leaves(inputs)[0].device
    with torch.autocast(device.type, enabled=False):
        recalled = loop.encode(inputs)
        with torch.no_grad():
            fixed = detached(recalled)
            start = loop.start(fixed, torch.Generator(device).manual_seed(seed))
        check_start(start, batch)
        check_mask(loop, start, fixed)
        found = reach(loop, fixed, start, solver=solver, tolerance=tolerance, max_iterations=max_iterations)
        if report is not None:
            report(found)
        return gradient(loop, recalled, found.state)


def _unrolled(loop: Loop, recalled: Tree, state: Tree, iterations: int, damping: float) -> Tree:
    state = detached(state)
    for _ in range(iterations):
        after = loop.step(state, recalled)
        if damping < 1:
            after = unflatten(torch.lerp(flatten(state), flatten(after), damping), after)
        state = after
    return state
