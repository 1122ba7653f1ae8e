"""A forecast as a table."""

from __future__ import annotations

from loopscope.evidence import evidence
from loopscope.forecasts.result import Forecast
from loopscope.reports.kit.formats import percent
from loopscope.reports.kit.sheet import Sheet


def forecast_sheet(name: str, said: Forecast) -> Sheet:
    """Return a table of a forecast, one row per iteration.

    Args:
        name: name of the loop.
        said: the forecast.
    """
    first, record = said.points[0].iteration, evidence().forecast
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
        f"{said.inputs} inputs, {said.steps} true steps, {said.seconds:.2g} s. A leap cannot see what happens once only, far "
        f"ahead. Of {record.models} small models that solve their task and were not seen before, forecasts by 30 steps without a "
        f"check came true for {record.right}.",
    )
