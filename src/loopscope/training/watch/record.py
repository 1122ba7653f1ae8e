"""What a watch finds at one training step, as typed plain values that go to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loopscope.forecasts.result import Outlook
from loopscope.schema import to_plain

SIGNS = {Outlook.KEEPS: 1.0, Outlook.CANNOT_TELL: 0.0, Outlook.COLLAPSES: -1.0}
"""Outlooks as numbers, for trackers that draw curves."""


@dataclass(frozen=True)
class HorizonForecast:
    """The forecast for one number of iterations.

    Args:
        iterations: the number of iterations.
        outlook: whether the loop keeps its answers, collapses, or cannot be told.
        collapse: about the iteration from which less than 90% of the best accuracy is left, if it collapses.
        kept: accuracy at the horizon over the best on the way; without targets, the fraction of answers that are the same.
        reason: why it cannot be told, or what is not finite.
    """

    iterations: int
    outlook: Outlook
    collapse: float | None
    kept: float
    reason: str = ""


@dataclass(frozen=True)
class SwapFractions:
    """Where orbits end after the recalled input of another example took the place of their own, as fractions of all inputs.

    Args:
        moved: at the other example's fixed point, which is right for a loop that depends on its input.
        stayed: at their own.
        elsewhere: at neither.
        shared: the two examples have one fixed point.
        unknown: an orbit had not arrived.
    """

    moved: float
    stayed: float
    elsewhere: float
    shared: float
    unknown: float


@dataclass(frozen=True)
class WatchRecord:
    """What a watch found at one step. What could not be measured is None, and ``unknown`` says why.

    Args:
        step: training step.
        trained_iterations: largest number of iterations used in training.
        residual: relative residual after the trained number of iterations, median over the inputs.
        arrived: fraction of inputs whose orbit had arrived at a fixed point by then.
        norm_growth: factor by which the norm of the state grows per iteration at the end of the trained iterations, median.
        accuracy: fraction of inputs that are right after the trained number of iterations; None without targets.
        radius: spectral radius of the Jacobian of the step, median over a few inputs.
        radius_error: its absolute error.
        radius_arrived: fraction of these inputs whose Jacobian was taken at a fixed point.
        swaps: outcomes of the swap test.
        forecasts: forecasts at rising numbers of iterations.
        unknown: what could not be measured, and why.
        seconds: time that the measurement took.
        flagged: whether collapse has been forecast in as many consecutive records as the watch asks for.

    Example:
        >>> record = WatchRecord(step=100, trained_iterations=8, residual=0.01, radius=0.9)
        >>> record.scalars()
        {'residual': 0.01, 'radius': 0.9, 'flagged': 0.0}
    """

    step: int
    trained_iterations: int
    residual: float | None = None
    arrived: float | None = None
    norm_growth: float | None = None
    accuracy: float | None = None
    radius: float | None = None
    radius_error: float | None = None
    radius_arrived: float | None = None
    swaps: SwapFractions | None = None
    forecasts: tuple[HorizonForecast, ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    flagged: bool = False

    @property
    def collapse(self) -> HorizonForecast | None:
        """The nearest horizon by which collapse is forecast, or None."""
        return next((one for one in self.forecasts if one.outlook is Outlook.COLLAPSES), None)

    @property
    def forewarning(self) -> str | None:
        """The collapse that is forecast, in one line; None if there is none."""
        found = self.collapse
        if found is None:
            return None
        when = "" if found.collapse is None else f" about iteration {found.collapse:.0f}"
        what = "answers" if self.accuracy is None else "accuracy"
        return (
            f"a collapse of {what} is forecast{when}: {100 * found.kept:.0f}% is left at {found.iterations} iterations, of "
            f"{self.trained_iterations} in training"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = to_plain(self)
        return values

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """Return the numbers that are known, for a tracker that draws curves.

        Outlooks are numbers there: 1 keeps, 0 cannot tell, -1 collapses.

        Args:
            prefix: put before each name, such as "watch/".
        """
        known = {
            name: getattr(self, name)
            for name in ("residual", "arrived", "norm_growth", "accuracy", "radius", "radius_error")
        }
        if self.swaps is not None:
            known |= {"swap_moved": self.swaps.moved, "swap_unknown": self.swaps.unknown}
        for one in self.forecasts:
            known[f"outlook_{one.iterations}"] = SIGNS[one.outlook]
            known[f"kept_{one.iterations}"] = one.kept
            known[f"collapse_{one.iterations}"] = one.collapse
        known["flagged"] = float(self.flagged)
        return {f"{prefix}{name}": float(value) for name, value in known.items() if value is not None}
