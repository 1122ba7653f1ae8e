"""The plane that shows most of a set of states: their two principal directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Plane:
    """A plane through a center.

    Args:
        center: the point that becomes the origin.
        directions: two orthogonal unit vectors, as columns. The second is zero where all points lie on a line of one number.
        explained: fraction of the points' squared distance from the center that each direction shows.
    """

    center: Float[Tensor, "n"]
    directions: Float[Tensor, "n 2"]
    explained: Float[Tensor, "2"]

    def project(self, points: Float[Tensor, "points n"]) -> Float[Tensor, "points 2"]:
        """Return the coordinates of points in the plane, in float64.

        They are computed in the precision of the points, relative to their distance from the center.
        """
        return ((points - self.center) @ self.directions.to(points.dtype)).double()

    def aligned(self, other: Plane) -> Plane:
        """Return the same plane with the signs of its directions nearest to those of another plane."""
        signs = torch.sign((self.directions * other.directions).sum(0))
        return Plane(self.center, self.directions * torch.where(signs == 0, 1.0, signs), self.explained)


def principal_plane(points: Float[Tensor, "points n"], center: Float[Tensor, "n"]) -> Plane:
    """Return the plane through ``center`` that is nearest to the points.

    The two directions are computed from the products of the points with each other, at a fraction of the cost of a decomposition
    of the points.

    Args:
        points: one flat state per row, all finite.
        center: the point that becomes the origin.

    Example:
        >>> points = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        >>> plane = principal_plane(points, points[-1])
        >>> plane.project(points).abs()
        tensor([[3., 0.],
                [0., 1.],
                [0., 0.]], dtype=torch.float64)
        >>> plane.explained
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    # In float64, because late steps are many orders of magnitude smaller than the first.
    exact = (points - center).double()
    variance, vectors = torch.linalg.eigh(exact @ exact.T)
    directions = F.normalize(exact.T @ vectors[:, -2:].flip(1), dim=0)
    if exact.shape[1] < 2:
        directions[:, 1] = 0
    variance = variance.clamp_min(0).flip(0)
    return Plane(center, directions, variance[:2] / variance.sum().clamp_min(torch.finfo(torch.float64).tiny))
