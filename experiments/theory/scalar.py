"""The paper's scalar model of recall: two gains, two stability regions, and the projection onto each region.

The state is one number, a is the gain of W_state, and b is the slope of the sub-layer. An iteration multiplies a small change
of the state by 1 + a b with internal recall, where the identity path carries the state past the sub-layer, and by (1 + b) a
with external recall, where it does not. A loop is stable if the modulus of that multiplier is at most one (paper,
appendix). Projecting random gains onto a region shows what training inside it would be like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from loopscope.errors import LoopscopeError, check_positive

Gains = Float[np.ndarray, "points 2"]
"""Pairs (a, b): the gain of W_state and the slope of the sub-layer."""
Values = Float[np.ndarray, "points"]

SIGMAS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Standard deviations of the gains that the paper projects."""
_HALVINGS = 64


def internal_multiplier(gains: Gains) -> Values:
    """Return 1 + a b, the derivative of one iteration with internal recall (paper, appendix)."""
    return 1 + gains[:, 0] * gains[:, 1]


def external_multiplier(gains: Gains) -> Values:
    """Return (1 + b) a, the derivative of one iteration with external recall (paper, appendix)."""
    return (1 + gains[:, 1]) * gains[:, 0]


def project_internal(gains: Gains) -> Gains:
    """Return the nearest points with |1 + a b| <= 1, which is -2 <= a b <= 0.

    If a and b have the same sign, the nearest point of the region lies on the nearer axis, so the smaller gain becomes
    exactly zero. Otherwise the nearest point lies on the hyperbola a b = -2, or the point is inside already.
    """
    smaller = np.abs(gains).argmin(1)
    on_axis = gains.copy()
    on_axis[np.arange(len(gains)), smaller] = 0
    return np.where((gains.prod(1) > 0)[:, None], on_axis, _within_hyperbola(gains, 2.0))


def project_external(gains: Gains) -> Gains:
    """Return the nearest points with |(1 + b) a| <= 1, the region between four hyperbolas around (0, -1)."""
    centre = np.array([0.0, -1.0])
    outside = np.abs(external_multiplier(gains)) > 1
    projected = gains.copy()
    projected[outside] = _within_hyperbola(gains[outside] - centre, 1.0) + centre
    return projected


def _within_hyperbola(points: Gains, bound: float) -> Gains:
    """Return the nearest points (x, y) with |x y| <= bound."""
    outside = np.abs(points.prod(1)) > bound
    projected = points.copy()
    unit = np.sqrt(bound)
    projected[outside] = np.copysign(unit * _on_hyperbola(np.abs(points[outside]) / unit), points[outside])
    return projected


def _on_hyperbola(points: Gains) -> Gains:
    """Return the points of x y = 1 that are nearest to points p > 0, q > 0 with p q > 1.

    The distance is stationary where x^4 - p x^3 + q x - 1 = 0. For p >= q (other points are mirrored), the nearest point
    has 1 <= x <= p, and the quartic has exactly one root there: its negative root -s satisfies s = e2 / e1 and
    s x1 x2 x3 = 1, where e1 and e2 are the elementary symmetric functions of the other three roots, and three roots above 1
    would make both s and x1 x2 x3 exceed 1. The quartic is negative at 1 and positive at p, so bisection finds the root.
    """
    p, q = points.max(1), points.min(1)
    low, high = np.ones_like(p), p.copy()
    for _ in range(_HALVINGS):
        x = (low + high) / 2
        above = (x - p) * x**3 + q * x > 1
        low, high = np.where(above, low, x), np.where(above, x, high)
    x = (low + high) / 2
    nearest = np.stack([x, 1 / x], axis=1)
    return np.where((points[:, 0] >= points[:, 1])[:, None], nearest, nearest[:, ::-1])


@dataclass(frozen=True)
class ScalarRegion:
    """The gains at which the scalar loop of one kind of recall is stable.

    Args:
        recall: internal or external.
        formula: the region as a formula in a and b.
        multiplier: returns the derivative of one iteration with respect to the state.
        project: returns the nearest points of the region in Euclidean distance. Points inside are unchanged.
    """

    recall: str
    formula: str
    multiplier: Callable[[Gains], Values]
    project: Callable[[Gains], Gains]

    def contains(self, gains: Gains, tolerance: float = 0.0) -> Bool[np.ndarray, "points"]:
        """Return which gains are stable, up to ``tolerance`` on the multiplier."""
        return np.abs(self.multiplier(gains)) <= 1 + tolerance


REGIONS = {
    region.recall: region
    for region in (
        ScalarRegion("internal", "|1 + a b| ≤ 1", internal_multiplier, project_internal),
        ScalarRegion("external", "|(1 + b) a| ≤ 1", external_multiplier, project_external),
    )
}
"""The two regions of the paper's appendix, by recall."""


def balance(gains: Gains) -> Values:
    """Return min(|a|, |b|) / max(|a|, |b|), which is 1 for equal gains (and at the origin) and 0 on an axis."""
    sizes = np.abs(gains)
    largest = sizes.max(1)
    return np.divide(sizes.min(1), largest, out=np.ones_like(largest), where=largest > 0)


@dataclass(frozen=True)
class Balance:
    """The effect of projecting random gains onto a region.

    Attributes:
        recall: the recall that the region belongs to.
        sigma: standard deviation of each gain before the projection.
        mean: mean balance after the projection.
        standard_error: standard error of that mean.
        on_axis: fraction of the projected points with a gain of exactly zero.
        inside: fraction of the points that were in the region before.
    """

    recall: str
    sigma: float
    mean: float
    standard_error: float
    on_axis: float
    inside: float


def draw_gains(sigma: float, points: int = 10_000, seed: int = 0) -> Gains:
    """Return gains from N(0, sigma^2 I). The same seed gives the same directions for every sigma.

    Raises:
        LoopscopeError: sigma is not above zero, or there are fewer than two points.
    """
    check_positive(sigma=sigma)
    if points < 2:
        raise LoopscopeError(f"points is {points}, expected at least 2, since a mean needs them for its error")
    return sigma * np.random.default_rng(seed).standard_normal((points, 2))


def projected_balance(recall: str, sigma: float, points: int = 10_000, seed: int = 0) -> Balance:
    """Project gains from N(0, sigma^2 I) onto a region and return their balance (paper, appendix).

    Args:
        recall: internal or external.
        sigma: standard deviation of each gain.
        points: number of gains.
        seed: seed of the draw.

    Raises:
        LoopscopeError: there is no such region, or a number is out of range.
    """
    if recall not in REGIONS:
        raise LoopscopeError(
            f"recall is {recall!r}, expected one of {', '.join(REGIONS)}: only these have a scalar model"
        )
    region, gains = REGIONS[recall], draw_gains(sigma, points, seed)
    projected = region.project(gains)
    balances = balance(projected)
    return Balance(
        recall=recall,
        sigma=sigma,
        mean=float(balances.mean()),
        standard_error=float(balances.std(ddof=1) / np.sqrt(points)),
        on_axis=float((projected == 0).any(1).mean()),
        inside=float(region.contains(gains).mean()),
    )
