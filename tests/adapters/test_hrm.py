import torch
from adapted import assert_is_the_model
from looped_models import HierarchicalReasoningModel_ACTV1, puzzle_batch, seeded

import loopscope as ls
from loopscope.adapters.captured import RerunLoop
from loopscope.adapters.registry import adapt


def own(model, inputs, cycles):
    model.inner.config.H_cycles = cycles
    try:
        return model(model.initial_carry(inputs), inputs)[1]["logits"].float()
    finally:
        model.inner.config.H_cycles = 3


def test_it_is_the_model():
    model = seeded(HierarchicalReasoningModel_ACTV1)
    loop = adapt(model)
    assert isinstance(loop, RerunLoop)
    assert loop.iterations_before == 0
    assert_is_the_model(loop, puzzle_batch(5), lambda count: own(model, puzzle_batch(5), count))


def test_it_is_the_model_in_bfloat16():
    model = seeded(HierarchicalReasoningModel_ACTV1, forward_dtype="bfloat16")
    loop = adapt(model)
    assert loop.in_half_precision
    assert_is_the_model(loop, puzzle_batch(), lambda count: own(model, puzzle_batch(), count))


def test_it_starts_from_its_learned_vectors_and_never_from_uninitialized_memory():
    model = seeded(HierarchicalReasoningModel_ACTV1)
    loop = adapt(model)
    low, high = loop.start(loop.encode(puzzle_batch())).values()
    assert torch.equal(low, model.inner.L_init.expand(3, 7, 16))
    assert torch.equal(high, model.inner.H_init.expand(3, 7, 16))


def test_its_geometry_is_known_though_its_inputs_are_tokens():
    exam = ls.examine(adapt(seeded(HierarchicalReasoningModel_ACTV1)), puzzle_batch(4), effort="quick")
    assert all(value is not None for value in exam.geometry.lipschitz.value)
