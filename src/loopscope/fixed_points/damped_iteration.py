"""Damped fixed-point iteration: a fraction of each step."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from loopscope.errors import check_fraction


@dataclass(frozen=True)
class DampedIteration:
    """z <- (1 - damping) z + damping f(z), for loops that overshoot because J has eigenvalues near or below -1.

    Near a fixed point it converges if |1 + damping (l - 1)| < 1 for every eigenvalue l of J. For l = -1.5, this means a
    damping below 0.8. If an eigenvalue has a real part of 1 or more, no damping helps.

    Args:
        damping: the fraction of each step that is taken, above 0 and at most 1.

    Raises:
        LoopscopeError: the damping is outside these bounds.

    Example:
        >>> import loopscope as ls, torch
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: x - 1.5 * z, read=lambda z: z
        ... )
        >>> found = ls.solve(loop, torch.ones(1, 1), solver=ls.DampedIteration(0.4))  # the fixed point is 1 / 2.5
        >>> found.arrived, found.state
        (tensor([True]), tensor([[0.4000]]))
    """

    damping: float = 0.5

    def __post_init__(self) -> None:
        check_fraction(damping=self.damping)

    def begin(self, like: Float[Tensor, "batch n"]) -> DampedIteration:
        """Return itself: damped iteration remembers nothing."""
        return self

    def correction(self, point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"]) -> Tensor | None:
        """Return (1 - damping) (z - f(z))."""
        return None if self.damping == 1 else (1 - self.damping) * (point - value)

    def keep(self, rows: Tensor) -> None:
        """Do nothing: the method keeps no history."""
