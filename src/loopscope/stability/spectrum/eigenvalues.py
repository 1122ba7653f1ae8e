"""Eigenvalues of the Jacobian of a loop, per example, from products v^T J alone.

The method is Krylov-Schur (Stewart, 2001), a restarted Arnoldi iteration. It runs on J^T, which has the eigenvalues of J,
because v^T J needs no derivative rule beyond the ordinary backward pass. A product for the whole batch costs about as much as
one evaluation of the step. Examples that have converged leave the batch.

Errors: a Ritz pair (theta, x) with residual r is an exact eigenpair of a matrix at distance ||r||. The error of theta is
therefore about ||r|| / |y^H x|, where x and y are the unit right and left eigenvectors, and y is taken from the projected
matrix. Rounding adds to ||r||. If J is nearly defective, perturbations of this size can merge eigenvalues, and the first-order
error says nothing. Such eigenvalues are reported as their mean, with the extent of the pseudospectrum as the error. A second
random start, with the eigenvalues found so far deflated, looks for what the first one missed: a larger eigenvalue, or the part
of y outside the first Krylov space. Results are on the CPU, in double precision.
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
from loopscope.stability.spectrum._ritz import (
    NEARLY_DEFECTIVE,
    Options,
    Ritz,
    orthonormal_real,
    ritz_errors,
    ritz_values,
)
from loopscope.trees import Tree


@dataclass(frozen=True)
class Eigenvalues:
    """The eigenvalues of largest modulus of J, per example, largest first.

    Attributes:
        eigenvalues: the complex eigenvalues. Both members of a conjugate pair are listed.
        error: absolute error of each eigenvalue.
        converged: whether the error is within the tolerance.
        defective: whether |y^H x| < 1e-3, so that J is nearly defective or far from normal.
        products: number of products v^T J for each example.
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
        eigenvalue: the eigenvalue of largest modulus, with a positive imaginary part if it belongs to a conjugate pair.
        radius: modulus of the eigenvalue.
        error: absolute error of the radius.
        converged: whether the error is within the tolerance.
        defective: whether |y^H x| < 1e-3, so that J is nearly defective or far from normal.
        products: number of products v^T J for each example, including those of the second start.
    """

    eigenvalue: Complex[Tensor, "batch"]
    radius: Float[Tensor, "batch"]
    error: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    defective: Bool[Tensor, "batch"]
    products: Tensor


SUBSPACE = 64
"""Default number of Krylov vectors per example before a restart."""

_MIN_PRODUCTS = 12
"""Smallest number of products per random start."""

_CHECK_EVERY = 2
"""Number of products between two checks of the Ritz values."""

_STEADY_PRODUCTS = 4
"""Number of products over which the Ritz values must not have moved."""

_CHUNK = 16
"""Number of examples taken at once. More would not fit into the cache of a CPU, and their Krylov vectors take memory."""


@dataclass(frozen=True)
class _Found:
    """The outermost eigenvalues of one example, and their invariant subspace: A Q = Q T + v c^T with A = J^T."""

    values: NDArray[np.complex128]
    errors: NDArray[np.float64]
    condition: NDArray[np.float64]
    products: int
    complete: bool
    """Whether the Krylov space is the whole space, so that no eigenvalue can have been missed."""
    size: float
    """A lower bound on the norm of J: the largest column of its projection."""
    basis: Float[Tensor, "p n"]
    within: NDArray[np.float64]
    coupling: NDArray[np.float64]
    direction: Float[Tensor, "n"]


class _History:
    """The Ritz values of one example at each check, and whether they have settled."""

    def __init__(self, options: Options, eps: float, first: _Found | None = None) -> None:
        self.options, self.eps = options, eps
        self.before = 0 if first is None else first.products
        self.seen: list[tuple[int, NDArray[np.complex128]]] = [] if first is None else [(0, first.values)]

    def check(
        self, projected: NDArray[np.float64], coupling: NDArray[np.float64], products: int
    ) -> tuple[Ritz, NDArray[np.float64], bool]:
        """Return the Ritz values, the errors of the wanted ones, and whether further products are useless."""
        options = self.options
        rounding = 4 * self.eps * float(np.linalg.norm(projected, axis=0).max(initial=0.0))
        ritz = ritz_values(projected, coupling, rounding)
        own, errors = ritz_errors(ritz, projected, options, self.before + products)
        size = np.abs(ritz.values[: len(own)])
        enough = np.maximum(options.tolerance * size, 2 * rounding)
        strict = np.maximum(enough / options.strictness, 2 * rounding)
        earlier = [values for taken, values in self.seen if taken <= products - _STEADY_PRODUCTS]
        self.seen.append((products, ritz.values[: len(own)]))
        moved = np.abs(size - np.abs(earlier[-1])) if earlier else np.zeros_like(size)
        settled = bool((np.maximum(own, moved) <= strict).all() and (errors <= enough).all()) and bool(earlier)
        hopeless = bool(((own > strict) & (ritz.backward[: len(own)] <= 2 * rounding)).any())
        return ritz, np.maximum(errors, moved), settled or hopeless


class _Batch:
    """The examples in a Krylov batch. Those that have converged leave once there are enough of them."""

    def __init__(self, krylov: Krylov) -> None:
        self.krylov = krylov
        self.present = list(range(krylov.jacobian.batch))
        self.open = set(self.present)

    def places(self) -> list[tuple[int, int]]:
        """Return (place in the batch, example) for all examples that have not converged."""
        return [(place, example) for place, example in enumerate(self.present) if example in self.open]

    def go_on(self, keep: int) -> None:
        """Drop converged examples if that is worth the copy, and restart if the Krylov space is full."""
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
    histories = [_History(options, eps) for _ in range(jacobian.batch)]
    products, next_check = 0, _MIN_PRODUCTS
    while batch.open:
        krylov.extend()
        products += 1
        last = products == options.max_products
        if not (krylov.full or last or products >= next_check):
            continue
        next_check = products + _CHECK_EVERY
        complete = krylov.full and krylov.dimension == jacobian.size
        projected, coupling = krylov.projected()
        for place, example in batch.places():
            if not np.isfinite(projected[place]).all():
                found[example] = _unknown(jacobian.point[example], wanted, products)
                batch.open.remove(example)
                continue
            ritz, errors, done = histories[example].check(projected[place], coupling[place], products)
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
    """Return NaN eigenvalues with infinite errors, for an example whose J is not finite."""
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
    """Search again from a random start outside the subspace that the first one found, and combine both.

    The Ritz values of both spaces together show an eigenvalue that the first start missed. They also show a left eigenvector
    that its space did not contain, in which case |y^H x| is smaller, and the error larger, than it seemed. This takes at
    least a quarter as many products as the first start, and at most twice as many.
    """
    width = max(one.basis.shape[0] for one in first)
    outside = jacobian.point.new_zeros(len(first), width, jacobian.size)
    for place, one in enumerate(first):
        outside[place, : one.basis.shape[0]] = one.basis
    krylov = Krylov(jacobian, options.subspace, generator, outside)
    batch, found = _Batch(krylov), {}
    eps, wanted = float(torch.finfo(jacobian.point.dtype).eps), options.wanted
    histories = [_History(options, eps, one) for one in first]
    products, next_check = 0, _MIN_PRODUCTS
    while batch.open:
        krylov.extend()
        products += 1
        if not (krylov.full or products >= next_check):
            continue
        next_check = products + _CHECK_EVERY
        projected, coupling = krylov.projected()
        crossing = krylov.crossing[:, :, : krylov.length].cpu().numpy()
        for place, example in batch.places():
            one = first[example]
            aligned = torch.mv(krylov.basis[place, : krylov.length], one.direction).double().cpu().numpy()
            both, rows = _together(one, projected[place], coupling[place], crossing[place], aligned)
            ritz, errors, done = histories[example].check(both, rows, products)
            least, most = (max(_MIN_PRODUCTS, count) for count in (one.products // 4, 2 * one.products))
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
    """Return the projection of A onto the span of Q and V, and the rows of A that lead out of the span.

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
    """Find the outermost eigenvalues of each example from two random starts, and in doubt from two stricter ones."""
    found = _two_starts(jacobian, options, 1.5, generator)
    doubtful = [i for i, one in enumerate(found) if _is_doubtful(one, options)]
    if doubtful:
        again = _two_starts(_rows(jacobian, doubtful), options, 8.0, generator)
        for i, one in zip(doubtful, again, strict=True):
            # An eigenvalue that was larger before, beyond its error, must stay within the new error.
            lost = np.abs(found[i].values) - found[i].errors - np.abs(one.values)
            errors = np.maximum(one.errors, lost)
            found[i] = replace(one, errors=errors, products=found[i].products + one.products)
    return found


