"""The two language models and the table and picture of the stored comparisons."""

from __future__ import annotations

import pytest
import torch

from experiments.early_exit.__main__ import NAMES, picture, stored, table
from experiments.early_exit.models import ASK, LETTERS, dory, gated, texts


def test_a_text_is_letters_and_the_same_letters_in_order():
    tokens = texts(5, seed=3)
    assert (tokens[:, LETTERS] == ASK).all()
    assert torch.equal(tokens[:, :LETTERS].sort(1).values, tokens[:, LETTERS + 1 :])


@pytest.mark.parametrize(("make", "has_gate"), [(dory, False), (gated, True)])
def test_a_model_is_a_loop_over_tokens_with_targets(make, has_gate):
    loop, inputs, targets, trained = make(updates=1)
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.step(loop.start(recalled), recalled)
        assert loop.read(state, recalled).shape[:2] == targets.shape
        assert (loop.gate(state, recalled) is not None) == has_gate
    assert (trained, loop.answers_per) == (4, "token")


def test_every_rule_of_every_model_is_in_the_table_and_the_picture():
    found = stored()
    lines = table(found).splitlines()
    assert len(lines) == 2 + sum(len(one.rules) + 1 for one in found.values())
    assert {line.split(" | ")[0].strip("| ") for line in lines[2:]} == set(NAMES.values())
    assert found[NAMES["sudoku"]].rule("residual").auc >= 0.99, "the criterion"
    assert picture(found).startswith(b"\x89PNG")
