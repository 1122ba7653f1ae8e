"""Small problems with exact answers that loops of a few thousand parameters learn in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CELLS = 16
"""Length of a string."""
NODES = 10
"""Nodes of a graph."""
SIDE = 5
"""Cells along a side of a square grid."""


class Problems(NamedTuple):
    """Problems and their answers.

    Args:
        inputs: one row of features for each token.
        answers: a class for each token.
    """

    inputs: Float[Tensor, "batch tokens features"]
    answers: Int[Tensor, "batch tokens"]


class Task(NamedTuple):
    """A way to draw problems.

    Args:
        draw: (count, generator) -> problems.
        features: number of features per token.
        classes: number of classes of an answer.
    """

    draw: Callable[[int, torch.Generator], Problems]
    features: int
    classes: int


def _one_hot(classes: Int[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape classes"]:
    return torch.nn.functional.one_hot(classes, count).float()


def flood(count: int, generator: torch.Generator) -> Problems:
    """Draw corridors with walls and a source; a cell's answer is whether the source reaches it."""
    wall = torch.rand(count, CELLS, generator=generator) < 0.15
    place = torch.randint(CELLS, (count,), generator=generator)
    source = _one_hot(place, CELLS).bool()
    open_cells = ~(wall & ~source)
    reached = source.clone()
    for _ in range(CELLS):
        left, right = reached.roll(1, 1), reached.roll(-1, 1)
        left[:, 0], right[:, -1] = False, False
        reached = reached | ((left | right) & open_cells)
    return Problems(torch.stack([open_cells, source], dim=2).float(), reached.long())


def xor(count: int, generator: torch.Generator) -> Problems:
    """Draw points in eight dimensions; the single answer is the parity of the signs of the first three."""
    points = torch.randn(count, 1, 8, generator=generator)
    return Problems(points, (points[..., :3] > 0).sum(2) % 2)


def nearest(count: int, generator: torch.Generator) -> Problems:
    """Draw strings of blanks and three letters. A cell's answer is the nearest letter to its left, or 0 if there is none."""
    letters = torch.randint(1, 4, (count, CELLS), generator=generator)
    letters = letters.where(torch.rand(count, CELLS, generator=generator) < 0.25, torch.zeros(()).long())
    answers = letters.clone()
    for cell in range(1, CELLS):
        answers[:, cell] = letters[:, cell].where(letters[:, cell] > 0, answers[:, cell - 1])
    return Problems(_one_hot(letters, 4), answers)


def prefix_max(count: int, generator: torch.Generator) -> Problems:
    """Draw strings of digits from 0 to 3, low ones more often. A cell's answer is the largest digit so far."""
    digits = (torch.rand(count, CELLS, generator=generator) ** 3 * 4).long()
    return Problems(_one_hot(digits, 4), digits.cummax(1).values)


def addition(count: int, generator: torch.Generator) -> Problems:
    """Draw pairs of binary numbers, lowest bit first; the answer is their sum."""
    bits = torch.randint(2, (count, CELLS, 2), generator=generator)
    bits[:, -1] = 0
    carry, answers = torch.zeros(count, dtype=torch.long), []
    for cell in range(CELLS):
        total = bits[:, cell].sum(1) + carry
        answers.append(total % 2)
        carry = total // 2
    return Problems(bits.float(), torch.stack(answers, dim=1))


def sorting(count: int, generator: torch.Generator) -> Problems:
    """Draw strings of three letters; the answer is the string sorted."""
    letters = torch.randint(3, (count, 8), generator=generator)
    return Problems(_one_hot(letters, 3), letters.sort(1).values)


def reach(count: int, generator: torch.Generator) -> Problems:
    """Draw sparse graphs. A node's answer is whether it can be reached from the source.

    The features of a node are its row of the adjacency matrix and a mark if it is the source.
    """
    drawn = torch.rand(count, NODES, NODES, generator=generator) < 0.12
    linked = (drawn | drawn.mT) & ~torch.eye(NODES, dtype=torch.bool)
    source = _one_hot(torch.randint(NODES, (count,), generator=generator), NODES).bool()
    reached = source
    for _ in range(NODES):
        reached = reached | (linked & reached.unsqueeze(1)).any(2)
    return Problems(torch.cat([linked, source.unsqueeze(2)], dim=2).float(), reached.long())


def grid_flood(count: int, generator: torch.Generator) -> Problems:
    """Draw square grids with walls and a source, row by row; a cell's answer is whether the source reaches it."""
    wall = torch.rand(count, SIDE, SIDE, generator=generator) < 0.3
    source = _one_hot(torch.randint(SIDE * SIDE, (count,), generator=generator), SIDE * SIDE).view_as(wall).bool()
    open_cells = ~(wall & ~source)
    reached = source
    for _ in range(SIDE * SIDE):
        around = torch.nn.functional.pad(reached, (1, 1, 1, 1))
        beside = around[:, :-2, 1:-1] | around[:, 2:, 1:-1] | around[:, 1:-1, :-2] | around[:, 1:-1, 2:]
        reached = reached | (beside & open_cells)
    return Problems(torch.stack([open_cells, source], dim=3).float().flatten(1, 2), reached.long().flatten(1, 2))


def above_mean(count: int, generator: torch.Generator) -> Problems:
    """Draw sets of eight numbers; an element's answer is whether it is larger than their mean."""
    numbers = torch.randn(count, 8, 1, generator=generator)
    return Problems(numbers, (numbers > numbers.mean(1, keepdim=True)).long().squeeze(2))


TASKS: dict[str, Task] = {
    "flood": Task(flood, 2, 2),
    "xor": Task(xor, 8, 2),
    "nearest": Task(nearest, 4, 4),
    "prefix max": Task(prefix_max, 4, 4),
    "addition": Task(addition, 2, 2),
    "sorting": Task(sorting, 3, 3),
    "reach": Task(reach, NODES + 1, 2),
    "grid flood": Task(grid_flood, 2, 2),
    "above mean": Task(above_mean, 1, 2),
}
