import torch
from looped_models import DoryLike, Halting, Parcae, Small, TinyRecursiveReasoningModel_ACTV1, ids, puzzle_batch, seeded

from loopscope.adapters.candidates import find_loops

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def names(candidates):
    return [candidate.name for candidate in candidates]


def test_what_feeds_itself_comes_first():
    found = find_loops(seeded(Parcae), {"input_ids": ids()})
    assert names(found)[0] == "core_block_forward"
    assert (found[0].calls, found[0].self_fed) == (4, 3)
    assert str(found[0]) == "core_block_forward: 4 calls, each fed by the one before, returns (3, 6, 16)"


def test_parts_of_what_is_repeated_are_left_out():
    found = find_loops(seeded(DoryLike), {"input_ids": ids()})
    assert set(names(found)) == {"norm", "layers.2", "layers.3"}
    assert not any(candidate.self_fed for candidate in found)


def test_the_loops_within_a_loop_are_listed_too():
    def run(model, inputs):
        return model(model.initial_carry(inputs), inputs)[1]

    found = find_loops(seeded(TinyRecursiveReasoningModel_ACTV1), puzzle_batch(), run)
    assert names(found)[:2] == ["inner.cycle", "inner.L_level"]
    assert [candidate.calls for candidate in found[:2]] == [3, 9]


def test_a_model_that_halts_is_run_as_it_is():
    assert names(find_loops(seeded(Halting), X)) == ["cell"]


def test_a_model_without_a_loop_repeats_nothing():
    assert find_loops(seeded(lambda: Small(iterations=1)), X) == []
    assert find_loops(torch.nn.Linear(3, 2).eval(), X) == []
