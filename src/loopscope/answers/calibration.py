"""Calibration: turn the confidence of an answer into a probability of being right, with an interval.

Settled and unsettled answers are calibrated separately. In each group, isotonic regression fits accuracy as a non-decreasing
step function of confidence. Answers on one step are alike: they share a probability and its binomial interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import isotonic_regression

from loopscope.answers.trust import AnswerSignals

MIN_ALIKE = 25
"""Smallest number of validation answers on a step. A smaller step is merged with the neighbour of nearest accuracy."""
FOLDS = 5
"""Number of folds in the cross-validation of a calibration."""
BINS = 10
"""Number of bins in a reliability table, of equal width in probability."""


@dataclass(frozen=True)
class Alike:
    """Validation answers that are similar to a given answer.

    Args:
        examples: number of these answers.
        right: number of right answers among them.
    """

    examples: int
    right: int

    @property
    def probability(self) -> float:
        """The fraction of right answers."""
        return self.right / self.examples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of that fraction (Wilson)."""
        from scipy.stats import binomtest  # takes half a second to load

        found = binomtest(self.right, self.examples).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Calibration:
    """Accuracy as a step function of one minus the confidence, for settled or for unsettled answers.

    Args:
        edges: boundaries between the steps, ascending; one fewer than steps.
        steps: the validation answers on each step, the most confident first.
    """

    edges: tuple[float, ...]
    steps: tuple[Alike, ...]

    def alike(self, unsure: float) -> Alike:
        """Return the validation answers that are similar to an answer of this confidence.

        An answer that is more confident than all validation answers gets the step of the most confident ones.

        Args:
            unsure: one minus the confidence.
        """
        return self.steps[int(np.searchsorted(self.edges, unsure, side="left"))]


def calibrate(unsure: Float[np.ndarray, "examples"], right: Bool[np.ndarray, "examples"]) -> Calibration | None:
    """Fit a calibration to validation answers. Return None if there are fewer than ``MIN_ALIKE``.

    Args:
        unsure: one minus the confidence of each answer.
        right: whether each answer is right.

    Example:
        >>> unsure, right = np.linspace(0, 1, 100), np.arange(100) < 50
        >>> found = calibrate(unsure, right)
        >>> found.alike(0.1), found.alike(0.9)
        (Alike(examples=50, right=50), Alike(examples=50, right=0))
    """
    if len(right) < MIN_ALIKE:
        return None
    levels, places = np.unique(unsure, return_inverse=True)
    weights = np.bincount(places).astype(np.float64)
    means = np.bincount(places, right) / weights
    blocks = isotonic_regression(means, weights=weights, increasing=False).blocks
    counts = np.add.reduceat(weights, blocks[:-1]).astype(np.int64)
    rights = np.add.reduceat(np.bincount(places, right), blocks[:-1]).round().astype(np.int64)
    starts = levels[blocks[:-1]]
    ends = levels[blocks[1:] - 1]
    return _joined(starts, ends, counts, rights)


def _joined(starts: np.ndarray, ends: np.ndarray, counts: Int[np.ndarray, "n"], rights: np.ndarray) -> Calibration:
    """Merge steps with too few answers into the neighbour of nearest accuracy, the smallest first."""
    steps = [
        [first, last, int(count), int(good)]
        for first, last, count, good in zip(starts, ends, counts, rights, strict=True)
    ]
    while len(steps) > 1 and (small := min(steps, key=lambda step: step[2]))[2] < MIN_ALIKE:
        place = steps.index(small)
        around = [near for near in (place - 1, place + 1) if 0 <= near < len(steps)]
        near = min(around, key=lambda other: abs(steps[other][3] / steps[other][2] - small[3] / small[2]))
        low, high = sorted((place, near))
        steps[low : high + 1] = [
            [steps[low][0], steps[high][1], steps[low][2] + steps[high][2], steps[low][3] + steps[high][3]]
        ]
    edges = [_between(before[1], after[0]) for before, after in pairwise(steps)]
    return Calibration(tuple(edges), tuple(Alike(count, good) for _, _, count, good in steps))


def _between(low: float, high: float) -> float:
    """Return the geometric mean of two numbers if both are finite and positive, else the lower one."""
    return math.sqrt(low * high) if low > 0 and math.isfinite(high) else low


@dataclass(frozen=True)
class Calibrations:
    """The calibrations of settled and of other answers. A calibration is None if validation has too few answers."""

    settled: Calibration | None
    others: Calibration | None

    def alike(self, settled: bool, unsure: float) -> Alike | None:
        """Return the validation answers that are similar to an answer, or None if there are too few.

        Args:
            settled: whether the state settled.
            unsure: one minus the confidence.
        """
        found = self.settled if settled else self.others
        return None if found is None else found.alike(unsure)


def calibrations(evidence: AnswerSignals) -> Calibrations:
    """Fit the calibrations of shown answers to the evidence of validation."""
    settled = evidence.settling < math.inf

    def of(chosen: Bool[np.ndarray, "examples"]) -> Calibration | None:
        return calibrate(evidence.shown_unsure[chosen], evidence.shown_right[chosen])

    return Calibrations(of(settled), of(~settled))


@dataclass(frozen=True)
class Bin:
    """Answers with similar predicted probabilities.

    Args:
        examples: number of answers.
        predicted: mean predicted probability.
        right: fraction of right answers.
    """

    examples: int
    predicted: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities against observed accuracy, on answers that the calibration was not fitted to.

    Args:
        bins: the answers by predicted probability, without empty bins.
        error: expected calibration error: the mean of |predicted - right| over bins, weighted by their answers.
        examples: number of answers with a prediction.
    """

    bins: tuple[Bin, ...]
    error: float
    examples: int


def reliability(predicted: Float[np.ndarray, "examples"], right: Bool[np.ndarray, "examples"]) -> Reliability:
    """Compare predicted probabilities with observed accuracy.

    Args:
        predicted: probabilities; NaN for an answer without a prediction.
        right: whether each answer is right.

    Example:
        >>> reliability(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, True, False, False])).bins[1]
        Bin(examples=2, predicted=0.9, right=1.0)
    """
    known = ~np.isnan(predicted)
    predicted, right = predicted[known], right[known]
    places = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(int(chosen.sum()), float(predicted[chosen].mean()), float(right[chosen].mean()))
        for place in range(BINS)
        if (chosen := places == place).any()
    )
    total = sum(one.examples for one in bins)
    error = sum(one.examples * abs(one.predicted - one.right) for one in bins) / total if total else math.nan
    return Reliability(bins, error, total)


def predicted_by(found: Calibrations, evidence: AnswerSignals) -> Float[np.ndarray, "examples"]:
    """Return the predicted probability of each answer; NaN if the calibrations predict none."""
    pairs = zip(evidence.settling < math.inf, evidence.shown_unsure, strict=True)
    alike = [found.alike(bool(settled), float(unsure)) for settled, unsure in pairs]
    return np.array([math.nan if one is None else one.probability for one in alike])


def cross_checked(evidence: AnswerSignals, seed: int = 0) -> Reliability:
    """Return the reliability of the calibrations by cross-validation: each fold is predicted from the others.

    Args:
        evidence: evidence of validation.
        seed: seed of the division into folds.
    """
    fold = np.random.default_rng(seed).permutation(len(evidence)) % FOLDS
    predicted = np.full(len(evidence), math.nan)
    for part in range(FOLDS):
        held = fold == part
        predicted[held] = predicted_by(calibrations(evidence.at(~held)), evidence.at(held))
    return reliability(predicted, evidence.shown_right)
