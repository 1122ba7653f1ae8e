"""Options that keep loops from collapsing, as equations, and in runs that resume bit for bit."""

import itertools

import pytest
import torch
from commands import read_lines
from safetensors.torch import load_file
from small_runs import tiny
from torch import nn

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.jacobian import step_jacobian
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.training.config import TrainingConfig
from loopscope.training.jacobian_penalty import jacobian_penalty, random_signs
from loopscope.training.random_starts import with_random_starts
from loopscope.training.regularized import Regularized
from loopscope.training.run_folder import open_run
from loopscope.training.samplers import IterationCounts
from loopscope.training.state_noise import with_noise
from loopscope.training.trainer import (
    AUGMENT,
    REGULARIZE,
    batch_rows,
    draw_counts,
    generator_for,
    make_objective,
    train,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(**options) -> LoopedTransformer:
    torch.manual_seed(0)
    shape = {"width": 8, "heads": 2, "inputs": 3, "outputs": 4, "grid": (3,), "attention": "full"}
    return LoopedTransformer(LoopedTransformerConfig(**shape, **options))


# The penalty on the Jacobian.


def test_averaged_over_all_signs_the_penalty_is_the_mean_squared_entry_of_the_jacobian():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4).double()
    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(layer(z)) + x, lambda z: z)
    state = torch.randn(1, 4, dtype=torch.float64)
    every = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    estimates = [jacobian_penalty(loop, state, torch.zeros(1, 4).double(), signs[None]) for signs in every]
    slope = 1 - torch.tanh(layer(state[0])) ** 2
    exact = (slope[:, None] * layer.weight).square().sum() / 4
    torch.testing.assert_close(torch.stack(estimates).mean(), exact, rtol=1e-12, atol=0)
    # Its gradient is that of the exact one as well.
    (ours,) = torch.autograd.grad(torch.stack(estimates).mean(), layer.weight)
    (theirs,) = torch.autograd.grad(exact, layer.weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["pre", "outer", "gru"])
def test_the_penalty_of_a_transformer_is_made_of_exact_products(norm):
    model = small_model(norm=norm)
    inputs = torch.randn(2, 3, 3)
    recalled = model.encode(inputs)
    state = model.step(model.start(recalled), recalled)
    signs = random_signs(state, seeded())
    product = step_jacobian(model, state, recalled).vjp(signs)
    found = jacobian_penalty(model, state, recalled, signs)
    torch.testing.assert_close(found.detach(), product.square().mean(), rtol=1e-4, atol=0)
    found.backward()
    assert model.embedding.weight.grad is not None  # through recall
    assert all(one.grad is not None for name, one in model.blocks[0].mlp.named_parameters() if name.endswith("weight"))


