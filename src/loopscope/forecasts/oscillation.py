"""Oscillations that die out within a leap.

A linear fit follows an oscillation down to nothing. The loop itself may act on an amplitude or a phase that the orbit has not
reached yet, for example by a threshold, and nothing in the orbit tells. So the answers of such an orbit are not known until
true steps have seen it come to rest. An oscillation that goes on undiminished is different: the orbit has shown all of it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.forecasts.fit import Fit

TURNS = 1.0
"""Smallest number of turns that a mode has left to count as an oscillation: it then passes through every phase again."""
DYING = 0.5
"""An oscillation dies out if less than this fraction of its amplitude is left."""


def dies_out(fitted: Fit, size: Float[Tensor, "batch"], iterations: int, visible: float) -> Bool[Tensor, "batch"]:
    """Return which orbits oscillate visibly at the time of the fit, with oscillations that die out later.

    Args:
        fitted: the fit to the last states of each orbit.
        size: length of the last state of each orbit.
        iterations: number of iterations within which oscillations may die out.
        visible: smallest amplitude, relative to the state, that counts.
    """
    device = size.device
    rates, size = fitted.rates, size.double().cpu().clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(1)
    decay = rates.abs().clamp(1e-12, 1 - 1e-12)
    # Mode by mode, the sum of all later changes: how far the state is from the centre of the oscillation.
    amplitude = fitted.lengths() * decay / (1 - rates).abs().clamp_min(1e-12) / size
    left = (amplitude / visible).clamp_min(1).log() / -decay.log()
    turns = rates.angle().abs() * left / (2 * math.pi)
    dying = (turns >= TURNS) & (decay**iterations < DYING)
    return dying.any(1).to(device)
