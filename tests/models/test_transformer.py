"""The models against the paper's table of update rules, written out a second time in plain float64 operations."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from paper_reference import CAUSAL, GRID, LINE, NORMS, RECALLS, config, inputs_for, plain, scrambled

from loopscope.checks import check_step
from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, iterate
from loopscope.models import FixedDepthTransformer, LoopedTransformer, LoopedTransformerConfig, build_model
from loopscope.models import transformer as transformer_module
from loopscope.models.attention import local_mask
from loopscope.models.rotary import rotary_table


@pytest.mark.parametrize("where", [LINE, CAUSAL, GRID], ids=["line", "causal line", "grid"])
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


@pytest.mark.parametrize("tokens", [1, 7, 100])
def test_under_causal_attention_what_follows_a_token_does_not_matter_to_it(tokens):
    model = scrambled(LoopedTransformer(config(recall="internal", norm="outer", **CAUSAL)))
    inputs = inputs_for(model, 100)
    torch.testing.assert_close(model(inputs[:, :tokens], 0, 3), model(inputs, 0, 3)[:, :tokens], rtol=1e-9, atol=1e-9)


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
    with pytest.raises(LoopscopeError, match="save the model that it was folded from"):
        folded.save_pretrained(tmp_path)
    with pytest.raises(LoopscopeError, match="already compiled or folded"):
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


@pytest.mark.parametrize("shape", [(2, 12), (2, 12, 5), (2, 11, 3)])
@pytest.mark.usefixtures("unchecked")
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(LoopscopeError, match=r"expected \(batch, 12 tokens, 3\)"):
        LoopedTransformer(config()).encode(torch.zeros(shape))


def test_a_line_of_any_length_takes_every_length():
    model = scrambled(LoopedTransformer(config(**LINE)))
    for tokens in (1, 4, 40, 67):
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
    monkeypatch.setattr(transformer_module, "local_mask", counted("mask", local_mask))
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
    LoopedTransformerConfig(width=16, heads=2, inputs=3, outputs=4, grid=(0,), attention="local", kernel_size=5)
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


def test_iterations_compose():
    model = scrambled(LoopedTransformer(config(recall="external", norm="sandwich")))
    inputs = inputs_for(model)
    recalled = model.encode(inputs)
    states = [iterate(model, model.start(recalled), recalled, count) for count in range(4)]
    for before, after in pairwise(states):
        torch.testing.assert_close(model.step(before, recalled), after, rtol=0, atol=0)
    torch.testing.assert_close(model(inputs, 1, 2), model.read(states[3]), rtol=0, atol=0)
