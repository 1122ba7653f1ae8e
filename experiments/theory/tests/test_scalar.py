"""The scalar regions against SciPy, closed forms and the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from experiments.theory.scalar import REGIONS, SIGMAS, balance, draw_gains, projected_balance
from loopscope import LoopscopeError

gains = st.integers(-20_000, 20_000).map(lambda thousandths: thousandths / 1000)
pairs = st.lists(st.tuples(gains, gains), min_size=1, max_size=30).map(lambda rows: np.array(rows, dtype=np.float64))
regions = st.sampled_from(list(REGIONS.values()))


def distances(first, second):
    return np.linalg.norm(first - second, axis=1)


@given(regions, pairs)
def test_a_projection_lies_in_the_region_and_is_its_own(region, points):
    projected = region.project(points)
    assert region.contains(projected, 1e-9).all()
    np.testing.assert_allclose(region.project(projected), projected, atol=1e-9)


@given(regions, pairs)
def test_points_inside_stay_bit_for_bit(region, points):
    inside = points[region.contains(points)]
    assert (region.project(inside) == inside).all()


@settings(max_examples=30)
@given(regions, pairs)
def test_no_point_of_a_fine_grid_is_nearer(region, points):
    side = np.linspace(-21, 21, 421)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    grid = grid[region.contains(grid)]
    own = distances(region.project(points), points)
    nearest = np.array([distances(grid, point).min() for point in points])
    assert (own <= nearest + 1e-9).all()


@pytest.mark.parametrize("recall", list(REGIONS))
def test_projection_agrees_with_scipy(recall):
    region = REGIONS[recall]
    points = draw_gains(3.0, 60, seed=5)
    stable = {"type": "ineq", "fun": lambda z: 1 - region.multiplier(z[None])[0] ** 2}
    starts = np.array([[0.1, -0.1], [-0.1, 0.1], [3.0, -0.2], [-0.2, 3.0], [-3.0, 0.2], [0.2, -3.0], [3.0, -1.0]])
    for point, mine in zip(points, region.project(points), strict=True):
        found = [
            minimize(lambda z, p=point: ((z - p) ** 2).sum(), start, method="SLSQP", constraints=[stable])
            for start in (point, *starts)
        ]
        best = min(
            math.sqrt(one.fun) for one in found if one.success and abs(region.multiplier(one.x[None])[0]) <= 1 + 1e-6
        )
        assert math.dist(mine, point) == pytest.approx(best, abs=1e-4)


def test_equally_near_points_and_far_points_are_projected_exactly():
    external = REGIONS["external"]
    # From (p, p - 1), p > 2, two mirrored points are nearest: x + 1/x = p.
    (projected,) = external.project(np.array([[3.0, 2.0]]))
    larger = (3 + math.sqrt(5)) / 2
    assert sorted([projected[0], projected[1] + 1]) == pytest.approx([1 / larger, larger], rel=1e-12)
    np.testing.assert_allclose(external.project(np.array([[2.0, 1.0]])), [[1.0, 0.0]], atol=1e-4)  # a triple root
    np.testing.assert_allclose(external.project(np.array([[1e6, 4.0]])), [[1e6, -1 + 1e-6]], atol=1e-4)
    internal = REGIONS["internal"]
    np.testing.assert_array_equal(internal.project(np.array([[3.0, 1.0], [-1.0, -3.0]])), [[3, 0], [0, -3]])
    np.testing.assert_allclose(internal.project(np.array([[2.0, -2.0]])), [[math.sqrt(2), -math.sqrt(2)]], atol=1e-7)


def test_balance_of_known_gains():
    found = balance(np.array([[1.0, -2.0], [3.0, 0.0], [0.0, 0.0], [5.0, 5.0]]))
    np.testing.assert_array_equal(found, [0.5, 0.0, 1.0, 1.0])


def test_small_gains_have_the_balance_of_a_random_direction():
    # The mean of tan over [0, pi/4] is (2 / pi) ln 2; internal recall sends half of the directions to an axis.
    mean = 2 / math.pi * math.log(2)
    external = projected_balance("external", 1e-3, points=100_000)
    assert external.mean == pytest.approx(mean, abs=4 * external.standard_error)
    assert (external.on_axis, external.inside) == (0, 1)
    internal = projected_balance("internal", 1e-3, points=100_000)
    assert internal.mean == pytest.approx(mean / 2, abs=4 * internal.standard_error)
    assert internal.on_axis == pytest.approx(0.5, abs=0.007)
    assert internal.standard_error == pytest.approx(0.2965 / math.sqrt(100_000), rel=0.02)


def test_the_numbers_of_the_paper_except_one():
    papers = {"internal": (0.225, 0.225, 0.223, 0.180, 0.094), "external": (0.444, 0.442, 0.414, 0.332, 0.220)}
    off = {
        (recall, sigma): abs(projected_balance(recall, sigma).mean - theirs)
        for recall, row in papers.items()
        for sigma, theirs in zip(SIGMAS, row, strict=True)
    }
    assert off.pop(("external", 4.0)) == pytest.approx(0.023, abs=0.001)  # docs/concepts/theory.md discusses it
    assert max(off.values()) < 0.0035


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("none", 1.0), "recall is 'none'"),
        (("internal", 0.0), "sigma is 0"),
        (("internal", 1.0, 1), "points is 1"),
    ],
)
def test_refused_projections(options, message):
    with pytest.raises(LoopscopeError, match=message):
        projected_balance(*options)
