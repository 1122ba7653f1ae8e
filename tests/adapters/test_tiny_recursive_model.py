import pytest
import torch
from adapted import assert_is_the_model
from looped_models import seeded
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel
from x_transformers import Encoder

from loopscope.adapters.captured import DirectLoop
from loopscope.adapters.registry import adapt


def small(network, **options):
    return seeded(lambda: TinyRecursiveModel(dim=16, num_tokens=11, network=network(), **options))


def own(model, tokens, blocks):
    before, model.num_refinement_blocks = model.num_refinement_blocks, blocks
    try:
        return model(tokens, *model.get_initial())[2]
    finally:
        model.num_refinement_blocks = before


@pytest.mark.parametrize(
    ("network", "registers"),
    [
        (lambda: MLPMixer1D(dim=16, depth=1, seq_len=7 + 2), 2),
        (lambda: Encoder(dim=16, depth=1, heads=2, attn_dim_head=8), 0),
    ],
)
def test_it_is_the_model(network, registers):
    model = small(network, num_register_tokens=registers)
    loop = adapt(model)
    tokens = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(1))
    assert isinstance(loop, DirectLoop)
    assert loop.iterations_before == 0
    assert_is_the_model(loop, tokens, lambda count: own(model, tokens, count))
    assert model.num_refinement_blocks == 3


def test_it_starts_from_learned_vectors_and_recalls_the_embedded_tokens():
    model = small(lambda: Encoder(dim=16, depth=1, heads=2, attn_dim_head=8))
    loop = adapt(model)
    tokens = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(1))
    recalled = loop.encode(tokens)
    assert torch.equal(recalled["recalled"]["inputs"], model.input_embed(tokens))
    state = loop.start(recalled)
    assert torch.equal(state["outputs"], model.output_init_embed.expand(3, 7, 16))
    assert torch.equal(state["latents"], model.latent_init_embed.expand(3, 7, 16))
