"""The drawings: well-formed SVG, on axes that fit, with the extremes of long curves and the true plane."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from lab_loops import exploding, rotating, with_recall

from loopscope.lab import exhibit
from loopscope.lab.charts import (
    COLUMNS,
    HEIGHT,
    LEFT,
    MOST_FITTED,
    TOP,
    Axes,
    _curve,
    axes_of,
    plane_chart,
    residual_chart,
)
from loopscope.lab.session import Session
from loopscope.stability.orbits.plane import principal_plane


def parsed(source):
    return ElementTree.fromstring(source)


def run(made, iterations):
    session = Session([exhibit(*made)])
    session.step(iterations)
    return session


def test_an_axis_is_logarithmic_in_residuals_and_in_many_iterations():
    axes = Axes(end=100, low=-5, high=1)
    assert axes.x(0) == LEFT
    assert axes.x(50) - axes.x(0) == pytest.approx(axes.x(100) - axes.x(50))
    assert axes.y(10.0) == TOP
    assert axes.y(1e-2) - axes.y(1e-1) == pytest.approx(axes.y(1e-4) - axes.y(1e-3))
    assert axes.y(0.0) == axes.y(1e-9) == axes.y(1e-5)  # below the axis is at its edge
    far = Axes(end=5000, low=-5, high=1)
    assert far.x(10) > axes.x(10) * 5000 / 100 / 50
    assert far.x(0) == LEFT


@pytest.mark.parametrize("made", [with_recall, rotating, exploding])
@pytest.mark.parametrize("iterations", [1, 2, 40])
def test_charts_are_well_formed_and_labelled(made, iterations):
    session = run(made(), iterations)
    lane = session.lanes[0]
    for source in (residual_chart(lane, session.iteration, axes_of([lane])), plane_chart(lane, session.iteration)):
        drawing = parsed(source)
        assert drawing.get("role") == "img"
        assert len(drawing.get("aria-label")) > 20
        assert "nan" not in source
        assert "inf" not in re.sub("not a finite number", "", source)


def test_the_residual_of_the_shown_iteration_is_said():
    session = run(with_recall(), 4)
    lane = session.lanes[0]
    label = parsed(residual_chart(lane, 3, axes_of([lane]))).get("aria-label")
    assert label.endswith(f"{lane.own.orbit.residual(3):.1e} at iteration 3")


def test_a_long_curve_keeps_its_extremes():
    points = [(at, 1e-3) for at in range(1, 5001)]
    points[1234], points[3000] = (1235, 1.0), (3001, 1e-5)
    axes = Axes(end=5000, low=-6, high=0)
    path = _curve(points, axes)
    heights = [float(pair.split()[1]) for pair in re.split("[ML]", path)[1:]]
    assert len(heights) <= 2 * COLUMNS
    assert min(heights) == pytest.approx(axes.y(1.0), abs=0.1)
    assert max(heights) == pytest.approx(axes.y(1e-5), abs=0.1)
    assert _curve([(1, float("inf")), (2, float("nan"))], axes) == ""


def test_lanes_share_their_axes():
    slow, fast = run(with_recall(), 3), run(rotating(), 90)
    axes = axes_of([slow.lanes[0], fast.lanes[0]])
    assert axes.end == 100
    assert 10.0**axes.low <= 1e-4 < 0.5 <= 10.0**axes.high
    assert 0 < axes.y(0.5) < HEIGHT


def test_the_plane_is_that_of_the_largest_singular_values():
    points = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plane = principal_plane(points, points[3])
    moved = (points - points[3]).numpy()
    _, singular, directions = np.linalg.svd(moved, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane.project(points).numpy()), np.abs(moved @ directions[:2].T), atol=1e-9)
    np.testing.assert_allclose(plane.explained.numpy(), singular[:2] ** 2 / (singular**2).sum(), atol=1e-12)


def test_the_plane_of_many_states_is_fitted_to_few_and_shows_all():
    session = run(rotating(), 200)
    lane = session.lanes[0]
    drawing = plane_chart(lane, 200)
    assert drawing.count('<circle class="dot own"') == len(lane.own.orbit.kept(48)) > MOST_FITTED
    assert "shows 100% of the movement" in drawing  # it turns in a plane


def test_late_points_keep_their_distance_from_a_far_away_center_of_the_axes():
    path = 100 + torch.tensor([[1.0, 0, 0], [1e-3, 0, 0], [1e-4, 0, 0], [0, 0, 0]])
    along = principal_plane(path, path[-1]).project(path)[:, 0].abs()
    torch.testing.assert_close(along, (path - path[-1])[:, 0].double(), rtol=1e-6, atol=0)


def test_a_plane_keeps_its_orientation():
    points = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plane = principal_plane(points, points[3])
    turned = principal_plane(points, points[3])
    object.__setattr__(turned, "directions", -turned.directions)
    torch.testing.assert_close(turned.aligned(plane).directions, plane.directions)


def test_twins_the_reference_and_leaps_are_drawn():
    session = Session([exhibit(*with_recall())])
    list(session.run_on(500, with_leaps=True))
    session.show(12)
    list(session.push(0.5))
    list(session.change("2"))
    lane = session.lanes[0]
    plane = plane_chart(lane, session.iteration)
    curve = residual_chart(lane, session.iteration, axes_of([lane]))
    for style in ("own", "twin-1", "twin-2", "reference"):
        assert f'class="curve {style}"' in plane
        assert f'class="start {style}"' in plane
        assert f'class="end {style}"' in plane
    assert plane.count('class="leap"') == curve.count('class="leap"') == 4
    assert curve.count('class="event') == 2
