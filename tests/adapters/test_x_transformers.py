import pytest
import torch
from adapted import assert_is_the_model
from looped_models import seeded
from x_transformers import Decoder, Encoder, TransformerWrapper

from loopscope.adapters.captured import DirectLoop
from loopscope.adapters.registry import adapt
from loopscope.errors import LoopscopeError


def wrapper(layers=Decoder, **options):
    stack = layers(dim=16, depth=2, heads=2, attn_dim_head=8, pre_and_post_norm=True)
    return seeded(lambda: TransformerWrapper(num_tokens=31, max_seq_len=16, attn_layers=stack, **options))


def tokens():
    return torch.randint(1, 31, (3, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [Decoder, Encoder])
def test_it_is_the_model(layers):
    model = wrapper(layers, looped=True, max_looped_steps=4)
    loop = adapt(model)
    assert isinstance(loop, DirectLoop)
    assert loop.iterations_before == 0
    assert_is_the_model(loop, {"x": tokens()}, lambda count: model(tokens(), looped_steps=count))


def test_its_mask_is_passed_on():
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 3:] = False
    model = wrapper(Encoder, looped=True)
    inputs = {"x": tokens(), "mask": mask}
    loop = adapt(model, inputs)
    assert torch.equal(loop.mask(loop.encode(inputs)), mask)
    assert_is_the_model(loop, inputs, lambda count: model(tokens(), mask=mask, looped_steps=count))
    assert loop.prove(inputs)["padding"].error < 1e-4


def test_one_that_is_not_looped_is_refused():
    with pytest.raises(
        LoopscopeError, match="TransformerWrapper cannot be a loop: it is not looped: build it with looped=True"
    ):
        adapt(wrapper())
