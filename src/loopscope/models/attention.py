"""Attention with rotary positions and normalized queries and keys: over all tokens, causal, or within a neighbourhood.

Local attention is neighbourhood attention on a line, as in the NATTEN library: every token sees ``kernel_size``
positions, its own and equally many on either side. Near an end of the line the window is shifted inward so that it
keeps its size. On a line shorter than the kernel, every token sees all others.

Keys are laid out with their tokens in the last dimension, as the product with the queries reads them. The gradient of
that product has the same layout, so every loop over keys runs along consecutive numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from loopscope.models.config import LoopedTransformerConfig
from loopscope.models.normalization import RMSNorm
from loopscope.models.rotary import rotate, rotate_tokens_last

STRIP = 32
"""Queries per strip of a long line. With fewer, the products are inefficiently small; with more, too many scores are masked."""

ONE_STRIP = 64
"""Number of tokens up to which a line is one strip, because computing all pairs costs less than cutting strips."""


def _shifted_window(query: Int[Tensor, "*places"], tokens: int, kernel_size: int) -> Int[Tensor, "*places"]:
    """Return the first position of the window around each query, shifted inward at the ends of the line."""
    return (query - kernel_size // 2).clamp(0, max(tokens - kernel_size, 0))


def _centred_window(query: Int[Tensor, "*places"], tokens: int, kernel_size: int) -> Int[Tensor, "*places"]:
    """Return the first position of the window around each query, cut off at the ends of the line."""
    return query - kernel_size // 2


WINDOWS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"local": _shifted_window, "banded": _centred_window}
"""Functions that return the first position of each query's window, by kind of local attention."""


def local_mask(
    attention: str, tokens: int, kernel_size: int, device: torch.device | None = None
) -> Bool[Tensor, "strips queries keys"]:
    """Return which keys each query of a line sees under local attention.

    A short line is one strip. A longer line is cut into strips of equally many queries. The keys of a strip are those
    of its own tokens, of ``kernel_size - 1`` tokens before it and of ``kernel_size // 2`` tokens after it: a window at
    the end of the line is shifted backward, so it can begin that far before its query. Padding queries at the end of
    the last strip see what the last token sees, so no softmax row is empty.

    Args:
        attention: "local" or "banded" (see ``LoopedTransformerConfig``).
        tokens: length of the line.
        kernel_size: positions per window, an odd number.
        device: where the mask is needed.

    Example:
        The ends of a line of seven tokens, kernel size 5:

        >>> local_mask("local", 7, 5)[0, [0, 1, 6]].int()
        tensor([[1, 1, 1, 1, 1, 0, 0],
                [1, 1, 1, 1, 1, 0, 0],
                [0, 0, 1, 1, 1, 1, 1]], dtype=torch.int32)
        >>> local_mask("banded", 7, 5)[0, [0, 1, 6]].int()
        tensor([[1, 1, 1, 0, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0],
                [0, 0, 0, 0, 1, 1, 1]], dtype=torch.int32)
    """
    reach = kernel_size // 2
    if tokens <= max(ONE_STRIP, kernel_size):
        queries, keys = tokens, torch.arange(tokens, device=device)
    else:
        queries = max(STRIP, kernel_size)
        keys = torch.arange(-2 * reach, queries + reach, device=device)
    strip = torch.arange(0, tokens, queries, device=device).view(-1, 1, 1)
    query = (strip + torch.arange(queries, device=device).unsqueeze(1)).clamp(max=tokens - 1)
    first, key = WINDOWS[attention](query, tokens, kernel_size), strip + keys
    return (key >= first) & (key < first + kernel_size) & (key >= 0) & (key < tokens)


def causal_mask(tokens: int, device: torch.device | None = None) -> Bool[Tensor, "1 queries keys"]:
    """Return which keys each query of a line sees under causal attention: its own token's and those before it.

    Args:
        tokens: length of the line.
        device: where the mask is needed.

    Example:
        >>> causal_mask(3).int()
        tensor([[[1, 0, 0],
                 [1, 1, 0],
                 [1, 1, 1]]], dtype=torch.int32)
    """
    return torch.ones(1, tokens, tokens, dtype=torch.bool, device=device).tril()


