"""The symmetries of sudoku, which preserve the difficulty and the number of solutions of a puzzle.

They are relabelling of the digits, exchange of bands, of rows within a band, of stacks, of columns within a stack, and
transposition. They form a group of 9! x 3,359,232 elements. Each is stored as a relabelling and a permutation of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Symmetries:
    """One symmetry per row.

    Args:
        labels: new digit for digit d, at index d - 1.
        places: source cell of each cell.
    """

    labels: Int[Tensor, "batch 9"]
    places: Int[Tensor, "batch 81"]

    def __call__(self, grids: Int[Tensor, "batch 81"]) -> Int[Tensor, "batch 81"]:
        """Apply each symmetry to its grid. Empty cells (0) stay empty."""
        relabelled = F.pad(self.labels, (1, 0)).gather(1, grids.long())
        return relabelled.gather(1, self.places).to(grids.dtype)

    def then(self, other: Symmetries) -> Symmetries:
        """Return the composition that applies these symmetries first and then the others."""
        return Symmetries(other.labels.gather(1, self.labels - 1), self.places.gather(1, other.places))

    def inverse(self) -> Symmetries:
        """Return the inverse symmetries."""
        return Symmetries(self.labels.argsort(1) + 1, self.places.argsort(1))


def random_relabellings(count: int, generator: torch.Generator) -> Symmetries:
    """Draw relabellings uniformly."""
    labels = torch.rand(count, 9, generator=generator).argsort(1) + 1
    return Symmetries(labels, torch.arange(81).expand(count, 81))


def random_symmetries(count: int, generator: torch.Generator) -> Symmetries:
    """Draw symmetries uniformly from the whole group."""
    rows, columns = _random_lines(count, generator), _random_lines(count, generator)
    places = 9 * rows.unsqueeze(2) + columns.unsqueeze(1)
    turned = torch.rand(count, 1, 1, generator=generator) < 0.5
    places = torch.where(turned, places.transpose(1, 2), places).flatten(1)
    return Symmetries(random_relabellings(count, generator).labels, places)


def _random_lines(count: int, generator: torch.Generator) -> Int[Tensor, "count 9"]:
    """Draw permutations of nine lines that permute bands of three, and lines within a band."""
    bands = torch.rand(count, 3, 1, generator=generator).argsort(1)
    within = torch.rand(count, 3, 3, generator=generator).argsort(2)
    return (3 * bands + within).flatten(1)
