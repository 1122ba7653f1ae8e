"""The rival signals against closed forms, and the inputs that they are measured on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.prediction.signals import (
    AT_BUDGET,
    COSINE,
    EASY_ACCURACY,
    FORECAST,
    FORECAST_ANSWER,
    FORECAST_COLLAPSE,
    FORECAST_KEPT,
    FORECAST_LEAST,
    FORECAST_MOST,
    FORECAST_STEPS,
    LAST_RESIDUAL,
    LONG_RUN,
    NORM_RATIO,
    POWER_ITERATION,
    RANDOM_ANSWER,
    SAME_STEPS,
    STATE_RADIUS,
    SWAP_ANSWER,
    WEIGHT_RATIO,
    forecast_split,
    measure_further,
    measure_signals,
    power_iteration,
)
from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop
from loopscope.models import build_model
from loopscope.models.recall import recall_weights
from loopscope.tasks import Chess
from loopscope.tasks.prefix_sums.task import PrefixSums
from loopscope.training.settings import settings_from

TASK = PrefixSums(train_bits=8, test_bits=(8,), strings=100)
SPLIT = TASK.evaluation_splits()["8 bits"]
TOLD = (FORECAST, FORECAST_KEPT, FORECAST_LEAST, FORECAST_MOST, FORECAST_ANSWER)


def growing(factor: float, broken_from: float) -> FunctionLoop:
    """Return z -> factor z, from z = ±1, which answers rightly while a state is smaller than ``broken_from``."""

    def start(parity):
        signs = 2.0 * parity - 1
        return torch.stack([-signs, signs], -1)

    def read(state):
        return torch.where(state.abs() < broken_from, state, -state)

    return FunctionLoop(
        encode=lambda inputs: (inputs.squeeze(-1) > 0).long().cumsum(1) % 2,
        start=start,
        step=lambda state, recalled: factor * state,
        read=read,
    )


def test_signals_of_a_loop_that_doubles_and_breaks():
    """Ten iterations from norm 1 to 2^10; from 2^12 on every answer is wrong."""
    found = measure_signals(growing(2.0, broken_from=4000.0), TASK, SPLIT, trained_iterations=10, iterations=20)
    values = {name: signal.value for name, signal in found.items()}
    assert values[POWER_ITERATION] == pytest.approx(2, rel=1e-5)
    assert values[LAST_RESIDUAL] == pytest.approx(0.5, rel=1e-5)
    assert values[NORM_RATIO] == pytest.approx(1024, rel=1e-5)
    assert values[COSINE] == pytest.approx(1, rel=1e-6)
    assert values[EASY_ACCURACY] == 1
    assert values[LONG_RUN] == 0
    assert values[STATE_RADIUS] is values[WEIGHT_RATIO] is None
    assert all(signal.seconds >= 0 for signal in found.values())
    assert found[LAST_RESIDUAL].seconds > 0


def test_a_forecast_sees_a_drift_end_far_beyond_the_iterations_that_were_run():
    """The norm grows by 1 a step and answers are wrong from 100 on, which as many steps as the forecast takes do not show."""
    drifting = replace(growing(1.0, broken_from=100.0), step=lambda state, recalled: state + state.sign())
    found = measure_signals(drifting, TASK, SPLIT, trained_iterations=10, iterations=500)
    values = {name: signal.value for name, signal in found.items()}
    assert [values[name] for name in TOLD] == [0] * 5
    assert 99 / 3 < values[FORECAST_COLLAPSE] < 99 * 3
    assert values[FORECAST_STEPS] < 99
    assert (values[EASY_ACCURACY], values[SAME_STEPS], values[LONG_RUN]) == (1, 1, 0)
    kept = measure_signals(growing(1.0, broken_from=100.0), TASK, SPLIT, trained_iterations=10, iterations=500)
    values = {name: signal.value for name, signal in kept.items()}
    assert [values[name] for name in TOLD] == [1] * 5
    assert values[FORECAST_COLLAPSE] is None


def test_a_cycle_that_is_right_at_the_horizon_is_not_said_to_keep_its_answers():
    """Sign and answer turn every step: iteration 500 is right as every even one, 499 is wrong."""
    turning = replace(growing(1.0, broken_from=4000.0), step=lambda state, recalled: -state)
    found = measure_signals(turning, TASK, SPLIT, trained_iterations=10, iterations=500)
    assert found[FORECAST_KEPT].value == 1
    assert found[FORECAST].value == 0


def test_a_forecast_that_cannot_tell_has_no_value_but_a_cost():
    """The size wanders chaotically between 1 and 2, so no leap lands where the orbit goes."""

    def wander(state, recalled):
        beyond = state.abs() - 1
        return state.sign() * (1 + 3.99 * beyond * (1 - beyond))

    def start(parity):
        signs = 2.0 * parity - 1
        sizes = torch.linspace(1.1, 1.3, signs.numel()).reshape(signs.shape)
        return torch.stack([-signs, signs], -1) * sizes[..., None]

    wandering = replace(growing(1.0, broken_from=2.0), start=start, step=wander)
    found = measure_signals(wandering, TASK, SPLIT, trained_iterations=10, iterations=500)
    assert found[FORECAST].value is None
    assert found[FORECAST_LEAST].value < 0.9 <= found[FORECAST_MOST].value
    assert found[FORECAST_STEPS].value > 10
    assert found[FORECAST].seconds > 0


def test_a_longer_look_goes_to_30_iterations_where_training_used_fewer():
    """Of norm 1 at first, 2^30 by then, and wrong from 2^12 on; at 10, training's own, it was right."""
    found = measure_further(growing(2.0, broken_from=4000.0), TASK, SPLIT, trained_iterations=10)
    assert found[f"{NORM_RATIO}{AT_BUDGET}"].value == pytest.approx(2.0**30, rel=1e-5)
    assert found[f"{EASY_ACCURACY}{AT_BUDGET}"].value == found[f"{LONG_RUN}{AT_BUDGET}"].value == 0
    assert not any(name.startswith(STATE_RADIUS) for name in found)
    assert measure_further(growing(2.0, broken_from=4000.0), TASK, SPLIT, trained_iterations=30) == {}


