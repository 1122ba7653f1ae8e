"""Logits of chosen tokens alone: the right ones, made from these tokens alone, and refused where they cannot be."""

import pytest
import torch
from looped_models import VOCABULARY, DoryLike, Small, ids, seeded
from torch import nn

from loopscope.adapters.capture import capture
from loopscope.adapters.captured import CapturedLoop
from loopscope.adapters.positions import Chosen, checked_positions
from loopscope.errors import LoopscopeError

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def text(batch=3):
    tokens = ids(batch=batch)
    mask = torch.ones_like(tokens)
    mask[0, -2:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def captured(positions, model=None, **options) -> CapturedLoop:
    return capture(
        model or seeded(DoryLike, causal=True), "layers.3", text(), DoryLike.run, positions=positions, **options
    )


def read(loop, inputs):
    with torch.no_grad():
        recalled = loop.encode(inputs)
        return loop.read(loop.step(loop.start(recalled), recalled), recalled)


@pytest.mark.parametrize(
    ("positions", "rows"),
    [
        ("last", [[3], [5], [5]]),
        ((0, -1), [[0, 3], [0, 5], [0, 5]]),
        ([-2], [[2], [4], [4]]),
    ],
)
def test_tokens_are_counted_among_the_real_ones_of_each_example(positions, rows):
    loop = captured(positions)
    whole = read(loop.reading("all"), text())
    wanted = torch.stack([whole[example, places] for example, places in enumerate(rows)])
    torch.testing.assert_close(read(loop, text()), wanted)
    assert torch.equal(loop.chosen(whole, text()), wanted)
    assert loop.prove(text())["positions"].error < 1e-6


def test_padding_may_come_first():
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    values = torch.arange(8).reshape(2, 4)
    assert Chosen((0, -1), mask)(values).tolist() == [[2, 3], [4, 7]]


def test_logits_are_made_of_the_chosen_tokens_alone():
    loop = captured("last")
    shapes = []
    loop.model.head.register_forward_hook(lambda module, args, logits: shapes.append(tuple(logits.shape)))
    read(loop, text())
    assert shapes == [(3, 1, VOCABULARY)]


def test_a_head_that_needs_all_tokens_is_given_them():
    """Logits are centred over tokens, so that they can only be chosen once all are made."""

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, VOCABULARY)

        def forward(self, hidden):
            logits = self.linear(hidden)
            return logits - logits[:, :1]

    model = seeded(DoryLike, causal=True)
    model.head = seeded(Centred)
    loop = captured("last", model)
    assert loop.plan.head is None
    torch.testing.assert_close(read(loop, text()), loop.chosen(read(loop.reading("all"), text()), text()))


def test_a_forward_that_fails_on_fewer_tokens_is_read_as_a_whole():
    """A loss beside the logits needs all of them."""

    class WithLoss(DoryLike):
        def forward(self, input_ids, attention_mask=None):
            logits = super().forward(input_ids, attention_mask)
            return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), input_ids.flatten()), "logits": logits}

    loop = captured("last", seeded(WithLoss, causal=True))
    torch.testing.assert_close(read(loop, text()), loop.chosen(read(loop.reading("all"), text()), text()))


def test_without_a_mask_all_tokens_are_real():
    loop = captured("last")
    inputs = {"input_ids": ids(), "attention_mask": None}
    torch.testing.assert_close(read(loop, inputs), read(loop.reading("all"), inputs)[:, -1:])


def test_a_position_that_an_example_lacks_is_refused():
    loop = captured("all")
    with pytest.raises(LoopscopeError, match=r"position 4 is not among the 4 tokens of input 0: give positions that"):
        read(loop.reading([4]), text())
    with pytest.raises(LoopscopeError, match="position -5 is not among the 4 tokens of input 0"):
        read(loop.reading([-5]), text())


@pytest.mark.parametrize("positions", ["first", [], [0.5], [True], 3, None])
@pytest.mark.usefixtures("unchecked")
def test_positions_that_are_none_are_refused(positions):
    with pytest.raises(LoopscopeError, match='expected "last", "all" or a list of whole numbers'):
        checked_positions(positions)


def test_large_readouts_are_proven_at_a_few_tokens(monkeypatch):
    """Eight tokens of each example are compared; a forward that depends on the count in another way shows there."""
    monkeypatch.setattr("loopscope.adapters.captured.MANY_LOGITS", 0)
    model, inputs = seeded(DoryLike, causal=True), {"input_ids": ids(tokens=30)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][0, -3:] = 0
    loop = capture(model, "layers.3", inputs, DoryLike.run, positions="last")
    shapes = []
    model.head.register_forward_hook(lambda module, args, logits: shapes.append(logits.shape[1]))
    assert loop.prove(inputs)["forward"].error < 1e-6
    assert {8, 30} <= {*shapes}
    other = capture(seeded(DoryLike, causal=True), "layers.3", inputs, DoryLike.run)
    other.run = lambda model, inputs, iterations: (1 + 0.001 * iterations) * DoryLike.run(model, inputs, iterations)
    with pytest.raises(LoopscopeError, match="equal the model's own forward, but the error is"):
        other.prove(inputs)


def test_a_model_without_tokens_has_no_positions():
    for options in ({"positions": "last"}, {"answers_per": "token"}):
        with pytest.raises(LoopscopeError, match=r"returned logits of shape \(4, 2\), expected \(4, tokens, outputs\)"):
            capture(seeded(Small), "cell", X, **options)


@pytest.mark.usefixtures("unchecked")
def test_answers_are_of_examples_or_of_tokens():
    with pytest.raises(LoopscopeError, match="answers_per is 'tokens', expected one of example, token"):
        captured("all", answers_per="tokens")
