"""Reaching fixed points, each example of a batch on its own."""

from loopscope.fixed_points.solution import Solution
from loopscope.fixed_points.solvers import Anderson, Broyden, DampedIteration, PlainIteration
from loopscope.fixed_points.solving import solve

__all__ = [
    "Anderson",
    "Broyden",
    "DampedIteration",
    "PlainIteration",
    "Solution",
    "solve",
]
