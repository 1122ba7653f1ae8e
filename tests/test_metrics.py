"""Risk against coverage: hand-worked cases, closed forms, and what holds for any order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from loopscope.errors import LoopscopeError
from loopscope.metrics import auc, perfect_area, random_area, risk_curve

CASES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30).map(
    lambda pairs: (np.array([float(doubt) for doubt, _ in pairs]), np.array([right for _, right in pairs]))
)


def test_a_case_worked_by_hand() -> None:
    # Ascending: right; two tied, one of them wrong; wrong at infinity.
    doubt = np.array([math.inf, 0.2, 0.1, 0.2])
    right = np.array([False, True, True, False])
    curve = risk_curve(doubt, right)
    assert curve.bound.tolist() == [0.1, 0.2, math.inf]
    assert curve.covered.tolist() == [1, 3, 4]
    assert curve.wrong.tolist() == [0, 1, 2]
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk.tolist() == [0.0, 1 / 3, 0.5]
    assert curve.area == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 / 2)
    # Of the four pairs of a right and a wrong one, three are in order and one is tied.
    assert auc(-doubt, right) == 3.5 / 4
    assert math.isnan(auc(np.array([0.0, math.nan]), np.array([True, False])))


def test_ties_cannot_be_told_apart_whatever_their_order() -> None:
    for right in itertools.permutations([True, True, False]):
        curve = risk_curve(np.zeros(3), np.array(right))
        assert curve.area == pytest.approx(1 / 3)
        assert len(curve.covered) == 1


def test_a_random_order_has_the_error_rate_on_average() -> None:
    right = np.array([True, True, True, False, False])
    areas = [risk_curve(np.array(order, dtype=float), right).area for order in itertools.permutations(range(5))]
    assert np.mean(areas) == pytest.approx(random_area(5, 2)) == pytest.approx(0.4)
    assert min(areas) == pytest.approx(perfect_area(5, 2)) == pytest.approx((1 / 4 + 2 / 5) / 5)


@pytest.mark.parametrize(("examples", "wrong", "area"), [(4, 0, 0.0), (4, 4, 1.0), (2, 1, 0.25)])
def test_the_perfect_order(examples: int, wrong: int, area: float) -> None:
    assert perfect_area(examples, wrong) == pytest.approx(area)


@given(CASES)
def test_what_holds_for_any_doubt(case) -> None:
    doubt, right = case
    curve, wrong = risk_curve(doubt, right), int((~right).sum())
    assert curve.coverage[-1] == 1
    assert curve.risk[-1] == pytest.approx(wrong / len(right))
    assert (np.diff(curve.coverage) > 0).all()
    assert perfect_area(len(right), wrong) - 1e-12 <= curve.area <= 1
    for bound, covered, mistakes in zip(curve.bound, curve.covered, curve.wrong, strict=True):
        assert covered == (doubt <= bound).sum()
        assert mistakes == (~right[doubt <= bound]).sum()


@given(CASES, st.floats(0.1, 3), st.randoms())
def test_only_the_order_matters(case, scale, random) -> None:
    doubt, right = case
    curve, mapped = risk_curve(doubt, right), risk_curve(np.exp(scale * doubt) - 7, right)
    assert mapped.covered.tolist() == curve.covered.tolist()
    assert mapped.wrong.tolist() == curve.wrong.tolist()
    assert mapped.area == curve.area
    shuffled = random.sample(range(len(right)), len(right))
    assert risk_curve(doubt[shuffled], right[shuffled]).area == curve.area


@given(CASES)
def test_the_area_under_the_curve_is_sklearns(case) -> None:
    doubt, right = case
    if right.all() or not right.any():
        assert math.isnan(auc(-doubt, right))
    else:
        assert auc(-doubt, right) == pytest.approx(roc_auc_score(right, -doubt))


@pytest.mark.parametrize(("doubt", "sentence"), [([], "got 0 examples"), ([0.1, math.nan], "1 of them with NaN")])
def test_what_has_no_order_is_refused(doubt, sentence) -> None:
    with pytest.raises(LoopscopeError, match=sentence):
        risk_curve(np.array(doubt, dtype=float), np.zeros(len(doubt), dtype=bool))
