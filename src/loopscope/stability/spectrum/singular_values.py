"""Largest singular values of J, of its powers, of (I - J)^{-1} and of (I - J)^{-1} df/dx, per example.

The method is Golub-Kahan-Lanczos bidiagonalization with full re-orthogonalization, from products alone. Products with
inverses are GMRES solves. Every value is the gain of some vector, and therefore a lower bound until it has converged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count, check_seed, check_tolerance
from loopscope.gmres import gmres as solve
from loopscope.gmres import identity_minus, identity_minus_transpose, orthogonalize, unit
from loopscope.jacobian import Jacobian, input_jacobian, random_vectors, step_jacobian
from loopscope.loop import Loop, mask_of
from loopscope.trees import Tree, binary_scale, norms, scaled_norm

POWERS = (1, 2, 4, 8, 16, 32)
"""The powers of J at which transient growth is measured (framework, axis 3)."""


@dataclass(frozen=True)
class SingularValue:
    """The largest singular value of an operator, per example.

    Attributes:
        value: the singular value if converged, otherwise a lower bound.
        error: absolute error, including that of inexact linear solves.
        converged: whether the error and the residuals of all linear solves are within the tolerance.
        solve_residual: largest relative residual of a linear solve; zero if there was none.
        path: the variable of the derivative in the input, or "state".
        product: how products J v were computed: double backward, forward mode or central differences.
        relative: for an operator on the input x, ``value`` times ||x|| / ||z||, which is the relative change of the state per
            relative change of the input; None for other operators.
    """

    value: Float[Tensor, "batch"]
    error: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    solve_residual: Float[Tensor, "batch"]
    path: str
    product: str
    relative: Float[Tensor, "batch"] | None = None


@dataclass(frozen=True)
class PowerNorms:
    """||J^k|| for several k, per example. Powers of a J that is not normal grow before they shrink.

    Attributes:
        powers: the values of k.
        norms: lower bounds on the norms.
        error: absolute error if converged, otherwise at least the amount by which the last step raised the bound.
        converged: whether the error is within the tolerance.
        largest: maximum over k.
        at_power: the k of that maximum.
    """

    powers: tuple[int, ...]
    norms: Float[Tensor, "batch powers"]
    error: Float[Tensor, "batch powers"]
    converged: Bool[Tensor, "batch powers"]
    largest: Float[Tensor, "batch"]
    at_power: Tensor


SOLVES = 3
"""Accuracy of linear solves relative to that of the singular value, since their residuals count twice in its error."""

_MIN_STEPS = 6
"""Smallest number of Lanczos steps. After fewer, the gain of a random vector may look settled at the bulk of the spectrum."""


@dataclass(frozen=True)
class _Image:
    """A product with a linear map: ``scale * vectors``, so that high powers of J neither overflow nor vanish.

    Attributes:
        vectors: the product, over its scale.
        scale: a power of two, in double precision.
        residual: relative residual of its linear solves; zero if there were none.
    """

    vectors: Float[Tensor, "batch n"]
    scale: Float[Tensor, "batch"]
    residual: Float[Tensor, "batch"]


def _scaled(vectors: Tensor, residual: Tensor | None = None) -> _Image:
    scale = binary_scale(vectors)
    residual = vectors.new_zeros(len(vectors)) if residual is None else residual
    return _Image(vectors / scale, scale.squeeze(1).double(), residual)


@dataclass(frozen=True)
class _Map:
    """A linear map on flat vectors, per example; see ``_Image`` for what its products return."""

    apply: Callable[[Tensor], _Image]
    adjoint: Callable[[Tensor], _Image]
    size: int
    like: Tensor
    path: str
    product: str
    narrow: Callable[[Tensor], _Map]


def singular_value(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 40,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> SingularValue:
    """Return ||J||, the largest singular value of J = df/dz at ``state``.

    Args:
        loop: the loop.
        state: where J is taken, batch first.
        recalled: what ``loop.encode`` returned for the same examples.
        tolerance: bound on the relative error.
        max_steps: largest number of Lanczos steps, each of which takes a product with J and one with J^T.
        seed: seed of the random start. The global random state is not used.
        dtype: another precision (torch.float64) for the loop and its tensors.

    Returns:
        The singular value. It is NaN and has not converged if J is not finite.

    Raises:
        LoopscopeError: J is not defined (see `loopscope.jacobian.step_jacobian`), or an option is out of range.

    Example:
        >>> import loopscope as ls
        >>> shear = torch.tensor([[0.5, 3.0], [0.0, 0.5]])
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z @ shear.T + e, lambda z: z)
        >>> singular_value(loop, torch.zeros(1, 2), torch.ones(1, 2)).value
        tensor([3.0811], dtype=torch.float64)
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype)
    return _largest(_power_map(jacobian, 1), tolerance, max_steps, seed)


