"""A forecast as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loopscope.evidence import evidence
from loopscope.forecasts.result import Forecast, Point
from loopscope.kinds import Kind
from loopscope.reports.kit.formats import percent
from loopscope.reports.kit.sheet import Sheet


def forecast_sheet(name: str, said: Forecast) -> Sheet:
    """Return a table of a forecast, one row for neighbouring iterations that are alike.

    Args:
        name: name of the loop.
        said: the forecast.
    """
    first = said.points[0].iteration
    return Sheet(
        f"{name}, where it will be",
        ["iterations", "how", "right %", f"same answers as after {first}, %"],
        [_row(points) for points in _alike(said.points)],
        f"{said.counted}, {said.steps} true steps, {said.seconds:.2g} s. {_about(said)}",
    )


def _about(said: Forecast) -> str:
    """Return how far the forecast is to be trusted."""
    if not said.rounds:
        loop = "The loop" if said.kind is Kind.AUTONOMOUS else f"A {said.kind} loop: it"
        return f"{loop} was run, not extrapolated."
    record = evidence().forecast
    return (
        "Run: the loop itself; leapt: extrapolated. A leap cannot see what happens once only, far ahead. Forecasts decided on "
        f"{record.decided} of {record.models} small models that solve their task, and {record.right} of these "
        f"{record.decided} came true."
    )


def _alike(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points in groups of neighbours that differ in nothing but the iteration; a leap stands alone."""
    groups: list[list[Point]] = []
    for point in points:
        if groups and not point.leapt and replace(groups[-1][-1], iteration=point.iteration) == point:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _row(points: Sequence[Point]) -> list[str]:
    first, last = points[0], points[-1]
    iterations = f"{first.iteration}" if len(points) == 1 else f"{first.iteration} to {last.iteration}"
    return [iterations, "leapt" if first.leapt else "run", percent(first.right), percent(first.same)]
