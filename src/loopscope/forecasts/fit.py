"""Dynamic mode decomposition of an orbit: each change of the state is a small matrix times the previous one (Schmid, 2010)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from loopscope.trees import Tree, flatten

SMALL = 1e-3
"""Directions in which changes are smaller than this fraction of the largest count as noise."""
ROUNDING = 4.0
"""Directions in which changes are smaller than this many units of rounding of the state count as rounding."""


@dataclass(frozen=True)
class Fit:
    """The modes of each orbit's last changes, found by dynamic mode decomposition.

    Args:
        changes: the changes that the modes are combined from, oldest first.
        basis: weights that combine the changes into orthonormal directions, zero for directions that count as noise.
        rates: factor by which each mode grows per iteration.
        modes: the modes in these directions, one per column.
        parts: coefficients of the modes in the last change.
        finite: which orbits have finite changes. The others are treated as if they did not move.
    """

    changes: Float[Tensor, "batch changes n"]
    basis: Float[Tensor, "batch changes m"]
    rates: Complex[Tensor, "batch m"]
    modes: Complex[Tensor, "batch m m"]
    parts: Complex[Tensor, "batch m 1"]
    finite: Bool[Tensor, "batch"]

    def held(self, rows: Bool[Tensor, "batch"] | None = None) -> Fit:
        """Return the fit with growing modes held to their present pace, for all orbits or for ``rows``."""
        slowed = self.rates / self.rates.abs().clamp_min(1)
        return replace(self, rates=slowed if rows is None else slowed.where(rows.cpu().unsqueeze(1), self.rates))

    def lengths(self) -> Float[Tensor, "batch m"]:
        """Return the length of each mode's part of the last change."""
        weights = self.basis.to(self.modes) @ (self.modes * self.parts.mT)
        products = (self.changes @ self.changes.mT).to(weights)
        squares = torch.einsum("bim,bij,bjm->bm", weights.conj(), products, weights).real
        return squares.clamp_min(0).sqrt()

    def change(self, iterations: int) -> Float[Tensor, "batch n"]:
        """Return the change of the state in the iteration ``iterations`` after the last one."""
        return self._combined(self.rates**iterations)

    def further(self, iterations: int) -> Float[Tensor, "batch n"]:
        """Return the sum of the next ``iterations`` changes."""
        return self._combined(sum_of_powers(self.rates, iterations))

    def _combined(self, factors: Complex[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        weights = self.basis @ (self.modes @ (factors.unsqueeze(2) * self.parts)).real
        moved = (weights.to(self.changes).mT @ self.changes).squeeze(1)
        return moved.where(self.finite.to(moved.device).unsqueeze(1), torch.zeros(()).to(moved))


def fit(states: Sequence[Tree], mask: Bool[Tensor, "batch *tokens"] | None = None, noise: float = 0.0) -> Fit:
    """Fit each orbit's modes to the changes between its last states.

    Args:
        states: the last states of each orbit in order, at least three. More states resolve more modes.
        mask: true where a token is real. Padding is left out of the fit.
        noise: relative change up to which a state moves by rounding alone, where a step rounds more coarsely than its state.
    """
    flat = torch.stack([flatten(state, mask) for state in states], dim=1)
    unit = max(ROUNDING * torch.finfo(flat.dtype).eps, noise)
    rounding = unit * torch.linalg.vector_norm(flat[:, -1].double(), dim=1).cpu()
    changes = flat.double().diff(dim=1)
    # The fit needs only the products of the long vectors with each other, a few numbers per orbit. They go to the CPU, because
    # only its least squares can handle modes that coincide.
    products = (changes @ changes.mT).cpu()
    finite = products.isfinite().flatten(1).all(1) & rounding.isfinite()
    products, rounding = products.where(finite[:, None, None], torch.zeros(()).double()), rounding.where(finite, 0)
    squares, right = torch.linalg.eigh(products[:, :-1, :-1])
    sizes = squares.clamp_min(0).sqrt()
    known = sizes > torch.maximum(SMALL * sizes[:, -1:], rounding.unsqueeze(1))
    basis = right * torch.where(known, 1 / sizes.where(known, torch.ones_like(sizes)), 0.0).unsqueeze(1)
    rates, modes = torch.linalg.eig(basis.mT @ products[:, :-1, 1:] @ basis)
    last = (basis.mT @ products[:, :-1, -1:]).to(modes)
    parts = torch.linalg.lstsq(modes, last).solution
    # Changes that are not finite are set to zero, because infinity times a weight of zero is NaN.
    return Fit(changes[:, :-1].nan_to_num(0, 0, 0), basis, rates, modes, parts, finite)


def surprise(
    states: Sequence[Tree], mask: Bool[Tensor, "batch *tokens"] | None = None, noise: float = 0.0
) -> Float[Tensor, "batch"]:
    """Return the distance of the last change from its prediction by a fit to the earlier changes, relative to the change.

    Args:
        states: the last states of each orbit in order, at least four.
        mask: true where a token is real.
        noise: see ``fit``.
    """
    before, last = (flatten(state, mask).double() for state in states[-2:])
    change = last - before
    error = torch.linalg.vector_norm(fit(states[:-1], mask, noise).change(1) - change, dim=1)
    size = torch.linalg.vector_norm(change, dim=1)
    return torch.where(size > 0, error / size, torch.zeros_like(size))


def sum_of_powers(rates: Complex[Tensor, "*shape"], count: int) -> Complex[Tensor, "*shape"]:
    """Return rates + rates^2 + ... + rates^count by repeated doubling, which is exact even for a rate of 1."""
    total, power = torch.zeros_like(rates), torch.ones_like(rates)
    for bit in f"{count:b}":
        total, power = total + power * total, power * power
        if bit == "1":
            power = power * rates
            total = total + power
    return total
