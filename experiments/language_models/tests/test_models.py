"""The models: loops that are what the model computes, causal, with the input entering every loop or the first one only."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from experiments.language_models.models import INPUTS, Dory, DoryWithoutInput, Kind, dory_config, untrained
from experiments.language_models.tasks import TASKS
from loopscope.loop import iterate, readout

KINDS = get_args(Kind)
TASK = TASKS["depth"]
TEXTS = TASK.draw(4, torch.Generator().manual_seed(1))


@pytest.fixture(params=[(kind, enters) for kind in KINDS for enters in INPUTS], ids=str)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = untrained(*request.param)
    return made.eval().requires_grad_(False)


def test_the_loop_of_a_model_gives_its_logits(model):
    loop = model.loop(TEXTS, TASK.positions)
    recalled = loop.encode({"input_ids": TEXTS})
    for loops in (1, 3):
        model.set_loops(loops)
        expected = model(input_ids=TEXTS).logits[:, list(TASK.positions)]
        found = readout(loop, iterate(loop, loop.start(recalled), recalled, loops), recalled)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_does_not_see_what_follows(model):
    model.set_loops(3)
    whole, begun = model(input_ids=TEXTS).logits, model(input_ids=TEXTS[:, :6]).logits
    torch.testing.assert_close(whole[:, :6], begun, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_the_characters_of_the_answer(model):
    labels = TEXTS.clone()
    labels[:, : TASK.asked] = -100
    model.set_loops(2)
    said = model(input_ids=TEXTS, labels=labels)
    logits = said.logits[:, list(TASK.positions)]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), TASK.answers(TEXTS).flatten())
    torch.testing.assert_close(said.loss, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_enters_every_loop_or_the_first_one_only(kind):
    for enters in INPUTS:
        torch.manual_seed(0)
        model = untrained(kind, enters).eval().requires_grad_(False)
        loop = model.loop(TEXTS, TASK.positions)
        recalled, other = (loop.encode({"input_ids": texts}) for texts in (TEXTS, TEXTS.flip(0)))
        state = iterate(loop, loop.start(recalled), recalled, 2)
        same = torch.allclose(loop.step(state, recalled), loop.step(state, other), atol=1e-6)
        assert same == (enters == "first")


def test_without_the_input_dory_differs_from_the_second_loop_on():
    torch.manual_seed(0)
    whole, without = Dory(dory_config()).eval(), DoryWithoutInput(dory_config()).eval()
    without.load_state_dict(whole.state_dict())
    for loops, same in ((1, True), (2, False)):
        whole.set_loops(loops)
        without.set_loops(loops)
        with torch.no_grad():
            found = torch.allclose(whole(input_ids=TEXTS).logits, without(input_ids=TEXTS).logits, atol=1e-4)
        assert found == same
