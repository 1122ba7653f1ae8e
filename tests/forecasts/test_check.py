"""The check of a leap against loops that leave the path of their fit."""

from __future__ import annotations

import pytest
import torch

from loopscope import FunctionLoop
from loopscope.forecasts.check import MOVING, check
from loopscope.forecasts.leaps import leap_through, run

INPUTS = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]], dtype=torch.float64)


def of(step):
    return FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)


def checked(step, inputs=INPUTS, orbit=15, landing=100):
    loop = of(step)
    states = run(loop, inputs, [loop.start(inputs)], orbit)[-6:]
    return check(leap_through(loop, inputs, states, orbit, (landing,))[-1])


@pytest.mark.parametrize("rate", [0.5, 0.99, 1.0, -1.0])
def test_a_leap_of_a_linear_loop_passes(rate):
    found = checked(lambda z, e: rate * z + e)
    assert found.passed.all()
    torch.testing.assert_close(found.change, found.expected, rtol=1e-6, atol=1e-12)
    assert (found.off < 1e-9).all()


def test_a_cycle_that_the_fit_follows_passes():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    assert checked(lambda z, e: z @ turn.T + e).passed.all()


@pytest.mark.parametrize("rate", [1.01, 1.05, 1.1])
def test_a_growing_mode_does_not_pass(rate):
    found = checked(lambda z, e: rate * z + e)
    assert not found.passed.any()
    torch.testing.assert_close(found.growth, torch.full_like(found.growth, rate**85), rtol=1e-6, atol=0)


def test_a_state_that_moves_more_than_the_fit_says_does_not_pass():
    """Up to 2 the state contracts to 2.1; beyond 2.05 it moves by 1% of itself, which no earlier change tells."""
    found = checked(lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, z + 0.02))
    assert (found.expected < 1e-4).all()
    assert (found.change > MOVING).all()
    assert not found.passed.any()


def test_a_state_that_moves_less_than_a_thousandth_counts_as_at_rest():
    found = checked(lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, z + 0.0005))
    assert (found.change > 2 * found.expected).all()
    assert found.passed.all()


def test_a_state_that_leaves_where_the_leap_landed_does_not_pass():
    """The leap lands near 2.1, in the basin of 4, and is at rest there within the true steps."""
    found = checked(lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, 4 + 1e-3 * (z - 4)))
    assert (found.change < MOVING).all()
    assert (found.off > 0.1).all()
    assert not found.passed.any()


def test_a_state_that_is_not_finite_does_not_pass():
    found = checked(lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, torch.inf))
    assert not found.passed.any()


@pytest.mark.parametrize(
    ("step", "on_path", "steady"),
    [
        (lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, z + 0.02), True, True),
        (lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, 4 + 1e-3 * (z - 4)), False, False),
        (lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, 4.2 - z), True, False),
        (lambda z, e: torch.where(z < 2.05, 0.9 * z + 0.21, torch.inf), False, False),
        (lambda z, e: 1.05 * z + e, True, False),
    ],
    ids=["moves on", "lands elsewhere", "swings", "is not finite", "grows"],
)
def test_a_steady_state_moves_on_smoothly_from_where_the_fit_says(step, on_path, steady):
    found = checked(step)
    assert bool(found.on_path.all()) == bool(found.on_path.any()) == on_path
    assert bool(found.steady.all()) == bool(found.steady.any()) == steady


def test_each_example_is_checked_by_itself():
    rates = torch.tensor([[0.5], [1.05], [0.9]], dtype=torch.float64)
    assert checked(lambda z, e: rates * z + e).passed.tolist() == [True, False, True]


def test_padding_has_no_part_in_a_check():
    mask = torch.tensor([[True, False]])
    inputs = torch.ones(1, 2, 1, dtype=torch.float64)
    rates = torch.tensor([[[0.5], [1.2]]], dtype=torch.float64)
    loop = of(lambda z, e: rates * z + e)
    states = run(loop, inputs, [torch.zeros_like(inputs)], 15)[-6:]
    leaps = leap_through(loop, inputs, states, 15, (100,), mask)
    assert check(leaps[-1], mask).passed.all()
    assert not check(leaps[-1]).passed.any()
