"""A loop with converted weights: in another precision, say, or rounded. The original keeps its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from loopscope.loop import FunctionLoop, Loop, modules_of


def with_weights(loop: Loop, convert: Callable[[Tensor], Tensor]) -> Loop:
    """Return the loop with every floating parameter and buffer replaced by ``convert`` of it.

    A loop that is a module is copied. A ``FunctionLoop`` calls its functions with converted tensors in the modules that it
    names; weights that it does not name stay as they are. Any other loop is returned as it is.

    Args:
        loop: the loop.
        convert: maps a tensor to a tensor of the same shape.

    Example:
        >>> import loopscope as ls
        >>> layer = nn.Linear(2, 2)
        >>> loop = ls.FunctionLoop(layer, torch.zeros_like, lambda z, e: layer(z) + e, lambda z: z)
        >>> doubled = with_weights(loop, torch.Tensor.double)
        >>> doubled.step(torch.zeros(1, 2).double(), torch.zeros(1, 2).double()).dtype, layer.weight.dtype
        (torch.float64, torch.float32)
    """

    def converted(tensor: Tensor) -> Tensor:
        return convert(tensor) if tensor.is_floating_point() else tensor

    if isinstance(loop, nn.Module):
        return copy.deepcopy(loop)._apply(converted)
    if isinstance(loop, FunctionLoop) and modules_of(loop):
        call = _Call(modules_of(loop))
        with torch.no_grad():
            tensors = {name: converted(one) for name, one in (*call.named_parameters(), *call.named_buffers())}
        return replace(
            loop,
            encode=_bound(call, tensors, loop.encode),
            start=_bound(call, tensors, loop.start),
            step=_bound(call, tensors, loop.step),
            read=_bound(call, tensors, loop.read),
            module=call,
            outer_gain=None if loop.outer_gain is None else converted(loop.outer_gain),
        )
    return loop


class _Call(nn.Module):
    """A function that uses some modules, as a module whose parameters are theirs."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)


def _bound(call: _Call, tensors: dict[str, Tensor], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs with other tensors in the modules it uses; its signature stays."""

    @wraps(function, updated=())
    def run(*arguments: Any, **options: Any) -> Any:
        return torch.func.functional_call(call, tensors, (function, *arguments), options)

    return run
