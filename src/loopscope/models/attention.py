"""Attention with axial rotary positions and normalized queries and keys: over all tokens, or within a window.

Keys have their tokens last, as the product with the queries takes them: the gradient of that product comes so too, and
every loop over keys runs along consecutive numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from loopscope.models.config import LoopedTransformerConfig


class RMSNorm(nn.RMSNorm):
    """RMSNorm with a learned gain, computed in the gain's precision also under autocast."""

    eps: float

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features divided by their root mean square, times the gain."""
        return super().forward(features.to(self.weight.dtype))

    def tokens_last(self, features: Float[Tensor, "*batch width tokens"]) -> Float[Tensor, "*batch width tokens"]:
        """Return the same of features whose tokens are the last dimension."""
        features = features.to(self.weight.dtype)
        mean_square = features.square().mean(-2, keepdim=True)
        return features * torch.rsqrt(mean_square + self.eps) * self.weight.unsqueeze(1)


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
    """Return queries turned by their positions' angles."""
    return _turned(features, table.unsqueeze(2), -1)


def rotate_tokens_last(
    features: Float[Tensor, "batch heads width tokens"], table: Float[Tensor, "2 tokens half"]
) -> Float[Tensor, "batch heads width tokens"]:
    """Return keys turned by their positions' angles."""
    return _turned(features, table.transpose(1, 2), -2)


def _turned(features: Tensor, table: Tensor, dim: int) -> Tensor:
    cosine, sine = table
    first, second = features.chunk(2, dim)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim)


STRIP = 32
"""Queries of a strip of a long line: fewer make products too small for the machine, more see too many keys in vain."""

ONE_STRIP = 64
"""Tokens up to which all pairs of a line cost less than its strips."""


def window_mask(tokens: int, window: int, device: torch.device | None = None) -> Bool[Tensor, "strips queries keys"]:
    """Return which keys each query of a line sees: those of the tokens up to ``window`` away, on either side.

    A short line is one strip of all its tokens. A longer one is cut into strips of as many queries each; their keys
    are those of the strip's tokens and of ``window`` neighbours before and behind, or of more where a strip is that
    long. What of the last strip lies behind the line sees its own keys, so that no softmax is over nothing.
    """
    places = torch.arange(tokens, device=device)
    if tokens <= ONE_STRIP:
        return ((places.unsqueeze(1) - places).abs() <= window).unsqueeze(0)
    queries = max(STRIP, window)
    first = torch.arange(0, tokens, queries, device=device).view(-1, 1, 1)
    query = first + torch.arange(queries, device=device).unsqueeze(1)
    key = first + torch.arange(-window, queries + window, device=device)
    inside = (key >= 0) & (key < tokens)
    return ((query - key).abs() <= window) & (inside | (query >= tokens))


def full_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch heads width tokens"],
    value: Float[Tensor, "batch tokens heads width"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Return each token's mixture of all values, softmax of scaled dot products.

    Queries and keys may be of higher precision than the values (under autocast their norm is); the products are taken
    in that of the values.
    """
    query, key, value = query.to(value.dtype).transpose(1, 2), key.to(value.dtype), value.transpose(1, 2)
    if value.dtype is torch.bfloat16 and value.device.type == "cpu":
        # The fused kernel's backward pass in bf16 takes four times as long there as these two products.
        return _mixture(query, key, value, None).transpose(1, 2)
    key = key.transpose(2, 3)
    if value.is_cuda:  # fused kernels refuse the order in memory that serves the products
        key = key.contiguous()
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def local_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch heads width tokens"],
    value: Float[Tensor, "batch tokens heads width"],
    mask: Bool[Tensor, "strips queries keys"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Return each token's mixture of the values in the window around it.

    Work and memory are proportional to the length of a line of several strips. Precision is as in full attention.

    Args:
        query: queries.
        key: keys.
        value: values.
        mask: the window mask of so many tokens.
    """
    strips, queries, keys = mask.shape
    query, key = query.to(value.dtype), key.to(value.dtype)
    if strips == 1:
        return _mixture(query.transpose(1, 2), key, value.transpose(1, 2), mask[0]).transpose(1, 2)
    tokens = query.shape[1]
    behind = strips * queries - tokens
    query = F.pad(query, (0, 0, 0, 0, 0, behind)).unflatten(1, (strips, queries))
    lines = (key.permute(0, 3, 1, 2), value)
    key, value = (_with_neighbours(line, behind, strips, (keys - queries) // 2) for line in lines)
    mixed = _mixture(query.transpose(2, 3), key.permute(0, 1, 3, 4, 2), value.transpose(2, 3), mask.unsqueeze(1))
    return mixed.transpose(2, 3).flatten(1, 2)[:, :tokens]


def _with_neighbours(
    line: Float[Tensor, "batch tokens heads width"], behind: int, strips: int, window: int
) -> Float[Tensor, "batch strips keys heads width"]:
    """Return the strips of a line, ``behind`` zeros after its end, each with the neighbours on its sides."""
    queries = (line.shape[1] + behind) // strips
    padded = F.pad(line, (0, 0, 0, 0, queries, behind + queries)).unflatten(1, (strips + 2, queries))
    before, after = padded[:, :-2, queries - window :], padded[:, 2:, :window]
    return torch.cat([before, padded[:, 1:-1], after], dim=2)


def _mixture(
    query: Float[Tensor, "*batch queries width"],
    key: Float[Tensor, "*batch width keys"],
    value: Float[Tensor, "*batch keys width"],
    mask: Bool[Tensor, "*strips queries keys"] | None,
) -> Float[Tensor, "*batch queries width"]:
    """Return softmax(q k / sqrt(width)) v over the keys that ``mask`` lets a query see."""
    scores = query * query.shape[-1] ** -0.5 @ key
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value


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
        first: Callable[[nn.Module, Tensor], Tensor],
        rotary: Float[Tensor, "2 tokens half"],
        mask: Bool[Tensor, "strips queries keys"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the attention update; ``mask`` is the window mask under local attention, None is full attention."""
        query, key, value = first(self.query_key_value, tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query = self.query_norm(rotate(query, rotary))
        key = self.key_norm.tokens_last(rotate_tokens_last(key.permute(0, 2, 3, 1), rotary))
        mixed = full_attention(query, key, value) if mask is None else local_attention(query, key, value, mask)
        return self.out(mixed.flatten(2))
