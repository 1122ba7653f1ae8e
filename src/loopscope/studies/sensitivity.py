"""How far fates hang on the iteration at which they are read: an oscillator may be right there by luck of its phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loopscope.forecasts.result import HOLDS
from loopscope.studies.outcomes import Fate, Outcome
from loopscope.studies.population import Member, ThinCurve

LATE = 300
"""The iteration from which on a model that holds is to have held all along."""


@dataclass(frozen=True)
class Swing:
    """A model that holds at the last iteration, but not at all late ones.

    Args:
        run: its name.
        task: its task.
        fate: what became of it.
        kept: easy accuracy at the last iteration over its best.
        worst: the lowest from ``LATE`` on, over its best.
    """

    run: str
    task: str
    fate: Fate
    kept: float
    worst: float


def worst_late(curve: ThinCurve) -> float:
    """Return the lowest accuracy that a curve keeps from ``LATE`` on; that of the last iteration where it ends before."""
    late = [one for at, one in zip(curve.iterations, curve.accuracy, strict=True) if at >= LATE]
    return min([*late, curve.last])


def swings(members: Sequence[Member], became: Sequence[Outcome]) -> list[Swing]:
    """Return the models that hold by their last iteration and would not by their worst late one."""
    found = []
    for member, end in zip(members, became, strict=True):
        if not end.holds or member.easy is None or end.kept is None:
            continue
        worst = worst_late(member.easy) / member.easy.best
        if worst < HOLDS:
            found.append(Swing(member.run, member.task, end.fate, end.kept, worst))
    return found
