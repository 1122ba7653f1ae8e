"""How budgets of true steps are spent."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopscope.errors import LoopscopeError
from loopscope.forecasts.leaps import SETTLING
from loopscope.forecasts.schedule import FARTHEST, SHORTEST_ORBIT, Plan, first_round, next_round, plan_of


def rounds(horizon: int, steps: int, trained: int = 0, *, decided: bool = True) -> list[Plan]:
    """Return all rounds that a budget allows, where each can tell or none can."""
    plans = [first_round(horizon, steps, trained)]
    while (plan := next_round(horizon, steps, plans, decided=decided)) is not None:
        plans.append(plan)
    return plans


def cost(plans) -> int:
    return plans[-1].orbit + sum(plan.steps for plan in plans)


def test_rounds_that_can_tell_are_confirmed_by_twice_the_steps():
    plans = rounds(480, 96)
    assert [plan.orbit for plan in plans] == [15, 30, 56]
    assert [cost(plans[: last + 1]) for last in range(3)] == [30, 60, 96]
    assert plans[0].landings == (48, 151, 480)


def test_after_a_round_that_cannot_tell_the_orbit_is_run_further():
    plans = rounds(4800, 960, decided=False)
    assert [cost(plans[: last + 1]) for last in range(4)] == [36, 144, 576, 960]
    assert [plan.orbit for plan in rounds(480, 96, decided=False)] == [15, 71]


def test_no_leap_starts_before_training_ended():
    assert [plan.orbit for plan in rounds(480, 96, trained=30)] == [30, 65]
    assert [plan.orbit for plan in rounds(480, 96, trained=60)] == [60]
    assert [plan.orbit for plan in rounds(480, 96, trained=4)] == [15, 30, 56]


def test_a_far_horizon_is_planned_at_once():
    plans = rounds(10**9, 2 * 10**8)
    assert plans[0].landings[-1] == 10**9
    assert plans[0].orbit < 30


def test_a_budget_that_reaches_the_horizon_needs_no_leap():
    assert rounds(30, 30)[-1] == plan_of(30, 30)
    assert rounds(30, 30)[-1].landings == ()


@pytest.mark.parametrize(("horizon", "steps"), [(480, 20), (64, 12), (16, 5)])
def test_too_small_a_budget_is_refused_with_the_least_that_will_do(horizon, steps):
    with pytest.raises(LoopscopeError, match=rf"allows {steps} true steps to forecast {horizon} iterations") as refusal:
        rounds(horizon, steps)
    least = int(str(refusal.value).split("at least ")[1].split(":")[0])
    assert cost(rounds(horizon, least)) == least
    with pytest.raises(LoopscopeError):
        rounds(horizon, least - 1)


@given(st.integers(2, 5000), st.floats(0.05, 1), st.integers(1, 100), st.booleans())
def test_every_round_is_within_the_budget_and_leaps_no_farther_than_allowed(horizon, budget, trained, decided):
    steps = int(budget * horizon)
    try:
        plans = rounds(horizon, steps, trained, decided=decided)
    except LoopscopeError:
        assert all(
            steps < plan.orbit + plan.steps
            for orbit in range(min(SHORTEST_ORBIT, horizon), horizon + 1)
            for plan in [plan_of(orbit, horizon)]
        )
        return
    assert cost(plans) <= steps
    for plan in plans:
        stops = (plan.orbit, *plan.landings)
        assert stops[-1] == horizon
        assert plan.orbit >= min(SHORTEST_ORBIT, horizon)
        for before, after in pairwise(stops):
            assert before + SETTLING <= after <= 1.05 * FARTHEST * before
    for before, after in pairwise(plans):
        assert after.orbit > before.orbit
