"""Objectives: their gradients against backpropagation, their memory, and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import read_lines
from safetensors.torch import load_file
from small_runs import tiny
from torch.profiler import ProfilerActivity, profile

from loopscope.errors import LoopscopeError
from loopscope.files import read_yaml_mapping
from loopscope.fixed_points import Phantom
from loopscope.fixed_points.implicit_differentiation import fixed_point
from loopscope.loop import iterate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig, build_model
from loopscope.training.config import TrainingConfig
from loopscope.training.objectives import AT_FIXED_POINT
from loopscope.training.run_folder import open_run
from loopscope.training.samplers import IterationCounts
from loopscope.training.settings import settings_from
from loopscope.training.trainer import make_objective, train

F64 = torch.float64
SHIPPED = sorted((Path(__file__).parents[2] / "src" / "loopscope" / "shipped" / "models").glob("*/config.yaml"))
GRID = {"width": 8, "heads": 2, "inputs": 4, "outputs": 3, "grid": (2, 2), "attention": "full"}


def make_model(dtype=F64, **options) -> LoopedTransformer:
    torch.manual_seed(0)
    return LoopedTransformer(LoopedTransformerConfig(**{**GRID, **options})).to(dtype)


def inputs_for(batch=3, tokens=4, dtype=F64):
    return torch.randn(batch, tokens, 4, generator=torch.Generator().manual_seed(2), dtype=F64).to(dtype)


def gradient(model, logits) -> torch.Tensor:
    """The gradient, in all parameters, of a loss that weighs every logit."""
    model.zero_grad()
    (logits * (1 + torch.arange(logits.numel()).view_as(logits)).sin()).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def of_objective(model, inputs, counts=IterationCounts(0, 1), **options) -> torch.Tensor:  # noqa: B008 (frozen)
    return gradient(model, make_objective(model, TrainingConfig(**options))(inputs, counts))


def error(found, expected):
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("norm", ["outer", "gru"])
def test_the_implicit_objective_has_the_gradient_of_the_converged_loop(norm):
    model, inputs = make_model(norm=norm), inputs_for()
    expected = gradient(model, model(inputs, 0, 400))
    found = of_objective(model, inputs, objective="implicit", tolerance=1e-6, max_iterations=400)
    assert error(found, expected) < 1e-4


def test_truncated_and_phantom_backpropagate_through_the_last_iterations_alone():
    model, inputs = make_model(), inputs_for()
    options = {"tolerance": 1e-10, "max_iterations": 400}
    for last in (1, 4):
        expected = gradient(model, model(inputs, 400 - last, last))
        found = of_objective(model, inputs, objective="truncated", gradient_iterations=last, **options)
        assert error(found, expected) < 1e-6
    one_step = of_objective(model, inputs, objective="truncated", **options)
    assert error(one_step, gradient(model, model(inputs, 399, 1))) < 1e-6
    state = fixed_point(model, inputs, gradient=Phantom(3), tolerance=1e-10, max_iterations=400)
    expected = gradient(model, model.read(state))
    found = of_objective(model, inputs, objective="phantom", gradient_iterations=3, **options)
    assert error(found, expected) < 1e-12


@pytest.mark.parametrize(("objective", "last"), [("implicit", None), ("truncated", 4), ("phantom", 4)])
def test_no_state_is_deeper_than_max_iterations(objective, last):
    model, inputs = make_model(), inputs_for()
    config = TrainingConfig(objective=objective, gradient_iterations=last, tolerance=1e-14, max_iterations=6)
    run = make_objective(model, config)
    logits = run(inputs, IterationCounts(0, 6))
    assert run.figures == {"iterations": 7 - (last or 1), "arrived": 0.0}
    if objective != "phantom":  # damped steps end elsewhere
        recalled = model.encode(inputs)
        torch.testing.assert_close(logits, model.read(iterate(model, model.start(recalled), recalled, 6)))


@pytest.mark.parametrize("recall", ["internal", "none"])
@pytest.mark.parametrize("every", [1, 3, 7, 20])
def test_recomputing_changes_no_gradient(recall, every):
    model, inputs, counts = make_model(recall=recall), inputs_for(), IterationCounts(0, 7)
    kept = of_objective(model, inputs, counts)
    assert error(of_objective(model, inputs, counts, checkpoint_every=every), kept) < 1e-12


def peak_bytes(run) -> int:
    """The most bytes that the allocator had out during ``run``, above those at its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    total = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


def step_memory(counts, **options) -> int:
    model = make_model(torch.float32, width=32)
    objective = make_objective(model, TrainingConfig(**options))
    if options.get("objective") == "implicit":  # as many products from every state
        objective.gradient = replace(objective.gradient, tolerance=1e-12, max_iterations=8)
    inputs = inputs_for(64, dtype=torch.float32)
    objective(inputs, counts).sum().backward()  # gradients are allocated here
    return peak_bytes(lambda: objective(inputs, counts).sum().backward())


