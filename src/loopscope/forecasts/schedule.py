"""The schedule of a forecast: rounds of true steps, each of which runs the orbit on and ends in leaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loopscope.errors import LoopscopeError
from loopscope.forecasts.leaps import SETTLING

FIRST = 30
"""Number of true steps in the first round, including those after leaps."""
CONFIRMING = 2
"""Factor by which the total number of true steps grows in a round that confirms the one before."""
SEARCHING = 4
"""The same factor after a round that cannot tell, because a longer orbit then helps more than another round."""
FARTHEST = 3.2
"""Largest ratio of the iteration at which a leap ends to the one at which it starts."""
SHORTEST_ORBIT = SETTLING + 1
"""Smallest number of true steps before the first leap, which is fitted to them."""
LONGER = 1.5
"""Smallest factor by which a further round must lengthen the orbit to be worth its leaps."""


@dataclass(frozen=True)
class Plan:
    """The plan of one round: the orbit is run to an iteration, and leaps go from there to the horizon.

    Args:
        orbit: the last iteration that is run.
        landings: the iterations at which leaps end. Empty if the orbit itself reaches the horizon.
    """

    orbit: int
    landings: tuple[int, ...]

    @property
    def steps(self) -> int:
        """The number of true steps after its leaps."""
        return SETTLING * len(self.landings)


def plan_of(orbit: int, horizon: int) -> Plan:
    """Return the round with leaps from an iteration to the horizon, in equal ratios of at most ``FARTHEST``."""
    if orbit + SETTLING >= horizon:
        return Plan(horizon, ())
    ratio = horizon / orbit
    count = max(1, math.ceil(math.log(ratio, FARTHEST) - 1e-9))
    return Plan(orbit, tuple(round(orbit * ratio ** (place / count)) for place in range(1, count + 1)))


def first_round(horizon: int, steps: int, trained: int = 0) -> Plan:
    """Return the first round of a forecast.

    Args:
        horizon: the iteration to forecast.
        steps: largest number of true steps over all rounds.
        trained: number of iterations in training. The first leap does not start earlier, if the budget allows.

    Raises:
        LoopscopeError: ``steps`` is too small for a single round.
    """
    least = fewest_steps(horizon)
    total = max(FIRST, least, trained + plan_of(max(trained, SHORTEST_ORBIT), horizon).steps)
    plan = _longest(horizon, min(total, steps), 0)
    if plan is None:
        raise LoopscopeError(
            f"the budget allows {steps} true steps to forecast {horizon} iterations, expected at least {least}: raise the budget"
        )
    return plan


def next_round(horizon: int, steps: int, made: Sequence[Plan], *, decided: bool) -> Plan | None:
    """Return the next round, or None if the budget does not allow a much longer orbit.

    Args:
        horizon: the iteration to forecast.
        steps: largest number of true steps over all rounds.
        made: the rounds before.
        decided: whether the last of these could tell.
    """
    leaps = sum(plan.steps for plan in made)
    total = (CONFIRMING if decided else SEARCHING) * (made[-1].orbit + leaps)
    plan = _longest(horizon, min(total, steps), leaps)
    return plan if plan is not None and plan.orbit >= LONGER * made[-1].orbit else None


def fewest_steps(horizon: int) -> int:
    """Return the number of true steps of the cheapest round."""
    fewest, orbit = horizon + 1, min(SHORTEST_ORBIT, horizon)
    while orbit < fewest:
        plan = plan_of(orbit, horizon)
        fewest, orbit = min(fewest, plan.orbit + plan.steps), orbit + 1
    return fewest


def _longest(horizon: int, total: int, spent: int) -> Plan | None:
    """Return the round with the longest orbit that ``total`` steps allow, if earlier leaps have taken ``spent`` of them."""
    plans = (
        plan_of(orbit, horizon) for orbit in range(min(total - spent, horizon), min(SHORTEST_ORBIT, horizon) - 1, -1)
    )
    return next((plan for plan in plans if plan.orbit + plan.steps + spent <= total), None)
