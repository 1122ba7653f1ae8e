"""Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.errors import check_positive
from loopscope.fixed_points.multisecant import MultisecantMemory, check_memory, dots


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration, type II with differences (Anderson, 1965; Walker and Ni, 2011).

    The next state combines the last values f(z_i) with the weights that would make the residual smallest if f were affine.
    On an affine loop z <- J z + u it is therefore GMRES on (I - J) z = u, as long as the memory holds all differences: state
    number k + 1 is f of GMRES's k-th iterate, unless GMRES stagnates. J need not be a contraction. Once the memory is full,
    an example whose residual grows starts over from its best state (see ``loopscope.fixed_points.multisecant``).

    If plain iteration is slow, Anderson acceleration takes far fewer evaluations, but it may end at another fixed point.

    Args:
        memory: number of differences kept, each of which takes two vectors of the state's size.
        regularization: regularization of the weights, relative to the squared length of each difference. It keeps the
            rounding errors of nearly parallel differences out of the next state.

    Raises:
        LoopscopeError: the memory is not a whole number from 1 to 1000, or the regularization is not above 0.

    Example:
        >>> import loopscope as ls, torch
        >>> expanding = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, x: 1.5 * z + x, read=lambda z: z
        ... )
        >>> found = ls.solve(expanding, torch.tensor([[3.0]]), solver=ls.Anderson(), tolerance=1e-6)
        >>> found.state, found.iterations  # plain iteration leaves the fixed point, -3 / 0.5
        (tensor([[-6.]]), tensor([3]))
    """

    memory: int = 6
    regularization: float = 1e-8

    def __post_init__(self) -> None:
        check_memory(self.memory)
        check_positive(regularization=self.regularization)

    def begin(self, like: Float[Tensor, "batch n"]) -> AndersonMemory:
        """Return an empty memory."""
        return AndersonMemory(like, self.memory, self.regularization)


class AndersonMemory(MultisecantMemory):
    """The left vectors are the y_i, and A = Y^T Y."""

    growth = 1.0

    def __init__(self, like: Float[Tensor, "batch n"], slots: int, regularization: float) -> None:
        super().__init__(like, slots, regularization)
        self.products = like.new_zeros(len(like), slots, slots, dtype=torch.float64)

    def left_of(self, point: Tensor, residual: Tensor) -> Tensor:
        """Return the residual."""
        return residual

    def multiply(self, slot: int) -> None:
        """Update Y^T Y."""
        self.products[:, slot] = self.products[:, :, slot] = dots(self.left, self.left[:, slot]).double()

    def system(self) -> tuple[Float[Tensor, "batch m m"], Float[Tensor, "batch m"]]:
        """Return the normal equations."""
        return self.products, self.products.diagonal(dim1=1, dim2=2)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Keep only the examples at ``rows``, which are in ascending order."""
        super().keep(rows)
        self.products = self.products[rows]
