"""Eigenvalues of the Jacobian of a loop, per example, from products v^T J alone.

Krylov-Schur (Stewart, 2001), which is restarted Arnoldi, on J^T: one vjp for the whole batch costs about a forward, a
jvp three times that, and J^T has the eigenvalues of J. Examples that are done leave the batch.

How the error is found. A Ritz pair (theta, x) with residual r is an exact eigenpair of a matrix that is ||r|| away, so
theta is off by about ||r|| / |y^H x|, with unit left and right eigenvectors y and x; y is taken from the projected
matrix. Rounding adds to ||r||. Eigenvalues that this much perturbation can bring together (a nearly defective J, where
first order says nothing) are reported as their mean, and the error is how far the pseudospectrum reaches. A second
random start, with what has been found deflated, then looks for what the first one missed: a larger eigenvalue, or the
part of y outside the first Krylov space. Results are on the CPU, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Complex, Float
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.linear import Jacobian, orthogonalize, random_vectors, step_jacobian, unit
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
    """Return the Ritz values of A V = V H + W B, their errors and 1 / |y^H x|.

    Args:
        projected: H.
        coupling: B, one row for each direction in W (orthonormal, and orthogonal to V).
        rounding: size of the backward error of the products.
    """
    values, left, right = (part.astype(complex) for part in scipy.linalg.eig(projected, left=True, right=True))
    order = np.argsort(-np.abs(values), kind="stable")
    values, left, right = values[order], left[:, order], right[:, order]
    overlap = np.abs(np.einsum("ij,ij->j", left.conj(), right))
    condition = 1 / np.maximum(overlap, 1e-100)
    residual = np.linalg.norm(np.atleast_2d(coupling) @ right, axis=0)
    backward = np.where(condition > 1 / NEARLY_DEFECTIVE, 10 * _SAFETY, _SAFETY) * residual + rounding
    return _Ritz(_merged(values, right, rounding * condition), backward * condition, condition, backward, right)


def _merged(values: NDArray, vectors: NDArray, reach: NDArray) -> NDArray[np.complex128]:
    """Return ``values`` where each group that rounding alone may have split is replaced by its mean.

    The mean of a defective group is well-conditioned where its members are not: a Jordan block of size k moves them
    by the k-th root of a perturbation.
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
"""On residuals, since the projected matrix sees part of the left eigenvector only; ten times more where J is nearly
defective. Chosen so that the error holds in 99% of random cases."""

_ILL_CONDITIONED = 10.0
"""From this 1 / |y^H x| on, first order is not trusted."""

SUBSPACE = 64
"""Krylov vectors kept per example before a restart, unless the caller chooses."""

_FEWEST_PRODUCTS = 12
"""Products that a random start takes at least."""

_LOOK_EVERY = 2
"""Products between two looks at the Ritz values."""

_PAUSE = 4
"""Products over which the Ritz values must have stood still."""

_CHUNK = 16
"""Examples taken at once: more of them leave the cache of a CPU, and take memory for their Krylov vectors."""


@dataclass(frozen=True)
class _Options:
    wanted: int
    tolerance: float
    max_products: int
    subspace: int
    strictness: float = 1.0
    """How many times smaller than the tolerance the values' own errors must be, what may overtake them aside."""
    caution: float = 1.0
    """How many times farther than the products resolve the spectrum a value that has not settled may still move."""


@dataclass(frozen=True)
class _Found:
    """The outermost eigenvalues of one example, and their invariant subspace: A Q = Q T + v c^T."""

    values: NDArray[np.complex128]
    errors: NDArray[np.float64]
    condition: NDArray[np.float64]
    products: int
    complete: bool
    """Whether the Krylov space is the whole space, so that nothing can have been missed."""
    basis: Float[Tensor, "p n"]
    within: NDArray[np.float64]
    coupling: NDArray[np.float64]
    direction: Float[Tensor, "n"]


