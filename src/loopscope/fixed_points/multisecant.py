"""Multisecant methods, the base of Anderson and Broyden: both learn about J from differences between past evaluations.

Let s_i = z_i+1 - z_i be the steps, y_i the changes of the residual, and d_i = f(z_i+1) - f(z_i) = s_i + y_i the changes of
the value. Both methods move to

    f(z) + sum_i w_i d_i.

They differ in the small system that gives the weights w of an example, with g = f(z) - z (Fang and Saad, 2009):

- Anderson (type II): the least-squares solution w = argmin ||g + sum_i w_i y_i||;
- Broyden: (S^T D - U) (-w) = S^T g, where U is the upper triangle of S^T S including its diagonal, in order of time. This
  is the compact form of the inverse updates that begin from J = 0 (Byrd, Nocedal and Schnabel, 1994, theorem 6.2).

Products of differences are kept, so an evaluation costs two passes over the memory for Anderson and four for Broyden. All
examples of a batch have taken the same number of steps, so they share one slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count
from loopscope.trees import binary_scale

LARGEST_MEMORY = 1000
"""Most differences that may be kept: their products with each other take the square of this for each example."""

LOOPED_FROM = 1024
"""Length of vectors from which, on a CPU, products are computed one example after another. This is four times faster."""
RUNAWAY = 10.0
"""If a cycle's smallest residual exceeds that of the solve by this factor, plain steps lead away from the fixed point."""
SAFE_SCALES = (2.0**-20, 2.0**20)
"""Residuals whose largest number lies between these can be squared in float32 without losing precision."""


