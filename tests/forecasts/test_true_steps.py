"""Loops that leaps cannot follow are run, and what was not seen is not claimed."""

import importlib

import pytest
import torch

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.forecasts.result import Outlook
from loopscope.kinds import Kind
from loopscope.readouts import ReadingPlan
from loopscope.reports.forecast import forecast_sheet

# The package's attribute of this name is the function.
forecast_module = importlib.import_module("loopscope.forecasts.forecast")
INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
RIGHT = INPUTS.argmax(1)


def loop_of(step, **options):
    return ls.FunctionLoop(encode=lambda x: x, start=torch.zeros_like, step=step, read=lambda z: z, **options)


def steady(z, e, iteration):
    return z / 2 + e / (1 + 0 * iteration)


def turning(at):
    return lambda z, e, iteration: z / 2 + (e if iteration < at else -e)


def noisy(scale):
    return lambda z, e, generator: z / 2 + e + scale * torch.randn(z.shape, generator=generator)


def test_what_was_not_run_cannot_be_told():
    said = ls.forecast(loop_of(steady), INPUTS)
    assert said.outlook is Outlook.CANNOT_TELL
    assert said.kind is Kind.TIME_DEPENDENT
    assert said.steps == said.points[-1].iteration == 96, "a fifth of 480"
    assert "100% is left after 96 iterations, and the step changes with the iteration" in said.reason
    assert "budget=1 runs it to the end" in str(said)
    assert said.to_dict()["kind"] == "time-dependent"


def test_what_was_run_to_the_horizon_is_known():
    said = ls.forecast(loop_of(steady), INPUTS, RIGHT, horizon=120, budget=1)
    assert said.keeps
    assert said.kept == 1
    assert said.points[-1].iteration == said.steps == 120
    assert str(said).startswith("will keep its answers to 120 iterations: 100% of its best accuracy is left there")


@pytest.mark.parametrize("targets", [None, RIGHT])
def test_a_collapse_that_was_seen_is_told(targets):
    said = ls.forecast(loop_of(turning(40)), INPUTS, targets)
    assert said.outlook is Outlook.COLLAPSES
    assert said.collapse == pytest.approx(42, abs=1)
    assert "at 96; seen in 96 iterations that were run" in str(said)


def test_a_collapse_behind_the_budget_is_not_foreseen_but_found_by_running():
    assert ls.forecast(loop_of(turning(110)), INPUTS, horizon=130).outlook is Outlook.CANNOT_TELL
    assert ls.forecast(loop_of(turning(110)), INPUTS, horizon=130, budget=1).outlook is Outlook.COLLAPSES


def test_a_stochastic_loop_is_run_under_three_draws():
    said = ls.forecast(loop_of(noisy(0.01)), 5 * INPUTS, horizon=60, budget=3)
    assert said.kind is Kind.STOCHASTIC
    assert said.keeps
    assert said.steps == 180
    said = ls.forecast(loop_of(noisy(20.0)), INPUTS, horizon=60, budget=3)
    assert said.outlook is Outlook.COLLAPSES
    assert said.points[-1].same < 0.6
    assert "the step draws random numbers" in ls.forecast(loop_of(noisy(0.01)), 5 * INPUTS).reason


def test_noise_of_size_zero_gives_the_ordinary_forecast():
    plain, still = (ls.forecast(loop_of(step), INPUTS) for step in (lambda z, e: z / 2 + e, noisy(0.0)))
    assert (still.outlook, still.points, still.steps) == (plain.outlook, plain.points, plain.steps)
    assert still.rounds


def test_a_readout_of_the_history_cannot_be_extrapolated():
    summed = ls.with_history(
        loop_of(lambda z, e: z / 2 + e),
        begin=lambda z, e: z,
        update=lambda carried, z, e: carried + z,
        read=lambda carried, e: carried,
    )
    said = ls.forecast(summed, INPUTS)
    assert said.outlook is Outlook.CANNOT_TELL
    assert "the readout reads the history of states" in said.reason


def test_an_expensive_readout_is_read_now_and_then(monkeypatch):
    every = ls.forecast(loop_of(turning(40)), INPUTS, RIGHT)
    monkeypatch.setattr(forecast_module, "plan_readings", lambda *_: ReadingPlan(examples=5, spacing=7.0))
    few = ls.forecast(loop_of(turning(40)), INPUTS, RIGHT)
    assert few.outlook is every.outlook
    assert abs(few.collapse - every.collapse) <= 7
    assert few.points[-1] == every.points[-1]


def test_answers_of_a_language_model_are_counted_by_token():
    tokens = INPUTS[:, None].expand(12, 3, 4).contiguous()
    said = ls.forecast(loop_of(steady, answers_per="token"), tokens)
    assert said.tokens == 36
    assert said.counted == "36 tokens of 12 inputs"


def test_without_right_answers_there_is_nothing_to_keep():
    said = ls.forecast(loop_of(steady), INPUTS, (RIGHT + 1) % 4)
    assert (said.outlook, said.reason) == (Outlook.CANNOT_TELL, "there are no right answers to keep")


def test_the_budget_must_reach_beyond_training():
    with pytest.raises(LoopscopeError, match="the budget allows 96 true steps, expected at least 103"):
        ls.forecast(loop_of(steady), INPUTS, trained_iterations=100, budget=0.2)
    with pytest.raises(LoopscopeError, match=r"allows 32 true steps in each of 3 draws, expected at least 43"):
        ls.forecast(loop_of(noisy(1.0)), INPUTS, trained_iterations=40, budget=0.2)
    near = ls.forecast(loop_of(noisy(1.0)), INPUTS, trained_iterations=4, horizon=16)
    assert near.steps == 24


def test_one_iteration_frozen_is_forecast_by_leaps():
    said = ls.forecast(ls.freeze(loop_of(turning(40)), 60), INPUTS)
    assert said.keeps
    assert said.rounds


def test_the_table_says_that_the_loop_was_run():
    sheet = forecast_sheet("mine", ls.forecast(loop_of(steady), INPUTS))
    assert "A time-dependent loop: it was run, not extrapolated." in sheet.caption
    assert "A leap cannot see" in forecast_sheet("mine", ls.forecast(loop_of(lambda z, e: z / 2 + e), INPUTS)).caption
