"""Gradients of fixed points, without backpropagation through the iterations that led to them.

At z* = f(z*, e) the implicit function theorem gives dz*/dp = (I - J)^-1 df/dp for every parameter p and for e, with
J = df/dz. Backpropagation needs v = (I - J^T)^-1 g for the gradient g of the loss in z*, then v^T df/dp:

- ``Implicit`` solves for v, which gives the gradient of the fixed point itself;
- ``Truncated`` keeps the first k terms of v = g + J^T g + J^T^2 g + ...; one term is the one-step gradient;
- ``Phantom`` does the same for the damped iteration, whose terms shrink where those of J itself may not.

Each takes the loop, the recalled input (with its graph) and a solved state, and returns a state of the same value, up to
the residual. Its backward pass carries the gradient to the loop's parameters and to the recalled input. Memory and time
do not depend on the number of iterations that led to the state.

If a state is not a fixed point, or the linear solve did not converge, the gradient is not the gradient of a fixed point. A
warning says so once per loop, unless the caller asked for a report.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from loopscope.checks import prepare_states
from loopscope.contexts import without_autocast
from loopscope.errors import LoopscopeWarning, check_count, check_fraction, check_positive
from loopscope.fixed_points.halting import SolverRun, run_solver
from loopscope.fixed_points.plain_iteration import PlainIteration
from loopscope.fixed_points.solver import Solver
from loopscope.gmres import LinearSolution, gmres, identity_minus_transpose
from loopscope.jacobian import Jacobian, step_jacobian
from loopscope.loop import Loop
from loopscope.trees import Tree, detached, flatten, unflatten

DEFAULT_SOLVER = PlainIteration()


@runtime_checkable
class Gradient(Protocol):
    """A way to attach a gradient to a solved state."""

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return the state after one or more further iterations, with a graph to the parameters and to ``recalled``."""


@dataclass(frozen=True)
class Implicit:
    """The exact gradient: (I - J^T) v = g, solved by GMRES from products alone (Bai, Kolter and Koltun, 2019).

    It costs one step with its backward pass, and a product v^T J for each iteration of GMRES. It is as exact as ``state`` is
    close to a fixed point. The loop need not contract there: I - J only needs to be invertible. Each example has its own J
    and is solved on its own.

    Args:
        tolerance: bound on the relative residual of each example's linear solve.
        max_iterations: largest number of products per example. An example that needs more keeps the best v found.
        restart: number of vectors that GMRES keeps, each of the size of the states.
        report: called in every backward pass with the outcome of the linear solve. Without it, a warning is given, once for
            each loop, if a solve did not converge.

    Raises:
        LoopscopeError: an option is not above 0; in the backward pass, if the state carries a counter or the step is random.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 0.5 * z + x, read=lambda z: z
        ... )
        >>> inputs = torch.ones(1, 1, requires_grad=True)
        >>> fixed_point(loop, inputs, gradient=Implicit()).sum().backward()
        >>> inputs.grad  # z* = 2 x
        tensor([[2.]])
    """

    tolerance: float = 1e-5
    max_iterations: int = 100
    restart: int = 32
    report: Callable[[LinearSolution], None] | None = None

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)
        check_count(max_iterations=self.max_iterations, restart=self.restart)

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return f(state) with the implicit gradient."""
        state = detached(state)
        after = loop.step(state, recalled)
        jacobian = step_jacobian(loop, state, recalled)
        return unflatten(_ImplicitFunction.apply(flatten(after), jacobian, self, loop), after)


class _ImplicitFunction(torch.autograd.Function):
    """The identity, whose backward pass applies (I - J^T)^-1."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, jacobian: Jacobian, options: Implicit, loop: Loop) -> Tensor:
        ctx.jacobian, ctx.options, ctx.loop = jacobian, options, loop
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), options = gradients, ctx.options
        found = gmres(
            identity_minus_transpose(ctx.jacobian),
            gradient.to(ctx.jacobian.point),
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
            restart=options.restart,
        )
        if options.report is not None:
            options.report(found)
        elif not bool(found.converged.all()):
            _warn_once(ctx.loop, "linear solve", _unsolved(found, options))
        return found.x.to(gradient), None, None, None


@dataclass(frozen=True)
class Truncated:
    """Backpropagation through the last ``iterations`` alone. One iteration gives the one-step gradient (Fung et al., 2022).

    On a loop that contracts by q per step, the relative error falls as q^iterations.

    Args:
        iterations: number of steps with gradient, starting at the solved state.

    Raises:
        LoopscopeError: ``iterations`` is not a whole number above 0.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 0.5 * z + x, read=lambda z: z
        ... )
        >>> inputs = torch.ones(1, 1, requires_grad=True)
        >>> fixed_point(loop, inputs, gradient=Truncated(3)).sum().backward()
        >>> inputs.grad  # 1 + 1/2 + 1/4, instead of 2
        tensor([[1.7500]])
    """

    iterations: int = 1

    def __post_init__(self) -> None:
        check_count(iterations=self.iterations)

    def __call__(self, loop: Loop, recalled: Tree, state: Tree) -> Tree:
        """Return the state after ``iterations`` steps with gradient."""
        return _unrolled(loop, recalled, state, self.iterations, 1.0)


