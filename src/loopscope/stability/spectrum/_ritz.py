"""Ritz values of a projected Jacobian, and their errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

NEARLY_DEFECTIVE = 1e-3
"""An eigenvalue with |y^H x| below this is flagged: it amplifies perturbations more than a thousand times."""


@dataclass(frozen=True)
class Ritz:
    """Ritz values of one example, largest modulus first.

    Attributes:
        values: the Ritz values.
        errors: errors of the values, to first order.
        condition: 1 / |y^H x|.
        backward: distance to a matrix that has the value as an exact eigenvalue.
        vectors: right eigenvectors of the projected matrix.
    """

    values: NDArray[np.complex128]
    errors: NDArray[np.float64]
    condition: NDArray[np.float64]
    backward: NDArray[np.float64]
    vectors: NDArray[np.complex128]


def ritz_values(projected: NDArray[np.float64], coupling: NDArray[np.float64], rounding: float) -> Ritz:
    """Return the Ritz values of A V = V H + W B, their errors and 1 / |y^H x|.

    Args:
        projected: H.
        coupling: B, with one row for each direction in W, which is orthonormal and orthogonal to V.
        rounding: size of the backward error of the products.
    """
    values, left, right = (part.astype(complex) for part in scipy.linalg.eig(projected, left=True, right=True))
    order = np.argsort(-np.abs(values), kind="stable")
    values, left, right = values[order], left[:, order], right[:, order]
    overlap = np.abs(np.einsum("ij,ij->j", left.conj(), right))
    condition = 1 / np.maximum(overlap, 1e-100)
    residual = np.linalg.norm(np.atleast_2d(coupling) @ right, axis=0)
    backward = np.where(condition > 1 / NEARLY_DEFECTIVE, 10 * _SAFETY, _SAFETY) * residual + rounding
    return Ritz(_merged(values, right, rounding * condition), backward * condition, condition, backward, right)


def _merged(values: NDArray, vectors: NDArray, reach: NDArray) -> NDArray[np.complex128]:
    """Return ``values`` with each group that rounding may have split replaced by its mean.

    The mean of a defective group is well-conditioned although its members are not: a perturbation moves the eigenvalues of a
    Jordan block of size k by its k-th root.
    """
    parallel = np.abs(vectors.conj().T @ vectors) > 0.95
    apart = np.abs(values[:, None] - values[None, :])
    alike = parallel & (apart <= 4 * (reach[:, None] + reach[None, :]))
    if alike.sum() == len(values):
        return values
    _, label = connected_components(alike, directed=False)
    merged = values.copy()
    for group in np.flatnonzero(np.bincount(label) > 1):
        members = label == group
        mean = values[members].mean()
        if np.abs(values[members] - mean).max() <= 0.02 * abs(mean):
            merged[members] = mean
    return merged


def _reach(projected: NDArray[np.float64], value: complex, backward: float, guess: float) -> float:
    """Return how far ``value`` may move under perturbations of size ``backward``, beyond first order.

    It is the radius of a circle around the value on which sigma_min(H - zI) > backward, within a factor 2 of the smallest
    such circle. The component of the pseudospectrum that holds the value lies inside (Trefethen and Embree, 2005).

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
        try:
            # The Frobenius norm of the inverse is at least 1 / sigma_min.
            return bool(np.linalg.norm(np.linalg.inv(shifted), axis=(1, 2)).max() * backward < 1)
        except np.linalg.LinAlgError:  # an eigenvalue lies on the circle
            return False

    outer = max(guess, backward)
    if not clear(outer):
        while not clear(outer):
            outer *= 2
        return outer
    while outer > backward and clear(outer / 2):
        outer /= 2
    return outer


_SAFETY = 2.0
"""Factor on residuals, because the projected matrix contains only a part of the left eigenvector. It is ten times larger if J
is nearly defective. It was chosen so that the error bound holds in 99% of random cases."""

_ILL_CONDITIONED = 10.0
"""The value of 1 / |y^H x| from which first-order errors are not trusted."""


@dataclass(frozen=True)
class Options:
    wanted: int
    tolerance: float
    max_products: int
    subspace: int
    strictness: float = 1.0
    """How many times smaller than the tolerance the errors of the wanted values must be by themselves."""
    caution: float = 1.0
    """How far a value that has not settled may still move, in units of the resolution of the spectrum."""


def ritz_errors(
    ritz: Ritz, projected: NDArray[np.float64], options: Options, products: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the errors of the outermost values, both alone and widened by inner values that may overtake them.

    A Ritz value that has not settled may move by its error, but hardly by more than the resolution, which is the spread of the
    spectrum over the number of products. Ill-conditioned values that look settled are examined beyond first order.
    """
    size = np.abs(ritz.values)
    wanted, tolerance = options.wanted, options.tolerance
    window = options.caution * np.abs(ritz.values - ritz.values.mean()).max() / products

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
        # Values that are equal up to rounding cannot overtake each other.
        if np.abs(ritz.values[: len(errors)] - ritz.values[i].conj()).min() > 0:
            farthest = max(farthest, size[i] + min(error(i), window))
    return errors, np.maximum(errors, farthest - size[: len(errors)])


def orthonormal_real(vectors: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return an orthonormal real basis of the span of complex vectors and their conjugates."""
    left, size, _ = np.linalg.svd(np.concatenate([vectors.real, vectors.imag], axis=1), full_matrices=False)
    return left[:, size > 1e-8 * size[0]]


def leading_schur(projected: NDArray[np.float64], keep: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Q and T: a basis of the invariant subspace of the outermost eigenvalues of H, and H restricted to it.

    There are ``keep`` eigenvalues, or one fewer if a conjugate pair would be split otherwise.
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
