"""Forecasts of models against their outcomes, beside running on for as many steps and running on to the end.

Models that solve their task count. A forecast is right if it says *keeps* of a model that retains its accuracy, or *collapses* of
one that does not. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.prediction.analysis.breakdowns import Ended, grouped, recall_name
from experiments.prediction.analysis.outcomes import RETAINED, Outcome, Result, counts_by_outcome
from experiments.prediction.analysis.predictors import BY_NAME
from experiments.prediction.analysis.statistics import Share, known_median, share, share_of
from experiments.prediction.population import Member
from experiments.prediction.signals import (
    FORECAST,
    FORECAST_KEPT,
    FORECAST_LEAST,
    FORECAST_MOST,
    FORECAST_STEPS,
    LONG_RUN,
    SAME_STEPS,
)
from loopscope.forecasts.result import Outlook

ALL = "all tasks"
EVERY_MODEL = "all models, including those that did not learn"
NOT_MEASURED = "not measured"
"""The answer for a model whose forecast was not measured."""


def answer_of(member: Member) -> Outlook | None:
    """Return the forecast of a model; None if it was not measured."""
    if member.signal(FORECAST_STEPS) is None:
        return None
    keeps = member.signal(FORECAST)
    if keeps is None:
        return Outlook.CANNOT_TELL
    return Outlook.KEEPS if keeps else Outlook.COLLAPSES


def keeps_of(member: Member) -> bool | None:
    """Return whether the forecast says that a model keeps its answers; None if it is undecided or was not measured."""
    answer = answer_of(member)
    return None if answer in (None, Outlook.CANNOT_TELL) else answer is Outlook.KEEPS


def horizon_of(member: Member) -> int:
    """Return the last iteration that is evaluated, which forecasts are about. The model must have been evaluated."""
    assert member.easy is not None
    return member.easy.iterations[-1]


def _run_keeps(name: str) -> Callable[[Member], bool | None]:
    """Return the rule for a run of the loop: it keeps its answers if at least ``RETAINED`` of the best is left at its end."""

    def rule(member: Member) -> bool | None:
        left = member.signal(name)
        return None if left is None else left >= RETAINED

    return rule


RULES: dict[str, Callable[[Member], bool | None]] = {
    FORECAST: keeps_of,
    SAME_STEPS: _run_keeps(SAME_STEPS),
    LONG_RUN: _run_keeps(LONG_RUN),
}
"""The forecast and its rivals: whether each says that a model keeps its answers; None if it does not say."""


@dataclass(frozen=True)
class ForecastCounts:
    """How often forecasts of some models decide, and how often the decided ones are right.

    Args:
        group: the models: all, those of a task, or those of a study.
        models: number of models whose forecast was measured.
        decided: how many of them are decided.
        right: how many of the decided forecasts are right.
    """

    group: str
    models: int
    decided: Share
    right: Share


@dataclass(frozen=True)
class AnswerCounts:
    """How often each answer of the forecast came true, among some models.

    Args:
        group: the models: those of a task and a recall.
        keeps: how many of those of which it says *keeps* retain their accuracy.
        collapses: how many of those of which it says *collapses* degrade.
    """

    group: str
    keeps: Share
    collapses: Share


@dataclass(frozen=True)
class RunningOn:
    """How often a rule is right, on the same models as the forecast.

    Args:
        name: the rule, by the name of its signal.
        group: the models: all, or those of a task.
        models: how often it is right. A rule that does not say is not right.
        decided: how often it is right on the models that the forecast decides.
        undecided: how often it is right on the others.
    """

    name: str
    group: str
    models: Share
    decided: Share
    undecided: Share


@dataclass(frozen=True)
class ForecastModel:
    """What was forecast of one model, and what it did.

    Args:
        run: name of the run.
        task: the task.
        answer: the answer of the forecast.
        least: lower bound of the forecast on the accuracy left over the best; None if no leaps were needed.
        most: upper bound; None likewise.
        run_on: accuracy left over the best when the forecast's own problems are run on to the last iteration.
        retained: easy accuracy at the last iteration over its best.
        outcome: the outcome.
    """

    run: str
    task: str
    answer: str
    least: float | None
    most: float | None
    run_on: float | None
    retained: float | None
    outcome: Outcome


@dataclass(frozen=True)
class ForecastCost:
    """What forecasts of some models cost. Numbers are None if there is no model, or if they were not measured.

    Args:
        group: the models: all, those of a task, or those that did not learn as well.
        models: number of models whose forecast was measured.
        median: median of the steps over those to the horizon.
        largest: the largest of these.
        seconds: median of the time over that of running on to the end.
    """

    group: str
    models: int
    median: float | None
    largest: float | None
    seconds: float | None


@dataclass(frozen=True)
class ForecastStudy:
    """What a population says about forecasts. Models solve their task unless something else is said.

    Args:
        solving: number of models that solve their task.
        counts: how often forecasts decide and are right: on all models, by task and by study.
        by_recall: how often each answer came true, by task and recall.
        rules: the forecast and its rivals on the same models: on all, and by task.
        wrong: the models of which the forecast was wrong.
        undecided: the models of which the forecast cannot tell.
        answers: number of all models, whether they learned or not, by answer and outcome.
        costs: the cost on all models, by task, and on all models whether they learned or not.
    """

    solving: int
    counts: list[ForecastCounts]
    by_recall: list[AnswerCounts]
    rules: list[RunningOn]
    wrong: list[ForecastModel]
    undecided: list[ForecastModel]
    answers: dict[str, dict[str, int]]
    costs: list[ForecastCost]

    @property
    def overall(self) -> ForecastCounts:
        """How often forecasts decide and are right on all models."""
        return self.counts[0]

    @property
    def cost(self) -> ForecastCost:
        """The cost on all models that solve their task."""
        return self.costs[0]

    @property
    def missing(self) -> int:
        """Number of models that solve their task and have no forecast."""
        return self.solving - self.overall.models

    def rule(self, name: str) -> RunningOn:
        """Return how often a rule is right on all models."""
        return next(one for one in self.rules if one.name == name and one.group == ALL)


def study_forecasts(members: Sequence[Member], results: Sequence[Result]) -> ForecastStudy:
    """Return what looped models say about forecasts of them."""
    everything = list(zip(members, results, strict=True))
    solving = [one for one in everything if one[1].solves]
    known = _measured(solving)
    by_task = {ALL: known} | grouped(known, lambda member: member.task)
    by_study = grouped(known, lambda member: f"study {member.study}")
    by_recall = grouped(known, lambda member: f"{member.task}, {recall_name(member.recall)}")
    return ForecastStudy(
        len(solving),
        [_counts(group, models) for group, models in {**by_task, **by_study}.items()],
        [_by_answer(group, models) for group, models in by_recall.items()],
        [_running_on(name, group, models) for group, models in by_task.items() for name in RULES],
        [_listed(*one) for one in known if _came_true(keeps_of, *one) is False],
        [_listed(*one) for one in known if keeps_of(one[0]) is None],
        _answers(everything),
        [_cost(group, models) for group, models in {**by_task, EVERY_MODEL: _measured(everything)}.items()],
    )


def _measured(ended: Sequence[Ended]) -> list[Ended]:
    return [one for one in ended if answer_of(one[0]) is not None]


def _came_true(rule: Callable[[Member], bool | None], member: Member, result: Result) -> bool | None:
    """Return whether a rule is right about a model; None if it does not say."""
    keeps = rule(member)
    return None if keeps is None else keeps == result.retains


def _counts(group: str, models: Sequence[Ended]) -> ForecastCounts:
    came = [true for one in models if (true := _came_true(keeps_of, *one)) is not None]
    return ForecastCounts(group, len(models), share(len(came), len(models)), share_of(came))


def _by_answer(group: str, models: Sequence[Ended]) -> AnswerCounts:
    def came_true(keeps: bool) -> Share:
        return share_of(bool(_came_true(keeps_of, *one)) for one in models if keeps_of(one[0]) is keeps)

    return AnswerCounts(group, came_true(True), came_true(False))


def _running_on(name: str, group: str, models: Sequence[Ended]) -> RunningOn:
    def right(some: Sequence[Ended]) -> Share:
        return share_of(bool(_came_true(RULES[name], *one)) for one in some)

    decided = [one for one in models if keeps_of(one[0]) is not None]
    undecided = [one for one in models if keeps_of(one[0]) is None]
    return RunningOn(name, group, right(models), right(decided), right(undecided))


def _listed(member: Member, result: Result) -> ForecastModel:
    return ForecastModel(
        member.run,
        member.task,
        _in_words(answer_of(member)),
        member.signal(FORECAST_LEAST),
        member.signal(FORECAST_MOST),
        member.signal(LONG_RUN),
        result.retained,
        result.outcome,
    )


def _in_words(answer: Outlook | None) -> str:
    return NOT_MEASURED if answer is None else answer.value


def _answers(everything: Sequence[Ended]) -> dict[str, dict[str, int]]:
    """Return the number of models by answer and outcome, for the answers that were given."""
    counts = counts_by_outcome((_in_words(answer_of(member)), result) for member, result in everything)
    return {name: counts[name] for name in (*(one.value for one in Outlook), NOT_MEASURED) if name in counts}


def _cost(group: str, models: Sequence[Ended]) -> ForecastCost:
    steps = [taken / horizon_of(member) for member, _ in models if (taken := member.signal(FORECAST_STEPS)) is not None]
    return ForecastCost(
        group,
        len(models),
        known_median(steps),
        max(steps, default=None),
        known_median(BY_NAME[FORECAST_KEPT].share(member) for member, _ in models),
    )
