"""The cost of predictors by task. Where running on is cheap, so must a prediction be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.prediction.analysis.predictors import ALL_AXES, BY_NAME, REACHABILITY, RESTARTS
from experiments.prediction.analysis.statistics import known_median
from experiments.prediction.population import Member
from experiments.prediction.signals import AT_BUDGET, FORECAST_KEPT, LONG_RUN, SAME_STEPS

COSTED = (FORECAST_KEPT, SAME_STEPS, f"{LONG_RUN}{AT_BUDGET}", RESTARTS, REACHABILITY, ALL_AXES)
"""The predictors whose cost is reported by task."""


@dataclass(frozen=True)
class Cost:
    """The cost of a predictor.

    Args:
        name: name of the predictor.
        shares: median of its time over the time of running on, by task; None if that was not measured.
    """

    name: str
    shares: dict[str, float | None]


def costs(members: Sequence[Member]) -> list[Cost]:
    """Return the cost of each predictor in ``COSTED``."""
    tasks = list(dict.fromkeys(member.task for member in members))
    return [
        Cost(
            name,
            {
                task: known_median(BY_NAME[name].share(member) for member in members if member.task == task)
                for task in tasks
            },
        )
        for name in COSTED
    ]