def _is_doubtful(one: _Found, options: Options) -> bool:
    """Return whether the errors are too large and the remaining products may reduce them."""
    loose = bool((one.errors > options.tolerance * np.abs(one.values)).any())
    defective = bool((one.condition > 1 / NEARLY_DEFECTIVE).any())
    return loose and not defective and not one.complete and one.products < options.max_products


def _two_starts(jacobian: Jacobian, options: Options, strictness: float, generator: torch.Generator) -> list[_Found]:
    # The first start is stricter, since the second one can only raise the error.
    found = _first_start(jacobian, replace(options, strictness=strictness, caution=2.0), generator)
    rest = [i for i, one in enumerate(found) if not one.complete]
    if rest:
        again = _second_start(_rows(jacobian, rest), [found[i] for i in rest], options, generator)
        for i, one in zip(rest, again, strict=True):
            found[i] = one
    return found


def _rows(jacobian: Jacobian, rows: list[int]) -> Jacobian:
    """Return the Jacobians of ``rows``; if these are all, the Jacobian itself, which keeps its graph."""
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
    """Return the dominant eigenvalue of J = df/dz at ``state``, for each example.

    At a fixed point the spectral radius is the asymptotic factor by which an iteration shrinks errors. At any other state it
    is a property of J alone.

    Args:
        loop: the loop.
        state: where J is taken, batch first.
        recalled: what ``loop.encode`` returned for the same examples.
        tolerance: bound on the relative error.
        max_products: largest number of products v^T J per example and start.
        subspace: number of Krylov vectors per example.
        seed: seed of the two random starts. The global random state is not used.
        dtype: another precision (torch.float64) for the loop and its tensors.

    Raises:
        LoopscopeError: J is not defined (see `loopscope.jacobian.step_jacobian`), or an option is out of range.

    Example:
        >>> import torch, loopscope as ls
        >>> turn = torch.tensor([[0.0, -0.9], [0.9, 0.0]])
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z @ turn.T + e, read=lambda z: z
        ... )
        >>> inputs = torch.ones(1, 2)
        >>> found = ls.spectral_radius(loop, ls.solve(loop, inputs).state, inputs)
        >>> found.radius, found.eigenvalue.imag, found.converged
        (tensor([0.9000], dtype=torch.float64), tensor([0.9000], dtype=torch.float64), tensor([True]))
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
    """Return the ``k`` eigenvalues of largest modulus of J = df/dz at ``state``, for each example, largest first.

    Args:
        loop: the loop.
        state: where J is taken, batch first.
        recalled: what ``loop.encode`` returned for the same examples.
        k: number of eigenvalues; all of them if J has fewer.
        tolerance: bound on the relative errors.
        max_products: largest number of products v^T J per example and start.
        subspace: number of Krylov vectors per example, raised to 2 k + 8 if it is smaller.
        seed: seed of the two random starts. The global random state is not used.
        dtype: another precision (torch.float64) for the loop and its tensors.

    Raises:
        LoopscopeError: for the same reasons as in `spectral_radius`.

    Example:
        >>> import torch, loopscope as ls
        >>> factors = torch.tensor([0.9, -0.5, 0.1])
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: factors * z + e, read=lambda z: z
        ... )
        >>> ls.top_eigenvalues(loop, torch.zeros(1, 3), torch.ones(1, 3), 2).eigenvalues.real
        tensor([[ 0.9000, -0.5000]], dtype=torch.float64)
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
    """Return the ``k`` eigenvalues of largest modulus of a given Jacobian; see ``top_eigenvalues`` for the arguments."""
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
