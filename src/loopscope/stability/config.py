"""Options of an examination, and the budget of each effort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from loopscope.errors import check_choice, check_count, check_positive, check_seed, check_tolerance
from loopscope.stability.results import Effort, Settings


@dataclass(frozen=True)
class Budget:
    """The budget of one effort.

    Args:
        orbits: number of inputs whose orbits are followed.
        swapped: number of inputs for swaps, counts of fixed points and gradients.
        jacobians: number of inputs whose Jacobian, basin and variance are measured.
        radii: relative radii of the basin's perturbations.
        starts: random starts per input for the share of the variance; 0 leaves it out.
        window: number of further iterations for the classification of orbits.
        eigenvalues: number of eigenvalues of the first input's Jacobian beyond the dominant ones; 0 leaves them out.
        solves: whether the sensitivity, the resolvent and transient growth are measured.
        tolerance: relative tolerance on singular values.
    """

    orbits: int
    swapped: int
    jacobians: int
    radii: tuple[float, ...]
    starts: int
    window: int
    eigenvalues: int
    solves: bool
    tolerance: float


BUDGETS: dict[str, Budget] = {
    "quick": Budget(12, 8, 2, (0.1,), 0, 64, 0, False, 0.1),
    "standard": Budget(64, 16, 8, (0.01, 0.03, 0.1, 0.3, 1.0), 4, 256, 8, True, 0.05),
    "thorough": Budget(256, 64, 32, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 8, 1024, 16, True, 0.01),
}
"""The budget of each effort."""


@dataclass(frozen=True)
class ExaminationConfig:
    """Options of an examination.

    Args:
        effort: quick (at most 12 inputs, Jacobians of 2 of them), standard (64 and 8) or thorough (256 and 32).
        examples: number of inputs to examine. The effort may take fewer.
        iterations: largest number of iterations of every orbit.
        tolerance: relative residual within which a state may count as arrived.
        prediction: prediction mode, in which no orbit goes beyond the trained number of iterations.
        seed: seed of every random start and direction.
        time_limit: seconds after which orbits end where they are and all further parts are left out, including one that has
            begun; None for no limit.

    Example:
        >>> import loopscope as ls
        >>> config = ls.ExaminationConfig(effort="quick", iterations=100)
        >>> config.effort, config.iterations, config.tolerance
        ('quick', 100, 0.0001)
    """

    effort: Effort = "standard"
    examples: int = 64
    iterations: int = 500
    tolerance: float = 1e-4
    prediction: bool = False
    seed: int = 0
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.time_limit is not None:
            check_positive(time_limit=self.time_limit)
        check_choice("effort", self.effort, get_args(Effort))
        check_count(examples=self.examples, iterations=self.iterations)
        check_tolerance(self.tolerance)
        check_seed(self.seed)

    @property
    def budget(self) -> Budget:
        """The budget of the effort."""
        return BUDGETS[self.effort]

    def sees_less(self, settings: Settings, available: int) -> bool:
        """Return whether a stored examination covers more than an examination with this config would.

        Args:
            settings: settings of the stored ``Examination``.
            available: number of available inputs.
        """
        if settings.prediction:
            return False
        efforts = get_args(Effort)
        return (
            self.prediction
            or efforts.index(self.effort) < efforts.index(settings.effort)
            or min(self.examples, available) < settings.inputs
            or self.iterations < settings.iterations
        )
