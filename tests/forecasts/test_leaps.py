"""Leaps against loops whose state at any iteration is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop, iterate
from loopscope.stability.leaps import LANDINGS, _sum_of_powers, leap, leaps

INPUTS = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 2.0]], dtype=torch.float64)


def linear(matrix) -> FunctionLoop:
    """Return z -> A z + e."""
    return FunctionLoop(lambda x: x, torch.zeros_like, lambda state, e: state @ matrix.T + e, lambda state: state)


def counting(loop: FunctionLoop) -> tuple[FunctionLoop, list[int]]:
    steps = [0]

    def step(state, recalled):
        steps[0] += 1
        return loop.step(state, recalled)

    return FunctionLoop(loop.encode, loop.start, step, loop.read), steps


@given(st.floats(-1, 1), st.integers(1, 500))
def test_a_geometric_orbit_is_met_exactly(ratio, iterations):
    """Changes that keep one ratio, from a drift (1) over a slow contraction to a cycle of two (-1), add up to a sum."""
    loop = linear(ratio * torch.eye(2, dtype=torch.float64))
    orbit = [torch.zeros_like(INPUTS)]
    for _ in range(iterations + 4):
        orbit.append(loop.step(orbit[-1], INPUTS))
    landed = leap(orbit[2:5], iterations)
    torch.testing.assert_close(landed, orbit[4 + iterations], rtol=1e-7, atol=1e-7)


def test_each_orbit_leaps_with_a_ratio_of_its_own_and_a_still_one_stays():
    rates = torch.tensor([[0.9], [0.99], [1.0]], dtype=torch.float64)
    loop = FunctionLoop(
        encode=lambda x: (rates, x),
        start=lambda e: torch.zeros_like(e[1]),
        step=lambda state, e: e[0] * state + e[1],
        read=lambda state: state,
    )
    landings = leaps(loop, loop.encode(INPUTS))
    true = iterate(loop, torch.zeros_like(INPUTS), loop.encode(INPUTS), 480)
    torch.testing.assert_close(landings[-1].state, true, rtol=1e-9, atol=1e-9)
    still = torch.zeros_like(INPUTS)
    assert torch.equal(leap([still, still, still], 100), still)


def test_thirty_steps_see_480_iterations_of_fast_and_slow_parts():
    """The slow mode of 0.995 decides where the orbit is; a mode of -0.5 and a turning one settle after each leap."""
    matrix = torch.diag(torch.tensor([0.995, -0.5, 0.0, 0.0], dtype=torch.float64))
    matrix[2:, 2:] = 0.3 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    inputs = torch.tensor([[1.0, 4.0, -3.0, 2.0]], dtype=torch.float64)
    loop, steps = counting(linear(matrix))
    landings = leaps(loop, inputs)
    assert steps[0] == 30 + 1
    assert tuple(landing.iteration for landing in landings) == LANDINGS == (15, 48, 152, 480)
    state = torch.zeros_like(inputs)
    done = 0
    for landing in landings:
        state, done = iterate(loop, state, inputs, landing.iteration - done), landing.iteration
        assert float((landing.state - state).norm() / state.norm()) < 1e-5


def test_what_grows_is_taken_to_drift_and_what_is_not_finite_does_not_leap():
    loop = linear(1.1 * torch.eye(2, dtype=torch.float64))
    orbit = [INPUTS, loop.step(INPUTS, INPUTS)]
    orbit.append(loop.step(orbit[-1], INPUTS))
    torch.testing.assert_close(leap(orbit, 10), orbit[2] + 10 * (orbit[2] - orbit[1]))
    broken = torch.tensor([[torch.inf, 0.0], [1.0, 1.0]])
    assert torch.equal(leap([broken, broken, broken], 10), broken)


def test_an_orbit_that_is_not_finite_leaves_the_others_their_leap():
    still_good = torch.tensor([[torch.inf, 0.0], [1.0, 1.0]])
    landed = leap([still_good, still_good + 1, still_good + 2], 10)
    assert landed.tolist() == [[torch.inf, 2.0], [13.0, 13.0]]


@given(st.complex_numbers(max_magnitude=1), st.integers(1, 500))
def test_a_sum_of_powers_is_the_sum_of_the_powers(rate, count):
    powers = [rate**exponent for exponent in range(1, count + 1)]
    found = _sum_of_powers(torch.tensor([rate], dtype=torch.complex128), count)
    torch.testing.assert_close(found, torch.tensor([sum(powers)], dtype=torch.complex128), rtol=1e-10, atol=1e-10)


def test_a_loop_that_counts_or_is_random_is_refused():
    counts = FunctionLoop(
        lambda x: x,
        lambda e: (e, torch.zeros(len(e), dtype=torch.long)),
        lambda state, e: (state[0], state[1] + 1),
        str,
    )
    with pytest.raises(LoopscopeError, match="counter"):
        leaps(counts, INPUTS)
    noisy = FunctionLoop(
        lambda x: x, torch.zeros_like, lambda state, e: state + torch.randn_like(e), lambda state: state
    )
    with pytest.raises(LoopscopeError, match="random"):
        leaps(noisy, INPUTS)


def test_a_state_in_half_precision_is_refused():
    """Its slowest modes stall where a change rounds to nothing, which no leap sees."""
    coarse = FunctionLoop(lambda x: x.bfloat16(), torch.zeros_like, lambda state, e: 0.995 * state + e, str)
    with pytest.raises(LoopscopeError, match=r"expected a state in float32 or float64, got .*bfloat16"):
        leaps(coarse, INPUTS.bfloat16())


def test_padding_has_no_part_in_the_ratio_and_stays():
    """Padded tokens swing widely; the real token drifts, and leaps as if it were alone."""
    mask = torch.tensor([[True, False]])
    orbit = [torch.tensor([[[float(t)], [(-1.0) ** t * 100]]]) for t in range(3)]
    landed = leap(orbit, 7, mask)
    assert landed.flatten().tolist() == [9.0, 100.0]
