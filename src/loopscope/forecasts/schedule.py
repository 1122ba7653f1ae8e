"""How a budget of true steps is spent: in rounds, each of which runs the orbit on and ends in leaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loopscope.errors import LoopscopeError
from loopscope.forecasts.leaps import SETTLING

FIRST = 30
"""True steps of the first round, leaps included."""
CONFIRMING = 2
"""Factor by which the total of true steps grows in a round that confirms the answer of the one before."""
SEARCHING = 4
"""The same after a round that cannot tell: a longer orbit is worth more than many leaps."""
FARTHEST = 3.2
"""A leap ends at no more than this many times the iteration at which it starts."""
FEWEST = SETTLING + 1
"""True steps before the first leap, at least: what a leap is fitted to."""
LONGER = 1.5
"""A further round is worth its leaps if the orbit is this many times as long."""


@dataclass(frozen=True)
class Plan:
    """One round: the orbit is run on to an iteration, and leaps go from there to the horizon.

    Args:
        orbit: the last iteration that is run.
        landings: where the leaps land; none where the orbit itself reaches the horizon.
    """

    orbit: int
    landings: tuple[int, ...]

    @property
    def steps(self) -> int:
        """True steps that its leaps cost."""
        return SETTLING * len(self.landings)


def plan_of(orbit: int, horizon: int) -> Plan:
    """Return the round that leaps from an iteration to the horizon, in equal ratios of at most ``FARTHEST``."""
    if orbit + SETTLING >= horizon:
        return Plan(horizon, ())
    ratio = horizon / orbit
    count = max(1, math.ceil(math.log(ratio, FARTHEST) - 1e-9))
    return Plan(orbit, tuple(round(orbit * ratio ** (place / count)) for place in range(1, count + 1)))


def first_round(horizon: int, steps: int, trained: int = 0) -> Plan:
    """Return the first round of a forecast.

    Args:
        horizon: the iteration that is asked about.
        steps: true steps that may be spent in all.
        trained: iterations in training: the first leap does not start earlier, if the budget allows.

    Raises:
        LoopscopeError: the steps are too few for a single round.
    """
    least = min(
        plan.orbit + plan.steps
        for orbit in range(min(FEWEST, horizon), horizon + 1)
        for plan in [plan_of(orbit, horizon)]
    )
    total = max(FIRST, least, trained + plan_of(max(trained, FEWEST), horizon).steps)
    plan = _longest(horizon, min(total, steps), 0)
    if plan is None:
        raise LoopscopeError(
            f"the budget allows {steps} true steps to forecast {horizon} iterations, expected at least {least}: raise budget"
        )
    return plan


def next_round(horizon: int, steps: int, made: Sequence[Plan], decided: bool) -> Plan | None:
    """Return the round that follows others; None where the budget allows no orbit that is much longer.

    Args:
        horizon: the iteration that is asked about.
        steps: true steps that may be spent in all.
        made: the rounds before.
        decided: whether the last one could tell.
    """
    leaps = sum(plan.steps for plan in made)
    total = (CONFIRMING if decided else SEARCHING) * (made[-1].orbit + leaps)
    plan = _longest(horizon, min(total, steps), leaps)
    return plan if plan is not None and plan.orbit >= LONGER * made[-1].orbit else None


def _longest(horizon: int, total: int, spent: int) -> Plan | None:
    """Return the round with the longest orbit that ``total`` steps pay for, ``spent`` of them on earlier leaps."""
    plans = (plan_of(orbit, horizon) for orbit in range(min(total - spent, horizon), min(FEWEST, horizon) - 1, -1))
    return next((plan for plan in plans if plan.orbit + plan.steps + spent <= total), None)
