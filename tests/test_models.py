"""The models against the paper's table of update rules, written out a second time in plain float64 operations."""

import math
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loopscope.checks import check_step
from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, iterate
from loopscope.models import FixedDepthTransformer, LoopedTransformer, LoopedTransformerConfig, build_model
from loopscope.models import transformer as transformer_module
from loopscope.models.attention import (
    ONE_STRIP,
    STRIP,
    RMSNorm,
    full_attention,
    local_attention,
    rotary_table,
    rotate,
    rotate_tokens_last,
    window_mask,
)

RECALLS = ("none", "external", "internal")
NORMS = ("pre", "peri", "outer", "sandwich", "gru")
LINE = {"grid": (0,), "attention": "local", "window": 5}
GRID = {"grid": (3, 4), "attention": "full"}


def config(**options) -> LoopedTransformerConfig:
    return LoopedTransformerConfig(**{"width": 16, "heads": 2, "inputs": 3, "outputs": 4, **GRID, **options})


def scrambled(model, seed: int = 0):
    """Give every parameter its own random values, gains and biases too: at their defaults, mix-ups would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.25 * noise + (parameter == 1))
    return model


def inputs_for(model, tokens: int = 12) -> Tensor:
    return torch.randn(2, tokens, model.config.inputs, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@dataclass
class Plain:
    """The architecture of the paper in plain tensor operations on the raw weights."""

    weights: dict[str, Tensor]
    config: LoopedTransformerConfig
    block: int = 0

    def rms(self, features: Tensor, name: str) -> Tensor:
        return features / (features.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]

    def linear(self, features: Tensor, name: str) -> Tensor:
        return features @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def gelu(self, features: Tensor) -> Tensor:
        return features * (1 + torch.erf(features / math.sqrt(2))) / 2

    def positions(self, tokens: int) -> list[tuple[int, ...]]:
        if self.config.grid == (0,):
            return [(i,) for i in range(tokens)]
        rows, columns = self.config.grid
        return [(i, j) for i in range(rows) for j in range(columns)]

    def rotary(self, features: Tensor) -> Tensor:
        """Multiply feature pairs (i, i + half), as complex numbers, by exp(i angle)."""
        pairs = features.shape[-1] // 2
        positions = self.positions(features.shape[1])
        per_axis = pairs // len(positions[0])
        angles = torch.tensor(
            [
                [axis * self.config.rope_base ** (-k / per_axis) for axis in where for k in range(per_axis)]
                for where in positions
            ],
            dtype=torch.float64,
        )
        # The model keeps its table in float32; everything else here is float64.
        turns = torch.complex(angles.cos().float().double(), angles.sin().float().double())
        turned = torch.complex(features[..., :pairs], features[..., pairs:]) * turns[:, None]
        return torch.cat([turned.real, turned.imag], -1)

    def attention(self, tokens: Tensor) -> Tensor:
        name, heads = f"blocks.{self.block}.attention", self.config.heads
        batch, length, width = tokens.shape
        query, key, value = (
            part.reshape(batch, length, heads, width // heads)
            for part in self.linear(tokens, f"{name}.query_key_value").split(width, -1)
        )
        query = self.rms(self.rotary(query), f"{name}.query_norm")
        key = self.rms(self.rotary(key), f"{name}.key_norm")
        scores = torch.einsum("bihc,bjhc->bhij", query, key) / math.sqrt(width // heads)
        if self.config.attention == "local":
            distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
            scores = scores.masked_fill(distance > self.config.window, -math.inf)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        return self.linear(torch.einsum("bhij,bjhc->bihc", weights, value).reshape(batch, length, width), f"{name}.out")

    def mlp(self, tokens: Tensor) -> Tensor:
        name = f"blocks.{self.block}.mlp"
        return self.linear(self.gelu(self.linear(tokens, f"{name}.0")), f"{name}.2")

    def norm_in(self, features: Tensor) -> Tensor:
        return self.rms(features, f"blocks.{self.block}.residual.norm_in")

    def norm_update(self, features: Tensor) -> Tensor:
        return self.rms(features, f"blocks.{self.block}.residual.norm_update")

    def norm_out(self, features: Tensor) -> Tensor:
        return self.rms(features, f"blocks.{self.block}.residual.norm_out")

    def gru(self, update: Tensor, hidden: Tensor) -> Tensor:
        name = f"blocks.{self.block}.residual.cell"
        w, u, b, c = (self.weights[f"{name}.{part}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        width = hidden.shape[-1]
        r, g, n = (slice(i * width, (i + 1) * width) for i in range(3))
        reset = torch.sigmoid(update @ w[r].T + b[r] + hidden @ u[r].T + c[r])
        keep = torch.sigmoid(update @ w[g].T + b[g] + hidden @ u[g].T + c[g])
        new = torch.tanh(update @ w[n].T + b[n] + reset * (hidden @ u[n].T + c[n]))
        return (1 - keep) * new + keep * hidden

    def recall(self, state: Tensor, embedding: Tensor) -> Tensor:
        injected = embedding @ self.weights["recall.input.weight"].T + self.weights["recall.input.bias"]
        return state @ self.weights["recall.state.weight"].T + injected

    def iteration(self, state: Tensor, embedding: Tensor) -> Tensor:
        if self.config.recall == "external":
            state = self.recall(state, embedding)
        for block in range(self.config.blocks):
            self.block = block
            for sublayer in (self.attention, self.mlp):
                state = EQUATIONS[self.config.norm, self.config.recall](self, state, sublayer, embedding)
        return state

    def forward(self, inputs: Tensor, free: int, gradient: int) -> Tensor:
        embedding = self.linear(inputs, "embedding")
        state = embedding
        with torch.no_grad():
            for _ in range(free):
                state = self.iteration(state, embedding)
        for _ in range(gradient):
            state = self.iteration(state, embedding)
        return self.read(state)

    def read(self, state: Tensor) -> Tensor:
        return self.linear(self.gelu(self.linear(self.rms(state, "readout.0"), "readout.1")), "readout.3")


# One sub-layer S on the state z (paper, normalization table; N is this object's norms, R(a, e) its recall).
WITHOUT_RECALL = {
    "pre": lambda n, z, S, e: z + S(n.norm_in(z)),
    "peri": lambda n, z, S, e: z + n.norm_update(S(n.norm_in(z))),
    "outer": lambda n, z, S, e: n.norm_out(z + S(z)),
    "sandwich": lambda n, z, S, e: n.norm_out(z + S(n.norm_in(z))),
    "gru": lambda n, z, S, e: n.gru(n.norm_update(S(n.norm_in(z))), z),
}
INTERNAL = {
    "pre": lambda n, z, S, e: z + S(n.recall(n.norm_in(z), e)),
    "peri": lambda n, z, S, e: z + n.norm_update(S(n.recall(n.norm_in(z), e))),
    "outer": lambda n, z, S, e: n.norm_out(z + S(n.recall(z, e))),
    "sandwich": lambda n, z, S, e: n.norm_out(z + S(n.recall(n.norm_in(z), e))),
    "gru": lambda n, z, S, e: n.gru(n.norm_update(S(n.recall(n.norm_in(z), e))), z),
}
EQUATIONS = {
    (norm, recall): (INTERNAL if recall == "internal" else WITHOUT_RECALL)[norm] for norm in NORMS for recall in RECALLS
}


def plain(model) -> Plain:
    return Plain(dict(model.state_dict()), model.config)


@pytest.mark.parametrize("where", [LINE, GRID], ids=["line", "grid"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("recall", RECALLS)
def test_each_update_rule_is_the_papers_equation(recall, norm, where):
    model = scrambled(LoopedTransformer(config(recall=recall, norm=norm, **where)))
    rule = plain(model)
    inputs = inputs_for(model)
    recalled = model.encode(inputs)
    embedding = rule.linear(inputs, "embedding")
    state = model.start(recalled)
    torch.testing.assert_close(state, embedding, rtol=1e-12, atol=1e-12)
    for _ in range(3):
        expected = rule.iteration(state, embedding)
        state = model.step(state, recalled)
        torch.testing.assert_close(state, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.read(state), rule.read(state), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("recall", RECALLS)
def test_several_blocks_share_one_recall_and_enter_it_once(recall):
    model = scrambled(LoopedTransformer(config(recall=recall, norm="peri", blocks=3)))
    inputs = inputs_for(model)
    torch.testing.assert_close(model(inputs, 0, 2), plain(model).forward(inputs, 0, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("where", [LINE, GRID], ids=["line", "grid"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("recall", RECALLS)
def test_a_folded_model_is_the_same_and_leaves_the_one_it_was_folded_from(recall, norm, where):
    model = scrambled(LoopedTransformer(config(recall=recall, norm=norm, blocks=2, **where)))
    inputs = inputs_for(model)
    folded, before = model.fold(), model.state_dict()
    recalled, plain_recalled = folded.encode(inputs), model.encode(inputs)
    state = plain_state = folded.start(recalled)
    for _ in range(3):
        state, plain_state = folded.step(state, recalled), model.step(plain_state, plain_recalled)
        torch.testing.assert_close(state, plain_state, rtol=1e-10, atol=1e-10)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == before.keys()


def test_a_folded_model_is_neither_saved_nor_folded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step: step)
    model = LoopedTransformer(config(recall="internal", norm="outer"))
    folded = model.fold()
    with pytest.raises(LoopscopeError, match="save the one that it was folded from"):
        folded.save_pretrained(tmp_path)
    with pytest.raises(LoopscopeError, match="folded already"):
        folded.fold()
    with pytest.raises(LoopscopeError, match="before compile_step"):
        model.compile_step().fold()


def test_the_fixed_depth_model_is_its_blocks_once_whatever_the_counts():
    model = scrambled(FixedDepthTransformer(config(architecture="fixed-depth", recall="none", norm="pre", blocks=4)))
    inputs = inputs_for(model)
    expected = plain(model).forward(inputs, 0, 1)
    for counts in [(0, 1), (3, 5)]:
        torch.testing.assert_close(model(inputs, *counts), expected, rtol=1e-10, atol=1e-10)
    recalled = model.encode(inputs)
    torch.testing.assert_close(model.read(iterate(model, model.start(recalled), recalled, 1)), expected)


@pytest.mark.parametrize("free", [0, 2])
@pytest.mark.parametrize(("recall", "norm"), [("internal", "outer"), ("external", "gru"), ("none", "sandwich")])
def test_the_training_gradient_is_that_of_a_hand_written_loop(recall, norm, free):
    model = scrambled(LoopedTransformer(config(recall=recall, norm=norm)))
    inputs = inputs_for(model)
    model(inputs, free, 3).square().sum().backward()
    rule = plain(model)
    rule.weights = {name: value.clone().requires_grad_() for name, value in rule.weights.items()}
    rule.forward(inputs, free, 3).square().sum().backward()
    for name, parameter in model.named_parameters():
        expected = rule.weights[name].grad
        if recall == "none" and free and name.startswith("embedding"):
            assert parameter.grad is None
            assert expected is None
        else:
            assert expected.abs().max() > 0
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10, msg=name)


def test_autocast_keeps_the_gradient_after_free_iterations():
    torch.manual_seed(0)
    model = LoopedTransformer(config(recall="internal", norm="outer"))
    inputs = inputs_for(model).float()
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(inputs, 2, 2)
        logits.float().square().sum().backward()
        gradients.append({name: parameter.grad.flatten() for name, parameter in model.named_parameters()})
    for name, exact in gradients[0].items():
        assert torch.cosine_similarity(exact, gradients[1][name], dim=0) > 0.99, name


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"recall": "internal"}, 0.99),
        ({"recall": "external"}, 0.99),
        ({"recall": "none"}, 0.86),
        ({"recall": "internal", "norm": "gru"}, 1.39),
        ({"recall": "none", "norm": "pre", "architecture": "fixed-depth", "blocks": 15}, 11.9),
    ],
)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 2), (10, 10), (12, 2)], ids=["prefix-sums", "sudoku", "chess"])
def test_parameter_counts_are_the_papers(options, millions, inputs, outputs):
    with torch.device("meta"):
        model = build_model(
            LoopedTransformerConfig(inputs=inputs, outputs=outputs, grid=(0,), attention="full", **options)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recall": "interal"}, r"recall is 'interal', expected one of .*did you mean internal\?"),
        ({"norm": "post"}, "norm is 'post', expected one of pre, peri, outer, sandwich, gru"),
        ({"architecture": "deep"}, "architecture is 'deep'"),
        ({"attention": "sparse"}, "attention is 'sparse'"),
        ({"heads": 3}, "width 16 cannot be split into 3 heads"),
        ({"width": 0}, "width is 0, expected a number above 0"),
        ({"blocks": -1}, "blocks is -1"),
        ({"rope_base": float("nan")}, "rope_base is nan"),
        ({"inputs": 0}, "inputs is 0"),
        ({"architecture": "fixed-depth", "recall": "internal"}, "there is nothing to recall; set recall to none"),
        ({"attention": "full", "window": 5}, "window 5 was given with full attention"),
        ({"attention": "local", "window": 0, "grid": (0,)}, "window is 0, expected a distance"),
        ({"attention": "local", "window": -1, "grid": (0,)}, "window is -1, expected a distance"),
        ({"attention": "local", "window": 5}, "it is defined on a line only"),
        ({"attention": "local"}, "it is defined on a line only"),
        ({"attention": None, "window": 5}, "it is defined on a line only"),
        ({"grid": ()}, "expected positive lengths"),
        ({"grid": (0, 9)}, "expected positive lengths"),
        ({"grid": (-4,)}, "expected positive lengths"),
        ({"heads": 8}, "heads of width 2 cannot carry a rotary embedding over 2 axes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_contradictions_are_refused_when_the_config_is_built(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence) as caught:
        config(**options)
    assert "\n" not in str(caught.value)


def test_an_incomplete_config_builds_no_model():
    with pytest.raises(LoopscopeError, match="leaves inputs, outputs, grid, attention empty"):
        build_model(LoopedTransformerConfig())
    with pytest.raises(LoopscopeError, match="leaves window empty"):
        build_model(config(grid=(0,), attention="local"))
    with pytest.raises(LoopscopeError, match="of a fixed-depth model, expected looped"):
        LoopedTransformer(config(architecture="fixed-depth", recall="none"))


@pytest.mark.parametrize("shape", [(2, 12), (2, 12, 5), (2, 11, 3)])
@pytest.mark.usefixtures("unchecked")
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(LoopscopeError, match=r"expected \(batch, 12 tokens, 3\)"):
        LoopedTransformer(config()).encode(torch.zeros(shape))


def test_a_line_of_any_length_takes_every_length():
    model = scrambled(LoopedTransformer(config(**LINE)))
    for tokens in (1, 4, 40):
        inputs = inputs_for(model, tokens)
        torch.testing.assert_close(model(inputs, 0, 2), plain(model).forward(inputs, 0, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("recall", "per_iteration"), [("external", 1), ("internal", 2)])
def test_what_stays_the_same_is_computed_once_per_forward(recall, per_iteration, monkeypatch):
    calls = {"embedding": 0, "input": 0, "state": 0, "rotary": 0, "mask": 0}

    def counted(name, function):
        def count(*arguments):
            calls[name] += 1
            return function(*arguments)

        return count

    monkeypatch.setattr(transformer_module, "rotary_table", counted("rotary", rotary_table))
    monkeypatch.setattr(transformer_module, "window_mask", counted("mask", window_mask))
    model = LoopedTransformer(config(recall=recall, **LINE))
    for name, module in [
        ("embedding", model.embedding),
        ("input", model.recall.input),
        ("state", model.recall.state),
    ]:
        module.register_forward_hook(counted(name, lambda *_: None))
    inputs = inputs_for(model).float()
    model(inputs, 3, 4)
    assert calls == {"embedding": 1, "input": 1, "state": 7 * per_iteration, "rotary": 1, "mask": 1}
    model(inputs, 0, 1)
    assert calls == {"embedding": 2, "input": 2, "state": 8 * per_iteration, "rotary": 1, "mask": 1}


def test_a_model_is_a_deterministic_loop():
    for model in (
        LoopedTransformer(config()),
        FixedDepthTransformer(config(architecture="fixed-depth", recall="none", blocks=2)),
    ):
        assert isinstance(model, Loop)
        recalled = model.encode(inputs_for(model).float())
        check_step(model, model.start(recalled), recalled)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_trains_after_it_was_evaluated(mode):
    model = LoopedTransformer(config(**LINE))
    inputs = inputs_for(model).float()
    with mode():
        model(inputs, 0, 2)
    model(inputs, 1, 1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


COMPILED = """
import torch
from loopscope.models import LoopedTransformer, LoopedTransformerConfig

