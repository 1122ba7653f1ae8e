"""Axial rotary position embedding: queries and keys are rotated by the angles of their places on a grid."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(grid: tuple[int, ...], head_width: int, base: float) -> Float[Tensor, "2 tokens half"]:
    """Return the cosines and sines of the axial rotary embedding.

    Each axis of the grid rotates ``head_width / axes`` features with the wavelengths of a rotary embedding of that
    width, one axis after the other. Feature i is paired with feature i + half.

    Args:
        grid: lengths of the axes. Tokens are numbered with the last axis fastest.
        head_width: features per head, a multiple of twice the number of axes.
        base: base of the wavelengths.

    Returns:
        Cosines, then sines, each [tokens, head_width / 2], float32.
    """
    pairs = head_width // len(grid) // 2
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    axes = torch.meshgrid(*[torch.arange(length, dtype=torch.float64) for length in grid], indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in axes], dim=1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(
    features: Float[Tensor, "batch tokens heads width"], table: Float[Tensor, "2 tokens half"]
) -> Float[Tensor, "batch tokens heads width"]:
    """Rotate queries by the angles of their positions."""
    return _rotated(features, table.unsqueeze(2), -1)


def rotate_tokens_last(
    features: Float[Tensor, "batch heads width tokens"], table: Float[Tensor, "2 tokens half"]
) -> Float[Tensor, "batch heads width tokens"]:
    """Rotate keys, whose last dimension holds the tokens, by the angles of their positions."""
    return _rotated(features, table.transpose(1, 2), -2)


def _rotated(features: Tensor, table: Tensor, dim: int) -> Tensor:
    cosine, sine = table
    first, second = features.chunk(2, dim)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim)
