"""Any module as a loop: what is found out about it, and that it is the model exactly."""

from collections import Counter

import pytest
import torch
from looped_models import (
    TOKENS,
    WIDTH,
    DoryLike,
    DTNet,
    GRULoop,
    Parcae,
    RavenForCausalLM,
    Sotaku,
    TinyRecursiveReasoningModel_ACTV1,
    ids,
    puzzle_batch,
    seeded,
)

import loopscope as ls
from loopscope.adapters.capture import capture
from loopscope.adapters.captured import DirectLoop, RerunLoop
from loopscope.jacobian import step_jacobian
from loopscope.trees import batch_size, flatten, join, select

PROVEN = (1, 2, 3, 5)


def text(**options):
    tokens = ids(**options)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def assert_is_the_model(loop, inputs, run):
    """Start, steps and read give the model's own logits exactly, for each number of iterations."""
    with torch.no_grad():
        recalled = loop.encode(inputs)
        for count in PROVEN:
            state = loop.start(recalled)
            for _ in range(count - loop.iterations_before):
                state = loop.step(state, recalled)
            assert torch.equal(loop.read(state, recalled), run(loop.model, inputs, count)), count


def calls_of(model, function):
    """Count how often each submodule computes."""
    counts = Counter()

    def counting(name, original):
        def forward(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        return forward

    for name, module in model.named_modules():
        module.forward = counting(name, module.forward)
    try:
        function()
    finally:
        for module in model.modules():
            del module.forward
    return counts


def test_an_iteration_around_which_the_model_normalizes_and_injects_is_run_within_the_models_own_forward():
    model, inputs = seeded(DoryLike), text()
    loop = capture(model, "layers.3", inputs, DoryLike.run)
    assert isinstance(loop, RerunLoop)
    assert loop.iterations_before == 0
    assert_is_the_model(loop, inputs, DoryLike.run)
    assert_is_the_model(loop, text(batch=2, tokens=4, seed=1), DoryLike.run)


def test_a_call_that_is_fed_by_itself_alone_is_the_step():
    model, inputs = seeded(Parcae), {"input_ids": ids()}
    run = lambda model, inputs, n: model(**inputs, num_steps=n)  # noqa: E731
    loop = capture(model, "core_block_forward", inputs, run)
    assert isinstance(loop, DirectLoop)
    assert_is_the_model(loop, inputs, run)
    assert set(loop.encode(inputs)["recalled"]) == {"e"}


def test_neither_the_prelude_nor_what_is_replaced_is_computed_again_in_a_step():
    """An iteration's calls and no other, in both ways."""
    model, inputs = seeded(DoryLike), text()
    loop = capture(model, "layers.3", inputs, DoryLike.run)
    recalled = loop.encode(inputs)
    state = loop.start(recalled)
    counts = calls_of(model, lambda: loop.step(state, recalled))
    assert {name: n for name, n in counts.items() if name.count(".") < 2 and name} == {
        "norm": 1,
        "layers.2": 1,
        "layers.3": 1,
    }
    counts = calls_of(model, lambda: loop.read(state, recalled))
    assert {name: n for name, n in counts.items() if name.count(".") < 2 and name} == {
        "layers.4": 1,
        "norm": 1,
        "head": 1,
    }
    counts = calls_of(model, lambda: loop.start(recalled))
    assert {name for name in counts if name} == set()

    model, inputs = seeded(Parcae), {"input_ids": ids()}
    loop = capture(model, "core_block_forward", inputs, lambda model, inputs, n: model(**inputs, num_steps=n))
    recalled = loop.encode(inputs)
    counts = calls_of(model, lambda: loop.step(loop.start(recalled), recalled))
    assert {name: n for name, n in counts.items() if "." not in name and name} == {"inject": 1, "core": 1}
