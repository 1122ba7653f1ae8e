"""GMRES for a batch of linear systems, using matrix-vector products alone. Each example converges on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.jacobian import Jacobian
from loopscope.trees import scaled_norm


@dataclass(frozen=True)
class Operator:
    """A square linear operator on flat vectors, per example.

    Attributes:
        apply: Float[Tensor, "batch n"] -> Float[Tensor, "batch n"].
        narrow: rows -> the operator of those examples only, so that finished examples cost nothing.
    """

    apply: Callable[[Tensor], Tensor]
    narrow: Callable[[Tensor], Operator]


def identity_minus(jacobian: Jacobian) -> Operator:
    """Return I - J."""
    return Operator(lambda v: v - jacobian.jvp(v), lambda rows: identity_minus(jacobian.select(rows)))


def identity_minus_transpose(jacobian: Jacobian) -> Operator:
    """Return I - J^T."""
    return Operator(lambda v: v - jacobian.vjp(v), lambda rows: identity_minus_transpose(jacobian.select(rows)))


@dataclass(frozen=True)
class LinearSolution:
    """What ``gmres`` returns.

    Attributes:
        x: the solutions.
        residual: ||b - A x|| / ||b||, computed from x, not by recurrence.
        converged: whether the residual is within the tolerance.
        products: number of products with A, each of a whole batch.
    """

    x: Float[Tensor, "batch n"]
    residual: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    products: int


LITTLE_LEFT = 0.1
"""Gram-Schmidt is repeated if at most this fraction of a vector is left. Otherwise, at most one digit is lost."""


def orthogonalize(
    basis: Float[Tensor, "batch m n"], vectors: Float[Tensor, "batch n"], little_left: float = 1.0
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
    """Return ``vectors`` made orthogonal to the orthonormal (or zero) rows of ``basis``, and their coefficients.

    Classical Gram-Schmidt is run twice ("twice is enough", Giraud, Langou and Rozloznik, 2005). On a CPU the second pass is
    skipped if more than ``little_left`` of a vector's length is left after the first (Daniel, Gragg, Kaufman and Stewart,
    1976). The less of a vector is left, the larger its relative rounding error, which later vectors inherit. A tenth is
    enough for a linear solve, which measures its residual at the end. Eigenvalues need both passes.
    """
    if basis.is_cuda:
        first = torch.bmm(basis, vectors.unsqueeze(2))
        rest = torch.baddbmm(vectors.unsqueeze(2), basis.mT, first, alpha=-1)
        second = torch.bmm(basis, rest)
        rest = torch.baddbmm(rest, basis.mT, second, alpha=-1)
        return rest.squeeze(2), (first + second).squeeze(2)
    # On a CPU, one example at a time fits in the cache, which is six times faster than a batched product.
    rests, totals = torch.empty_like(vectors), basis.new_empty(basis.shape[:2])
    for row, (own, vector) in enumerate(zip(basis, vectors, strict=True)):
        first = torch.mv(own, vector)
        rest = torch.addmv(vector, own.T, first, alpha=-1)
        if little_left < 1 and torch.linalg.vector_norm(rest) > little_left * torch.linalg.vector_norm(vector):
            rests[row], totals[row] = rest, first
            continue
        second = torch.mv(own, rest)
        rests[row] = torch.addmv(rest, own.T, second, alpha=-1)
        totals[row] = first + second
    return rests, totals


def unit(
    vectors: Float[Tensor, "batch n"], tiny: Float[Tensor, "batch"] | None = None
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch"]]:
    """Return unit vectors and lengths.

    A vector that is no longer than ``tiny`` (zero by default) gets length zero and is returned as it is. The length of a
    vector that contains NaN is NaN.
    """
    length = scaled_norm(vectors)
    if tiny is not None:
        length = torch.where(length <= tiny, torch.zeros_like(length), length)
    return vectors / torch.where(length > 0, length, torch.ones_like(length)).unsqueeze(1), length


def gmres(
    operator: Operator,
    rhs: Float[Tensor, "batch n"],
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    restart: int = 128,
) -> LinearSolution:
    """Solve A x = b for each example by restarted GMRES (Saad and Schultz, 1986).

    Examples that have converged leave the batch. An example that has not converged after ``max_iterations`` products, or that
    stalls over a whole cycle, is returned with its residual and with ``converged`` false.

    Args:
        operator: A.
        rhs: b, one vector per example.
        tolerance: bound on ||b - A x|| / ||b||.
        max_iterations: largest number of products per example, not counting those that measure the residual.
        restart: number of Krylov vectors before x is updated.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
        >>> operator = Operator(lambda v: v @ matrix.T, lambda rows: operator)
        >>> gmres(operator, torch.tensor([[3.0, 4.0]])).x.round(decimals=3)
        tensor([[1., 1.]])
    """
    size = scaled_norm(rhs)
    x = torch.zeros_like(rhs).masked_fill(size.isnan().unsqueeze(1), math.nan)
    relative = torch.where(size > 0, torch.ones_like(size), size)  # 0 for b = 0, NaN where b has NaN
    active = torch.arange(rhs.shape[0], device=rhs.device)
    alive = size > 0
    residual, spent, products = rhs, 0, 0
    while bool(alive.any()) and spent < max_iterations:
        if not bool(alive.all()):
            active, residual, operator = active[alive], residual[alive], operator.narrow(alive)
        before = relative[active]
        # Half of the tolerance, so that the measured residual passes too.
        goal = 0.5 * tolerance * size[active]
        step, used = _gmres_cycle(operator, residual, goal, min(restart, max_iterations - spent))
        x[active] += step
        residual = rhs[active] - operator.apply(x[active])
        spent, products = spent + used, products + used + 1
        relative[active] = scaled_norm(residual) / size[active]
        now = relative[active]
        alive = (now > tolerance) & (now < 0.99 * before) & torch.isfinite(now)
    return LinearSolution(x, relative, relative <= tolerance, products)


def _gmres_cycle(operator: Operator, residual: Tensor, goal: Tensor, steps: int) -> tuple[Tensor, int]:
    """Return the updates of x that minimize the residuals over one Krylov space, and the number of products."""
    steps = min(steps, residual.shape[1])
    start, beta = unit(residual)
    basis = residual.new_zeros(residual.shape[0], steps + 1, residual.shape[1])
    basis[:, 0] = start
    matrix = torch.zeros(residual.shape[0], steps + 1, steps, dtype=torch.float64)
    beta, goal = beta.double().cpu(), goal.double().cpu()
    answer = torch.zeros_like(residual)
    rows = torch.arange(residual.shape[0])
    next_check = 1
    for used in range(1, steps + 1):
        image = operator.apply(basis[:, used - 1])
        rest, coefficients = orthogonalize(basis[:, :used], image, LITTLE_LEFT)
        tiny = torch.finfo(image.dtype).eps * scaled_norm(image)
        basis[:, used], length = unit(rest, tiny)
        matrix[:, :used, used - 1] = coefficients.double().cpu()
        matrix[:, used, used - 1] = length.double().cpu()
        if used < next_check and used < steps:
            continue
        next_check = used + 1 + used // 8
        weights, left = _least_squares(matrix[:, : used + 1, :used], beta)
        going = (left > goal) & (used < steps)
        # If only a few have converged, dropping them costs more than their products.
        if 4 * int(going.sum()) > 3 * len(rows):
            continue
        found = torch.bmm(weights.to(basis).unsqueeze(1), basis[:, :used]).squeeze(1)
        answer[rows.to(answer.device)] = found
        if not bool(going.any()):
            break
        kept = going.to(basis.device)
        operator, basis = operator.narrow(kept), basis[kept]
        rows, matrix, beta, goal = rows[going], matrix[going], beta[going], goal[going]
    return answer, used


def _least_squares(matrix: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the y that minimizes ||beta e_1 - H y|| and the minimum, per example; NaN where H or beta is not finite."""
    finite = matrix.isfinite().all(2).all(1) & beta.isfinite()
    # LAPACK refuses the whole batch if one system is not finite.
    matrix, beta = matrix.masked_fill(~finite[:, None, None], 0), beta.masked_fill(~finite, 0)
    target = torch.zeros(matrix.shape[0], matrix.shape[1], 1, dtype=torch.float64)
    target[:, 0, 0] = beta
    weights = torch.linalg.lstsq(matrix, target, driver="gelsd").solution
    left = torch.linalg.vector_norm(target - matrix @ weights, dim=(1, 2))
    return weights.squeeze(2).masked_fill(~finite[:, None], torch.nan), left.masked_fill(~finite, torch.nan)
