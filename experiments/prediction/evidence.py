"""The evidence that the package quotes about trained models, from a population's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.prediction.analysis import thresholds_of
from experiments.prediction.analysis.forecasts import study_forecasts
from experiments.prediction.analysis.outcomes import results_of
from experiments.prediction.analysis.performance import sample_of
from experiments.prediction.population import Member
from loopscope.evidence import Evidence, FittedThreshold, ForecastRecord
from loopscope.files import write_json

COMMAND = "python -m experiments.prediction evidence"
DIGITS = 3
"""Significant digits of a fitted threshold. More would pretend to a precision that it does not have."""


def evidence_of(members: Sequence[Member]) -> Evidence:
    """Return the results of a population that the package quotes.

    Raises:
        LoopscopeError: no model was both evaluated and examined, or scikit-learn is not installed.
    """
    looped = [member for member in members if member.looped]
    results = results_of(looped)
    thresholds, counts = thresholds_of(sample_of(looped, results)), study_forecasts(looped, results).overall
    fitted = [
        FittedThreshold(one.measure, float(f"{one.holds:.{DIGITS}g}"), float(f"{one.fails:.{DIGITS}g}"), one.origin)
        for one in thresholds.accepted
    ]
    record = ForecastRecord(counts.models, round(counts.decided.count), round(counts.right.count))
    return Evidence(COMMAND, thresholds.population, fitted, record)


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write evidence as the package reads it."""
    write_json(path, asdict(evidence))
