from adapted import assert_is_the_model, radius
from looped_models import Parcae, ids, seeded

from loopscope.adapters.captured import DirectLoop
from loopscope.adapters.registry import adapt


def test_it_is_the_model():
    model = seeded(Parcae)
    loop = adapt(model)
    inputs = {"input_ids": ids(seed=1)}
    assert isinstance(loop, DirectLoop)
    assert_is_the_model(loop, inputs, lambda count: model(ids(seed=1), count))


def test_the_radius_of_its_injection_is_not_the_radius_of_its_step():
    model = seeded(Parcae)
    injection = float((-model.log_rate.detach().exp()).exp().max())
    step = radius(adapt(model), {"input_ids": ids(seed=1)})
    assert injection < 1
    assert abs(step - injection) > 0.02
