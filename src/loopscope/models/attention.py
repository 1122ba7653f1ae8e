"""Attention with rotary positions and normalized queries and keys, over all tokens or within a window.

Keys are laid out with their tokens in the last dimension, as the product with the queries reads them. The gradient of
that product has the same layout, so every loop over keys runs along consecutive numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from loopscope.models.config import LoopedTransformerConfig
from loopscope.models.normalization import RMSNorm
from loopscope.models.rotary import rotate, rotate_tokens_last

STRIP = 32
"""Queries per strip of a long line. Fewer make the products too small for the machine; more compute too many masked scores."""

ONE_STRIP = 64
"""Longest line, in tokens, that is one strip: below it, computing all pairs costs less than cutting strips."""


def window_mask(tokens: int, window: int, device: torch.device | None = None) -> Bool[Tensor, "strips queries keys"]:
    """Return which keys each query of a line sees: those at most ``window`` tokens away on either side.

    A short line is one strip. A longer line is cut into strips of equally many queries. The keys of a strip are those
    of its own tokens and of ``window`` tokens on either side. Padding queries at the end of the last strip see padding
    keys, so no softmax row is empty.
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
    """Mix all values for each token, weighted by the softmax of scaled dot products.

    Under autocast, queries and keys come out of their norms in higher precision than the values. The products are
    computed in the precision of the values.
    """
    query, key, value = query.to(value.dtype).transpose(1, 2), key.to(value.dtype), value.transpose(1, 2)
    if value.dtype is torch.bfloat16 and value.device.type == "cpu":
        # On the CPU, the backward pass of the fused bf16 kernel takes four times as long as these two products.
        return _mixture(query, key, value, None).transpose(1, 2)
    key = key.transpose(2, 3)
    if value.is_cuda:  # fused kernels require contiguous keys
        key = key.contiguous()
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def local_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch heads width tokens"],
    value: Float[Tensor, "batch tokens heads width"],
    mask: Bool[Tensor, "strips queries keys"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Mix the values in the window of each token, weighted by the softmax of scaled dot products.

    Work and memory grow in proportion to the length of a line of several strips. Precision is that of full attention.

    Args:
        query: queries.
        key: keys, tokens last.
        value: values.
        mask: the window mask for this number of tokens (``window_mask``).
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
    """Cut a line, padded by ``behind`` zeros, into strips that include ``window`` neighbours on either side."""
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
    """Return softmax(q k / sqrt(width)) v over the keys that ``mask`` marks as visible; None marks all."""
    scores = query * query.shape[-1] ** -0.5 @ key
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value


class Attention(nn.Module):
    """Multi-head attention without a causal mask. Queries and keys are normalized after the rotary embedding.

    Args:
        config: sizes of the model.
    """

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
        """Return the attention update.

        Args:
            tokens: argument of the sub-layer.
            first: applies the first linear map of the sub-layer, where internal recall enters.
            rotary: table of ``rotary_table``.
            mask: window mask of local attention; None for full attention.
        """
        query, key, value = first(self.query_key_value, tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query = self.query_norm(rotate(query, rotary))
        key = self.key_norm.tokens_last(rotate_tokens_last(key.permute(0, 2, 3, 1), rotary))
        mixed = full_attention(query, key, value) if mask is None else local_attention(query, key, value, mask)
        return self.out(mixed.flatten(2))
