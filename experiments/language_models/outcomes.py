"""What a model does when it runs far beyond training, and what running on for a while says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from loopscope import Loop
from loopscope.loop import readout

HORIZONS = (16, 32, 64)
"""Numbers of loops that are asked about."""
LAST = 16
"""Answers must be kept over the last horizon / LAST loops."""
ENOUGH = 0.9
"""Fraction of the best accuracy that must be left for answers to count as kept."""


@dataclass(frozen=True)
class Outcome:
    """What became of the accuracy by a horizon.

    Args:
        keeps: whether the model keeps its answers.
        retained: lowest accuracy over the last loops, divided by the best.
        onset: the first loop from which accuracy stays below ``ENOUGH`` of the best; None if it never does.
    """

    keeps: bool
    retained: float
    onset: int | None


@torch.no_grad()
def curve(
    loop: Loop, texts: Int[Tensor, "batch tokens"], answers: Int[Tensor, "batch answered"], loops: int = HORIZONS[-1]
) -> list[float]:
    """Return the fraction of right characters after each loop. A prediction that is not finite is wrong."""
    recalled = loop.encode({"input_ids": texts})
    state, found = loop.start(recalled), []
    for _ in range(loops):
        state = loop.step(state, recalled)
        logits = readout(loop, state, recalled)
        right = (logits.argmax(-1) == answers) & logits.isfinite().all(-1)
        found.append(float(right.double().mean()))
    return found


def outcome(accuracies: Sequence[float], horizon: int) -> Outcome:
    """Return the outcome at a horizon, given the accuracy after each loop."""
    seen = accuracies[:horizon]
    best = max(seen)
    retained = min(seen[-horizon // LAST :]) / best if best else 0.0
    held = [place for place, value in enumerate(seen, 1) if value >= ENOUGH * best]
    return Outcome(retained >= ENOUGH, retained, None if held[-1] == horizon else held[-1] + 1)


def running_on(accuracies: Sequence[float], loops: int) -> bool:
    """Return whether a model keeps its answers according to a run of some loops, at whose end it must still have them."""
    return accuracies[loops - 1] >= ENOUGH * max(accuracies[:loops])