def resolvent_norm(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 20,
    max_iterations: int = 200,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> SingularValue:
    """Return ||(I - J)^{-1}||, the largest singular value of (I - J)^{-1} at ``state``.

    It is the factor by which implicit gradients are amplified. To first order it also bounds the distance to the fixed point:
    ||z - z*|| <= ||(I - J)^{-1}|| ||f(z) - z||.

    The arguments are those of ``singular_value``. Each step is a solve with I - J and one with its transpose, of at most
    ``max_iterations`` products each.

    Raises:
        LoopscopeError: for the same reasons as in ``singular_value``.
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype)
    inverse = _resolvent_map(jacobian, None, tolerance / SOLVES, max_iterations)
    return _largest(inverse, tolerance, max_steps, seed)


def lipschitz(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    inputs: Tree | None = None,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 20,
    max_iterations: int = 200,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> SingularValue:
    """Return the local Lipschitz constant of the fixed point: the largest singular value of dz*/dx = (I - J)^{-1} df/dx.

    The start is fixed. x is the floating leaves of ``inputs``, through ``encode``, or else those of ``recalled``, without masks
    (see `loopscope.jacobian.input_jacobian`); ``path`` says which. The arguments are those of ``resolvent_norm``, and
    ``inputs``, from which ``recalled`` was encoded.

    Raises:
        LoopscopeError: for the same reasons as in ``singular_value``, or because there is no floating input.
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype)
    inward = input_jacobian(loop, state, recalled, inputs, dtype=dtype)
    response = _resolvent_map(jacobian, inward, tolerance / SOLVES, max_iterations)
    found = _largest(response, tolerance, max_steps, seed)
    mask = mask_of(loop, recalled)
    size, reached = norms(inward.context["x"], mask).to(found.value), norms(state, mask).to(found.value)
    return replace(found, relative=found.value * size / reached)


