"""The analysis of a population: what its models did, and what was forecast of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.prediction.analysis.breakdowns import Group, breakdowns
from experiments.prediction.analysis.collapse_times import CollapseTimes, collapse_times
from experiments.prediction.analysis.configurations import (
    ConfigurationRow,
    ModelRow,
    configuration_rows,
    model_rows,
)
from experiments.prediction.analysis.costs import Cost, costs
from experiments.prediction.analysis.fluctuations import Fluctuation, fluctuations
from experiments.prediction.analysis.forecasts import ForecastStudy, study_forecasts
from experiments.prediction.analysis.judgement import Judgement, judge_claims
from experiments.prediction.analysis.kinds import AgainstKind, against_kinds
from experiments.prediction.analysis.outcomes import Outcome, Sample, counts_by_outcome, results_of
from experiments.prediction.analysis.performance import (
    Forecasts,
    Performance,
    Transfer,
    calibration,
    forecasts_of,
    head_to_head,
    performances,
    sample_of,
    transfers,
)
from experiments.prediction.analysis.predictors import ALL_AXES, ALL_RIVALS, RESTARTS
from experiments.prediction.analysis.recommendations import Recommendation, recommendations
from experiments.prediction.analysis.single_signals import SingleSignal, single_signals
from experiments.prediction.analysis.statistics import Bin
from experiments.prediction.analysis.thresholds import ThresholdStudy, study_thresholds
from experiments.prediction.analysis.verdicts import ALL_ITERATIONS, examinations, verdict_counts
from experiments.prediction.population import Member
from experiments.prediction.signals import AT_BUDGET, FORECAST_KEPT, SAME_STEPS, STATE_RADIUS

FEATURED = (ALL_AXES, f"{RESTARTS}{AT_BUDGET}", FORECAST_KEPT)
"""The predictors that represent the framework in figures and in the summary: all of it, its cheap part, and the forecast."""


COMPARED = (ALL_AXES, ALL_RIVALS, FORECAST_KEPT, SAME_STEPS)
"""The predictors that are compared with the rate of the same kind: the framework's and their rivals."""


@dataclass(frozen=True)
class Point:
    """One model in the figures: what was forecast of it and what it did.

    Args:
        run: name of the run.
        task: the task.
        outcome: the outcome.
        forecasts: probability of retained accuracy by each predictor in ``FEATURED``, fitted on other configurations;
            None if the model does not solve its task or there is no forecast.
        retained: easy accuracy at the last iteration over its best.
        hard: hard accuracy at the last iteration.
        state_radius: spectral radius of W_state; None without recall.
    """

    run: str
    task: str
    outcome: Outcome
    forecasts: dict[str, float | None]
    retained: float | None
    hard: float | None
    state_radius: float | None


@dataclass(frozen=True)
class Analysis:
    """What a population says.

    Args:
        claims: the claims of the criterion, judged.
        models: number of looped models.
        configurations: number of their configurations.
        outcomes: number of looped models by task and outcome.
        breakdowns: outcomes and mean accuracies by task and design choice.
        performances: every predictor.
        against_kinds: the predictors in ``COMPARED`` against the rate of the same kind.
        calibration: predicted against observed frequency, for each predictor in ``FEATURED``.
        source: the task on which rules for other tasks are fitted.
        transfers: every predictor on every other task.
        collapse_times: predictions of the iteration of collapse.
        verdicts: number of models by mode, verdict and outcome.
        thresholds: what the models say about thresholds.
        forecasts: forecasts of models against what they did.
        costs: cost of predictors by task.
        single_signals: every measurement on its own.
        fluctuations: models that retain their accuracy only at the last iteration.
        configuration_rows: the paper's tables.
        model_rows: the models of tasks whose models were trained with different numbers of iterations.
        points: every model that was evaluated.
        recommendations: design choices that retained their accuracy, by task.
    """

    claims: list[Judgement]
    models: int
    configurations: int
    outcomes: dict[str, dict[str, int]]
    breakdowns: dict[str, dict[str, list[Group]]]
    performances: list[Performance]
    against_kinds: list[AgainstKind]
    calibration: dict[str, list[Bin]]
    source: str
    transfers: list[Transfer]
    collapse_times: CollapseTimes
    verdicts: dict[str, dict[str, dict[str, int]]]
    thresholds: ThresholdStudy
    forecasts: ForecastStudy
    costs: list[Cost]
    single_signals: list[SingleSignal]
    fluctuations: list[Fluctuation]
    configuration_rows: list[ConfigurationRow]
    model_rows: list[ModelRow]
    points: list[Point]
    recommendations: list[Recommendation]


def analyse(members: Sequence[Member]) -> Analysis:
    """Return what a population says about the framework's forecasts and those of rival signals.

    Baselines of fixed depth appear only in the breakdowns and in the paper's tables.

    Raises:
        LoopscopeError: no model was both evaluated and examined, or scikit-learn is not installed.
    """
    everything, all_results = members, results_of(members)
    members = [member for member in everything if member.looped]
    results = results_of(members)
    sample = sample_of(members, results)
    forecasts = forecasts_of(sample)
    source, transferred = transfers(sample, forecasts.values)
    of_forecasts, thresholds = study_forecasts(members, results), thresholds_of(sample)
    axes = head_to_head(sample, forecasts.scores, ALL_AXES, ALL_RIVALS)
    return Analysis(
        claims=judge_claims(of_forecasts, axes, thresholds.verdict_by_the_rule(ALL_ITERATIONS)),
        models=len(members),
        configurations=len({member.configuration for member in members}),
        outcomes=counts_by_outcome(zip((member.task for member in members), results, strict=True)),
        breakdowns=breakdowns(everything, all_results),
        performances=performances(sample, forecasts),
        against_kinds=against_kinds(sample, forecasts.scores, COMPARED),
        calibration={name: calibration(sample, forecasts.probabilities[name]) for name in FEATURED},
        source=source,
        transfers=transferred,
        collapse_times=collapse_times(sample, forecasts.values),
        verdicts=verdict_counts(members, results),
        thresholds=thresholds,
        forecasts=of_forecasts,
        costs=costs(sample.members),
        single_signals=single_signals(sample),
        fluctuations=fluctuations(members, results),
        configuration_rows=configuration_rows(everything, all_results),
        model_rows=model_rows(members, results),
        points=_points(sample, forecasts),
        recommendations=recommendations(members),
    )


def thresholds_of(sample: Sample) -> ThresholdStudy:
    """Return what models say about the thresholds of an examination over all iterations."""
    modes = [examinations(member) for member in sample.members]
    return study_thresholds(sample, {mode: [one[mode] for one in modes] for mode in modes[0]}, ALL_ITERATIONS)


def _points(sample: Sample, forecasts: Forecasts) -> list[Point]:
    def probability(name: str, place: int) -> float | None:
        value = float(forecasts.probabilities[name][place])
        return value if sample.results[place].solves and math.isfinite(value) else None

    return [
        Point(
            member.run,
            member.task,
            result.outcome,
            {name: probability(name, place) for name in FEATURED},
            result.retained,
            result.hard,
            member.signal(STATE_RADIUS),
        )
        for place, (member, result) in enumerate(zip(sample.members, sample.results, strict=True))
    ]
