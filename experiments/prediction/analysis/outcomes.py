"""The outcomes of a population's models, which forecasts are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from experiments.prediction.population import Member, ThinCurve
from loopscope.forecasts.result import HALF as COLLAPSED
from loopscope.forecasts.result import HOLDS as RETAINED

SOLVED = 0.9
"""A model solves its task if its best easy accuracy is at least this fraction of the best looped model's on the task."""
LEARNED = 0.1
"""A task counts as solved by no model if no best easy accuracy reaches this value, since 90% of very little is noise."""
EXTRAPOLATED = 0.5
"""A model extrapolates if it retains its accuracy and at least this fraction of the hardest problems is right at the end."""


class Outcome(StrEnum):
    """The outcome of a model, from best to worst."""

    EXTRAPOLATES = "extrapolates"
    RETAINS = "retains"
    DEGRADES = "degrades"
    NOT_LEARNED = "not learned"
    FAILED = "failed"

    @property
    def solves(self) -> bool:
        """Whether a model with this outcome solves its task."""
        return self in (Outcome.EXTRAPOLATES, Outcome.RETAINS, Outcome.DEGRADES)

    @property
    def retains(self) -> bool:
        """Whether a model with this outcome solves its task and retains its accuracy until the last iteration."""
        return self in (Outcome.EXTRAPOLATES, Outcome.RETAINS)


@dataclass(frozen=True)
class Result:
    """The outcome of one model, and the numbers behind it. Numbers are None for a model that was not evaluated.

    Args:
        outcome: the outcome.
        easy: easy accuracy at the last iteration.
        retained: easy accuracy at the last iteration over its best; None also if nothing was ever right.
        hard: accuracy on the hardest split at the last iteration.
        collapse: first iteration after the best at which easy accuracy is below half of the best; None if there is none.
    """

    outcome: Outcome
    easy: float | None
    retained: float | None
    hard: float | None
    collapse: int | None

    @property
    def solves(self) -> bool:
        """Whether the model solves its task."""
        return self.outcome.solves

    @property
    def retains(self) -> bool:
        """Whether the model solves its task and retains its accuracy until the last iteration."""
        return self.outcome.retains


@dataclass(frozen=True)
class Sample:
    """The models whose results are compared with what was forecast of them, one entry per model.

    Args:
        members: the models.
        results: result of each model.
        configurations: number of each model's configuration.
        divisions: ways to divide the models into parts of whole configurations.
    """

    members: list[Member]
    results: list[Result]
    configurations: Int[np.ndarray, "models"]
    divisions: list[list[Int[np.ndarray, "_"]]]

    @cached_property
    def solves(self) -> Bool[np.ndarray, "models"]:
        """Whether each model solves its task."""
        return np.array([result.solves for result in self.results])

    @cached_property
    def retains(self) -> Bool[np.ndarray, "models"]:
        """Whether each model solves its task and retains its accuracy."""
        return np.array([result.retains for result in self.results])


def collapse(curve: ThinCurve) -> int | None:
    """Return the first iteration after the best at which accuracy is below half of the best, or None."""
    for iteration, accuracy in zip(curve.iterations, curve.accuracy, strict=True):
        if iteration > curve.best_iteration and accuracy < COLLAPSED * curve.best:
            return iteration
    return None


def _result(member: Member, task_best: float) -> Result:
    easy, hard = member.easy, member.hard
    if easy is None or hard is None:
        return Result(Outcome.FAILED, None, None, None, None)
    retained = easy.last / easy.best if easy.best > 0 else None
    if retained is None or task_best < LEARNED or easy.best < SOLVED * task_best:
        outcome = Outcome.NOT_LEARNED
    elif retained < RETAINED:
        outcome = Outcome.DEGRADES
    else:
        outcome = Outcome.EXTRAPOLATES if hard.last >= EXTRAPOLATED else Outcome.RETAINS
    return Result(outcome, easy.last, retained, hard.last, collapse(easy) if outcome is Outcome.DEGRADES else None)


def results_of(members: Sequence[Member]) -> list[Result]:
    """Return the result of each model. The best looped model of a task decides what solving the task means."""
    best: dict[str, float] = {}
    for member in members:
        if member.looped and member.easy is not None:
            best[member.task] = max(best.get(member.task, 0.0), member.easy.best)
    return [_result(member, best.get(member.task, 0.0)) for member in members]


def outcome_counts(results: Iterable[Result]) -> dict[str, int]:
    """Return the number of models by outcome."""
    return dict(Counter(result.outcome.value for result in results))


def counts_by_outcome(ended: Iterable[tuple[str, Result]]) -> dict[str, dict[str, int]]:
    """Return the number of models by name and outcome. Every model is given as its name, such as its task, and its result."""
    groups: dict[str, list[Result]] = {}
    for name, result in ended:
        groups.setdefault(name, []).append(result)
    return {name: outcome_counts(results) for name, results in groups.items()}
