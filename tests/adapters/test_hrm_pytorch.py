import pytest
import torch
from adapted import assert_is_the_model
from HRM import HRM, HRM_ACT
from looped_models import seeded

from loopscope.adapters.captured import RerunLoop
from loopscope.adapters.registry import adapt

NETWORK = {"dim": 16, "depth": 1, "attn_dim_head": 8, "heads": 2, "use_rmsnorm": True, "pre_norm": False}


def tokens():
    return torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("networks", [2, 3])
def test_it_is_the_model(networks):
    model = seeded(lambda: HRM(networks=[dict(NETWORK) for _ in range(networks)], dim=16, num_tokens=11))
    loop = adapt(model)
    assert isinstance(loop, RerunLoop)
    assert loop.iterations_before == 0
    assert list(loop.start(loop.encode(tokens()))) == [f"networks.{k}" for k in range(networks)]
    assert_is_the_model(loop, tokens(), lambda count: model(tokens(), reasoning_steps=count)[0])


def test_it_is_the_model_that_computes_adaptively_run_for_a_fixed_number_of_steps():
    model = seeded(lambda: HRM_ACT(networks=[dict(NETWORK), dict(NETWORK)], dim=16, num_tokens=11))
    loop = adapt(model)

    def own(count):
        return model(tokens(), max_reasoning_steps=count, adaptive_compute=False)[0]

    assert_is_the_model(loop, tokens(), own)
