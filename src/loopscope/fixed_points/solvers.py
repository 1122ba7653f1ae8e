"""Solvers: where to evaluate the step next, given where it has been evaluated so far.

Every solver moves to f(z) plus a correction, for a batch of independent examples in flat form:

- plain iteration: no correction;
- damped iteration: (1 - damping) (z - f(z));
- Anderson and Broyden: a combination of past differences f(z_i+1) - f(z_i), its weights from a small system of
  equations per example (see ``loopscope.fixed_points.secants``).

A solver is a small frozen object; what it remembers during one solve is its ``Memory``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_positive
from loopscope.fixed_points.secants import AndersonMemory, BroydenMemory


@runtime_checkable
class Memory(Protocol):
    """What a solver remembers during one solve: one row per example in the working batch."""

    def correction(
        self, point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"] | None:
        """Return what to add to ``value``, f(z) at ``point``, for the next state; None stands for nothing."""

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Forget all examples but those at ``rows``, which ascend."""


@runtime_checkable
class Solver(Protocol):
    """A way to a fixed point."""

    def begin(self, like: Float[Tensor, "batch n"]) -> Memory:
        """Return an empty memory for states of this shape, precision and device."""


@dataclass(frozen=True)
class PlainIteration:
    """z <- f(z): what the model itself does. The only solver for loops that carry a counter."""

    def begin(self, like: Float[Tensor, "batch n"]) -> Memory:
        """Return an empty memory."""
        return _Damping(1.0)


@dataclass(frozen=True)
class DampedIteration:
    """z <- (1 - damping) z + damping f(z): for loops that overshoot, with eigenvalues of J near or below -1.

    Near a fixed point it arrives where |1 + damping (l - 1)| < 1 for every eigenvalue l of J: with l = -1.5, for
    instance, where the damping is below 0.8. Eigenvalues of real part 1 or more are beyond any damping.

    Args:
        damping: the fraction of each step that is taken.

    Raises:
        LoopscopeError: the damping is not above 0 and at most 1.
    """

    damping: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise LoopscopeError(f"damping is {self.damping}, expected a number above 0 and at most 1")

    def begin(self, like: Float[Tensor, "batch n"]) -> Memory:
        """Return an empty memory."""
        return _Damping(self.damping)


@dataclass(frozen=True)
class _Damping:
    damping: float

    def correction(self, point: Tensor, value: Tensor) -> Tensor | None:
        return None if self.damping == 1 else (1 - self.damping) * (point - value)

    def keep(self, rows: Tensor) -> None:
        return None


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration, type II with differences (Anderson, 1965; Walker and Ni, 2011).

    The next state combines the last values f(z_i) with the weights for which the residual would be the smallest if f
    were affine; on affine loops it is GMRES, up to the memory. An example whose residual grows starts over from its
    best state. Where plain iteration is slow it takes far fewer evaluations, but it may end at another fixed point.

    Args:
        memory: differences kept: two vectors of the state's size for each.
        regularization: of the weights, each against the size of its own difference. It keeps the rounding of nearly
            parallel differences out of the next state.

    Raises:
        LoopscopeError: the memory is below 1, or the regularization is not above 0.
    """

    memory: int = 6
    regularization: float = 1e-8

    def __post_init__(self) -> None:
        check_positive(memory=self.memory, regularization=self.regularization)

    def begin(self, like: Float[Tensor, "batch n"]) -> Memory:
        """Return an empty memory."""
        return AndersonMemory(like, self.memory, self.regularization)


@dataclass(frozen=True)
class Broyden:
    """Broyden's first ("good") method from J = 0, limited memory (Broyden, 1965; Byrd, Nocedal and Schnabel, 1994).

    Each evaluation corrects an estimate of J along the last step. The estimate rests on the last ``memory`` steps;
    older ones are dropped. No line search: an example whose residual grows tenfold starts over from its best state.

    Args:
        memory: steps kept: two vectors of the state's size for each.

    Raises:
        LoopscopeError: the memory is below 1.
    """

    memory: int = 16

    def __post_init__(self) -> None:
        check_positive(memory=self.memory)

    def begin(self, like: Float[Tensor, "batch n"]) -> Memory:
        """Return an empty memory."""
        return BroydenMemory(like, self.memory)
