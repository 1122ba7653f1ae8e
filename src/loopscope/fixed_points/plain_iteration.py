"""Plain fixed-point iteration, which is what the model itself does."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PlainIteration:
    """z <- f(z), which is what the model itself does. It is the only solver for loops that carry a counter.

    Example:
        >>> import loopscope as ls, torch
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 0.5 * z + x, read=lambda z: z
        ... )
        >>> ls.solve(loop, torch.ones(1, 1), solver=ls.PlainIteration()).iterations
        tensor([14])
    """

    def begin(self, like: Float[Tensor, "batch n"]) -> PlainIteration:
        """Return itself: plain iteration remembers nothing."""
        return self

    def correction(self, point: Tensor, value: Tensor) -> None:
        """Return None: the next state is ``value``."""

    def keep(self, rows: Tensor) -> None:
        """Do nothing: the method keeps no history."""
