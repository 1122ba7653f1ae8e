"""Estimates and shares as text."""

from __future__ import annotations

from experiments.prediction.analysis.statistics import Estimate, Share
from loopscope.reports.kit.formats import DASH, number, percent


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


def share_of_total(given: Share) -> str:
    """Return a count out of a total with its share and interval, such as "71 of 76, 93.4% [85.5, 97.2]"."""
    if given.value is None:
        return DASH
    within = "" if given.low is None else f" [{percent(given.low)}, {percent(given.high)}]"
    return f"{_count(given.count)} of {_count(given.total)}, {percent(given.value)}%{within}"


def _count(value: float) -> str:
    """Return a count, with one digit after the point if it is a mean that is not whole."""
    return f"{round(value, 1):g}"
