"""States of different examples: their distance, padding excluded, and whose can stand for whose."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.trees import Tree, flatten


def distance(first: Tree, second: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch"]:
    """Return the Euclidean distance of two states, per example."""
    return torch.linalg.vector_norm(flatten(first, mask) - flatten(second, mask), dim=1)


def partners(mask: Bool[Tensor, "batch *tokens"] | None, shift: int, batch: int) -> Int[Tensor, "batch"]:
    """Return for each example the one ``shift`` places on, in a circle, of those with the same real tokens.

    Only these can stand in for each other. An example that finds no other one is its own partner.
    """
    found = torch.arange(batch, device=None if mask is None else mask.device)
    groups = _groups(mask, batch).to(found)
    for group in groups.unique():
        rows = torch.nonzero(groups == group).squeeze(1)
        found[rows] = rows.roll(-shift)
    return found


def has_partner(partner: Int[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
    """Return of partners whether each is another example."""
    return partner != torch.arange(len(partner)).to(partner)


def in_pairs(rows: Int[Tensor, "rows"], mask: Bool[Tensor, "batch *tokens"] | None) -> Int[Tensor, "rows"]:
    """Return the rows in an order in which any first few have partners: pairs of the same real tokens, then the rest.

    Pairs stand in the order of ``rows``, which where no token is padding is the order of all.
    """
    order: list[list[int]] = []
    waiting: dict[int, list[int]] = {}
    for row, group in zip(
        rows.tolist(), _groups(None if mask is None else mask[rows], len(rows)).tolist(), strict=True
    ):
        if group in waiting:
            waiting.pop(group).append(row)
        else:
            order.append([row])
            waiting[group] = order[-1]
    paired = [row for pair in order if len(pair) == 2 for row in pair]
    alone = [pair[0] for pair in order if len(pair) == 1]
    return torch.tensor([*paired, *alone]).to(rows)


def _groups(mask: Tensor | None, batch: int) -> Tensor:
    if mask is None or not batch:
        return torch.zeros(batch, dtype=torch.long)
    return mask.reshape(batch, -1).unique(dim=0, return_inverse=True)[1]
