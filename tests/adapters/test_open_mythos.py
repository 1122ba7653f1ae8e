import pytest
import torch
from looped_models import OpenMythos, ids, seeded

import loopscope as ls
from loopscope.adapters.registry import adapt
from loopscope.errors import LoopscopeError
from loopscope.stability.nonautonomous.results import KindResult


def logits_after(loop, inputs, count):
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.start(recalled)
        for iteration in range(count):
            state = loop.step(state, recalled, iteration)
        return loop.read(state, recalled)


def overdriven():
    """Return a model whose block is strong: the radius of A stays .37, while errors grow in the whole step."""
    model = seeded(OpenMythos)
    with torch.no_grad():
        for weight in model.recurrent.block.parameters():
            weight *= 3
    return model


def test_it_is_the_model():
    model = seeded(OpenMythos)
    loop = adapt(model, positions="all")
    for count in (1, 2, 3, 5, 12):
        torch.testing.assert_close(logits_after(loop, ids(seed=1), count), model(ids(seed=1), count))


def test_the_last_token_is_read_unless_others_are_asked_for():
    model = seeded(OpenMythos)
    logits = model(ids(), 3)
    torch.testing.assert_close(logits_after(adapt(model), ids(), 3), logits[:, -1:])
    torch.testing.assert_close(logits_after(adapt(model, positions=[0, -2]), ids(), 3), logits[:, [0, -2]])
    assert adapt(model).proof["forward"].error < 1e-6


def test_positions_that_have_halted_add_nothing_more():
    model = seeded(OpenMythos)
    model.cfg.act_threshold = 0.3
    loop = adapt(model, positions="all")
    assert torch.equal(logits_after(loop, ids(), 8), logits_after(loop, ids(), 9))
    torch.testing.assert_close(logits_after(loop, ids(), 9), model(ids(), 9))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda part: setattr(part, "lora", lambda out, t: 0 * out), "lora"),
        (lambda part: setattr(part, "loop_dim", 2), "index"),
    ],
)
def test_a_seeded_fault_is_caught_by_the_proof(fault, message):
    model = seeded(OpenMythos)
    loop = adapt(model, positions="all")
    own = seeded(OpenMythos)
    del model.recurrent.lora
    fault(model.recurrent)
    if message == "index":
        model.recurrent.lora = own.recurrent.lora
    with pytest.raises(LoopscopeError, match="start, 1, 2, 3, 5 steps and read equal the model's own forward"):
        ls.prove(loop, lambda inputs, count: own(inputs, count), ids())


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(LoopscopeError, match="training mode"):
        adapt(seeded(OpenMythos).train())


def test_growth_of_the_whole_step_stands_beside_the_radius_of_a(tmp_path):
    """A radius of .37 does not keep answers: A is one part of the step, and errors grow in the whole of it."""
    loop = adapt(overdriven())
    exam = ls.examine(loop, ids(8, seed=3), trained_iterations=8, iterations=24, effort="quick")
    assert exam.kind.name is ls.Kind.TIME_DEPENDENT
    assert exam.kind.reads_history
    assert exam.nonautonomous.parts == {"A": pytest.approx(0.3679, abs=1e-4)}
    growth = exam.nonautonomous.exponents.factor
    assert growth > 1.02
    assert exam.axes[2].status is ls.stability.Status.FAILS
    printed = " ".join(str(exam).split())
    assert f"small errors by {growth:.3g}" in printed
    assert "the radius of A, a part of the step, is 0.368" in printed
    exam.save(tmp_path / "exam.html")
    page = (tmp_path / "exam.html").read_text()
    assert "error growth per iteration" in page
    assert "radius of A" in page


def test_one_iteration_frozen_is_examined_as_an_autonomous_loop():
    loop = adapt(seeded(OpenMythos))
    frozen = ls.freeze(loop, iteration=8)
    exam = ls.examine(frozen, ids(4, seed=1), iterations=60, effort="quick")
    assert exam.kind == KindResult(reads_history=True)
    assert exam.spectrum.radius[0] > 2 * loop.part_radii["A"]
    assert exam.reachability.counts == {"fixed point": 4}
