"""Residuals and restarts of loops whose every orbit is known."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.prediction.restarts import after_random_start, after_swap, run_pass, slope, slowest_tokens
from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop

INPUTS = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 2.0]])


def toward_own(factor: float) -> FunctionLoop:
    """Return z -> factor z + e, which goes to e / (1 - factor) from anywhere; the answer is the larger of two numbers."""
    return FunctionLoop(
        lambda x: x,
        torch.zeros_like,
        lambda state, e: factor * state + e,
        lambda state: state.unsqueeze(1),
    )


STAYS = FunctionLoop(lambda x: x, lambda e: e, lambda state, e: state, lambda state: state.unsqueeze(1))


@pytest.mark.parametrize(("factor", "iterations"), [(0.5, 20), (0.9, 60), (-0.3, 12)])
def test_the_residual_of_a_contraction_falls_by_its_factor(factor, iterations):
    seen = run_pass(toward_own(factor), INPUTS, iterations)
    # The state's norm has all but settled, so that the residual falls as the change does.
    assert slope(seen.residual[:3]).tolist() == pytest.approx([math.log10(abs(factor))] * 3, rel=0.05)
    assert len(seen.residual) == iterations // 2


def test_a_pass_ends_where_the_loop_does():
    seen = run_pass(toward_own(0.5), INPUTS, 3)
    assert torch.allclose(seen.last, 1.75 * INPUTS)
    assert torch.allclose(seen.before, 1.5 * INPUTS)
    assert seen.residual.tolist() == [pytest.approx([1 / 3] * 3), pytest.approx([1 / 7] * 3)]
    assert slope(run_pass(STAYS, INPUTS, 1).residual).isnan().all()
    with pytest.raises(LoopscopeError, match="iterations"):
        run_pass(STAYS, INPUTS, 0)


def test_a_state_that_diverged_keeps_no_answer_and_has_no_slowest_tokens():
    """Squares from 1 stay, those from 3 leave the numbers within ten steps; each readout of theirs would be the same."""
    squares = FunctionLoop(
        lambda x: x, lambda e: e, lambda state, e: state * state * e, lambda state: (state - state).unsqueeze(1)
    )
    inputs = torch.tensor([[1.0, 1.0], [3.0, 1.0]])
    seen = run_pass(squares, inputs, 10)
    assert slowest_tokens(squares, seen).isnan().tolist() == [False, True]
    assert after_random_start(toward_own(0.5), run_pass(toward_own(0.5), inputs, 4), 4).same_answer.all()
    assert after_swap(squares, seen, 10).same_answer.tolist() == [False, False]


def test_a_swapped_state_comes_home_or_stays():
    """Z -> z/2 + e goes to its own fixed point 2 e, by half each step; z -> z stays where it is put."""
    home = FunctionLoop(lambda x: x, lambda e: 2 * e, lambda state, e: state / 2 + e, lambda state: state.unsqueeze(1))
    came = after_swap(home, run_pass(home, INPUTS, 4), 4)
    assert came.left.tolist() == pytest.approx([2**-4] * 3)
    assert came.same_answer.all()
    stayed = after_swap(STAYS, run_pass(STAYS, INPUTS, 4), 4)
    assert stayed.left.tolist() == [1, 1, 1]
    assert stayed.same_answer.tolist() == [False, True, False]
    same = torch.ones(2, 2)
    assert after_swap(STAYS, run_pass(STAYS, same, 4), 4).left.isnan().all()


def test_a_random_start_comes_home_or_stays():
    home = toward_own(0.5)
    came = after_random_start(home, run_pass(home, INPUTS, 20), 20)
    assert (came.left < 1e-5).all()
    assert came.same_answer.all()
    stayed = after_random_start(STAYS, run_pass(STAYS, INPUTS, 4), 4)
    assert stayed.left.tolist() == [1, 1, 1]


def test_the_slowest_tokens_are_those_that_still_move_and_padding_is_none():
    """One token of ten turns round at each step; ten padded ones do so too and are not counted."""
    turning = torch.ones(2, 20, 1)
    turning[:, 9:] = -1
    loop = FunctionLoop(
        lambda x: x,
        torch.ones_like,
        lambda state, e: e * state,
        lambda state: torch.cat([state, -state], -1),
        padding=lambda e: torch.arange(20).expand(2, 20) < 10,
    )
    seen = run_pass(loop, turning, 4)
    # Of ten numbers, nine zeros and a two: the quantile at 0.9 lies a tenth of the way from the last zero.
    assert slowest_tokens(loop, seen).tolist() == pytest.approx([0.2] * 2)
    assert after_swap(loop, seen, 1).same_answer.tolist() == [False, False]
    assert after_swap(loop, seen, 2).same_answer.tolist() == [True, True]