def test_a_loop_that_keeps_its_answers_keeps_all_of_them():
    found = measure_signals(growing(1.0, broken_from=4000.0), TASK, SPLIT, trained_iterations=3, iterations=20)
    assert found[LONG_RUN].value == 1
    assert found[LAST_RESIDUAL].value == 0


def test_a_loop_that_is_never_right_has_kept_nothing():
    found = measure_signals(growing(1.0, broken_from=0.5), TASK, SPLIT, trained_iterations=3, iterations=20)
    assert found[EASY_ACCURACY].value == found[LONG_RUN].value == 0


def test_what_is_not_finite_is_not_known():
    found = measure_signals(growing(1e30, broken_from=1.0), TASK, SPLIT, trained_iterations=10, iterations=10)
    assert found[NORM_RATIO].value is None


def linear(matrix: torch.Tensor) -> FunctionLoop:
    return FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda recalled: recalled,
        step=lambda state, recalled: state @ matrix.T,
        read=lambda state: state,
    )


def test_power_iteration_finds_a_dominant_real_eigenvalue_and_misses_a_pair():
    symmetric = torch.diag(torch.tensor([0.2, -1.5, 0.6]))
    quarter_turn = 1.5 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    state = torch.ones(4, 3)
    assert power_iteration(linear(symmetric), state, state).tolist() == pytest.approx([1.5] * 4, rel=1e-4)
    state = torch.ones(4, 2)
    assert power_iteration(linear(quarter_turn), state, state).tolist() == pytest.approx([0] * 4, abs=1e-6)


@pytest.mark.parametrize("recall", ["none", "external", "internal"])
def test_weights_are_those_of_the_recall(recall):
    settings = settings_from({"task": "prefix-sums", "model": {"width": 8, "heads": 2, "recall": recall}})
    model = build_model(settings.model)
    if recall == "none":
        assert recall_weights(model) is None
        return
    with torch.no_grad():
        model.recall.state.weight.copy_(3 * torch.eye(8))
        model.recall.input.weight.copy_(2 * torch.eye(8))
    found = measure_signals(model, TASK, SPLIT.first(4), trained_iterations=2, iterations=3)
    assert found[STATE_RADIUS].value == pytest.approx(3)
    assert found[WEIGHT_RATIO].value == pytest.approx(1.5)


def test_forecasts_are_made_from_problems_that_evaluation_does_not_use():
    data = {"train_bits": 8, "test_bits": [8, 16], "strings": 100, "test_strings": 20}
    values = {"task": "prefix-sums", "data": data, "evaluation": {"examples": 12}}
    settings = settings_from(values)
    easy = settings.data.evaluation_splits()["8 bits"]
    found = forecast_split(settings, 8)
    assert torch.equal(found.problems, easy.problems[-8:])
    assert torch.equal(found.answers, easy.answers[-8:])
    with pytest.raises(LoopscopeError, match="has 20 problems, expected 12 for the evaluation and 9 others"):
        forecast_split(settings, 9)


def test_answers_are_compared_as_the_task_reads_them():
    """Two squares keep the highest scores, and with them the answer, while the order of the others turns round."""
    task = Chess(source="shipped")
    turn = torch.full((64, 1), -1.0)
    turn[:2] = 0
    base = torch.zeros(64, 1)
    base[:2] = torch.tensor([[100.0], [90.0]])
    loop = FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda e: torch.linspace(-1, 1, 64)[:, None].expand(len(e), 64, 1),
        step=lambda state, e: turn * state + base,
        read=lambda state: state,
    )
    found = measure_signals(loop, task, task.training_split().first(4), trained_iterations=3, iterations=10)
    assert [found[name].value for name in (FORECAST_ANSWER, SWAP_ANSWER, RANDOM_ANSWER)] == [1, 1, 1]
