"""Outcomes at a number of loops, and what running on says."""

from __future__ import annotations

import pytest
import torch

from experiments.language_models.outcomes import Outcome, curve, outcome, running_on
from loopscope import FunctionLoop


def after(fall: int, low: float) -> list[float]:
    return [1.0] * (fall - 1) + [low] * (65 - fall)


@pytest.mark.parametrize(
    ("accuracies", "horizon", "expected"),
    [
        ([1.0] * 64, 64, Outcome(True, 1.0, None)),
        (after(20, 0.5), 16, Outcome(True, 1.0, None)),
        (after(20, 0.5), 32, Outcome(False, 0.5, 20)),
        (after(20, 0.95), 64, Outcome(True, 0.95, None)),
        ([*[1.0] * 60, 0.0, *[1.0] * 3], 64, Outcome(False, 0.0, None)),
        ([*[1.0] * 59, 0.0, *[1.0] * 4], 64, Outcome(True, 1.0, None)),
        ([*[1.0] * 14, 0.0, 1.0], 16, Outcome(True, 1.0, None)),
        ([0.0] * 16, 16, Outcome(False, 0.0, None)),
    ],
)
def test_an_outcome_is_that_of_the_last_sixteenth(accuracies, horizon, expected):
    assert outcome(accuracies, horizon) == expected


def test_running_on_sees_what_is_lost_by_then():
    assert running_on(after(10, 0.5), 9)
    assert not running_on(after(10, 0.5), 10)


def test_the_curve_of_a_loop_is_its_accuracy_after_each_loop():
    loop = FunctionLoop(
        lambda inputs: inputs["input_ids"].float()[..., None],
        torch.zeros_like,
        lambda z, e: z + 1,
        lambda z: torch.cat([3.5 - z, z - 3.5], dim=2).where(z < 6, torch.nan),
    )
    assert curve(loop, torch.zeros(2, 5).long(), torch.ones(2, 5).long(), 7) == [0.0] * 3 + [1.0] * 2 + [0.0] * 2
