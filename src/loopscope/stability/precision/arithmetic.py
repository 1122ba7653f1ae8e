"""The precisions that are compared: how weights and tensors are converted, and how products are computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.loop import Loop
from loopscope.stability.precision.tf32 import emulated_tf32
from loopscope.trees import Tree, tree_map
from loopscope.weights import with_weights

LEVELS = 127
"""Largest absolute value of a symmetric eight-bit integer."""


@dataclass(frozen=True)
class Arithmetic:
    """One way to compute a loop.

    Args:
        name: its name.
        dtype: floating type of weights, inputs and states.
        convert: what becomes of a weight, before it is cast.
        products: context in which the loop runs.
    """

    name: str
    dtype: torch.dtype
    convert: Callable[[Tensor], Tensor] = lambda weight: weight
    products: Callable[[], AbstractContextManager[None]] = nullcontext

    def loop(self, loop: Loop) -> Loop:
        """Return the loop with converted weights; the original keeps its own."""
        return with_weights(loop, lambda weight: self.convert(weight.detach()).to(self.dtype))

    def cast(self, tree: Tree) -> Tree:
        """Return a tree whose floating tensors have this type."""
        return tree_map(lambda leaf: leaf.to(self.dtype) if leaf.is_floating_point() else leaf, tree)


def round_to_int8(weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return a matrix rounded to eight-bit integers times one scale for each row, its largest absolute value over 127.

    Vectors, such as biases and the gains of norms, stay as they are.

    Example:
        >>> round_to_int8(torch.tensor([[127.0, 0.4, -3.6], [0.0, 0.0, 0.0]]))
        tensor([[127.,   0.,  -4.],
                [  0.,   0.,   0.]])
    """
    if weight.ndim < 2:
        return weight
    scale = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.ndim - 1)) / LEVELS
    return torch.where(scale > 0, (weight / torch.where(scale > 0, scale, 1)).round() * scale, weight)


REFERENCE = Arithmetic("float64", torch.float64)
"""What the others are compared with."""
ARITHMETICS = {
    one.name: one
    for one in (
        REFERENCE,
        Arithmetic("float32", torch.float32),
        Arithmetic("tf32", torch.float32, products=emulated_tf32),
        Arithmetic("bf16", torch.bfloat16),
        Arithmetic("int8", torch.float32, convert=round_to_int8),
    )
}
"""The precisions by name: bf16 is weights, states and products in bfloat16, int8 is rounded weights in float32."""
