"""A forecast as a table."""

from __future__ import annotations

from loopscope.forecasts.result import Forecast
from loopscope.reports.kit.formats import percent
from loopscope.reports.kit.sheet import Sheet

RIGHT, OF = 71, 76
"""How often what is said came true, of unseen models that solve their task (docs/evidence/results.md)."""


def forecast_sheet(name: str, said: Forecast) -> Sheet:
    """Return what a forecast expects at each of its iterations.

    Args:
        name: whose forecast it is.
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
        f"{said.inputs} inputs, 30 iterations, {said.seconds:.2g} s. A leap cannot see what happens once only, far ahead. Of {OF} "
        f"small models that solve their task and were not seen before, what was said came true for {RIGHT}.",
    )