def _judge(
    ritz: _Ritz, projected: NDArray[np.float64], options: _Options, products: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the errors of the outermost values: their own, and widened by those further in that may overtake them.

    A Ritz value that has not settled may move by its error, but hardly by more than the spread of the spectrum over the
    number of products: so finely do they resolve it. Ill-conditioned values that look settled are looked at beyond
    first order.
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
        # Rounding cannot tell equal values apart: they overtake nothing.
        if np.abs(ritz.values[: len(errors)] - ritz.values[i].conj()).min() > 0:
            farthest = max(farthest, size[i] + min(error(i), window))
    return errors, np.maximum(errors, farthest - size[: len(errors)])


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
    """A V = V H + v b^T + Q C for a batch, with A = J^T and V orthogonal to a given Q; grown and cut back together."""

    def __init__(
        self, jacobian: Jacobian, subspace: int, generator: torch.Generator, outside: Float[Tensor, "batch p n"]
    ) -> None:
        self.jacobian, self.generator, self.outside = jacobian, generator, outside
        self.dimension = min(subspace, jacobian.size)
        point, batch = jacobian.point, jacobian.batch
        double = {"dtype": torch.float64, "device": point.device}
        self.basis = point.new_empty(batch, self.dimension + 1, jacobian.size)
        self.matrix = torch.zeros(batch, self.dimension + 1, self.dimension, **double)  # type: ignore[call-overload]
        self.crossing = torch.zeros(batch, outside.shape[1], self.dimension, **double)  # type: ignore[call-overload]
        self.length = 0
        self.basis[:, 0] = self._fresh(0)

    def _fresh(self, filled: int) -> Tensor:
        """Return random unit vectors orthogonal to Q and the first ``filled`` of V, or zero where none is left."""
        drawn = random_vectors(self.jacobian.batch, self.jacobian.size, self.basis, self.generator)
        rest, _ = orthogonalize(self.basis[:, :filled], orthogonalize(self.outside, drawn)[0])
        # Where the space is full, what remains is rounding.
        return unit(rest, rest.new_full((rest.shape[0],), 1e3 * torch.finfo(rest.dtype).eps))[0]

    def extend(self) -> None:
        """Add one Krylov vector: one product for the batch."""
        j = self.length
        image = self.jacobian.vjp(self.basis[:, j])
        tiny = 4 * torch.finfo(image.dtype).eps * torch.linalg.vector_norm(image, dim=1)
        rest, crossing = orthogonalize(self.outside, image)
        rest, coefficients = orthogonalize(self.basis[:, : j + 1], rest)
        fresh, length = unit(rest, tiny)
        self.crossing[:, :, j] = crossing.double()
        self.matrix[:, : j + 1, j] = coefficients.double()
        self.matrix[:, j + 1, j] = length.double()
        closed = length == 0
        if j + 1 < self.jacobian.size and bool(closed.any()):
            fresh = torch.where(closed.unsqueeze(1), self._fresh(j + 1), fresh)
        self.basis[:, j + 1] = fresh
        self.length = j + 1

    @property
    def full(self) -> bool:
        """Whether no further vector fits."""
        return self.length == self.dimension

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
        turn = torch.from_numpy(rotation).to(self.matrix)
        self.basis[:, :keep] = torch.bmm(turn.transpose(1, 2).to(self.basis), self.basis[:, :m])
        self.basis[:, keep] = last
        self.crossing[:, :, :keep] = torch.bmm(self.crossing[:, :, :m], turn)
        self.matrix = torch.from_numpy(matrix).to(self.matrix)
        self.length = keep

    def select(self, rows: Tensor) -> None:
        """Go on with some examples alone."""
        filled, self.matrix = self.basis[rows, : self.length + 1], self.matrix[rows]
        self.basis = self.basis.new_empty(len(rows), self.dimension + 1, self.jacobian.size)
        self.basis[:, : self.length + 1] = filled
        self.outside, self.crossing = self.outside[rows], self.crossing[rows]
        self.jacobian = self.jacobian.select(rows)


class _Watch:
    """The looks taken at one example: where its wanted values stood, and whether they have settled."""

    def __init__(self, options: _Options, eps: float, first: _Found | None = None) -> None:
        self.options, self.eps = options, eps
        self.before = 0 if first is None else first.products
        self.seen: list[tuple[int, NDArray[np.complex128]]] = [] if first is None else [(0, first.values)]

    def look(
        self, projected: NDArray[np.float64], coupling: NDArray[np.float64], products: int
    ) -> tuple[_Ritz, NDArray[np.float64], bool]:
        """Return the Ritz values, the errors of the wanted ones, and whether going on is needless."""
        options = self.options
        rounding = 4 * self.eps * float(np.linalg.norm(projected, axis=0).max(initial=0.0))
        ritz = _ritz(projected, coupling, rounding)
        own, errors = _judge(ritz, projected, options, self.before + products)
        size = np.abs(ritz.values[: len(own)])
        enough = np.maximum(options.tolerance * size, 2 * rounding)
        strict = np.maximum(enough / options.strictness, 2 * rounding)
        earlier = [values for taken, values in self.seen if taken <= products - _PAUSE]
        self.seen.append((products, ritz.values[: len(own)]))
        moved = np.abs(size - np.abs(earlier[-1])) if earlier else np.zeros_like(size)
        settled = bool((np.maximum(own, moved) <= strict).all() and (errors <= enough).all()) and bool(earlier)
        hopeless = bool(((own > strict) & (ritz.backward[: len(own)] <= 2 * rounding)).any())
        return ritz, np.maximum(errors, moved), settled or hopeless


class _Batch:
    """Which examples are in a Krylov batch, and which of them are done; the done ones leave when enough are."""

    def __init__(self, krylov: _Krylov) -> None:
        self.krylov = krylov
        self.present = list(range(krylov.jacobian.batch))
        self.open = set(self.present)

    def places(self) -> list[tuple[int, int]]:
        """Return (place in the batch, example) of all that are not done."""
        return [(place, example) for place, example in enumerate(self.present) if example in self.open]

    def go_on(self, keep: int) -> None:
        """Drop what is done, where it is worth the copy, and restart where the Krylov space is full."""
        places = self.places()
        if places and len(places) <= 0.75 * len(self.present):
            self.krylov.select(torch.tensor([place for place, _ in places], device=self.krylov.basis.device))
            self.present = [example for _, example in places]
        if places and self.krylov.full:
            self.krylov.restart(keep)


def _first_start(jacobian: Jacobian, options: _Options, generator: torch.Generator) -> list[_Found]:
    """Find the outermost eigenvalues of each example from one random start."""
    krylov = _Krylov(jacobian, options.subspace, generator, jacobian.point.new_zeros(jacobian.batch, 0, jacobian.size))
    batch, found = _Batch(krylov), {}
    eps, wanted = float(torch.finfo(jacobian.point.dtype).eps), options.wanted
    watches = [_Watch(options, eps) for _ in range(jacobian.batch)]
    products, next_look = 0, _FEWEST_PRODUCTS
    while batch.open:
        krylov.extend()
        products += 1
        last = products == options.max_products
        if not (krylov.full or last or products >= next_look):
            continue
        next_look = products + _LOOK_EVERY
        complete = krylov.full and krylov.dimension == jacobian.size
        projected, coupling = krylov.projected()
        for place, example in batch.places():
            if not np.isfinite(projected[place]).all():
                found[example] = _unknown(jacobian.point[example], wanted, products)
                batch.open.remove(example)
                continue
            ritz, errors, done = watches[example].look(projected[place], coupling[place], products)
            if not (done or complete or last):
                continue
            batch.open.remove(example)
            space = _orthonormal_real(ritz.vectors[:, :wanted])
            found[example] = _Found(
                values=ritz.values[:wanted],
                errors=errors,
                condition=ritz.condition[:wanted],
                products=products,
                complete=complete,
                basis=torch.from_numpy(space.T).to(krylov.basis) @ krylov.basis[place, : krylov.length],
                within=space.T @ projected[place] @ space,
                coupling=coupling[place] @ space,
                direction=krylov.basis[place, krylov.length].clone(),
            )
        batch.go_on(max(wanted + 2, krylov.dimension // 2))
    return [found[example] for example in range(jacobian.batch)]


def _unknown(point: Float[Tensor, "n"], wanted: int, products: int) -> _Found:
    """Return what is known where J is not finite: nothing."""
    return _Found(
        values=np.full(wanted, complex(np.nan, np.nan)),
        errors=np.full(wanted, np.inf),
        condition=np.full(wanted, np.nan),
        products=products,
        complete=True,
        basis=point.new_zeros(0, len(point)),
        within=np.zeros((0, 0)),
        coupling=np.zeros(0),
        direction=torch.zeros_like(point),
    )


def _second_start(
    jacobian: Jacobian, first: list[_Found], options: _Options, generator: torch.Generator
) -> list[_Found]:
    """Look again from a random start, outside what the first one found, and judge both together.

    The Ritz values of both spaces together show an eigenvalue that the first start missed, and an eigenvector on the
    other side that it did not contain: |y^H x| is then smaller, and the error larger, than it seemed. Takes at least
    a quarter as many products as the first start, and at most twice as many.
    """
    width = max(one.basis.shape[0] for one in first)
    outside = jacobian.point.new_zeros(len(first), width, jacobian.size)
    for place, one in enumerate(first):
        outside[place, : one.basis.shape[0]] = one.basis
    krylov = _Krylov(jacobian, options.subspace, generator, outside)
    batch, found = _Batch(krylov), {}
    eps, wanted = float(torch.finfo(jacobian.point.dtype).eps), options.wanted
    watches = [_Watch(options, eps, one) for one in first]
    products, next_look = 0, _FEWEST_PRODUCTS
    while batch.open:
        krylov.extend()
        products += 1
        if not (krylov.full or products >= next_look):
            continue
        next_look = products + _LOOK_EVERY
        projected, coupling = krylov.projected()
        crossing = krylov.crossing[:, :, : krylov.length].cpu().numpy()
        for place, example in batch.places():
            one = first[example]
            aligned = torch.mv(krylov.basis[place, : krylov.length], one.direction).double().cpu().numpy()
            both, rows = _together(one, projected[place], coupling[place], crossing[place], aligned)
            ritz, errors, done = watches[example].look(both, rows, products)
            least, most = (max(_FEWEST_PRODUCTS, count) for count in (one.products // 4, 2 * one.products))
            if products < least or not (done or products >= most):
                continue
            batch.open.remove(example)
            found[example] = replace(
                one,
                values=ritz.values[:wanted],
                errors=np.maximum(errors, one.errors),
                condition=np.maximum(ritz.condition[:wanted], one.condition),
                products=one.products + products,
            )
        batch.go_on(max(wanted + 2, krylov.dimension // 2))
    return [found[example] for example in range(len(first))]


def _together(
    first: _Found,
    projected: NDArray[np.float64],
    coupling: NDArray[np.float64],
    crossing: NDArray[np.float64],
    aligned: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return A within the span of Q and V, and the rows that lead out of it.

    Args:
        first: A Q = Q T + v c^T.
        projected: H of A V = V H + w b^T + Q C.
        coupling: b.
        crossing: C, with rows of zeros where Q is padded.
        aligned: V^T v.
    """
    p = len(first.within)
    both = np.block([[first.within, crossing[:p]], [np.outer(aligned, first.coupling), projected]])
    beyond = np.sqrt(max(0.0, 1 - float(aligned @ aligned)))
    rows = np.zeros((2, len(both)))
    rows[0, :p] = beyond * first.coupling
    rows[1, p:] = coupling
    return both, rows


def _dominant(jacobian: Jacobian, options: _Options, generator: torch.Generator) -> list[_Found]:
    """Find the outermost eigenvalues of each example from two random starts; where in doubt, from two stricter ones."""
    found = _two_starts(jacobian, options, 1.5, generator)
    doubtful = [i for i, one in enumerate(found) if _is_doubtful(one, options)]
    if doubtful:
        again = _two_starts(_rows(jacobian, doubtful), options, 8.0, generator)
        for i, one in zip(doubtful, again, strict=True):
            # What was larger beyond its error before may not be lost.
            lost = np.abs(found[i].values) - found[i].errors - np.abs(one.values)
            errors = np.maximum(one.errors, lost)
            found[i] = replace(one, errors=errors, products=found[i].products + one.products)
    return found


def _is_doubtful(one: _Found, options: _Options) -> bool:
    """Return whether the errors are too large though products are left, and more of them may help."""
    loose = bool((one.errors > options.tolerance * np.abs(one.values)).any())
    defective = bool((one.condition > 1 / NEARLY_DEFECTIVE).any())
    return loose and not defective and not one.complete and one.products < options.max_products


def _two_starts(jacobian: Jacobian, options: _Options, strictness: float, generator: torch.Generator) -> list[_Found]:
    # Stricter at first, since the second start can only raise the error.
    found = _first_start(jacobian, replace(options, strictness=strictness, caution=2.0), generator)
    rest = [i for i, one in enumerate(found) if not one.complete]
    if rest:
        again = _second_start(_rows(jacobian, rest), [found[i] for i in rest], options, generator)
        for i, one in zip(rest, again, strict=True):
            found[i] = one
    return found


def _rows(jacobian: Jacobian, rows: list[int]) -> Jacobian:
    """Return the Jacobians of ``rows``; of all of them, the one that holds its graph already."""
    whole = len(rows) == jacobian.batch
    return jacobian if whole else jacobian.select(torch.tensor(rows, device=jacobian.point.device))


def spectral_radius(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    tolerance: float = 1e-2,
    max_products: int = 500,
    subspace: int = SUBSPACE,
    seed: int = 0,
    dtype: torch.dtype | None = None,
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

    Raises:
        LoopscopeError: there is no Jacobian to speak of (see ``step_jacobian``), or an option is out of range.
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype)
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
    tolerance: float = 1e-2,
    max_products: int = 1000,
    subspace: int = SUBSPACE,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Eigenvalues:
    """Return the ``k`` eigenvalues of largest modulus of J = df/dz at ``state``, per example, largest first.

    Arguments and errors are those of ``spectral_radius``.
    """
    jacobian = step_jacobian(loop, state, recalled, dtype=dtype)
    return jacobian_eigenvalues(
        jacobian, k, tolerance=tolerance, max_products=max_products, subspace=subspace, seed=seed
    )


def jacobian_eigenvalues(
    jacobian: Jacobian,
    k: int,
    *,
    tolerance: float = 1e-2,
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
    options = _Options(min(k, jacobian.size), tolerance, max_products, max(subspace, 2 * k + 8))
    generator = torch.Generator().manual_seed(seed)
    found: list[_Found] = []
    for first in range(0, jacobian.batch, _CHUNK):
        found += _dominant(jacobian.select(slice(first, first + _CHUNK)), options, generator)
    values = np.stack([one.values for one in found])
    errors = np.stack([one.errors for one in found])
    floor = 100 * torch.finfo(jacobian.point.dtype).eps
    return Eigenvalues(
        eigenvalues=torch.from_numpy(values),
        error=torch.from_numpy(errors),
        converged=torch.from_numpy(errors <= np.maximum(tolerance * np.abs(values), floor)),
        defective=torch.from_numpy(np.stack([one.condition for one in found]) > 1 / NEARLY_DEFECTIVE),
        products=torch.tensor([one.products for one in found]),
    )
