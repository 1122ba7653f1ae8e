"""Eigenvalues of the Jacobian of a loop, per example, from products v^T J alone.

Krylov-Schur (Stewart, 2001), which is restarted Arnoldi, on J^T: one vjp for the whole batch costs about a forward, a
jvp three times that, and J^T has the eigenvalues of J. Examples that are done leave the batch.

How the error is found. A Ritz pair (theta, x) with residual r is an exact eigenpair of a matrix that is ||r|| away, so
theta is off by about ||r|| / |y^H x|, with unit left and right eigenvectors y and x; y is taken from the projected
matrix. Rounding adds to ||r||. Eigenvalues that this much perturbation can bring together (a nearly defective J, where
first order says nothing) are reported as their mean, with their spread as error. A second random start, with what has
been found deflated, then looks for a larger eigenvalue that the first start missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Complex, Float
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.linear import Jacobian, Projection, orthogonalize, random_vectors, step_jacobian, unit
from loopscope.loop import Loop, Tree

NEARLY_DEFECTIVE = 1e-3
"""Below this |y^H x| the eigenvalue is flagged: a perturbation is amplified a thousand times."""


@dataclass(frozen=True)
class Eigenvalues:
    """The eigenvalues of largest modulus of J, per example, largest first.

    Attributes:
        eigenvalues: complex; of a conjugate pair, both.
        error: on each eigenvalue, absolute.
        converged: the error is within the tolerance.
        defective: |y^H x| < 1e-3: J is nearly defective there, or far from normal.
        products: products v^T J that each example took.
    """

    eigenvalues: Complex[Tensor, "batch k"]
    error: Float[Tensor, "batch k"]
    converged: Bool[Tensor, "batch k"]
    defective: Bool[Tensor, "batch k"]
    products: Tensor


@dataclass(frozen=True)
class SpectralRadius:
    """The dominant eigenvalue of J, per example.

    Attributes:
        eigenvalue: the eigenvalue of largest modulus; of a conjugate pair, the one with positive imaginary part.
        radius: its modulus.
        error: absolute, on the radius.
        converged: the error is within the tolerance.
        defective: |y^H x| < 1e-3: J is nearly defective there, or far from normal.
        products: products v^T J that each example took, those of the second start included.
    """

    eigenvalue: Complex[Tensor, "batch"]
    radius: Float[Tensor, "batch"]
    error: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    defective: Bool[Tensor, "batch"]
    products: Tensor


@dataclass(frozen=True)
class _Ritz:
    """Ritz values of one example, largest modulus first, each with what is known of it.

    ``errors`` are first order; ``backward`` is how far away a matrix is that has the value as an eigenvalue.
    """

    values: NDArray[np.complex128]
    errors: NDArray[np.float64]
    condition: NDArray[np.float64]
    backward: NDArray[np.float64]
    vectors: NDArray[np.complex128]


def _ritz(projected: NDArray[np.float64], coupling: NDArray[np.float64], rounding: float) -> _Ritz:
    """Return the Ritz values of A V = V H + v b^T, their errors and 1 / |y^H x|.

    Args:
        projected: H.
        coupling: b.
        rounding: size of the backward error of the products.
    """
    values, left, right = (part.astype(complex) for part in scipy.linalg.eig(projected, left=True, right=True))
    order = np.argsort(-np.abs(values), kind="stable")
    values, left, right = values[order], left[:, order], right[:, order]
    overlap = np.abs(np.einsum("ij,ij->j", left.conj(), right))
    condition = 1 / np.maximum(overlap, 1e-100)
    backward = np.abs(coupling @ right) + rounding
    return _Ritz(_merged(values, right, rounding * condition), backward * condition, condition, backward, right)


def _merged(values: NDArray, vectors: NDArray, reach: NDArray) -> NDArray[np.complex128]:
    """Return ``values`` where each group that rounding alone may have split is replaced by its mean.

    The mean of a defective group is well-conditioned where its members are not: a Jordan block of size k moves them
    by the k-th root of a perturbation.
    """
    parallel = np.abs(vectors.conj().T @ vectors) > 0.95
    apart = np.abs(values[:, None] - values[None, :])
    _, label = connected_components(parallel & (apart <= 4 * (reach[:, None] + reach[None, :])), directed=False)
    merged = values.copy()
    for group in np.flatnonzero(np.bincount(label) > 1):
        members = label == group
        mean = values[members].mean()
        if np.abs(values[members] - mean).max() <= 0.02 * abs(mean):
            merged[members] = mean
    return merged


def _reach(projected: NDArray[np.float64], value: complex, backward: float, guess: float) -> float:
    """Return how far ``value`` may move under perturbations of size ``backward``, first order or not.

    That is the radius of a circle around it on which sigma_min(H - zI) > backward: the component of the
    pseudospectrum that holds the value lies within (Trefethen and Embree, 2005). Within a factor 2 of the smallest.

    Args:
        projected: H.
        value: an eigenvalue of H.
        backward: size of the perturbations.
        guess: a first radius to try.
    """
    circle = np.exp(2j * np.pi * (np.arange(12) + 0.5) / 12)
    identity = np.eye(len(projected))

    def clear(radius: float) -> bool:
        shifted = projected[None] - (value + radius * circle)[:, None, None] * identity
        # The Frobenius norm of the inverse is at least 1 / sigma_min.
        return bool(np.linalg.norm(np.linalg.inv(shifted), axis=(1, 2)).max() * backward < 1)

    outer = max(guess, backward)
    if not clear(outer):
        while not clear(outer):
            outer *= 2
        return outer
    while outer > backward and clear(outer / 2):
        outer /= 2
    return outer


_ILL_CONDITIONED = 10.0
"""From this 1 / |y^H x| on, first order is not trusted."""


SUBSPACE = 64
"""Krylov vectors kept per example before a restart, unless the caller chooses."""

_WINDOW = 0.03
"""How much further out, relative to the spread of the spectrum, a Ritz value that has not settled may still move."""

_SECOND_START = 12
"""Products that the second random start takes at least."""


@dataclass(frozen=True)
class _Found:
    """What one random start found for one example: the ``wanted`` outermost Ritz values."""

    values: NDArray[np.complex128]
    errors: NDArray[np.float64]
    condition: NDArray[np.float64]
    space: NDArray[np.float64]
    """Orthonormal basis, in Krylov coordinates, of their invariant subspace: [kept, p]."""
    products: int
    complete: bool
    """Whether the Krylov space is the whole space, so that nothing can have been missed."""


def _judge(ritz: _Ritz, projected: NDArray[np.float64], wanted: int, tolerance: float) -> NDArray[np.float64]:
    """Return the errors of the outermost values, widened by those further in that may still overtake them.

    Ill-conditioned values that look settled are looked at beyond first order.
    """
    size = np.abs(ritz.values)
    window = _WINDOW * np.abs(ritz.values - ritz.values.mean()).max()

    def error(i: int) -> float:
        settled = ritz.backward[i] * min(ritz.condition[i], _ILL_CONDITIONED) <= max(tolerance * size[0], window)
        if ritz.condition[i] <= _ILL_CONDITIONED or not settled:
            return float(ritz.errors[i])
        return _reach(projected, ritz.values[i], ritz.backward[i], min(ritz.errors[i], window))

    errors = np.array([error(i) for i in range(min(wanted, len(size)))])
    farthest = size[len(errors) - 1]
    for i in range(len(errors), len(size)):
        if size[i] + window <= farthest:
            break
        # Rounding cannot tell equal values apart: they overtake nothing.
        if np.abs(ritz.values[: len(errors)] - ritz.values[i].conj()).min() > 0:
            farthest = max(farthest, size[i] + min(error(i), window))
    return np.maximum(errors, farthest - size[: len(errors)])


def _orthonormal_real(vectors: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return an orthonormal real basis of the span of complex vectors and their conjugates."""
    left, size, _ = np.linalg.svd(np.concatenate([vectors.real, vectors.imag], axis=1), full_matrices=False)
    return left[:, size > 1e-8 * size[0]]


