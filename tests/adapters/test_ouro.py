import torch
from adapted import assert_is_the_model
from looped_models import OuroForCausalLM, ids, seeded

from loopscope.adapters.registry import adapt


def text():
    tokens = ids(seed=1)
    mask = torch.ones_like(tokens)
    mask[0, -1] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def test_it_is_the_model():
    model = seeded(OuroForCausalLM)
    loop = adapt(model)

    def own(count):
        model.model.total_ut_steps = count
        try:
            return model(**text(), use_cache=False)["logits"]
        finally:
            model.model.total_ut_steps = 4

    assert_is_the_model(loop, text(), own)
    assert model.model.total_ut_steps == 4


def test_nothing_is_recalled_but_what_it_starts_from():
    loop = adapt(seeded(OuroForCausalLM))
    recalled = loop.encode(text())
    other = loop.encode({**text(), "input_ids": ids(seed=2)})
    state = loop.start(recalled)
    assert torch.equal(loop.step(state, recalled), loop.step(state, other))
