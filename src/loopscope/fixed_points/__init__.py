"""Reaching fixed points, each example of a batch on its own, and differentiating them."""

from loopscope.fixed_points.implicit import Gradient, Implicit, Phantom, Truncated, fixed_point
from loopscope.fixed_points.solution import Solution
from loopscope.fixed_points.solvers import Anderson, Broyden, DampedIteration, PlainIteration, Solver
from loopscope.fixed_points.solving import solve

__all__ = [
    "Anderson",
    "Broyden",
    "DampedIteration",
    "Gradient",
    "Implicit",
    "Phantom",
    "PlainIteration",
    "Solution",
    "Solver",
    "Truncated",
    "fixed_point",
    "solve",
]
