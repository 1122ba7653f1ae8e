"""Tables of forecasts of unseen models, of the cost of forecasts, and of every measurement on its own."""

from __future__ import annotations

from experiments.prediction.analysis import Analysis
from experiments.prediction.analysis.predictors import DEVELOPED_ON
from experiments.prediction.analysis.unseen import ALL, Right
from experiments.prediction.report.estimates import interval
from experiments.prediction.signals import BUDGET, LEAP_KEPT
from loopscope.reports.kit.formats import DASH, percent
from loopscope.reports.kit.sheet import Sheet


def right_of(one: Right | None) -> str:
    """Return how often an answer came true, such as "71 of 76"."""
    return DASH if one is None or not one.models else f"{one.right} of {one.models}"


def _areas(analysis: Analysis) -> Sheet:
    models = max((one.area.models for one in analysis.unseen), default=0)
    return Sheet(
        "Unseen models: area under the ROC curve",
        ["predictor", "area"],
        [[one.name, interval(one.area)] for one in analysis.unseen],
        f"All on the same {models} models. They solve their task, and are not of the study {DEVELOPED_ON}, on which leaps "
        "were developed.",
    )


def _came_true(analysis: Analysis) -> Sheet:
    ruled = [(one.name, one.right) for one in analysis.unseen if one.right is not None]
    asked = list(dict.fromkeys(name for _, right in ruled for name in right))
    return Sheet(
        "Unseen models: how often the answer came true",
        ["answer from", *asked],
        [[name, *(right_of(right.get(task)) for task in asked)] for name, right in ruled],
        "Models that solve their task. The answer is that a model retains its accuracy if 90% of its best is left, a rule "
        "that was not fitted.",
    )


def _mistakes(analysis: Analysis) -> Sheet:
    rows = [[one.run, one.task, one.answer, percent(one.retained), one.outcome.value] for one in analysis.mistakes]
    asked = sum(one.right[ALL].models for one in analysis.unseen if one.name == LEAP_KEPT and one.right is not None)
    caption = f"{len(rows)} of {asked} unseen models that solve their task. Retained: accuracy at the last iteration over the best."
    return Sheet("Wrong answers of leaps", ["model", "task", "answer", "retained %", "outcome"], rows, caption)


def _costs(analysis: Analysis) -> Sheet:
    tasks = list(analysis.outcomes)
    rows = [[one.name, *(percent(one.shares.get(task)) for task in tasks)] for one in analysis.costs]
    return Sheet("Cost of a forecast, % of the time of running on", ["predictor", *tasks], rows, "Medians over models.")


def _single_signals(analysis: Analysis) -> Sheet:
    rows = [
        [one.name, one.direction, interval(one.trained), DASH if one.budget is None else interval(one.budget)]
        for one in analysis.single_signals
    ]
    return Sheet(
        "Every measurement on its own",
        ["measurement", "retains if", "area, trained iterations", f"area, {BUDGET} iterations"],
        rows,
        "Area under the ROC curve for retained accuracy, among models that solve their task. The direction of every "
        "measurement was fixed from its meaning.",
    )


def unseen_tables(analysis: Analysis) -> list[Sheet]:
    """Return the tables of forecasts of unseen models, of costs, and of single measurements."""
    return [
        _areas(analysis),
        _came_true(analysis),
        _mistakes(analysis),
        _costs(analysis),
        _single_signals(analysis),
    ]
