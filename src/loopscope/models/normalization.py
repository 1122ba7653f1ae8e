"""RMSNorm with a learned gain, for features in the last dimension or in the one before it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the mean square before the root is taken."""


class RMSNorm(nn.RMSNorm):
    """RMSNorm with a learned gain. It computes in the precision of the gain, also under autocast.

    Args:
        width: features that are normalized together.
    """

    eps: float

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, features: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Divide the features by their root mean square and multiply them by the gain."""
        return super().forward(features.to(self.weight.dtype))

    def tokens_last(self, features: Float[Tensor, "*batch width tokens"]) -> Float[Tensor, "*batch width tokens"]:
        """Normalize features whose last dimension holds the tokens."""
        features = features.to(self.weight.dtype)
        mean_square = features.square().mean(-2, keepdim=True)
        return features * torch.rsqrt(mean_square + self.eps) * self.weight.unsqueeze(1)