def dots(basis: Float[Tensor, "batch m n"], vectors: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
    """Return the dot products of each example's ``basis`` vectors with its vector."""
    if basis.is_cuda or basis.shape[2] < LOOPED_FROM:
        return torch.bmm(basis, vectors.unsqueeze(2)).squeeze(2)
    out = basis.new_empty(basis.shape[:2])
    for own, vector, products in zip(basis, vectors, out, strict=True):
        torch.mv(own, vector, out=products)
    return out


def combine(weights: Float[Tensor, "batch m"], basis: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch n"]:
    """Return each example's weighted sum of basis vectors."""
    return torch.bmm(weights.unsqueeze(1), basis).squeeze(1)


def move_up(stored: Tensor, rows: Int[Tensor, "kept"]) -> Tensor:
    """Return ``stored[rows]``, for ascending rows, in the same storage: new memory would cost more than the copy."""
    for target, row in enumerate(rows.tolist()):
        if target != row:
            stored[target].copy_(stored[row])
    return stored[: len(rows)]


def check_memory(memory: int) -> None:
    """Refuse a number of differences that is not a whole number from 1 to `LARGEST_MEMORY`.

    Raises:
        LoopscopeError: naming the number.
    """
    check_count(memory=memory)
    if memory > LARGEST_MEMORY:
        raise LoopscopeError(f"memory is {memory:,}, expected at most {LARGEST_MEMORY:,} differences: a few are enough")


def _solved(matrix: Float[Tensor, "batch m m"], rhs: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
    """Solve small systems. Return zero for a system without a solution."""
    found, failed = torch.linalg.solve_ex(matrix, rhs.unsqueeze(2))
    found = found.squeeze(2)
    usable = (failed == 0) & found.isfinite().all(1)
    return torch.where(usable.unsqueeze(1), found, 0)


class MultisecantMemory(ABC):
    """The differences of a batch, with a safeguard that discards them when they mislead.

    An example whose residual exceeds ``growth`` times the smallest of its present cycle starts a new cycle: it returns to the
    best value of the present cycle and discards its differences.

    In the first cycle this does not apply until the memory is full. On an affine loop, the residual of an iterate may be up
    to ||J|| times as large as the method has reduced it to, so growth proves nothing there. Nor does it apply in a later cycle
    if the previous one ended far above the smallest residual of the solve: on such a loop plain steps, with which a new cycle
    begins, lead away. In all other cases growth ends a cycle at once. If information travels through the tokens (J is far
    from normal), weights from growing residuals would cost several times as many evaluations.

    Args:
        like: a batch of flat states with the shape, precision and device of those to come.
        slots: number of differences to keep.
        regularization: see ``loopscope.fixed_points.anderson.Anderson``.
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
        self.smallest = like.new_full((batch,), torch.inf)
        self.restarted = torch.zeros(batch, dtype=torch.bool, device=like.device)
        self.free = torch.ones(batch, dtype=torch.bool, device=like.device)
        self.recorded = torch.zeros(batch, dtype=torch.long, device=like.device)
        self.unit: Tensor | None = None
        self.last: tuple[Tensor, Tensor] | None = None
        self.count = 0

    def correction(
        self, point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"] | None:
        """Return sum_i w_i d_i or, for an example that starts a new cycle, the step back to its best value."""
        if self.last is None:
            self.unit = _unit(value - point)
        if self.unit is not None:
            point, value = point / self.unit, value / self.unit
        residual = value - point
        self._record(self.left_of(point, residual), value)
        self._guard(residual, value)
        if self.count == 0:
            return None
        correction = combine(self._weights(residual).to(value), self.values)
        finite = torch.linalg.vector_norm(correction, dim=1).isfinite()
        correction = torch.where(finite.unsqueeze(1), correction, 0)
        correction = torch.where(self.restarted.unsqueeze(1), self.best_value - value, correction)
        return correction if self.unit is None else correction * self.unit

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Keep only the examples at ``rows``, which are in ascending order."""
        self.left, self.values = move_up(self.left, rows), move_up(self.values, rows)
        self.used, self.restarted = self.used[rows], self.restarted[rows]
        self.free, self.recorded = self.free[rows], self.recorded[rows]
        self.best, self.best_value, self.smallest = self.best[rows], self.best_value[rows], self.smallest[rows]
        self.unit = None if self.unit is None else self.unit[rows]
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1][rows]

    def _record(self, left: Tensor, value: Tensor) -> None:
        """Store the differences to the previous evaluation."""
        if self.last is not None:
            slot = self.count % self.left.shape[1]
            torch.sub(left, self.last[0], out=self.left[:, slot])
            torch.sub(value, self.last[1], out=self.values[:, slot])
            self.multiply(slot)
            # The step back to the best value says nothing about J.
            self.used[:, slot] = ~self.restarted
            self.recorded = torch.where(self.restarted, 0, self.recorded + 1)
            self.count += 1
        self.last = left, value

    def _guard(self, residual: Tensor, value: Tensor) -> None:
        """Decide which examples start a new cycle, and whether growth may end it."""
        size = torch.linalg.vector_norm(residual, dim=1)
        better = size < self.best
        self.best = torch.where(better, size, self.best)
        self.best_value = torch.where(better.unsqueeze(1), value, self.best_value)
        self.smallest = torch.minimum(self.smallest, size)
        tolerated = self.free & (self.recorded < self.left.shape[1])
        self.restarted = (size > self.growth * self.best) & ~tolerated
        self.free = torch.where(self.restarted, self.best > RUNAWAY * self.smallest, self.free)
        self.used &= ~self.restarted.unsqueeze(1)
        self.best = self.best.masked_fill(self.restarted, torch.inf)

    def _weights(self, residual: Tensor) -> Tensor:
        """Solve the small system with each difference scaled to length one. Unused slots get no weight."""
        system, square = self.system()
        used = self.used & (square > 0)
        lengths = torch.where(used, square, 1).sqrt()
        both = used.unsqueeze(1) & used.unsqueeze(2)
        system = torch.where(both, system / (lengths.unsqueeze(1) * lengths.unsqueeze(2)), 0)
        system = system + torch.diag_embed(~used + self.regularization)
        return -_solved(system, torch.where(used, dots(self.left, residual) / lengths, 0)) / lengths

    @abstractmethod
    def left_of(self, point: Tensor, residual: Tensor) -> Tensor:
        """Return the vectors whose differences form the left side of the system."""

    @abstractmethod
    def multiply(self, slot: int) -> None:
        """Update the stored products of differences after ``slot`` has received a new one."""

    @abstractmethod
    def system(self) -> tuple[Float[Tensor, "batch m m"], Float[Tensor, "batch m"]]:
        """Return A in A (-w) = L^T g, where L holds the left vectors, and their squared lengths, in float64."""


def _unit(residual: Tensor) -> Tensor | None:
    """Return powers of two by which residuals are divided before they are squared, or None if none are needed."""
    unit = binary_scale(residual)
    lowest, highest = SAFE_SCALES
    return None if bool(((unit >= lowest) & (unit <= highest)).all()) else unit
