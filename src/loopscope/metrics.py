"""Metrics of scores: the area under the ROC curve, risk against coverage, and intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.errors import LoopscopeError

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
    from scipy.stats import rankdata  # takes half a second to load

    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / pairs)


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


@dataclass(frozen=True)
class RiskCurve:
    """Risk at every coverage that some bound on the doubt gives, the smallest first; the last one is 1.

    Args:
        bound: the bounds: every doubt that occurs, ascending.
        covered: examples within each.
        wrong: those of them that are wrong.
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
        """The fraction of these that are wrong."""
        return self.wrong / self.covered

    @property
    def area(self) -> float:
        """The mean risk over all coverages, from 0 to 1.

        A coverage between two points costs the risk of the upper one: part of a group of ties cannot be covered. So
        a doubt that never varies has the area of a random order, the error rate.
        """
        return float((np.diff(self.covered, prepend=0) * self.risk).sum() / self.covered[-1])


def risk_curve(doubt: Float[np.ndarray, "examples"], right: Bool[np.ndarray, "examples"]) -> RiskCurve:
    """Return risk against coverage.

    Args:
        doubt: one number per example, infinite where there is nothing to trust.
        right: whether its answer is.

    Raises:
        LoopscopeError: there is no example, or a doubt is not a number.
    """
    if not len(doubt) or bool(np.isnan(doubt).any()):
        raise LoopscopeError(
            f"expected a number for each of at least one example, got {len(doubt)} examples, "
            f"{int(np.isnan(doubt).sum())} of them without"
        )
    bound, place = np.unique(doubt, return_inverse=True)
    covered = np.bincount(place).cumsum()
    wrong = np.bincount(place, weights=~right).round().astype(np.int64).cumsum()
    return RiskCurve(bound, covered, wrong)


def random_area(examples: int, wrong: int) -> float:
    """Return the area that a random order has in expectation: the error rate, whatever the coverage."""
    return wrong / examples


def perfect_area(examples: int, wrong: int) -> float:
    """Return the area of the order that covers every right answer before any wrong one; none has less."""
    # After all right answers, the i-th wrong one makes a risk of i out of (right + i).
    extra = np.arange(1, wrong + 1)
    return float((extra / (examples - wrong + extra)).sum() / examples)
