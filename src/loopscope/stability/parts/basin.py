"""The basin of attraction: how far from its fixed point an orbit may start and still return to it."""

from __future__ import annotations

import torch
from torch import Tensor

from loopscope.schema import to_plain
from loopscope.stability.orbits.basin import basin, fraction
from loopscope.stability.parts.sample import Sample
from loopscope.stability.results import BasinResult, Returns
from loopscope.trees import select


def measure_basin(sample: Sample) -> BasinResult:
    """Return which perturbed, random and foreign starts lead back to the fixed points."""
    found = basin(
        sample.loop,
        select(sample.recalled, sample.near),
        sample.trajectory.take(sample.near),
        iterations=sample.secondary_iterations,
        radii=sample.budget.radii,
        tolerance=sample.config.tolerance,
        seed=sample.config.seed,
        floor=sample.floor,
    )
    returned, known = fraction(found.perturbed)
    return BasinResult(
        rows=to_plain(sample.near),
        radii=list(found.radii),
        returned=to_plain(returned),
        known=to_plain(known),
        random=_returns(found.random),
        foreign=_returns(found.foreign),
    )


def _returns(back: Tensor) -> Returns:
    """Return how many starts of one kind led back, over all of them."""
    flat = back.reshape(1, -1)
    returned, known = fraction(flat) if flat.numel() else (torch.tensor([torch.nan]), torch.tensor([0.0]))
    return Returns(returned=to_plain(float(returned[0])), known=to_plain(float(known[0])))
