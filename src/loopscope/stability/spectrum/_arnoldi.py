"""The Krylov-Schur recurrence of a batch of Jacobians, from products v^T J."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from loopscope.gmres import orthogonalize, unit
from loopscope.jacobian import Jacobian, random_vectors
from loopscope.stability.spectrum._ritz import leading_schur
from loopscope.trees import binary_scale


class Krylov:
    """The recurrence A V = V H + v b^T + Q C of a batch, with A = J^T and V orthogonal to a given Q."""

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
        """Return random unit vectors orthogonal to Q and to the first ``filled`` of V, or zero if there are none."""
        drawn = random_vectors(self.jacobian.batch, self.jacobian.size, self.basis, self.generator)
        rest, _ = orthogonalize(self.basis[:, :filled], orthogonalize(self.outside, drawn)[0])
        # If the space is full, only rounding remains.
        return unit(rest, rest.new_full((rest.shape[0],), 1e3 * torch.finfo(rest.dtype).eps))[0]

    def extend(self) -> None:
        """Add one Krylov vector to each example, by one product for the batch."""
        j = self.length
        image = self.jacobian.vjp(self.basis[:, j])
        # The part of an image of 1e-35 that lies outside the basis may be too small for float32.
        scale = binary_scale(image)
        image, factor = image / scale, scale.double()
        tiny = 4 * torch.finfo(image.dtype).eps * torch.linalg.vector_norm(image, dim=1)
        rest, crossing = orthogonalize(self.outside, image)
        rest, coefficients = orthogonalize(self.basis[:, : j + 1], rest)
        fresh, length = unit(rest, tiny)
        self.crossing[:, :, j] = crossing.double() * factor
        self.matrix[:, : j + 1, j] = coefficients.double() * factor
        self.matrix[:, j + 1, j] = length.double() * factor.squeeze(1)
        closed = length == 0
        if j + 1 < self.jacobian.size and bool(closed.any()):
            fresh = torch.where(closed.unsqueeze(1), self._fresh(j + 1), fresh)
        self.basis[:, j + 1] = fresh
        self.length = j + 1

    @property
    def full(self) -> bool:
        """Whether there is no room for another vector."""
        return self.length == self.dimension

    def projected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return H and b of all examples."""
        matrix = self.matrix[:, : self.length + 1, : self.length].cpu().numpy()
        return matrix[:, :-1], matrix[:, -1]

    def restart(self, keep: int) -> None:
        """Keep the invariant subspace of about ``keep`` outermost Ritz values."""
        projected, coupling = self.projected()
        m, batch = self.length, len(projected)
        rotation = np.zeros((batch, m, keep))
        matrix = np.zeros((batch, self.dimension + 1, self.dimension))
        for i in range(batch):
            q, form = leading_schur(projected[i], keep)
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
        """Keep only some examples."""
        filled, self.matrix = self.basis[rows, : self.length + 1], self.matrix[rows]
        self.basis = self.basis.new_empty(len(rows), self.dimension + 1, self.jacobian.size)
        self.basis[:, : self.length + 1] = filled
        self.outside, self.crossing = self.outside[rows], self.crossing[rows]
        self.jacobian = self.jacobian.select(rows)
