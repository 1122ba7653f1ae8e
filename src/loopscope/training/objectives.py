"""Training objectives: how the sampled counts of iterations become logits whose loss is taken."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from loopscope.training.samplers import IterationCounts


def progressive(model: nn.Module, inputs: Tensor, counts: IterationCounts, maximum: int) -> Tensor:
    """Return the logits of the last iterate, the free iterations without gradient (paper, training)."""
    logits: Tensor = model(inputs, counts.free, counts.gradient)
    return logits


def full(model: nn.Module, inputs: Tensor, counts: IterationCounts, maximum: int) -> Tensor:
    """Return the logits after ``maximum`` iterations, all with gradient; the sampled counts do not apply."""
    logits: Tensor = model(inputs, 0, maximum)
    return logits


OBJECTIVES: dict[str, Callable[[nn.Module, Tensor, IterationCounts, int], Tensor]] = {
    "progressive": progressive,
    "full": full,
}
"""The objectives by name."""
