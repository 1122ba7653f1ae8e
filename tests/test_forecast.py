"""Forecasts of loops whose answers at any iteration are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from loopscope.errors import LoopscopeError
from loopscope.forecasts.forecast import Forecast, Point, fall, forecast
from loopscope.loop import FunctionLoop

INPUTS = torch.arange(1.0, 9.0).reshape(8, 1, 1)
CLASSES = torch.zeros(8, 1, dtype=torch.long)


def drifting(until: float) -> FunctionLoop:
    """Return a loop whose state grows by 1 a step, read as class 0 before ``until`` and as class 1 from there on."""
    return FunctionLoop(
        encode=lambda inputs: inputs,
        start=torch.zeros_like,
        step=lambda state, e: state + 1,
        read=lambda state: torch.cat([until - state, state - until], dim=2),
    )


def test_a_drift_is_followed_to_where_its_answers_are_lost():
    said = forecast(drifting(100.5), INPUTS, CLASSES, trained_iterations=8)
    assert [point.iteration for point in said.points] == [8, 15, 48, 152, 480]
    assert [point.leapt for point in said.points] == [False, False, True, True, True]
    assert [point.right for point in said.points] == [point.same for point in said.points] == [1, 1, 1, 0, 0]
    assert said.collapse == pytest.approx(math.sqrt(48 * 152))
    assert (said.kept, said.keeps, said.inputs) == (0, False, 8)
    assert str(said) == (
        "will lose answers by 480 iterations: 0% of its best accuracy is left there, and fall below half of its best after about 85"
    )


@pytest.mark.parametrize(("trained", "first"), [(None, [15]), (3, [3, 15]), (15, [15]), (30, [15])])
def test_the_first_point_is_where_training_ended_or_at_fifteen(trained, first):
    said = forecast(drifting(1e6), INPUTS, CLASSES, trained)
    assert [point.iteration for point in said.points] == [*first, 48, 152, 480]
    assert (said.kept, said.keeps, said.collapse) == (1, True, None)
    assert str(said) == "will keep its answers to 480 iterations: 100% of its best accuracy is left there"


def test_without_targets_answers_are_compared_with_the_first():
    lost = forecast(drifting(100.5), INPUTS)
    assert (lost.kept, lost.keeps, lost.collapse) == (0, False, None)
    assert str(lost) == "will not keep the answers of iteration 15 to 480 iterations: 0% are the same there"
    assert [point.right for point in lost.points] == [None] * 4
    assert forecast(drifting(1e6), INPUTS).keeps


@pytest.mark.parametrize("targets", [None, CLASSES])
def test_a_cycle_that_ends_where_it_began_is_not_said_to_keep_every_answer(targets):
    """A cycle of three: 15, 48 and 480 are multiples of its period, 152 is not."""
    turn = torch.roll(torch.eye(3), 1, 0)
    loop = FunctionLoop(lambda x: x, lambda e: turn[:1].expand(8, 1, 3), lambda z, e: z @ turn, lambda z: z @ turn.mT)
    said = forecast(loop, INPUTS, targets)
    assert [point.same for point in said.points] == [1, 1, 0, 1]
    assert said.dip == (152, 0)
    assert str(said).endswith("there, but 0% at 152: the answer depends on when one stops")
    assert forecast(drifting(1e6), INPUTS, targets).dip is None
    assert forecast(drifting(100.5), INPUTS, targets).dip == (152, 0)
    assert forecast(drifting(200.5), INPUTS, targets).dip is None


def cycle(length: int, right: set[int]) -> FunctionLoop:
    """Return a loop that goes round ``length`` states, and reads class 0 in the ``right`` ones, else class 1."""
    turn = torch.roll(torch.eye(length), 1, 0).mT
    classes = torch.tensor([[1.0, 0.0] if phase in right else [0.0, 1.0] for phase in range(length)])
    return FunctionLoop(
        lambda x: x, lambda e: turn[-1:].expand(8, 1, length), lambda z, e: z @ turn, lambda z: z @ classes
    )


@pytest.mark.parametrize(("length", "right"), [(2, {0}), (3, {0}), (3, {0, 1}), (3, {0, 2}), (4, {0})])
def test_a_cycle_does_not_keep_its_answers_though_they_are_right_wherever_leaps_land(length, right):
    said = forecast(cycle(length, right), INPUTS, CLASSES)
    true = [float(iteration % length in right) for iteration in (478, 479)]
    assert [point.iteration for point in said.late] == [478, 479]
    assert [point.right for point in said.late] == true
    assert (said.kept, said.keeps) == (1, False)
    assert said.dip is not None
    assert said.dip[1] == 0
    assert str(said).startswith(
        "will not keep its answers to 480 iterations: 100% of its best accuracy is left there, but 0% at"
    )


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_cycle_that_is_wrong_at_the_end_alone_has_lost_answers(length):
    said = forecast(cycle(length, {1}), INPUTS, CLASSES)
    assert (said.kept, said.keeps) == (0, False)


def test_a_cycle_that_is_read_the_same_keeps_its_answers():
    said = forecast(cycle(3, {0, 1, 2}), INPUTS, CLASSES)
    assert (said.kept, said.keeps, said.dip) == (1, True, None)


def test_what_was_never_right_is_not_called_kept():
    said = forecast(drifting(1e6), INPUTS, 1 - CLASSES)
    assert (said.kept, said.keeps, said.collapse) == (0, False, None)
    assert str(said) == "has no right answers to keep"


def test_inputs_count_one_by_one():
    """Slopes of 1 to 8: the answers of all but the first two are lost by 480, of slopes 4 to 8 by 152."""
    loop = FunctionLoop(
        lambda inputs: inputs,
        torch.zeros_like,
        lambda state, e: state + e,
        lambda state: torch.cat([500 - state, state - 500], dim=2),
    )
    said = forecast(loop, INPUTS, lambda logits, rows: (logits.argmax(-1) == 0).all(1))
    assert [point.right for point in said.points] == [1, 1, 3 / 8, 1 / 8]


@pytest.mark.parametrize("shape", [(8, 2), (8, 1), (8, 3, 2, 2)])
def test_readouts_of_other_shapes_have_answers_too(shape):
    loop = FunctionLoop(
        lambda x: x, torch.zeros_like, lambda state, e: 0.5 * state + e, lambda state: torch.ones(shape)
    )
    assert [point.same for point in forecast(loop, INPUTS).points] == [1] * 4


@pytest.mark.parametrize("shape", [(8, 1), (8, 1, 1)])
def test_the_answer_of_a_single_number_is_its_sign(shape):
    loop = replace(drifting(1e6), read=lambda state: (100.5 - state).reshape(shape))
    assert [point.same for point in forecast(loop, INPUTS).points] == [1, 1, 0, 0]


def test_answers_of_ones_own_are_compared_instead():
    lost = drifting(100.5)
    assert [point.same for point in forecast(lost, INPUTS, answers=lambda logits: logits.sum(2)).points] == [1] * 4
    assert [point.same for point in forecast(lost, INPUTS, answers=lambda logits: logits.argmax(2)).points] == [
        1,
        1,
        0,
        0,
    ]


def test_answers_that_are_not_one_an_input_are_refused(unchecked):
    with pytest.raises(LoopscopeError, match=r"answers returned shape \(\), expected one row for each of the 8 inputs"):
        forecast(drifting(1e6), INPUTS, answers=lambda logits: logits.sum())


@pytest.mark.parametrize("targets", [None, CLASSES])
def test_a_state_that_is_not_finite_keeps_no_answer(targets):
    """Half of the states count, and are no numbers from 20 on; NaN reads as class 0, which was the answer, and right."""
    steps = torch.tensor([1.0, 0.0] * 4).reshape(8, 1, 1)
    loop = replace(
        drifting(1e6), encode=lambda inputs: steps, step=lambda z, e: (z + e).masked_fill(z + e > 20, torch.nan)
    )
    said = forecast(loop, INPUTS, targets)
    assert [point.same for point in said.points] == [1, 0.5, 0.5, 0.5]
    assert [point.right for point in said.points] == ([None] * 4 if targets is None else [1, 0.5, 0.5, 0.5])
    assert (said.kept, said.keeps) == (0.5, False)
    lost = forecast(replace(loop, step=lambda z, e: z * torch.nan), INPUTS, targets)
    assert {point.same for point in lost.points} == {0}
    assert not lost.keeps


def test_fall_is_below_half_of_the_best_before():
    assert fall([(15, 0.6), (48, 1.0), (152, 0.4), (480, 0.0)]) == pytest.approx(math.sqrt(48 * 152))
    assert fall([(15, 0.2), (48, 0.4), (152, 0.3), (480, 0.2)]) is None
    assert fall([(15, 0.0), (48, 0.0)]) is None


@pytest.mark.parametrize(("last", "keeps"), [(0.9, True), (0.89, False)])
def test_nine_tenths_of_the_best_on_the_way_is_keeping(last, keeps):
    said = Forecast([Point(15, False, 1.0, 0.4), Point(48, True, 0.5, 1.0), Point(480, True, 0.5, last)], 8, 0.1)
    assert (said.kept, said.keeps) == (last, keeps)


def test_what_is_no_loop_is_refused(unchecked):
    with pytest.raises(LoopscopeError, match="got Linear, which lacks"):
        forecast(torch.nn.Linear(2, 2), INPUTS)
    with pytest.raises(LoopscopeError, match="trained_iterations"):
        forecast(drifting(1.0), INPUTS, trained_iterations=0)


def test_inputs_and_targets_that_do_not_fit_are_refused(unchecked):
    with pytest.raises(LoopscopeError, match="examples is 0"):
        forecast(drifting(1.0), INPUTS[:0])
    with pytest.raises(LoopscopeError, match=r"shape \(5, 1\), expected one entry for each of the 8 inputs"):
        forecast(drifting(1.0), INPUTS, CLASSES[:5])
    twice = replace(drifting(1.0), step=lambda state, e: torch.cat([state, state], 1))
    with pytest.raises(LoopscopeError, match="it must return what it takes"):
        forecast(twice, INPUTS)
