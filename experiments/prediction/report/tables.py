"""A population's analysis as tables, and its summary in a few lines."""

from __future__ import annotations

from itertools import accumulate

from experiments.prediction.analysis import FEATURED, Analysis
from experiments.prediction.analysis.collapse_times import ALL as ALL_TASKS
from experiments.prediction.analysis.collapse_times import MEDIAN
from experiments.prediction.analysis.judgement import MODELS
from experiments.prediction.analysis.predictors import ALL_AXES, ALL_RIVALS
from experiments.prediction.analysis.recommendations import Counts, Recommendation
from experiments.prediction.analysis.thresholds import PRIOR, RETAINING
from experiments.prediction.analysis.verdicts import ALL_ITERATIONS
from experiments.prediction.report.claims_table import claims_table, judgement_in_words
from experiments.prediction.report.estimates import interval, interval_of, share_of_total
from experiments.prediction.report.forecast_tables import forecast_tables
from experiments.prediction.report.outcome_tables import outcome_columns, outcome_tables
from experiments.prediction.signals import FORECAST_COLLAPSE, FORECAST_KEPT, LONG_RUN, SAME_STEPS
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.sheet import Sheet
from loopscope.stability.verdict import PRIORS, Threshold


def main_results(analysis: Analysis) -> Sheet:
    """Return the main results: forecasts, ranking, the iteration of collapse, and the verdict."""
    found = {one.name: one for one in analysis.performances}
    kept, run, axes, rivals = (found[name] for name in (FORECAST_KEPT, SAME_STEPS, ALL_AXES, ALL_RIVALS))
    times = {one.name: one.error for one in analysis.collapse_times.predictions if one.among == ALL_TASKS}
    counts, cost = analysis.forecasts.overall, analysis.forecasts.cost
    same, whole = (analysis.forecasts.rule(name) for name in (SAME_STEPS, LONG_RUN))
    score = analysis.thresholds.verdict_by_the_rule(ALL_ITERATIONS)
    rows = [
        ["forecast: decided", share_of_total(counts.decided)],
        ["forecast: right of the decided", share_of_total(counts.right)],
        ["running on for as many steps: right of the same", share_of_total(same.decided)],
        ["running on to the end: right of the same", share_of_total(whole.decided)],
        ["running on for as many steps: right where the forecast is undecided", share_of_total(same.undecided)],
        [
            "steps of a forecast, % of those to the end: median, largest",
            f"{percent(cost.median)}, {percent(cost.largest)}",
        ],
        ["area of the accuracy kept, by the forecast", interval(kept.area)],
        ["area of running on for as many steps", interval(run.area)],
        ["area of all three axes, trained iterations", interval(axes.area)],
        ["area of all short rivals, trained iterations", interval(rivals.area)],
        ["iteration of collapse: median error of the forecast, octaves", interval(times[FORECAST_COLLAPSE])],
        [f"iteration of collapse: median error of the {MEDIAN}, octaves", interval(times[MEDIAN])],
        [f"verdict, {score.mode}, thresholds {score.thresholds}: balanced accuracy", interval(score.balanced)],
        ["the same verdict: decided", share_of_total(score.decided_models)],
        ["the same verdict: right of the decided", share_of_total(score.right_models)],
    ]
    return Sheet(
        "Main results",
        ["result", "value"],
        rows,
        "Among models that solve their task. Areas are under the ROC curve for retained accuracy, with 95% intervals over "
        "configurations. Shares stand with 95% Wilson intervals.",
    )


def _steps(analysis: Analysis) -> str:
    """Return the cost of forecasts in words."""
    cost = analysis.forecasts.cost
    return f"steps: {percent(cost.median)}% of those to the end in the median, {percent(cost.largest)}% at most"


