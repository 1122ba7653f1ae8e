import pytest
import torch
from adapted import assert_is_the_model
from looped_models import seeded
from transformers import DoryConfig, DoryForCausalLM, DoryModel

from loopscope.adapters.captured import RerunLoop
from loopscope.adapters.registry import adapt
from loopscope.jacobian import in_precision, step_jacobian
from loopscope.trees import detached, select

SMALL = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 5,
    "n_input_layers": 1,
    "n_recurrent_layers": 2,
    "n_output_layers": 2,
    "n_recurrent_loops": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 32,
}


def text():
    tokens = torch.randint(1, 31, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[0, -2:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def own(model, inputs, loops):
    before, model.config.n_recurrent_loops = model.config.n_recurrent_loops, loops
    try:
        return model(**inputs, use_cache=False)[0]
    finally:
        model.config.n_recurrent_loops = before


@pytest.mark.parametrize("kind", [DoryForCausalLM, DoryModel])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_is_the_model(kind, attention):
    model = seeded(lambda: kind(DoryConfig(**SMALL, attn_implementation=attention)))
    loop = adapt(model)
    assert isinstance(loop, RerunLoop)
    assert loop.iterations_before == 0
    assert_is_the_model(loop, text(), lambda count: own(model, text(), count))
    assert model.config.n_recurrent_loops == 2
    assert loop.prove(text())["padding"].error < 1e-5
    assert torch.equal(loop.mask(loop.encode(text())), text()["attention_mask"] > 0)


def test_its_state_and_what_is_recalled_are_those_of_its_code():
    """The state is the output of the input layers at first; its norm is injected in every iteration."""
    model = seeded(lambda: DoryForCausalLM(DoryConfig(**SMALL)))
    loop = adapt(model)
    recalled = loop.encode(text())
    assert list(recalled["recalled"]) == ["model.norm"]
    state = loop.start(recalled)
    assert torch.equal(model.model.norm(state), recalled["recalled"]["model.norm"])


def test_its_jacobian_is_that_of_the_iteration_by_hand():
    model = seeded(lambda: DoryForCausalLM(DoryConfig(**SMALL)))
    loop, inputs = adapt(model), {"input_ids": text()["input_ids"][:1]}
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.step(loop.start(recalled), recalled)
    fine, state, recalled = in_precision(loop, detached(state), detached(recalled), torch.float64)
    decoder = fine.model.model
    positions = torch.arange(6)[None]
    tables = {
        kind: decoder.rotary_emb(state, positions, kind)
        for kind in ("full_attention", "sliding_attention")
        if kind in decoder.rotary_emb.layer_types
    }

    def by_hand(flat):
        hidden = decoder.norm(flat.view(state.shape)) + recalled["recalled"]["model.norm"]
        for layer in decoder.layers[1:3]:
            hidden = layer(
                hidden,
                attention_mask=torch.ones(6, 6, dtype=torch.bool).tril()[None, None],
                position_embeddings=tables[layer.attention_type],
            )
        return hidden.flatten()

    expected = torch.autograd.functional.jacobian(by_hand, state.flatten())
    jacobian = step_jacobian(fine, state, recalled)
    columns = [jacobian.jvp(unit[None])[0] for unit in torch.eye(jacobian.size, dtype=torch.float64)]
    # Norms and rotary angles are computed in float32, whatever the weights are.
    torch.testing.assert_close(torch.stack(columns, 1), expected, atol=1e-5, rtol=1e-4)


def test_examples_can_leave_the_batch():
    loop = adapt(seeded(lambda: DoryForCausalLM(DoryConfig(**SMALL))))
    recalled = loop.encode(text())
    rows = torch.tensor([2, 0])
    one, all_of_them = select(recalled, rows), loop.step(loop.start(recalled), recalled)
    torch.testing.assert_close(loop.step(loop.start(one), one), all_of_them[rows], atol=1e-6, rtol=1e-5)
