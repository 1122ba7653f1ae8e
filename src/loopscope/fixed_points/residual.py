"""The relative residual of a state: how far one evaluation of the step moves it, against its size (framework, axis 1)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.trees import Tree, flatten, floating_leaves, leaves

ZERO = torch.finfo(torch.float32).eps
"""A state whose root mean square is below this, or below this fraction of the first state's, is as good as zero."""


def state_dtype(state: Tree) -> torch.dtype:
    """Return the floating type of a state: float64 where all of it is, else float32.

    Raises:
        LoopscopeError: it has no floating leaf, a complex one, or is in half precision, where residuals bottom out near
            4e-3.
    """
    if any(leaf.is_complex() for leaf in leaves(state)):
        raise LoopscopeError(
            "expected a state of real numbers, got complex ones: keep their real and imaginary parts (torch.view_as_real, "
            "and torch.view_as_complex inside the step)"
        )
    types = {leaf.dtype for leaf in floating_leaves(state)}
    if not types or not types <= {torch.float32, torch.float64}:
        raise LoopscopeError(
            f"expected a state in float32 or float64, got {sorted(map(str, types)) or 'no floating tensor'}; "
            "convert the model with .float() (or .double()) first"
        )
    return torch.float64 if types == {torch.float64} else torch.float32


def check_precision(state: Tree, tolerance: float) -> None:
    """Refuse a state whose precision cannot show a residual of ``tolerance``.

    Raises:
        LoopscopeError: see ``state_dtype``; or the state rounds more coarsely than the tolerance.
    """
    state_dtype(state)
    eps = max(torch.finfo(leaf.dtype).eps for leaf in floating_leaves(state))
    if not eps <= tolerance < 1:
        raise LoopscopeError(
            f"expected a tolerance below 1 and of at least {eps:.1e}, the rounding of the state, got {tolerance}; "
            "convert the model with .double() for a smaller one"
        )


def smallest_scale(start: Tree, mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return the norm below which a state counts as zero: residuals are relative to no less."""
    flat = flatten(start, mask)
    return ZERO * torch.linalg.vector_norm(flat, dim=1).clamp_min(math.sqrt(flat.shape[1]))


def relative_residual(
    point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"], smallest: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Return r = ||f(z) - z|| / max(||z||, ||f(z)||, tiny) per example; infinite where either is not finite.

    Args:
        point: the states z, flat.
        value: f(z), flat.
        smallest: tiny, from `smallest_scale`.
    """
    change, before, after = (torch.linalg.vector_norm(part, dim=1) for part in (value - point, point, value))
    scale = torch.maximum(before, after)
    known = change.isfinite() & scale.isfinite()
    return torch.where(known, change / torch.maximum(scale, smallest), torch.inf)
