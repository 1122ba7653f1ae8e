"""Fixed points of loops: solvers, each example halted on its own, and implicit differentiation.

- ``solution``: ``solve`` and the ``Solution`` it returns.
- ``solver``: the protocol of solvers. ``plain_iteration``, ``damped_iteration``, ``anderson``, ``broyden``: one solver per file.
  ``multisecant``: the base of Anderson and Broyden.
- ``halting``: a solver run on a batch, each example halted on its own.
- ``residual``: relative residuals. ``noise_floor``: the rounding error of a step, measured.
- ``plain_comparison``: whether a solution is the fixed point that the model itself reaches.
- ``implicit_differentiation``: gradients of fixed points, for training.
"""

from loopscope.fixed_points.anderson import Anderson
from loopscope.fixed_points.broyden import Broyden
from loopscope.fixed_points.damped_iteration import DampedIteration
from loopscope.fixed_points.implicit_differentiation import Gradient, Implicit, Phantom, Truncated, fixed_point
from loopscope.fixed_points.noise_floor import NoiseFloor, measure_noise_floor
from loopscope.fixed_points.plain_iteration import PlainIteration
from loopscope.fixed_points.solution import Solution, solve
from loopscope.fixed_points.solver import Solver

__all__ = [
    "Anderson",
    "Broyden",
    "DampedIteration",
    "Gradient",
    "Implicit",
    "NoiseFloor",
    "Phantom",
    "PlainIteration",
    "Solution",
    "Solver",
    "Truncated",
    "fixed_point",
    "measure_noise_floor",
    "solve",
]
