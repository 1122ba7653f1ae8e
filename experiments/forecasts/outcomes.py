"""The outcome of a loop that is run to the horizon, and simple forecasts by rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from experiments.forecasts.tasks import Problems
from loopscope import Loop, leaps
from loopscope.loop import Tree

HORIZON = 480
LAST = 16
"""Number of last iterations over which answers must be kept."""
ENOUGH = 0.9
"""Fraction of the best accuracy that must be left for answers to count as kept."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a loop.

    Args:
        keeps: whether it keeps its answers.
        retained: lowest accuracy over the last ``LAST`` iterations, divided by the best.
        best: the best accuracy over all iterations.
        onset: the first iteration from which accuracy stays below ``ENOUGH`` of the best; None if it never does.
    """

    keeps: bool
    retained: float
    best: float
    onset: int | None


def accuracy(loop: Loop, state: Tree, problems: Problems) -> float:
    """Return the fraction of problems whose whole answer is right. An answer that is not finite is wrong."""
    logits = loop.read(state)
    right = (logits.argmax(2) == problems.answers) & logits.isfinite().all(2)
    return float(right.all(1).double().mean())


@torch.no_grad()
def curve(loop: Loop, problems: Problems, iterations: int = HORIZON) -> list[float]:
    """Return the accuracy after each iteration."""
    recalled = loop.encode(problems.inputs)
    state, found = loop.start(recalled), []
    for _ in range(iterations):
        state = loop.step(state, recalled)
        found.append(accuracy(loop, state, problems))
    return found


def outcome(accuracies: Sequence[float]) -> Outcome:
    """Return the outcome of a loop, given its accuracy after each iteration."""
    best = max(accuracies)
    retained = min(accuracies[-LAST:]) / best if best else 0.0
    held = [place for place, value in enumerate(accuracies, 1) if value >= ENOUGH * best]
    return Outcome(retained >= ENOUGH, retained, best, None if held[-1] == len(accuracies) else held[-1] + 1)


def running_on(accuracies: Sequence[float], iterations: int) -> bool:
    """Return whether a loop keeps its answers according to a run of some iterations, at whose end it must still have them."""
    return accuracies[iterations - 1] >= ENOUGH * max(accuracies[:iterations])


@torch.no_grad()
def unchecked(loop: Loop, problems: Problems, trained: int) -> bool:
    """Return whether a loop keeps its answers according to unchecked leaps from 30 steps."""
    landings = leaps(loop, loop.encode(problems.inputs), earlier=trained)
    values = [accuracy(loop, landing.state, problems) for landing in landings]
    late = [accuracy(loop, state, problems) for state in landings[-1].before]
    return min(values[-1], *late) >= ENOUGH * max(values + late)
