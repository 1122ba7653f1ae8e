"""A forecast as a table."""

from __future__ import annotations

from loopscope.evidence import evidence
from loopscope.forecasts.result import Forecast
from loopscope.kinds import Kind
from loopscope.reports.kit.formats import percent
from loopscope.reports.kit.sheet import Sheet


def forecast_sheet(name: str, said: Forecast) -> Sheet:
    """Return a table of a forecast, one row per iteration.

    Args:
        name: name of the loop.
        said: the forecast.
    """
    first = said.points[0].iteration
    rows = [
        [
            str(point.iteration),
            "leapt" if point.leapt else "run",
            percent(point.right),
            percent(point.same),
        ]
        for point in said.points
    ]
    return Sheet(
        f"{name}, where it will be",
        ["iterations", "how", "right %", f"answers as after {first}, %"],
        rows,
        f"{said.inputs} inputs, {said.steps} true steps, {said.seconds:.2g} s. {_about(said)}",
    )


def _about(said: Forecast) -> str:
    """Return how far the forecast is to be trusted."""
    if not said.rounds:
        return (
            f"A {said.kind} loop: it was run, not extrapolated."
            if said.kind is not Kind.AUTONOMOUS
            else "Run, not extrapolated."
        )
    record = evidence().forecast
    return (
        f"A leap cannot see what happens once only, far ahead. Of {record.models} small models that solve their task and were not "
        f"seen before, forecasts by 30 steps without a check came true for {record.right}."
    )
