"""Noise in the state: training that perturbs every iteration favours steps that forget perturbations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def with_noise(
    state: Float[Tensor, "batch tokens width"], size: float, generator: torch.Generator
) -> Float[Tensor, "batch tokens width"]:
    """Return z + size rms(z) xi, with the root mean square of each token and standard normal xi.

    Args:
        state: the state. The gradient passes to it as if the noise were constant.
        size: noise, relative to the token.
        generator: what the noise is drawn with, on its device.

    Example:
        >>> state = torch.full((1, 2, 4), 3.0)
        >>> noisy = with_noise(state, 0.1, torch.Generator().manual_seed(0))
        >>> bool(((noisy - state).abs() < 5 * 0.1 * 3).all())
        True
    """
    drawn = torch.randn(state.shape, generator=generator, device=generator.device).to(state)
    scale = state.detach().square().mean(-1, keepdim=True).sqrt()
    return state + size * scale * drawn