def _performances(analysis: Analysis) -> list[Sheet]:
    rows = [
        [
            one.name,
            str(one.area.models),
            interval(one.area),
            number(one.hard.value),
            number(one.brier.value),
            percent(one.share),
        ]
        for one in analysis.performances
    ]
    framework = [one for one in analysis.performances if one.kind == "framework"]
    leads = [
        [one.name, one.rival, interval(one.lead), str(one.lead.models)]
        for one in framework
        if one.rival is not None and one.lead is not None
    ]
    return [
        Sheet(
            "Forecasts from easy problems",
            ["predictor", "models", "area", "rank correlation", "Brier score", "% of running on"],
            rows,
            "Predictors see the trained iterations unless they say 30. The forecast sees as many as it took "
            f"({_steps(analysis)}), which is more than the others see: running on for as many steps is its fair rival. It ranks "
            "undecided models too. Area: under the ROC curve for retained accuracy, among models that solve their task, with 95% "
            "intervals over configurations. Several numbers are combined by a rule fitted on other configurations. Rank "
            "correlation: with hard accuracy, over all models. Last column: share of the time of running on, median over models.",
            [len(framework) - 1],
        ),
        Sheet(
            "Lead over the best rival",
            ["predictor", "best rival that sees as much", "lead", "models"],
            leads,
            "By how much the area is larger, on the same models and resamples. The rival is the best one on these models. That of "
            "the forecast is running on for as many steps, because no other rival sees as much.",
        ),
    ]


def _against_kinds(analysis: Analysis) -> Sheet:
    rows = [
        [one.name, *map(interval, (one.areas.ours, one.areas.theirs, one.areas.lead)), str(one.areas.lead.models)]
        for one in analysis.against_kinds
    ]
    return Sheet(
        "Against the rate of the same kind",
        ["predictor", "area", "area of the rate", "lead", "models"],
        rows,
        "The rate at which models of the same task, recall and normalization retain their accuracy, among those of other "
        "configurations that solve the task. It does not look at the model.",
    )


def _calibration(analysis: Analysis) -> Sheet:
    rows = [
        [
            name,
            f"{percent(one.low)} to {percent(one.high)}",
            str(one.models),
            percent(one.predicted),
            percent(one.observed),
        ]
        for name, bins in analysis.calibration.items()
        for one in bins
    ]
    return Sheet(
        "Calibration",
        ["predictor", "predicted %", "models", "mean predicted %", "observed %"],
        rows,
        "Probability of retained accuracy by a rule fitted on other configurations, and the fraction of these models that "
        "did retain it, among models that solve their task.",
        [last - 1 for last in accumulate(map(len, analysis.calibration.values()))],
    )


def _transfers(analysis: Analysis) -> Sheet:
    tasks = list(dict.fromkeys(one.task for one in analysis.transfers))
    outcomes = {
        task: [one.outcome for one in analysis.points if one.task == task and one.outcome.solves] for task in tasks
    }
    found = {(one.name, one.task): interval_of(one.area, len(outcomes[one.task])) for one in analysis.transfers}
    names = dict.fromkeys(one.name for one in analysis.transfers)
    rows = [[name, *(found[name, task] for task in tasks)] for name in names]
    retain = {task: sum(outcome.retains for outcome in own) for task, own in outcomes.items()}
    heads = [f"{task} ({retain[task]} retain, {len(outcomes[task]) - retain[task]} do not)" for task in tasks]
    return Sheet(
        f"Transfer between tasks: rules fitted on {analysis.source}",
        ["predictor", *heads],
        rows,
        "Area under the ROC curve for retained accuracy, with the number of models in brackets where it is not all of them.",
    )


def _collapse_times(analysis: Analysis) -> Sheet:
    times = analysis.collapse_times
    rows = [
        [one.name, one.among, str(one.error.models), interval(one.error), interval(one.gain)]
        for one in times.predictions
    ]
    caption = (
        f"{times.later} models fall below half of their best after the trained iterations, {times.earlier} before. Error: "
        f"median, in octaves. Gain: by how much the error is smaller than that of the {MEDIAN}, on the same models."
    )
    ends = [place for place, one in enumerate(times.predictions) if one.name == MEDIAN]
    return Sheet(
        "The iteration of collapse", ["predicted from", "among", "models", "error", "gain"], rows, caption, ends
    )


def _verdicts(analysis: Analysis) -> list[Sheet]:
    return [
        Sheet(
            f"Outcomes by verdict, {mode}",
            ["verdict", *outcome_columns(counts.values())],
            [
                [verdict, *(str(own.get(outcome, 0)) for outcome in outcome_columns(counts.values()))]
                for verdict, own in sorted(counts.items())
            ],
        )
        for mode, counts in analysis.verdicts.items()
    ]


def _limits(threshold: Threshold | None) -> str:
    return DASH if threshold is None else f"{threshold.holds:.3g} / {threshold.fails:.3g}"


