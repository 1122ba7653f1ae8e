"""Predictions of the iteration at which accuracy collapses, compared to the median over other models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from experiments.prediction.analysis.forecasts import answer_of, horizon_of
from experiments.prediction.analysis.outcomes import Sample
from experiments.prediction.analysis.predictors import ALL_AXES, ALL_RIVALS, RESTARTS
from experiments.prediction.analysis.statistics import (
    FOLDS,
    MIN_MODELS,
    Estimate,
    cross_fit,
    estimate,
    regressor,
    too_few,
)
from experiments.prediction.population import Member
from experiments.prediction.signals import AT_BUDGET, FORECAST_COLLAPSE
from loopscope.forecasts.result import Outlook

REGRESSED = (ALL_AXES, RESTARTS, f"{RESTARTS}{AT_BUDGET}", ALL_RIVALS, f"{ALL_RIVALS}{AT_BUDGET}")
"""The predictors from whose numbers the iteration is predicted by regression."""
MEDIAN = "median of the others"
ALL = "all"
"""The models of all tasks."""


@dataclass(frozen=True)
class CollapseTime:
    """How well the iteration of collapse is predicted.

    Args:
        name: what it is predicted from.
        among: the models: all, those of a task, or all but those of a task. Rules are fitted on these alone.
        error: median error of the predicted iteration in octaves, as |log2| of the ratio.
        gain: how much smaller the error is than that of the median over the other models, on the same models.
    """

    name: str
    among: str
    error: Estimate
    gain: Estimate


@dataclass(frozen=True)
class CollapseTimes:
    """All predictions of the iteration of collapse.

    Args:
        predictions: the predictions.
        later: number of models that collapse after the trained iterations, on which predictions are tested.
        earlier: number of models that collapse before.
    """

    predictions: list[CollapseTime]
    later: int
    earlier: int


def collapse_times(sample: Sample, values: Mapping[str, Float[np.ndarray, "models _"]]) -> CollapseTimes:
    """Predict when models collapse after the iterations of training, from models of other configurations.

    The models are all, those of each task, and all but those of each task, where there are at least ``MIN_MODELS``.

    Args:
        sample: the models.
        values: numbers of each model, at least for the predictors in ``REGRESSED``.
    """
    falls = [(place, result.collapse) for place, result in enumerate(sample.results) if result.collapse is not None]
    later = [(place, at) for place, at in falls if at > sample.members[place].trained_iterations]
    tasks = list(dict.fromkeys(sample.members[place].task for place, _ in later))
    groups = {ALL: later}
    if len(tasks) > 1:
        groups |= {task: [one for one in later if sample.members[one[0]].task == task] for task in tasks}
    if len(tasks) > 2:  # of two tasks, each is all but the other
        groups |= {f"{ALL} but {task}": [one for one in later if one not in groups[task]] for task in tasks}
    found = [
        prediction
        for among, group in groups.items()
        if among == ALL or len(group) >= MIN_MODELS
        for prediction in _predictions(sample, values, group, among)
    ]
    return CollapseTimes(found, len(later), len(falls) - len(later))


def _predictions(
    sample: Sample, values: Mapping[str, Float[np.ndarray, "models _"]], falls: Sequence[tuple[int, int]], among: str
) -> list[CollapseTime]:
    """Return every prediction for some models.

    Args:
        sample: all models.
        values: numbers of all models.
        falls: place of each of these models, and the iteration of its collapse.
        among: name of these models.
    """
    places = np.array([place for place, _ in falls], dtype=np.int64)
    octave = np.log2(np.array([at for _, at in falls], dtype=float))
    configurations = sample.configurations[places]
    parts = _parts(configurations)

    def constant(fitted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        own = float(np.median(octave[fitted]))
        return lambda tested: np.full(len(tested), own)

    def ridge(numbers: np.ndarray) -> np.ndarray:
        def fit(fitted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            rule = regressor().fit(numbers[fitted], octave[fitted])
            return lambda tested: rule.predict(numbers[tested])

        return cross_fit(fit, parts, len(places))

    median = cross_fit(constant, parts, len(places))
    predicted = {name: ridge(values[name][places]) for name in REGRESSED}
    predicted[FORECAST_COLLAPSE] = np.array([_forecast_octave(sample.members[place]) for place in places])
    predicted[MEDIAN] = median
    errors = {name: np.abs(one - octave) for name, one in predicted.items()}
    return [_prediction(name, among, own, errors[MEDIAN], configurations) for name, own in errors.items()]


def _prediction(
    name: str, among: str, errors: np.ndarray, of_median: np.ndarray, configurations: np.ndarray
) -> CollapseTime:
    known = np.isfinite(errors) & np.isfinite(of_median)
    count = int(known.sum())
    if count < MIN_MODELS:
        none = too_few(f"{count} collapse", count)
        return CollapseTime(name, among, none, none)
    own, other = errors[known], of_median[known]
    return CollapseTime(
        name,
        among,
        estimate(lambda chosen: float(np.median(own[chosen])), configurations[known]),
        estimate(lambda chosen: float(np.median(other[chosen]) - np.median(own[chosen])), configurations[known]),
    )


def _forecast_octave(member: Member) -> float:
    """Return log2 of the iteration at which the forecast sees half of the accuracy lost, or of its horizon if it sees less lost.

    NaN if the forecast does not say that the model collapses.
    """
    if answer_of(member) is not Outlook.COLLAPSES:
        return math.nan
    return math.log2(member.signal(FORECAST_COLLAPSE) or horizon_of(member))


def _parts(configurations: Int[np.ndarray, "models"]) -> list[np.ndarray]:
    """Divide models into parts, whose configurations are taken in turn."""
    distinct = np.unique(configurations)
    parts = min(FOLDS, len(distinct))
    if parts < 2:
        return []
    return [np.flatnonzero(np.isin(configurations, distinct[part::parts])) for part in range(parts)]
