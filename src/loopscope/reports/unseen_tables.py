"""What is said of unseen models and what it costs, as tables; and each measurement alone."""

from __future__ import annotations

from loopscope.reports.kit.formats import DASH, interval, percent
from loopscope.reports.kit.sheet import Sheet
from loopscope.studies.prediction import Analysis
from loopscope.studies.predictors import MADE_ON
from loopscope.studies.signals import FURTHER, LEAP_KEPT
from loopscope.studies.unseen import ALL, Right


def _right(one: Right | None) -> str:
    return DASH if one is None or not one.models else f"{one.right} of {one.models}"


def _areas(analysis: Analysis) -> Sheet:
    models = max((one.area.models for one in analysis.unseen), default=0)
    return Sheet(
        "On the unseen models",
        ["predictor", "area for holding"],
        [[one.name, interval(one.area)] for one in analysis.unseen],
        f"On the same {models} models, which solve their task and are not of {MADE_ON}, on which leaps were made.",
    )


def _came_true(analysis: Analysis) -> Sheet:
    ruled = [(one.name, one.right) for one in analysis.unseen if one.right is not None]
    asked = list(dict.fromkeys(name for _, right in ruled for name in right))
    return Sheet(
        "What came true of what was said of the unseen models",
        ["by", *asked],
        [[name, *(_right(right.get(task)) for task in asked)] for name, right in ruled],
        "Models that solve their task. It is said that a model holds if nine tenths of its best accuracy are left: no rule "
        "was fitted. Of leaps, it is what loopscope forecast says.",
    )


def _mistakes(analysis: Analysis) -> Sheet:
    rows = [[one.run, one.task, one.said, percent(one.kept), one.fate.value] for one in analysis.mistakes]
    asked = sum(one.right[ALL].models for one in analysis.unseen if one.name == LEAP_KEPT and one.right is not None)
    caption = f"{len(rows)} of {asked} unseen models that solve their task. Kept: accuracy at the last iteration over the best."
    return Sheet("What leaps say wrongly", ["model", "task", "it says", "kept %", "fate"], rows, caption)


def _costs(analysis: Analysis) -> Sheet:
    tasks = list(analysis.fates)
    rows = [[one.name, *(percent(one.shares.get(task)) for task in tasks)] for one in analysis.costs]
    return Sheet(
        "What a forecast costs, % of the time of running on", ["predictor", *tasks], rows, "Medians over models."
    )


def _alone(analysis: Analysis) -> Sheet:
    rows = [
        [one.name, one.holds, interval(one.trained), DASH if one.further is None else interval(one.further)]
        for one in analysis.alone
    ]
    return Sheet(
        "Each measurement alone",
        ["measurement", "holds if", "area, trained iterations", f"area, {FURTHER} iterations"],
        rows,
        "Area for holding, among models that solve their task. Which way a number points was fixed by its meaning.",
    )


def unseen_tables(analysis: Analysis) -> list[Sheet]:
    """Return what is said of unseen models, what forecasts cost and what measurements tell alone, as tables."""
    return [_areas(analysis), _came_true(analysis), _mistakes(analysis), _costs(analysis), _alone(analysis)]
