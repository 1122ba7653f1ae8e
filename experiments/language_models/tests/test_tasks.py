"""The texts: their answers are right, and the places are those at which a model predicts them."""

from __future__ import annotations

import pytest
import torch

from experiments.language_models.tasks import ALPHABET, ASK, TASKS, depth, sort, tokens_of


def texts_of(tokens):
    return ["".join(ALPHABET[token] for token in row) for row in tokens.tolist()]


@pytest.mark.parametrize("name", TASKS)
def test_a_text_is_a_prompt_and_its_answer(name):
    task = TASKS[name]
    tokens = task.draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(tokens, task.draw(50, torch.Generator().manual_seed(0)))
    assert len(set(texts_of(tokens))) > 20
    for text, answer in zip(texts_of(tokens), texts_of(task.answers(tokens)), strict=True):
        assert text == f"{text[: task.asked - 1]}{ASK}{answer}"
        assert answer == task.answer(text[: task.asked - 1])
        assert len(answer) == task.answered
    assert torch.equal(tokens[:, [place + 1 for place in task.positions]], task.answers(tokens))


def test_letters_are_sorted():
    assert sort("hbaab") == "aabbh"


@pytest.mark.parametrize(("brackets", "depths"), [("(()", "121"), ("))(", "001"), ("((((((((((", "1234567899")])
def test_the_depth_after_each_bracket(brackets, depths):
    assert depth(brackets) == depths


def test_a_token_is_the_place_of_a_character():
    assert tokens_of(["0=", "a9"]).tolist() == [[0, ALPHABET.index("=")], [ALPHABET.index("a"), 9]]
