"""Broyden's method with limited memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.fixed_points.multisecant import MultisecantMemory, check_memory, dots


@dataclass(frozen=True)
class Broyden:
    """Broyden's first ("good") method from J = 0 (Broyden, 1965; Byrd, Nocedal and Schnabel, 1994).

    Each evaluation corrects an estimate of J along the last step. The estimate rests on the last ``memory`` steps; older
    ones are dropped. On an affine loop in n dimensions it arrives after at most 2 n + 1 evaluations (Gay, 1979) if the memory
    holds 2 n steps. As with Anderson, J need not be a contraction. There is no line search: an example whose residual grows
    tenfold starts over from its best state (see ``loopscope.fixed_points.multisecant``).

    Args:
        memory: number of steps kept, each of which takes two vectors of the state's size.

    Raises:
        LoopscopeError: the memory is not a whole number from 1 to 1000.

    Example:
        >>> import loopscope as ls, torch
        >>> expanding = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 1.5 * z + x, read=lambda z: z
        ... )
        >>> found = ls.solve(expanding, torch.tensor([[3.0]]), solver=ls.Broyden(), tolerance=1e-6)
        >>> found.state, found.iterations  # plain iteration leaves the fixed point, -3 / 0.5
        (tensor([[-6.]]), tensor([3]))
    """

    memory: int = 16

    def __post_init__(self) -> None:
        check_memory(self.memory)

    def begin(self, like: Float[Tensor, "batch n"]) -> BroydenMemory:
        """Return an empty memory."""
        return BroydenMemory(like, self.memory)


class BroydenMemory(MultisecantMemory):
    """The left vectors are the s_i, and A = S^T D - U."""

    # Residuals of Broyden's method rise and fall on the way. If it restarted at every rise, it would learn nothing.
    growth = 10.0

    def __init__(self, like: Float[Tensor, "batch n"], slots: int) -> None:
        super().__init__(like, slots, regularization=0.0)
        self.steps = like.new_zeros(len(like), slots, slots, dtype=torch.float64)
        self.products = torch.zeros_like(self.steps)
        self.time = torch.zeros(slots, dtype=torch.long, device=like.device)

    def left_of(self, point: Tensor, residual: Tensor) -> Tensor:
        """Return the state."""
        return point

    def multiply(self, slot: int) -> None:
        """Update S^T S and S^T D."""
        self.time[slot] = self.count
        self.steps[:, slot] = self.steps[:, :, slot] = dots(self.left, self.left[:, slot]).double()
        self.products[:, :, slot] = dots(self.left, self.values[:, slot]).double()
        self.products[:, slot] = dots(self.values, self.left[:, slot]).double()

    def system(self) -> tuple[Float[Tensor, "batch m m"], Float[Tensor, "batch m"]]:
        """Return the compact form."""
        in_order = self.time.unsqueeze(1) <= self.time
        return self.products - in_order * self.steps, self.steps.diagonal(dim1=1, dim2=2)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Keep only the examples at ``rows``, which are in ascending order."""
        super().keep(rows)
        self.steps, self.products = self.steps[rows], self.products[rows]
