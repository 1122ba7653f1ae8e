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

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from loopscope.errors import LoopscopeError, check_count, check_seed, check_tolerance
from loopscope.jacobian import Jacobian, step_jacobian
from loopscope.loop import Loop
from loopscope.stability.spectrum._arnoldi import Krylov
from loopscope.stability.spectrum._ritz import NEARLY_DEFECTIVE, Options, Ritz, judge, orthonormal_real, ritz_values
from loopscope.trees import Tree


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
class _Found:
    """The outermost eigenvalues of one example, and their invariant subspace: A Q = Q T + v c^T."""

    values: NDArray[np.complex128]
    errors: NDArray[np.float64]
    condition: NDArray[np.float64]
    products: int
    complete: bool
    """Whether the Krylov space is the whole space, so that nothing can have been missed."""
    size: float
    """A lower bound on the norm of J: the largest column of its projection."""
    basis: Float[Tensor, "p n"]
    within: NDArray[np.float64]
    coupling: NDArray[np.float64]
    direction: Float[Tensor, "n"]


class _Watch:
    """The looks taken at one example: where its wanted values stood, and whether they have settled."""

    def __init__(self, options: Options, eps: float, first: _Found | None = None) -> None:
        self.options, self.eps = options, eps
        self.before = 0 if first is None else first.products
        self.seen: list[tuple[int, NDArray[np.complex128]]] = [] if first is None else [(0, first.values)]

    def look(
        self, projected: NDArray[np.float64], coupling: NDArray[np.float64], products: int
    ) -> tuple[Ritz, NDArray[np.float64], bool]:
        """Return the Ritz values, the errors of the wanted ones, and whether going on is needless."""
        options = self.options
        rounding = 4 * self.eps * float(np.linalg.norm(projected, axis=0).max(initial=0.0))
        ritz = ritz_values(projected, coupling, rounding)
        own, errors = judge(ritz, projected, options, self.before + products)
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

    def __init__(self, krylov: Krylov) -> None:
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


def _first_start(jacobian: Jacobian, options: Options, generator: torch.Generator) -> list[_Found]:
    """Find the outermost eigenvalues of each example from one random start."""
    krylov = Krylov(jacobian, options.subspace, generator, jacobian.point.new_zeros(jacobian.batch, 0, jacobian.size))
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
            space = orthonormal_real(ritz.vectors[:, :wanted])
            found[example] = _Found(
                values=ritz.values[:wanted],
                errors=errors,
                condition=ritz.condition[:wanted],
                products=products,
                complete=complete,
                size=float(np.linalg.norm(projected[place], axis=0).max()),
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
        size=math.nan,
        basis=point.new_zeros(0, len(point)),
        within=np.zeros((0, 0)),
        coupling=np.zeros(0),
        direction=torch.zeros_like(point),
    )


def _second_start(
    jacobian: Jacobian, first: list[_Found], options: Options, generator: torch.Generator
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
    krylov = Krylov(jacobian, options.subspace, generator, outside)
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


def _dominant(jacobian: Jacobian, options: Options, generator: torch.Generator) -> list[_Found]:
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


def _is_doubtful(one: _Found, options: Options) -> bool:
    """Return whether the errors are too large though products are left, and more of them may help."""
    loose = bool((one.errors > options.tolerance * np.abs(one.values)).any())
    defective = bool((one.condition > 1 / NEARLY_DEFECTIVE).any())
    return loose and not defective and not one.complete and one.products < options.max_products


def _two_starts(jacobian: Jacobian, options: Options, strictness: float, generator: torch.Generator) -> list[_Found]:
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

    Example:
        >>> import torch, loopscope as ls
        >>> matrix = torch.tensor([[0.5, 1.0], [0.0, 0.2]])
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z @ matrix.T + e, read=lambda z: z
        ... )
        >>> found = ls.spectral_radius(loop, state=torch.zeros(1, 2), recalled=torch.ones(1, 2))
        >>> found.radius.round(decimals=3).tolist(), found.converged.tolist()
        ([0.5], [True])
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

    Example:
        >>> import torch, loopscope as ls
        >>> matrix = torch.tensor([[0.5, 1.0], [0.0, 0.2]])
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z @ matrix.T + e, read=lambda z: z
        ... )
        >>> found = ls.top_eigenvalues(loop, state=torch.zeros(1, 2), recalled=torch.ones(1, 2), k=2)
        >>> found.eigenvalues.real.round(decimals=3).tolist()
        [[0.5, 0.2]]
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
    check_count(k=k, max_products=max_products, subspace=subspace)
    check_tolerance(tolerance)
    check_seed(seed)
    if subspace < 4:
        raise LoopscopeError(f"subspace is {subspace}, expected at least 4 vectors")
    options = Options(min(k, jacobian.size), tolerance, max_products, max(subspace, 2 * k + 8))
    generator = torch.Generator().manual_seed(seed)
    found: list[_Found] = []
    for first in range(0, jacobian.batch, _CHUNK):
        found += _dominant(jacobian.select(slice(first, first + _CHUNK)), options, generator)
    values = np.stack([one.values for one in found])
    errors = np.stack([one.errors for one in found])
    # Zero eigenvalues are known to rounding, which is relative to the size of J.
    floor = 100 * torch.finfo(jacobian.point.dtype).eps * np.array([[one.size] for one in found])
    return Eigenvalues(
        eigenvalues=torch.from_numpy(values),
        error=torch.from_numpy(errors),
        converged=torch.from_numpy(errors <= np.maximum(tolerance * np.abs(values), floor)),
        defective=torch.from_numpy(np.stack([one.condition for one in found]) > 1 / NEARLY_DEFECTIVE),
        products=torch.tensor([one.products for one in found]),
    )