def test_descending_the_penalty_makes_the_jacobian_smaller():
    model = small_model()
    inputs = torch.randn(4, 3, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    values = []
    for step in range(30):
        recalled = model.encode(inputs)
        state = model.start(recalled)
        for _ in range(4):
            state = model.step(state, recalled)
        optimizer.zero_grad()
        found = jacobian_penalty(model, state, recalled, random_signs(state, seeded(step)))
        found.backward()
        optimizer.step()
        values.append(found.item())
    assert values[-1] < 0.5 * values[0]


def test_signs_are_signs_of_both_kinds():
    signs = random_signs({"z": torch.zeros(8, 100), "t": torch.zeros(8, dtype=torch.long)}, seeded())
    assert signs.shape == (8, 100)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.15


# Noise and random starts.


def test_noise_is_relative_to_each_token_and_passes_the_gradient():
    state = (torch.tensor([1.0, 10.0, 0.0])[None, :, None] * torch.randn(200, 3, 64)).requires_grad_()
    noisy = with_noise(state, 0.2, seeded())
    drawn = torch.randn(state.shape, generator=seeded())
    rms = state.detach().square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(noisy, state + 0.2 * rms * drawn)
    relative = ((noisy - state).square().mean(-1).sqrt() / rms[..., 0]).detach()
    assert relative[:, :2].mean(0).tolist() == pytest.approx([0.2, 0.2], rel=0.05)
    assert torch.equal(noisy[:, 2], state[:, 2])
    noisy.sum().backward()
    assert torch.equal(state.grad, torch.ones_like(state))


def test_some_examples_start_anywhere_with_tokens_of_their_own_norms():
    start = torch.randn(400, 2, 16) * torch.tensor([1.0, 5.0])[None, :, None]
    changed = with_random_starts(start, 0.25, seeded())
    moved = (changed != start).flatten(1).any(1)
    assert 60 < int(moved.sum()) < 140
    assert torch.equal(changed[~moved], start[~moved])
    torch.testing.assert_close(changed.norm(dim=-1), start.norm(dim=-1))
    cosine = torch.cosine_similarity(changed[moved], start[moved], dim=-1)
    assert abs(float(cosine.mean())) < 0.1
    assert bool((with_random_starts(start, 1.0, seeded()) != start).flatten(1).any(1).all())


# The objective.


def test_a_penalty_alone_leaves_the_logits_as_they_are():
    model, inputs = small_model(), torch.randn(5, 3, 3)
    objective = Regularized(model, 2.0, None, None)
    logits = objective(inputs, IterationCounts(3, 2), seeded(4))
    assert torch.equal(logits, model(inputs, 3, 2))
    recalled = model.encode(inputs)
    state = model.start(recalled)
    for _ in range(5):
        state = model.step(state, recalled)
    expected = jacobian_penalty(model, state, recalled, random_signs(state, seeded(4)))
    torch.testing.assert_close(objective.extra_loss, 2 * expected)
    assert objective.figures["jacobian_penalty"] == pytest.approx(expected.item())


def test_noise_is_added_after_every_iteration_and_starts_are_drawn_first():
    model, inputs = small_model(), torch.randn(5, 3, 3)
    logits = Regularized(model, None, 0.1, 0.5)(inputs, IterationCounts(1, 2), seeded(4))
    generator, recalled = seeded(4), model.encode(inputs)
    state = with_random_starts(model.start(recalled), 0.5, generator)
    for _ in range(3):
        state = with_noise(model.step(state, recalled), 0.1, generator)
    torch.testing.assert_close(logits, model.read(state))


@pytest.mark.parametrize("free", [0, 2])
def test_the_gradient_of_the_objective_is_that_of_its_loss(free):
    inputs = torch.randn(5, 3, 3)
    plain, model = small_model(), small_model()
    plain(inputs, free, 2).square().mean().backward()
    objective = Regularized(model, 1e-12, None, None)
    (objective(inputs, IterationCounts(free, 2), seeded()).square().mean() + objective.extra_loss).backward()
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


# Runs.

EVERY = {"jacobian_penalty": 0.5, "state_noise": 0.1, "random_starts": 0.5}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_regularized_run_resumes_bit_for_bit(tmp_path, precision):
    settings, steps = tiny({"damping": 0.7, "residual_scale": 0.5}, precision=precision, **EVERY), []
    whole = open_run(tmp_path / "whole", settings, resume=False)
    train(settings, whole)
    run = open_run(tmp_path / "run", settings, resume=False)
    stop = {"on_step": lambda step, loss: steps.append(step), "should_stop": lambda: "X" if steps[-1] == 4 else None}
    assert train(settings, run, **stop).step == 4
    train(run.settings(), run)
    ours, theirs = (load_file(one.model / "model.safetensors") for one in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [row["jacobian_penalty"] for row in read_lines(run.metrics)] == [
        row["jacobian_penalty"] for row in read_lines(whole.metrics)
    ]


def test_the_penalty_is_part_of_the_loss_that_training_descends(tmp_path):
    config = tiny(steps=1, jacobian_penalty=3.0, gradient_clip=1e9).training
    settings = tiny(steps=1, jacobian_penalty=3.0, gradient_clip=1e9)
    run = open_run(tmp_path / "run", settings, resume=False)
    train(settings, run)
    (row,) = read_lines(run.metrics)
    torch.manual_seed(config.seed)
    model = ls.build_model(settings.model)
    objective, task = make_objective(model, config), settings.data
    split = task.training_split()
    rows = batch_rows(config.seed, 0, config.batch_size, len(split))
    problems, answers = task.augment(split.problems[rows], split.answers[rows], generator_for(config.seed, AUGMENT, 0))
    logits = objective(task.inputs(problems), draw_counts(config, 0), generator_for(config.seed, REGULARIZE, 0))
    loss = task.loss(logits, answers)
    (loss + objective.extra_loss).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_settings_without_the_options_are_written_as_before():
    values = tiny().to_dict()
    assert not {*EVERY} & values["training"].keys()
    assert not {"damping", "residual_scale"} & values["model"].keys()
    assert isinstance(make_objective(nn.Linear(1, 1), TrainingConfig()), nn.Module)
    assert not isinstance(make_objective(nn.Linear(1, 1), TrainingConfig()), Regularized)


@pytest.mark.parametrize(
    ("model", "training", "said"),
    [
        ({}, {"jacobian_penalty": 0.0}, "jacobian_penalty is 0.0, expected a number above 0"),
        ({}, {"state_noise": -1.0}, "state_noise is -1.0, expected a number above 0"),
        ({}, {"random_starts": 1.5}, "random_starts is 1.5, expected a number above 0 and at most 1"),
        (
            {},
            {"state_noise": 0.1, "objective": "implicit"},
            "state_noise 0.1 was given with objective implicit, which does not use it",
        ),
        (
            {},
            {"jacobian_penalty": 1.0, "random_starts": 0.5, "checkpoint_every": 2},
            "checkpoint_every 2 was given with jacobian_penalty, random_starts, which draw random numbers",
        ),
        ({"recall": "none"}, {"random_starts": 0.5}, "random_starts was given with recall none"),
        (
            {"architecture": "fixed-depth", "recall": "none"},
            {"state_noise": 0.1},
            "state_noise was given for a fixed-depth model, which does not iterate: leave it out",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(model, training, said):
    with pytest.raises(LoopscopeError, match=said):
        tiny(model, **training)
