"""Calibration: probabilities that come true, and the steps that they stand on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopscope.answers.calibration import (
    MIN_ALIKE,
    Alike,
    calibrate,
    calibrations,
    cross_checked,
    reliability,
)
from loopscope.answers.trust import AnswerSignals, read_signals
from loopscope.shipped import MODELS


def evidence_of(settled, unsure, right):
    settling = np.where(settled, 9.0, math.inf)
    return AnswerSignals(right, right, unsure, unsure, unsure, unsure, settling, right, unsure, right, unsure)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(MIN_ALIKE, 400))
def test_accuracy_never_rises_with_doubt_and_every_answer_is_counted_once(seed, examples):
    draw = np.random.default_rng(seed)
    unsure = np.round(draw.random(examples), 2)
    right = draw.random(examples) < 1 - unsure
    found = calibrate(unsure, right)
    assert sum(step.examples for step in found.steps) == examples
    assert sum(step.right for step in found.steps) == right.sum()
    assert all(step.examples >= MIN_ALIKE for step in found.steps)
    assert list(found.edges) == sorted(found.edges)
    for low, high in zip(np.sort(unsure), np.sort(unsure)[1:], strict=False):
        assert found.alike(low).probability >= found.alike(high).probability


def test_answers_of_a_known_accuracy_get_it():
    draw = np.random.default_rng(0)
    unsure = draw.random(20_000)
    right = draw.random(20_000) < (1 - unsure) ** 2  # confident beyond its accuracy
    found = calibrate(unsure, right)
    for doubt in (0.1, 0.3, 0.5, 0.7, 0.9):
        low, high = found.alike(doubt).interval
        assert found.alike(doubt).probability == pytest.approx((1 - doubt) ** 2, abs=0.05)
        assert low <= found.alike(doubt).probability <= high
    assert cross_checked(evidence_of(np.ones(20_000, bool), unsure, right)).error < 0.02


def test_wilsons_interval():
    low, high = Alike(50, 6).interval
    p, n, z = 6 / 50, 50, 1.959963984540054
    centre, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    assert (low, high) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_settled_answers_and_others_are_calibrated_apart():
    unsure = np.full(80, 0.2)
    settled = np.arange(80) < 40
    found = calibrations(evidence_of(settled, unsure, settled))
    assert (found.alike(True, 0.2).probability, found.alike(False, 0.2).probability) == (1, 0)
    assert calibrations(evidence_of(settled, unsure, settled).at(settled)).others is None


def test_reliability_is_counted_bin_by_bin():
    predicted = np.array([0.95, 0.95, 0.95, 0.95, 0.05, math.nan])
    right = np.array([True, True, True, False, False, True])
    found = reliability(predicted, right)
    assert [one.examples for one in found.bins] == [1, 4]
    assert found.error == pytest.approx((4 * 0.2 + 1 * 0.05) / 5)
    assert found.examples == 5


@pytest.mark.parametrize("task", ["prefix-sums", "sudoku", "chess"])
def test_what_ships_is_calibrated_within_five_points_on_answers_that_did_not_set_it(task):
    assert cross_checked(read_signals(MODELS / task / "trust.json")).error <= 0.05
