"""Verdicts against outcomes, as counts of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.prediction.analysis.outcomes import Result, counts_by_outcome
from experiments.prediction.analysis.thresholds import judged
from experiments.prediction.population import Member

PREDICTION_MODE, ALL_ITERATIONS = "prediction mode", "all iterations"
"""The two modes in which the experiment examines a model."""


def examinations(member: Member) -> dict[str, dict[str, Any]]:
    """Return the numbers of a model's examinations by mode; empty for a mode in which it was not examined."""
    return {PREDICTION_MODE: member.prediction_mode, ALL_ITERATIONS: member.examination}


def verdict_counts(members: Sequence[Member], results: Sequence[Result]) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of models by verdict and outcome, for each mode.

    Verdicts follow the current rule.
    """
    found: dict[str, list[tuple[str, Result]]] = {}
    for member, result in zip(members, results, strict=True):
        for mode, numbers in examinations(member).items():
            if numbers:
                found.setdefault(mode, []).append((judged(numbers).value, result))
    return {mode: counts_by_outcome(ended) for mode, ended in found.items()}
