"""A straightforward implementation of the looped transformer, the baseline of the training-step benchmark.

It has internal recall and outer normalization, in float32 and without compilation. Queries, keys and values are three products,
both products of the recall are computed at every use, and local attention is full attention with a mask. Attention itself is
PyTorch's fused function, as in the package.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopscope.models import LoopedTransformer, LoopedTransformerConfig


def axial_table(grid: tuple[int, ...], head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Return the rotary cosine and sine of every token and feature pair, each [tokens, head_width / 2].

    They are rounded from float64, like those of the package, so that in float64 both implementations differ only by the
    rounding of sums.
    """
    pairs = head_width // 2 // len(grid)
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    positions = torch.cartesian_prod(*[torch.arange(length) for length in grid]).view(-1, len(grid))
    angles = (positions.unsqueeze(-1) * frequencies).flatten(1)
    return angles.cos().float(), angles.sin().float()


def rotate(features: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the feature pairs (i, i + half) of [batch, heads, tokens, features] by their angles."""
    (first, second), (cosine, sine) = features.chunk(2, dim=-1), table
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class PlainTransformer(nn.Module):
    """One block, applied again and again: z <- N(z + S(W_state z + W_input e + b)), where S is attention, then the MLP."""

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.mlp_ratio * config.width
        self.embedding = nn.Linear(config.inputs, width)
        self.recall_state = nn.Linear(width, width, bias=False)
        self.recall_input = nn.Linear(width, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.query_norm, self.key_norm = (nn.RMSNorm(width // config.heads, eps=1e-6) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.readout = nn.Sequential(
            nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.outputs)
        )

    @classmethod
    def like(cls, model: LoopedTransformer) -> Self:
        """Return a plain transformer with the weights of ``model``."""
        renamed = {
            "recall.state": "recall_state",
            "recall.input": "recall_input",
            "blocks.0.attention.": "",
            "blocks.0.residual.norm_out": "norm",
            "blocks.0.": "",
        }
        weights = {}
        for name, value in model.state_dict().items():
            for long, short in renamed.items():
                name = name.replace(long, short)
            if name.startswith("query_key_value"):
                part = name.removeprefix("query_key_value")
                weights.update(zip([f"query{part}", f"key{part}", f"value{part}"], value.chunk(3), strict=True))
            else:
                weights[name] = value
        plain = cls(model.config)
        plain.load_state_dict(weights)
        return plain

    def recall(self, state: Tensor, embedding: Tensor) -> Tensor:
        """Return R(z, e)."""
        return self.recall_state(state) + self.recall_input(embedding)

    def heads(self, features: Tensor) -> Tensor:
        """Return [batch, heads, tokens, features]."""
        return features.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

    def attention(self, tokens: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Return the attention update."""
        query = self.query_norm(rotate(self.heads(self.query(tokens)), table))
        key = self.key_norm(rotate(self.heads(self.key(tokens)), table))
        mixed = F.scaled_dot_product_attention(query, key, self.heads(self.value(tokens)), attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def forward(self, inputs: Tensor, free_iterations: int, gradient_iterations: int) -> Tensor:
        """Return the logits after all iterations. Free iterations are not implemented, since the benchmark uses none."""
        assert free_iterations == 0
        assert self.config.attention != "banded"
        config, tokens = self.config, inputs.shape[1]
        grid = (tokens,) if config.grid == (0,) else config.grid
        cosine, sine = axial_table(grid, config.width // config.heads, config.rope_base)
        table = cosine.to(inputs.device), sine.to(inputs.device)
        mask = None
        if config.attention == "local":
            places = torch.arange(tokens, device=inputs.device)
            first = (places - config.kernel_size // 2).clamp(0, max(tokens - config.kernel_size, 0)).unsqueeze(1)
            mask = (places >= first) & (places < first + config.kernel_size)
        embedding = self.embedding(inputs)
        state = embedding
        for _ in range(gradient_iterations):
            state = self.norm(state + self.attention(self.recall(state, embedding), table, mask))
            state = self.norm(state + self.mlp(self.recall(state, embedding)))
        return self.readout(state)
