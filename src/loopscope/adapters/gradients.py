"""Derivatives through steps that hide a part of themselves from autograd.

HRM, TRM, HRM-Text and Huginn run most of an iteration under ``torch.no_grad``, detach the state, and assert that it
needs no gradient. That saves memory in training, but the Jacobian is that of the whole step. ``pass_through`` therefore
runs one function of PyTorch as if nothing hid it from autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

GRAD_MODE = "_set_grad_enabled"
"""The function behind ``no_grad`` and ``enable_grad``."""
HIDING = (GRAD_MODE, "detach", "detach_", "requires_grad_")
"""Functions that hide a part of a step from autograd."""


KEEPING_VALUES = ("detach", "detach_", "requires_grad_", "data")
"""Operations that change what autograd sees of a tensor and nothing else. They may stand in some iterations and not in others."""


def hides(function: Callable[..., Any]) -> bool:
    """Return whether a function of PyTorch hides something from autograd, or asks whether it is hidden."""
    return getattr(function, "__name__", None) in HIDING or _property(function) in (
        torch.Tensor.data,
        torch.Tensor.requires_grad,
    )


def pass_through(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function of PyTorch, or return its argument if the call would only hide it from autograd."""
    if not hides(function):
        return function(*args, **kwargs)
    if function.__name__ == GRAD_MODE:
        return None
    if _property(function) is torch.Tensor.requires_grad:
        # Activations report that they need no gradient, as they do when the model runs on its own.
        return function.__name__ == "__get__" and isinstance(args[0], Parameter) and args[0].requires_grad
    if function.__name__ == "__set__":
        return function(*args, **kwargs)
    return args[0]


def _property(function: Callable[..., Any]) -> Any:
    return getattr(function, "__self__", None) if getattr(function, "__name__", "") in ("__get__", "__set__") else None


class WholeGradients(TorchFunctionMode):
    """Within this context, ``no_grad``, ``detach`` and the like do nothing: autograd sees every operation."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` so that autograd sees it."""
        return pass_through(func, *args, **(kwargs or {}))
