"""Attention with axial rotary positions and normalized queries and keys: over all tokens, or within a window."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from loopscope.models.config import LoopedTransformerConfig


class RMSNorm(nn.RMSNorm):
    """RMSNorm with a learned gain, computed in the gain's precision also under autocast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features divided by their root mean square, times the gain."""
        return super().forward(features.to(self.weight.dtype))


def rotary_table(grid: tuple[int, ...], head_width: int, base: float) -> Float[Tensor, "2 tokens half"]:
    """Return cosines and sines of the axial rotary embedding, one axis after the other in the feature dimension.

    Each axis of the grid turns ``head_width / axes`` features with the wavelengths of a rotary embedding of that
    width. Feature i is paired with feature i + half.

    Args:
        grid: lengths of the axes; tokens are numbered with the last axis fastest.
        head_width: features per head.
        base: base of the wavelengths.
    """
    pairs = head_width // len(grid) // 2
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    axes = torch.meshgrid(*[torch.arange(length, dtype=torch.float64) for length in grid], indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in axes], dim=1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(
    features: Float[Tensor, "batch tokens heads width"], table: Float[Tensor, "2 tokens half"]
) -> Float[Tensor, "batch tokens heads width"]:
    """Return queries or keys turned by their positions' angles."""
    cosine, sine = table[0].unsqueeze(1), table[1].unsqueeze(1)
    first, second = features.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def window_mask(tokens: int, window: int, device: torch.device | None = None) -> Bool[Tensor, "tokens positions"]:
    """Return which of the positions up to ``window`` away, on either side of a token, lie inside the line."""
    offsets = torch.arange(2 * window + 1, device=device) - window
    neighbours = torch.arange(tokens, device=device).unsqueeze(1) + offsets
    return (neighbours >= 0) & (neighbours < tokens)


def full_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch tokens heads width"],
    value: Float[Tensor, "batch tokens heads width"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Return each token's mixture of all values, softmax of scaled dot products.

    Queries and keys may be of higher precision than the values (under autocast their norm is); the products are taken
    in that of the values.
    """
    query, key, value = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))
    if value.dtype is torch.bfloat16 and value.device.type == "cpu":
        # The fused kernel's backward pass in bf16 takes four times as long there as these two products.
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(-1)
        return (weights @ value).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def local_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch tokens heads width"],
    value: Float[Tensor, "batch tokens heads width"],
    mask: Bool[Tensor, "tokens positions"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Return each token's mixture of the values in the window around it.

    One shifted view per offset keeps work and memory proportional to the window, not to the length.
    """
    # In bf16, the backward pass of these element-wise sums takes four times as long on a CPU.
    value = value.to(query.dtype)
    tokens, positions = mask.shape
    window = positions // 2
    key, value = (F.pad(part, (0, 0, 0, 0, window, window)) for part in (key, value))
    scores = torch.stack([(query * key[:, j : j + tokens]).sum(-1) for j in range(positions)], dim=-1)
    scores = (scores * query.shape[-1] ** -0.5).masked_fill(~mask.unsqueeze(1), float("-inf"))
    weights = scores.softmax(-1)
    mixture = weights[..., 0:1] * value[:, 0:tokens]
    for j in range(1, positions):
        mixture = mixture + weights[..., j : j + 1] * value[:, j : j + tokens]
    return mixture


class Attention(nn.Module):
    """Multi-head attention, not causal; RMSNorm on queries and keys after the rotary embedding."""

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        head_width = config.width // config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.query_norm = RMSNorm(head_width)
        self.key_norm = RMSNorm(head_width)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        rotary: Float[Tensor, "2 tokens half"],
        mask: Bool[Tensor, "tokens positions"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the attention update; ``mask`` marks the neighbours under local attention, None is full attention."""
        query, key, value = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, key = self.query_norm(rotate(query, rotary)), self.key_norm(rotate(key, rotary))
        mixed = full_attention(query, key, value) if mask is None else local_attention(query, key, value, mask)
        return self.out(mixed.flatten(2))
