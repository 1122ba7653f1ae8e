"""Leaps against loops whose state at any iteration is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopscope.errors import LoopscopeError
from loopscope.forecasts.fit import fit, sum_of_powers, surprise
from loopscope.forecasts.leaps import LANDINGS, leap, leap_through, leaps, run
from loopscope.loop import FunctionLoop, iterate

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
    assert steps[0] == 30 + 4  # four check the loop
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
    found = sum_of_powers(torch.tensor([rate], dtype=torch.complex128), count)
    torch.testing.assert_close(found, torch.tensor([sum(powers)], dtype=torch.complex128), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rate", [1.01, 1.05, 1.1])
def test_a_fit_lets_growing_modes_grow(rate):
    """The old leap held a mode of 1.05 to its present pace, which is a straight line: 1.05^400 is 3e8."""
    loop = linear(rate * torch.eye(2, dtype=torch.float64))
    orbit = run(loop, INPUTS, [INPUTS], 5)
    true = iterate(loop, orbit[-1], INPUTS, 400)
    torch.testing.assert_close(orbit[-1] + fit(orbit).further(400), true, rtol=1e-6, atol=0)
    assert float(fit(orbit).change(400).norm()) == pytest.approx(
        rate**400 * float((orbit[-1] - orbit[-2]).norm()), 1e-6
    )
    held = fit(orbit).held()
    torch.testing.assert_close(held.change(400), orbit[-1] - orbit[-2], rtol=1e-6, atol=0)


def test_a_fit_lets_a_spiral_grow():
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    loop = linear(1.02 * turn)
    orbit = run(loop, INPUTS, [INPUTS], 5)
    true = iterate(loop, orbit[-1], INPUTS, 200)
    torch.testing.assert_close(orbit[-1] + fit(orbit).further(200), true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18])
def test_a_fit_does_not_depend_on_the_scale_of_the_state(scale):
    loop = linear(torch.diag(torch.tensor([0.9, 0.5])))
    inputs = INPUTS.float() * scale
    orbit = run(loop, inputs, [torch.zeros_like(inputs)], 5)
    true = iterate(loop, orbit[-1], inputs, 200)
    torch.testing.assert_close(leap(orbit, 200) / scale, true / scale, rtol=1e-4, atol=1e-5)


def test_a_change_within_rounding_does_not_move_the_state():
    """A float32 state of size 1 that flickers in its last digits has no mode to be followed."""
    orbit = [torch.tensor([[1.0 + 1e-7 * (t % 2) + 5e-8 * t]]) for t in range(6)]
    assert leap(orbit, 480).item() == pytest.approx(1.0, abs=1e-6)


def test_leaps_land_where_they_are_told_to():
    loop, steps = counting(linear(0.95 * torch.eye(2, dtype=torch.float64)))
    orbit = run(loop, INPUTS, [torch.zeros_like(INPUTS)], 10)
    made = leap_through(loop, INPUTS, orbit[-6:], 10, (30, 100))
    assert [(one.start, one.end) for one in made] == [(10, 30), (30, 100)]
    assert steps[0] == 10 + 2 * 5
    true = iterate(loop, torch.zeros_like(INPUTS), INPUTS, 100)
    torch.testing.assert_close(made[-1].settled[-1], true, rtol=1e-9, atol=1e-9)
    assert made[-1].landing.iteration == 100
    assert len(made[-1].landing.before) == 2
    torch.testing.assert_close(
        made[-1].at(50), iterate(loop, torch.zeros_like(INPUTS), INPUTS, 50), rtol=1e-7, atol=1e-7
    )


def test_what_wanders_is_not_taken_to_grow():
    """A chaotic orbit seems to grow by a factor at times; its own past does not foresee its next change."""
    start = torch.linspace(0.1, 0.9, 64, dtype=torch.float64).unsqueeze(1)
    loop = FunctionLoop(lambda x: x, torch.clone, lambda z, e: 3.9 * z * (1 - z), lambda z: z)
    orbit = run(loop, start, [start], 15)
    assert float(fit(orbit[-6:]).rates.abs().max()) > 1.1
    assert float(surprise(orbit[-6:]).median()) > 0.1
    (made,) = leap_through(loop, start, orbit[-6:], 15, (480,))
    wild = surprise(orbit[-6:]) > 0.1
    assert made.fit.rates[wild].abs().max() <= 1 + 1e-12
    growing = run(linear(1.05 * torch.eye(2, dtype=torch.float64)), INPUTS, [INPUTS], 6)
    assert float(surprise(growing).max()) < 1e-9


def test_too_few_states_are_refused(unchecked):
    with pytest.raises(LoopscopeError, match="got 2 states, expected at least 3"):
        leap([INPUTS, INPUTS], 3)
    with pytest.raises(LoopscopeError, match="iterations is 0, expected a whole number above 0"):
        leap([INPUTS] * 3, 0)


def test_a_first_state_that_is_not_one_for_each_input_is_refused():
    loop = FunctionLoop(lambda x: x, lambda e: torch.zeros(1, 2).double(), lambda z, e: z, lambda z: z)
    with pytest.raises(LoopscopeError, match="got 1 states for 3 inputs"):
        leaps(loop, INPUTS)


def test_a_loop_that_counts_or_is_random_is_refused():
    counts = FunctionLoop(
        lambda x: x,
        lambda e: (e, torch.zeros(len(e), dtype=torch.long)),
        lambda state, e: (state[0], state[1] + 1),
        lambda state: state[0],
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