torch.manual_seed(0)
model = LoopedTransformer(
    LoopedTransformerConfig(width=16, heads=2, inputs=3, outputs=4, grid=(0,), attention="local", window=5)
)
inputs = torch.randn(2, 12, 3)
results = []
for _ in range(2):
    logits = model(inputs, 1, 2)
    logits.square().sum().backward()
    results.append([logits, *(parameter.grad for parameter in model.parameters())])
    names = list(model.state_dict())
    model.zero_grad()
    assert list(model.compile_step().state_dict()) == names
for eager, compiled in zip(*results, strict=True):
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
"""


def test_a_compiled_step_computes_the_same_values_and_gradients():
    # In its own process, because the compiler cannot trace the checks of shapes that tests switch on.
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=200)


@settings(max_examples=40)
@given(
    tokens=st.one_of(st.integers(1, 12), st.integers(ONE_STRIP - 1, 4 * STRIP + 3)),
    radius=st.one_of(st.integers(0, 8), st.integers(STRIP - 1, STRIP + 8)),
    seed=st.integers(0, 2**16),
)
def test_local_attention_is_full_attention_with_a_band_mask(tokens, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(2, tokens, 3, 4, generator=generator, dtype=torch.float64)  # noqa: E731
    query, key, value, weight = (draw() for _ in range(4))
    query.requires_grad_(), key.requires_grad_(), value.requires_grad_()
    band = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs() <= radius
    scores = torch.einsum("bihc,bjhc->bhij", query, key) / 2
    full = torch.einsum("bhij,bjhc->bihc", scores.masked_fill(~band, -math.inf).softmax(-1), value)
    local = local_attention(query, key.permute(0, 2, 3, 1), value, window_mask(tokens, radius))
    torch.testing.assert_close(local, full, rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad((full * weight).sum(), (query, key, value))
    for gradient, right in zip(torch.autograd.grad((local * weight).sum(), (query, key, value)), expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-10)


def test_full_attention_mixes_all_values_by_softmax():
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = (torch.einsum("bihc,bjhc->bhij", query, key) / 2).softmax(-1)
    mixed = full_attention(query, key.permute(0, 2, 3, 1), value)
    torch.testing.assert_close(mixed, torch.einsum("bhij,bjhc->bihc", weights, value))


def test_a_long_line_costs_in_proportion_to_its_length():
    sizes = [window_mask(tokens, 5).numel() for tokens in (32 * STRIP, 64 * STRIP)]
    assert sizes[1] == 2 * sizes[0] == 64 * STRIP * (STRIP + 10)


def test_what_is_not_finite_in_one_example_stays_there():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 100, 1, 4, generator=generator) for _ in range(3))
    key = key.permute(0, 2, 3, 1)
    expected = local_attention(query, key, value, window_mask(100, 2))[1]
    for part in (query, key, value):
        part[0] = math.nan
    mixed = local_attention(query, key, value, window_mask(100, 2))
    assert torch.equal(mixed[1], expected)
    assert mixed[0].isnan().all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_local_attention_stays_finite_for_large_scores(scale):
    query = scale * torch.ones(1, 6, 1, 4)
    value = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 1, 4)
    mixed = local_attention(query, query.permute(0, 2, 3, 1), value, window_mask(6, 1))[0, :, 0, 0]
    torch.testing.assert_close(mixed, torch.tensor([0.5, 1, 2, 3, 4, 4.5]))


@pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 3, 2)])
def test_rotary_is_multiplication_by_complex_phases(grid):
    pairs = 6
    positions = torch.cartesian_prod(*[torch.arange(n) for n in grid]).view(-1, len(grid)).double()
    frequencies = 10000.0 ** (-torch.arange(pairs // len(grid)).double() / (pairs // len(grid)))
    phases = torch.exp(1j * (positions[:, :, None] * frequencies).flatten(1))
    features = torch.randn(2, math.prod(grid), 3, 2 * pairs, generator=torch.Generator().manual_seed(0)).double()
    turned = torch.complex(*features.chunk(2, -1)) * phases[:, None]
    expected = torch.cat([turned.real, turned.imag], -1)
    table = rotary_table(grid, 2 * pairs, 10000.0)
    torch.testing.assert_close(rotate(features, table), expected, rtol=1e-6, atol=1e-6)
    last = rotate_tokens_last(features.permute(0, 2, 3, 1), table)
    torch.testing.assert_close(last, expected.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


def test_a_norm_is_the_same_where_tokens_are_last():
    norm = RMSNorm(6).double()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    features = torch.randn(2, 5, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(norm.tokens_last(features.permute(0, 2, 3, 1)), norm(features).permute(0, 2, 3, 1))
    assert norm.float().tokens_last(features.bfloat16().mT).dtype is torch.float32


@settings(max_examples=60)
@given(
    first=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    second=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    shift=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    seed=st.integers(0, 2**16),
)
def test_rotary_scores_depend_on_relative_positions_only(first, second, shift, seed):
    side = 16
    table = rotary_table((side, side), 8, 100.0)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def score(at: tuple[int, int], other: tuple[int, int]) -> Tensor:
        rows = torch.tensor([at[0] * side + at[1], other[0] * side + other[1]])
        turned = rotate(torch.stack([query, key]).view(1, 2, 1, 8), table[:, rows])
        return (turned[0, 0] * turned[0, 1]).sum()

    moved = [tuple(p + s for p, s in zip(position, shift, strict=True)) for position in (first, second)]
    torch.testing.assert_close(score(first, second), score(*moved), rtol=1e-5, atol=1e-5)


def test_iterations_compose():
    model = scrambled(LoopedTransformer(config(recall="external", norm="sandwich")))
    inputs = inputs_for(model)
    recalled = model.encode(inputs)
    states = [iterate(model, model.start(recalled), recalled, count) for count in range(4)]
    for before, after in pairwise(states):
        torch.testing.assert_close(model.step(before, recalled), after, rtol=0, atol=0)
    torch.testing.assert_close(model(inputs, 1, 2), model.read(states[3]), rtol=0, atol=0)
