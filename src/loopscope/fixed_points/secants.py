"""Solvers that learn about J from the differences between past evaluations: Anderson and Broyden in one form.

With steps s_i = z_i+1 - z_i, changes of the residual y_i and of the value d_i = f(z_i+1) - f(z_i) = s_i + y_i, both
move to

    f(z) + sum_i w_i d_i,

and differ in the small system that gives w per example, with g = f(z) - z:

- Anderson (type II): the least squares w = argmin ||g + sum_i w_i y_i||;
- Broyden: (S^T D - U) (-w) = S^T g, with U the upper triangle of S^T S, its diagonal included, in order of time. This
  is the compact form of the inverse updates that begin from J = 0 (Byrd, Nocedal and Schnabel, 1994, theorem 6.2).

Products of two differences are kept, so that an evaluation costs two passes over what is remembered for Anderson, four
for Broyden. All examples of a batch have taken equally many steps, so that one slot serves all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHORT = 1024
"""On a CPU, products of vectors from this length on are taken one example after another: four times faster."""


def dots(basis: Float[Tensor, "batch m n"], vectors: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
    """Return the product of each of an example's ``basis`` vectors with its vector."""
    if basis.is_cuda or basis.shape[2] < SHORT:
        return torch.bmm(basis, vectors.unsqueeze(2)).squeeze(2)
    out = basis.new_empty(basis.shape[:2])
    for own, vector, products in zip(basis, vectors, out, strict=True):
        torch.mv(own, vector, out=products)
    return out


def combine(weights: Float[Tensor, "batch m"], basis: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch n"]:
    """Return each example's sum of weights times basis vectors."""
    return torch.bmm(weights.unsqueeze(1), basis).squeeze(1)


def move_up(stored: Tensor, rows: Int[Tensor, "kept"]) -> Tensor:
    """Return ``stored[rows]``, rows ascending, in the same storage: fresh memory would cost more than the copy."""
    for target, row in enumerate(rows.tolist()):
        if target != row:
            stored[target].copy_(stored[row])
    return stored[: len(rows)]


def _solved(matrix: Float[Tensor, "batch m m"], rhs: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
    """Solve small systems; the answer is zero where there is none."""
    found, failed = torch.linalg.solve_ex(matrix, rhs.unsqueeze(2))
    found = found.squeeze(2)
    usable = (failed == 0) & found.isfinite().all(1)
    return torch.where(usable.unsqueeze(1), found, 0)


class Secants(ABC):
    """The remembered differences of a batch, and starting over from the best state where they mislead.

    An example whose residual is more than ``growth`` times its best one since the last start goes back to its best
    value and forgets what it remembers.
    """

    growth: float

    def __init__(self, like: Float[Tensor, "batch n"], slots: int, regularization: float) -> None:
        batch, size = like.shape
        self.regularization = regularization
        self.left = like.new_zeros(batch, slots, size)
        self.values = like.new_zeros(batch, slots, size)
        self.used = torch.zeros(batch, slots, dtype=torch.bool, device=like.device)
        self.best = like.new_full((batch,), torch.inf)
        self.best_value = like
        self.restarted = torch.zeros(batch, dtype=torch.bool, device=like.device)
        self.last: tuple[Tensor, Tensor] | None = None
        self.count = 0

    def correction(
        self, point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"] | None:
        """Return sum_i w_i d_i, or the way back to the best value of an example that starts over."""
        residual = value - point
        left = self.left_of(point, residual)
        if self.last is not None:
            slot = self.count % self.left.shape[1]
            torch.sub(left, self.last[0], out=self.left[:, slot])
            torch.sub(value, self.last[1], out=self.values[:, slot])
            self.multiply(slot)
            # The way back to the best state is no step to learn from.
            self.used[:, slot] = ~self.restarted
            self.count += 1
        self.last = left, value

        size = torch.linalg.vector_norm(residual, dim=1)
        better = size < self.best
        self.best = torch.where(better, size, self.best)
        self.best_value = torch.where(better.unsqueeze(1), value, self.best_value)
        self.restarted = size > self.growth * self.best
        self.used &= ~self.restarted.unsqueeze(1)
        self.best = self.best.masked_fill(self.restarted, torch.inf)
        if self.count == 0:
            return None
        correction = combine(self._weights(residual).to(value), self.values)
        finite = torch.linalg.vector_norm(correction, dim=1).isfinite()
        correction = torch.where(finite.unsqueeze(1), correction, 0)
        return torch.where(self.restarted.unsqueeze(1), self.best_value - value, correction)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Forget all examples but those at ``rows``, which ascend."""
        self.left, self.values = move_up(self.left, rows), move_up(self.values, rows)
        self.used, self.restarted = self.used[rows], self.restarted[rows]
        self.best, self.best_value = self.best[rows], self.best_value[rows]
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1][rows]

    def _weights(self, residual: Tensor) -> Tensor:
        """Solve the small system, each difference scaled to length one; slots that are not used get no weight."""
        system, square = self.system()
        used = self.used & (square > 0)
        lengths = torch.where(used, square, 1).sqrt()
        both = used.unsqueeze(1) & used.unsqueeze(2)
        system = torch.where(both, system / (lengths.unsqueeze(1) * lengths.unsqueeze(2)), 0)
        system = system + torch.diag_embed(~used + self.regularization)
        return -_solved(system, torch.where(used, dots(self.left, residual) / lengths, 0)) / lengths

    @abstractmethod
    def left_of(self, point: Tensor, residual: Tensor) -> Tensor:
        """Return what the stored left vectors are differences of."""

    @abstractmethod
    def multiply(self, slot: int) -> None:
        """Update the stored products of differences after a new one came into ``slot``."""

    @abstractmethod
    def system(self) -> tuple[Float[Tensor, "batch m m"], Float[Tensor, "batch m"]]:
        """Return A of A (-w) = L^T g, L being the left vectors, and the squares of their lengths, in float64."""


class AndersonMemory(Secants):
    """Left vectors are the y_i, and A = Y^T Y."""

    # Any growth: on affine loops it hardly happens, and where information travels through the tokens (J is far from
    # normal), weights from a growing residual cost several times the evaluations.
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
        """Forget all examples but those at ``rows``, which ascend."""
        super().keep(rows)
        self.products = self.products[rows]


class BroydenMemory(Secants):
    """Left vectors are the s_i, and A = S^T D - U."""

    # Broyden's residuals go up and down on their way; cut short, it learns nothing.
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
        """Forget all examples but those at ``rows``, which ascend."""
        super().keep(rows)
        self.steps, self.products = self.steps[rows], self.products[rows]
