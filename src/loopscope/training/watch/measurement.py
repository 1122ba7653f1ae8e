"""What a watch measures of a loop: the axes at the trained number of iterations, and forecasts far beyond it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.errors import LoopscopeError, NotDefinedError
from loopscope.forecasts.forecast import BUDGET, forecast
from loopscope.kinds import timed
from loopscope.loop import Loop, answers_per, first_state, mask_of
from loopscope.stability.dependence.swap_test import SwapOutcome, swap_test
from loopscope.stability.distances import in_pairs
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.orbits.arrival import Ends, follow
from loopscope.stability.orbits.trace import Trajectory, trace
from loopscope.stability.parts.progress import Progress
from loopscope.stability.results import middle
from loopscope.stability.spectrum.eigenvalues import SpectralRadius, spectral_radius
from loopscope.stability.targets import Targets, rule_of
from loopscope.training.watch.record import HorizonForecast, SwapFractions, WatchRecord
from loopscope.trees import Tree, select

HORIZONS = (10, 60)
"""Multiples of the trained iterations to which a watch forecasts."""
FURTHER = 50
"""Iterations beyond training after which orbits should have arrived: fixed points are swapped and differentiated there."""
SWAPPED = 8
"""Inputs that take part in the swap test."""
JACOBIANS = 3
"""Inputs whose spectral radius is measured; an odd number has a middle one, with its own error."""
TRUE_STEPS = 64
"""True steps that a forecast may take even where a fifth of its horizon is less: no forecast needs fewer."""
PRODUCTS = 80
"""Products with a Jacobian that a spectral radius usually takes."""


@dataclass(frozen=True)
class Subject:
    """What a watch measures on.

    Args:
        loop: the loop.
        inputs: what ``loop.encode`` takes.
        targets: as ``examine`` takes them.
        answers: as ``examine`` takes them.
        trained: largest number of iterations used in training.
        tolerance: relative residual within which an orbit may count as arrived.
        seed: of random starts and directions.
        undefined: why fixed points are not defined for the loop; empty if they are.
    """

    loop: Loop
    inputs: Tree
    targets: Targets | None
    answers: Answers | None
    trained: int
    tolerance: float
    seed: int
    undefined: str = ""

    @property
    def horizons(self) -> list[int]:
        """The numbers of iterations to which the watch forecasts."""
        return [factor * self.trained for factor in HORIZONS]


def expected_evaluations(subject: Subject, inputs: int) -> float:
    """Return about how many evaluations of the step on the whole batch a measurement takes."""
    swaps = 2 * FURTHER * min(1.0, SWAPPED / inputs)
    # A product takes about as long as an evaluation with a graph, on fewer examples.
    products = 3 * PRODUCTS * min(1.0, JACOBIANS / inputs)
    forecasts = sum(min(TRUE_STEPS, horizon) for horizon in subject.horizons)
    return subject.trained + FURTHER + swaps + products + forecasts


def measure(subject: Subject, step: int) -> WatchRecord:
    """Measure a loop. Whatever cannot be measured leaves its reason in ``unknown``.

    Args:
        subject: the loop and its inputs.
        step: training step, for the record.
    """
    progress = Progress(time_limit=None)
    orbits = progress.run("orbits", lambda: _Orbits.of(subject))
    if orbits is None:
        return WatchRecord(step, subject.trained, unknown=progress.unknown)
    trajectory = orbits.trajectory
    radius = progress.run("spectral radius", orbits.spectral_radius)
    middle_radius, error = (None, None) if radius is None else _middle(radius)
    solved = trajectory.solved
    return WatchRecord(
        step,
        subject.trained,
        residual=middle(trajectory.residual[-1][trajectory.residual[-1].isfinite()].tolist()),
        arrived=float(trajectory.arrived.double().mean()),
        norm_growth=norm_growth(torch.cat([trajectory.start_norm[None], trajectory.norm])),
        accuracy=None if solved is None else float(solved[-1].double().mean()),
        radius=middle_radius,
        radius_error=error,
        radius_arrived=None if radius is None else float(orbits.ends.arrived[orbits.near].double().mean()),
        swaps=progress.run("swaps", orbits.swaps),
        forecasts=tuple(
            found
            for horizon in subject.horizons
            if (found := progress.run(f"forecast to {horizon}", partial(_forecast, subject, horizon))) is not None
        ),
        unknown=progress.unknown,
    )


def norm_growth(norms: Float[Tensor, "iterations batch"]) -> float | None:
    """Return the factor by which norms grow per iteration over their last quarter, median over the examples.

    Example:
        >>> round(norm_growth(1.5 ** torch.arange(9.0)[:, None]), 6)
        1.5
    """
    steps = max(1, (len(norms) - 1) // 4)
    factors = (norms[-1] / norms[-1 - steps]).double() ** (1 / steps)
    return middle(factors[factors.isfinite()].tolist())


@dataclass(frozen=True)
class _Orbits:
    """The orbits of the inputs to the trained number of iterations, and on to where they should have arrived."""

    subject: Subject
    recalled: Tree
    trajectory: Trajectory
    ends: Ends

    @classmethod
    def of(cls, subject: Subject) -> _Orbits:
        loop = timed(subject.loop, subject.seed)
        with torch.no_grad():
            recalled = loop.encode(subject.inputs)
            start = first_state(loop, recalled, subject.seed)
        trajectory = trace(
            loop,
            recalled,
            iterations=subject.trained,
            start=start,
            tolerance=subject.tolerance,
            correct=rule_of(subject.targets, mask_of(loop, recalled), answers_per(loop)),
            answers=subject.answers,
            until="end" if subject.undefined else "rounding",
        )
        if subject.undefined:
            return cls(subject, recalled, trajectory, trajectory)
        ends = follow(
            loop, recalled, trajectory.state, iterations=FURTHER, tolerance=subject.tolerance, until="arrival"
        )
        return cls(subject, recalled, trajectory, ends)

    @property
    def _order(self) -> Tensor:
        """All inputs, those that arrived first, in pairs that can be swapped."""
        arrived = self.ends.arrived
        first, others = (torch.nonzero(chosen).squeeze(1) for chosen in (arrived, ~arrived))
        return torch.cat([in_pairs(first, self.recalled, mask_of(self.subject.loop, self.recalled)), others])

    @property
    def near(self) -> Tensor:
        """The inputs whose spectral radius is measured."""
        return self._order[:JACOBIANS]

    def spectral_radius(self) -> SpectralRadius:
        self._check_defined()
        rows = self.near
        state, recalled = select(self.ends.state, rows), select(self.recalled, rows)
        return spectral_radius(self.subject.loop, state, recalled, seed=self.subject.seed)

    def _check_defined(self) -> None:
        if self.subject.undefined:
            raise NotDefinedError(self.subject.undefined)

    def swaps(self) -> SwapFractions:
        self._check_defined()
        if not bool(self.ends.arrived.any()):
            raise LoopscopeError(f"no orbit had arrived after {self.subject.trained + FURTHER} iterations")
        rows = self._order[:SWAPPED]
        test = swap_test(
            self.subject.loop,
            select(self.recalled, rows),
            self.ends.take(rows),
            iterations=FURTHER,
            tolerance=self.subject.tolerance,
        )
        counts = Counter(test.recall.outcomes)
        return SwapFractions(*(counts[outcome] / len(rows) for outcome in SwapOutcome))


def _middle(found: SpectralRadius) -> tuple[float | None, float | None]:
    """Return the median radius and its error, that of the examples in the middle."""
    known = sorted(pair for pair in zip(found.radius.tolist(), found.error.tolist(), strict=True) if pair[0] == pair[0])
    if not known:
        return None, None
    between = known[(len(known) - 1) // 2 : len(known) // 2 + 1]
    error = max(error for _, error in between)
    return sum(radius for radius, _ in between) / len(between), error if math.isfinite(error) else None


def _forecast(subject: Subject, horizon: int) -> HorizonForecast:
    said = forecast(
        subject.loop,
        subject.inputs,
        subject.targets,
        subject.trained,
        subject.seed,
        subject.answers,
        horizon=horizon,
        budget=max(BUDGET, TRUE_STEPS / horizon),
    )
    return HorizonForecast(horizon, said.outlook, said.collapse, said.kept, said.reason)
