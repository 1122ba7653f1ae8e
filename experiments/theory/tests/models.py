"""Small models for the tests of the theory."""

from __future__ import annotations

import torch

from loopscope import LoopedTransformer, LoopedTransformerConfig


def transformer(recall, norm, seed=0, gain=True):
    """Return a tiny model in float64 whose normalizations have uneven gains."""
    torch.manual_seed(seed)
    config = LoopedTransformerConfig(
        recall=recall, norm=norm, width=8, heads=2, inputs=5, outputs=2, grid=(3,), attention="full"
    )
    model = LoopedTransformer(config).double().requires_grad_(False)
    if gain:
        for module in model.blocks.modules():
            if isinstance(module, torch.nn.RMSNorm):
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
    return model
