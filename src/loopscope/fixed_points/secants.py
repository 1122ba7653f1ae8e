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
from jaxtyping import Bool, Float, Int
from torch import Tensor

GROWTH = 10.0
"""A residual so many times the best one means that the remembered differences mislead: start over from the best."""
SHORT = 2048
"""On a CPU, vectors from this length on are multiplied one example after another: that stays in the cache."""


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
    if basis.is_cuda or basis.shape[2] < SHORT:
        return torch.bmm(weights.unsqueeze(1), basis).squeeze(1)
    out = basis.new_empty(basis.shape[0], basis.shape[2])
    for own, weight, total in zip(basis, weights, out, strict=True):
        torch.mv(own.T, weight, out=total)
    return out


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


def _scale(matrix: Float[Tensor, "batch m m"]) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch m m"]]:
    """Return the square roots of the diagonal of S^T S (1 in unused slots), and a diagonal of ones in unused slots."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    unused = diagonal == 0
    return torch.where(unused, 1, diagonal).sqrt(), torch.diag_embed(unused.to(matrix.dtype))


class Secants(ABC):
    """The remembered differences of a batch, and starting over from the best state where they mislead.

    A slot that an example does not use is zero in all that is stored.
    """

    def __init__(self, like: Float[Tensor, "batch n"], slots: int) -> None:
        batch, size = like.shape
        self.left = like.new_zeros(batch, slots, size)
        self.values = like.new_zeros(batch, slots, size)
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
            # The way back to the best state is no step to learn from.
            learn = ~self.restarted.unsqueeze(1)
            slot = self.count % self.left.shape[1]
            self.left[:, slot] = torch.where(learn, left - self.last[0], 0)
            self.values[:, slot] = torch.where(learn, value - self.last[1], 0)
            self.multiply(slot)
            self.count += 1
        self.last = left, value

        size = torch.linalg.vector_norm(residual, dim=1)
        better = size < self.best
        self.best = torch.where(better, size, self.best)
        self.best_value = torch.where(better.unsqueeze(1), value, self.best_value)
        self.restarted = size > GROWTH * self.best
        if bool(self.restarted.any()):
            self.forget(self.restarted)
        if self.count == 0:
            return None
        correction = combine(self.weights(residual).to(value), self.values)
        finite = torch.linalg.vector_norm(correction, dim=1).isfinite()
        correction = torch.where(finite.unsqueeze(1), correction, 0)
        return torch.where(self.restarted.unsqueeze(1), self.best_value - value, correction)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Forget all examples but those at ``rows``, which ascend."""
        self.left, self.values = move_up(self.left, rows), move_up(self.values, rows)
        self.best, self.best_value, self.restarted = self.best[rows], self.best_value[rows], self.restarted[rows]
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1][rows]

    def forget(self, rows: Bool[Tensor, "batch"]) -> None:
        """Empty the slots of some examples."""
        self.left[rows], self.values[rows] = 0, 0
        self.best = self.best.masked_fill(rows, torch.inf)

    @abstractmethod
    def left_of(self, point: Tensor, residual: Tensor) -> Tensor:
        """Return what the stored left vectors are differences of."""

    @abstractmethod
    def multiply(self, slot: int) -> None:
        """Update the stored products of differences after a new one came into ``slot``."""

    @abstractmethod
    def weights(self, residual: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        """Return w, in float64."""


class AndersonMemory(Secants):
    """Left vectors are the y_i, products are Y^T Y."""

    def __init__(self, like: Float[Tensor, "batch n"], slots: int, regularization: float) -> None:
        super().__init__(like, slots)
        self.products = like.new_zeros(len(like), slots, slots, dtype=torch.float64)
        self.regularization = regularization

    def left_of(self, point: Tensor, residual: Tensor) -> Tensor:
        """Return the residual."""
        return residual

    def multiply(self, slot: int) -> None:
        """Update Y^T Y."""
        self.products[:, slot] = self.products[:, :, slot] = dots(self.left, self.left[:, slot]).double()

    def weights(self, residual: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        """Solve the normal equations, each difference scaled to length one."""
        scale, unused = _scale(self.products)
        matrix = self.products / (scale.unsqueeze(1) * scale.unsqueeze(2)) + unused
        matrix.diagonal(dim1=1, dim2=2).add_(self.regularization)
        return -_solved(matrix, dots(self.left, residual) / scale) / scale

    def forget(self, rows: Bool[Tensor, "batch"]) -> None:
        """Empty the slots of some examples."""
        super().forget(rows)
        self.products[rows] = 0

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Forget all examples but those at ``rows``, which ascend."""
        super().keep(rows)
        self.products = self.products[rows]


class BroydenMemory(Secants):
    """Left vectors are the s_i, products are S^T S and S^T D."""

    def __init__(self, like: Float[Tensor, "batch n"], slots: int) -> None:
        super().__init__(like, slots)
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

    def weights(self, residual: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        """Solve the compact form's system, each step scaled to length one."""
        scale, unused = _scale(self.steps)
        in_order = self.time.unsqueeze(1) <= self.time
        matrix = (in_order * self.steps - self.products) / (scale.unsqueeze(1) * scale.unsqueeze(2)) + unused
        return _solved(matrix, dots(self.left, residual) / scale) / scale

    def forget(self, rows: Bool[Tensor, "batch"]) -> None:
        """Empty the slots of some examples."""
        super().forget(rows)
        self.steps[rows], self.products[rows] = 0, 0

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Forget all examples but those at ``rows``, which ascend."""
        super().keep(rows)
        self.steps, self.products = self.steps[rows], self.products[rows]
