"""Estimates as text."""

from __future__ import annotations

from experiments.prediction.analysis.statistics import Estimate
from loopscope.reports.kit.formats import DASH, number


def interval(given: Estimate) -> str:
    """Return an estimate with its interval, such as "0.96 [0.91, 1.00]", or why there is none."""
    if given.value is None:
        return given.note or DASH
    within = "" if given.low is None else f" [{number(given.low)}, {number(given.high)}]"
    return f"{number(given.value)}{within}"


def interval_of(given: Estimate, usual: int) -> str:
    """Return an estimate with its interval, followed by its number of models if that is not the usual number."""
    text = interval(given)
    return text if given.value is None or given.models == usual else f"{text} ({given.models})"
