"""The maps against scaled models, full Jacobians and an examination; their figures and the command."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.autograd.functional import jacobian as jacobian_of

from experiments.theory.__main__ import main
from experiments.theory.figures import KINDS, kinds, maps_figure, scalar_figure
from experiments.theory.maps import (
    AXES,
    NORMS,
    RECALLS,
    Grid,
    ScaledLoop,
    full_matrix,
    scaled_loop,
    spectral_map,
    with_unit_state,
)
from experiments.theory.tests.models import transformer
from loopscope import LoopscopeError, examine
from loopscope.jacobian import input_jacobian, step_jacobian
from loopscope.reports.kit.charts import png
from loopscope.schema import to_plain
from loopscope.stability import Status
from loopscope.stability.verdict import ANSWERS_STAND

EVERY = [(recall, norm) for recall in RECALLS for norm in NORMS]
RECALLED = [recall for recall in RECALLS if recall != "none"]
NORMALIZED = ["outer", "sandwich"]
SMALL = Grid(points=3, width=8, tokens=3, inputs=4, iterations=100)


@pytest.mark.parametrize(("recall", "norm"), EVERY)
def test_a_scaled_loop_is_the_model_with_scaled_weights(recall, norm):
    model = with_unit_state(transformer(recall, norm))
    if recall != "none":
        assert float(torch.linalg.eigvals(model.recall.state.weight).abs().max()) == pytest.approx(1)
    pairs = torch.tensor([[1.0, 1.0], [0.7, 3.0]], dtype=torch.float64)
    scaled = copy.deepcopy(model)
    block = scaled.blocks[0]
    for linear in (block.attention.out, block.mlp[2]):
        linear.weight *= 3.0
        linear.bias *= 3.0
    for linear in [scaled.recall.state] if recall != "none" else [block.attention.query_key_value, block.mlp[0]]:
        linear.weight *= 0.7
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    loop = ScaledLoop(model, pairs)
    recalled = loop.encode({"inputs": x, "point": torch.tensor([0, 1])})
    state = torch.randn(2, 3, 8, dtype=torch.float64)
    after = loop.step(state, recalled)
    for row, own in enumerate((model, scaled)):
        expected = own.step(state[row : row + 1], own.encode(x[row : row + 1]))
        torch.testing.assert_close(after[row : row + 1], expected)


def test_a_full_matrix_is_the_jacobian():
    model = transformer("internal", "outer")
    x, state = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    recalled = model.encode(x)
    formed = full_matrix(step_jacobian(model, state, recalled))
    inward = full_matrix(input_jacobian(model, state, recalled, x))
    for row in range(2):
        own = {name: value[row : row + 1] for name, value in recalled.items()}
        expected = jacobian_of(lambda z, own=own: model.step(z[None], own)[0], state[row])
        torch.testing.assert_close(formed[row], expected.reshape(24, 24))
        through = jacobian_of(lambda u, z=state[row]: model.step(z[None], model.encode(u[None]))[0], x[row])
        torch.testing.assert_close(inward[row], through.reshape(24, 15))


@pytest.mark.parametrize(
    ("recall", "norm", "point"), [("internal", "outer", 1), ("internal", "outer", 3), ("none", "outer", 0)]
)
def test_a_map_agrees_with_an_examination(recall, norm, point):
    grid = Grid((0.3, 3.0), (1.0, 30.0), points=2, width=8, tokens=3, inputs=2, iterations=80)
    axes = spectral_map(recall, norm, grid).axes[point]
    loop, inputs = scaled_loop(recall, norm, grid)
    own = {name: leaf[point::4] for name, leaf in inputs.items()}
    exam = examine(loop, own, effort="quick", iterations=80, trained_iterations=30)
    for mine, theirs in zip(axes, exam.axes, strict=True):
        assert (mine.name, mine.status) == (theirs.name, theirs.status)
        # A map has no readout, so answers play no part in it.
        assert set(theirs.numbers) - set(mine.numbers) <= {ANSWERS_STAND}
        for measure, number in mine.numbers.items():
            value = theirs.numbers[measure]
            # The cotangents differ here, so gradients agree up to their random part.
            rel = 0.1 if measure.startswith("gradient") else 0.02
            assert number == (None if value is None else pytest.approx(value, rel=rel))


@pytest.mark.parametrize("norm", NORMS)
def test_without_recall_input_dependence_holds_nowhere(norm):
    found = spectral_map("none", norm, SMALL)
    dependence = [axes[1] for axes in found.axes]
    assert {axis.status for axis in dependence} <= {Status.FAILS, Status.UNKNOWN}
    assert {axis.numbers["fraction moved"] for axis in dependence} <= {0.0, None}
    # 0 where the own starts alone lead to different points: the input chooses the basin, and nothing else.
    assert {axis.numbers["fraction shared"] for axis in dependence} <= {0.0, 1.0, None}
    assert found.areas["input-dependence"] == found.areas["all"] == 0
    if norm in NORMALIZED:
        assert found.areas["reachability"] > 0.5


@pytest.mark.parametrize("recall", RECALLED)
def test_recall_and_outer_normalization_have_a_wide_regime(recall):
    outer, pre = (spectral_map(recall, norm, SMALL).areas for norm in ("outer", "pre"))
    assert outer["all"] >= max(0.3, pre["all"])
    assert recall == "external" or pre["all"] == 0


def test_areas_count_what_holds_and_a_map_is_plain():
    found = spectral_map("external", "outer", SMALL, seed=1)
    assert found.holds.shape == (3, 3, 3)
    assert found.areas["all"] == found.holds.all(-1).mean() <= min(found.areas[name] for name in AXES)
    for k, name in enumerate(AXES):
        counted = sum(axes[k].status is Status.HOLDS for axes in found.axes)
        assert found.areas[name] == pytest.approx(counted / 9)
    for axes in found.axes:
        for axis in axes:
            assert all(value is None or not math.isnan(value) for value in axis.numbers.values())
    assert to_plain(vars(found)["state_gains"]) == pytest.approx([0.1, 1.0, 10.0])
    again = spectral_map("external", "outer", SMALL, seed=1)
    assert again == found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(points=1), "at least 2 points"),
        (lambda: Grid(state_gains=(1.0, 0.5)), "state_gains"),
        (lambda: Grid(iterations=0), "iterations is 0"),
        (lambda: spectral_map("intern", "outer", SMALL), "did you mean internal"),
        (lambda: spectral_map("internal", "post", SMALL), "norm is 'post'"),
    ],
)
def test_refused_maps(make, message):
    with pytest.raises(LoopscopeError, match=message):
        make()


def test_figures_show_what_the_maps_hold():
    found = spectral_map("internal", "outer", SMALL)
    shown = kinds(found)
    assert (shown == 0).mean() == found.areas["all"]
    assert (shown != len(KINDS) - 1).mean() == found.areas["reachability"]
    for figure, axes in ((maps_figure([found]), 1), (scalar_figure(shown=40), 2)):
        assert len(figure.axes) == axes
        assert png(figure).startswith(b"\x89PNG")


def test_the_command_prints_both_tables(capsys, monkeypatch):
    monkeypatch.setattr("experiments.theory.__main__.NORMS", ("outer",))
    main(["--points", "500", "--grid", "2", "--seeds", "0", "--iterations", "20"])
    scalar, areas = capsys.readouterr().out.strip().split("\n\n")
    assert len(scalar.splitlines()) == 2 + 10
    assert len(areas.splitlines()) == 2 + 3
