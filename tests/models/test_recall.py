"""The weights of a model's linear recall and their spectral radius."""

from __future__ import annotations

import math

import pytest
import torch
from small_runs import tiny

from loopscope.models import build_model
from loopscope.models.recall import matrix_radius, recall_weights


@pytest.mark.parametrize(
    ("matrix", "radius"),
    [
        (torch.tensor([[0.5, 3.0], [0.0, -0.7]]), 0.7),
        (0.9 * torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]]), 0.9),
    ],
)
def test_the_radius_of_a_matrix_counts_complex_pairs(matrix, radius):
    assert matrix_radius(matrix) == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("recall", ["external", "internal"])
def test_the_weights_are_those_of_the_recall(recall):
    model = build_model(tiny(model={"recall": recall}).model)
    of_state, of_input = recall_weights(model)
    assert torch.equal(of_state, model.recall.state.weight)
    assert torch.equal(of_input, model.recall.input.weight)


def test_a_model_without_recall_has_no_such_weights():
    assert recall_weights(build_model(tiny(model={"recall": "none"}).model)) is None
    assert recall_weights(torch.nn.Linear(2, 2)) is None