def additive(mask: Bool[Tensor, "strips queries keys"]) -> Float[Tensor, "strips queries keys"]:
    """Return what is added to scores so that only the keys of a mask count: 0 where a key is seen, else minus infinity.

    Compiled for a CPU, adding it and the softmax that follows are vectorized. Filling scores by a mask of booleans is not.

    Example:
        >>> additive(causal_mask(2))
        tensor([[[0., -inf],
                 [0., 0.]]])
    """
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))


def full_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch heads width tokens"],
    value: Float[Tensor, "batch tokens heads width"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Mix all values for each token, weighted by the softmax of scaled dot products.

    Under autocast, queries and keys leave their norms in higher precision than the values. The products are computed in
    the precision of the values.
    """
    query, key, value = query.to(value.dtype).transpose(1, 2), key.to(value.dtype), value.transpose(1, 2)
    if value.dtype is torch.bfloat16 and value.device.type == "cpu":
        # On the CPU, the backward pass of the fused bf16 kernel takes four times as long as these two products.
        return _mixture(query, key, value, None).transpose(1, 2)
    key = key.transpose(2, 3)
    if value.is_cuda:  # fused kernels require contiguous keys
        key = key.contiguous()
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def masked_attention(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch heads width tokens"],
    value: Float[Tensor, "batch tokens heads width"],
    mask: Float[Tensor, "strips queries keys"],
) -> Float[Tensor, "batch tokens heads width"]:
    """Mix the values that each token sees, weighted by the softmax of scaled dot products.

    On lines of several strips, work and memory grow in proportion to the length. The precision is that of full attention.

    Args:
        query: queries.
        key: keys, tokens last.
        value: values.
        mask: the additive mask for this number of tokens (``additive`` of a ``local_mask`` or ``causal_mask``).
    """
    strips, queries, keys = mask.shape
    query, key = query.to(value.dtype), key.to(value.dtype)
    if strips == 1:
        return _mixture(query.transpose(1, 2), key, value.transpose(1, 2), mask[0]).transpose(1, 2)
    tokens = query.shape[1]
    padding, reach = strips * queries - tokens, (keys - queries) // 3
    query = F.pad(query, (0, 0, 0, 0, 0, padding)).unflatten(1, (strips, queries))
    lines = (key.permute(0, 3, 1, 2), value)
    key, value = (_with_neighbours(line, padding, strips, reach) for line in lines)
    mixed = _mixture(query.transpose(2, 3), key.permute(0, 1, 3, 4, 2), value.transpose(2, 3), mask.unsqueeze(1))
    return mixed.transpose(2, 3).flatten(1, 2)[:, :tokens]


def _with_neighbours(
    line: Float[Tensor, "batch tokens heads width"], padding: int, strips: int, reach: int
) -> Float[Tensor, "batch strips keys heads width"]:
    """Cut a padded line into strips, each with ``2 * reach`` tokens before it and ``reach`` tokens after it."""
    queries = (line.shape[1] + padding) // strips
    padded = F.pad(line, (0, 0, 0, 0, queries, padding + queries)).unflatten(1, (strips + 2, queries))
    before, after = padded[:, :-2, queries - 2 * reach :], padded[:, 2:, :reach]
    return torch.cat([before, padded[:, 1:-1], after], dim=2)


def _mixture(
    query: Float[Tensor, "*batch queries width"],
    key: Float[Tensor, "*batch width keys"],
    value: Float[Tensor, "*batch keys width"],
    mask: Float[Tensor, "*strips queries keys"] | None,
) -> Float[Tensor, "*batch queries width"]:
    """Return softmax(q k / sqrt(width) + mask) v; without a mask, all keys are seen."""
    scores = query * query.shape[-1] ** -0.5 @ key
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    return scores.softmax(-1) @ value


class Attention(nn.Module):
    """Multi-head attention. Queries and keys are normalized after the rotary embedding.

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
        mask: Float[Tensor, "strips queries keys"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the attention update.

        Args:
            tokens: argument of the sub-layer.
            first: applies the first linear map of the sub-layer, where internal recall enters.
            rotary: table of ``rotary_table``.
            mask: additive mask of causal or local attention; None for full attention.
        """
        query, key, value = first(self.query_key_value, tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query = self.query_norm(rotate(query, rotary))
        key = self.key_norm.tokens_last(rotate_tokens_last(key.permute(0, 2, 3, 1), rotary))
        mixed = full_attention(query, key, value) if mask is None else masked_attention(query, key, value, mask)
        return self.out(mixed.flatten(2))
