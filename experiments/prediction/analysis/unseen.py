"""Forecasts of unseen models, on which leaps were not developed, against the models' outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from experiments.prediction.analysis.breakdowns import Ended
from experiments.prediction.analysis.outcomes import RETAINED, Outcome, Result, Sample
from experiments.prediction.analysis.predictors import PREDICTORS, is_unseen
from experiments.prediction.analysis.statistics import Estimate, estimate_auc
from experiments.prediction.population import Member
from experiments.prediction.signals import AT_BUDGET, LEAP_KEEPS, LEAP_KEPT, LONG_RUN

ALL = "all tasks"
KEEPS, LOSES = "keeps its answers", "loses its answers"
"""The two answers of leaps."""


def leaps_answer(member: Member) -> bool | None:
    """Return whether leaps say that an unseen model keeps its answers; None if they were not taken."""
    answer = member.signal(LEAP_KEEPS)
    return bool(answer) if answer is not None and is_unseen(member) else None


def in_words(keeps: bool) -> str:
    """Return the answer of a forecast in words."""
    return KEEPS if keeps else LOSES


def _by_fraction_left(name: str) -> Callable[[Member], bool | None]:
    """Return the rule for a run of the loop: it keeps its answers if at least ``RETAINED`` of the best is left at the end."""

    def rule(member: Member) -> bool | None:
        left = member.signal(name)
        return None if left is None else left >= RETAINED

    return rule


RULES: dict[str, Callable[[Member], bool | None]] = {
    LEAP_KEPT: leaps_answer,
    f"{LONG_RUN}{AT_BUDGET}": _by_fraction_left(f"{LONG_RUN}{AT_BUDGET}"),
    LONG_RUN: _by_fraction_left(LONG_RUN),
}
"""The rules that give an answer without being fitted, by the predictors whose numbers they use."""
AT_SAME_BUDGET = tuple(one.name for one in PREDICTORS if one.at == AT_BUDGET)
"""The predictors that see as many iterations as leaps do."""


@dataclass(frozen=True)
class Right:
    """How often an answer came true.

    Args:
        right: number of models for which it came true.
        models: number of models with an answer.
    """

    right: int
    models: int


@dataclass(frozen=True)
class UnseenPerformance:
    """How well a predictor forecasts unseen models that solve their task.

    Args:
        name: name of the predictor.
        area: area under the ROC curve, on the models that every other predictor here knows too.
        right: how often the answer of its rule comes true, over all tasks (``ALL``) and by task; None if it has no rule.
    """

    name: str
    area: Estimate
    right: dict[str, Right] | None


@dataclass(frozen=True)
class Mistake:
    """An unseen model that solves its task and about which leaps were wrong.

    Args:
        run: name of the run.
        task: the task.
        answer: the answer, in words.
        retained: easy accuracy at the last iteration over its best.
        outcome: the outcome.
    """

    run: str
    task: str
    answer: str
    retained: float | None
    outcome: Outcome


def _decisive(sample: Sample) -> Bool[np.ndarray, "models"]:
    """Return which models are unseen and solve their task."""
    return sample.solves & np.array([is_unseen(member) for member in sample.members])


def _decisive_models(sample: Sample) -> list[Ended]:
    """Return the unseen models that solve their task, with their results."""
    pairs = zip(sample.members, sample.results, strict=True)
    return [pair for pair, counts in zip(pairs, _decisive(sample), strict=True) if counts]


def unseen_performances(sample: Sample, scores: Mapping[str, Float[np.ndarray, "models"]]) -> list[UnseenPerformance]:
    """Return how well predictors forecast unseen models: those that see as much as leaps do, and running on to the end.

    Args:
        sample: the models.
        scores: the numbers that each predictor ranks models by, NaN for a model that it does not know.
    """
    names = (*AT_SAME_BUDGET, LONG_RUN)
    same = _decisive(sample)
    for name in names:
        known = same & np.isfinite(scores[name])
        # A predictor that was measured for no model at all does not restrict the models.
        same = known if known.any() else same
    found = []
    for name in names:
        known = same & np.isfinite(scores[name])
        area = estimate_auc(scores[name][known], sample.retains[known], sample.configurations[known])
        found.append(UnseenPerformance(name, area, _right(sample, RULES[name]) if name in RULES else None))
    return found


def _right(sample: Sample, rule: Callable[[Member], bool | None]) -> dict[str, Right]:
    models = _decisive_models(sample)
    tasks = dict.fromkeys(member.task for member, _ in models)
    came = [(member.task, _came_true(rule(member), result)) for member, result in models]
    return {ALL: _counted(true for _, true in came)} | {
        task: _counted(true for other, true in came if other == task) for task in tasks
    }


def _came_true(answer: bool | None, result: Result) -> bool | None:
    return None if answer is None else answer == result.retains


def _counted(came_true: Iterable[bool | None]) -> Right:
    known = [one for one in came_true if one is not None]
    return Right(sum(known), len(known))


def forecast_record(sample: Sample) -> Right:
    """Return how often the answer of leaps came true for unseen models that solve their task."""
    return _right(sample, leaps_answer)[ALL]


def mistakes(sample: Sample) -> list[Mistake]:
    """Return the unseen models that solve their task and about which leaps were wrong."""
    found = []
    for member, result in _decisive_models(sample):
        answer = leaps_answer(member)
        if answer is not None and answer != result.retains:
            found.append(Mistake(member.run, member.task, in_words(answer), result.retained, result.outcome))
    return found
