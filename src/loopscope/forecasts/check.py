"""The check of a leap: do the true steps at its end do what the fit says?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.forecasts.leaps import Leap
from loopscope.trees import flatten

EXCESS = 2.0
"""A state that moves by more than this many times what the fit says is not where the fit says."""
MOVING = 1e-3
"""Relative change per iteration below which a state counts as at rest, whatever the fit says."""
OFF = 0.1
"""Distance, relative to the state, by which true steps may leave the path of the fit before the leap counts as a miss."""
TURN = 0.5
"""Share of a change by which it may differ from the one before in a smooth motion."""


@dataclass(frozen=True)
class Check:
    """What the true steps after a leap found, per example.

    Args:
        change: relative change of the last true step.
        expected: what the fit says it is, growing modes held to their present pace.
        off: distance between the last state and where the fit says it is, relative to the state.
        growth: factor by which the fit says that the pace grows over the leap.
        turn: how much the last change differs from the one before, relative to it.
    """

    change: Float[Tensor, "batch"]
    expected: Float[Tensor, "batch"]
    off: Float[Tensor, "batch"]
    growth: Float[Tensor, "batch"]
    turn: Float[Tensor, "batch"]

    @property
    def passed(self) -> Bool[Tensor, "batch"]:
        """Whether the state moves no more than the fit says, and lies where the fit says; false where it is not finite."""
        still = self.change <= torch.maximum(EXCESS * self.expected, torch.full_like(self.expected, MOVING))
        return still & self.on_path

    @property
    def on_path(self) -> Bool[Tensor, "batch"]:
        """Whether the state lies where the fit says; false where it is not finite."""
        return self.off <= OFF

    @property
    def steady(self) -> Bool[Tensor, "batch"]:
        """Whether the state lies where the fit says and moves on smoothly, at a pace that does not grow."""
        return self.on_path & (self.growth <= 1) & (self.turn <= TURN)


def check(leap: Leap, mask: Bool[Tensor, "batch *tokens"] | None = None) -> Check:
    """Check a leap by the true steps that follow it."""
    first, earlier, before, last = (flatten(leap.settled[place], mask).double() for place in (0, -3, -2, -1))
    steps = len(leap.settled) - 1
    size = torch.maximum(_length(before), _length(last))
    way = leap.fit.further(leap.jump + steps) - leap.fit.further(leap.jump)
    pace, later = _length(leap.fit.change(0)), _length(leap.fit.change(leap.jump + steps))
    return Check(
        change=_ratio(_length(last - before), size),
        expected=_ratio(_length(leap.fit.held().change(leap.jump + steps)), size),
        off=_ratio(_length(last - first - way), size),
        growth=_ratio(later, pace),
        turn=_ratio(_length(last - 2 * before + earlier), _length(last - before)),
    )


def _length(vectors: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    return torch.linalg.vector_norm(vectors, dim=1)


def _ratio(part: Float[Tensor, "batch"], whole: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return part / whole; 0 where there is no part, infinite where there is no whole or either is not finite."""
    known = part.isfinite() & whole.isfinite()
    found = torch.where(known, part / whole, torch.inf)
    return torch.where(known & (part == 0), 0.0, found)