def test_memory_grows_with_the_iterations_with_gradient_only():
    at = {counts: step_memory(IterationCounts(*counts)) for counts in [(0, 2), (30, 2), (0, 8), (0, 32)]}
    assert at[30, 2] <= 1.05 * at[0, 2]
    assert 3 * at[0, 8] < at[0, 32] < 5 * at[0, 8]
    # Eight of the 32 iterations at a time, and one state for each of the four parts.
    recomputed = step_memory(IterationCounts(0, 32), checkpoint_every=8)
    assert at[0, 8] < recomputed < 1.2 * at[0, 8]


@pytest.mark.parametrize("objective", AT_FIXED_POINT)
def test_memory_at_the_fixed_point_is_flat_in_the_iterations(objective):
    # A tolerance out of reach, so that all iterations are taken.
    few, many = (
        step_memory(IterationCounts(0, count), objective=objective, tolerance=2e-7, max_iterations=count)
        for count in (16, 256)
    )
    assert abs(many - few) <= 0.05 * few


@pytest.mark.parametrize(
    ("objective", "precision"), list(zip(AT_FIXED_POINT, ["bf16", "float32", "bf16"], strict=True))
)
def test_training_at_the_fixed_point_resumes_bit_for_bit_and_says_whether_it_arrived(tmp_path, objective, precision):
    settings = tiny(objective=objective, precision=precision, steps=4, checkpoint_interval=2)
    weights, rows = [], []
    for stop_after in (2, None):
        steps = []

        def should_stop(stop_after=stop_after, steps=steps):
            return "SIGTERM" if len(steps) == stop_after else None

        run = open_run(tmp_path / f"{stop_after}", settings, resume=False)
        outcome = train(
            settings, run, on_step=lambda step, loss, steps=steps: steps.append(step), should_stop=should_stop
        )
        if outcome.stopped:
            assert outcome.step == stop_after
            train(settings, run)
        weights.append(load_file(run.model / "model.safetensors"))
        rows.append([{**row, "seconds": 0} for row in read_lines(run.metrics)])
    assert rows[0] == rows[1]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    torch.manual_seed(settings.training.seed)
    start = build_model(settings.model).state_dict()
    assert [name for name in start if torch.equal(start[name], weights[0][name])] == []
    for row in rows[0]:
        assert "free_iterations" not in row
        assert 1 <= row["iterations"] <= settings.training.max_iterations
        assert 0 <= row["arrived"] <= 1
        assert ("solved" in row) == (objective == "implicit")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "implict"}, r"did you mean implicit\?"),
        ({"objective": "implicit", "sampler": "poisson"}, "which iterates until it arrives: leave sampler out"),
        ({"objective": "implicit", "checkpoint_every": 4}, "checkpoint_every 4 .*set objective to progressive or full"),
        ({"objective": "implicit", "gradient_iterations": 2}, "gradient_iterations 2 .*to truncated or phantom"),
        ({"tolerance": 1e-3}, "tolerance 0.001 .* with objective progressive, which does not use it: leave it out"),
        ({"objective": "full", "gradient_iterations": 2}, "gradient_iterations 2 .* with objective full"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0, expected a number above 0"),
        ({"objective": "implicit", "tolerance": 0.0}, "tolerance is 0.0, expected a number above 0"),
        ({"objective": "phantom", "tolerance": 1.0}, "tolerance is 1.0, expected a number below 1"),
        ({"objective": "truncated", "gradient_iterations": 31}, r"expected at most max_iterations \(30\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_do_not_go_together_are_refused(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence) as caught:
        TrainingConfig(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "training", "sentence"),
    [
        ({"recall": "none"}, {"objective": "truncated"}, "with recall none: .* embedding would never be trained"),
        ({"recall": "none", "architecture": "fixed-depth"}, {"objective": "implicit"}, "which has no fixed point"),
        ({"recall": "none", "architecture": "fixed-depth"}, {"checkpoint_every": 2}, "which does not iterate"),
    ],
)
def test_models_that_an_objective_cannot_train_are_refused(model, training, sentence):
    with pytest.raises(LoopscopeError, match=sentence):
        tiny(model, **training)


def test_what_an_objective_takes_by_default_is_written_out():
    written = {name: tiny(objective=name).to_dict()["training"] for name in ("progressive", *AT_FIXED_POINT)}
    assert not {"tolerance", "gradient_iterations", "checkpoint_every"} & written["progressive"].keys()
    assert {name: written[name]["tolerance"] for name in AT_FIXED_POINT} == dict.fromkeys(AT_FIXED_POINT, 1e-3)
    assert written["truncated"]["gradient_iterations"] == 1
    assert written["phantom"]["gradient_iterations"] == 4, "five, but max_iterations is four"
    for values in (tiny(objective="phantom"), tiny(checkpoint_every=3)):
        assert settings_from(json.loads(json.dumps(values.to_dict()))) == values


@pytest.mark.parametrize("path", SHIPPED, ids=[path.parent.name for path in SHIPPED])
def test_settings_older_than_these_options_are_read_and_written_as_they_were(path):
    values = read_yaml_mapping(path)
    settings = settings_from(values)
    assert settings.training.checkpoint_every is settings.training.tolerance is None
    assert settings.to_dict()["training"] == values["training"]
