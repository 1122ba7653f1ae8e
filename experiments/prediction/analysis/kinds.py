"""What a model's kind alone forecasts: the rate at which other models of its task, recall and normalization retain.

A forecast that looks at a model should know more than that. The rate looks at outcomes of other models, as a rule that is fitted
on them does. Other seeds of the model's own configuration do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.prediction.analysis.breakdowns import recall_and_norm
from experiments.prediction.analysis.outcomes import Sample
from experiments.prediction.analysis.performance import HeadToHead, head_to_head
from experiments.prediction.analysis.statistics import numbered

KIND = "rate of the same kind"
"""Name of the score of ``rates_of_kinds``."""


@dataclass(frozen=True)
class AgainstKind:
    """A predictor compared with the rate of the same kind.

    Args:
        name: name of the predictor.
        areas: both areas under the ROC curve and the lead of the predictor, on the models that both know.
    """

    name: str
    areas: HeadToHead


def rates_of_kinds(sample: Sample) -> Float[np.ndarray, "models"]:
    """Return the rate at which models of the same task, recall and normalization and of other configurations retain.

    Models that solve their task count. With r of n that retain, the rate is (r + 1) / (n + 2), Laplace's rule of succession, so
    it is 1/2 if there is none.
    """
    kinds = numbered([f"{member.task}, {recall_and_norm(member)}" for member in sample.members])
    rates = []
    for kind, configuration in zip(kinds, sample.configurations, strict=True):
        others = (kinds == kind) & sample.solves & (sample.configurations != configuration)
        rates.append((sample.retains[others].sum() + 1) / (others.sum() + 2))
    return np.array(rates)


def against_kinds(sample: Sample, scores: Mapping[str, np.ndarray], names: tuple[str, ...]) -> list[AgainstKind]:
    """Compare predictors, given by their names, with the rate of the same kind."""
    known = {**scores, KIND: rates_of_kinds(sample)}
    return [AgainstKind(name, head_to_head(sample, known, name, KIND)) for name in names]