@dataclass(frozen=True)
class Phantom:
    """The phantom gradient: backpropagation through damped steps at the solved state (Geng et al., 2021).

    Args:
        iterations: number of damped steps with gradient.
        damping: the fraction of each step that is taken, above 0 and at most 1.

    Raises:
        LoopscopeError: an option is outside these bounds.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 0.5 * z + x, read=lambda z: z
        ... )
        >>> inputs = torch.ones(1, 1, requires_grad=True)
        >>> fixed_point(loop, inputs, gradient=Phantom(2, damping=0.5)).sum().backward()
        >>> inputs.grad  # (1 + 3/4) / 2
        tensor([[0.8750]])
    """

    iterations: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        check_count(iterations=self.iterations)
        check_fraction(damping=self.damping)

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
    report: Callable[[SolverRun], None] | None = None,
) -> Tree:
    """Return the fixed points of ``inputs`` with a graph to the loop's parameters and to the inputs, for training.

    The state is solved for without a graph, then its ``gradient`` is attached. The loop stays in its current mode. Autocast is
    off, because residuals in bf16 level off near 4e-3. For an example that did not arrive within the budget, the state with
    the smallest residual is used. Its gradient is not the gradient of a fixed point, and a warning counts such examples.

    Args:
        loop: any loop without counters.
        inputs: its inputs, batch first.
        gradient: Implicit(...), Truncated(...) or Phantom(...).
        solver: how the state is reached.
        tolerance: bound on the relative residual of the state.
        max_iterations: largest number of evaluations of the step per example.
        seed: seed of a random start.
        report: called with the solver's result, before the gradient is attached. Without it, a warning is given, once for
            each loop, if examples have not arrived.

    Raises:
        LoopscopeError: `loopscope.fixed_points.halting.run_solver` or `loopscope.checks.prepare_states` refuses the loop, its
            inputs or an option.

    Warns:
        LoopscopeWarning: examples have not arrived, and ``report`` is not given.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: torch.cos(z) * x, read=lambda z: z
        ... )
        >>> inputs = torch.ones(1, 1, requires_grad=True)
        >>> state = fixed_point(loop, inputs, gradient=Implicit(), solver=ls.Anderson(), tolerance=1e-6)
        >>> state.sum().backward()
        >>> state.detach(), inputs.grad
        (tensor([[0.7391]]), tensor([[0.4416]]))
    """
    with without_autocast():
        ready = prepare_states(loop, inputs, seed=seed)
        recalled, fixed = ready.recalled, detached(ready.recalled)
        found = run_solver(loop, fixed, ready.start, solver=solver, tolerance=tolerance, max_iterations=max_iterations)
        if report is not None:
            report(found)
        elif not bool((found.residual <= tolerance).all()):
            _warn_once(loop, "arrival", _missed(found, tolerance, max_iterations))
        return gradient(loop, recalled, found.state)


def _unrolled(loop: Loop, recalled: Tree, state: Tree, iterations: int, damping: float) -> Tree:
    state = detached(state)
    for _ in range(iterations):
        after = loop.step(state, recalled)
        if damping < 1:
            after = unflatten(torch.lerp(flatten(state), flatten(after), damping), after)
        state = after
    return state


def _missed(found: SolverRun, tolerance: float, max_iterations: int) -> str:
    missed = found.residual > tolerance
    diverged = int((~found.last_residual.isfinite()).sum())
    return (
        f"{int(missed.sum())} of {len(missed)} examples have not reached their fixed points within {max_iterations} "
        f"iterations (residuals up to {float(found.residual[missed].max()):.1e}, tolerance {tolerance:g}"
        f"{f', {diverged} diverged' if diverged else ''}), so their gradients are not those of fixed points: allow more "
        "iterations or use another solver, or pass report= to handle this yourself"
    )


def _unsolved(found: LinearSolution, options: Implicit) -> str:
    unsolved = ~found.converged
    return (
        f"the implicit gradients of {int(unsolved.sum())} of {len(unsolved)} examples are inexact: the linear solve did not "
        f"converge within {options.max_iterations} products (residuals up to {float(found.residual[unsolved].max()):.1e}, "
        f"tolerance {options.tolerance:g}): allow more with Implicit(max_iterations=...), or pass report= to handle this yourself"
    )


_WARNED: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
"""Kinds of warnings already given, by loop."""


def _warn_once(loop: Loop, kind: str, message: str) -> None:
    """Warn, but only once per loop and kind of warning: training would repeat it at every step."""
    try:
        given = _WARNED.setdefault(loop, set())
    except TypeError:  # a loop without a hash or weak references: warn every time
        given = set()
    if kind not in given:
        given.add(kind)
        warnings.warn(message, LoopscopeWarning, stacklevel=3)
