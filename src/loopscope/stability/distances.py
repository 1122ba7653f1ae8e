"""Distances between the states of different examples, and which examples can be swapped with which."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.trees import Tree, batch_size, flatten, leaves, masked, scaled_norm

SAME = 1e-5
"""Relative distance within which recalled inputs count as equal, since encoders may round rows differently."""

SAME_IN_ERRORS = 10.0
"""Two states within this many of their errors of each other count as one fixed point."""

_PROJECTED = 16
"""Number of random directions in which recalled inputs are compared."""


def distance(first: Tree, second: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch"]:
    """Return the Euclidean distance of two states, per example."""
    return scaled_norm(flatten(first, mask) - flatten(second, mask))


def partners(recalled: Tree, mask: Bool[Tensor, "batch *tokens"] | None, shift: int) -> Int[Tensor, "batch"]:
    """Return, for each example, the example that takes its place in a swap.

    Partners have the same real tokens and different recalled inputs. The partner of an example is found ``shift`` places
    further, cyclically, among the examples with the same real tokens; if it recalls the same input, the search continues from
    there. An example without a partner gets itself.

    Args:
        recalled: what ``loop.encode`` returned.
        mask: true where a token is real.
        shift: number of places.
    """
    kinds = kinds_of(recalled, mask).tolist()
    groups = _padding_groups(mask, len(kinds))
    found = torch.arange(len(kinds))
    for group in groups.unique():
        rows = torch.nonzero(groups == group).squeeze(1).tolist()
        for place, row in enumerate(rows):
            # The search ends at an example that recalls something else, at the latest at the example itself.
            circle = (rows[(place + shift + step) % len(rows)] for step in range(len(rows)))
            found[row] = next(other for other in circle if other == row or kinds[other] != kinds[row])
    return found.to(leaves(recalled)[0].device)


def has_partner(partner: Int[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
    """Return which examples have a partner other than themselves."""
    return partner != torch.arange(len(partner)).to(partner)


def why_alone(partner: Int[Tensor, "batch"], recalled: Tree, mask: Bool[Tensor, "batch *tokens"] | None) -> str | None:
    """Return a sentence that says why more than half of the examples have no partner, or None if half of them have one."""
    alone = ~has_partner(partner)
    count, batch = int(alone.sum()), len(partner)
    if 2 * count <= batch:
        return None
    kinds = kinds_of(recalled, mask)
    groups = _padding_groups(mask, batch).to(kinds)
    equal = (kinds[:, None] == kinds[None]) & (groups[:, None] == groups[None])
    if 2 * int((equal.sum(1) > 1).to(alone)[alone].sum()) > count:
        return (
            f"{count} of {batch} inputs recall the same as all others, so a swap would change nothing; give different inputs, "
            "and let encode return what distinguishes them"
        )
    return (
        f"{count} of {batch} inputs have padding unlike that of all others, and only inputs of equal length can be "
        "swapped; give more inputs, or several of each length"
    )


def in_pairs(
    rows: Int[Tensor, "rows"], recalled: Tree, mask: Bool[Tensor, "batch *tokens"] | None
) -> Int[Tensor, "rows"]:
    """Return the rows ordered so that any first few have partners: first pairs that can be swapped, then the rest.

    Pairs keep the order of ``rows``. If there is no padding and all inputs differ, all rows keep their order.
    """
    kinds = kinds_of(recalled, mask)
    groups = _padding_groups(mask, len(kinds)).tolist()
    order: list[list[int]] = []
    waiting: dict[int, list[list[int]]] = {}
    kind = kinds.tolist()
    for row in rows.tolist():
        queue = waiting.setdefault(groups[row], [])
        match = next((pair for pair in queue if kind[pair[0]] != kind[row]), None)
        if match is None:
            order.append([row])
            queue.append(order[-1])
        else:
            match.append(row)
            queue.remove(match)
    paired = [row for pair in order if len(pair) == 2 for row in pair]
    alone = [pair[0] for pair in order if len(pair) == 1]
    return torch.tensor([*paired, *alone]).to(rows)


def kinds_of(recalled: Tree, mask: Bool[Tensor, "batch *tokens"] | None) -> Int[Tensor, "batch"]:
    """Return a number per example that is equal for examples that recall the same input, ignoring padding."""
    labels = [
        _labels(masked(leaf, mask).detach().reshape(len(leaf), -1)) for leaf in leaves(recalled) if leaf[:1].numel()
    ]
    if not labels:
        return torch.zeros(batch_size(recalled), dtype=torch.long)
    return torch.stack(labels, dim=1).unique(dim=0, return_inverse=True)[1]


def _labels(values: Float[Tensor, "batch n"] | Tensor) -> Int[Tensor, "batch"]:
    """Return a label per row that is equal for equal rows (up to rounding for floating rows)."""
    if not values.is_floating_point():
        return values.unique(dim=0, return_inverse=True)[1].cpu()
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(values.shape[1], _PROJECTED, generator=generator).to(values) / _PROJECTED**0.5
    shown = (values.nan_to_num() @ directions).double().cpu()
    size = scaled_norm(values.nan_to_num()).double().cpu()
    labels = torch.arange(len(values))
    leaders: list[int] = []
    for row in range(len(values)):
        apart = scaled_norm(shown[leaders] - shown[row])
        near = torch.nonzero(apart <= SAME * torch.maximum(size[leaders], size[row])).flatten().tolist()
        if near:
            labels[row] = leaders[near[0]]
        else:
            leaders.append(row)
    return labels


def _padding_groups(mask: Tensor | None, batch: int) -> Int[Tensor, "batch"]:
    if mask is None or not batch:
        return torch.zeros(batch, dtype=torch.long)
    return mask.reshape(batch, -1).unique(dim=0, return_inverse=True)[1].cpu()