def power_norms(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    powers: tuple[int, ...] = POWERS,
    tolerance: float = 1e-2,
    products: int = 16,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> PowerNorms:
    """Return lower bounds on ||J^k|| at ``state``, for each k in ``powers``.

    The arguments are those of ``singular_value``. Each k takes ``products`` products with J and as many with J^T, but at least
    two Lanczos steps. The k with the largest norm takes up to twice as many steps.

    Raises:
        LoopscopeError: for the same reasons as in ``singular_value``, or because ``powers`` is empty.
    """
    if not powers:
        raise LoopscopeError("powers is empty, expected at least one power of J")
    for power in powers:
        check_count(powers=power)
    check_count(products=products)
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype)
    found = [
        _largest(_power_map(jacobian, k), tolerance, max(2, products // k), seed + index, starts=1)
        for index, k in enumerate(powers)
    ]
    bounds, error, converged = (
        torch.stack([getattr(one, name) for one in found], dim=1) for name in ("value", "error", "converged")
    )
    # Readers use the largest norm, so it is refined until it settles.
    where = bounds.argmax(dim=1)
    for index, k in enumerate(powers):
        rows = torch.nonzero((where == index) & ~converged[:, index]).flatten()
        if len(rows):
            settled = _largest(_power_map(jacobian.select(rows), k), tolerance, 2 * products, seed + index)
            higher = settled.value >= bounds[rows, index]
            for all_rows, new in ((error, settled.error), (converged, settled.converged), (bounds, settled.value)):
                all_rows[rows, index] = torch.where(higher, new, all_rows[rows, index])
    largest, where = bounds.max(dim=1)
    return PowerNorms(
        powers=tuple(powers),
        norms=bounds,
        error=error,
        converged=converged,
        largest=largest,
        at_power=torch.tensor(powers, device=where.device)[where],
    )


def _power_map(jacobian: Jacobian, power: int) -> _Map:
    def repeated(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], _Image]:
        def apply(vectors: Tensor) -> _Image:
            scale = torch.ones(len(vectors), dtype=torch.float64, device=vectors.device)
            for _ in range(power):
                image = _scaled(product(vectors))
                vectors, scale = image.vectors, scale * image.scale
            return replace(image, scale=scale)

        return apply

    return _Map(
        apply=repeated(jacobian.jvp),
        adjoint=repeated(jacobian.vjp),
        size=jacobian.size,
        like=jacobian.point,
        path=jacobian.path,
        product=jacobian.product,
        narrow=lambda rows: _power_map(jacobian.select(rows), power),
    )


def _resolvent_map(jacobian: Jacobian, inward: Jacobian | None, tolerance: float, max_iterations: int) -> _Map:
    """Return (I - J)^{-1}, or (I - J)^{-1} df/dx if ``inward`` is df/dx."""
    forward, transpose = identity_minus(jacobian), identity_minus_transpose(jacobian)

    def apply(vectors: Tensor) -> _Image:
        pushed = vectors if inward is None else inward.jvp(vectors)
        solution = solve(forward, pushed, tolerance=tolerance, max_iterations=max_iterations)
        return _scaled(solution.x, solution.residual)

    def adjoint(vectors: Tensor) -> _Image:
        solution = solve(transpose, vectors, tolerance=tolerance, max_iterations=max_iterations)
        return _scaled(solution.x if inward is None else inward.vjp(solution.x), solution.residual)

    def narrow(rows: Tensor) -> _Map:
        inner = None if inward is None else inward.select(rows)
        return _resolvent_map(jacobian.select(rows), inner, tolerance, max_iterations)

    first = jacobian if inward is None else inward
    product = ", ".join(dict.fromkeys((first.product, jacobian.product)))
    return _Map(apply, adjoint, first.size, first.point, first.path, product, narrow)


def _largest(operator: _Map, tolerance: float, max_steps: int, seed: int, starts: int = 2) -> SingularValue:
    """Find the largest singular value of A from one or two random starts at once, which form a band of that width.

    Right vectors V are taken in turn: A V = U M with M upper triangular, and the part of A^T U outside V joins the queue of
    right vectors. A single start may miss the largest singular vector and settle at the next one.
    """
    check_tolerance(tolerance)
    check_count(max_steps=max_steps)
    check_seed(seed)
    batch, like = operator.like.shape[0], operator.like
    eps = torch.finfo(like.dtype).eps
    value, error, worst = (torch.zeros(batch, dtype=torch.float64) for _ in range(3))
    active = torch.arange(batch)
    rights = _starts(batch, operator.size, min(starts, operator.size), like, seed)
    lefts: Tensor | None = None
    matrix = torch.zeros(batch, 0, 0, dtype=torch.float64)
    pulled = torch.zeros(batch, 0, rights.shape[1], dtype=torch.float64)
    for step in range(1, min(max_steps, operator.size) + 1):
        image = operator.apply(rights[:, step - 1])
        worst[active] = torch.maximum(worst[active], image.residual.double().cpu())
        lefts = rights.new_zeros(len(active), 0, image.vectors.shape[1]) if lefts is None else lefts
        left, above, length = _split(lefts, image)
        lefts = torch.cat([lefts, left.unsqueeze(1)], dim=1)
        matrix = _bordered(matrix, above, length)
        image = operator.adjoint(left)
        worst[active] = torch.maximum(worst[active], image.residual.double().cpu())
        right, known, length = _split(rights, image)
        rights = torch.cat([rights, right.unsqueeze(1)], dim=1)
        pulled = _widened(pulled, known, length)
        before = value[active]
        value[active], error[active] = _top_triplet(matrix, pulled[:, :, step:], before)
        error[active] += value[active] * (2 * worst[active] + 8 * eps)
        going = torch.isfinite(value[active])
        if step >= _MIN_STEPS:
            going &= error[active] > tolerance * value[active]
        if not bool(going.any()):
            break
        if not bool(going.all()):
            rows = going.to(rights.device)
            operator, rights, lefts = operator.narrow(rows), rights[rows], lefts[rows]
            active, matrix, pulled = active[going], matrix[going], pulled[going]
    converged = ((error <= tolerance * value) | (value == 0)) & torch.isfinite(value)
    return SingularValue(
        value=value.to(like.device),
        error=error.to(like.device),
        converged=converged.to(like.device),
        solve_residual=worst.to(like.device),
        path=operator.path,
        product=operator.product,
    )


def _starts(batch: int, size: int, count: int, like: Tensor, seed: int) -> Tensor:
    """Return ``count`` orthonormal random vectors for each example."""
    generator = torch.Generator().manual_seed(seed)
    starts = like.new_zeros(batch, count, size)
    for index in range(count):
        rest, _ = orthogonalize(starts[:, :index], random_vectors(batch, size, like, generator))
        starts[:, index], _ = unit(rest)
    return starts


def _split(basis: Tensor, image: _Image) -> tuple[Tensor, Tensor, Tensor]:
    """Return the direction of an image outside a basis, its coefficients inside, and its length outside."""
    rest, inside = orthogonalize(basis, image.vectors)
    direction, outside = unit(rest, torch.finfo(rest.dtype).eps * scaled_norm(image.vectors))
    return direction, inside.double() * image.scale[:, None], outside.double() * image.scale


def _bordered(matrix: Tensor, above: Tensor, corner: Tensor) -> Tensor:
    """Return [[M, above], [0, corner]]."""
    size = matrix.shape[1]
    grown = torch.zeros(matrix.shape[0], size + 1, size + 1, dtype=torch.float64)
    grown[:, :size, :size] = matrix
    grown[:, :size, size] = above.cpu()
    grown[:, size, size] = corner.cpu()
    return grown


def _widened(pulled: Tensor, known: Tensor, new: Tensor) -> Tensor:
    """Return [[T, 0], [known, new]]: the coefficients of A^T U on all right vectors."""
    rows, columns = pulled.shape[1:]
    grown = torch.zeros(pulled.shape[0], rows + 1, columns + 1, dtype=torch.float64)
    grown[:, :rows, :columns] = pulled
    grown[:, rows, :columns] = known.cpu()
    grown[:, rows, columns] = new.cpu()
    return grown


def _top_triplet(matrix: Tensor, beyond: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest singular value of M and its error.

    The error is the residual of its triplet, or what the last step added if that is more. The residual is the part of A^T u on
    right vectors that are still in the queue; A has a singular value within this distance.
    """
    finite = matrix.isfinite().all(2).all(1)
    # LAPACK refuses the whole batch if one matrix is not finite.
    left, size, _ = torch.linalg.svd(matrix.masked_fill(~finite[:, None, None], 0))
    top = size[:, 0].masked_fill(~finite, torch.nan)
    residual = torch.linalg.vector_norm(torch.einsum("bij,bi->bj", beyond, left[:, :, 0]), dim=1)
    return top, torch.maximum(residual, (top - before).clamp_min(0))
