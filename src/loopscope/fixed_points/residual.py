"""The relative residual of a state: how far one evaluation of the step moves it, relative to its size."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.checks import state_dtype
from loopscope.errors import LoopscopeError, check_tolerance
from loopscope.trees import Tree, binary_scale, flatten, floating_leaves, scaled_norm

ZERO = torch.finfo(torch.float32).eps
"""A state whose norm is below this fraction of the first state's counts as zero."""


def check_precision(state: Tree, tolerance: float) -> None:
    """Refuse a tolerance that the precision of a state cannot resolve.

    Raises:
        LoopscopeError: ``state_dtype`` refuses the state or `loopscope.errors.check_tolerance` the tolerance, or the tolerance
            is below the rounding of the state.

    Example:
        >>> check_precision(torch.zeros(2, 3), 1e-4)
        >>> check_precision(torch.zeros(2, 3), 1e-9)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: tolerance is 1e-09, expected at least 1.2e-07, ...
    """
    state_dtype(state)
    check_tolerance(tolerance)
    eps = max(torch.finfo(leaf.dtype).eps for leaf in floating_leaves(state))
    if tolerance < eps:
        wider = "" if eps < ZERO else "; convert the model and its inputs with .double() for a smaller one"
        raise LoopscopeError(f"tolerance is {tolerance}, expected at least {eps:.1e}, the rounding of the state{wider}")


def smallest_scale(start: Tree, mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return the norm below which the states of an orbit count as zero. Residuals are relative to at least this norm.

    Without it, an orbit that decays would never arrive at zero: if each step halves the state, every relative residual is
    one half. It is proportional to the norm of the first state, so that residuals do not depend on the unit of the state. An
    orbit that starts at zero needs no such norm: if zero were its fixed point, it would stay there.

    Args:
        start: the first states, batch first.
        mask: true where a token is real; None if all are.

    Example:
        >>> smallest_scale(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), None)
        tensor([5.9605e-07, 0.0000e+00])
    """
    return ZERO * scaled_norm(flatten(start, mask))


def relative_residual(
    point: Float[Tensor, "batch n"], value: Float[Tensor, "batch n"], smallest: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Return r = ||f(z) - z|| / max(||z||, ||f(z)||, smallest) for each example, or infinity if z or f(z) is not finite.

    Numbers of 1e-30 or 1e30, whose squares vanish or overflow, are measured in units of the example's largest number.

    Args:
        point: the states z, flat.
        value: f(z), flat.
        smallest: the norm that counts as zero, from ``smallest_scale``.

    Example:
        >>> point, value = torch.tensor([[3e30, 4e30]]), torch.tensor([[3e30, 5e30]])
        >>> relative_residual(point, value, torch.zeros(1))
        tensor([0.1715])
    """
    found, scale = _ratio(point, value, smallest)
    info = torch.finfo(point.dtype)
    # Above this norm, the squares of a change do not vanish unless it is mere rounding. Those of a change may overflow alone, because
    # it may be twice as large as the states.
    resolved = (scale > math.sqrt(point.shape[1] * info.tiny / info.eps) / info.eps) & found.isfinite()
    if bool(resolved.all()):
        return found
    largest = [torch.linalg.vector_norm(part, ord=torch.inf, dim=1, keepdim=True) for part in (point, value)]
    # Division by a power of two is exact.
    unit = binary_scale(torch.cat(largest, dim=1))
    in_units, _ = _ratio(point / unit, value / unit, smallest / unit.squeeze(1))
    return torch.where(resolved, found, in_units)


def _ratio(point: Tensor, value: Tensor, smallest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relative residual, which is infinite if a norm is not finite, and the larger norm."""
    change, before, after = (torch.linalg.vector_norm(part, dim=1) for part in (value - point, point, value))
    scale = torch.maximum(before, after)
    known = change.isfinite() & scale.isfinite()
    ratio = torch.where(change > 0, change / torch.maximum(scale, smallest), 0)
    return torch.where(known, ratio, torch.inf), scale
