"""Does a score tell two outcomes apart? The area under the ROC curve, and intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

SAMPLES = 1000
"""Resamplings of the cells for an interval."""
LEVELS = (2.5, 97.5)
"""Percentiles that bound an interval."""

Statistic = Callable[[Int[np.ndarray, "chosen"]], float]


def auc(scores: Float[np.ndarray, "cases"], positive: Bool[np.ndarray, "cases"]) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative, ties by half.

    NaN where one of the two is missing.
    """
    count = int(positive.sum())
    pairs = count * (len(positive) - count)
    if not pairs:
        return float("nan")
    return float((stats.rankdata(scores)[positive].sum() - count * (count + 1) / 2) / pairs)


def interval(
    statistic: Statistic, cells: Int[np.ndarray, "cases"], samples: int = SAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """Return a 95% percentile interval by resampling whole cells, whose members are no independent evidence.

    Resamplings for which the statistic is not a number (one outcome missing) are left out; without at least half of
    them there is no interval.

    Args:
        statistic: of the cases at the given places, which may repeat.
        cells: each case's cell; a number of its own where cases are independent.
        samples: resamplings.
        seed: of the resampling.
    """
    groups = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        chosen = generator.integers(len(groups), size=len(groups))
        found.append(statistic(np.concatenate([groups[place] for place in chosen])))
    known = np.array([value for value in found if np.isfinite(value)])
    if 2 * len(known) < samples:
        return None, None
    low, high = np.percentile(known, LEVELS)
    return float(low), float(high)