def _thresholds(analysis: Analysis) -> list[Sheet]:
    """Return the thresholds number by number, and how often verdicts come true under priors and under fitted ones."""
    found = analysis.thresholds
    accuracies = [
        [
            one.measure,
            interval(one.prior),
            interval(one.held_out),
            interval(one.gain),
            "yes" if one.why_not is None else one.why_not,
        ]
        for one in found.numbers
    ]
    limits = [
        [one.measure, _limits(PRIORS[one.measure]), _limits(one.fitted), *map(number, one.other_half)]
        for one in found.numbers
    ]
    scores = [
        [one.mode, configurations, one.thresholds, interval(one.balanced), percent(one.decided), percent(one.right)]
        for configurations, group in (("all", found.verdicts), ("second half", found.other_half))
        for one in group
    ]
    counts = [
        Sheet(
            f"Outcomes by verdict, {one.mode}, {one.thresholds}",
            ["verdict", *outcome_columns(one.counts.values())],
            [
                [verdict, *(number(own.get(outcome, 0.0), 1) for outcome in outcome_columns(one.counts.values()))]
                for verdict, own in one.counts.items()
            ],
            "Means over the divisions of the configurations.",
        )
        for one in found.verdicts
        if one.mode == ALL_ITERATIONS and one.thresholds != PRIOR
    ]
    return [
        Sheet(
            "Thresholds fitted on some configurations and tested on others",
            ["number", "prior", "fitted on others", "gain", "accepted, or why not"],
            accuracies,
            "Balanced accuracy for retained accuracy, among models that solve their task and have the number. An undecided "
            "model counts half.",
        ),
        Sheet(
            "Thresholds fitted on half of the configurations",
            ["number", "prior: holds / fails", "fitted: holds / fails", "prior on the other half", "fitted there"],
            limits,
            "The last two columns are balanced accuracies. python -m experiments.prediction evidence writes the accepted "
            f"thresholds where the package reads them, with the origin: half of {found.population}.",
        ),
        Sheet(
            "How often the verdict comes true",
            ["mode", "configurations", "thresholds", "balanced accuracy", "decided %", "right of these %"],
            scores,
            "Among models that solve their task. These verdicts say that accuracy is retained: "
            f"{', '.join(one.value for one in RETAINING)}.",
        ),
        *counts,
    ]


def analysis_tables(analysis: Analysis) -> list[Sheet]:
    """Return everything that an analysis found, as tables."""
    return [
        claims_table(analysis),
        main_results(analysis),
        *outcome_tables(analysis),
        *forecast_tables(analysis),
        *_performances(analysis),
        _against_kinds(analysis),
        _calibration(analysis),
        *([_transfers(analysis)] if analysis.transfers else []),
        _collapse_times(analysis),
        *_verdicts(analysis),
        *_thresholds(analysis),
        *map(recommendation_table, analysis.recommendations),
    ]


def summary(analysis: Analysis) -> str:
    """Return in a few lines which claims of the criterion agree with what was found, and the framework's lead over its rivals."""
    claims = [f"  {one.claim.name}: {judgement_in_words(one)}" for one in analysis.claims]
    leads = [
        f"  {one.name}: {interval(one.lead)}"
        for one in analysis.performances
        if one.lead is not None and one.name in FEATURED
    ]
    lines = [
        f"Claims of the criterion, on {analysis.models} of {MODELS} looped models:",
        *claims,
        *(["Lead of the area under the ROC curve over the best rival that sees as much:", *leads] if leads else []),
    ]
    return "\n".join(lines)


def _counts_row(one: Counts) -> list[str]:
    counts = (one.models, one.solve, one.retain, one.extrapolate)
    return [one.choice, *map(str, counts), percent(one.at_least), percent(one.hard)]


def recommendation_table(found: Recommendation) -> Sheet:
    """Return the recommendation for a task with the counts behind it."""
    groups = {**{f"{name}: ": group for name, group in found.by_choice.items()}, "": found.pairs}
    rows = [[f"{prefix}{row[0]}", *row[1:]] for prefix, group in groups.items() for row in map(_counts_row, group)]
    return Sheet(
        f"{found.task}: design choices that retained their accuracy",
        ["choice", "models", "solve", "retain", "extrapolate", "retain, at least %", "hard %"],
        rows,
        f"{found.sentence} At least: lower end of the 95% interval of the fraction that solves the task and retains its "
        "accuracy.",
        [last - 1 for last in accumulate(map(len, groups.values()))],
    )
