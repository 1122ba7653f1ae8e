"""What became of the models of a population: the outcomes that forecasts are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from loopscope.forecasts.result import HALF, HOLDS
from loopscope.studies.population import Member, ThinCurve

SOLVES = 0.9
"""A model solves its task if its best easy accuracy is at least this fraction of the best of all looped ones on the task."""
LEARNED = 0.1
"""A task on which no model's best easy accuracy reaches this is solved by none: 90% of next to nothing is noise."""
EXTRAPOLATES = 0.5
"""It extrapolates if it holds, and at least this fraction of the hardest problems is right at the last iteration."""


class Fate(StrEnum):
    """What became of a model, from best to worst."""

    EXTRAPOLATES = "extrapolates"
    HOLDS = "holds"
    LOSES = "loses it"
    NEVER = "never learned"
    FAILED = "failed"

    @property
    def solves(self) -> bool:
        """Whether a model of this fate solves its task."""
        return self in (Fate.EXTRAPOLATES, Fate.HOLDS, Fate.LOSES)

    @property
    def holds(self) -> bool:
        """Whether it solves its task and keeps that to the last iteration."""
        return self in (Fate.EXTRAPOLATES, Fate.HOLDS)


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Args:
        fate: in a word; failed where training did.
        easy: easy accuracy at the last iteration; None where it was not evaluated, as below.
        kept: easy accuracy at the last iteration over its best; None where nothing was ever right.
        hard: accuracy on the hardest split at the last iteration.
        collapse: the first iteration after the best at which the easy accuracy is below half of it; None where it
            never is.
    """

    fate: Fate
    easy: float | None
    kept: float | None
    hard: float | None
    collapse: int | None

    @property
    def solves(self) -> bool:
        """Whether the model solves its task."""
        return self.fate.solves

    @property
    def holds(self) -> bool:
        """Whether a model that solves its task keeps that to the last iteration."""
        return self.fate.holds


@dataclass(frozen=True)
class Compared:
    """The models of a population whose outcomes are compared with what was said of them, one entry per model.

    Args:
        members: the models.
        outcomes: what became of each.
        cells: the grid cell of each, as a number.
        divisions: ways to divide the models into parts of whole cells.
    """

    members: list[Member]
    outcomes: list[Outcome]
    cells: Int[np.ndarray, "models"]
    divisions: list[list[Int[np.ndarray, "_"]]]

    @cached_property
    def solves(self) -> Bool[np.ndarray, "models"]:
        """Whether each solves its task."""
        return np.array([outcome.solves for outcome in self.outcomes])

    @cached_property
    def holds(self) -> Bool[np.ndarray, "models"]:
        """Whether each holds."""
        return np.array([outcome.holds for outcome in self.outcomes])


def collapse(curve: ThinCurve) -> int | None:
    """Return the first iteration after the best at which accuracy is below half of the best, or None."""
    for iteration, accuracy in zip(curve.iterations, curve.accuracy, strict=True):
        if iteration > curve.best_iteration and accuracy < HALF * curve.best:
            return iteration
    return None


def _outcome(member: Member, task_best: float) -> Outcome:
    easy, hard = member.easy, member.hard
    if easy is None or hard is None:
        return Outcome(Fate.FAILED, None, None, None, None)
    kept = easy.last / easy.best if easy.best > 0 else None
    if kept is None or task_best < LEARNED or easy.best < SOLVES * task_best:
        fate = Fate.NEVER
    elif kept < HOLDS:
        fate = Fate.LOSES
    else:
        fate = Fate.EXTRAPOLATES if hard.last >= EXTRAPOLATES else Fate.HOLDS
    return Outcome(fate, easy.last, kept, hard.last, collapse(easy) if fate is Fate.LOSES else None)


def outcomes(members: Sequence[Member]) -> list[Outcome]:
    """Return the outcome of each model; what solving means is decided by the best looped model of its task."""
    best: dict[str, float] = {}
    for member in members:
        if member.looped and member.easy is not None:
            best[member.task] = max(best.get(member.task, 0.0), member.easy.best)
    return [_outcome(member, best.get(member.task, 0.0)) for member in members]
