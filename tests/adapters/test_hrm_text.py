import torch
from adapted import assert_is_the_model
from looped_models import seeded
from transformers import HrmTextConfig, HrmTextForCausalLM

from loopscope.adapters.captured import RerunLoop
from loopscope.adapters.registry import adapt

SMALL = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers_per_stack": 1,
    "H_cycles": 2,
    "L_cycles": 3,
    "L_bp_cycles": [1],
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 32,
}


def small():
    return seeded(lambda: HrmTextForCausalLM(HrmTextConfig(**SMALL)))


def text():
    tokens = torch.randint(1, 31, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[0, -2:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def own(model, inputs, cycles):
    model.config.H_cycles = cycles
    try:
        return model(**inputs, use_cache=False).logits
    finally:
        model.config.H_cycles = 2


def test_it_is_the_model():
    model = small()
    loop = adapt(model)
    assert isinstance(loop, RerunLoop)
    assert loop.iterations_before == 0
    for inputs in (text(), {"input_ids": text()["input_ids"]}):
        assert_is_the_model(loop, inputs, lambda count, inputs=inputs: own(model, inputs, count))
    assert model.config.H_cycles == 2


def test_it_starts_from_the_embeddings_and_zeros():
    model = small()
    loop = adapt(model)
    state = loop.start(loop.encode(text()))
    assert list(state) == ["model.L_module", "model.H_module"]
    assert float(state["model.L_module"].abs().max()) == 0
    embedded = model.model.embed_tokens(text()["input_ids"]) * model.model.embedding_scale
    assert torch.equal(state["model.H_module"], embedded)


def test_its_derivative_is_of_all_low_cycles_not_of_the_last_alone():
    """Two of three low cycles run under ``no_grad`` in the model's own forward."""
    model = small()
    loop = adapt(model)
    recalled = loop.encode(text())
    state = {name: part.detach() for name, part in loop.start(recalled).items()}
    low = state["model.L_module"].requires_grad_()
    through_all = torch.autograd.grad(loop.step(state, recalled)["model.H_module"].sum(), low)[0]
    assert float(through_all.abs().max()) > 0
    assert loop.prove(text())["derivative"].error < 1e-3
