"""What a forecast costs, task by task: where running on itself is short, little is dear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loopscope.studies.population import Member
from loopscope.studies.predictors import ALL_AXES, LOOK, PREDICTORS, REACHABILITY
from loopscope.studies.signals import AT_FURTHER, LEAP_KEPT, LONG_RUN
from loopscope.studies.statistics import middle_known

COSTED = (LEAP_KEPT, f"{LONG_RUN}{AT_FURTHER}", LOOK, REACHABILITY, ALL_AXES)
"""The predictors whose cost is given by task."""


@dataclass(frozen=True)
class Cost:
    """What a predictor costs.

    Args:
        name: the predictor's.
        shares: median share of the time of running on, by task; None where it was not measured.
    """

    name: str
    shares: dict[str, float | None]


def costs(members: Sequence[Member]) -> list[Cost]:
    """Return what forecasts of some models cost by task."""
    by_name = {one.name: one for one in PREDICTORS}
    tasks = list(dict.fromkeys(member.task for member in members))
    return [
        Cost(
            name,
            {
                task: middle_known(by_name[name].share(member) for member in members if member.task == task)
                for task in tasks
            },
        )
        for name in COSTED
    ]
