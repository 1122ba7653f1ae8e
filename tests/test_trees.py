from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.trees import (
    Context,
    batch_size,
    detached,
    flatten,
    floating_leaves,
    join,
    leaves,
    select,
    tree_map,
    unflatten,
    where,
)


@dataclass(frozen=True)
class Carry:
    high: torch.Tensor
    low: torch.Tensor
    note: str = "a carry"


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def states():
    first, second = torch.arange(6.0).view(3, 2), torch.arange(9.0).view(3, 3)
    return [Carry(first, second), Pair(first, second), UserDict(first=first, second=second)]


@pytest.mark.parametrize("state", states(), ids=lambda state: type(state).__name__)
def test_dataclasses_named_tuples_and_mappings_are_trees(state):
    kind = type(state)
    assert batch_size(state) == 3
    assert flatten(state).shape == (3, 5)
    doubled = unflatten(2 * flatten(state), like=state)
    assert isinstance(doubled, kind)
    assert torch.equal(flatten(doubled), 2 * flatten(state))
    parts = select(state, slice(0, 1)), select(state, slice(1, None))
    assert torch.equal(flatten(join(list(parts))), flatten(state))
    rows = torch.tensor([True, False, True])
    assert torch.equal(flatten(where(rows, doubled, state))[:, 1], torch.tensor([2.0, 3.0, 10.0]))
    if kind is Carry:
        assert doubled.note == "a carry"


def test_none_numbers_and_text_pass_through_as_context():
    tree = {"x": torch.ones(3, 2), "steps": 4, "mask": None, "kind": "causal", "flag": True}
    picked = select(tree, slice(0, 2))
    assert batch_size(picked) == 2
    assert (picked["steps"], picked["mask"], picked["kind"], picked["flag"]) == (4, None, "causal", True)
    assert len(leaves(tree)) == 1


def test_a_tree_without_any_tensor_has_no_batch():
    with pytest.raises(LoopscopeError, match="expected torch tensors, batch first, got NoneType"):
        batch_size({"mask": None})


def test_batched_context_follows_its_examples_but_has_no_norm():
    tree = {"e": torch.ones(3, 2), "mask": Context(torch.arange(12.0).view(3, 4), batched=True)}
    assert flatten(tree).shape == (3, 2)
    assert len(floating_leaves(tree)) == 1
    picked = select(tree, torch.tensor([2, 0]))
    assert torch.equal(picked["mask"].values[:, 0], torch.tensor([8.0, 0.0]))
    assert torch.equal(unflatten(flatten(picked), like=picked)["mask"].values, picked["mask"].values)
    assert batch_size(join([tree, picked])) == 5


def test_context_without_a_batch_stays_as_it_is_but_is_cast_and_detached():
    tables = torch.ones(1, 7, requires_grad=True)
    tree = {"e": torch.ones(3, 2), "tables": Context({"cos": tables}, batched=False)}
    assert batch_size(tree) == 3
    assert select(tree, slice(0, 2))["tables"].values["cos"] is tables
    assert join([tree, tree])["tables"].values["cos"] is tables
    assert not detached(tree)["tables"].values["cos"].requires_grad
    assert tree_map(lambda leaf: leaf.double(), tree)["tables"].values["cos"].dtype == torch.float64


def test_trees_of_different_structure_are_refused():
    with pytest.raises(LoopscopeError, match="expected trees of one structure"):
        join([{"a": torch.ones(1)}, {"b": torch.ones(1)}])


def test_a_loop_whose_state_is_a_dataclass_is_solved_and_forecast():
    def step(carry, e):
        return Carry(0.5 * carry.high + e, 0.5 * carry.low + carry.high)

    loop = ls.FunctionLoop(
        lambda x: {"e": x, "unused": None, "count": 3},
        lambda e: Carry(torch.zeros_like(e["e"]), torch.zeros_like(e["e"])),
        lambda carry, e: step(carry, e["e"]),
        lambda carry: carry.low,
    )
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    solution = ls.solve(loop, inputs, tolerance=1e-6)
    torch.testing.assert_close(solution.output, 4 * inputs, rtol=1e-4, atol=1e-4)
    assert isinstance(solution.state, Carry)
    assert ls.examine(loop, inputs, effort="quick").verdict.value
