"""Numbers, percentages and intervals as text."""

from __future__ import annotations

from loopscope.studies.statistics import Estimate

DASH = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage, or a dash where there is none."""
    return DASH if value is None else f"{100 * value:.1f}"


def interval(given: Estimate) -> str:
    """Return an estimate with its interval, such as "0.96 [0.91, 1.00]", or why there is none."""
    if given.value is None:
        return given.note or DASH
    within = "" if given.low is None else f" [{number(given.low)}, {number(given.high)}]"
    return f"{number(given.value)}{within}"


def interval_of(given: Estimate, usual: int) -> str:
    """Return an estimate with its interval, and how many models it stands on where these are not as many as is usual."""
    said = interval(given)
    return said if given.value is None or given.models == usual else f"{said} ({given.models})"
