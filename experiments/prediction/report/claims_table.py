"""The claims of the criterion as a table."""

from __future__ import annotations

from experiments.prediction.analysis import Analysis
from experiments.prediction.analysis.judgement import MODELS, Judgement, Number
from experiments.prediction.analysis.statistics import Estimate, Share
from experiments.prediction.report.estimates import interval, share_of_total
from loopscope.reports.kit.formats import DASH, percent
from loopscope.reports.kit.sheet import Sheet


def claims_table(analysis: Analysis) -> Sheet:
    """Return the claims of the criterion, what was found, and whether it agrees."""
    rows = [[one.claim.name, one.claim.agrees_if, _found(one), judgement_in_words(one)] for one in analysis.claims]
    solving = analysis.forecasts.solving
    missing = "" if analysis.models == MODELS else f" The population is not complete: the criterion speaks of {MODELS}."
    caption = (
        f"Of {analysis.models} looped models, {solving} solve their task and count.{missing} Shares stand with 95% Wilson "
        "intervals, areas with 95% intervals over configurations. The verdict uses the thresholds that are accepted, and is "
        "counted over divisions of the configurations."
    )
    return Sheet("The claims of the criterion", ["claim", "agrees if", "found", "judgement"], rows, caption)


def judgement_in_words(one: Judgement) -> str:
    """Return whether a claim agrees with what was found, or why that cannot be told."""
    if one.agrees is None:
        return f"cannot tell: {one.reason}"
    return "agrees" if one.agrees else "does not agree"


def _found(one: Judgement) -> str:
    return "; ".join(f"{name}: {_number(value)}" for name, value in one.found.items()) or DASH


def _number(value: Number) -> str:
    if isinstance(value, Share):
        return share_of_total(value)
    return interval(value) if isinstance(value, Estimate) else f"{percent(value)}%"
