"""Tables of forecasts, of the cost of predictors, and of every measurement on its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from experiments.prediction.analysis import Analysis
from experiments.prediction.analysis.forecasts import ForecastModel
from experiments.prediction.report.estimates import interval, share_of_total
from experiments.prediction.report.outcome_tables import outcome_columns
from experiments.prediction.signals import BUDGET
from loopscope.reports.kit.formats import DASH, percent
from loopscope.reports.kit.sheet import Sheet


def _counts(analysis: Analysis) -> Sheet:
    rows = [
        [one.group, str(one.models), share_of_total(one.decided), share_of_total(one.right)]
        for one in analysis.forecasts.counts
    ]
    missing = analysis.forecasts.missing
    return Sheet(
        "Forecasts of models that solve their task",
        ["group", "models", "decided", "right of the decided"],
        rows,
        "A forecast is right if it says keeps of a model that retains its accuracy or collapses of one that degrades. With 95% "
        f"Wilson intervals.{f' Of {missing} more models, no forecast was measured.' if missing else ''}",
        [0],
    )


def _by_recall(analysis: Analysis) -> Sheet:
    rows = [[one.group, *map(share_of_total, (one.keeps, one.collapses))] for one in analysis.forecasts.by_recall]
    return Sheet(
        "Which answers of the forecast came true",
        ["group", "keeps", "collapses"],
        rows,
        "Models that solve their task. Keeps came true if the model retains its accuracy, collapses if it degrades.",
    )


def _rules(analysis: Analysis) -> Sheet:
    rows = [
        [one.name, one.group, *map(share_of_total, (one.models, one.decided, one.undecided))]
        for one in analysis.forecasts.rules
    ]
    return Sheet(
        "Running on, on the same models",
        ["answer from", "group", "right", "right where the forecast decides", "right where it is undecided"],
        rows,
        "Models that solve their task. Running on says that a model retains its accuracy if 90% of its best is left where the "
        "run ends: after as many steps as the forecast took, or at the last iteration. It always decides. Where the forecast is "
        "undecided, it is not right.",
        _ends_of_groups([one.group for one in analysis.forecasts.rules]),
    )


def _ends_of_groups(groups: Sequence[str]) -> list[int]:
    """Return the places after which another group begins."""
    return [place for place, (one, following) in enumerate(pairwise(groups)) if one != following]


def _models(title: str, models: Sequence[ForecastModel], caption: str) -> Sheet:
    rows = [
        [
            one.run,
            one.task,
            one.answer,
            *map(percent, (one.least, one.most, one.run_on, one.retained)),
            one.outcome.value,
        ]
        for one in models
    ]
    return Sheet(
        title,
        ["model", "task", "forecast", "least left %", "most left %", "left %", "retained %", "outcome"],
        rows,
        f"{caption} All percentages are of the best accuracy. Least and most left: the forecast's bounds on the accuracy at the last "
        "iteration. Left: the accuracy there when the same problems are run on. Retained: the accuracy there on the problems of "
        "the evaluation, which decide the outcome.",
    )


def _wrong(analysis: Analysis) -> Sheet:
    found = analysis.forecasts
    decided = found.overall.right.total
    caption = f"{len(found.wrong)} of {decided:.0f} models that solve their task and of which the forecast decides."
    return _models("Wrong forecasts", found.wrong, caption)


def _undecided(analysis: Analysis) -> Sheet:
    found = analysis.forecasts
    retain = sum(one.outcome.retains for one in found.undecided)
    caption = (
        f"{len(found.undecided)} of {found.overall.models} models that solve their task. Of these undecided models, {retain} "
        "retain their accuracy."
    )
    return _models("Undecided models", found.undecided, caption)


def _answers(analysis: Analysis) -> Sheet:
    counts = analysis.forecasts.answers
    names = outcome_columns(counts.values())
    rows = [[answer, *(str(own.get(name, 0)) for name in names)] for answer, own in counts.items()]
    return Sheet("Outcomes by answer", ["answer", *names], rows, "All looped models, whether they learned or not.")


def _forecast_costs(analysis: Analysis) -> Sheet:
    rows = [
        [one.group, str(one.models), *map(percent, (one.median, one.largest, one.seconds))]
        for one in analysis.forecasts.costs
    ]
    return Sheet(
        "What the forecast costs",
        ["group", "models", "steps %, median", "steps %, largest", "seconds %, median"],
        rows,
        "Steps: of those to the last iteration. Seconds: of running the same problems on to there, which stops where states "
        "settle. Models that solve their task unless the row says something else.",
    )


def _costs(analysis: Analysis) -> Sheet:
    tasks = list(analysis.outcomes)
    rows = [[one.name, *(percent(one.shares.get(task)) for task in tasks)] for one in analysis.costs]
    return Sheet(
        "Cost of a prediction, % of the time of running on", ["predictor", *tasks], rows, "Medians over models."
    )


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


def forecast_tables(analysis: Analysis) -> list[Sheet]:
    """Return the tables of forecasts, of costs, and of single measurements."""
    return [
        _counts(analysis),
        _by_recall(analysis),
        _rules(analysis),
        _wrong(analysis),
        _undecided(analysis),
        _answers(analysis),
        _forecast_costs(analysis),
        _costs(analysis),
        _single_signals(analysis),
    ]
