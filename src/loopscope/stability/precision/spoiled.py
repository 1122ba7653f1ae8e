"""Warn where the precision in force spoils what is measured: TF32, or autocast inside the step."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from loopscope.errors import LoopscopeWarning
from loopscope.loop import Loop, modules_of
from loopscope.stability.precision.tf32 import FACTORS, rounds_products
from loopscope.trees import HALF, Tree, device_of, select


class _Products(TorchDispatchMode):
    """Notes the floating types of the matrix products that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        found = function(*arguments, **(options or {}))
        if function.overloadpacket in FACTORS and isinstance(found, Tensor):
            self.types.add(found.dtype)
        return found


def spoiled_by(loop: Loop, state: Tree, recalled: Tree) -> str | None:
    """Return how the precision in force spoils residuals and derivatives of a loop, and what to do; None where it does not.

    Weights in half precision are a property of the loop and not of the setting: they are not named. A loop whose weights are
    not known is asked about TF32 alone. Costs one evaluation of the step with one example.

    Args:
        loop: the loop, in the mode that it should be in.
        state: a state of it, batch first.
        recalled: what ``loop.encode`` returned for the same examples.

    Example:
        >>> import loopscope as ls
        >>> from loopscope.stability.precision.tf32 import emulated_tf32
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: z / 2 + x, lambda z: z)
        >>> spoiled_by(loop, torch.ones(1, 2), torch.ones(1, 2))
        >>> with emulated_tf32():
        ...     spoiled_by(loop, torch.ones(1, 2), torch.ones(1, 2))
        "products of float32 matrices are rounded to less than float32 here (TF32): ...
    """
    if rounds_products(device_of(state)):
        return (
            "products of float32 matrices are rounded to less than float32 here (TF32): residuals level off near 1e-3, and "
            "differences of nearby states are mostly rounding; call torch.set_float32_matmul_precision('highest') first"
        )
    weights = {one.dtype for module in modules_of(loop) for one in module.parameters()}
    half = _types_of_products(loop, state, recalled) & {*HALF}
    if half and weights and not weights & {*HALF}:
        kind = str(half.pop()).removeprefix("torch.")
        return (
            f"the step multiplies in {kind} though its weights are wider (autocast inside it): residuals level off near 4e-3; "
            "leave autocast out of the step to measure the loop in the precision of its weights"
        )
    return None


def warn_if_spoiled(loop: Loop, state: Tree, recalled: Tree) -> None:
    """Warn where ``spoiled_by`` finds something."""
    reason = spoiled_by(loop, state, recalled)
    if reason is not None:
        warnings.warn(reason, LoopscopeWarning, stacklevel=3)


def _types_of_products(loop: Loop, state: Tree, recalled: Tree) -> set[torch.dtype]:
    one = slice(0, 1)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), _Products() as products:
        loop.step(select(state, one), select(recalled, one))
    return products.types
