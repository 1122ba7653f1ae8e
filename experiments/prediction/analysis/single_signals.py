"""How well each measurement alone tells which models retain their accuracy.

These measurements are not predictors of their own. Whether a larger or a smaller value should mean that a model retains
its accuracy was fixed from the meaning of each, before any area was computed. An area below 0.5 shows that the meaning
was wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.prediction.analysis.outcomes import Sample
from experiments.prediction.analysis.statistics import Estimate, estimate_auc
from experiments.prediction.population import Member
from experiments.prediction.signals import (
    AT_BUDGET,
    RANDOM,
    RANDOM_ANSWER,
    SLOPE,
    SLOWEST_TOKENS,
    SWAP,
    SWAP_ANSWER,
)

Read = Callable[[Member], float | None]
LARGER, SMALLER = "larger", "smaller"
SIGNALS = {
    SLOPE: SMALLER,
    SLOWEST_TOKENS: SMALLER,
    SWAP: SMALLER,
    SWAP_ANSWER: LARGER,
    RANDOM: SMALLER,
    RANDOM_ANSWER: LARGER,
}
"""Signals, and the direction that means retained accuracy: the residual falls, even the slowest tokens come to rest, and
the loop reaches its own end and its own answer from anywhere."""
EXAMINED = {"lyapunov": SMALLER, "growth": SMALLER, "returned": LARGER}
"""The same for numbers of an examination in prediction mode: neighbours approach each other, the state does not grow, and
perturbed states return to the end."""
EXAMINED_NAMES = {
    "lyapunov": "finite-time exponent",
    "growth": "growth of the state",
    "returned": "fraction returned to its basin",
}


@dataclass(frozen=True)
class SingleSignal:
    """Areas under the ROC curve of one measurement, among models that solve their task.

    Args:
        name: name of the measurement.
        direction: whether larger or smaller values mean that a model retains its accuracy.
        trained: area of the measurement after the trained iterations.
        budget: area of the measurement after ``BUDGET`` iterations; None if it is not measured there.
    """

    name: str
    direction: str
    trained: Estimate
    budget: Estimate | None


def single_signals(sample: Sample) -> list[SingleSignal]:
    """Return the areas of every measurement."""
    signals = [
        SingleSignal(
            name,
            direction,
            _area(sample, _signal(name), direction),
            _area(sample, _signal(f"{name}{AT_BUDGET}"), direction),
        )
        for name, direction in SIGNALS.items()
    ]
    examined = [
        SingleSignal(EXAMINED_NAMES[name], direction, _area(sample, _examined(name), direction), None)
        for name, direction in EXAMINED.items()
    ]
    return [*signals, *examined]


def _signal(name: str) -> Read:
    return lambda member: member.signal(name)


def _examined(name: str) -> Read:
    return lambda member: member.prediction_mode.get(name)


def _area(sample: Sample, read: Read, direction: str) -> Estimate:
    values = [np.nan if (value := read(member)) is None else value for member in sample.members]
    scores = np.array(values, dtype=float) * (1 if direction == LARGER else -1)
    known = sample.solves & np.isfinite(scores)
    return estimate_auc(scores[known], sample.retains[known], sample.configurations[known])
