import pytest
import torch
from adapted import logits_after
from looped_models import RavenForCausalLM, ids, seeded

import loopscope as ls
from loopscope.adapters.captured import DirectLoop
from loopscope.adapters.registry import adapt
from loopscope.errors import LoopscopeError


def test_it_is_the_model_with_the_same_random_start():
    model = seeded(RavenForCausalLM)
    loop = adapt(model)
    assert isinstance(loop, DirectLoop)
    inputs = {"input_ids": ids(seed=1)}
    for count in (1, 2, 3, 5):
        torch.manual_seed(7)
        own = model(**inputs, num_steps=count)["logits"]
        torch.manual_seed(7)
        assert torch.equal(logits_after(loop.reading("all"), inputs, count), own)


def test_noise_in_every_iteration_is_refused():
    with pytest.raises(LoopscopeError, match=r"it draws random numbers \(set its noise to 0"):
        adapt(seeded(RavenForCausalLM, noise=0.1))


def test_it_is_solved_with_the_recalled_input_from_several_starts():
    loop = adapt(seeded(RavenForCausalLM))
    inputs = {"input_ids": ids(2)}
    one, two = (ls.solve(loop, inputs, seed=seed, max_iterations=20) for seed in (0, 1))
    assert one.output.shape == (2, 1, 13)
    assert not torch.equal(one.state, two.state)
