"""Metrics of scores: the area under the ROC curve, risk against coverage, and intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.errors import LoopscopeError

SAMPLES = 1000
"""Number of bootstrap samples for an interval."""
LEVELS = (2.5, 97.5)
"""Percentiles that bound an interval."""
MIN_PER_GROUP = 5
"""Smallest number of right answers and of wrong answers for which an interval is given."""

Statistic = Callable[[Int[np.ndarray, "chosen"]], float]


def auc(scores: Float[np.ndarray, "cases"], positive: Bool[np.ndarray, "cases"]) -> float:
    """Return the area under the ROC curve: the probability that a positive scores above a negative.

    Ties count one half. The area is NaN if all cases are positive or all negative, or if a score is NaN.
    """
    chosen, others = scores[positive], np.sort(scores[~positive])
    pairs = len(chosen) * len(others)
    if not pairs or bool(np.isnan(scores).any()):
        return float("nan")
    below = others.searchsorted(chosen, "left") + others.searchsorted(chosen, "right")
    return float(below.sum() / (2 * pairs))


def interval(
    statistic: Statistic, cells: Int[np.ndarray, "cases"], samples: int = SAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """Return a 95% percentile interval from a bootstrap over cells, whose members are not independent.

    Samples for which the statistic is NaN (one outcome is missing) are left out. If they are more than half, both ends
    are None.

    Args:
        statistic: function of the indices of the sampled cases, which may repeat.
        cells: cell of each case. If cases are independent, each has a cell of its own.
        samples: number of bootstrap samples.
        seed: seed of the sampling.
    """
    groups = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
    # A row for each cell, filled up with -1: rows are taken faster than arrays of several sizes are joined.
    rows = np.full((len(groups), max(map(len, groups), default=0)), -1)
    for row, members in zip(rows, groups, strict=True):
        row[: len(members)] = members
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        chosen = rows[generator.integers(len(rows), size=len(rows))].ravel()
        found.append(statistic(chosen[chosen >= 0]))
    known = np.array([value for value in found if np.isfinite(value)])
    if 2 * len(known) < samples:
        return None, None
    low, high = np.percentile(known, LEVELS)
    return float(low), float(high)


@dataclass(frozen=True)
class RiskCurve:
    """Risk against coverage. Each point covers the examples whose doubt is within a bound; the last covers all.

    Args:
        bound: the distinct doubts, ascending.
        covered: number of examples within each bound.
        wrong: number of wrong examples within each bound.
    """

    bound: Float[np.ndarray, "points"]
    covered: Int[np.ndarray, "points"]
    wrong: Int[np.ndarray, "points"]

    @property
    def coverage(self) -> Float[np.ndarray, "points"]:
        """The fraction of examples within each bound."""
        return self.covered / self.covered[-1]

    @property
    def risk(self) -> Float[np.ndarray, "points"]:
        """The fraction of wrong examples among those within each bound."""
        return self.wrong / self.covered

    @property
    def area(self) -> float:
        """The mean risk over all coverages, from 0 to 1.

        Between two points the risk is that of the upper one, because a group of ties cannot be covered in part. A
        constant doubt therefore has the area of a random order, which is the error rate.
        """
        return float((np.diff(self.covered, prepend=0) * self.risk).sum() / self.covered[-1])


def risk_curve(doubt: Float[np.ndarray, "examples"], right: Bool[np.ndarray, "examples"]) -> RiskCurve:
    """Return risk against coverage.

    Args:
        doubt: one number per example, infinite for an answer that is not trusted at all.
        right: whether each answer is right.

    Raises:
        LoopscopeError: there are no examples, or a doubt is NaN.
    """
    if not len(doubt) or bool(np.isnan(doubt).any()):
        raise LoopscopeError(
            f"expected at least one example and a number for each, got {len(doubt)} examples, "
            f"{int(np.isnan(doubt).sum())} of them with NaN"
        )
    bound, place = np.unique(doubt, return_inverse=True)
    covered = np.bincount(place).cumsum()
    wrong = np.bincount(place, weights=~right).round().astype(np.int64).cumsum()
    return RiskCurve(bound, covered, wrong)


def random_area(examples: int, wrong: int) -> float:
    """Return the expected area of a random order, which is the error rate."""
    return wrong / examples


def perfect_area(examples: int, wrong: int) -> float:
    """Return the smallest possible area: that of the order with all right answers before the wrong ones."""
    # After all right answers, the i-th wrong one raises the risk to i / (right + i).
    extra = np.arange(1, wrong + 1)
    return float((extra / (examples - wrong + extra)).sum() / examples)
