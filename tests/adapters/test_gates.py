"""Learned gates of adapted models, against what the models' own forward computes, and as a rule that stops."""

from __future__ import annotations

import torch
from HRM import HRM, HRM_ACT
from looped_models import (
    HierarchicalReasoningModel_ACTV1,
    OpenMythos,
    OuroForCausalLM,
    TinyRecursiveReasoningModel_ACTV1,
    ids,
    puzzle_batch,
    seeded,
)
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel
from x_transformers import Decoder, TransformerWrapper

import loopscope as ls

COUNT = 3
TEXT = {"input_ids": ids(seed=1), "attention_mask": torch.ones_like(ids(seed=1))}


def gate_after(loop, inputs, count=COUNT):
    """Return what the gate says after some of the model's own iterations."""
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.start(recalled)
        for _ in range(count - loop.iterations_before):
            state = loop.step(state, recalled)
        return loop.gate(state, recalled)


def test_ouro_stops_by_the_gate_of_its_decoder_in_both_precisions():
    for dtype in (torch.float32, torch.bfloat16):
        model = seeded(OuroForCausalLM).to(dtype)
        model.model.total_ut_steps = COUNT
        own = model.model(**TEXT)[1][-1].squeeze(-1).float().sigmoid()
        found = gate_after(ls.adapt(model, TEXT, positions="all"), TEXT)
        assert torch.allclose(found, own, atol=1e-5 if dtype is torch.float32 else 0.02)


def test_a_gate_is_read_at_the_chosen_tokens_among_the_real_ones():
    padded = {"input_ids": ids(seed=1), "attention_mask": torch.ones_like(ids(seed=1))}
    padded["attention_mask"][0, -2:] = 0
    loop = ls.adapt(seeded(OuroForCausalLM), padded, positions="all")
    everywhere, last = gate_after(loop, padded), gate_after(loop.reading("last"), padded)
    assert last.flatten().tolist() == [everywhere[0, -3], *everywhere[1:, -1].tolist()]


def test_x_transformers_stops_by_its_exit_gate():
    stack = {"dim": 16, "depth": 2, "heads": 2, "attn_dim_head": 8, "pre_and_post_norm": True}
    model = seeded(lambda: TransformerWrapper(num_tokens=31, max_seq_len=16, looped=True, attn_layers=Decoder(**stack)))
    model.exit_gate.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    _, between = model(ids(), looped_steps=COUNT, return_intermediates=True)
    own = between.exit_logits[-1].squeeze(-1).sigmoid()
    assert torch.allclose(gate_after(ls.adapt(model, {"x": ids()}, positions="all"), {"x": ids()}), own, atol=1e-5)


def test_tiny_recursive_model_stops_by_its_halting_probability():
    network = lambda: MLPMixer1D(dim=16, depth=1, seq_len=6)  # noqa: E731
    model = seeded(lambda: TinyRecursiveModel(dim=16, num_tokens=13, network=network(), num_refinement_blocks=COUNT))
    model.to_halt_pred[1].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    own = model(ids(), *model.get_initial())[3]
    assert own.std() > 0
    assert torch.allclose(gate_after(ls.adapt(model), ids()), own, atol=1e-5)


def test_trm_stops_by_its_halting_head():
    model = seeded(TinyRecursiveReasoningModel_ACTV1, H_cycles=COUNT)
    own = model(model.initial_carry(puzzle_batch()), puzzle_batch())[1]["q_halt_logits"].sigmoid()
    assert torch.allclose(gate_after(ls.adapt(model), puzzle_batch()), own, atol=1e-5)


def test_hrm_stops_where_stopping_is_worth_more_than_going_on():
    model = seeded(HierarchicalReasoningModel_ACTV1, H_cycles=COUNT)
    carry = model.inner.reset_carry(torch.ones(3, dtype=torch.bool), model.inner.empty_carry(3))
    stop, go_on = model.inner(carry, puzzle_batch())[2].unbind(1)
    assert torch.allclose(gate_after(ls.adapt(model), puzzle_batch()), (stop - go_on).sigmoid(), atol=1e-5)


def test_the_hrm_that_computes_adaptively_stops_where_its_gate_is_above_one_half():
    network = {"dim": 16, "depth": 1, "attn_dim_head": 8, "heads": 2}
    model = seeded(lambda: HRM_ACT(networks=[dict(network), dict(network)], dim=16, num_tokens=13))
    inputs, loop = ids(8), ls.adapt(model)
    stopped_at = model(inputs, max_reasoning_steps=6)[-1].tolist()
    said = torch.stack([gate_after(loop, inputs, count) for count in range(loop.iterations_before, 7)])
    said = said[1 - loop.iterations_before :]
    for row, stopped in enumerate(stopped_at):
        first = next((count for count, gate in enumerate(said[:, row], start=1) if gate > 0.5), -1)
        assert stopped == first


def test_open_mythos_stops_by_its_halting_head():
    model = seeded(OpenMythos)
    loop = ls.adapt(model, ids(), positions="all")
    with torch.no_grad():
        recalled = loop.encode(ids())
        state = loop.step(loop.start(recalled), recalled, iteration=0)
        assert torch.equal(loop.gate(state, recalled), model.recurrent.act(state.state))
        assert loop.gate(state, recalled).shape == ids().shape


def test_a_model_without_a_gate_has_none():
    network = {"dim": 16, "depth": 1, "attn_dim_head": 8, "heads": 2}
    loop = ls.adapt(seeded(lambda: HRM(networks=[network], dim=16, num_tokens=13)))
    recalled = loop.encode(ids())
    assert loop.gate(loop.start(recalled), recalled) is None
