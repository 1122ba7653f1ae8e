"""How well predictors forecast: areas under the ROC curve, correlations, calibration, and transfer between tasks.

Rules are fitted on models that solve their task, in some configurations, and tested on the models of all other
configurations, so that another seed of the same configuration cannot help a forecast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.prediction.analysis.outcomes import Result, Sample
from experiments.prediction.analysis.predictors import PREDICTORS, RIVALS, Predictor
from experiments.prediction.analysis.statistics import (
    Bin,
    Estimate,
    classifier,
    counts_of,
    cross_fit,
    enough,
    estimate,
    estimate_auc,
    estimate_lead,
    estimate_spearman,
    folds,
    known_median,
    numbered,
    reliability,
    too_few,
)
from experiments.prediction.population import Member
from experiments.prediction.signals import LONG_RUN
from loopscope.errors import LoopscopeError
from loopscope.metrics import auc

DIVISIONS = 10
"""Number of ways to divide the configurations into parts. With a single one, areas vary by 0.03 by chance."""


@dataclass(frozen=True)
class Performance:
    """How well a predictor forecasts.

    Args:
        name: name of the predictor.
        kind: framework or rival.
        area: area under the ROC curve for retained accuracy, among models that solve their task.
        hard: rank correlation with hard accuracy at the last iteration, over all models that were evaluated.
        brier: Brier score of the probability by a rule fitted on other configurations. A coin has 0.25.
        seconds: median time for a model; None if it was not measured.
        share: median of that time over the time of running the same problems on; None likewise.
        lead: for a predictor of the framework, by how much its area exceeds that of ``rival``; None if there is none.
        rival: the rival that sees as much and has the largest area on the models that both know; None likewise.
    """

    name: str
    kind: str
    area: Estimate
    hard: Estimate
    brier: Estimate
    seconds: float | None
    share: float | None
    lead: Estimate | None = None
    rival: str | None = None


@dataclass(frozen=True)
class HeadToHead:
    """Two predictors compared on the models that both know and that solve their task.

    Args:
        ours: area under the ROC curve of the first.
        theirs: area of the second.
        lead: by how much the first exceeds the second, on the same resamples.
    """

    ours: Estimate
    theirs: Estimate
    lead: Estimate


@dataclass(frozen=True)
class Transfer:
    """How well a rule that is fitted on one task forecasts the models of another.

    Args:
        name: name of the predictor.
        task: the task that it is tested on.
        area: area under the ROC curve there.
    """

    name: str
    task: str
    area: Estimate


@dataclass(frozen=True)
class Forecasts:
    """The forecasts of all predictors, by their names.

    Args:
        values: the numbers of each predictor, NaN for a number that is not known.
        probabilities: probability that a model retains its accuracy, by rules fitted on other configurations.
        scores: the number that models are ranked by: a predictor's own if it has one, else the probability.
    """

    values: Mapping[str, Float[np.ndarray, "models _"]]
    probabilities: Mapping[str, Float[np.ndarray, "models"]]
    scores: Mapping[str, Float[np.ndarray, "models"]]


def sample_of(members: Sequence[Member], results: Sequence[Result]) -> Sample:
    """Return the models that were both evaluated and examined in prediction mode, with divisions for fitting.

    Raises:
        LoopscopeError: there is no such model.
    """
    pairs = [
        pair for pair in zip(members, results, strict=True) if pair[1].easy is not None and pair[0].prediction_mode
    ]
    if not pairs:
        raise LoopscopeError("no model of the population was both evaluated and examined: nothing can be compared")
    kept, ends = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    configurations = numbered([member.configuration for member in kept])
    retains = np.array([result.retains for result in ends])
    divisions = [folds(retains.astype(int), configurations, seed) for seed in range(DIVISIONS)]
    return Sample(kept, ends, configurations, divisions)


def forecasts_of(sample: Sample) -> Forecasts:
    """Return the forecasts of all predictors."""
    values = {predictor.name: _numbers(sample, predictor) for predictor in PREDICTORS}
    probabilities = {name: _probability(sample, numbers) for name, numbers in values.items()}
    scores = {name: numbers[:, 0] if numbers.shape[1] == 1 else probabilities[name] for name, numbers in values.items()}
    return Forecasts(values, probabilities, scores)


def _numbers(sample: Sample, predictor: Predictor) -> Float[np.ndarray, "models numbers"]:
    rows = [predictor.numbers(member) for member in sample.members]
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)


def _fitted(
    values: Float[np.ndarray, "models numbers"], sample: Sample, fitted: Int[np.ndarray, "fitted"]
) -> Callable[[Int[np.ndarray, "tested"]], Float[np.ndarray, "tested"]] | None:
    """Fit a rule for the probability of retained accuracy; return None if there are too few models.

    It is fitted on those of the given models that solve their task and for which a number is known.
    """
    retains = sample.retains
    fitted = fitted[sample.solves[fitted] & ~np.isnan(values[fitted]).all(1)]
    if min(retains[fitted].sum(), (~retains[fitted]).sum()) < 2:
        return None
    rule = classifier().fit(values[fitted], retains[fitted])
    return lambda tested: rule.predict_proba(values[tested])[:, 1]


def _probability(sample: Sample, values: Float[np.ndarray, "models numbers"]) -> Float[np.ndarray, "models"]:
    """Return the probability that each model retains its accuracy: the mean over the divisions."""
    predicted = [
        cross_fit(lambda fitted: _fitted(values, sample, fitted), parts, len(sample.members))
        for parts in sample.divisions
    ]
    return _where_known(values, np.mean(predicted, axis=0))


def _where_known(values: Float[np.ndarray, "models numbers"], predicted: Float[np.ndarray, "models"]) -> np.ndarray:
    """Return predictions, with NaN for a model of which no number is known: medians say nothing about it."""
    return np.where(np.isnan(values).all(1), np.nan, predicted)


def performances(sample: Sample, forecasts: Forecasts) -> list[Performance]:
    """Return how well each predictor forecasts, and the framework's lead over its best rival."""
    return [
        _with_lead(sample, _performance(sample, predictor, forecasts), predictor, forecasts.scores)
        for predictor in PREDICTORS
    ]


