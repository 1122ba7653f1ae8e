"""Models whose outcome depends on the iteration at which accuracy is read, because their accuracy oscillates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.prediction.analysis.outcomes import RETAINED, Outcome, Result
from experiments.prediction.population import Member, ThinCurve

LATE = 300
"""Iterations from this one on count as late."""


@dataclass(frozen=True)
class Fluctuation:
    """A model that retains its accuracy at the last iteration, but not at every late one.

    Args:
        run: name of the run.
        task: the task.
        outcome: the outcome.
        retained: easy accuracy at the last iteration over its best.
        lowest: lowest easy accuracy from iteration ``LATE`` on over its best.
    """

    run: str
    task: str
    outcome: Outcome
    retained: float
    lowest: float


def lowest_late(curve: ThinCurve) -> float:
    """Return the lowest accuracy in a curve from iteration ``LATE`` on, or the last if the curve ends before."""
    late = [one for at, one in zip(curve.iterations, curve.accuracy, strict=True) if at >= LATE]
    return min([*late, curve.last])


def fluctuations(members: Sequence[Member], results: Sequence[Result]) -> list[Fluctuation]:
    """Return the models that retain their accuracy at the last iteration but not at their worst late one."""
    found = []
    for member, result in zip(members, results, strict=True):
        if not result.retains or member.easy is None or result.retained is None:
            continue
        lowest = lowest_late(member.easy) / member.easy.best
        if lowest < RETAINED:
            found.append(Fluctuation(member.run, member.task, result.outcome, result.retained, lowest))
    return found
