"""Statistics that forecasts are judged by: rank statistics with intervals, and rules that are tested on held-out models.

Models of one configuration are not independent. Intervals resample whole configurations, and rules are tested on models of
configurations that they were not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from loopscope.errors import LoopscopeError
from loopscope.metrics import Statistic, auc, interval

MIN_MODELS = 5
"""Smallest number of models of each kind (or of all, for a correlation or an error) for which a statistic is reported, and of
all for which a claim about a share is judged."""
FOLDS = 5
"""Number of parts that the configurations are divided into. Each part is tested by a rule fitted on the others."""


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval.

    Args:
        value: None if there are too few models, in which case ``note`` says how many.
        low: lower end of the 95% interval over resampled configurations; None if it has no interval.
        high: upper end.
        models: number of models.
        note: why there is no value.
    """

    value: float | None
    low: float | None
    high: float | None
    models: int
    note: str | None = None


@dataclass(frozen=True)
class Share:
    """A count out of a total, with the 95% Wilson interval of its share.

    Args:
        count: the count. It is not whole if it is a mean over divisions; the interval is then that of the nearest whole one.
        total: the total, likewise.
        low: lower end of the interval; None if there is nothing to count.
        high: upper end; None likewise.
    """

    count: float
    total: float
    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        """The share; None if there is nothing to count."""
        return self.count / self.total if self.total else None


def share(count: float, total: float) -> Share:
    """Return a count out of a total with its interval."""
    if not round(total):
        return Share(count, total, None, None)
    found = stats.binomtest(round(count), round(total)).proportion_ci(method="wilson")
    return Share(count, total, float(found.low), float(found.high))


def share_of(marks: Iterable[bool]) -> Share:
    """Return how many of some marks are set."""
    known = list(marks)
    return share(sum(known), len(known))


def too_few(counts: str, models: int) -> Estimate:
    """Return an estimate without a value, with a note such as "too few: 3 retain"."""
    return Estimate(None, None, None, models, f"too few: {counts}")


def enough(retains: Bool[np.ndarray, "models"]) -> bool:
    """Return whether enough models retain their accuracy and enough do not for a statistic to be reported."""
    return min(int(retains.sum()), int((~retains).sum())) >= MIN_MODELS


def counts_of(retains: Bool[np.ndarray, "models"]) -> str:
    """Return how many models retain their accuracy and how many do not, such as "6 retain, 5 do not"."""
    return f"{int(retains.sum())} retain, {int((~retains).sum())} do not"


def spearman(first: Float[np.ndarray, "models"], second: Float[np.ndarray, "models"]) -> float:
    """Return Spearman's rank correlation; NaN if one of the two does not vary.

    An interval needs a thousand of them, and SciPy's takes three times as long, because it finds a probability too.
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    one, other = (ranks - ranks.mean() for ranks in map(_ranks, (first, second)))
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def _ranks(values: Float[np.ndarray, "models"]) -> Float[np.ndarray, "models"]:
    """Return ranks. Equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def known_median(values: Iterable[float | None]) -> float | None:
    """Return the median of the numbers that are known; None if none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def numbered(names: Sequence[str]) -> Int[np.ndarray, "models"]:
    """Return the number of each name, in order of appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def estimate(statistic: Statistic, groups: Int[np.ndarray, "models"]) -> Estimate:
    """Return a statistic of all models with its interval, which resamples whole groups of models."""
    value = statistic(np.arange(len(groups)))
    if not np.isfinite(value):
        return Estimate(None, None, None, len(groups), "does not vary")
    low, high = interval(statistic, groups)
    return Estimate(value, low, high, len(groups))


def estimate_auc(
    scores: Float[np.ndarray, "models"], retains: Bool[np.ndarray, "models"], groups: Int[np.ndarray, "models"]
) -> Estimate:
    """Return the area under the ROC curve with its interval, if there are enough models of each kind."""
    if not enough(retains):
        return too_few(counts_of(retains), len(retains))
    return estimate(lambda chosen: auc(scores[chosen], retains[chosen]), groups)