def _leading_schur(projected: NDArray[np.float64], keep: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Q and T: a basis of the invariant subspace of the outermost eigenvalues of H, and H within it.

    There are ``keep`` of them, or one fewer so as not to split a pair.
    """
    form, basis = scipy.linalg.schur(projected, output="real")
    m = len(form)
    below = np.append(np.diag(form, -1) != 0, False)
    size = np.abs(np.diag(form)).astype(float)
    for i in np.flatnonzero(below):
        size[i] = size[i + 1] = np.sqrt(np.abs(np.linalg.det(form[i : i + 2, i : i + 2])))
    chosen = np.zeros(m, dtype=np.int32)
    for i in np.argsort(-size, kind="stable"):
        first = i - 1 if i > 0 and below[i - 1] else i
        width = 2 if below[first] else 1
        if chosen[i] or chosen.sum() + width > keep:
            continue
        chosen[first : first + width] = 1
    form, basis, *_ = scipy.linalg.lapack.dtrsen(chosen, form, basis, job="N")
    kept = int(chosen.sum())
    return basis[:, :kept], form[:kept, :kept]


class _Krylov:
    """A V = V H + v b^T for a batch, where A = P J^T and P removes what is deflated; grown and cut back together."""

    def __init__(
        self, jacobian: Jacobian, subspace: int, generator: torch.Generator, deflated: Tensor | None = None
    ) -> None:
        self.jacobian, self.generator, self.deflated = jacobian, generator, deflated
        self.dimension = min(subspace, jacobian.size)
        self.basis = jacobian.point.new_zeros(jacobian.batch, self.dimension + 1, jacobian.size)
        self.matrix = torch.zeros(
            jacobian.batch, self.dimension + 1, self.dimension, dtype=torch.float64, device=self.basis.device
        )
        self.length = 0
        self._place(0, self._fresh(0))

    def _fresh(self, filled: int) -> Tensor:
        """Return random unit vectors orthogonal to the first ``filled`` and the deflated ones, or zero if none is."""
        drawn = random_vectors(self.jacobian.batch, self.jacobian.size, self.basis, self.generator)
        rest = self._outside(drawn)
        rest, _ = orthogonalize(self.basis[:, :filled], rest)
        # A space that is nearly full leaves rounding only.
        floor = rest.new_full((rest.shape[0],), 1e3 * torch.finfo(rest.dtype).eps)
        return unit(rest, floor)[0]

    def _outside(self, vectors: Tensor) -> Tensor:
        return vectors if self.deflated is None else orthogonalize(self.deflated, vectors)[0]

    def _place(self, index: int, vectors: Tensor) -> None:
        self.basis[:, index] = vectors

    def extend(self) -> None:
        """Add one Krylov vector: one product for the batch."""
        j = self.length
        image = self._outside(self.jacobian.vjp(self.basis[:, j]))
        tiny = 4 * torch.finfo(image.dtype).eps * torch.linalg.vector_norm(image, dim=1)
        rest, coefficients = orthogonalize(self.basis[:, : j + 1], image)
        fresh, length = unit(rest, tiny)
        self.matrix[:, : j + 1, j] = coefficients.double()
        self.matrix[:, j + 1, j] = length.double()
        closed = length == 0
        if j + 1 < self.jacobian.size and bool(closed.any()):
            fresh = torch.where(closed.unsqueeze(1), self._fresh(j + 1), fresh)
        self._place(j + 1, fresh)
        self.length = j + 1

    def projected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return H and b, for all examples."""
        matrix = self.matrix[:, : self.length + 1, : self.length].cpu().numpy()
        return matrix[:, :-1], matrix[:, -1]

    def restart(self, keep: int) -> None:
        """Keep the invariant subspace of about ``keep`` outermost Ritz values."""
        projected, coupling = self.projected()
        m, batch = self.length, len(projected)
        rotation = np.zeros((batch, m, keep))
        matrix = np.zeros((batch, self.dimension + 1, self.dimension))
        for i in range(batch):
            q, form = _leading_schur(projected[i], keep)
            kept = q.shape[1]
            rotation[i, :, :kept] = q
            matrix[i, :kept, :kept] = form
            matrix[i, keep, :kept] = coupling[i] @ q
        last = self.basis[:, m].clone()
        turn = torch.from_numpy(rotation).to(self.basis).transpose(1, 2)
        self.basis[:, :keep] = torch.bmm(turn, self.basis[:, :m])
        self._place(keep, last)
        self.matrix = torch.from_numpy(matrix).to(self.matrix)
        self.length = keep

    def select(self, rows: Tensor) -> None:
        """Go on with some examples alone."""
        self.basis, self.matrix = self.basis[rows], self.matrix[rows]
        self.deflated = None if self.deflated is None else self.deflated[rows]
        self.jacobian = self.jacobian.select(rows)


def _outermost(
    jacobian: Jacobian,
    wanted: int,
    *,
    tolerance: float,
    max_products: int,
    subspace: int,
    generator: torch.Generator,
    deflated: Tensor | None = None,
    known: NDArray[np.float64] | None = None,
) -> tuple[list[_Found], list[Tensor]]:
    """Find the ``wanted`` outermost eigenvalues of each example from one random start.

    With ``known`` (the moduli found before, largest last to beat), an example is also done once its outermost Ritz
    value stays within what is known.

    Returns:
        What was found, and for each example an orthonormal basis [p, n] of the invariant subspace found.
    """
    krylov = _Krylov(jacobian, subspace, generator, deflated)
    eps = float(torch.finfo(jacobian.point.dtype).eps)
    found: dict[int, _Found] = {}
    spaces: dict[int, Tensor] = {}
    before: dict[int, NDArray[np.complex128]] = {}
    active = list(range(jacobian.batch))
    products, look = 0, min(_SECOND_START, krylov.dimension)
    while active:
        krylov.extend()
        products += 1
        full = krylov.length == krylov.dimension
        if not (full or products >= max_products or krylov.length >= look):
            continue
        look = max(krylov.length + 4, int(1.2 * krylov.length))
        complete = full and krylov.dimension == jacobian.size
        projected, coupling = krylov.projected()
        going = []
        for place, example in enumerate(active):
            rounding = 4 * eps * float(np.linalg.norm(projected[place], axis=0).max(initial=0.0))
            ritz = _ritz(projected[place], coupling[place], rounding)
            errors = _judge(ritz, projected[place], wanted, tolerance)
            size = np.abs(ritz.values[:wanted])
            earlier, before[example] = before.get(example), ritz.values[:wanted]
            if earlier is not None:
                errors = np.maximum(errors, np.abs(size - np.abs(earlier)))
            done = bool((errors <= np.maximum(tolerance * size, 2 * rounding)).all()) and earlier is not None
            done = done or bool((ritz.backward[:wanted] <= 2 * rounding).all())
            if known is not None:
                done = done or bool(size[0] <= known[example])
            if not (done or complete or products >= max_products):
                going.append(place)
                continue
            space = _orthonormal_real(ritz.vectors[:, :wanted])
            found[example] = _Found(ritz.values[:wanted], errors, ritz.condition[:wanted], space, products, complete)
            spaces[example] = torch.from_numpy(space.T).to(krylov.basis) @ krylov.basis[place, : krylov.length]
        if len(going) < len(active):
            active = [active[place] for place in going]
            if active:
                krylov.select(torch.tensor(going, device=krylov.basis.device))
        if active and full:
            krylov.restart(max(wanted + 2, krylov.dimension // 2))
            look = krylov.length + 4
    return [found[i] for i in range(jacobian.batch)], [spaces[i] for i in range(jacobian.batch)]


def _dominant(
    jacobian: Jacobian, k: int, *, tolerance: float, max_products: int, subspace: int, seed: int
) -> Eigenvalues:
    """Find the k outermost eigenvalues, and try from a second start to find a larger one."""
    generator = torch.Generator().manual_seed(seed)
    k = min(k, jacobian.size)
    common = {"tolerance": tolerance, "max_products": max_products, "subspace": max(subspace, 2 * k + 8)}
    found, spaces = _outermost(jacobian, k, generator=generator, **common)  # type: ignore[arg-type]
    values = np.stack([one.values for one in found])
    errors = np.stack([one.errors for one in found])
    condition = np.stack([one.condition for one in found])
    products = np.array([one.products for one in found])
    rows = np.array([i for i, one in enumerate(found) if not one.complete], dtype=np.int64)
    if len(rows):
        width = max(spaces[i].shape[0] for i in rows)
        deflated = jacobian.point.new_zeros(len(rows), width, jacobian.size)
        for place, i in enumerate(rows):
            deflated[place, : spaces[i].shape[0]] = spaces[i]
        known = np.abs(values[rows, -1]) + errors[rows, -1]
        others, _ = _outermost(
            jacobian.select(torch.from_numpy(rows).to(jacobian.point.device)),
            1,
            generator=generator,
            deflated=deflated,
            known=known,
            **common,  # type: ignore[arg-type]
        )
        for i, other in zip(rows, others, strict=True):
            products[i] += other.products
            gap = np.abs(other.values[0]) - np.abs(values[i])
            missed = gap > errors[i]
            errors[i] = np.where(missed, np.maximum(errors[i], gap + other.errors[0]), errors[i])
            if missed[-1] and other.errors[0] <= tolerance * np.abs(other.values[0]):
                place = int(np.argmax(missed))
                values[i, place:] = np.append(other.values[0], values[i, place:-1])
                condition[i, place:] = np.append(other.condition[0], condition[i, place:-1])
    converged = errors <= np.maximum(tolerance * np.abs(values), 100 * torch.finfo(jacobian.point.dtype).eps)
    return Eigenvalues(
        torch.from_numpy(values),
        torch.from_numpy(errors),
        torch.from_numpy(converged),
        torch.from_numpy(condition > 1 / NEARLY_DEFECTIVE),
        torch.from_numpy(products),
    )


def spectral_radius(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    tolerance: float = 5e-3,
    max_products: int = 500,
    subspace: int = SUBSPACE,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    projection: Projection | None = None,
) -> SpectralRadius:
    """Return the dominant eigenvalue of J = df/dz at ``state``, for every example on its own.

    Args:
        loop: the loop.
        state: where J is taken, batch first; away from a fixed point the number is J's, not the loop's.
        recalled: what ``loop.encode`` returned for the same examples.
        tolerance: relative, on the error.
        max_products: products v^T J for each example and start.
        subspace: Krylov vectors kept per example.
        seed: of the two random starts; the global random state is left alone.
        dtype: another precision (torch.float64).
        projection: applied on both sides of J (framework, axis 1: drift orbits).

    Raises:
        LoopscopeError: there is no Jacobian to speak of (see ``step_jacobian``), or an option is out of range.
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype, projection=projection)
    top = jacobian_eigenvalues(
        jacobian, 1, tolerance=tolerance, max_products=max_products, subspace=subspace, seed=seed
    )
    value = top.eigenvalues[:, 0]
    value = torch.complex(value.real, value.imag.abs())
    return SpectralRadius(value, value.abs(), top.error[:, 0], top.converged[:, 0], top.defective[:, 0], top.products)


def top_eigenvalues(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    k: int,
    *,
    tolerance: float = 5e-3,
    max_products: int = 1000,
    subspace: int = SUBSPACE,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    projection: Projection | None = None,
) -> Eigenvalues:
    """Return the ``k`` eigenvalues of largest modulus of J = df/dz at ``state``, per example, largest first.

    Arguments and errors are those of ``spectral_radius``.
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype, projection=projection)
    return jacobian_eigenvalues(
        jacobian, k, tolerance=tolerance, max_products=max_products, subspace=subspace, seed=seed
    )


def jacobian_eigenvalues(
    jacobian: Jacobian,
    k: int,
    *,
    tolerance: float = 5e-3,
    max_products: int = 1000,
    subspace: int = SUBSPACE,
    seed: int = 0,
) -> Eigenvalues:
    """Return the ``k`` eigenvalues of largest modulus of a Jacobian already built; see ``top_eigenvalues``."""
    if k < 1 or not 0 < tolerance < 1 or max_products < 1 or subspace < 4:
        raise LoopscopeError(
            f"expected k >= 1, 0 < tolerance < 1, max_products >= 1, subspace >= 4; got k={k}, "
            f"tolerance={tolerance}, max_products={max_products}, subspace={subspace}"
        )
    return _dominant(jacobian, k, tolerance=tolerance, max_products=max_products, subspace=subspace, seed=seed)