def _performance(sample: Sample, predictor: Predictor, forecasts: Forecasts) -> Performance:
    scores = forecasts.scores[predictor.name]
    known = np.isfinite(scores)
    solving = known & sample.solves
    hard = np.array([result.hard for result in sample.results], dtype=float)
    return Performance(
        predictor.name,
        predictor.kind,
        estimate_auc(scores[solving], sample.retains[solving], sample.configurations[solving]),
        estimate_spearman(scores[known], hard[known], sample.configurations[known]),
        _brier(sample, forecasts.probabilities[predictor.name]),
        known_median(map(predictor.seconds, sample.members)),
        known_median(map(predictor.share, sample.members)),
    )


def _brier(sample: Sample, probability: Float[np.ndarray, "models"]) -> Estimate:
    known = sample.solves & np.isfinite(probability)
    retains = sample.retains[known]
    if not enough(retains):
        return too_few(counts_of(retains), int(known.sum()))
    squares = (probability[known] - retains) ** 2
    return estimate(lambda chosen: float(squares[chosen].mean()), sample.configurations[known])


def calibration(sample: Sample, probability: Float[np.ndarray, "models"]) -> list[Bin]:
    """Return predicted against observed frequency of retained accuracy, among models that solve their task."""
    known = sample.solves & np.isfinite(probability)
    return reliability(probability[known], sample.retains[known])


def _both_known(sample: Sample, ours: np.ndarray, theirs: np.ndarray) -> Bool[np.ndarray, "models"]:
    return sample.solves & np.isfinite(ours) & np.isfinite(theirs)


def _best_rival(sample: Sample, predictor: Predictor, scores: Mapping[str, np.ndarray]) -> str | None:
    """Return the rival of largest area that sees as much, each on the models that both know.

    Running on to the end is not one of these rivals.
    """
    areas = {}
    for rival in RIVALS:
        if rival.at != predictor.at or rival.name == LONG_RUN:
            continue
        both = _both_known(sample, scores[predictor.name], scores[rival.name])
        if enough(sample.retains[both]):
            areas[rival.name] = auc(scores[rival.name][both], sample.retains[both])
    return max(areas, key=areas.__getitem__, default=None)


def _with_lead(
    sample: Sample, performance: Performance, predictor: Predictor, scores: Mapping[str, np.ndarray]
) -> Performance:
    rival = _best_rival(sample, predictor, scores) if predictor.kind == "framework" else None
    if rival is None:
        return performance
    return replace(performance, lead=_lead(sample, scores[predictor.name], scores[rival]), rival=rival)


def _lead(sample: Sample, ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    both = _both_known(sample, ours, theirs)
    return estimate_lead(ours[both], theirs[both], sample.retains[both], sample.configurations[both])


def head_to_head(sample: Sample, scores: Mapping[str, np.ndarray], ours: str, theirs: str) -> HeadToHead:
    """Compare two predictors, given by their names, on the models that both know."""
    both = _both_known(sample, scores[ours], scores[theirs])
    retains, groups = sample.retains[both], sample.configurations[both]
    first, second = scores[ours][both], scores[theirs][both]
    return HeadToHead(
        estimate_auc(first, retains, groups),
        estimate_auc(second, retains, groups),
        _lead(sample, scores[ours], scores[theirs]),
    )


def transfers(sample: Sample, values: Mapping[str, np.ndarray]) -> tuple[str, list[Transfer]]:
    """Fit rules on the task with most models and test them on every other task; return that task and the results."""
    tasks = np.array([member.task for member in sample.members])
    source = Counter(tasks.tolist()).most_common(1)[0][0]
    home = np.flatnonzero(tasks == source)
    found = []
    for task in dict.fromkeys(tasks.tolist()):
        if task == source:
            continue
        there = np.flatnonzero((tasks == task) & sample.solves)
        for name, numbers in values.items():
            scores = numbers[there, 0]
            if numbers.shape[1] > 1:
                rule = _fitted(numbers, sample, home)
                if rule is None or not len(there):
                    area = too_few(f"models of {source} to fit on, or of {task}", len(there))
                    found.append(Transfer(name, task, area))
                    continue
                scores = _where_known(numbers[there], rule(there))
            known = np.isfinite(scores)
            tested = there[known]
            area = estimate_auc(scores[known], sample.retains[tested], sample.configurations[tested])
            found.append(Transfer(name, task, area))
    return source, found
