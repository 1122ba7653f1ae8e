"""The protocol of solvers: a solver chooses the next state from the evaluations of the step so far.

Every solver moves to f(z) plus a correction, for a batch of independent examples in flat form:

- plain iteration: no correction;
- damped iteration: (1 - damping) (z - f(z));
- Anderson and Broyden: a combination of past differences f(z_i+1) - f(z_i), whose weights solve a small system of equations
  for each example (see ``loopscope.fixed_points.multisecant``).

A solver is a small frozen object that can be used for any number of solves. What it remembers during one solve is kept in
its ``Memory``.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError


@runtime_checkable
class Memory(Protocol):
    """What a solver remembers during one solve, with one row per example in the working batch."""

    def correction(
        self, point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"] | None:
        """Return what to add to ``value``, which is f(z) at ``point``, to get the next state. None means zero."""

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Keep only the examples at ``rows``, which are in ascending order."""


@runtime_checkable
class Solver(Protocol):
    """A way to a fixed point.

    Example:
        A solver that takes plain steps, but never moves a number by more than a bound::

            @dataclass(frozen=True)
            class Clipped:
                bound: float

                def begin(self, like):
                    return self

                def correction(self, point, value):
                    return (value - point).clamp(-self.bound, self.bound) - (value - point)

                def keep(self, rows):
                    pass

            ls.solve(loop, inputs, solver=Clipped(0.1))
    """

    def begin(self, like: Float[Tensor, "batch n"]) -> Memory:
        """Return an empty memory for states of this shape, precision and device."""


def check_solver(given: Any) -> None:
    """Refuse what is not a solver.

    Raises:
        LoopscopeError: ``given`` is a class, or has no method ``begin``.

    Example:
        >>> check_solver("anderson")
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: expected a solver such as PlainIteration() or Anderson(memory=6), got 'anderson': ...
    """
    if not isinstance(given, Solver) or isinstance(given, type):
        raise LoopscopeError(
            f"expected a solver such as PlainIteration() or Anderson(memory=6), got {given!r}: pass an instance of a solver class"
        )
