"""One block: attention, then an MLP. Both join the residual stream by the same rule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loopscope.models.attention import Attention
from loopscope.models.config import LoopedTransformerConfig
from loopscope.models.residual import Tokens, make_residual


class Block(nn.Module):
    """Attention, then an MLP, as sub-layers of one residual rule.

    Args:
        config: sizes of the model and the name of the residual rule.
    """

    def __init__(self, config: LoopedTransformerConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.attention = Attention(config)
        self.mlp = nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width))
        self.residual = make_residual(config.norm, config.width)
        self.scales = None
        if config.residual_scale is not None:
            initial = torch.full((config.width,), config.residual_scale)
            self.scales = nn.ParameterDict({"attention": initial.clone(), "mlp": initial.clone()})

    def forward(
        self,
        state: Float[Tensor, "batch tokens width"],
        first: Callable[[nn.Module, Tensor], Tensor],
        rotary: Float[Tensor, "2 tokens half"],
        mask: Float[Tensor, "strips queries keys"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the state after both sub-layers.

        Args:
            state: state before the block.
            first: applies the first linear map of a sub-layer to its argument. Internal recall enters here.
            rotary: table of ``rotary_table``.
            mask: additive mask of causal or local attention; None for full attention.
        """
        state = self.residual(
            state, lambda tokens: self._scaled("attention", self.attention(tokens, first, rotary, mask))
        )
        return self.residual(state, lambda tokens: self._scaled("mlp", self.feed_forward(tokens, first)))

    def _scaled(self, name: str, update: Tokens) -> Tokens:
        """Return the update of a sub-layer times its learned scales, if there are any."""
        return update if self.scales is None else self.scales[name] * update

    def feed_forward(
        self, tokens: Float[Tensor, "batch tokens width"], first: Callable[[nn.Module, Tensor], Tensor]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the update of the MLP."""
        expand, activate, contract = self.mlp
        update: Tensor = contract(activate(first(expand, tokens)))
        return update
