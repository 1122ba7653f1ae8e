"""The check of a leap: whether the true steps at its end agree with the fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.forecasts.leaps import Leap
from loopscope.trees import flatten

EXCESS = 2.0
"""A leap fails its check if the state moves more than this many times as far as the fit says."""
MOVING = 1e-3
"""Relative change per iteration below which a state counts as at rest, whatever the fit says."""
OFF = 0.1
"""Largest distance, relative to the state, between the true steps and the path of the fit."""
TURN = 0.5
"""Largest difference between two successive changes of a smooth motion, relative to the change."""


@dataclass(frozen=True)
class Check:
    """The true steps after a leap compared with the fit, per example.

    Args:
        change: relative change of the last true step.
        expected: that change according to the fit, with growing modes held to their present pace.
        off: distance between the last state and its place according to the fit, relative to the state.
        growth: factor by which, according to the fit, the change per iteration grows over the leap.
        turn: difference between the last change and the one before, relative to the last.
        noise: relative change up to which a state moves by rounding alone.
    """

    change: Float[Tensor, "batch"]
    expected: Float[Tensor, "batch"]
    off: Float[Tensor, "batch"]
    growth: Float[Tensor, "batch"]
    turn: Float[Tensor, "batch"]
    noise: float = 0.0

    @property
    def passed(self) -> Bool[Tensor, "batch"]:
        """Whether the last state lies and moves as the fit says. False if it is not finite."""
        still = self.change <= torch.maximum(EXCESS * self.expected, torch.full_like(self.expected, MOVING))
        return still & self.on_path

    @property
    def rests(self) -> Bool[Tensor, "batch"]:
        """Whether it passed, or lies where the fit says and moves by no more than the rounding of the step."""
        return self.passed | ((self.change <= self.noise) & self.on_path)

    @property
    def on_path(self) -> Bool[Tensor, "batch"]:
        """Whether the state lies where the fit says; false where it is not finite."""
        return self.off <= OFF

    @property
    def steady(self) -> Bool[Tensor, "batch"]:
        """Whether the state lies where the fit says and moves on smoothly, at a pace that does not grow."""
        return self.on_path & (self.growth <= 1) & (self.turn <= TURN)


def check(leap: Leap, mask: Bool[Tensor, "batch *tokens"] | None = None, noise: float = 0.0) -> Check:
    """Compare a leap with the true steps that follow it."""
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
        noise=noise,
    )


def _length(vectors: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    return torch.linalg.vector_norm(vectors, dim=1)


def _ratio(part: Float[Tensor, "batch"], whole: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return part / whole: 0 if the part is zero, infinity if only the whole is zero or either is not finite."""
    known = part.isfinite() & whole.isfinite()
    found = torch.where(known, part / whole, torch.inf)
    return torch.where(known & (part == 0), 0.0, found)
