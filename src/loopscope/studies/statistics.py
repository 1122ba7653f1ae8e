"""What forecasts are judged by: ranks, intervals over grid cells, and rules fitted on some cells and tested on others."""

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

FEWEST = 5
"""Fewest models of each outcome (of all, for a rank correlation or an error) for a number to be given."""
FOLDS = 5
"""Parts that the cells are divided into: each is tested by a rule fitted on the others."""


@dataclass(frozen=True)
class Estimate:
    """A number, and what it stands on.

    Args:
        value: None where too few models have the outcome; ``note`` then says how many.
        low: lower end of its 95% interval over resampled cells; None where it has none.
        high: the upper end.
        models: how many models it stands on.
        note: why there is no value.
    """

    value: float | None
    low: float | None
    high: float | None
    models: int
    note: str | None = None


def too_few(counts: str, models: int) -> Estimate:
    """Return the estimate that is none, such as "too few: 3 hold"."""
    return Estimate(None, None, None, models, f"too few: {counts}")


def enough(holds: Bool[np.ndarray, "models"]) -> bool:
    """Return whether there are enough models of each outcome for a number to be given."""
    return min(int(holds.sum()), int((~holds).sum())) >= FEWEST


def in_numbers(holds: Bool[np.ndarray, "models"]) -> str:
    """Return how many models have each outcome, such as "6 hold, 5 do not"."""
    return f"{int(holds.sum())} hold, {int((~holds).sum())} do not"


def spearman(first: Float[np.ndarray, "models"], second: Float[np.ndarray, "models"]) -> float:
    """Return Spearman's rank correlation; NaN where one of the two does not vary."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def middle_known(values: Iterable[float | None]) -> float | None:
    """Return the median of the numbers that are known; None where none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def numbered(cells: Sequence[str]) -> Int[np.ndarray, "models"]:
    """Return cells as numbers, in order of appearance."""
    numbers = {cell: number for number, cell in enumerate(dict.fromkeys(cells))}
    return np.array([numbers[cell] for cell in cells], dtype=np.int64)


def estimate(statistic: Statistic, cells: Int[np.ndarray, "models"]) -> Estimate:
    """Return a statistic of all models with its interval over cells."""
    value = statistic(np.arange(len(cells)))
    if not np.isfinite(value):
        return Estimate(None, None, None, len(cells), "does not vary")
    low, high = interval(statistic, cells)
    return Estimate(value, low, high, len(cells))


def estimate_auc(
    scores: Float[np.ndarray, "models"], positive: Bool[np.ndarray, "models"], cells: Int[np.ndarray, "models"]
) -> Estimate:
    """Return the area under the curve with its interval, where enough models have either outcome."""
    if not enough(positive):
        return too_few(in_numbers(positive), len(positive))
    return estimate(lambda chosen: auc(scores[chosen], positive[chosen]), cells)


def estimate_spearman(
    first: Float[np.ndarray, "models"], second: Float[np.ndarray, "models"], cells: Int[np.ndarray, "models"]
) -> Estimate:
    """Return the rank correlation with its interval, where there are enough models."""
    if len(first) < FEWEST:
        return too_few(f"{len(first)} models", len(first))
    return estimate(lambda chosen: spearman(first[chosen], second[chosen]), cells)


def estimate_ahead(
    ours: Float[np.ndarray, "models"],
    theirs: Float[np.ndarray, "models"],
    positive: Bool[np.ndarray, "models"],
    cells: Int[np.ndarray, "models"],
) -> Estimate:
    """Return by how much our area is larger than theirs, on the same models and the same resamplings."""
    enough = estimate_auc(ours, positive, cells)
    if enough.value is None:
        return enough
    return estimate(lambda chosen: auc(ours[chosen], positive[chosen]) - auc(theirs[chosen], positive[chosen]), cells)


@dataclass(frozen=True)
class Bin:
    """Models whose forecast probability lies in a range.

    Args:
        low: its lower end.
        high: its upper end.
        models: how many.
        forecast: their mean probability of holding; None where there is no model.
        held: the fraction that did.
    """

    low: float
    high: float
    models: int
    forecast: float | None
    held: float | None


def reliability(
    probability: Float[np.ndarray, "models"], positive: Bool[np.ndarray, "models"], bins: int = 5
) -> list[Bin]:
    """Return forecast against observed frequency, in bins of equal width."""
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
                float(positive[within].mean()) if some else None,
            )
        )
    return found


def classifier() -> Any:
    """Return the rule that turns several numbers into a probability: logistic regression on standardized numbers.

    What is not known takes the median of the models fitted on, and that it is not known is a number too.
    """
    return _pipeline("LogisticRegression")


def regressor() -> Any:
    """Return the rule that turns several numbers into one: ridge regression, with numbers treated likewise."""
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
    labels: Int[np.ndarray, "models"], cells: Int[np.ndarray, "models"], seed: int = 0
) -> list[Int[np.ndarray, "_"]]:
    """Return the models of each part of the cells, in which labels are shared out as evenly as whole cells allow."""
    from sklearn.model_selection import StratifiedGroupKFold

    parts = min(FOLDS, len(np.unique(cells)), int(np.bincount(labels)[np.unique(labels)].min()))
    if parts < 2:
        return []
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    return [tested for _, tested in splitter.split(np.zeros(len(labels)), labels, cells)]


def cross_fit(
    fit: Callable[
        [Int[np.ndarray, "fitted"]], Callable[[Int[np.ndarray, "tested"]], Float[np.ndarray, "tested"]] | None
    ],
    parts: Sequence[Int[np.ndarray, "_"]],
    models: int,
) -> Float[np.ndarray, "models"]:
    """Return for each model what a rule says that was fitted without its cell; NaN where none could be fitted.

    Args:
        fit: makes, of the models at some places, a rule for those at others; None where they do not suffice.
        parts: the models of each part, none in two.
        models: how many models there are.
    """
    said = np.full(models, np.nan)
    for tested in parts:
        rule = fit(np.setdiff1d(np.arange(models), tested))
        if rule is not None:
            said[tested] = rule(tested)
    return said
