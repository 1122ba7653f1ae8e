"""Risk against coverage: how often one is wrong who accepts only the answers that a signal trusts most.

A signal gives each example a doubt: the smaller, the more its answer is trusted. Coverage is the fraction of examples
whose doubt is within a bound, risk the fraction of these that are wrong. Examples of equal doubt are covered together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.errors import LoopscopeError


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
