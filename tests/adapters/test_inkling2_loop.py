import pytest
import torch
from adapted import assert_is_the_model
from looped_models import seeded
from transformers import Inkling2LoopForCausalLM
from transformers.models.inkling2_loop.configuration_inkling2_loop import Inkling2LoopTextConfig

from loopscope.adapters.captured import RerunLoop
from loopscope.adapters.registry import adapt

SMALL = {
    "vocab_size": 64,
    "unpadded_vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": 8,
    "sliding_window_size": 4,
    "d_rel": 4,
    "rel_extent": 16,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_layers_per_attn_res_block": 2,
    "loop_layer_index_start": 2,
    "loop_layer_index_end": 6,
    "loop_num_passes": 2,
    "loop_gate_rank": 4,
    "layer_types": ["hybrid_sliding", "hybrid"] * 4,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def model():
    """A small one; gates and queries, which begin at zero, are drawn, so that messages matter."""

    def build():
        made = Inkling2LoopForCausalLM(Inkling2LoopTextConfig(**SMALL))
        for name, parameter in made.named_parameters():
            if "message" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return made

    return seeded(build)


def text():
    tokens = torch.randint(1, 60, (3, 6), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def own(model, inputs, passes):
    model.config.loop_num_passes = passes
    try:
        return model(**inputs, use_cache=False).logits
    finally:
        model.config.loop_num_passes = 2


def test_it_is_the_model_though_every_pass_begins_anew(model):
    """What the messages to the next pass are made of is the state, which exists from the first pass on."""
    loop = adapt(model)
    assert isinstance(loop, RerunLoop)
    assert loop.iterations_before == 1
    assert_is_the_model(loop, text(), lambda count: own(model, text(), count))


def test_messages_matter(model):
    with torch.no_grad():
        one, two = (own(model, text(), passes) for passes in (1, 3))
    assert float((one - two).abs().max()) > 1e-3
