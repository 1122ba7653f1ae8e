"""A damped step and learned scales of the updates: the equations, configs that carry them, and older ones that do not."""

import json

import pytest
import torch

import loopscope as ls
from loopscope.models import LoopedTransformer, LoopedTransformerConfig, load_model
from loopscope.models.config import STEP_OPTIONS

SHAPE = {"width": 16, "heads": 2, "inputs": 3, "outputs": 4, "grid": (6,), "attention": "full"}
INPUTS = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(**options) -> LoopedTransformer:
    torch.manual_seed(0)
    return LoopedTransformer(LoopedTransformerConfig(**SHAPE, **options)).double().requires_grad_(False)


def stepped(one: LoopedTransformer, state: torch.Tensor) -> torch.Tensor:
    return one.step(state, one.encode(INPUTS))


@pytest.mark.parametrize("recall", ["none", "external", "internal"])
@pytest.mark.parametrize("norm", ["pre", "outer", "gru"])
def test_a_damped_model_goes_a_part_of_the_way(recall, norm):
    state = torch.randn(2, 6, 16, dtype=torch.float64)
    whole = stepped(model(recall=recall, norm=norm), state)
    part = stepped(model(recall=recall, norm=norm, damping=0.3), state)
    torch.testing.assert_close(part, 0.7 * state + 0.3 * whole, rtol=1e-12, atol=1e-12)


def test_a_damped_model_ends_with_no_normalization():
    assert model(norm="outer").outer_gain is not None
    assert model(norm="outer", damping=1.0).outer_gain is not None
    assert model(norm="outer", damping=0.5).outer_gain is None


def test_damping_at_test_time_only_is_the_same_step():
    state = torch.randn(2, 6, 16, dtype=torch.float64)
    trained = model()
    loop = ls.damped(trained, 0.3)
    recalled = loop.encode(INPUTS)
    torch.testing.assert_close(loop.step(state, recalled), stepped(model(damping=0.3), state), rtol=1e-12, atol=1e-12)
    assert torch.equal(loop.start(recalled), trained.start(trained.encode(INPUTS)))
    assert torch.equal(loop.read(state), trained.read(state))


def test_damping_moves_eigenvalues_towards_one():
    matrix = torch.tensor([[-1.4, 0.3], [0.0, 0.5]], dtype=torch.float64)
    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: z @ matrix.T + x, lambda z: z)
    inputs = torch.ones(1, 2, dtype=torch.float64)
    assert not bool(ls.solve(loop, inputs, max_iterations=200).arrived)
    solution = ls.solve(ls.damped(loop, 0.5), inputs, tolerance=1e-10, max_iterations=200)
    expected = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - matrix, inputs[0])
    torch.testing.assert_close(solution.state[0], expected, rtol=1e-6, atol=1e-6)
    values = ls.top_eigenvalues(ls.damped(loop, 0.5), solution.state, inputs, 2).eigenvalues.real[0]
    assert values.tolist() == pytest.approx([0.75, -0.2], abs=1e-6)


def test_a_damped_loop_keeps_masks_counters_and_modules():
    cell = torch.nn.Linear(3, 3)

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def encode(self, inputs):
            return inputs

        def start(self, recalled):
            return {"z": recalled, "t": torch.zeros(len(recalled), dtype=torch.long)}

        def step(self, state, recalled):
            return {"z": self.cell(state["z"]), "t": state["t"] + 1}

        def read(self, state):
            return state["z"]

        def mask(self, recalled):
            return recalled[..., 0] > 0

    own = Counting()
    loop, inputs = ls.damped(own, 0.5), torch.randn(4, 3)
    after = loop.step(loop.start(inputs), inputs)
    torch.testing.assert_close(after["z"], (inputs + cell(inputs)) / 2)
    assert after["t"].tolist() == [1] * 4
    assert torch.equal(loop.mask(inputs), own.mask(inputs))
    assert loop.module is own


def test_learned_scales_multiply_the_updates():
    scaled, plain = model(norm="pre", recall="none", residual_scale=0.2), model(norm="pre", recall="none")
    missing = scaled.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert sorted(missing) == ["blocks.0.scales.attention", "blocks.0.scales.mlp"]
    scales = scaled.blocks[0].scales
    assert all(torch.equal(one, torch.full((16,), 0.2).double()) for one in scales.values())
    scales["attention"].copy_(torch.linspace(-1, 1, 16))
    scales["mlp"].copy_(torch.linspace(0, 2, 16))
    state = torch.randn(2, 6, 16, dtype=torch.float64)
    rotary, mask = plain.positions(state)
    block = plain.blocks[0]

    def first(linear, tokens):
        return linear(tokens)

    after = state + torch.linspace(-1, 1, 16) * block.attention(block.residual.norm_in(state), first, rotary, mask)
    after = after + torch.linspace(0, 2, 16) * block.feed_forward(block.residual.norm_in(after), first)
    torch.testing.assert_close(stepped(scaled, state), after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["pre", "peri", "outer", "sandwich", "gru"])
def test_scales_of_one_change_nothing(norm):
    scaled, plain = model(norm=norm, residual_scale=1.0), model(norm=norm)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    state = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(stepped(scaled, state), stepped(plain, state), rtol=1e-12, atol=1e-12)


def test_the_scales_have_no_weight_decay_and_a_gradient():
    scaled = LoopedTransformer(LoopedTransformerConfig(**SHAPE, residual_scale=0.1))
    assert all(scale.ndim == 1 for scale in scaled.blocks[0].scales.values())
    scaled(INPUTS.float(), 1, 2).sum().backward()
    assert all(bool((scale.grad != 0).any()) for scale in scaled.blocks[0].scales.values())


def test_folding_keeps_damping_and_scales():
    one = model(damping=0.4, residual_scale=0.3)
    state = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(stepped(one.fold(), state), stepped(one, state), rtol=1e-9, atol=1e-9)


def test_a_config_carries_the_options_only_where_they_are_given(tmp_path):
    plain, changed = model(), model(damping=0.5, residual_scale=0.1)
    for one in (plain, changed):
        one.save_pretrained(tmp_path)
        assert load_model(tmp_path).config == one.config
        assert set(STEP_OPTIONS) & json.loads((tmp_path / "config.json").read_text()).keys() == (
            set() if one is plain else set(STEP_OPTIONS)
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"damping": 0.0}, "damping is 0.0, expected a number above 0 and at most 1"),
        ({"damping": 1.5}, "damping is 1.5, expected a number above 0 and at most 1"),
        ({"residual_scale": -1.0}, "residual_scale is -1.0, expected a number above 0"),
        (
            {"damping": 0.5, "architecture": "fixed-depth", "recall": "none"},
            "damping 0.5 was given for a fixed-depth model, which has no steps: leave it out",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ls.LoopscopeError, match=said):
        LoopedTransformerConfig(**SHAPE, **options)
    if options == {"damping": 0.0}:
        with pytest.raises(ls.LoopscopeError, match=said):
            ls.damped(model(), 0.0)
