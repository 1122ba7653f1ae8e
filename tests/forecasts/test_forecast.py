"""Forecasts of loops whose answers at any iteration are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.forecasts.forecast import forecast, readable
from loopscope.forecasts.result import Forecast, Outlook, Point, Round, fall
from loopscope.forecasts.schedule import fewest_steps
from loopscope.loop import FunctionLoop, iterate

INPUTS = torch.arange(1.0, 9.0).reshape(8, 1, 1)
CLASSES = torch.zeros(8, 1, dtype=torch.long)
KEEPS, COLLAPSES, CANNOT_TELL = Outlook.KEEPS, Outlook.COLLAPSES, Outlook.CANNOT_TELL


def of(step, start=torch.zeros_like, read=lambda state: state) -> FunctionLoop:
    return FunctionLoop(lambda inputs: inputs, start, step, read)


def counted(loop: FunctionLoop) -> tuple[FunctionLoop, list[int]]:
    """Return a loop that counts its steps of the whole batch."""
    steps = [0]

    def step(state, recalled):
        steps[0] += len(recalled) == len(INPUTS)
        return loop.step(state, recalled)

    return replace(loop, step=step), steps


def drifting(until: float) -> FunctionLoop:
    """Return a loop whose state grows by 1 a step, read as class 0 before ``until`` and as class 1 from there on."""
    return of(lambda state, e: state + 1, read=lambda state: torch.cat([until - state, state - until], dim=2))


def at(said: Forecast, *iterations: int) -> list[Point]:
    points = {point.iteration: point for point in said.points}
    return [points[iteration] for iteration in iterations]


def same_at(loop: FunctionLoop, inputs: torch.Tensor, first: int, last: int) -> float:
    """Return the fraction of inputs whose largest output is the same after two numbers of iterations."""
    early = iterate(loop, loop.start(inputs), inputs, first)
    late = iterate(loop, early, inputs, last - first)
    return float((loop.read(early).argmax(1) == loop.read(late).argmax(1)).double().mean())


def test_a_drift_is_followed_to_where_its_answers_are_lost():
    said = forecast(drifting(100.5), INPUTS, CLASSES, trained_iterations=8)
    assert (said.outlook, said.keeps, said.kept, said.inputs, said.horizon) == (COLLAPSES, False, 0, 8, 480)
    assert said.collapse == pytest.approx(101, rel=0.02)
    assert (
        str(said) == f"will lose answers at about iteration {said.collapse:.0f}: 0% of its best accuracy is left at 480"
    )
    assert [point.iteration for point in said.points] == [*range(8, 31), 76, 190, 480]
    assert [point.leapt for point in said.points] == [False] * 23 + [True] * 3
    assert [point.right for point in said.points] == [point.same for point in said.points] == [1] * 24 + [0, 0]


def test_a_loop_that_rests_keeps_its_answers():
    said = forecast(of(lambda z, e: z / 2 + e, read=lambda z: torch.cat([z, -z], 2)), INPUTS, CLASSES, 12)
    assert (said.outlook, said.keeps, said.kept, said.collapse, said.reason) == (KEEPS, True, 1, None, "")
    assert str(said) == "will keep its answers to 480 iterations: 100% of its best accuracy is left there"


@pytest.mark.parametrize(("trained", "first", "orbit"), [(None, 15, 30), (3, 3, 30), (15, 15, 30), (30, 30, 65)])
def test_the_first_point_is_where_training_ended_and_no_leap_starts_before(trained, first, orbit):
    said = forecast(drifting(1e6), INPUTS, CLASSES, trained)
    assert said.points[0].iteration == first
    assert said.rounds[0].orbit >= first
    assert said.rounds[-1].orbit == orbit
    assert said.keeps


def test_steps_are_counted_and_stay_within_the_budget():
    for loop, budget in (
        (drifting(1e6), 0.2),
        (of(lambda z, e: 1.05 * z + e), 0.2),
        (of(lambda z, e: 1.05 * z + e), 0.5),
    ):
        loop, steps = counted(loop)
        said = forecast(loop, INPUTS, budget=budget)
        # The checks of the loop, on two examples, count as two steps.
        assert said.steps == said.rounds[-1].steps == steps[0] + 2
        assert said.steps <= budget * 480


def test_rounds_go_on_until_two_agree_or_the_budget_is_spent():
    settled = forecast(of(lambda z, e: z / 2 + e), INPUTS)
    assert [(one.orbit, one.steps, one.outlook) for one in settled.rounds] == [(15, 32, KEEPS), (30, 62, KEEPS)]
    growing = forecast(of(lambda z, e: 1.05 * z + e), INPUTS)
    assert [(one.orbit, one.steps) for one in growing.rounds] == [(15, 32), (69, 96)]


def test_a_collapse_that_the_orbit_has_seen_needs_no_second_round():
    said = forecast(drifting(10.5), INPUTS, CLASSES, trained_iterations=4)
    assert (said.outlook, said.collapse, len(said.rounds)) == (COLLAPSES, 11, 1)


def test_without_targets_answers_are_compared_with_the_first():
    lost = forecast(drifting(100.5), INPUTS)
    assert (lost.kept, lost.outlook) == (0, COLLAPSES)
    assert str(lost).startswith("will lose the answers of iteration 15 at about iteration 10")
    assert str(lost).endswith(": 0% are the same at 480")
    assert {point.right for point in lost.points} == {None}
    kept = forecast(drifting(1e6), INPUTS)
    assert str(kept) == "will keep the answers of iteration 15 to 480 iterations: 100% are the same there"


def test_a_loop_whose_state_still_moves_where_the_fit_says_it_rests_cannot_be_told():
    """The state contracts towards 2.1. From 2.05 on it wanders between 2.05 and 2.15 and never rests."""

    def step(z, e):
        inner = ((z - 2.05) / 0.1).clamp(0.01, 0.99)
        return torch.where(z < 2.05, 0.95 * z + 0.105, 2.05 + 0.39 * inner * (1 - inner))

    said = forecast(of(step, start=lambda e: 0.1 * e, read=lambda z: torch.cat([z, -z], 2)), INPUTS)
    assert said.outlook is CANNOT_TELL
    assert said.rounds[-1].change > 10 * said.rounds[-1].expected
    assert str(said).startswith(
        "cannot be forecast to 480 iterations: between 75% and 100% is left, because the states of 100%"
    )


def creeping(margin: float, count: int = 8) -> FunctionLoop:
    """Return a loop that moves by about 4e-3 a step, unevenly, read as class 0 until it is ``margin`` away from 1.

    A second number, too small to be seen, drives the pace by a chaotic map. Only the first ``count`` of eight inputs move.
    """
    moves = (torch.arange(8) < count).float().reshape(8, 1, 1)

    def step(state, e):
        place, driver = state[..., :1], (1e6 * state[..., 1:]).clamp(0.01, 0.99)
        driver = 3.9 * driver * (1 - driver)
        moved = torch.cat([place + 4e-3 * (0.8 + 0.2 * driver), 1e-6 * driver], 2)
        return torch.where(e[..., 1:] > 0, moved, state)

    def start(e):
        return torch.cat([torch.ones_like(e[..., :1]), 1e-6 * e[..., :1] / 10], 2)

    read = lambda z: torch.cat([1 + margin - z[..., :1], z[..., :1] - 1 - margin], 2)  # noqa: E731
    return FunctionLoop(lambda x: torch.cat([x, moves], 2), start, step, read)


def test_a_state_that_creeps_on_is_doubted_where_its_answer_could_change():
    loop = creeping(margin=2.5)
    recalled = loop.encode(INPUTS)
    last = iterate(loop, loop.start(recalled), recalled, 480)
    assert loop.read(last).argmax(2).max() == 0
    said = forecast(loop, INPUTS)
    assert said.outlook is CANNOT_TELL
    assert "per iteration after a leap, where" in said.reason


def test_a_state_that_creeps_on_keeps_an_answer_that_is_far_from_changing():
    said = forecast(creeping(margin=10.0), INPUTS)
    assert said.keeps


@pytest.mark.parametrize(("count", "outlook"), [(2, KEEPS), (4, CANNOT_TELL)])
def test_three_quarters_of_the_doubtful_answers_count_that_orbit_and_leaps_keep(count, outlook):
    said = forecast(creeping(2.5, count), INPUTS)
    assert said.rounds[-1].unchecked == count / 8
    assert said.rounds[-1].least == 1 - count / 8 / 4
    assert said.outlook is outlook


@pytest.mark.parametrize(("count", "outlook"), [(3, CANNOT_TELL), (4, COLLAPSES)])
def test_an_answer_that_a_leap_throws_away_may_be_kept_if_the_true_orbit_keeps_it(count, outlook):
    """Some states drift to 1 and rest there, from iteration 100 on. Leaps carry them past 1.2, where they run off to 5."""
    drifts = (torch.arange(8) < count).float().reshape(8, 1, 1)
    loop = FunctionLoop(
        lambda x: drifts,
        torch.zeros_like,
        lambda z, e: torch.where(z < 1.2, (z + 0.01 * e).clamp(max=1), 5.0),
        lambda z: torch.cat([1.5 - z, z - 1.5], 2),
    )
    said = forecast(loop, INPUTS)
    assert said.kept == 1 - count / 8
    assert said.rounds[-1].most == 1 - count / 8 / 4
    assert said.outlook is outlook


def rounding(margin: float) -> tuple[FunctionLoop, torch.Tensor]:
    """Return a loop z -> A z + x that rounds z to bfloat16, and inputs.

    The answer is class 0 while the first number is above its place in (I - A)^-1 x less a margin.
    """
    matrix = 0.68 * torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    inputs = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.solve(torch.eye(32) + matrix.mT.double(), inputs.double().mT).mT[:, :1].float()

    def read(state):
        return torch.cat([state[:, :1] - state[:, 32:], state[:, 32:] - state[:, :1]], 1)

    def step(state, x):
        return torch.cat([x[:, :32] - state[:, :32].bfloat16().float() @ matrix, x[:, 32:]], 1)

    start = lambda x: torch.cat([torch.zeros_like(x[:, :32]), x[:, 32:]], 1)  # noqa: E731
    return of(step, start, read), torch.cat([inputs, exact - margin], 1)


@pytest.mark.parametrize(("margin", "outlook"), [(0.5, KEEPS), (0.02, CANNOT_TELL), (0.0, COLLAPSES)])
def test_an_orbit_that_rests_within_the_rounding_of_its_step_is_told_where_answers_have_room(margin, outlook):
    """Rounding keeps the state moving by two thousandths of itself, and the first number by a few thousandths."""
    loop, inputs = rounding(margin)
    said = forecast(loop, inputs)
    assert said.rounds[0].change > 1e-3
    assert said.outlook is outlook
    assert (same_at(loop, inputs, 15, 480) >= 0.9) == (margin > 0)
    assert ("the step rounds like bfloat16, which explains changes of up to" in said.reason) == (outlook is CANNOT_TELL)


@pytest.mark.parametrize("rate", [1.01, 1.02, 1.05, 1.1])
def test_a_growing_mode_is_a_collapse_or_cannot_be_told(rate):
    """One mode of a linear loop grows, the others settle; the growing one decides the answer in the end."""
    rates = torch.tensor([rate, 0.9, 0.5, 0.3])
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    loop = of(lambda z, e: z * rates + e * torch.tensor([1e-3, 1.0, 1.0, 1.0]))
    said = forecast(loop, inputs)
    assert said.outlook is not KEEPS
    truth = same_at(loop, inputs, 15, 480)
    if said.outlook is COLLAPSES:
        assert truth < 0.9
    # A growing mode that never changes an answer is not known to keep it.
    alone = forecast(of(lambda z, e: rate * z + e), INPUTS)
    assert alone.outlook is CANNOT_TELL
    assert "the changes of 100% of the inputs grow" in alone.reason


def spiral(rate: float, angle: float) -> FunctionLoop:
    turn = rate * torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return of(lambda z, e: z @ turn, start=torch.clone)


@pytest.mark.parametrize(("rate", "angle"), [(1.005, 0.01), (1.02, 0.3), (1.0, 0.05), (0.99, 0.05)])
def test_a_spiral_is_followed_round(rate, angle):
    inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    loop = spiral(rate, angle)
    assert forecast(loop, inputs).outlook is COLLAPSES
    assert same_at(loop, inputs, 15, 480) < 0.9


def test_a_spiral_that_grows_beyond_what_a_fit_resolves_cannot_be_told():
    inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    said = forecast(spiral(1.05, 0.01), inputs)
    assert said.outlook is CANNOT_TELL
    assert "the changes of" in said.reason


def dying_swing(decay: float, angle: float, live: int) -> FunctionLoop:
    """Return a loop with a swing that rests after ``live`` iterations. The answer then goes to the side of rest."""
    turn = decay * torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])

    def step(state, e):
        swing, answer = state[:, :2] @ turn, state[:, 2:]
        alive = swing.norm(dim=1, keepdim=True) > decay**live
        side = answer + 0.3 * (swing[:, :1].sign() - answer)
        return torch.cat([torch.where(alive, swing, state[:, :2]), torch.where(alive, answer, side)], 1)

    start = lambda e: torch.cat([e, torch.ones(len(e), 1)], 1)  # noqa: E731
    return of(step, start, lambda state: torch.cat([state[:, 2:], -state[:, 2:]], 1))


@pytest.mark.parametrize("angle", [0.31, 0.75, 1.19, 2.5])
@pytest.mark.parametrize("decay", [0.95, 0.97])
def test_an_oscillation_that_dies_out_beyond_the_orbit_cannot_be_told(decay, angle):
    """Every leap is exact up to where the swing rests, and nothing in the orbit tells on which side that is."""
    said = forecast(dying_swing(decay, angle, live=100), torch.tensor([[1.0, 0.0]]).repeat(8, 1))
    assert said.outlook is CANNOT_TELL
    assert "the states of 100% of the inputs still oscillate after" in said.reason


def test_an_oscillation_that_the_orbit_has_seen_die_out_is_told():
    inputs = torch.tensor([[1.0, 0.0]]).repeat(8, 1)
    loops = [dying_swing(0.95, angle, live=30) for angle in (0.31, 0.75, 1.19, 2.5)]
    kept = [same_at(loop, inputs, 15, 480) == 1 for loop in loops]
    assert set(kept) == {True, False}
    assert [forecast(loop, inputs).keeps for loop in loops] == kept


@pytest.mark.parametrize(("live", "outlook"), [(30, COLLAPSES), (100, CANNOT_TELL)])
def test_an_oscillation_that_holds_back_a_slow_mode_is_not_leapt_over(live, outlook):
    """Once the oscillation has died out, the slow mode takes the answer away."""

    def step(state, e):
        turn = 0.95 * torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
        swing, slow = state[:, :2] @ turn, state[:, 2:]
        alive = swing.norm(dim=1, keepdim=True) > 0.95**live
        return torch.cat([swing, torch.where(alive, slow * 0.5 + 0.5, slow * 0.9 - 0.1)], 1)

    def start(e):
        return torch.cat([torch.nn.functional.normalize(e[:, :2]), torch.ones(len(e), 1)], 1)

    inputs = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    loop = of(step, start, lambda state: torch.cat([state[:, 2:], -state[:, 2:]], 1))
    assert same_at(loop, inputs, 15, 480) == 0
    assert forecast(loop, inputs).outlook is outlook


@pytest.mark.parametrize(("share", "first"), [(0.1, 1e-3), (0.05, 2e-3), (0.04, 1e-3), (0.03, 5e-3)])
def test_a_damped_loop_is_seen_to_fail_late(share, first):
    """z <- z + share (tanh(1.5 z) - z): the second number grows from next to nothing until it takes the answer."""

    def start(e):
        return torch.cat([torch.full_like(e, 0.5), first * e], 1)

    def same(iterations):
        return same_at(loop, inputs, 15, iterations)

    inputs = torch.rand(32, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    read = lambda z: torch.cat([z[:, :1], z[:, 1:] + 0.4], 1)  # noqa: E731
    loop = of(lambda z, e: z + share * (torch.tanh(1.5 * z) - z), start, read)
    said = forecast(loop, inputs)
    assert said.outlook is COLLAPSES
    assert same(96) == same(int(0.9 * said.collapse)) == 1
    assert same(int(1.1 * said.collapse)) < 0.9


def test_an_overflow_is_foreseen():
    """1.34 z + x passes the largest float32 number at iteration 302; until there no answer changes."""
    loop = of(lambda z, e: 1.34 * z + e)
    truth = next(
        t for t in range(480) if not torch.isfinite(torch.tensor(8 * (1.34 ** (t + 1) - 1) / 0.34, dtype=torch.float32))
    )
    said = forecast(loop, torch.full((4, 2), 8.0))
    assert said.outlook is COLLAPSES
    assert said.collapse == pytest.approx(truth, rel=0.03)
    assert f"the states of 100% of the inputs are not finite from about iteration {said.collapse:.0f} on" in str(said)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf])
@pytest.mark.parametrize("targets", [None, CLASSES])
def test_a_readout_that_stops_to_be_finite_is_named_with_its_iteration(bad, targets):
    read = lambda z: torch.cat([torch.where(z < 200, z, bad), torch.where(z < 200, -z, bad)], 2)  # noqa: E731
    said = forecast(of(lambda z, e: z + 1, read=read), INPUTS, targets)
    assert said.outlook is COLLAPSES
    assert said.collapse == pytest.approx(200, rel=0.02)
    assert f"the outputs of 100% of the inputs are not finite from about iteration {said.collapse:.0f} on" in str(said)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_outputs_that_are_never_finite_are_neither_right_nor_kept(bad):
    loop = of(lambda z, e: z / 2 + e, read=lambda z: torch.full((len(z), 1, 2), bad))
    said = forecast(loop, INPUTS, CLASSES)
    assert {point.right for point in said.points} == {point.same for point in said.points} == {0}
    assert said.outlook is CANNOT_TELL
    assert (
        "no right answers to keep, and the outputs of 100% of the inputs are not finite as early as iteration 15"
        in str(said)
    )
    assert not forecast(loop, INPUTS).keeps


def test_a_class_that_is_ruled_out_may_have_a_logit_of_minus_infinity():
    logits = torch.tensor([[[1.0, -torch.inf]], [[-torch.inf, -torch.inf]], [[torch.nan, 1.0]], [[torch.inf, 1.0]]])
    assert readable(logits).tolist() == [True, False, False, False]
    assert readable(logits, torch.tensor([[True], [False], [True], [False]])).tolist() == [True, True, False, True]


def test_a_few_broken_inputs_are_named_though_the_answers_are_kept():
    """One of thirty-two states overflows: 97% is kept, which is enough."""
    inputs = torch.cat([torch.full((31, 1), 0.5), torch.full((1, 1), 3.0)])
    said = forecast(of(lambda z, e: e * z + 1, read=lambda z: torch.cat([z, -z], 1)), inputs)
    assert said.keeps
    assert "the states of 3% of the inputs are not finite from about iteration" in str(said)


@pytest.mark.parametrize("targets", [None, CLASSES])
def test_a_cycle_that_ends_where_it_began_is_not_said_to_keep_every_answer(targets):
    """A cycle of three: 15 and 480 are multiples of its period, 478 and 479 are not."""
    turn = torch.roll(torch.eye(3), 1, 0)
    loop = FunctionLoop(lambda x: x, lambda e: turn[:1].expand(8, 1, 3), lambda z, e: z @ turn, lambda z: z @ turn.mT)
    said = forecast(loop, INPUTS, targets)
    assert (said.outlook, said.kept, said.collapse) == (COLLAPSES, 1, None)
    assert said.dip is not None
    assert said.dip[1] == 0
    assert str(said).endswith("there, but 0% at 16: the answer depends on when the loop stops")


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
    assert (said.kept, said.outlook) == (1, COLLAPSES)
    assert str(said).startswith(
        "will not keep its answers to 480 iterations: 100% of its best accuracy is left there, but 0% at"
    )


def test_a_cycle_that_is_read_the_same_keeps_its_answers():
    said = forecast(cycle(3, {0, 1, 2}), INPUTS, CLASSES)
    assert (said.kept, said.keeps, said.dip) == (1, True, None)


def test_what_was_never_right_is_not_called_kept():
    said = forecast(drifting(1e6), INPUTS, 1 - CLASSES)
    assert (said.kept, said.outlook, said.collapse) == (0, CANNOT_TELL, None)
    assert str(said) == "cannot be forecast to 480 iterations: there are no right answers to keep"


def test_inputs_count_one_by_one():
    """Slopes of 1 to 8: the answers of all but the first two are lost by 480, of slopes 4 to 8 by 190."""
    loop = of(lambda z, e: z + e, read=lambda z: torch.cat([500 - z, z - 500], dim=2))
    said = forecast(loop, INPUTS, lambda logits, rows: (logits.argmax(-1) == 0).all(1))
    assert [point.right for point in at(said, 30, 76, 190, 480)] == [1, 6 / 8, 2 / 8, 1 / 8]


def test_inputs_whose_leaps_fail_are_named_and_counted():
    """A quarter of the states grows: 75% is sure, all may be kept."""
    rates = torch.tensor([1.05, 1.05, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]).reshape(8, 1, 1)
    loop = FunctionLoop(lambda x: rates, torch.zeros_like, lambda z, e: e * z + 1, lambda z: torch.cat([z, -z], 2))
    said = forecast(loop, INPUTS)
    assert said.outlook is CANNOT_TELL
    last = said.rounds[-1]
    assert (last.least, last.most, last.unchecked) == (0.75, 1, 0.25)
    assert last.growth == pytest.approx(1.05 ** (480 - 182), rel=1e-3)
    assert said.reason == "between 75% and 100% is left, because the changes of 25% of the inputs grow"


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 2, 2)])
def test_readouts_of_other_shapes_have_answers_too(shape):
    said = forecast(of(lambda z, e: 0.5 * z + e, read=lambda z: torch.ones(len(z), *shape)), INPUTS)
    assert {point.same for point in said.points} == {1}


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_the_answer_of_a_single_number_is_its_sign(shape):
    loop = replace(drifting(1e6), read=lambda state: (100.5 - state).reshape(-1, *shape))
    assert [point.same for point in at(forecast(loop, INPUTS), 76, 190, 480)] == [1, 0, 0]


def test_answers_of_ones_own_are_compared_instead():
    lost = drifting(100.5)
    assert forecast(lost, INPUTS, answers=lambda logits: logits.sum(2)).keeps
    assert forecast(lost, INPUTS, answers=lambda logits: logits.argmax(2)).outlook is COLLAPSES


@pytest.mark.parametrize(
    ("answers", "given"), [(lambda logits: logits.sum(), r"shape \(\)"), (lambda logits: 3, "int")]
)
def test_answers_that_are_not_one_an_input_are_refused(unchecked, answers, given):
    with pytest.raises(LoopscopeError, match=f"answers returned {given}, expected a tensor with one row per input"):
        forecast(drifting(1e6), INPUTS, answers=answers)


@pytest.mark.parametrize("targets", [None, CLASSES])
def test_a_state_that_is_not_finite_keeps_no_answer(targets):
    """Half of the states count, and are NaN from 20 on; NaN reads as class 0, which was the answer, and right."""
    steps = torch.tensor([1.0, 0.0] * 4).reshape(8, 1, 1)
    loop = replace(
        drifting(1e6), encode=lambda inputs: steps, step=lambda z, e: (z + e).masked_fill(z + e > 20, torch.nan)
    )
    said = forecast(loop, INPUTS, targets)
    assert [point.same for point in at(said, 20, 21, 30)] == [1, 0.5, 0.5]
    assert [point.finite for point in at(said, 20, 21, 30)] == [1, 0.5, 0.5]
    assert (said.kept, said.outlook, said.collapse) == (0.5, COLLAPSES, 21)
    assert "the states of 50% of the inputs are not finite from about iteration 21 on" in str(said)


@pytest.mark.parametrize("horizon", [16, 64, 200, 1000])
def test_other_horizons_and_budgets_can_be_asked_about(horizon):
    assert forecast(drifting(0.6 * horizon), INPUTS, CLASSES, 4, horizon=horizon, budget=0.9).collapse == pytest.approx(
        math.ceil(0.6 * horizon), rel=0.03
    )
    kept = forecast(drifting(1e6), INPUTS, CLASSES, 4, horizon=horizon, budget=0.9)
    assert kept.keeps
    assert kept.points[-1].iteration == kept.horizon == horizon
    assert kept.steps <= 0.9 * horizon


@pytest.mark.parametrize(
    ("trained", "horizon"), [(1, 2), (1, 64), (4, 5), (4, 16), (4, 32), (4, 64), (6, 64), (6, 128)]
)
def test_near_horizons_are_forecast_with_the_default_budget(trained, horizon):
    said = forecast(drifting(0.8 * horizon), INPUTS, CLASSES, trained, horizon=horizon)
    assert said.outlook is COLLAPSES
    assert said.collapse == pytest.approx(math.ceil(0.8 * horizon), abs=1)
    kept = forecast(drifting(1e6), INPUTS, CLASSES, trained, horizon=horizon)
    assert kept.keeps
    assert max(said.steps, kept.steps) <= max(0.2 * horizon, 6 * trained, fewest_steps(horizon) + 2)


def test_a_horizon_within_six_times_training_is_run_and_not_extrapolated():
    said = forecast(drifting(14.5), INPUTS, CLASSES, 4, horizon=16)
    assert [point.iteration for point in said.points] == list(range(4, 17))
    assert (said.outlook, said.collapse) == (COLLAPSES, 15)


def test_a_budget_that_reaches_the_horizon_is_the_run_itself():
    said = forecast(drifting(14.5), INPUTS, CLASSES, 4, horizon=16, budget=1.2)
    assert [point.iteration for point in said.points] == list(range(4, 17))
    assert (said.outlook, said.collapse) == (COLLAPSES, 15)


def test_a_forecast_is_written_as_plain_values():
    said = forecast(drifting(100.5), INPUTS, CLASSES)
    back = json.loads(json.dumps(said.to_dict(), allow_nan=False))
    assert back["outlook"] == "collapses"
    assert back["points"][-1] == {"iteration": 480, "leapt": True, "same": 0, "right": 0, "finite": 1}
    overflow = forecast(of(lambda z, e: 1.34 * z + e), torch.full((4, 2), 8.0))
    json.dumps(overflow.to_dict(), allow_nan=False)


def test_the_names_are_public():
    assert (ls.forecast, ls.Forecast) == (forecast, Forecast)
    assert callable(ls.forecast)


def test_fall_is_below_a_share_of_the_best_before():
    assert fall([(15, 0.6), (48, 1.0), (152, 0.4), (480, 0.0)]) == pytest.approx(math.sqrt(48 * 152))
    assert fall([(15, 0.2), (48, 0.4), (152, 0.3), (480, 0.2)]) is None
    assert fall([(15, 0.2), (48, 0.4), (152, 0.3), (480, 0.2)], 0.9) == pytest.approx(math.sqrt(48 * 152))
    assert fall([(15, 0.0), (48, 0.0)]) is None


@pytest.mark.parametrize(
    ("least", "most", "outlook"),
    [(0.9, 1.0, KEEPS), (0.89, 0.9, CANNOT_TELL), (0.0, 0.9, CANNOT_TELL), (0.5, 0.89, COLLAPSES)],
)
def test_nine_tenths_of_the_best_is_keeping(least, most, outlook):
    assert Round(15, 32, least, most, 0.0).outlook is outlook


def test_what_is_no_loop_is_refused(unchecked):
    with pytest.raises(LoopscopeError, match="Linear"):
        forecast(torch.nn.Linear(2, 2), INPUTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trained_iterations": 0}, "trained_iterations"),
        ({"horizon": 0}, "horizon"),
        ({"horizon": 2.5}, "horizon"),
        ({"budget": 0.0}, "budget"),
        ({"budget": math.nan}, "budget"),
        ({"budget": 0.02}, "the budget allows 7 true steps to forecast 480 iterations, expected at least"),
        ({"horizon": 12}, "horizon is 12, expected more than the 15 iterations of training"),
    ],
)
def test_options_that_make_no_forecast_are_refused(unchecked, options, message):
    with pytest.raises(LoopscopeError, match=message):
        forecast(drifting(1.0), INPUTS, **options)


def test_inputs_and_targets_that_do_not_fit_are_refused(unchecked):
    with pytest.raises(LoopscopeError, match="the batch is empty"):
        forecast(drifting(1.0), INPUTS[:0])
    with pytest.raises(LoopscopeError, match=r"shape \(5, 1\), expected 8 as the first dimension"):
        forecast(drifting(1.0), INPUTS, CLASSES[:5])
    twice = replace(drifting(1.0), step=lambda state, e: torch.cat([state, state], 1))
    with pytest.raises(LoopscopeError, match="start and step must return states of the same"):
        forecast(twice, INPUTS)


def test_a_state_whose_batch_is_not_its_first_dimension_is_refused():
    """As torch.nn.GRU has it: (layers, batch, width)."""
    loop = of(lambda z, e: 0.5 * z + e.mT, start=lambda e: torch.zeros(1, len(e), 1), read=lambda z: z.mT)
    with pytest.raises(LoopscopeError, match="got 1 states for 8 inputs"):
        forecast(loop, INPUTS)


def test_a_step_that_mixes_examples_is_refused():
    with pytest.raises(LoopscopeError, match="mixes examples"):
        forecast(of(lambda z, e: 0.5 * z + e - z.mean(0)), INPUTS)
