"""Forecasts of loops that leaps cannot follow: they are run for as long as the budget allows, and no further.

A leap extrapolates a map that stays the same. It says nothing about a step that changes with the iteration or draws random
numbers, nor about a readout of the history. Such a loop is run. Its answers are known to be kept only where it was run to the
horizon, and to be lost where that was seen on the way. Everything else cannot be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any, Protocol

from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.forecasts.leaps import WATCHED
from loopscope.forecasts.result import HOLDS, Forecast, Outlook, Point
from loopscope.kinds import Kind
from loopscope.loop import Loop, answers_per
from loopscope.readouts import ReadingPlan
from loopscope.trees import Tree

DRAWS = 3
"""Draws of the noise over which answers of a stochastic loop are averaged."""
AGREEING = 3
"""Number of consecutive true iterations after which an answer counts as standing, or a collapse as observed."""
SHOWN = 1.4
"""Points are kept at iterations that grow by this factor."""
UNFORESEEN = {
    Kind.TIME_DEPENDENT: "the step changes with the iteration, so that these iterations do not show what later ones do",
    Kind.STOCHASTIC: "the step draws random numbers, which cannot be extrapolated",
    Kind.TIME_DEPENDENT_AND_STOCHASTIC: "the step changes with the iteration and draws random numbers",
    Kind.AUTONOMOUS: "the readout reads the history of states, which cannot be extrapolated",
}
"""Why what a loop does later cannot be told from what it did before."""


class Reading(Protocol):
    """What one state answers."""

    @property
    def finite(self) -> Tensor:
        """Which answers are there."""

    def point(self, iteration: int, first: Any, leapt: bool) -> Point:
        """Return what is found at an iteration, compared with the first reading."""


def by_true_steps(
    draws: Sequence[Loop],
    recalled: Tree,
    start: Tree,
    read: Callable[[Tree], Reading],
    plan: ReadingPlan,
    *,
    kind: Kind,
    examples: int,
    trained: int,
    horizon: int,
    steps: int,
) -> Forecast:
    """Return what can be said of a loop from true steps alone.

    Args:
        draws: the loop, or the loop under several draws of its noise.
        recalled: its recalled input.
        start: its first states.
        read: what a state answers.
        plan: after which iterations readings are worth their time.
        kind: of the loop; autonomous where it is the readout that cannot be extrapolated.
        examples: number of inputs.
        trained: iterations in training, whose answers are the first point.
        horizon: the iteration that is asked about.
        steps: most evaluations of the step, over all draws.

    Raises:
        LoopscopeError: the steps do not reach beyond the iterations of training.
    """
    began, last = time.perf_counter(), min(horizon, steps // len(draws))
    if last < trained + AGREEING:
        over = f" in each of {len(draws)} draws" if len(draws) > 1 else ""
        raise LoopscopeError(
            f"the budget allows {last} true steps{over}, expected at least {trained + AGREEING}, {AGREEING} more than in training: "
            "raise budget"
        )
    due = [k for k in range(trained, last + 1) if plan.is_due(k - trained + 1) or k > last - max(WATCHED, AGREEING)]
    runs = [_points(loop, recalled, start, read, due) for loop in draws]
    answers = len(read(start).finite)
    points = [_mean(list(at_once)) for at_once in zip(*runs, strict=True)]
    values = [point.value for point in points]
    best = max(values) if points[0].right is not None else 1.0
    outlook, reason = _outlook(
        values, best, last, horizon, f"{UNFORESEEN[kind]}; budget={len(draws)} runs it to the end"
    )
    collapse = _onset(points, HOLDS * best) if outlook is Outlook.COLLAPSES else None
    return Forecast(
        outlook=outlook,
        reason=reason,
        collapse=collapse,
        horizon=horizon,
        points=_thinned(points),
        inputs=examples,
        seconds=time.perf_counter() - began,
        late=points[-WATCHED:-1],
        steps=last * len(draws),
        tokens=answers if answers_per(draws[0]) == "token" else None,
        kind=kind,
    )


def _points(
    loop: Loop, recalled: Tree, state: Tree, read: Callable[[Tree], Reading], due: Sequence[int]
) -> list[Point]:
    """Return what is found after some iterations, compared with the first of them."""
    first: Reading | None = None
    found = []
    for iteration in range(1, due[-1] + 1):
        state = loop.step(state, recalled)
        if iteration in due:
            reading = read(state)
            first = reading if first is None else first
            found.append(reading.point(iteration, first, False))
    return found


def _mean(points: list[Point]) -> Point:
    right = [point.right for point in points if point.right is not None]
    return Point(
        points[0].iteration,
        False,
        mean(point.same for point in points),
        mean(right) if right else None,
        mean(point.finite for point in points),
    )


def _outlook(values: list[float], best: float, last: int, horizon: int, why: str) -> tuple[Outlook, str]:
    if best == 0:
        return Outlook.CANNOT_TELL, "there are no right answers to keep"
    if last == horizon:
        kept = min(values[-WATCHED:]) >= HOLDS * best
        return (Outlook.KEEPS if kept else Outlook.COLLAPSES), "run to the end, not extrapolated"
    if max(values[-AGREEING:]) < HOLDS * best:
        return Outlook.COLLAPSES, f"seen in {last} iterations that were run"
    left = f"{100 * values[-1] / best:.0f}% is left after {last} iterations"
    return Outlook.CANNOT_TELL, f"{left}, and {why}"


def _onset(points: Sequence[Point], enough: float) -> float | None:
    """Return the iteration from which too little is left; None where it never held."""
    held = [place for place, point in enumerate(points) if point.value >= enough]
    if not held or held[-1] == len(points) - 1:
        return None
    return float(points[held[-1] + 1].iteration)


def _thinned(points: list[Point]) -> list[Point]:
    kept = [points[0]]
    for point in points[1:-1]:
        if point.iteration >= SHOWN * kept[-1].iteration:
            kept.append(point)
    return [*kept, points[-1]]