def estimate_spearman(
    first: Float[np.ndarray, "models"], second: Float[np.ndarray, "models"], groups: Int[np.ndarray, "models"]
) -> Estimate:
    """Return the rank correlation with its interval, if there are enough models."""
    if len(first) < MIN_MODELS:
        return too_few(f"{len(first)} models", len(first))
    return estimate(lambda chosen: spearman(first[chosen], second[chosen]), groups)


def estimate_lead(
    ours: Float[np.ndarray, "models"],
    theirs: Float[np.ndarray, "models"],
    retains: Bool[np.ndarray, "models"],
    groups: Int[np.ndarray, "models"],
) -> Estimate:
    """Return by how much our area exceeds theirs, on the same models and the same resamples."""
    area = estimate_auc(ours, retains, groups)
    if area.value is None:
        return area
    return estimate(lambda chosen: auc(ours[chosen], retains[chosen]) - auc(theirs[chosen], retains[chosen]), groups)


@dataclass(frozen=True)
class Bin:
    """Models whose predicted probability lies in a range.

    Args:
        low: lower end of the range.
        high: upper end of the range.
        models: number of models.
        predicted: mean predicted probability that a model retains its accuracy; None if there is no model.
        observed: fraction of the models that do; None likewise.
    """

    low: float
    high: float
    models: int
    predicted: float | None
    observed: float | None


def reliability(
    probability: Float[np.ndarray, "models"], retains: Bool[np.ndarray, "models"], bins: int = 5
) -> list[Bin]:
    """Return predicted against observed frequency, in bins of equal width."""
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.digitize(probability, edges) - 1, 0, bins - 1)
    found = []
    for place in range(bins):
        within = places == place
        some = bool(within.any())
        found.append(
            Bin(
                float(edges[place]),
                float(edges[place + 1]),
                int(within.sum()),
                float(probability[within].mean()) if some else None,
                float(retains[within].mean()) if some else None,
            )
        )
    return found


def classifier() -> Any:
    """Return the rule that turns several numbers into a probability: logistic regression on standardized numbers.

    A missing number is replaced by the median over the models that the rule is fitted on, and an indicator that it is
    missing is added.
    """
    return _pipeline("LogisticRegression")


def regressor() -> Any:
    """Return the rule that turns several numbers into one: ridge regression on numbers that are prepared likewise."""
    return _pipeline("Ridge")


def _pipeline(rule: str) -> Any:
    try:
        from sklearn import linear_model
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise LoopscopeError(
            'the analysis fits rules with scikit-learn, which is not installed: pip install "loopscope[analysis]"'
        ) from error
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(imputer, StandardScaler(), getattr(linear_model, rule)())


def folds(
    labels: Int[np.ndarray, "models"], groups: Int[np.ndarray, "models"], seed: int = 0
) -> list[Int[np.ndarray, "_"]]:
    """Divide models into parts of whole groups, with labels distributed as evenly as whole groups allow."""
    from sklearn.model_selection import StratifiedGroupKFold

    parts = min(FOLDS, len(np.unique(groups)), int(np.bincount(labels)[np.unique(labels)].min()))
    if parts < 2:
        return []
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    return [tested for _, tested in splitter.split(np.zeros(len(labels)), labels, groups)]


def cross_fit(
    fit: Callable[
        [Int[np.ndarray, "fitted"]], Callable[[Int[np.ndarray, "tested"]], Float[np.ndarray, "tested"]] | None
    ],
    parts: Sequence[Int[np.ndarray, "_"]],
    models: int,
) -> Float[np.ndarray, "models"]:
    """Return the prediction for each model by a rule that was fitted without its part; NaN if none could be fitted.

    Args:
        fit: fits a rule on the models at some places; returns None if they do not suffice.
        parts: the models of each part. No model is in two parts.
        models: number of models.
    """
    predicted = np.full(models, np.nan)
    for tested in parts:
        rule = fit(np.setdiff1d(np.arange(models), tested))
        if rule is not None:
            predicted[tested] = rule(tested)
    return predicted
