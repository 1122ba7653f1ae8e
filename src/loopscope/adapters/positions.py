"""Positions: the tokens whose logits a captured model is read at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from loopscope.errors import LoopscopeError

Positions = Literal["last", "all"] | Sequence[int]
"""The last real token, all tokens, or places among the real tokens of each example: from 0 on, negative from the end."""


def checked_positions(positions: Any) -> Positions:
    """Return positions; refuse what is none.

    Raises:
        LoopscopeError: they are neither "last" nor "all" nor whole numbers, or there are none.

    Example:
        >>> checked_positions([0, -1])
        (0, -1)
    """
    if positions in ("last", "all"):
        return positions
    several = isinstance(positions, Sequence) and not isinstance(positions, str)
    if not several or not positions or any(type(place) is not int for place in positions):
        raise LoopscopeError(
            f'positions are {positions!r}, expected "last", "all" or a list of whole numbers such as [0, -1], counted among the '
            "real tokens of each example"
        )
    return tuple(positions)


SPREAD = 8
"""Tokens that `spread` chooses at most."""


def spread(tokens: int) -> tuple[int, ...]:
    """Return the places of a few tokens, from the first to the last.

    Example:
        >>> spread(3), spread(100)
        ((0, 1, 2), (0, 14, 28, 42, 56, 70, 84, 99))
    """
    if tokens <= SPREAD:
        return tuple(range(max(1, tokens)))
    return tuple(place * (tokens - 1) // (SPREAD - 1) for place in range(SPREAD))


@dataclass(frozen=True)
class Chosen:
    """Takes the values of chosen tokens.

    Args:
        positions: "last", or places among the real tokens of each example.
        mask: true where a token is real; None if all are.

    Example:
        >>> values = torch.arange(8).reshape(2, 4)
        >>> mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
        >>> Chosen("last", mask)(values)
        tensor([[2],
                [7]])
        >>> Chosen((0, -2), mask)(values)
        tensor([[0, 1],
                [4, 6]])
    """

    positions: Positions
    mask: Bool[Tensor, "batch tokens"] | None = None

    def __call__(self, values: Shaped[Tensor, "batch tokens *rest"]) -> Shaped[Tensor, "batch chosen *rest"]:
        """Return the values of the chosen tokens, in the order of the positions.

        Raises:
            LoopscopeError: an example has too few tokens, or the mask has another number of them than the values.
        """
        index = self._index(values)
        index = index.view(*index.shape, *[1] * (values.ndim - 2))
        return values.gather(1, index.expand(*index.shape[:2], *values.shape[2:]))

    def _index(self, values: Tensor) -> Int[Tensor, "batch chosen"]:
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if self.mask is None else self.mask
        if mask.shape != values.shape[:2]:
            raise LoopscopeError(
                f"the mask of the inputs has {mask.shape[1]} tokens and the readout {values.shape[1]}, so that positions cannot be "
                'counted: read at all of them (positions="all")'
            )
        places = torch.tensor([-1] if self.positions == "last" else list(self.positions), device=mask.device)
        real = mask.sum(1, keepdim=True)
        rank = torch.where(places < 0, real + places, places)
        outside = (rank < 0) | (rank >= real)
        if bool(outside.any()):
            example, at = torch.nonzero(outside)[0].tolist()
            raise LoopscopeError(
                f"position {int(places[at])} is not among the {int(real[example])} tokens of input {example}: give positions that "
                "every input has"
            )
        order = mask.long().cumsum(1) - 1
        return ((order.unsqueeze(1) == rank.unsqueeze(2)) & mask.unsqueeze(1)).long().argmax(2)
